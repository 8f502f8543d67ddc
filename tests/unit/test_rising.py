"""Moving up: what each rule says of a run, and what is never a reason."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import ToolRefusal
from policies.models import Money, Verdict
from policies.rising import MovesUp
from policies.routing import ModelChoice, Route
from policies.value import OverCeiling
from tests.builders import capsule
from tools.builtin import CATALOG
from workflows import rising
from workflows.messages import (
    AssistantMessage,
    Capsule,
    Classification,
    ModelTurn,
    Move,
    StartInput,
    StopReason,
    TokenUsage,
    ToolRequest,
)
from workflows.records import Tally
from workflows.state import RunState
from workflows.turn import Call, Turn

CLASSES = {"refund": "asks for money back", "legal": "threatens with a lawyer"}
THREE = Route(models=tuple(ModelChoice(provider="openai", model=name) for name in ("small", "middle", "large")))
OVER = OverCeiling(micro_usd=2, ceiling_micro_usd=1, runs=20, completed=20, window_hours=24)


def pinned(route: Route = THREE, over_ceiling: OverCeiling | None = None, **rules: Any) -> Capsule:
    moves_up = MovesUp.model_validate(rules) if rules else None
    return capsule(route=route, over_ceiling=over_ceiling, moves_up=moves_up)


def run(of: Capsule, **changes: object) -> RunState:
    return RunState.model_validate({"start": StartInput(agent="billing-resolution"), "capsule": of, **changes})


def proposed(of: Capsule, cents: int, verdict: Verdict | None = None, tool: str = "request_refund") -> Call:
    """A call that was judged: a refund, or a read."""
    arguments: dict[str, object] = {"invoice_id": "in_1001", "amount_cents": cents, "reason": "duplicate"}
    given = arguments if tool == "request_refund" else {"invoice_id": "in_1001"}
    turn = Turn(run(of), of, CATALOG, 1)
    call = turn.propose(0, ToolRequest(id="c", name=tool, arguments=json.dumps(given)))
    assert call.bound, call.refusal
    return Call(index=0, slot=2, request=call.request, bound=call.bound, verdict=verdict)


def answered(message: AssistantMessage, stop: StopReason = "tool_calls") -> ModelTurn:
    return ModelTurn(
        message=message,
        usage=TokenUsage(),
        provider="openai",
        model="small",
        cost_micro_usd=1,
        price_digest="",
        request_digest="",
        latency_ms=1,
        stop=stop,
    )


def called(arguments: str, name: str = "classify", stop: StopReason = "tool_calls") -> ModelTurn:
    return answered(AssistantMessage(tool_calls=(ToolRequest(id="c", name=name, arguments=arguments),)), stop)


def said(**arguments: object) -> ModelTurn:
    return called(json.dumps(arguments))


def test_without_rules_a_run_moves_up_for_policy_only() -> None:
    """As before there were any: `route:strong` asks for the last tier, and nothing else does."""
    of = pinned()
    verdict = Verdict(decision="deny", route_strong=True, policy_ids=("strong_refunds",))
    assert rising.after_judging(run(of), of, [proposed(of, 74_000)]) is None
    move = rising.after_judging(run(of), of, [proposed(of, 74_000, verdict)])
    assert move == Move(tier=3, step=0, why="policy", words="policy strong_refunds")
    assert rising.after_judging(run(of, tier=3), of, [proposed(of, 74_000, verdict)]) is None
    assert rising.before_turn(run(of, tally=Tally(invalid=50)), of) is None
    assert not rising.classification_due(run(of, step=5), of)


def test_calls_that_are_not_well_formed_move_a_run_one_tier_up() -> None:
    """Counted since the last move, so that each tier has its chance; the last one has none above it."""
    of = pinned(failed_validations=2)
    assert rising.before_turn(run(of, tally=Tally(invalid=1)), of) is None
    state = run(of, tally=Tally(invalid=2), step=1)
    assert state.rise(rising.before_turn(state, of))
    assert (state.tier, state.moves[0].words) == (2, "2 calls weren't well formed")
    assert not state.rise(rising.before_turn(state, of))
    state.tally = Tally(invalid=4)
    assert state.rise(rising.before_turn(state, of))
    state.tally = Tally(invalid=9)
    assert not state.rise(rising.before_turn(state, of))
    assert (state.tier, [m.tier for m in state.moves]) == (3, [2, 3])


@pytest.mark.parametrize(("cents", "moves"), [(9_999, False), (10_000, True)])
def test_a_call_that_moves_much_money_is_for_the_last_tier(cents: int, moves: bool) -> None:
    """From the amount on that the owner says."""
    of = pinned(amount_cents=10_000)
    move = rising.after_judging(run(of), of, [proposed(of, 100), proposed(of, cents)])
    assert (move is not None) == moves
    assert move is None or (move.tier, move.why, move.words) == (3, "amount", "`request_refund` moves $100.00")


def test_money_of_another_currency_counts_as_much() -> None:
    """Nobody converts it here, and an amount that can't be compared isn't taken for a small one."""
    rules = MovesUp(amount_cents=10_000)
    assert rules.by_amount(Money(cents=1, currency="JPY"))
    assert not rules.by_amount(Money(cents=1, currency="USD"))
    assert not rules.by_amount(None)


def test_a_call_of_a_risky_tool_is_for_the_last_tier() -> None:
    """A refund is of high risk, a look at an invoice of low risk."""
    of = pinned(risk="high")
    move = rising.after_judging(run(of, step=4), of, [proposed(of, 1)])
    assert move == Move(tier=3, step=4, why="risk", words="`request_refund` is of high risk")
    assert rising.after_judging(run(of), of, [proposed(of, 1, tool="get_invoice")]) is None


def test_a_refused_call_is_no_reason() -> None:
    """What won't be made anyway needs no stronger model."""
    of = pinned(risk="high", amount_cents=1)
    refused = replace(proposed(of, 74_000), refusal=ToolRefusal("not_subject", "Somebody else's."))
    assert rising.after_judging(run(of), of, [refused]) is None


