"""Whole runs over the real server: what is allowed, what waits for people, what is refused, what ends a run."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from policies.errors import ApprovalRefused, Unavailable
from remit.client import RunFailed
from remit.embedded import TemporalServer
from tests.engine import Engine, call, final, turn
from tools.connectors import sandbox
from workflows.messages import AssistantMessage, ScriptCall, ScriptTurn


def refund(invoice: str, cents: int, reason: str = "duplicate") -> ScriptCall:
    """A scripted request for a refund."""
    return call("request_refund", invoice_id=invoice, amount_cents=cents, reason=reason)


def refunded(engine: Engine) -> list[tuple[str, int]]:
    """Invoice and cents of each refund that really happened."""
    return sorted((str(r["invoice_id"]), int(r["amount_cents"])) for r in engine.rows("refunds"))


# ---- refunds and their approvals ------------------------------------------------------------------------------------


async def test_a_small_refund_needs_nobody(engine: Engine) -> None:
    """Under $50 the refund happens once, under the key that the ledger recorded."""
    done = await engine.run([turn(refund("in_1002", 4900)), final()])
    assert done.status == "completed"
    assert [(r["invoice_id"], r["amount_cents"]) for r in engine.rows("refunds")] == [("in_1002", 4900)]
    assert [(e.state, e.idempotency_key) for e in engine.effects()] == [("done", engine.rows("refunds")[0]["idempotency_key"])]


async def test_a_refund_of_120_waits_for_one_person(engine: Engine) -> None:
    """From $50 on nothing moves until somebody with the role approves; then it does, and the approval is consumed."""
    run = await engine.start([turn(refund("in_1004", 12000)), final()], ticket="T-1002")
    parked = await engine.pending(run.id)
    assert (parked.status, parked.approvals[0].request.required) == ("waiting_for_approval", 1)
    assert refunded(engine) == []
    await engine.decide(run.id, "ana")
    done = await engine.closed(run.id)
    assert (done.status, done.approvals[0].status, done.approvals[0].approvers) == (
        "completed",
        "consumed",
        ("ana@example.com",),
    )
    assert refunded(engine) == [("in_1004", 12000)]
    assert [e.approvers for e in engine.effects()] == ["ana@example.com"]


async def test_the_strong_model_decides_again_on_a_larger_refund(engine: Engine) -> None:
    """The cheap model's turn is dropped from the transcript, though it was charged, and the strong model decides."""
    run = await engine.start([turn(refund("in_1004", 12000)), final()], ticket="T-1002")
    parked = await engine.pending(run.id)
    said = [m for m in await engine.messages(run.id) if isinstance(m, AssistantMessage)]
    assert (parked.model, parked.usage.model_calls, len(said)) == ("scripted-strong", 2, 1)
    assert parked.usage.tool_calls == 1


async def test_a_refund_of_740_waits_for_two_different_people(engine: Engine) -> None:
    """Above $500 the first approval changes nothing but the count; the second one, by somebody else, lets it happen."""
    run = await engine.start([turn(refund("in_1006", 74000)), final()], ticket="T-1003")
    parked = await engine.pending(run.id)
    assert parked.approvals[0].request.required == 2
    first = await engine.decide(run.id, "ana")
    assert (first.status, refunded(engine)) == ("pending", [])
    second = await engine.decide(run.id, "bo")
    assert second.status == "approved"
    assert (await engine.closed(run.id)).status == "completed"
    assert refunded(engine) == [("in_1006", 74000)]


async def test_the_same_person_does_not_count_twice(engine: Engine) -> None:
    """A second decision by the same person is refused, and the approval goes on waiting."""
    run = await engine.start([turn(refund("in_1006", 74000)), final()], ticket="T-1003")
    await engine.pending(run.id)
    await engine.decide(run.id, "ana")
    with pytest.raises(ApprovalRefused, match="`ana@example.com` has already decided; somebody else must.") as refused:
        await engine.decide(run.id, "ana")
    assert refused.value.reason == "same_person"
    assert (await engine.pending(run.id)).approvals[0].approvers == ("ana@example.com",)


async def test_the_same_decision_sent_twice_counts_once(engine: Engine) -> None:
    """A client that retries its update gets the same answer, and nothing changes."""
    run = await engine.start([turn(refund("in_1006", 74000)), final()], ticket="T-1003")
    await engine.pending(run.id)
    token = await engine.token(run.id, "ana")
    assert await engine.remit.decide(run.id, *token) == await engine.remit.decide(run.id, *token)
    assert (await engine.pending(run.id)).approvals[0].approvers == ("ana@example.com",)


