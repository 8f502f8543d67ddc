"""Workers that die, as processes of their own: nothing is lost and nothing happens twice."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL

import pytest

from activities.ledger.store import run_scope
from policies.approvals import decision_payload
from remit.embedded import TemporalServer, WorkerProcess
from tests.engine import Engine, call, final, turn
from tools.connectors import sandbox

SMALL = turn(call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"))
LARGE = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))


@pytest.fixture
async def engine(server: TemporalServer, home: Path) -> AsyncGenerator[Engine]:
    """An engine without a worker in this process."""
    async with Engine(await server.ready(), home, working=False) as found:
        yield found


@contextmanager
def process(engine: Engine, server: TemporalServer) -> Generator[WorkerProcess]:
    """`worker.py` on the engine's queue."""
    found = WorkerProcess(engine.home, server.address, env={"REMIT_TASK_QUEUE": engine.settings.task_queue})
    try:
        yield found
    finally:
        found.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_worker_killed_between_the_refund_and_its_record_refunds_once(engine: Engine, server: TemporalServer) -> None:
    """The retry on another worker has the same key: one refund, one row in the ledger, two attempts."""
    sandbox.arm(engine.settings.business_path, "refund", "in_1002", "crash_after_commit")
    run = await engine.start([SMALL, final()])
    with process(engine, server) as first:
        await until(lambda: not first.running)
        assert first.exit_code == -SIGKILL
    assert ([e.state for e in engine.effects()], len(engine.rows("refunds"))) == (["sent"], 1)
    with process(engine, server):
        done = await engine.closed(run.id)
    assert (done.status, [c.status for c in done.calls]) == ("completed", ["done"])
    [refund], [effect] = engine.rows("refunds"), engine.effects()
    assert (effect.state, effect.attempts, effect.idempotency_key) == ("done", 2, refund["idempotency_key"])


async def test_a_run_that_was_killed_while_its_write_was_unknown_does_not_repeat_it(
    engine: Engine, server: TemporalServer
) -> None:
    """The worker died after the refund, and the kill came before another took over: it isn't sent again, and shows."""
    sandbox.arm(engine.settings.business_path, "refund", "in_1002", "crash_after_commit")
    run = await engine.start([SMALL, turn(call("draft_reply", ticket_id="T-1001", text="Too late.")), final()])
    with process(engine, server) as first:
        await until(lambda: not first.running)
    await run.signal("kill", {"reason": "stop"})
    # The row is there before the retry, as `write_kill` would have it; else the retry may come first and is right to send.
    assert run.first_execution_run_id
    engine.ledger.engage(run_scope(run.first_execution_run_id), "stop", "")
    with process(engine, server):
        done = await engine.closed(run.id)
    assert (done.status, [c.status for c in done.calls]) == ("killed", ["indeterminate"])
    assert (len(engine.rows("refunds")), engine.rows("reply_drafts")) == (1, [])


async def test_an_approval_that_is_sent_while_no_worker_runs_is_not_lost(engine: Engine, server: TemporalServer) -> None:
    """The run was parked when its worker was killed; the next worker finds the signal and goes on."""
    run = await engine.start([LARGE, final()], ticket="T-1002")
    with process(engine, server) as first:
        await engine.pending(run.id)
        approval_id, token = await engine.token(run.id, "ana")
        first.kill()
    await run.signal("decide", decision_payload(approval_id, token))
    with process(engine, server):
        done = await engine.closed(run.id)
    assert (done.status, [r["invoice_id"] for r in engine.rows("refunds")]) == ("completed", ["in_1004"])
    assert engine.effects()[0].attempts == 1


async def test_a_worker_that_is_asked_to_stop_finishes_its_write_first(engine: Engine, server: TemporalServer) -> None:
    """SIGTERM during a slow refund: it is performed and recorded once, and the process ends with 0."""
    sandbox.arm(engine.settings.business_path, "refund", "in_1002", "slow")
    run = await engine.start([SMALL, final()])
    with process(engine, server) as first:
        await until(lambda: [e.state for e in engine.effects()] == ["sent"])
        first.stop()
        assert first.exit_code == 0
    assert [(e.state, e.attempts) for e in engine.effects()] == [("done", 1)]
    with process(engine, server):
        assert (await engine.closed(run.id)).status == "completed"
    assert len(engine.rows("refunds")) == 1
