"""The off switch: once a kill is acknowledged, no new write of the run can start, whatever was in flight."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowExecutionStatus

from policies.errors import InvalidInput, KillSwitchEngaged
from remit.embedded import TemporalServer
from tests.engine import Engine, call, final, turn
from workflows.messages import KillState

REFUND = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
SMALL = turn(call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"))
NOTE = turn(call("draft_reply", ticket_id="T-1002", text="Too late."))


async def visible(engine: Engine, workflow_id: str) -> str:
    """The run's status as the list of runs shows it, once it is closed there."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        async for row in engine.remit.list(f"WorkflowId = '{workflow_id}' AND ExecutionStatus != 'Running'"):
            return f"{row.status}{' waiting' if row.awaiting_approval else ''}"
        await asyncio.sleep(0.05)
    raise AssertionError(f"{workflow_id} isn't listed as closed")


# ---- while it waits -------------------------------------------------------------------------------------------------


async def test_a_parked_run_is_killed(engine: Engine) -> None:
    """The kill is acknowledged with its reason and time, the approval is cancelled and the run ends as `killed`."""
    run = await engine.start([REFUND, NOTE, final()], ticket="T-1002")
    await engine.pending(run.id)
    state = await engine.remit.kill(run.id, "wrong customer", by="ana")
    assert (state.engaged, state.reason, state.by) == (True, "wrong customer", "ana")
    result = await engine.remit.result(run.id)
    assert (result.outcome, result.stopped_by, result.summary) == ("killed", "kill", "wrong customer")
    done = await engine.remit.status(run.id)
    assert [a.status for a in done.approvals] == ["cancelled"]
    assert (engine.rows("refunds"), engine.rows("reply_drafts"), engine.effects()) == ([], [], [])


async def test_an_approval_after_the_kill_moves_nothing(engine: Engine) -> None:
    """A genuine decision that was signed before the kill and arrives with it has no effect."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    await engine.pending(run.id)
    approval_id, token = await engine.token(run.id, "ana")
    await run.signal("kill", {"reason": "stop"})
    await run.signal("decide", {"approval_id": approval_id, "decision_jws": token})
    assert (await engine.closed(run.id)).status == "killed"
    assert (engine.rows("refunds"), engine.effects()) == ([], [])


async def test_a_killed_run_shows_as_killed_in_the_list(engine: Engine) -> None:
    """The search attributes say `killed`, and that nothing waits any more."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    await engine.pending(run.id)
    await engine.remit.kill(run.id, "stop")
    await engine.closed(run.id)
    assert await visible(engine, run.id) == "killed"


async def test_no_write_can_be_reserved_after_the_acknowledgement(engine: Engine) -> None:
    """The ledger itself refuses, in the transaction of the reservation, though a policy would allow it."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    summary = await engine.pending(run.id)
    await engine.remit.kill(run.id, "stop")
    with pytest.raises(KillSwitchEngaged, match="A kill switch is on: stop"):
        engine.reserve(summary)
    assert engine.effects() == []


async def test_before_the_kill_the_same_write_can_be_reserved(engine: Engine) -> None:
    """It is the kill that refuses, and nothing else."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    assert engine.reserve(await engine.pending(run.id)).state == "reserved"


async def test_the_kill_switch_of_a_run_covers_no_other(engine: Engine) -> None:
    """Another run goes on as if nothing had happened."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    other = await engine.start([REFUND, final()], ticket="T-1002")
    await engine.pending(run.id)
    await engine.pending(other.id)
    await engine.remit.kill(run.id, "stop")
    await engine.decide(other.id, "ana")
    assert (await engine.closed(other.id)).status == "completed"
    assert len(engine.rows("refunds")) == 1


async def test_the_query_kill_switch_tells_before_and_after(engine: Engine) -> None:
    """Off without a reason at first; on, with its reason and both times, in the end."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    await engine.pending(run.id)
    assert await run.query("kill_switch", result_type=KillState) == KillState()
    acknowledged = await engine.remit.kill(run.id, "stop", by="bo")
    await engine.closed(run.id)
    state = await run.query("kill_switch", result_type=KillState)
    assert state == acknowledged
    assert state.requested_at is not None
    assert state.acknowledged_at is not None


async def test_a_second_kill_changes_nothing(server: TemporalServer, engine: Engine) -> None:
    """The first reason stays; both arrive before a worker takes up the run."""
    async with Engine(await server.ready(), engine.home, working=False) as idle:
        run = await idle.start([REFUND, final()], ticket="T-1002")
        await run.signal("kill", {"reason": "first"})
        await run.signal("kill", {"reason": "second"})
        await idle.work()
        done = await idle.closed(run.id)
    assert (done.status, done.kill.reason, done.refused_total) == ("killed", "first", 0)


async def test_a_closed_run_cannot_be_killed(engine: Engine) -> None:
    """One sentence says that there is nothing to stop."""
    done = await engine.run([final()])
    with pytest.raises(InvalidInput, match=f"^Run `{done.workflow_id}` is completed already; there is nothing to stop.$"):
        await engine.remit.kill(done.workflow_id, "stop")


async def test_a_kill_before_the_first_task_starts_nothing(server: TemporalServer, engine: Engine) -> None:
    """A run that no worker has taken up yet is killed before it is admitted, and shows so in the list."""
    async with Engine(await server.ready(), engine.home, working=False) as idle:
        run = await idle.start([REFUND, final()], ticket="T-1002")
        await run.signal("kill", {"reason": "too early"})
        await idle.work()
        done = await idle.closed(run.id)
        assert (done.status, done.usage.model_calls) == ("killed", 0)
        assert await visible(idle, run.id) == "killed"