async def test_who_asked_for_the_run_may_not_approve_in_it(engine: Engine) -> None:
    """The requester's decision is refused, whatever their role."""
    run = await engine.start([turn(refund("in_1004", 12000)), final()], ticket="T-1002", requester="ana@example.com")
    await engine.pending(run.id)
    with pytest.raises(ApprovalRefused, match="`ana@example.com` asked for this run and may not decide on it.") as refused:
        await engine.decide(run.id, "ana")
    assert refused.value.reason == "own_request"


@pytest.mark.parametrize("who", ["cleo", "sam"])
async def test_a_person_without_the_role_may_not_approve(engine: Engine, who: str) -> None:
    """Another role, or none, isn't enough."""
    run = await engine.start([turn(refund("in_1004", 12000)), final()], ticket="T-1002")
    await engine.pending(run.id)
    with pytest.raises(ApprovalRefused, match="has none of the roles that may decide here: refund-approver.") as refused:
        await engine.decide(run.id, who)
    assert refused.value.reason == "wrong_role"


async def test_a_rejection_reaches_the_model_with_its_reason(engine: Engine) -> None:
    """A rejected refund is an error for the model, which goes on with something else."""
    draft = call("draft_reply", ticket_id="T-1004", text="We can't refund this.")
    run = await engine.start([turn(refund("in_1007", 21000)), turn(draft), final()], ticket="T-1004")
    await engine.pending(run.id)
    await engine.decide(run.id, "bo", "reject", reason="An annual plan is refunded within 30 days only.")
    done = await engine.closed(run.id)
    assert await engine.errors(run.id) == [
        ("rejected", "bo@example.com rejected this: An annual plan is refunded within 30 days only.")
    ]
    assert (done.status, done.approvals[0].status, len(engine.rows("reply_drafts"))) == ("completed", "rejected", 1)
    assert refunded(engine) == []


async def test_approvals_of_one_turn_are_independent(engine: Engine) -> None:
    """Of two refunds that wait at once, one is rejected and the other happens."""
    both = turn(refund("in_1003", 12000), refund("in_1004", 12000))
    run = await engine.start([both, final()], ticket="T-1002")
    parked = await engine.pending(run.id, 2)
    reject, approve = [a.request.approval_id for a in parked.approvals]
    await engine.decide(run.id, "ana", "reject", approval_id=reject, reason="Not this one.")
    assert (await engine.pending(run.id, 1)).approvals[1].status == "pending"
    await engine.decide(run.id, "ana", approval_id=approve)
    done = await engine.closed(run.id)
    assert [a.status for a in done.approvals] == ["rejected", "consumed"]
    assert [c.status for c in done.calls] == ["refused", "done"]
    assert refunded(engine) == [("in_1004", 12000)]


async def test_a_visible_note_waits_while_another_is_rejected(engine: Engine) -> None:
    """The same holds for another agent, under its own bundle and role."""
    notes = [call("add_account_note", customer_id="cus_105", visibility="customer", text=text) for text in ("One.", "Two.")]
    run = await engine.start([turn(*notes), final()], ticket="T-1005", agent="support-triage")
    parked = await engine.pending(run.id, 2)
    one, two = [a.request.approval_id for a in parked.approvals]
    await engine.decide(run.id, "cleo", approval_id=one)
    await engine.decide(run.id, "cleo", "reject", approval_id=two, reason="Too short.")
    await engine.closed(run.id)
    assert [n["text"] for n in engine.rows("account_notes")] == ["One."]


# ---- what is refused ------------------------------------------------------------------------------------------------


async def test_another_customers_invoice_can_be_neither_read_nor_refunded(engine: Engine) -> None:
    """A run for one customer gets nothing of another's."""
    turns = [turn(call("get_invoice", invoice_id="in_1014")), turn(refund("in_1014", 4900)), final()]
    done = await engine.run(turns, ticket="T-1005")
    assert await engine.errors(done.workflow_id) == [("not_subject", "`in_1014` isn't what this run is for.")] * 2
    assert (refunded(engine), engine.effects()) == ([], [])


async def test_an_open_invoice_cannot_be_refunded(engine: Engine) -> None:
    """Only what was paid can be paid back."""
    done = await engine.run([turn(refund("in_1024", 4900)), final()], ticket="T-1022")
    assert [code for code, _ in await engine.errors(done.workflow_id)] == ["not_paid"]
    assert refunded(engine) == []


