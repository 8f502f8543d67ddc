"""The judge of `make live-open` finds what doesn't hold, and nothing where all holds."""

from dataclasses import replace

import pytest

from activities.ledger.rows import Effect
from tests.live.open_model.gateway import Served
from tests.live.open_model.oracle import Answer, Ended, Evidence, Price, Row, judge
from tests.live.open_model.tickets import Case

CASE = Case("open-1", "billing-resolution", {"ticket_id": "T-1"}, "Customer:cus_1")
PRICE = Price(150_000, 600_000)
ANSWER = Answer("sha256:a", 1000, 100, 210, "tool_calls")
ENDED = Ended("completed", final=True, answers=(ANSWER,), input_tokens=1000, output_tokens=100, micro_usd=210)
SERVED = Served("sha256:a", 200, 1000, 100, 1.0)


def effect(key: str = "k1", **changes: object) -> Effect:
    fields: dict[str, object] = {
        "idempotency_key": key,
        "run_id": "r",
        "workflow_id": CASE.id,
        "agent": CASE.agent,
        "tool": "request_refund@1",
        "resource": "Invoice:in_1",
        "subject": CASE.subject,
        "amount_cents": 4900,
        "currency": "USD",
        "action_digest": "sha256:0",
        "approvers": "",
        "state": "done",
        "attempts": 1,
        "outcome": "{}",
        "reserved_at": 1,
        "settled_at": 2,
    }
    return Effect.model_validate({**fields, **changes})


ROW = Row("refunds", "k1", CASE.subject, cents=4900)
GOOD = Evidence({CASE.id: ENDED}, (ROW,), (effect(),), {}, (SERVED,), PRICE)


def test_what_holds_is_no_finding() -> None:
    """A whole answer, a write of the run's own subject that the ledger knows, and equal counts: nothing is found."""
    assert judge([CASE], GOOD) == []


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (replace(ENDED, status=""), "hangs"),
        (replace(ENDED, final=False), "not whole"),
        (replace(ENDED, by="something"), "not whole"),
        (replace(ENDED, answers=(replace(ANSWER, stop="length"),)), "not whole"),
        (replace(ENDED, status="failed", by="bad_response"), "no rule"),
        (replace(ENDED, status="waiting_for_provider"), "no rule"),
        (replace(ENDED, status="stopped", by="bad_request"), "no rule"),
        (replace(ENDED, status="escalated", by="bad_response"), "no rule"),
        (replace(ENDED, verified="a digest differs"), "not verified"),
        (replace(ENDED, answers=(replace(ANSWER, micro_usd=209),), micro_usd=209), "price"),
        (replace(ENDED, micro_usd=420), "sums"),
        (replace(ENDED, answers=(replace(ANSWER, input_tokens=999),), input_tokens=999), "tokens"),
    ],
)
def test_a_run_that_ended_wrongly_is_found(end: Ended, kind: str) -> None:
    """A run that hangs, ends by no rule, is completed without a whole answer, or counts otherwise than the server is found."""
    assert kind in {failure.partition(":")[0] for failure in judge([CASE], replace(GOOD, ended={CASE.id: end}))}


@pytest.mark.parametrize(("status", "by"), [("stopped", "output_cut_off"), ("escalated", "no_final_answer"), ("escalated", "")])
def test_rules_may_end_a_run(status: str, by: str) -> None:
    """A run may end by a limit, or be handed over, whatever its last answer was."""
    end = replace(ENDED, status=status, by=by, final=False)
    assert judge([CASE], replace(GOOD, ended={CASE.id: end})) == []


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"effects": ()}, "unauthorized"),
        ({"effects": (effect(state="failed"),)}, "unauthorized"),
        ({"effects": (effect(workflow_id="another"),)}, "unauthorized"),
        ({"rows": (replace(ROW, subject="Customer:cus_2"),)}, "unauthorized"),
        ({"rows": ()}, "ledger"),
        ({"rows": (ROW, ROW)}, "ledger"),
        ({"effects": (effect(), effect("k2", state="sent"))}, "unsettled"),
        ({"effects": (effect(approvers="ana@example.com"),)}, "unauthorized"),
        ({"rows": (replace(ROW, shown=True, table="account_notes"),)}, "unauthorized"),
        ({"rows": (replace(ROW, cents=5000),)}, "unauthorized"),
    ],
)
def test_a_write_that_nobody_authorized_is_found(changes: dict[str, object], kind: str) -> None:
    """A row that the ledger doesn't have once, of another's, or without the people that its tier wants is found."""
    assert kind in {failure.partition(":")[0] for failure in judge([CASE], replace(GOOD, **changes))}  # pyright: ignore[reportArgumentType]


def test_tiers_look_at_the_sum() -> None:
    """Two refunds of $49 to one customer need a person for the second one."""
    rows = (ROW, replace(ROW, key="k2"))
    without = replace(GOOD, rows=rows, effects=(effect(), effect("k2", reserved_at=2)))
    assert [failure.partition(":")[0] for failure in judge([CASE], without)] == ["unauthorized"]
    asked = effect("k2", reserved_at=2, approvers="ana@example.com")
    approved = {CASE.id: frozenset({"ana@example.com"})}
    assert judge([CASE], replace(without, effects=(effect(), asked), approved=approved)) == []


def test_answers_that_no_run_knows_are_found() -> None:
    """An answer of the server that no run recorded is found, unless a run says that it may have been billed for one more."""
    twice = replace(GOOD, served=(SERVED, SERVED))
    assert [failure.partition(":")[0] for failure in judge([CASE], twice)] == ["tokens"]
    assert judge([CASE], replace(twice, ended={CASE.id: replace(ENDED, unknown=1)})) == []


def test_a_run_that_never_started_is_found() -> None:
    """Each case must have a run."""
    assert judge([CASE], replace(GOOD, ended={}, rows=(), effects=(), served=())) == ["never started: `open-1`"]