# ---- by Temporal's own means ----------------------------------------------------------------------------------------


async def test_cancelling_the_workflow_works_like_a_kill(engine: Engine) -> None:
    """`temporal workflow cancel` writes the kill row too, and the run ends as `killed`."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    summary = await engine.pending(run.id)
    await run.cancel()
    done = await engine.closed(run.id)
    assert (done.status, done.kill.reason, done.kill.by) == ("killed", "cancelled in Temporal (UI or CLI)", "temporal")
    assert done.kill.acknowledged_at is not None
    with pytest.raises(KillSwitchEngaged):
        engine.reserve(summary)


async def test_cancelling_a_run_that_is_being_killed_does_not_stop_the_kill(server: TemporalServer, engine: Engine) -> None:
    """A cancellation on top of a kill must not take back the kill row before it is written."""
    async with Engine(await server.ready(), engine.home, working=False) as idle:
        run = await idle.start([REFUND, final()], ticket="T-1002")
        await run.signal("kill", {"reason": "stop"})
        with held(idle.home / "ledger.db"):
            await idle.work()
            await scheduled(idle, run.id, "write_kill")
            await run.cancel()
            await seen_cancel(idle, run.id)
        done = await idle.closed(run.id)
        assert (done.status, done.kill.reason) == ("killed", "stop")
        assert done.kill.acknowledged_at is not None


@contextmanager
def held(database: Path) -> Generator[None]:
    """Nobody else can write to the database in the meantime: whoever wants to, waits."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def history(engine: Engine, workflow_id: str, holds: Callable[[Sequence[HistoryEvent]], bool]) -> None:
    """Poll the run's history until `holds`."""
    async with asyncio.timeout(30):
        while not holds((await engine.remit.handle(workflow_id).fetch_history()).events):
            await asyncio.sleep(0.02)


async def scheduled(engine: Engine, workflow_id: str, activity: str) -> None:
    """Wait until the run has asked for `activity`."""
    await history(
        engine,
        workflow_id,
        lambda events: any(e.activity_task_scheduled_event_attributes.activity_type.name == activity for e in events),
    )


async def seen_cancel(engine: Engine, workflow_id: str) -> None:
    """Wait until the run's code was told of its cancellation."""

    def holds(events: Sequence[HistoryEvent]) -> bool:
        types = [e.event_type for e in events]
        asked = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
        return asked in types and EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in types[types.index(asked) :]

    await history(engine, workflow_id, holds)


# ---- while something is in flight -----------------------------------------------------------------------------------


@dataclass
class Silence:
    """A model server that takes a request and never answers."""

    port: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked.set()
        while await reader.read(65536):
            pass
        self.hung_up.set()
        writer.close()


@asynccontextmanager
async def silence() -> AsyncGenerator[Silence]:
    found = Silence()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found


async def test_a_kill_reaches_the_model_call_that_is_in_flight(server: TemporalServer, engine: Engine) -> None:
    """The run doesn't wait for a model that never answers, and the connection to it is closed."""
    async with silence() as model:
        settings = {"openai_base_url": f"http://127.0.0.1:{model.port}/v1", "model": ""}
        async with Engine(await server.ready(), engine.home, overrides=settings) as real:
            run = await real.remit.start("billing-resolution", {"ticket_id": "T-1001"})
            async with asyncio.timeout(30):
                await model.asked.wait()
                await real.remit.kill(run.id, "it takes too long")
                assert (await real.closed(run.id)).status == "killed"
                await model.hung_up.wait()


@pytest.mark.parametrize("how", ["kill", "cancel"])
async def test_a_write_in_flight_is_finished_and_nothing_follows_it(engine: Engine, how: str) -> None:
    """What was reserved before the kill is performed and recorded, in the ledger and in the run; the next write isn't made."""
    with held(engine.settings.business_path):
        run = await engine.start([SMALL, turn(call("draft_reply", ticket_id="T-1001", text="Too late.")), final()])
        await sent(engine)
        if how == "cancel":
            await run.cancel()
            await seen_cancel(engine, run.id)
        else:
            await engine.remit.kill(run.id, "stop")
    done = await engine.closed(run.id)
    assert (done.status, [(c.tool, c.status) for c in done.calls]) == ("killed", [("request_refund", "done")])
    assert [(e.state, e.attempts) for e in engine.effects()] == [("done", 1)]
    assert (len(engine.rows("refunds")), engine.rows("reply_drafts")) == (1, [])


async def test_a_kill_is_acknowledged_while_a_slow_write_goes_on(engine: Engine) -> None:
    """The acknowledgement doesn't wait for the write: the order of the ledger's transactions is what counts."""
    with held(engine.settings.business_path):
        run = await engine.start([SMALL, final()])
        await sent(engine)
        assert (await engine.remit.kill(run.id, "stop")).acknowledged_at is not None
        assert (await run.describe()).status == WorkflowExecutionStatus.RUNNING
        assert [e.state for e in engine.effects()] == ["sent"]
    await engine.closed(run.id)
    assert [e.state for e in engine.effects()] == ["done"]


async def sent(engine: Engine) -> None:
    """Wait until the first write has left."""
    async with asyncio.timeout(30):
        while [e.state for e in engine.effects()] != ["sent"]:
            await asyncio.sleep(0.01)