async def test_more_than_was_paid_cannot_be_refunded(engine: Engine) -> None:
    """What an earlier refund took counts."""
    done = await engine.run([turn(refund("in_1002", 3000)), turn(refund("in_1002", 1901)), final()])
    assert [code for code, _ in await engine.errors(done.workflow_id)] == ["not_refundable"]
    assert refunded(engine) == [("in_1002", 3000)]


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("transfer_money", {"to": "me"}, "unknown_tool"),
        ("open_incident", {"alert_id": "AL-301", "severity": "sev1", "title": "x"}, "not_granted"),
    ],
)
async def test_a_tool_that_the_agent_was_not_given_is_refused(
    engine: Engine, tool: str, arguments: dict[str, str], code: str
) -> None:
    """Neither an invented tool nor another agent's tool is carried out."""
    done = await engine.run([turn(call(tool, **arguments)), final()])
    assert [found for found, _ in await engine.errors(done.workflow_id)] == [code]
    assert engine.rows("incidents") == []


async def test_a_denial_names_the_policy_that_made_it(library: Path, engine: Engine) -> None:
    """To the model and in the run's summary."""
    policy = library / "policies" / "bundles" / "refunds_v7" / "policy.cedar"
    policy.write_text(policy.read_text() + '@id("no-writes") forbid (principal, action in Remit::Action::"write", resource);')
    done = await engine.run([turn(refund("in_1002", 4900)), final()])
    assert await engine.errors(done.workflow_id) == [("denied", "Policy: forbidden by no-writes.")]
    assert (done.calls[0].policy_ids, refunded(engine)) == (("no-writes",), [])


async def test_a_model_corrects_arguments_that_do_not_validate(engine: Engine) -> None:
    """The error names the field, the next try succeeds and the failures of the tool are forgotten."""
    wrong = call("request_refund", invoice_id="in_1002", amount_cents="49.00", reason="duplicate")
    done = await engine.run([turn(wrong), turn(refund("in_1002", 4900)), final()])
    [(code, message)] = await engine.errors(done.workflow_id)
    assert (code, "`amount_cents`" in message) == ("validation_failed", True)
    assert ([c.status for c in done.calls], refunded(engine)) == (["refused", "done"], [("in_1002", 4900)])


async def test_the_final_answer_must_stand_alone(engine: Engine) -> None:
    """Beside other calls it is refused, and the others are made."""
    early = call("final_answer", outcome="resolved", summary="Done.")
    done = await engine.run([turn(call("get_invoice", invoice_id="in_1002"), early), final("no_action", "Looked only.")])
    assert [code for code, _ in await engine.errors(done.workflow_id)] == ["not_alone"]
    assert (done.status, done.summary, [c.status for c in done.calls]) == ("completed", "Looked only.", ["done", "refused"])


async def test_parallel_calls_of_one_turn_are_answered_in_their_order(engine: Engine) -> None:
    """Each call gets its own result, in the place where the model asked for it."""
    reads = turn(
        call("get_invoice", invoice_id="in_1002"),
        call("get_invoice", invoice_id="in_1014"),
        call("list_invoices", customer_id="cus_101"),
        call("search_kb", query="duplicate charge"),
    )
    done = await engine.run([reads, final()])
    answers = await engine.answers(done.workflow_id)
    assert [next(iter(a)) for a in answers] == ["invoice_id", "error", "invoices", "corpus"]


# ---- sums -----------------------------------------------------------------------------------------------------------


async def test_the_second_refund_of_30_needs_a_person(engine: Engine) -> None:
    """The tiers look at the sum for the customer, not at the single refund."""
    run = await engine.start([turn(refund("in_1003", 3000)), turn(refund("in_1004", 3000)), final()], ticket="T-1002")
    parked = await engine.pending(run.id)
    assert (parked.approvals[0].request.required, refunded(engine)) == (1, [("in_1003", 3000)])
    await engine.decide(run.id, "ana")
    await engine.closed(run.id)
    assert refunded(engine) == [("in_1003", 3000), ("in_1004", 3000)]


async def test_the_second_refund_of_30_needs_a_person_in_another_run_too(engine: Engine) -> None:
    """What another run moved for the customer counts."""
    await engine.run([turn(refund("in_1003", 3000)), final()], ticket="T-1002")
    run = await engine.start([turn(refund("in_1004", 3000)), final()], ticket="T-1002")
    assert (await engine.pending(run.id)).approvals[0].request.required == 1
    assert refunded(engine) == [("in_1003", 3000)]


