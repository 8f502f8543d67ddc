"""`python -m tests.live.open_model`: tickets through all three agents on a real open model, and a table of the outcome."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.live.open_model.model_server import NAME, ModelServer, adapted
from tests.live.open_model.oracle import Evidence, judge
from tests.live.open_model.play import play
from tests.live.open_model.tickets import Case, chosen

WALL_SECONDS = 900


def main(given: argparse.Namespace, home: Path) -> int:
    """The exit code: 1 when anything doesn't hold."""
    cases = chosen(given.tickets)
    with contextlib.ExitStack() as closing:
        server = None if given.base_url else closing.enter_context(ModelServer(home / "model.log"))
        url, model = (server.url, NAME) if server else (given.base_url, given.model or "default")
        print(f"{len(cases)} tickets on `{model}`", flush=True)
        evidence = asyncio.run(play(cases, home, url, model, wall_seconds=given.wall, adapt=adapted))
    print("\n".join(table(cases, evidence)))
    if server and server.restarts:
        print(f"the model server ended {server.restarts} times, and was started again")
    failures = judge(cases, evidence)
    for failure in failures:
        print(f"FAILED  {failure}")
    print("all holds" if not failures else f"{len(failures)} things don't hold")
    return min(len(failures), 1)


def _ended(number: int, _: FrameType | None) -> NoReturn:
    """As at Ctrl-C: what was started ends with the command."""
    sys.exit(128 + number)


def table(cases: Sequence[Case], evidence: Evidence) -> list[str]:
    """How the runs ended, by agent and rule, and what they took."""
    ends = Counter((c.agent, e.status or "still open", e.by) for c in cases if (e := evidence.ended.get(c.id)))
    found = [f"{'agent':<20} {'ended':<12} {'by':<22} {'runs':>5}"]
    found += [f"{agent:<20} {status:<12} {by or '-':<22} {count:>5}" for (agent, status, by), count in sorted(ends.items())]
    runs = evidence.ended.values()
    answers, unknown = sum(len(e.answers) for e in runs), sum(e.unknown for e in runs)
    read, written = sum(e.input_tokens for e in runs), sum(e.output_tokens for e in runs)
    served = Counter(s.status for s in evidence.served)
    writes = Counter(row.table for row in evidence.rows)
    states = Counter(effect.state for effect in evidence.effects)
    return [
        *found,
        f"model: {answers} answers, {read} tokens read, {written} written, ${sum(e.micro_usd for e in runs) / 1_000_000:.6f}; "
        f"{unknown} calls of unknown cost",
        f"server: {dict(sorted(served.items()))} by status, {sum(s.input_tokens for s in evidence.served)} tokens read, "
        f"{sum(s.output_tokens for s in evidence.served)} written, {sum(s.seconds for s in evidence.served):.0f} s",
        f"business: {dict(sorted(writes.items())) or 'nothing'} written; ledger: {dict(sorted(states.items())) or 'nothing'}; "
        f"people approved in {len(evidence.approved)} runs",
        f"longest run: {max((e.seconds for e in runs), default=0):.0f} s",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.live.open_model", description="Tickets on a real open model.")
    parser.add_argument("--tickets", type=int, default=100, help="how many of the hundred (100)")
    parser.add_argument("--wall", type=float, default=WALL_SECONDS, help=f"seconds that a run may take ({WALL_SECONDS})")
    parser.add_argument("--base-url", default="", help="a server that speaks Chat Completions, instead of SmolLM2")
    parser.add_argument("--model", default="", help="the model there")
    parser.add_argument("--keep", type=Path, help="keep the files in this new folder")
    given = parser.parse_args()
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, _ended)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = given.keep or Path(folder) / "open"
        home.mkdir(parents=True)
        code = main(given, home)
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.stdout.flush()
    os._exit(code)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)
