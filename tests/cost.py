"""What authority costs a step: the same scripted run with all checks, and with none, side by side. `make cost`.

A step is a scripted model call and a tool call. Off means: no capability is minted or verified, no policy evaluated, no subject
binding. The ledger stays, for it is what makes a write happen once. Prints a table and, as its last line, JSON.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from activities.capabilities import Capabilities
from policies.models import Verdict
from remit.embedded import TemporalServer
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tools.connectors import sandbox
from tools.spec import ToolSpec

REPEATS = 15
TICKET, CUSTOMER = "T-1001", "cus_101"
READS = [turn(call("get_ticket", ticket_id=TICKET)), turn(call("search_kb", query="duplicate charge"))]
NOTES = [f"Looked at it, {n}." for n in range(6)]
TURNS = [
    *(step for n in range(6) for step in (turn(call("search_kb", query=f"duplicate charge {n}")), *READS[n % 2 : n % 2 + 1])),
    *(turn(call("add_account_note", customer_id=CUSTOMER, visibility="internal", text=text)) for text in NOTES),
    final(),
]


@contextmanager
def unchecked() -> Generator[None]:
    """No authority at all."""

    def allowed(*_: object) -> Verdict:
        return Verdict(decision="allow")

    def nothing(*_: object, **__: object) -> None:
        return None

    with (
        patch.object(Capabilities, "promise", nothing),
        patch.object(Capabilities, "check_read", nothing),
        patch.object(Capabilities, "check_write", nothing),
        patch.object(ToolSpec, "bind", nothing),
        patch("activities.proposal.authorize", allowed),
        patch("workflows.turn.authorize", allowed),
    ):
        yield


async def once(engine: Engine) -> tuple[float, float]:
    """Milliseconds and CPU milliseconds a step of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run = await engine.start(TURNS, agent="support-triage", ticket=TICKET)
    done = await engine.remit.result(run.id)
    assert done.outcome == "completed", done
    assert len(done.writes) == len(NOTES), done
    steps = len(TURNS)
    return (time.perf_counter() - wall) * 1000 / steps, (time.process_time() - cpu) * 1000 / steps


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        sandbox.create(home / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
        server = TemporalServer(home, headless=True)
        pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
        try:
            async with Engine(await server.ready(), home) as engine:
                for n in range(REPEATS + 2):
                    checked = await once(engine)
                    with unchecked():
                        free = await once(engine)
                    if n >= 2:  # the first ones warm up
                        pairs.append((checked, free))
        finally:
            server.stop()
    found: dict[str, float] = {"repeats": REPEATS, "steps": len(TURNS)}
    for i, name in enumerate(("ms_per_step", "cpu_ms_per_step")):
        ratios = [c[i] / f[i] for c, f in pairs]
        median = statistics.median(ratios)
        with_, without = (statistics.median(pair[j][i] for pair in pairs) for j in (0, 1))
        quartiles = ", ".join(f"{q:.3f}" for q in statistics.quantiles(ratios, n=4))
        print(f"{name}: {with_:.2f} with, {without:.2f} without, ratio {median:.3f} (quartiles {quartiles})")
        found[f"{name}_ratio"] = round(median, 3)
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort a normal interpreter exit
