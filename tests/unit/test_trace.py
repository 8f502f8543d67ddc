"""Traces of stored histories, which are those of real runs: what each line says, and that it says it each time."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory

from policies.errors import InvalidInput
from remit.connection import CONVERTER
from remit.proof.build import build
from remit.proof.lines import LINE, KillLine, ModelLine, RefusedLine, ToolLine, Trace
from tests.guarantees.proving import stored, terminated

HISTORIES = Path(__file__).parents[1] / "replay" / "histories" / "0.1.0"
RUNS = sorted(
    p.stem for p in HISTORIES.glob("*.json") if not p.stem.startswith(("fleet_control", "kill_drill", "trace_keeper"))
)


async def trace(*names: str) -> Trace:
    found = [WorkflowHistory.from_json(name, (HISTORIES / f"{name}.json").read_text()) for name in names]
    return await build(found, CONVERTER)


def calls(found: Trace) -> list[tuple[str, str, str]]:
    """Tool, verdict and outcome of each call."""
    return [(t.tool, t.verdict.decision if t.verdict else "", t.outcome.status) for t in found.tools]


@pytest.mark.parametrize("name", RUNS)
async def test_a_stored_run_has_one_trace(name: str) -> None:
    """The same each time, numbered from 0; each line reads back as what it was, and the sums are those of the run."""
    found = await trace(name)
    assert found.jsonl() == (await trace(name)).jsonl()
    assert [line.seq for line in found.lines] == list(range(len(found.lines)))
    assert [LINE.validate_json(text) for text in found.jsonl().splitlines()] == list(found.lines)
    if found.outcome and found.run.whole:
        models = [line for line in found.lines if isinstance(line, ModelLine)]
        usage = found.outcome.usage
        assert (usage.model_calls, usage.tool_calls) == (len(models), len(found.tools))
        assert usage.cost_micro_usd == sum(m.cost_micro_usd for m in models)
        assert usage.input_tokens == sum(m.usage.input_tokens for m in models)


async def test_a_refund_with_two_approvals() -> None:
    """What it rested on, who approved exactly it, and the turn of the cheap model that was dropped before."""
    found = await trace("two_approvals")
    assert found.run.policy_version.startswith("refunds_v7@")
    assert (found.run.subject, found.run.inputs, found.run.whole) == ("Customer:cus_103", {"ticket_id": "T-1003"}, True)
    [refund] = [t for t in found.tools if t.tool == "request_refund"]
    assert refund.verdict
    assert refund.facts
    assert refund.facts.facts
    assert (refund.verdict.decision, refund.verdict.approvals_required) == ("require_approval", 2)
    assert (refund.facts.facts.available_cents, refund.facts.run.subject_sum_cents) == (74000, 0)
    [approval] = refund.approvals
    assert (approval.status, approval.approvers) == ("consumed", ("ana@example.com", "bo@example.com"))
    assert approval.request.action_digest == refund.action_digest != ""
    assert (refund.outcome.status, refund.amount and refund.amount.cents) == ("done", 74000)
    assert [line.kind for line in found.lines].count("dropped") == 1
    assert next(t for t in found.tools if t.kind == "retrieve").documents[0].document_id == "duplicate-charges"


@pytest.mark.parametrize(("answered", "status"), [(True, "done"), (False, "indeterminate")])
async def test_a_write_that_a_terminated_run_did_not_see_shows(answered: bool, status: str) -> None:
    """A refund that was made is in the trace, though the run ended before it was told; one that may have been, is so too."""
    whole = stored("two_approvals").histories[0]
    asked = next(t.event for t in (await build([whole], CONVERTER)).tools if t.tool == "request_refund")
    found = await build([terminated(whole, asked, answered=answered)], CONVERTER)
    assert calls(found)[-1] == ("request_refund", "require_approval", status)
    assert found.outcome
    assert found.outcome.status == "terminated"


async def test_an_edit_is_a_judgement_of_its_own() -> None:
    """The model's arguments, what a person made of them, and both verdicts."""
    found = await trace("edited")
    [edited] = [t for t in found.tools if t.earlier]
    assert edited.proposed == edited.earlier[0].arguments != edited.arguments
    assert edited.arguments == (edited.approvals[0].edit and edited.approvals[0].edit.arguments)


async def test_a_run_that_was_killed_says_what_it_left() -> None:
    """The kill, a decision that came too late, and the refund that nobody carried out any more."""
    found = await trace("run_killed")
    [kill] = [line for line in found.lines if isinstance(line, KillLine)]
    assert kill.acknowledged_at
    assert [line.reason for line in found.lines if isinstance(line, RefusedLine)]
    assert calls(found)[-1] == ("request_refund", "require_approval", "not_carried_out")
    assert found.outcome
    assert (found.outcome.status, found.outcome.stopped_by) == ("killed", "kill")


async def test_what_an_attacker_asked_for_shows_with_its_refusal() -> None:
    """Other people's invoices: each call, the code it was refused with, and for a write no verdict, as no policy was asked."""
    found = await trace("other_customer")
    refused = [t for t in found.tools if t.outcome.status == "refused"]
    assert {t.outcome.reason for t in refused} == {"not_subject"}
    assert all(t.facts for t in refused)
    assert [t.verdict for t in refused if t.effect == "write"] == [None]


async def test_a_run_in_two_histories_is_one_trace() -> None:
    """The turn that was left open in one ends in the other; with the first one gone, the rest still has a trace."""
    whole = await trace("left_open", "reopened")
    assert (whole.run.histories, whole.run.whole) == (2, True)
    rest = await trace("reopened")
    assert (rest.run.histories, rest.run.whole) == (1, False)
    assert calls(rest) == calls(whole)[-len(calls(rest)) :]
    assert rest.outcome
    assert whole.outcome
    assert rest.outcome.usage == whole.outcome.usage


async def test_an_open_run_has_no_last_line() -> None:
    """Nobody takes what is known so far for the whole."""
    assert (await trace("left_open")).outcome is None


async def test_a_start_that_was_refused_has_a_trace() -> None:
    """Two lines: what was asked for, and that nothing came of it."""
    found = await trace("refused_start")
    assert found.outcome
    assert (len(found.lines), found.outcome.status, found.run.identity) == (2, "failed", None)
    assert found.outcome.closed_by == "failed"


async def test_what_is_no_run_has_no_trace() -> None:
    """One sentence says why."""
    with pytest.raises(InvalidInput, match="only runs"):
        await trace("kill_drill")
    with pytest.raises(InvalidInput, match="no history"):
        await build([], CONVERTER)


async def test_the_kinds_of_calls() -> None:
    """Drafts are put before people whatever the policy says; loops are stopped where the limit is."""
    drafted = await trace("drafted")
    assert all(isinstance(line, ToolLine) and line.mode == "draft" for line in drafted.tools)
    looped = await trace("loop_stopped")
    assert looped.outcome
    assert looped.outcome.stopped_by == "tool_calls"