async def test_of_two_refunds_of_30_in_one_turn_only_one_happens_without_a_person(engine: Engine) -> None:
    """Both look small when they are judged; the ledger lets one through, and the strong model decides on the other."""
    both = turn(refund("in_1003", 3000), refund("in_1004", 3000))
    run = await engine.start([both, turn(refund("in_1004", 2900)), final()], ticket="T-1002")
    parked = await engine.pending(run.id)
    assert [code for code, _ in await engine.errors(run.id)] == ["decide_again"]
    assert (parked.model, len(refunded(engine))) == ("scripted-strong", 1)
    await engine.decide(run.id, "ana")
    assert (await engine.closed(run.id)).status == "completed"
    assert len(refunded(engine)) == 2


async def test_an_approval_is_asked_for_anew_when_the_sum_rose_into_a_higher_tier(engine: Engine) -> None:
    """Another run moved money while one person approved: now two people must approve, the first one among them again."""
    one = await engine.start([turn(refund("in_1005", 30000)), final()], ticket="T-1003")
    two = await engine.start([turn(refund("in_1006", 30000)), final()], ticket="T-1003")
    await engine.pending(one.id)
    await engine.pending(two.id)
    await engine.decide(one.id, "ana")
    await engine.closed(one.id)
    await engine.decide(two.id, "ana")
    parked = await engine.until(two.id, lambda s: len(s.approvals) == 2)
    assert [(a.status, a.request.required) for a in parked.approvals] == [("cancelled", 1), ("pending", 2)]
    assert refunded(engine) == [("in_1005", 30000)]
    await engine.decide(two.id, "ana")
    await engine.decide(two.id, "bo")
    await engine.closed(two.id)
    assert refunded(engine) == [("in_1005", 30000), ("in_1006", 30000)]


async def test_ten_runs_at_once_move_no_more_than_one_small_refund(engine: Engine) -> None:
    """The sum is taken in the transaction that reserves, so concurrent runs can't slip under the threshold together."""
    runs = [await engine.start([turn(refund("in_1003", 2600 + n)), final()], ticket="T-1002") for n in range(10)]
    await asyncio.gather(*(engine.until(r.id, lambda s: s.status not in ("admitted", "running")) for r in runs))
    assert sum(cents for _, cents in refunded(engine)) < 5000


# ---- what ends a run ------------------------------------------------------------------------------------------------


async def test_four_failed_attempts_of_a_tool_stop_the_run(engine: Engine) -> None:
    """The fifth turn isn't asked for."""
    done = await engine.run([*(turn(refund("in_1002", 5000 + n)) for n in range(5)), final()])
    assert (done.status, done.stopped_by, len(done.calls)) == ("stopped", "attempts_per_step", 4)
    assert [answer["error"]["attempts_left"] for answer in await engine.answers(done.workflow_id)] == [3, 2, 1, 0]


async def test_the_21st_call_stops_the_run(engine: Engine) -> None:
    """Twenty calls are made, and never more."""
    done = await engine.run([turn(call("search_kb", query=f"question {n}")) for n in range(25)])
    assert (done.status, done.stopped_by) == ("stopped", "tool_calls")
    assert (done.usage.tool_calls, len(done.calls)) == (20, 20)


async def test_a_batch_that_does_not_fit_is_not_started(engine: Engine) -> None:
    """Of a turn with six calls after fifteen, none is made, the write among them least of all."""
    first = turn(*(call("search_kb", query=f"question {n}") for n in range(15)))
    second = turn(refund("in_1002", 4900), *(call("search_kb", query=f"more {n}") for n in range(5)))
    done = await engine.run([first, second, final()])
    assert (done.stopped_by, done.usage.tool_calls, len(done.calls)) == ("tool_calls", 15, 15)
    assert done.summary == "15 of 20 tool calls are used and the model asked for 6 more."
    assert (refunded(engine), engine.effects()) == ([], [])


async def test_refused_calls_count_too(engine: Engine) -> None:
    """A model can't spin on refusals for free: different invented tools use up the budget."""
    done = await engine.run([turn(*(call(f"invented_{t}_{n}") for n in range(7))) for t in range(4)])
    assert (done.stopped_by, done.usage.tool_calls) == ("tool_calls", 14)


async def test_the_same_call_for_the_fourth_time_stops_the_run(engine: Engine) -> None:
    """Three times is tolerated; the fourth isn't made."""
    done = await engine.run([turn(call("get_invoice", invoice_id="in_1002"))] * 5)
    assert (done.status, done.stopped_by, len(done.calls)) == ("stopped", "identical_calls", 3)


async def test_a_plain_answer_completes_the_run(engine: Engine) -> None:
    """A turn with text and no call is the answer."""
    done = await engine.run([turn(text="Nothing to do here.")])
    assert (done.status, done.summary, done.stopped_by) == ("completed", "Nothing to do here.", "")


