"""Runs that outgrow one history: they go on as a new segment, and nobody notices but Temporal."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from policies.approvals import decision_payload
from policies.errors import KillSwitchEngaged
from remit.connection import CONVERTER
from remit.embedded import temporal_binary
from tests.engine import Engine, call, final, turn
from workflows.messages import AssistantMessage

READS = [turn(call("search_kb", query=f"zzz{n}")) for n in range(14)]
REFUND = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))


@pytest.fixture
async def rolling(home: Path) -> AsyncGenerator[Engine]:
    """An engine on a server that suggests to continue as new after forty events."""
    suggest = ["--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=40"]
    environment = await WorkflowEnvironment.start_local(  # pyright: ignore[reportUnknownMemberType]
        dev_server_existing_path=temporal_binary(), dev_server_extra_args=suggest, data_converter=CONVERTER
    )
    async with environment, Engine(environment.client, home) as found:
        yield found


async def test_a_long_run_is_one_run_to_everybody(rolling: Engine) -> None:
    """Id, transcript, budgets and approvals carry over, and the refund happens once, under the id of the first segment."""
    run = await rolling.start([*READS, REFUND, final()], ticket="T-1002")
    parked = await rolling.pending(run.id)
    assert parked.run_id == run.first_execution_run_id != (await run.describe()).run_id
    assert (parked.usage.tool_calls, len(parked.calls)) == (15, 14)
    await rolling.decide(run.id, "ana")
    result = await run.result()
    said = [m for m in await rolling.messages(run.id) if isinstance(m, AssistantMessage)]
    assert (result.outcome, result.run_id, len(said)) == ("completed", run.first_execution_run_id, 16)
    assert [e.run_id for e in rolling.effects()] == [run.first_execution_run_id]
    assert len(rolling.rows("refunds")) == 1


async def test_a_budget_holds_over_all_segments(rolling: Engine) -> None:
    """Twenty calls are twenty calls, however many segments they take."""
    run = await rolling.start([turn(call("search_kb", query=f"zzz{n}")) for n in range(25)])
    result = await run.result()
    assert (result.outcome, result.stopped_by, result.usage.tool_calls) == ("stopped", "tool_calls", 20)
    assert (await run.describe()).run_id != run.first_execution_run_id


async def test_a_kill_in_a_later_segment_covers_the_run(rolling: Engine) -> None:
    """The kill row bears the id of the first segment, as every reservation of the run does."""
    run = await rolling.start([*READS, REFUND, final()], ticket="T-1002")
    summary = await rolling.pending(run.id)
    await rolling.remit.kill(run.id, "stop")
    assert (await run.result()).outcome == "killed"
    with pytest.raises(KillSwitchEngaged):
        rolling.reserve(summary)


async def test_a_run_goes_on_anew_while_it_waits_for_people(rolling: Engine) -> None:
    """Signals flood a parked run: what waits, what a sibling did, who approved and when it expires are the same afterwards."""
    both = turn(
        call("request_refund", invoice_id="in_1006", amount_cents=74000, reason="service_issue"),
        call("search_kb", query="refunds"),
        call("draft_reply", ticket_id="T-1003", text="We are looking into it."),
    )
    run = await rolling.start([both, final()], ticket="T-1003")
    before = await rolling.pending(run.id)
    await rolling.decide(run.id, "ana")
    handle = rolling.remit.handle(run.id)
    for n in range(60):
        await handle.signal("junk", n)
    after = await rolling.until(run.id, lambda s: s.refused_total == 60)
    assert (await run.describe()).run_id != run.first_execution_run_id
    (was,), (waits,) = before.approvals, after.approvals
    assert (waits.request, waits.approvers) == (was.request, ("ana@example.com",))
    assert before.usage == after.usage
    await rolling.decide(run.id, "bo")
    done = await rolling.closed(run.id)
    assert [(c.tool, c.status) for c in done.calls] == [
        ("request_refund", "done"),
        ("search_kb", "done"),
        ("draft_reply", "done"),
    ]
    assert (done.status, len(rolling.rows("refunds")), len(rolling.rows("reply_drafts"))) == ("completed", 1, 1)
    assert len(await rolling.answers(run.id)) == 3


async def test_every_decision_that_meets_the_change_of_histories_counts(rolling: Engine) -> None:
    """Approvals by signal, between floods that make the run go on anew again and again: none is lost, none counts twice."""
    calls = [call("request_refund", invoice_id="in_1006", amount_cents=60000 + n, reason="service_issue") for n in range(6)]
    run = await rolling.start([turn(*calls), final()], ticket="T-1003")
    await rolling.until(run.id, lambda s: len(s.approvals) == 6)
    handle = rolling.remit.handle(run.id)
    for n in range(6):
        token = await rolling.token(run.id, "ana", approval_id=f"ap-0-{n}")
        floods = [handle.signal("junk", i) for i in range(25)]
        await asyncio.gather(*floods, handle.signal("decide", decision_payload(*token)))
    summary = await rolling.until(run.id, lambda s: all(a.approvers for a in s.approvals))
    assert {a.approvers for a in summary.approvals} == {("ana@example.com",)}
    assert await rolling.stalls(run.id) == []


async def test_a_kill_between_two_histories_counts(rolling: Engine) -> None:
    """A kill in the flood that fills the history: whichever history sees it, the run is killed, and what was done shows."""
    both = turn(
        call("request_refund", invoice_id="in_1006", amount_cents=74000, reason="service_issue"),
        call("draft_reply", ticket_id="T-1003", text="We are looking into it."),
    )
    run = await rolling.start([both, final()], ticket="T-1003")
    await rolling.pending(run.id)
    handle = rolling.remit.handle(run.id)
    await asyncio.gather(*(handle.signal("junk", n) for n in range(40)), handle.signal("kill", {"reason": "enough"}))
    done = await rolling.closed(run.id)
    assert (done.status, [(c.tool, c.status) for c in done.calls]) == ("killed", [("draft_reply", "done")])
    assert rolling.rows("refunds") == []
