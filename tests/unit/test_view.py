"""The cockpit: what an operator sees of a run in the Temporal UI, and that nobody's text can forge it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.approvals import Approval, ApprovalDecision
from policies.identity import Directory
from policies.models import Money, Usage, UsageLimits
from tests.builders import ANA, NOW, capsule, request
from workflows.messages import AssistantMessage, KillState, StartInput, ToolCallView, Withheld
from workflows.state import RunState
from workflows.view import SHOWN_CALLS, cockpit, usd


def state(**changes: object) -> RunState:
    start = StartInput(agent="billing-resolution", requester="sam@example.com")
    return RunState.model_validate({"start": start, "capsule": capsule(), "status": "running", **changes})


def lines(run: RunState) -> list[str]:
    return cockpit(run, "wf-1").split("\n")


def call(**changes: object) -> ToolCallView:
    given = {"step": 1, "tool": "get_ticket", "resource": "Ticket:T-1001", "status": "done"}
    return ToolCallView.model_validate({**given, **changes})


@pytest.mark.parametrize(("micro_usd", "text"), [(0, "$0.0000"), (250, "$0.0003"), (1_234_567, "$1.2346")])
def test_model_cost_is_shown_finely(micro_usd: int, text: str) -> None:
    """Model cost has four places, for a cent is too coarse for a call."""
    assert usd(micro_usd) == text


@pytest.mark.parametrize(
    ("cents", "currency", "text"),
    [(4900, "USD", "$49.00"), (5, "USD", "$0.05"), (123_456_789, "USD", "$1,234,567.89"), (4900, "EUR", "49.00 EUR")],
)
def test_money_is_shown_as_people_write_it(cents: int, currency: str, text: str) -> None:
    """Dollars have their sign, other currencies their name."""
    assert str(Money(cents=cents, currency=currency)) == text


@given(st.integers(0, 2**53 - 1))
def test_no_cent_is_lost_on_the_screen(cents: int) -> None:
    """What is shown is exactly what would be paid, however much it is."""
    shown = str(Money(cents=cents, currency="USD"))
    assert int(re.sub(r"[$,.]", "", shown)) == cents
    assert shown[-3] == "."


def test_the_title_says_who_and_how_it_stands() -> None:
    """The first line has the agent and the status in words."""
    assert lines(state(status="waiting_for_approval"))[0] == "## `billing-resolution`: waiting for approval"


def test_the_second_line_says_for_whom() -> None:
    """Inputs, subject and requester are there, and a run without a requester says so."""
    start = StartInput(agent="a", inputs={"ticket_id": "T-1"}, requester="sam@example.com")
    assert lines(state(start=start))[2] == "For `ticket_id=T-1` (`Customer:cus_101`), asked for by `sam@example.com`."
    bare = state(start=StartInput(agent="a"), capsule=capsule(subject="", directory=Directory()))
    assert lines(bare)[2] == "For no inputs, requester not given."


def test_a_scripted_run_says_so() -> None:
    """A run whose model is scripted is labelled, and a real one isn't."""
    label = "*Scripted model: answers and cost are simulated.*"
    assert label in cockpit(state(simulated=True), "wf-1")
    assert label not in cockpit(state(), "wf-1")


def test_the_budgets_are_a_sentence() -> None:
    """What is used of each budget stands beside its limit."""
    usage = Usage(tool_calls=3, model_calls=2, input_tokens=1000, output_tokens=234, cost_micro_usd=1500)
    shown = lines(state(usage=usage, capsule=capsule(limits=UsageLimits(tool_calls=7))))
    start = shown.index("### Cost $0.0015")
    assert shown[start + 2] == "of $2.0000; tool calls 3 of 7; model calls 2 of 40; tokens 1,234 of 200,000"


