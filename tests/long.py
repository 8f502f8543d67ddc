"""One very long run: thousands of steps over many histories, linear in everything. `make long`.

A step is a scripted model call and a search of the knowledge base. Prints a line for each history and, as its last line, JSON.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer

from remit.connection import converter
from remit.embedded import TemporalServer
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tools.connectors import sandbox
from worker import runner
from workflows.agent_run import AgentRun

__all__ = ["Found", "History", "run_long"]

APP = ROOT / "tests" / "apps" / "marathon"


@dataclass(frozen=True)
class History:
    """One history of the run: `steps` turns that the model took in it, and what they weigh."""

    steps: int
    events: int
    bytes: int
    """All payloads and attributes of its events, as the server keeps them."""


@dataclass(frozen=True)
class Found:
    """The run as its users see it, and its histories, oldest first."""

    outcome: str
    calls: int
    messages: int
    model_calls: int
    seconds: float
    histories: list[History]


async def run_long(client: Client, home: Path, steps: int, history_events: int = 6000) -> Found:
    """Let a run of so many steps play to its end, read it back whole, and replay each of its histories."""
    script = [*(turn(call("search_kb", query=f"duplicate charge {n}")) for n in range(steps)), final()]
    async with Engine(client, home, overrides={"app": APP, "history_events": history_events}) as engine:
        started = time.monotonic()
        run = await engine.remit.start("marathon", {"topic": "charges"}, script=tuple(script))
        result = await engine.remit.result(run.id)
        seconds = time.monotonic() - started
        whole = await engine.remit.seen(run.id)
        messages = await engine.remit.transcript(run.id)
        histories: list[History] = []
        replayer = Replayer(workflows=[AgentRun], workflow_runner=runner(), data_converter=converter(engine.settings))
        wanted: str | None = run.first_execution_run_id
        while wanted:
            history = await client.get_workflow_handle(run.id, run_id=wanted).fetch_history()
            await replayer.replay_workflow(history)
            histories.append(_weighed(history))
            wanted = history.events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return Found(result.outcome, len(whole.calls), len(messages), result.usage.model_calls, seconds, histories)


def _weighed(history: WorkflowHistory) -> History:
    scheduled = [e.activity_task_scheduled_event_attributes for e in history.events]
    asked = [a for a in scheduled if a.activity_type.name == "call_model"]
    turns = [a for a in asked if json.loads(a.input.payloads[0].data).get("summarise") is None]
    return History(len(turns), len(history.events), sum(e.ByteSize() for e in history.events))


async def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        sandbox.create(home / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
        server = TemporalServer(home, headless=True)
        try:
            found = await run_long(await server.ready(), home, steps)
        finally:
            server.stop()
    for n, h in enumerate(found.histories):
        per_step = f", {h.events / h.steps:.1f} events and {h.bytes / h.steps:.0f} bytes a step" if h.steps else ""
        print(f"history {n}: {h.steps} steps, {h.events} events, {h.bytes} bytes{per_step}")
    print(json.dumps({"steps": steps, **asdict(found), "histories": len(found.histories)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.long", description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    asyncio.run(main(parser.parse_args().steps))
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort a normal interpreter exit
