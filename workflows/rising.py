"""Moving up: when a run goes to a stronger tier, and the words for why. Pure; `agent_run` asks, and does what is said here."""

from collections.abc import Sequence

from pydantic import Field, ValidationError

from policies.models import Frozen
from policies.rising import MovesUp, WhyMoved
from workflows.messages import CLASSIFY, Capsule, Classification, ModelTurn, Move
from workflows.state import RunState
from workflows.turn import Call

__all__ = ["after_judging", "before_turn", "classification_due", "classified", "decided_again"]


_WHOLE = ("", "end", "tool_calls")


class _Given(Frozen):
    """The arguments of `classify`, as the model gives them."""

    labels: tuple[str, ...] = ()
    confidence: float = Field(ge=0, le=1, allow_inf_nan=False)


def classification_due(state: RunState, capsule: Capsule) -> bool:
    """Whether the cheapest tier is to say now what the run is about."""
    rules = capsule.moves_up
    if rules is None or not rules.classes or state.classification or state.tier > 1:
        return False
    return state.step >= rules.classify_after and _next(state, capsule) is not None


def classified(state: RunState, capsule: Capsule, answer: ModelTurn | None) -> Classification:
    """What the model said the run is about. What isn't whole, or can't be read, is no label, and confidence 0."""
    rules = capsule.moves_up or MovesUp()
    calls = answer.message.tool_calls if answer and answer.stop in _WHOLE else ()
    given = next((call for call in calls if call.name == CLASSIFY), None)
    try:
        found = _Given.model_validate_json(given.arguments if given else "")
    except ValidationError:
        return Classification(step=state.step)
    labels = tuple(label for label in dict.fromkeys(found.labels) if label in rules.classes)
    return Classification(labels=labels, confidence=found.confidence if labels else 0.0, step=state.step)


def before_turn(state: RunState, capsule: Capsule) -> Move | None:
    """The move that is due before the next turn: for a classification, or for calls that weren't well formed."""
    rules = capsule.moves_up
    if rules is None:
        return None
    found = state.classification
    if found and state.tier == 1 and not any(move.why in ("confidence", "class") for move in state.moves):
        hard = [label for label in found.labels if label in rules.hard]
        if hard:
            return _move(state, capsule, "class", f"it is about {', '.join(hard)}")
        if rules.confidence is not None and found.confidence < rules.confidence:
            about = ", ".join(found.labels) or "no class"
            words = f"{about}, with confidence {found.confidence:g}, below {rules.confidence:g}"
            return _move(state, capsule, "confidence", words)
    failed = state.tally.invalid - (state.moves[-1].invalid if state.moves else 0)
    if rules.failed_validations and failed >= rules.failed_validations:
        return _move(state, capsule, "failed_validations", f"{failed} calls weren't well formed")
    return None


def after_judging(state: RunState, capsule: Capsule, calls: Sequence[Call]) -> Move | None:
    """The move for which this turn is dropped, and decided again by the last tier."""
    if capsule.over_ceiling is not None:
        return None
    if state.tier < capsule.route.last and any(c.verdict and c.verdict.route_strong for c in calls):
        asked = sorted({p for c in calls if c.verdict and c.verdict.route_strong for p in c.verdict.policy_ids})
        return _to_last(state, capsule, "policy", f"policy {', '.join(asked)}")
    rules = capsule.moves_up
    if rules is None or _next(state, capsule) is None:
        return None
    for call in calls:
        if call.bound and call.refusal is None:
            what = f"`{call.bound.spec.name}`"
            if rules.by_amount(call.bound.amount):
                return _to_last(state, capsule, "amount", f"{what} moves {call.bound.amount}")
            if rules.by_risk(call.bound.spec.risk):
                return _to_last(state, capsule, "risk", f"{what} is of {call.bound.spec.risk} risk")
    return None


def decided_again(state: RunState, capsule: Capsule) -> Move | None:
    """The move for calls that needed a stronger tier only once people had edited them, or once sums had risen."""
    if state.tier >= capsule.route.last:
        return None
    return _to_last(state, capsule, "sums", "policy asks for it since a person edited a call, or since sums have risen")


def _next(state: RunState, capsule: Capsule) -> int | None:
    """The next tier with another model, if the run may go there."""
    if capsule.over_ceiling is not None:
        return None
    route, now = capsule.route, capsule.route.choose(state.tier)
    return next((t for t in range(state.tier + 1, len(route.models) + 1) if route.choose(t) != now), None)


def _move(state: RunState, capsule: Capsule, why: WhyMoved, words: str) -> Move | None:
    tier = _next(state, capsule)
    return None if tier is None else Move(tier=tier, step=state.step, why=why, words=words, invalid=state.tally.invalid)


def _to_last(state: RunState, capsule: Capsule, why: WhyMoved, words: str) -> Move:
    return Move(tier=capsule.route.last, step=state.step, why=why, words=words, invalid=state.tally.invalid)
