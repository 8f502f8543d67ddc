"""The keeper: every closed run gets the next number of its namespace, with its trace or with the reason why it has none."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowFailureError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.ledger import decisions, roots
from activities.ledger.rows import RootRow
from policies.canonical import canonical_json
from remit.embedded import TemporalServer, WorkerProcess
from remit.history import segments
from remit.proof.capsule import CapsuleFile
from remit.proof.keeping import GONE, begin
from remit.proof.kept import capsule_at, signed
from remit.proof.sealing import gaps, head
from tests.builders import ANA
from tests.engine import Engine, call, final, turn
from workflows.messages import AGENT_RUN

REFUND = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))


def keeping(engine: Engine) -> dict[str, RootRow]:
    """The roots so far, oldest first, by workflow id."""
    with engine.ledger.reading() as connection:
        return {row.workflow_id: row for row in roots.chain(connection, engine.client.namespace)}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.05)


async def sealed(engine: Engine, count: int) -> list[RootRow]:
    """Wait until `count` runs have roots, which must be one whole chain."""
    await until(lambda: len(keeping(engine)) >= count)
    found = list(keeping(engine).values())
    assert [row.seq for row in found] == list(range(1, count + 1))
    assert gaps([signed(row) for row in found]) == ""
    return found


async def capsule(engine: Engine, row: RootRow) -> CapsuleFile:
    """The file in the sink, which is exactly what the root in the ledger says."""
    found = await capsule_at(engine.settings, row)
    assert found.root == signed(row)
    assert (found.root.root.lines, found.root.root.trace_head) == (len(found.trace), head(found.trace))
    return found


@pytest.fixture
async def engine(server: TemporalServer, home: Path) -> AsyncGenerator[Engine]:
    """An engine that seals, and encrypts its payloads; its runs go on in a new history soon."""
    overrides = {"seal_seconds": 0.1, "codec": True, "history_events": 80}
    async with Engine(await server.ready(), home, overrides=overrides) as found:
        yield found


async def test_every_closed_run_is_sealed(engine: Engine) -> None:
    """Completed, killed, of several histories, never admitted, terminated: numbered without a gap, redacted, with a trace.

    An open one isn't.
    """
    parked = [await engine.start([REFUND, final()], ticket="T-1002") for _ in range(3)]
    for run in parked:
        await engine.pending(run.id)
    terminated, still_open, killed = parked
    await engine.remit.kill(killed.id, "enough")
    refund = await engine.start([REFUND, final(summary="Told deepak.private@example.org.")], ticket="T-1002")
    await engine.pending(refund.id)
    await engine.decide(refund.id, ANA)
    long = await engine.start([*(turn(call("search_kb", query=f"refund {n}")) for n in range(12)), final()])
    unknown = await engine.remit.start("nobody", {})
    with pytest.raises(WorkflowFailureError):
        await unknown.result()
    for run in (refund, killed, long):
        await engine.closed(run.id)
    await terminated.terminate("past Remit")
    query = f"WorkflowType = '{AGENT_RUN}' AND ExecutionStatus = 'Terminated' AND TaskQueue = '{engine.settings.task_queue}'"
    while (await engine.client.count_workflows(query)).count < 1:
        await asyncio.sleep(0.1)

    await begin(engine.client, engine.settings.task_queue)
    await sealed(engine, 5)
    found = keeping(engine)
    assert {*found} == {r.id for r in (refund, killed, long, unknown, terminated)}
    assert {row.reason for row in found.values()} == {""}
    capsules = {name: await capsule(engine, row) for name, row in found.items()}
    traces = {name: c.trace for name, c in capsules.items()}
    kinds = ["run", "model", "dropped", "model", "tool", "model", "outcome"]  # the stronger model decided again
    assert [line["kind"] for line in traces[refund.id]] == kinds
    assert {name: trace[-1]["status"] for name, trace in traces.items()} == {
        refund.id: "completed",
        killed.id: "killed",
        long.id: "completed",
        unknown.id: "failed",
        terminated.id: "terminated",
    }
    histories = len(await segments(engine.client, long.id))
    assert histories > 1
    assert (traces[long.id][0]["histories"], len(capsules[long.id].contents.history)) == (histories, histories)
    assert found[long.id].events > 80
    assert found[long.id].run_id == (await engine.remit.status(long.id)).run_id
    # What it was allowed, and by whom, is in the ledger with it.
    with engine.ledger.reading() as connection:
        [judged] = [row for row in decisions.of_run(connection, found[refund.id].run_id) if row.last]
    assert (judged.tool, judged.decision, judged.amount_cents, judged.outcome) == (
        "request_refund@1",
        "require_approval",
        12000,
        "done",
    )
    assert ANA in judged.people
    # The address that the model wrote isn't in what was sealed; whose decision it was is.
    said = canonical_json(capsules[refund.id]).decode()
    assert "deepak.private" not in said
    assert "[redacted:email:" in said
    assert ANA in said

    # One that closes while the keeper waits is next, in the same chain.
    await engine.remit.kill(still_open.id, "enough")
    await engine.closed(still_open.id)
    assert (await sealed(engine, 6))[-1].workflow_id == still_open.id


@workflow.defn(name=AGENT_RUN)
class Stranger:
    """Another program's workflow under the name of a run: its history isn't one that our code leads to."""

    @workflow.run
    async def run(self, *_: Any) -> None:
        await asyncio.sleep(0.01)


async def test_what_has_no_trace_has_a_number_and_a_reason(server: TemporalServer, home: Path) -> None:
    """A history that today's code doesn't lead to, and one that is gone: neither holds up the others, nor does an open run."""
    async with Engine(await server.ready(), home, overrides={"seal_seconds": 0.1}, working=False) as engine:
        queue = engine.settings.task_queue
        async with Worker(engine.client, task_queue=queue, workflows=[Stranger], workflow_runner=UnsandboxedWorkflowRunner()):
            strange = await engine.client.start_workflow(AGENT_RUN, id=f"strange-{queue}", task_queue=queue)
            await strange.result()
        await engine.work()
        parked = await engine.start([REFUND, final()], ticket="T-1002")
        waiting = await engine.pending(parked.id)
        with engine.ledger.begin() as connection:
            for run_id, name in ((str(strange.result_run_id), strange.id), ("gone", "gone"), (waiting.run_id, parked.id)):
                assert roots.enqueue(connection, engine.client.namespace, run_id, name, "billing-resolution")
        await begin(engine.client, queue)
        await engine.run([final()])
        reasons = {row.workflow_id: row.reason for row in await sealed(engine, 3)}
        assert reasons.pop("gone") == GONE
        assert reasons.pop(strange.id).startswith("Today's code can't read the run: event ")
        assert [*reasons.values()] == [""]
        row = keeping(engine)[strange.id]
        found = await capsule(engine, row)
        assert (found.trace, len(found.contents.history), row.events) == ((), 1, len(found.contents.history[0]["events"]))  # type: ignore[arg-type]
        await engine.remit.kill(parked.id, "enough")
        assert (await sealed(engine, 4))[-1].run_id == waiting.run_id


async def test_a_worker_that_is_killed_while_it_seals_leaves_no_gap(server: TemporalServer, home: Path) -> None:
    """The next one goes on where the chain ends: each run once, though the dead one may have left a file without a root."""
    async with Engine(await server.ready(), home, working=False) as engine:
        runs = [await engine.start([final()]) for _ in range(8)]
        env = {"REMIT_TASK_QUEUE": engine.settings.task_queue, "REMIT_SEAL_SECONDS": "0.1"}
        first = WorkerProcess(home, server.address, env=env)
        try:
            await until(lambda: any(home.glob("traces/*/*.gz")))
            first.kill()
        finally:
            first.stop()
        assert len(keeping(engine)) < len(runs)
        second = WorkerProcess(home, server.address, env=env)
        try:
            found = await sealed(engine, len(runs))
        finally:
            second.stop()
        assert {row.workflow_id for row in found} == {run.id for run in runs}
        for row in found:
            assert (await capsule(engine, row)).root.root.reason == ""
