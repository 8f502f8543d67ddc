"""`python -m tests.attack`: the whole attack, then each guard taken away once. The last line is JSON."""

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

from remit.embedded import TemporalServer
from tests.attack.corpus import corpus
from tests.attack.guards import GUARDS
from tests.attack.suite import Report, attack, mutated

CALLS = 10_000
ROUND = 1250
"""Generated calls for one business; then a fresh one, whose customers have their day's ceilings still before them."""


def summary(report: Report, caught: int) -> str:
    """The last line."""
    return json.dumps(
        {
            "attempts": report.attempts,
            "outside_authority": len(report.outside),
            "benign_total": report.benign_total,
            "benign_intact": report.benign_intact,
            "guards_mutated": len(GUARDS),
            "mutations_caught": caught,
        }
    )


def table(report: Report) -> str:
    """What was tried, by class of attack."""
    rows = [f"{'attack':12}{'attempts':>10}{'refused':>10}{'outside authority':>20}"]
    for kind in sorted(report.tried):
        outside = sum(k == kind for k, _ in report.outside)
        rows.append(f"{kind:12}{report.tried[kind]:>10}{report.refused[kind]:>10}{outside:>20}")
    other = sum(k not in report.tried for k, _ in report.outside)
    rows.append(f"{'elsewhere':12}{'':>10}{'':>10}{other:>20}")
    return "\n".join(rows)


async def run(client: Client, home: Path, calls: int, seed: int) -> int:
    """The exit code."""
    proposals = corpus(calls, seed) if calls else []
    print(f"{calls} generated calls (seed {seed}), and the attacks written by hand in each round of {ROUND}.", flush=True)
    report = Report()
    for start in range(0, max(1, len(proposals)), ROUND):
        part = await attack(client, home / f"round-{start}", proposals=proposals[start : start + ROUND], seed=seed + start)
        report += part
        print(f"  {part.attempts} attempts in {part.seconds:.0f} s, {len(part.outside)} effects outside authority", flush=True)
    print(table(report))
    for _, sentence in report.outside[:50]:
        print(f"OUTSIDE {sentence}")
    for sentence in report.broken:
        print(f"BROKEN {sentence}")
    caught = 0
    for guard in GUARDS:
        found = await mutated(client, home / guard.replace(" ", "-"), guard)
        caught += bool(found.outside)
        what = f"caught, {len(found.outside)} effects outside authority" if found.outside else "NOT CAUGHT"
        print(f"without the {guard:24}{found.attempts:>5} attempts: {what}", flush=True)
    print(summary(report, caught), flush=True)
    held = not report.outside and not report.broken and report.benign_intact == report.benign_total
    return 0 if held and caught == len(GUARDS) else 1


async def main(calls: int, seed: int) -> int:
    """Start a server for it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        server = TemporalServer(Path(folder) / "temporal", headless=True)
        try:
            code = await run(await server.ready(), Path(folder), calls, seed)
        finally:
            server.stop()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.attack", description="Attack Remit with a model that wants everything."
    )
    parser.add_argument("--calls", type=int, default=CALLS, help=f"how many calls hypothesis makes up ({CALLS})")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds make up equal calls (1)")
    given = parser.parse_args()
    # What is refused here by the thousand would each be a warning with a traceback.
    for name in ("temporalio", "asyncio", "remit"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    quiet = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=quiet)))
    exit_code = asyncio.run(main(given.calls, given.seed))
    sys.stdout.flush()
    os._exit(exit_code)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)
