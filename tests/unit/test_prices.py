"""What a model call costs: rounded up, never free, pinned by a digest."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices
from hypothesis import given
from hypothesis import strategies as st

from activities.prices import PriceRow, at_most, check, cost, cost_by, rates, row, saved
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
        f"The price of `{model}` isn't known; declare it as `price` of its tier in `agent.toml`, or with "
        "`REMIT_PRICE_INPUT_PER_MTOK` and `REMIT_PRICE_OUTPUT_PER_MTOK` (micro-USD for a million tokens)."
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


# ---- as the vendor bills ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    provider: str
    model: str
    info: ModelInfo

    @property
    def price(self) -> ModelPrice:
        return self.info.get_prices(datetime.now(UTC))


def every_priced_model() -> list[Listed]:
    """The models of the three vendors for whose text the table has prices."""
    found: list[Listed] = []
    for provider in get_snapshot().providers:
        for model in provider.models if provider.id in ("openai", "anthropic", "google") else ():
            listed = Listed(provider.id, model.id, model)
            text = listed.price.input_mtok is not None and listed.price.output_mtok is not None
            if text and provider.find_model(model.id) is model:
                found.append(listed)
    return found


MODELS = every_priced_model()


def by_hand(price: ModelPrice, usage: TokenUsage) -> int:
    """The bill from the table's row, without the table's own code: each part of the prompt at its price of this length."""

    def per_mtok(*names: str) -> Fraction:
        found = next(p for name in names if (p := getattr(price, name)) is not None)
        if isinstance(found, TieredPrices):
            higher = [tier.price for tier in found.tiers if usage.input_tokens > tier.start]
            found = higher[-1] if higher else found.base
        assert isinstance(found, Decimal)
        return Fraction(found)

    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    dollars = (
        plain * per_mtok("input_mtok")
        + usage.cached_input_tokens * per_mtok("cache_read_mtok", "input_mtok")
        + usage.cache_write_tokens * per_mtok("cache_write_mtok", "input_mtok")
        + usage.output_tokens * per_mtok("output_mtok")
    ) / 1_000_000
    return math.ceil(dollars * 1_000_000)


USAGES = st.tuples(*[st.integers(0, 300_000)] * 4).map(
    lambda n: TokenUsage(
        input_tokens=n[0] + n[1] + n[2],
        cached_input_tokens=n[1],
        cache_write_tokens=n[2],
        output_tokens=n[3],
        reasoning_tokens=n[3] // 2,
    )
)


@given(listed=st.sampled_from(MODELS), usage=USAGES)
def test_every_model_costs_what_its_vendor_bills(listed: Listed, usage: TokenUsage) -> None:
    """To the micro-dollar: cache reads and writes, long prompts and reasoning, for each model that the table knows."""
    choice = ModelChoice(provider=listed.provider, model=listed.model)
    assert cost(choice, usage)[0] == by_hand(listed.price, usage)
    assert cost_by(row(choice), usage) == cost(choice, usage)


def test_the_three_vendors_have_models_with_prices() -> None:
    """The test above isn't empty: it covers dozens of models of each vendor, the shipped ones among them."""
    named = {(m.provider, m.model) for m in MODELS}
    assert {("openai", "gpt-6-luna"), ("openai", "gpt-6.1-sol"), ("anthropic", "claude-haiku-5-5")} <= named
    assert {provider: sum(p == provider for p, _ in named) > 15 for provider in ("openai", "anthropic", "google")} == {
        "openai": True,
        "anthropic": True,
        "google": True,
    }


@pytest.mark.parametrize(("tokens", "micro_usd"), [(90_000, 9_500), (100_000, 10_500), (100_001, 52_501), (150_000, 77_500)])
def test_a_long_prompt_costs_haiku_five_times_as_much(tokens: int, micro_usd: int) -> None:
    """Every token of a prompt over 100,000 tokens is billed at the higher price, those of the answer too."""
    haiku = ModelChoice(provider="anthropic", model="claude-haiku-5-5")
    assert cost(haiku, TokenUsage(input_tokens=tokens, output_tokens=1_000))[0] == micro_usd


def test_cache_writes_cost_what_they_are_billed() -> None:
    """18,000 of 20,000 tokens written to the cache of the strong tier cost $0.049, not the $0.040 of plain input."""
    strong = ModelChoice(provider="openai", model="gpt-6.1-sol")
    usage = TokenUsage(input_tokens=20_000, cache_write_tokens=18_000)
    assert cost(strong, usage)[0] == 49_000
    assert cost(strong, TokenUsage(input_tokens=20_000))[0] == 40_000