def test_a_pending_approval_shows_what_to_decide_on() -> None:
    """The exact arguments, the policies, the model's own words, who has approved, who may, and the commands to do it with."""
    given_by_ana = ApprovalDecision(sub=ANA, decision="approve", reason="", nonce="n" * 8, decided_at=NOW, decision_jws="")
    asked = request(required=2, roles=("refund-approver",))
    run = state(approvals={"ap-2-0": Approval(request=asked, decisions=(given_by_ana,))})
    run.append(AssistantMessage(text="It was billed twice."))
    shown = lines(run)
    start = shown.index("### Waits for 1 more person")
    assert shown[start + 2] == "`request_refund@1` **$120.00** on `Invoice:in_1001`, expires 2025-10-09 09:53 UTC"
    arguments = ", ".join(f"{k}={v}" for k, v in asked.arguments.items())
    assert shown[start + 4 : start + 8] == [
        f"- exactly: `{arguments}`",
        f"- asked for by policy: {', '.join(f'`{p}`' for p in asked.policy_ids)}",
        "- the model's reason, not checked: `It was billed twice.`",
        "- approved by: `ana@example.com`",
    ]
    assert "ana@example.com" not in shown[start + 8]
    assert shown[start + 9] == "- approve: `remit approve wf-1 ap-2-0 --as PERSON --reason '...'`"
    assert shown[start + 10] == "- reject: `remit reject wf-1 ap-2-0 --as PERSON --reason '...'`"
    assert shown[start + 11] == "- change an argument: `remit edit wf-1 ap-2-0 --as PERSON --set NAME=VALUE --reason '...'`"
    assert "`remit sign wf-1 ap-2-0 --as PERSON --approve --reason '...'`" in shown[start + 12]


def test_a_proposal_shows_as_one() -> None:
    """People see that the agent doesn't write by itself, and which mode it is held to now."""
    told = "- a proposal: the agent is in `draft` mode and writes nothing by itself"
    assert told in lines(state(approvals={"ap-2-0": Approval(request=request(proposal=True))}))
    assert told not in lines(state(approvals={"ap-2-0": Approval(request=request())}))
    assert "mode `live`" in lines(state())[-3]
    assert "mode `draft`" in lines(state(stepped_down="draft"))[-3]


def test_an_escalation_shows_before_and_after() -> None:
    """Before, when others will be asked; after, when they were, and who may decide now."""
    asked = request(expires_at=NOW + 86_400)
    before = cockpit(state(approvals={"ap-2-0": Approval(request=asked)}), "wf-1")
    assert "- from 2025-10-09 16:53 UTC on `finance-lead` may decide too" in before
    wider = asked.model_copy(update={"roles": ("refund-approver", "finance-lead")})
    after = cockpit(state(approvals={"ap-2-0": Approval(request=wider, escalated_at=NOW + 28_800)}), "wf-1")
    assert "- escalated 2025-10-09 16:53 UTC: nobody had decided, so `refund-approver`, `finance-lead` may" in after
    assert "may decide too" not in after


@pytest.mark.parametrize("hostile", ["x; rm -rf ~", "x`; rm -rf ~", "$(rm)", "run one\n", "-rf", "it's"])
def test_a_workflow_id_that_a_shell_could_read_is_in_no_command(hostile: str) -> None:
    """Whoever starts a run chooses its workflow id; a command that an operator pastes holds nothing of a strange one."""
    shown = cockpit(state(approvals={"ap-1": Approval(request=request())}), hostile)
    assert hostile not in shown
    assert "`remit kill RUN --reason '...'`" in shown


def test_decisions_of_people_stay_visible() -> None:
    """Once decided, an approval asks for nobody's attention, but who decided, and why, stays."""
    no = ApprovalDecision(sub=ANA, decision="reject", reason="Too late.", nonce="n" * 8, decided_at=NOW, decision_jws="")
    asked = request()
    shown = cockpit(state(approvals={asked.approval_id: Approval(request=asked, status="rejected", decisions=(no,))}), "wf-1")
    assert "### Waits for" not in shown
    assert f"- `{asked.approval_id}` rejected by `ana@example.com`, " in shown
    assert shown.count("`Too late.`") == 1


def test_an_edit_shows_what_was_changed_and_by_whom() -> None:
    """The one that ended says to what it was changed, the one that waits says who may not approve it."""
    changed = ApprovalDecision(
        sub=ANA,
        decision="edit",
        reason="Half.",
        nonce="n" * 8,
        decided_at=NOW,
        decision_jws="",
        arguments={"amount_cents": 6000},
    )
    ended = Approval(request=request(), status="cancelled", decisions=(changed,))
    waits = Approval(request=request(approval_id="ap-2-0-1", edited_by=(ANA,), edit_of="ap-2-0"))
    shown = lines(state(approvals={"ap-2-0": ended, "ap-2-0-1": waits}))
    assert "- edited by `ana@example.com`, who may not approve it" in shown
    [line] = [x for x in shown if x.startswith("- `ap-2-0` edited by `ana@example.com`, ")]
    assert line.endswith(" to `amount_cents=6000`: `Half.`")


