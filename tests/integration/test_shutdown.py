"""SIGTERM to a worker process in the middle of things: it ends with 0 in time, and what was in flight is done once."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from remit.embedded import TemporalServer, WorkerProcess
from tests.engine import Engine, call, final, turn
from tests.wire.server import CannedServer
from tools.connectors import sandbox

REFUND = turn(call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"))
PATIENCE_SECONDS = 60


@pytest.fixture
async def engine(server: TemporalServer, home: Path) -> AsyncGenerator[Engine]:
    """An engine without a worker in this process."""
    async with Engine(await server.ready(), home, working=False) as found:
        yield found


@contextmanager
def process(engine: Engine, server: TemporalServer, name: str = "worker", **env: str) -> Generator[WorkerProcess]:
    """`worker.py` on the engine's queue, which has 2 s to drain."""
    given = {"REMIT_TASK_QUEUE": engine.settings.task_queue, "REMIT_SHUTDOWN_SECONDS": "2", **env}
    found = WorkerProcess(engine.home, server.address, name, env=given)
    try:
        yield found
    finally:
        found.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.02)


def stopped(worker: WorkerProcess) -> tuple[int | None, str]:
    """SIGTERM, and SIGKILL only long after its deadline: its exit code and log."""
    worker.stop(PATIENCE_SECONDS)
    return worker.exit_code, worker.log.read_text()


async def test_a_write_that_ends_in_time_is_finished_by_the_worker_that_began_it(
    engine: Engine, server: TemporalServer
) -> None:
    """It is performed and recorded by its only attempt, and the next worker ends the run."""
    sandbox.arm(engine.settings.business_path, "refund", "in_1002", "slow")
    run = await engine.start([REFUND, final()])
    with process(engine, server) as first:
        await until(lambda: [e.state for e in engine.effects()] == ["sent"])
        code, log = stopped(first)
    assert (code, "draining" in log, "handing over" in log) == (0, True, False)
    assert [(e.state, e.attempts) for e in engine.effects()] == [("done", 1)]
    with process(engine, server, "second"):
        assert (await engine.closed(run.id)).status == "completed"
    assert len(engine.rows("refunds")) == 1


async def test_a_write_that_never_ends_is_handed_over_at_the_deadline(engine: Engine, server: TemporalServer) -> None:
    """The vendor has done it and doesn't say so: the worker ends with 0 all the same, and the next one learns it by the key."""
    sandbox.arm(engine.settings.business_path, "refund", "in_1002", "hang_after_commit")
    run = await engine.start([REFUND, final()])
    with process(engine, server) as first:
        await until(lambda: len(engine.rows("refunds")) == 1)
        code, log = stopped(first)
    assert (code, "handing over what is still running" in log) == (0, True)
    assert [(e.state, e.attempts) for e in engine.effects()] == [("sent", 1)]
    with process(engine, server, "second"):
        done = await engine.closed(run.id)
    assert (done.status, [c.status for c in done.calls]) == ("completed", ["done"])
    assert [(e.state, e.attempts) for e in engine.effects()] == [("done", 2)]
    assert len(engine.rows("refunds")) == 1


async def test_a_model_call_that_never_ends_is_handed_over_at_the_deadline(engine: Engine, server: TemporalServer) -> None:
    """The call is cut off, the worker ends with 0, and the next one asks the model again and ends the run."""
    final = {"name": "final_answer", "arguments": '{"outcome":"no_action","summary":"Nothing to do."}'}
    done = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": final}]}
    answer = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": done}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
    async with CannedServer() as model:
        model.mode = "hang"
        model.answer(answer)
        env = {"OPENAI_BASE_URL": f"{model.url}/v1", "REMIT_MODEL": "m"}
        env |= {"REMIT_PRICE_INPUT_PER_MTOK": "1000000", "REMIT_PRICE_OUTPUT_PER_MTOK": "1000000"}
        run = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        with process(engine, server, **env) as first:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await model.received.wait()
            code, _ = await asyncio.to_thread(stopped, first)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await model.closed.wait()
        assert code == 0
        model.mode = "answer"
        with process(engine, server, "second", **env):
            ended = await engine.closed(run.id)
    assert (ended.status, ended.summary, len(model.bodies)) == ("completed", "Nothing to do.", 2)