def test_a_server_that_counts_more_cached_tokens_than_there_are_is_still_priced() -> None:
    """Reads come first, and writes are what is left of the prompt."""
    wrong = TokenUsage(input_tokens=1000, cached_input_tokens=800, cache_write_tokens=800)
    right = TokenUsage(input_tokens=1000, cached_input_tokens=800, cache_write_tokens=200)
    for choice in (LISTED, declared(3, 7)):
        assert cost(choice, wrong) == cost(choice, right)


@given(usage=USAGES)
def test_declared_prices_of_a_cache_count(usage: TokenUsage) -> None:
    """Where a route says what cached input costs, zero included, it costs that; where it doesn't, it is plain input."""
    price = Price(input_per_mtok=400_000, output_per_mtok=900_000, cache_read_per_mtok=0, cache_write_per_mtok=500_000)
    choice = ModelChoice(provider="openai", model="house-model", price=price)
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    exact = Fraction(plain * 400_000 + usage.cache_write_tokens * 500_000 + usage.output_tokens * 900_000, 1_000_000)
    assert cost(choice, usage)[0] == math.ceil(exact)
    assert cost_by(PriceRow.model_validate_json(row(choice).model_dump_json()), usage) == cost(choice, usage)


def test_a_price_without_a_cache_is_written_as_before() -> None:
    """Prices that were pinned before caches had any keep their digest; a free cache isn't left out."""
    assert Price(input_per_mtok=1, output_per_mtok=2).model_dump() == {"input_per_mtok": 1, "output_per_mtok": 2}
    free = Price(input_per_mtok=1, output_per_mtok=2, cache_read_per_mtok=0)
    assert Price.model_validate_json(free.model_dump_json()) == free


@given(usage=USAGES, percent=st.integers(1, 100))
def test_a_door_that_bills_more_is_priced_so(usage: TokenUsage, percent: int) -> None:
    """A surcharge raises what the table says, long prompts and caches included, and a kept row prices it again."""
    listed = ModelChoice(provider="anthropic", model="claude-haiku-5-5")
    regional = listed.model_copy(update={"surcharge_percent": percent})
    haiku = next(m.price for m in MODELS if m.model == "claude-haiku-5-5")
    low = by_hand(haiku, usage) * (100 + percent) / 100
    assert low - 2 <= cost(regional, usage)[0] <= math.ceil(low)
    assert cost_by(PriceRow.model_validate_json(row(regional).model_dump_json()), usage) == cost(regional, usage)
    assert cost(regional, usage)[1] != cost(listed, usage)[1]


def test_a_model_for_speech_has_no_price_of_text() -> None:
    """What is listed by the hour only isn't free for text: it is refused like an unknown one."""
    with pytest.raises(PriceUnknown):
        check(ModelChoice(provider="openai", model="whisper-1"))


@given(usage=USAGES)
def test_an_estimate_is_never_below_the_bill(usage: TokenUsage) -> None:
    """Whatever of the prompt a cache keeps or gives, the call costs at most what was counted before it."""
    bare = TokenUsage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    for choice in (LISTED, declared(3, 7)):
        assert cost(choice, usage)[0] <= at_most(choice, bare)


def test_what_a_cache_saved_is_the_difference_to_plain_input() -> None:
    """Reads save, writes cost: 10,000 read tokens of $2 at a twentieth save $0.019; written ones cost $0.005 more."""
    strong = ModelChoice(provider="openai", model="gpt-6.1-sol")
    assert saved(strong, TokenUsage(input_tokens=10_000, cached_input_tokens=10_000)) == 19_000
    assert saved(strong, TokenUsage(input_tokens=10_000, cache_write_tokens=10_000)) == -5_000


def test_rates_are_those_of_a_short_prompt() -> None:
    """In micro-USD for a million tokens, with the length from which on they are higher."""
    haiku = rates(ModelChoice(provider="anthropic", model="claude-haiku-5-5"))
    assert haiku.model_dump() == {
        "input": 100_000,
        "output": 500_000,
        "cache_read": 10_000,
        "cache_write": 125_000,
        "long_from": 100_000,
    }
    assert rates(declared(3, 7)).model_dump() == {"input": 3, "output": 7, "cache_read": 3, "cache_write": 3}