def test_the_last_calls_are_a_table() -> None:
    """Each call has its step, tool, resource, amount and outcome; only the latest are shown, and that is said."""
    amount = Money(cents=4900, currency="USD")
    refused = call(step=99, tool="request_refund", resource="Invoice:in_1", amount=amount, status="refused", reason="denied")
    shown = lines(state(calls=[call(step=i) for i in range(SHOWN_CALLS)] + [refused]))
    assert f"### Tool calls that were answered: {SHOWN_CALLS + 1}, 1 of them refused" in shown
    assert f"The last {SHOWN_CALLS}; all of them: query `status`, or `remit show`." in shown
    start = shown.index("| Step | Tool | On | Amount | Outcome |")
    assert shown[start + 2] == "| 1 | `get_ticket` | `Ticket:T-1001` |  | done |"
    assert shown[start + 1 + SHOWN_CALLS] == "| 99 | `request_refund` | `Invoice:in_1` | `$49.00` | **refused** `denied` |"


@pytest.mark.parametrize(("acknowledged", "text"), [(None, "**not in force yet**"), (NOW, "no write can start any more")])
def test_a_kill_says_whether_it_holds(acknowledged: int | None, text: str) -> None:
    """An operator sees whether the off switch is written yet, why, and who says to have set it."""
    kill = KillState(engaged=True, reason="wrong customer", by="eve", acknowledged_at=acknowledged)
    shown = next(line for line in lines(state(kill=kill)) if line.startswith("**Killed**"))
    assert text in shown
    assert "`eve` (as they said)" in shown
    assert shown.endswith("Reason: `wrong customer`")


def test_the_end_is_explained() -> None:
    """A limit is named, and the model's own words are shown as a claim."""
    stopped = state(status="stopped", stopped_by="tool_calls", summary="20 of 20 tool calls are used.")
    assert "**Ended by** `tool_calls`: `20 of 20 tool calls are used.`" in lines(stopped)
    claimed = state(status="completed", summary="Refunded $740.")
    assert "The model's own closing words, which nobody checked: `Refunded $740.`" in lines(claimed)


def test_an_open_run_says_how_to_stop_it() -> None:
    """The off switch is on the page while it can be used, and not after."""
    assert "`remit kill wf-1 --reason '...'`" in cockpit(state(), "wf-1")
    assert "remit kill" not in cockpit(state(status="completed"), "wf-1")


def test_refused_signals_are_counted() -> None:
    """Junk that was sent to a run is visible, with what was said of the latest."""
    run = state()
    run.refuse("decide", "malformed", "not this", NOW)
    run.refuse("decide", "bad_signature", "but this", NOW)
    assert any(line.startswith("**2 signals counted for nothing**") and line.endswith("`but this`") for line in lines(run))


def test_what_the_agent_was_not_given_is_said() -> None:
    """A tool that isn't as somebody reviewed it is named, with why."""
    run = state(capsule=capsule(withheld=(Withheld(name="request_refund", why="changed since its review"),)))
    assert any(line.endswith("Not offered: `request_refund`, changed since its review.") for line in lines(run))
    assert "Not offered" not in cockpit(state(), "wf-1")


def test_a_run_that_isnt_admitted_has_a_cockpit() -> None:
    """Before admission there is a page too."""
    assert lines(state(capsule=None, status="admitted"))[0] == "## `billing-resolution`: admitted"


HOSTILE = st.text(st.sampled_from("ab|\\`\n\r\u2028\x85#->*[](http://x) "), max_size=30) | st.text(max_size=30)


@given(HOSTILE.filter(lambda t: bool(t.strip())))
def test_no_text_forges_a_line(text: str) -> None:
    """Whatever names, requesters, summaries and reasons hold stays in its code span: no line, cell or link is added."""

    def run(free: str) -> RunState:
        return state(
            start=StartInput(agent=free[:100], requester=free, inputs={"x": free}),
            capsule=capsule(subject=free),
            summary=free,
            stopped_by="kill",
            kill=KillState(engaged=True, reason=free, by=free),
            calls=[call(tool=free, resource=free, status="refused", reason=free, detail=free)],
            approvals={"ap-1": Approval(request=request(resource={"type": "Invoice", "id": free}))},
        )

    shown, plain = cockpit(run(text), "wf-1"), cockpit(run("x"), "wf-1")
    assert len(re.split(r"\r\n|[\r\n\x85\u2028\u2029]", shown)) == len(plain.split("\n"))
    assert [line.count("`") for line in shown.split("\n")] == [line.count("`") for line in plain.split("\n")]
    assert [line.count("|") for line in shown.split("\n")] == [line.count("|") for line in plain.split("\n")]
