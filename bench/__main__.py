"""`python -m bench`: measure, and write `bench/results/` and the README's table. See README.md in this folder."""

import argparse
import asyncio
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.meter import machine
from bench.parts import METRICS_OF, PARTS, QUICK, Plan
from bench.results import RESULTS, Part, Results, Row, Samples, insert, readme_table
from bench.stage import opened
from bench.systems import PEERS, SYSTEMS, System
from remit import __version__
from remit.embedded import temporal_binary
from remit.settings import ROOT

__all__ = ["measure"]

README = ROOT / "README.md"


async def measure(names: list[str], parts: list[str], plan: Plan, out: Path) -> Results:
    """Measure `parts` of the systems called `names`; what `out` holds of other parts stays."""
    known = Results.read(out / "bench.json")
    results = Results(
        machine=machine(), versions=versions(), parts=known.parts if known else {}, rows=known.rows if known else ()
    )
    for name in parts:
        results = await _part(name, [SYSTEMS[n] for n in names], plan, results, out)
    return results


async def _part(name: str, systems: list[System], plan: Plan, results: Results, out: Path) -> Results:
    samples = Samples()
    others = tuple(row for row in results.rows if row.metric not in METRICS_OF[name])
    wanted = [s for s in systems if name not in s.without]
    present = [s for s in wanted if not s.missing()]
    for system in wanted:
        if why := system.missing():
            print(f"{system.name} is left out: {why}", flush=True)
    began = time.monotonic()
    started = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")

    def so_far() -> Results:
        seconds = time.monotonic() - began
        part = Part(
            started=started, seconds=round(seconds), foreign_cores=round(max(0, stage.foreign_cpu_s() - foreign) / seconds, 2)
        )
        return results.model_copy(update={"parts": {**results.parts, name: part}, "rows": (*others, *samples.rows())})

    def save() -> None:
        so_far().write(out)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)

    with tempfile.TemporaryDirectory(prefix="remit-bench-") as folder:
        async with opened(Path(folder)) as stage:
            foreign = stage.foreign_cpu_s()
            await PARTS[name](stage, present, plan, samples, save)
            found = so_far()
    found.write(out)
    print("\n".join(_line(row) for row in samples.rows()), flush=True)
    return found


def _line(row: Row) -> str:
    values = f"{row.median} ({row.min} - {row.max}), {row.repeats} times" if row.median is not None else row.note
    return f"{row.system:14} {row.metric:22} N={row.n:<5} {values}" + (f"  x{row.ratio_to_raw}" if row.ratio_to_raw else "")


def versions() -> dict[str, str]:
    """Of everything that is measured."""
    found = {"remit": __version__, "python": sys.version.split()[0], "temporalio": importlib.metadata.version("temporalio")}
    server = subprocess.run([temporal_binary(), "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    found["temporal"] = " ".join(server.split())
    if PEERS.exists():
        names = ["openai-agents", "temporalio-openai-agents", "pydantic-ai-slim"]
        code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
        found |= json.loads(subprocess.run([PEERS, "-c", code], capture_output=True, text=True, check=True).stdout)  # noqa: S603
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, names with commas between them")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="raw is always among them")
    parser.add_argument("--repeats", type=int, help="of the pairs for latency and throughput")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run, whose figures mean nothing; doesn't touch the results"
    )
    parser.add_argument("--out", type=Path, help="where to write, instead of bench/results")
    parser.add_argument("--table", action="store_true", help="measure nothing; print the README's table")
    args = parser.parse_args()
    out: Path = args.out or (ROOT / ".remit" / "bench" if args.quick else RESULTS)
    if args.table:
        found = Results.read(out / "bench.json")
        if found is None:
            print(f"There are no results in `{out}`; `make bench` measures them.", file=sys.stderr)
            return 1
        print(readme_table(found), end="")
        return 0
    parts, names = args.only.split(","), args.systems.split(",")
    for what, given, known in (("part", parts, PARTS), ("system", names, SYSTEMS)):
        for name in given:
            if name not in known:
                print(f"There is no {what} `{name}`; there are {', '.join(known)}.", file=sys.stderr)
                return 2
    plan = QUICK if args.quick else Plan()
    if args.repeats:
        steps = tuple((n, args.repeats if n <= 100 else min(repeats, args.repeats)) for n, repeats in plan.steps)
        plan = replace(plan, steps=steps, throughput=args.repeats)
    results = asyncio.run(measure(list(dict.fromkeys(["raw", *names])), parts, plan, out))
    if out.resolve() == RESULTS:
        README.write_text(insert(README.read_text(), results))
    print(readme_table(results))
    print(f"Written to {out}.")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)
