"""Runs that outgrow one history: they go on as a new segment, and nobody notices but Temporal."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from activities.storage import storage_at
from policies.approvals import decision_payload
from policies.errors import KillSwitchEngaged, StoredValueLost
from remit.client import Remit
from remit.connection import converter
from remit.embedded import TemporalServer
from tests.engine import Engine, call, final, turn
from tests.long import run_long
from tests.workflow.conftest import SetLimits
from worker import runner
from workflows.agent_run import AgentRun
from workflows.messages import AssistantMessage, ScriptTurn, UserMessage

READS = [turn(call("search_kb", query=f"zzz{n}")) for n in range(14)]
REFUND = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))


@pytest.fixture
async def rolling(server: TemporalServer, home: Path) -> AsyncGenerator[Engine]:
    """An engine whose runs go on in a new history after about five turns."""
    async with Engine(await server.ready(), home, overrides={"history_events": 80}) as found:
        yield found


async def test_a_long_run_is_one_run_to_everybody(rolling: Engine) -> None:
    """Id, transcript, budgets, approvals and place in the queue carry over; the refund happens once, under the first id."""
    run = await rolling.start([*READS, REFUND, final()], ticket="T-1002")
    parked = await rolling.pending(run.id)
    assert parked.run_id == run.first_execution_run_id != (await run.describe()).run_id
    assert (parked.usage.tool_calls, len(parked.calls)) == (15, 14)
    await rolling.decide(run.id, "ana")
    result = await run.result()
    said = [m for m in await rolling.messages(run.id) if isinstance(m, AssistantMessage)]
    assert (result.outcome, result.run_id, len(said)) == ("completed", run.first_execution_run_id, 16)
    assert [e.run_id for e in rolling.effects()] == [run.first_execution_run_id]
    first = await anext(rolling.remit.handle(run.id).fetch_history_events())
    assert first.workflow_execution_started_event_attributes.priority.fairness_key == "billing-resolution"
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


# ---- long runs ------------------------------------------------------------------------------------------------------


def raised(library: Path, set_limits: SetLimits) -> None:
    """Let runs be long."""
    agent = library / "agents" / "billing-resolution" / "agent.toml"
    agent.write_text(agent.read_text().replace("tool_calls = 20", "tool_calls = 500"))
    set_limits(tool_calls=500, model_calls=500, identical_calls=100, tokens=500_000_000, cost_micro_usd=5_000_000_000)


def inputs(history: WorkflowHistory, activity: str) -> list[dict[str, Any]]:
    """What `activity` was asked in this history, in order."""
    scheduled = [e.activity_task_scheduled_event_attributes for e in history.events]
    return [json.loads(a.input.payloads[0].data) for a in scheduled if a.activity_type.name == activity]


def results(history: WorkflowHistory, field: str) -> list[dict[str, Any]]:
    """What activities of this history gave, of those whose result has `field`."""
    done = [e.activity_task_completed_event_attributes.result.payloads for e in history.events]
    return [found for payloads in done if payloads and field in (found := json.loads(payloads[0].data))]


def wordy(turns: int) -> list[ScriptTurn]:
    """Turns with so much text that a dozen of them go to storage."""
    return [turn(call("search_kb", query=f"zzz{n}"), text=f"{n:05}" * 5_000) for n in range(turns)]


async def test_a_long_run_lies_in_storage_and_is_one_run_to_everybody(
    library: Path, set_limits: SetLimits, rolling: Engine
) -> None:
    """Its state stays small; transcript, calls, approvals and budgets are whole; another worker goes on with it."""
    raised(library, set_limits)
    run = await rolling.start([*wordy(15), REFUND, *wordy(15), final()], ticket="T-1002")
    await rolling.pending(run.id)
    await rolling.rest()
    other = Engine(rolling.client, rolling.home, overrides=rolling.settings.model_dump(), working=False)
    async with other:
        await other.work()
        await other.decide(run.id, "ana")
        done = await other.closed(run.id)
        assert (done.status, done.usage.tool_calls, len(done.segments)) == ("completed", 31, 2)
        assert len(done.calls) < 31
        seen = await other.remit.seen(run.id)
        assert [c.tool for c in seen.calls] == ["search_kb"] * 15 + ["request_refund"] + ["search_kb"] * 15
        assert [(a.status, a.approvers) for a in seen.approvals] == [("consumed", ("ana@example.com",))]
        said = [m.text for m in await other.messages(run.id) if isinstance(m, AssistantMessage)]
        assert said == [t.text for t in [*wordy(15), REFUND, *wordy(15), final()]]
        assert len(other.rows("refunds")) == 1
        lost = Remit(other.client, storage=storage_at(other.home / "elsewhere"))
        with pytest.raises(StoredValueLost, match="isn't in the folder .*; point `REMIT_STORAGE` at where"):
            await lost.seen(run.id)


@pytest.mark.parametrize("strategy", ["drop_tool_results", "summarise"])
async def test_a_long_conversation_is_compacted(library: Path, set_limits: SetLimits, rolling: Engine, strategy: str) -> None:
    """A model call takes no more and no more tokens; the transcript keeps everything, and the histories replay."""
    raised(library, set_limits)
    path = library / "policies" / "bundles" / "refunds_v7" / "limits.toml"
    path.write_text(f'{path.read_text()}\n[context]\ntokens = 3000\nkeep_turns = 3\nstrategy = "{strategy}"\n')
    reads = [turn(call("get_ticket", ticket_id="T-1001"), call("search_kb", query=f"refund {n}")) for n in range(25)]
    run = await rolling.start([*reads, final()])
    done = await rolling.closed(run.id)
    assert (done.status, done.usage.tool_calls) == ("completed", 50)
    notes = [m for m in await rolling.messages(run.id) if isinstance(m, UserMessage)]
    histories = [h async for h in rolling.client.list_workflows(f"WorkflowId = '{run.id}'").map_histories()]
    histories.reverse()  # visibility lists the newest first
    assert len(histories) > 1
    asked = [e for h in histories for e in inputs(h, "call_model")]
    assert [e["cursor"] for e in asked] == sorted(e["cursor"] for e in asked)
    summaries = [e for e in asked if e.get("summarise")]
    assert len(notes) - 1 == len(summaries) == done.usage.model_calls - 26
    assert bool(summaries) == (strategy == "summarise")
    windows = [e["window"]["until"] for e in asked if e.get("window")]
    assert len(set(windows)) >= 3
    took = [r["usage"]["input_tokens"] for h in histories for r in results(h, "message")]
    grows = took[1] - took[0]
    assert max(took) < took[0] + 12 * grows  # without, the last call would take 25 times as much more
    if summaries:
        assert max(took[12:]) < max(took[:12]) + grows // 2
    replayer = Replayer(workflows=[AgentRun], workflow_runner=runner(), data_converter=converter(rolling.settings))
    for history in histories:
        await replayer.replay_workflow(history)


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


async def test_a_marathon_is_linear(server: TemporalServer, home: Path) -> None:
    """Each history of a long run weighs the same a step, the last as the first; the run reads as one; all of it replays."""
    found = await run_long(await server.ready(), home, 180, history_events=800)
    assert (found.outcome, found.calls) == ("completed", 180)
    assert found.messages == 1 + 2 * 180 + 1 + (found.model_calls - 181)  # the task, turns, the answer, summaries
    assert found.model_calls > 181
    full = found.histories[:-1]
    assert len(full) >= 3
    first, *later = [h.bytes / h.steps for h in full]
    assert max(later) < 1.2 * first