def test_a_run_that_is_over_its_ceiling_stays_where_it_is() -> None:
    """An agent whose outcomes cost too much keeps to its cheapest model, whatever its rules say."""
    of = pinned(over_ceiling=OVER, failed_validations=1, amount_cents=1, risk="low", classes=CLASSES, confidence=1)
    verdict = Verdict(decision="deny", route_strong=True)
    assert rising.after_judging(run(of), of, [proposed(of, 74_000, verdict)]) is None
    assert rising.before_turn(run(of, tally=Tally(invalid=9), classification=Classification()), of) is None
    assert not rising.classification_due(run(of, step=3), of)


def test_tiers_of_the_same_model_are_none_to_move_to() -> None:
    """A route of one model, written twice, isn't asked again for what the same model said."""
    same = Route(models=(THREE.models[0], THREE.models[0]))
    of = pinned(same, risk="low", failed_validations=1, classes=CLASSES, confidence=0.7)
    assert rising.after_judging(run(of), of, [proposed(of, 1)]) is None
    assert rising.before_turn(run(of, tally=Tally(invalid=3)), of) is None
    assert not rising.classification_due(run(of, step=1), of)


def test_a_run_is_classified_once_when_there_is_something_to_read() -> None:
    """After the first turn unless the agent says otherwise, at the cheapest tier, and never again."""
    of = pinned(classes=CLASSES, confidence=0.7)
    assert [rising.classification_due(run(of, step=n), of) for n in (0, 1, 2)] == [False, True, True]
    assert not rising.classification_due(run(of, step=1, tier=2), of)
    assert not rising.classification_due(run(of, step=1, classification=Classification()), of)
    at_once = pinned(classes=CLASSES, confidence=0.7, classify_after=0)
    assert rising.classification_due(run(at_once), at_once)