async def test_a_final_answer_that_escalates_shows_as_escalated(engine: Engine) -> None:
    """`escalated` is the run's status, for the operator to find."""
    done = await engine.run([final("escalated", "A person must look.")])
    assert (done.status, done.summary) == ("escalated", "A person must look.")


async def test_an_empty_answer_escalates(engine: Engine) -> None:
    """A model that says nothing at all is asked once more, and then hands over to a person."""
    done = await engine.run([turn(), turn()])
    assert (done.status, done.stopped_by, done.summary) == (
        "escalated",
        "empty_answer",
        "The model gave neither text nor a tool call.",
    )


async def test_a_final_answer_that_cannot_be_read_escalates(engine: Engine) -> None:
    """An outcome that doesn't exist isn't taken for one that does, however often it is given; the model's words are kept."""
    done = await engine.run([turn(call("final_answer", outcome="great", summary="Refunded $49."))] * 4)
    assert (done.status, done.stopped_by, done.summary) == ("escalated", "final_answer_invalid", "Refunded $49.")
    assert {c.reason for c in done.calls} == {"validation_failed"}


async def test_a_final_answer_can_be_corrected(engine: Engine) -> None:
    """The model is told what is wrong with its final answer, as with any call, and tries again."""
    wrong = turn(call("final_answer", outcome="success", summary="Done."))
    run = await engine.start([wrong, final("resolved", "Done.")])
    done = await engine.closed(run.id)
    assert (done.status, done.summary, done.stopped_by) == ("completed", "Done.", "")
    [(code, message)] = await engine.errors(run.id)
    assert (code, "`final_answer` can't be read: `outcome`" in message) == ("validation_failed", True)


async def test_a_summary_that_is_too_long_is_cut(engine: Engine) -> None:
    """4,001 characters are no reason to lose a final answer."""
    done = await engine.run([final("resolved", "x" * 4001)])
    assert (done.status, len(done.summary)) == ("completed", 4000)


async def test_a_script_that_ends_too_early_fails_the_run(engine: Engine) -> None:
    """The failure is the provider's own sentence."""
    run = await engine.start([ScriptTurn(tool_calls=(call("get_invoice", invoice_id="in_1002"),))])
    with pytest.raises(
        RunFailed, match="^The script ended after 1 turns; let its last turn call `final_answer`, or add turn 2.$"
    ):
        await engine.remit.result(run.id)
    assert (await engine.remit.status(run.id)).status == "failed"


# ---- faults ---------------------------------------------------------------------------------------------------------


async def test_a_refund_whose_answer_was_lost_happens_once(engine: Engine) -> None:
    """The vendor committed and the connection broke: the retry has the same key, and there is one refund."""
    sandbox.arm(engine.settings.business_path, "refund", "in_1002", "error_after_commit")
    done = await engine.run([turn(refund("in_1002", 4900)), final()])
    assert (done.status, refunded(engine)) == ("completed", [("in_1002", 4900)])
    [effect] = engine.effects()
    assert (effect.state, effect.attempts) == ("done", 2)
    assert effect.idempotency_key == engine.rows("refunds")[0]["idempotency_key"]


async def test_white_space_does_not_hide_a_repeated_call(engine: Engine) -> None:
    """The loop guard compares what the arguments mean, not how the model wrote them."""
    script = [turn(call("search_kb", query="refund", limit=3)), turn(call("search_kb", query="refund"))] * 2
    done = await engine.run([*script, final()])
    assert (done.status, done.stopped_by) == ("stopped", "identical_calls")


async def test_a_requester_must_be_known(engine: Engine) -> None:
    """G3: whoever asks by another name than the one they sign with is refused, for they could approve their own request."""
    run = await engine.start([final()], requester="ana")
    with pytest.raises(RunFailed, match="^`ana` is not in the directory; known: `ana@example.com`, "):
        await engine.remit.result(run.id)
    service = await engine.start([final()], requester="service:zendesk")
    assert (await engine.remit.result(service.id)).outcome == "completed"


async def test_a_decision_without_a_worker_is_one_sentence(
    server: TemporalServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update that no worker takes up in time says so, and nothing is lost."""
    monkeypatch.setattr("remit.client.ANSWER", timedelta(milliseconds=300))
    async with Engine(await server.ready(), engine.home, working=False) as idle:
        run = await idle.start([final()])
        with pytest.raises(Unavailable, match=f"^No worker answers for run `{run.id}`; "):
            await idle.remit.decide(run.id, "ap-0-0", "x.y.z")
