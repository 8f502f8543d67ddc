"""Limits of one run: what is charged, when it is refused, and that an agent can only lower them."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.budgets import charge_model, charge_tools, check_attempts, check_identical, check_model, lower
from policies.errors import UsageLimitExceeded
from policies.models import Usage, UsageLimits

COUNTS = st.integers(0, 60)
NUMBERS = sorted(n for n, f in UsageLimits.model_fields.items() if f.annotation is int)


def exceeded(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(UsageLimitExceeded) as caught:
        call()
    return caught.value.limit, caught.value.message


@given(limit=st.integers(1, 50), batches=st.lists(COUNTS, max_size=20))
def test_tool_calls_never_exceed_their_limit(limit: int, batches: list[int]) -> None:
    """However the model batches its calls, what was charged stays within the limit."""
    limits, usage = UsageLimits(tool_calls=limit), Usage()
    for calls in batches:
        try:
            usage = charge_tools(usage, limits, calls)
        except UsageLimitExceeded:
            assert usage.tool_calls + calls > limit
        assert usage.tool_calls <= limit


@given(used=COUNTS, limit=st.integers(1, 50), calls=COUNTS)
def test_a_batch_is_charged_whole_or_not_at_all(used: int, limit: int, calls: int) -> None:
    """A batch that fits is charged in full; one that doesn't is refused and charges nothing."""
    usage, limits = Usage(tool_calls=used, model_calls=3), UsageLimits(tool_calls=limit)
    if used + calls <= limit:
        assert charge_tools(usage, limits, calls) == Usage(tool_calls=used + calls, model_calls=3)
    else:
        assert exceeded(lambda: charge_tools(usage, limits, calls))[0] == "tool_calls"
        assert usage.tool_calls == used


def test_a_batch_over_the_limit_says_how_far() -> None:
    """The refusal names what is used, the limit, and what was asked for."""
    assert exceeded(lambda: charge_tools(Usage(tool_calls=18), UsageLimits(), 3)) == (
        "tool_calls",
        "18 of 20 tool calls are used and the model asked for 3 more.",
    )


@dataclass(frozen=True)
class Spent:
    limit: str
    usage: Usage
    limits: UsageLimits
    message: str


SPENT = (
    Spent("model_calls", Usage(model_calls=4), UsageLimits(model_calls=4), "The run used 4 of 4 `model_calls`."),
    Spent("tokens", Usage(input_tokens=70, output_tokens=30), UsageLimits(tokens=100), "The run used 100 of 100 `tokens`."),
    Spent("cost_micro_usd", Usage(cost_micro_usd=9), UsageLimits(cost_micro_usd=8), "The run used 9 of 8 `cost_micro_usd`."),
)


@pytest.mark.parametrize("case", SPENT, ids=lambda c: c.limit)
def test_a_model_call_is_refused_by_each_limit(case: Spent) -> None:
    """Once a limit is reached, the next model call doesn't start, and the limit is named."""
    assert exceeded(lambda: check_model(case.usage, case.limits)) == (case.limit, case.message)


@pytest.mark.parametrize("case", SPENT, ids=lambda c: c.limit)
def test_a_model_call_may_use_the_last_of_a_limit(case: Spent) -> None:
    """One unit below each limit, a model call starts."""
    roomy = case.limits.model_copy(update={case.limit: getattr(case.limits, case.limit) + 2})
    check_model(case.usage, roomy)


@given(tokens_in=st.integers(0, 10**9), tokens_out=st.integers(0, 10**9), cost=st.integers(0, 10**9))
def test_a_model_call_is_charged_in_full(tokens_in: int, tokens_out: int, cost: int) -> None:
    """A call adds one call, its tokens and its cost, and leaves the tool calls alone."""
    usage = Usage(tool_calls=7, model_calls=1, input_tokens=10, output_tokens=20, cost_micro_usd=30)
    assert charge_model(usage, input_tokens=tokens_in, output_tokens=tokens_out, cost_micro_usd=cost) == Usage(
        tool_calls=7,
        model_calls=2,
        input_tokens=10 + tokens_in,
        output_tokens=20 + tokens_out,
        cost_micro_usd=30 + cost,
    )


def test_a_step_has_four_attempts() -> None:
    """After four failures in a row a tool isn't tried again; after three, or after another tool's, it is."""
    limits = UsageLimits()
    check_attempts({"get_ticket": 3, "tag_ticket": 9}, limits, "get_ticket")
    check_attempts({}, limits, "get_ticket")
    assert exceeded(lambda: check_attempts({"get_ticket": 4}, limits, "get_ticket")) == (
        "attempts_per_step",
        "`get_ticket` failed 4 times in a row.",
    )


def test_the_same_call_is_made_three_times_at_most() -> None:
    """The fourth identical call ends the run; the third is still made."""
    check_identical(3, UsageLimits(), "get_ticket")
    assert exceeded(lambda: check_identical(4, UsageLimits(), "get_ticket")) == (
        "identical_calls",
        "`get_ticket` was called 4 times with the same arguments.",
    )


@given(
    ceiling=st.fixed_dictionaries({n: st.integers(1, 1000) for n in NUMBERS}).map(UsageLimits.model_validate),
    wanted=st.dictionaries(st.sampled_from(NUMBERS), st.integers(1, 2000)),
)
def test_an_agent_can_only_lower_a_ceiling(ceiling: UsageLimits, wanted: dict[str, int]) -> None:
    """Each limit is the lower of the ceiling and the wish; what isn't wished for stays."""
    lowered = lower(ceiling, wanted).model_dump()
    assert lowered == {**ceiling.model_dump(), **{n: min(v, getattr(ceiling, n)) for n, v in wanted.items()}}


@pytest.mark.parametrize("wish", ["999", 999.0, True, None, [5], 0, -1], ids=repr)
def test_a_wish_that_is_no_positive_number_is_refused(wish: object) -> None:
    """A quoted number must not slip past the comparison with the ceiling."""
    with pytest.raises(ValidationError, match="tool_calls"):
        lower(UsageLimits(), {"tool_calls": wish})


def test_an_agent_chooses_what_happens_at_a_limit() -> None:
    """Whether a run stops or escalates isn't a ceiling."""
    assert lower(UsageLimits(), {"on_limit": "escalate"}).on_limit == "escalate"
