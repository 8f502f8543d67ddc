"""Waiting for room under a cap across runs, on a server that skips the time: durable, however long it takes."""

import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.engine import Engine, call, final, turn
from tests.workflow.conftest import time_skipping
from workflows.messages import ScriptTurn

HOUR_MS = 60 * 60 * 1000
READ = turn(call("get_invoice", invoice_id="in_1002"))
OTHER_READ = turn(call("get_invoice", invoice_id="in_1001"))


@pytest.fixture
def caps_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One read a day; and a ledger whose clock goes on by an hour whenever somebody counts, as Temporal's does meanwhile."""
    hours = iter(range(10_000))
    monkeypatch.setattr("activities.ledger.usage.now_ms", lambda: int(time.time() * 1000) + next(hours) * HOUR_MS)
    file = home / "caps.toml"
    file.write_text("[agents.billing-resolution]\ntool_calls_per_day = 1\n")
    return file


async def used_up(engine: Engine) -> None:
    """Let another run use the day up. Not by waiting for its result, for which the server would skip years."""
    run = await engine.start([READ, final()])
    await engine.until(run.id, lambda s: s.status == "completed")


async def open_for(engine: Engine, workflow_id: str) -> timedelta:
    """How long the last history of the run was open, in its own time."""
    description = await engine.remit.handle(workflow_id).describe()
    assert description.close_time
    return description.close_time - description.start_time


@pytest.mark.parametrize(("turns", "least"), [([final()], 1), ([READ, OTHER_READ, final()], 24)], ids=["to begin", "to read"])
async def test_a_run_waits_by_timers_until_a_day_has_room(
    home: Path, caps_file: Path, turns: list[ScriptTurn], least: int
) -> None:
    """Nobody does anything: it looks again by itself, and goes on once what was used is a day ago, by others or by itself."""
    async with time_skipping(home, caps=caps_file) as engine:
        await used_up(engine)
        run = await engine.start(turns)
        result = await run.result()
        assert (result.outcome, result.refused) == ("completed", ())
        assert await open_for(engine, run.id) >= timedelta(hours=least)


async def test_a_wait_that_fills_a_history_goes_on_in_a_new_one(
    home: Path, caps_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that hasn't begun yet waits for as long as it takes, and no history grows without end."""
    monkeypatch.setattr("workflows.state.HISTORY_EVENTS", 60)
    async with time_skipping(home, caps=caps_file) as engine:
        await used_up(engine)
        run = await engine.start([READ, final()])
        assert (await run.result()).outcome == "completed"
        last = await engine.remit.handle(run.id).describe()
        assert last.run_id != run.first_execution_run_id