@pytest.mark.parametrize(
    ("confidence", "why"),
    [(0.69, "refund, with confidence 0.69, below 0.7"), (0.7, None), (1, None), (0, "refund, with confidence 0, below 0.7")],
)
def test_an_unsure_classification_moves_a_run_up(confidence: float, why: str | None) -> None:
    """One tier, once, with what it is about."""
    of = pinned(classes=CLASSES, confidence=0.7)
    state = run(of, step=1)
    state.classification = rising.classified(state, of, said(labels=["refund"], confidence=confidence))
    assert state.rise(rising.before_turn(state, of)) == (why is not None)
    assert [(m.tier, m.why, m.words) for m in state.moves] == ([(2, "confidence", why)] if why else [])
    assert not state.rise(rising.before_turn(state, of))


def test_a_hard_class_moves_a_run_up_however_sure_the_model_is() -> None:
    """The owner says which classes the cheapest model is not to decide."""
    of = pinned(classes=CLASSES, hard=["legal"])
    state = run(of, step=1)
    state.classification = rising.classified(state, of, said(labels=["legal", "refund"], confidence=1))
    assert state.rise(rising.before_turn(state, of))
    assert (state.tier, state.moves[0].why, state.moves[0].words) == (2, "class", "it is about legal")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        answered(AssistantMessage(text="It is a refund, I am sure.")),
        called('{"labels": ["refund"], "confidence": 1}', stop="length"),
        called('{"labels": ["refund"], "confidence": 1}', stop="refusal"),
        said(labels=["refund"]),
        said(labels=["refund"], confidence=1.5),
        said(labels=["refund"], confidence="very"),
        said(labels="refund", confidence=1),
        said(labels=["a class that nobody named"], confidence=1),
        said(labels=[], confidence=1),
        called('{"labels": ["refund"], "confid'),
        called('{"labels": ["refund"], "confidence": NaN}'),
        called('{"labels": ["refund"], "confidence": 1}', "final_answer"),
    ],
)
def test_a_classification_that_cannot_be_read_counts_as_unsure(answer: ModelTurn | None) -> None:
    """Nothing, text, half of it, a refusal, a number out of range, or a class that the owner didn't name: confidence 0."""
    of = pinned(classes=CLASSES, confidence=0.1)
    state = run(of, step=1)
    state.classification = rising.classified(state, of, answer)
    assert state.classification == Classification(step=1)
    assert state.rise(rising.before_turn(state, of))


@given(st.text())
def test_no_text_of_a_model_breaks_the_rule(text: str) -> None:
    """Whatever it writes as arguments, the run goes on."""
    of = pinned(classes=CLASSES, confidence=0.5)
    assert 0 <= rising.classified(run(of), of, called(text)).confidence <= 1


def test_calls_that_people_edited_are_decided_by_the_last_tier() -> None:
    """Once; a run that is there already stays."""
    of = pinned()
    state = run(of, step=2)
    assert state.rise(rising.decided_again(state, of))
    assert (state.tier, state.moves[0].why) == (3, "sums")
    assert not state.rise(rising.decided_again(state, of))


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ({}, "says no rule; give `failed_validations`, `amount_cents`, `risk`, or `classes` with `confidence`"),
        ({"confidence": 0.5}, "takes `classes` together with `confidence` or `hard`; give both, or neither"),
        ({"classes": CLASSES}, "takes `classes` together with `confidence` or `hard`; give both, or neither"),
        ({"classes": CLASSES, "hard": ["money"]}, "has `money` in `hard`, which isn't one of its `classes`"),
        ({"classes": CLASSES, "confidence": 0.5}, ""),
        ({"amount_cents": 0}, ""),
    ],
)
def test_rules_that_cannot_work_are_one_sentence(rules: dict[str, object], problem: str) -> None:
    """A rule that would never do anything is a mistake, and is said so."""
    assert MovesUp.model_validate(rules).problem == problem


def test_a_capsule_without_rules_has_the_digest_that_it_always_had() -> None:
    """Nothing of them is in its JSON, and with them it is another one."""
    assert "moves_up" not in pinned().model_dump(mode="json")
    assert pinned().digest != pinned(risk="high").digest
    assert Capsule.model_validate_json(pinned(risk="high", classes=CLASSES, confidence=0.7).model_dump_json()).moves_up
