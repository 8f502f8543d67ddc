"""What a model call costs: rounded up, never free, pinned by a digest."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.prices import PriceRow, check, cost, cost_by, row
from policies.errors import PriceUnknown
from policies.routing import ModelChoice, Price
from workflows.messages import TokenUsage

TOKENS = st.integers(0, 10**7)
LISTED = ModelChoice(provider="openai", model="gpt-6-luna")


def declared(per_mtok_in: int, per_mtok_out: int) -> ModelChoice:
    price = Price(input_per_mtok=per_mtok_in, output_per_mtok=per_mtok_out)
    return ModelChoice(provider="openai", model="house-model", price=price)


@given(tokens_in=TOKENS, tokens_out=TOKENS, per_in=TOKENS, per_out=TOKENS)
def test_a_declared_price_is_exact_and_rounded_up(tokens_in: int, tokens_out: int, per_in: int, per_out: int) -> None:
    """The cost is the next whole micro-USD at or above tokens times price."""
    micro_usd, _ = cost(declared(per_in, per_out), TokenUsage(input_tokens=tokens_in, output_tokens=tokens_out))
    exact = Fraction(tokens_in * per_in + tokens_out * per_out, 1_000_000)
    assert 0 <= micro_usd - exact < 1


def test_a_call_is_never_free() -> None:
    """One token of the cheapest listed model costs a micro-USD, for a fraction of one is rounded up."""
    assert cost(LISTED, TokenUsage(input_tokens=1))[0] == 1
    assert cost(LISTED, TokenUsage(output_tokens=1))[0] == 1


@given(tokens=TOKENS)
def test_a_listed_price_never_falls_with_more_tokens(tokens: int) -> None:
    """A call with more tokens costs at least as much."""
    fewer, more = (cost(LISTED, TokenUsage(input_tokens=n, output_tokens=n))[0] for n in (tokens, tokens + 1))
    assert fewer <= more


def test_cached_tokens_cost_less() -> None:
    """Input that the provider had cached is priced as such."""
    full, cached = (cost(LISTED, TokenUsage(input_tokens=10**6, cached_input_tokens=n))[0] for n in (0, 10**6))
    assert 0 < cached < full


def test_more_cached_tokens_than_tokens_are_priced_as_all_cached() -> None:
    """A compatible server that counts wrongly doesn't make a call that was paid for fail and be paid again."""
    expected = cost(LISTED, TokenUsage(input_tokens=1000, cached_input_tokens=1000))
    assert cost(LISTED, TokenUsage(input_tokens=1000, cached_input_tokens=2000)) == expected


def test_a_declared_price_wins_over_the_table() -> None:
    """Who declares the price of a model that the table knows gets the declared one."""
    choice = LISTED.model_copy(update={"price": Price(input_per_mtok=7_000_000, output_per_mtok=0)})
    assert cost(choice, TokenUsage(input_tokens=1))[0] == 7


@pytest.mark.parametrize(("provider", "model"), [("openai", "house-model"), ("acme", "gpt-6-luna"), ("openai", "")])
def test_an_unknown_price_is_an_error(provider: str, model: str) -> None:
    """A model that nobody priced is refused before it is called, and the sentence names the settings."""
    with pytest.raises(PriceUnknown) as caught:
        check(ModelChoice(provider=provider, model=model))
    assert caught.value.message == (
        f"The price of `{model}` isn't known; declare it with `REMIT_PRICE_INPUT_PER_MTOK` and "
        "`REMIT_PRICE_OUTPUT_PER_MTOK` (micro-USD for a million tokens)."
    )


def test_the_digest_pins_the_price() -> None:
    """Equal prices have equal digests whatever was used; others have others."""
    assert cost(declared(1, 2), TokenUsage(input_tokens=5))[1] == cost(declared(1, 2), TokenUsage())[1]
    choices = (declared(1, 2), declared(2, 1), LISTED, ModelChoice(provider="openai", model="gpt-6.1-sol"))
    assert len({cost(c, TokenUsage())[1] for c in choices}) == len(choices)


@pytest.mark.parametrize(
    "choice", [declared(3, 7), LISTED, ModelChoice(provider="anthropic", model="claude-sonnet-4-5")], ids=lambda c: c.model
)
@pytest.mark.parametrize("tokens", [1000, 250_000])
def test_a_call_can_be_priced_again_by_the_prices_that_were_kept(choice: ModelChoice, tokens: int) -> None:
    """From the row alone, read from a file, to the micro-dollar, for prices by volume too."""
    usage = TokenUsage(input_tokens=tokens, output_tokens=77, cached_input_tokens=tokens // 3)
    kept = PriceRow.model_validate_json(row(choice).model_dump_json())
    assert cost_by(kept, usage) == cost(choice, usage)
    assert kept.digest == cost(choice, usage)[1]
