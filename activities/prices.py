"""What a model call costs, in micro-USD. The price table is read here only, never in workflow code.

Input that came from a prompt cache, or was written into one, has prices of its own; a long prompt may raise all of them; and
reasoning is output. `docs/models.md` says how a route declares what the table doesn't know.
"""

import importlib.metadata
import math
from decimal import Decimal
from typing import ClassVar

from genai_prices import Usage, calc_price
from genai_prices.types import ModelPrice, TieredPrices
from pydantic import Field, JsonValue, TypeAdapter

from policies.canonical import digest
from policies.errors import PriceUnknown
from policies.models import Frozen, Lean
from policies.routing import ModelChoice, Price
from workflows.messages import TokenUsage

__all__ = ["PriceRow", "Rates", "at_most", "check", "cost", "cost_by", "rates", "row", "saved"]

TABLE_VERSION = importlib.metadata.version("genai-prices")
_TABLE: TypeAdapter[dict[str, Decimal | TieredPrices]] = TypeAdapter(dict[str, Decimal | TieredPrices])
_MICRO = 1_000_000


class PriceRow(Frozen):
    """What a model cost, so that its calls can be priced again.

    Attributes:
        digest: as each call names it.
        declared: by the route; else `table` is the row of the price table of this version, in USD for a million tokens.
        surcharge_percent: what the route says that its door bills above the table.
    """

    provider: str
    model: str
    digest: str
    declared: Price | None = None
    table_version: str = ""
    table: dict[str, JsonValue] | None = None
    surcharge_percent: int = Field(default=0, exclude_if=lambda percent: not percent)


class Rates(Lean):
    """What a million tokens of a short prompt cost, in micro-USD.

    Attributes:
        long_from: above how many input tokens every one of them costs more; None when the price doesn't depend on that.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"long_from"})

    input: int
    output: int
    cache_read: int
    cache_write: int
    long_from: int | None = None


def row(choice: ModelChoice) -> PriceRow:
    """The prices that `cost` takes for `choice`.

    Raises:
        PriceUnknown: there are none.
    """
    _, found = cost(choice, TokenUsage())
    named = PriceRow(provider=choice.provider, model=choice.model, digest=found)
    if choice.price:
        return named.model_copy(update={"declared": choice.price})
    table: dict[str, JsonValue] = _TABLE.dump_python(
        {k: v for k, v in vars(_listed(choice)).items() if v is not None}, mode="json"
    )
    more = {"table_version": TABLE_VERSION, "table": table, "surcharge_percent": choice.surcharge_percent}
    return named.model_copy(update=more)


def cost_by(priced: PriceRow, usage: TokenUsage) -> tuple[int, str]:
    """As `cost`, by a row that was kept.

    Raises:
        ValueError: it says no prices.
    """
    if priced.declared:
        return cost(ModelChoice(provider=priced.provider, model=priced.model, price=priced.declared), usage)
    price = ModelPrice(**_TABLE.validate_python(priced.table))
    return _billed(price, usage, priced.surcharge_percent), _named(priced.table_version, priced.model, priced.surcharge_percent)


def cost(choice: ModelChoice, usage: TokenUsage) -> tuple[int, str]:
    """The cost of `usage` in micro-USD, rounded up, and the digest of the prices that gave it.

    Raises:
        PriceUnknown: neither the route nor the table knows the model. Unknown is never free.
    """
    if price := choice.price:
        read, written, plain = _parts(usage)
        total = plain * price.input_per_mtok + usage.output_tokens * price.output_per_mtok
        total += read * _or(price.cache_read_per_mtok, price.input_per_mtok)
        total += written * _or(price.cache_write_per_mtok, price.input_per_mtok)
        return -(-total // _MICRO), digest(price)
    micro_usd = _billed(_listed(choice), usage, choice.surcharge_percent)
    return micro_usd, _named(TABLE_VERSION, choice.model, choice.surcharge_percent)


def at_most(choice: ModelChoice, usage: TokenUsage) -> int:
    """The most that `usage` can cost, in micro-USD, whatever of its input a prompt cache keeps.

    Raises:
        PriceUnknown: as `cost`.
    """
    written = usage.model_copy(update={"cached_input_tokens": 0, "cache_write_tokens": usage.input_tokens})
    return max(cost(choice, usage)[0], cost(choice, written)[0])


def saved(choice: ModelChoice, usage: TokenUsage) -> int:
    """How many micro-USD prompt caching saved in a call; negative when its writes cost more than its reads saved.

    Raises:
        PriceUnknown: as `cost`.
    """
    uncached = usage.model_copy(update={"cached_input_tokens": 0, "cache_write_tokens": 0})
    return cost(choice, uncached)[0] - cost(choice, usage)[0]


def rates(choice: ModelChoice) -> Rates:
    """The prices of `choice` for people to read.

    Raises:
        PriceUnknown: as `cost`.
    """

    # At the prices of a short prompt: one of a million tokens may be in a higher tier.
    price = _base(_listed(choice)) if choice.price is None else None

    def of(usage: TokenUsage) -> int:
        return _billed(price, usage, choice.surcharge_percent) if price else cost(choice, usage)[0]

    starts = [] if choice.price else [t.start for p in vars(_listed(choice)).values() for t in getattr(p, "tiers", ())]
    return Rates(
        input=of(TokenUsage(input_tokens=_MICRO)),
        output=of(TokenUsage(output_tokens=_MICRO)),
        cache_read=of(TokenUsage(input_tokens=_MICRO, cached_input_tokens=_MICRO)),
        cache_write=of(TokenUsage(input_tokens=_MICRO, cache_write_tokens=_MICRO)),
        long_from=min(starts, default=None),
    )


def check(choice: ModelChoice) -> None:
    """Whether `choice` can be priced.

    Raises:
        PriceUnknown: it can't.
    """
    cost(choice, TokenUsage())


def _listed(choice: ModelChoice) -> ModelPrice:
    """The table's prices for a call that is made now.

    Raises:
        PriceUnknown: it doesn't know the model, or has no price for its text.
    """
    try:
        price = calc_price(Usage(), model_ref=choice.model, provider_id=choice.provider).model_price
    except LookupError:
        price = None
    # A model for speech or pictures is listed without these: its text would be free.
    if price is None or price.input_mtok is None or price.output_mtok is None:
        raise PriceUnknown(
            f"The price of `{choice.model}` isn't known; declare it as `price` of its tier in `agent.toml`, or with "
            "`REMIT_PRICE_INPUT_PER_MTOK` and `REMIT_PRICE_OUTPUT_PER_MTOK` (micro-USD for a million tokens)."
        )
    return price


def _base(price: ModelPrice) -> ModelPrice:
    return ModelPrice(**{k: v.base if isinstance(v, TieredPrices) else v for k, v in vars(price).items()})


def _billed(price: ModelPrice, usage: TokenUsage, surcharge_percent: int) -> int:
    total = price.calc_price(_usage(usage))["total_price"]
    return math.ceil(total * (100 + surcharge_percent) * _MICRO / 100)


def _named(version: str, model: str, surcharge_percent: int) -> str:
    return digest(["genai-prices", version, model, *([f"+{surcharge_percent}%"] if surcharge_percent else [])])


def _parts(usage: TokenUsage) -> tuple[int, int, int]:
    """Input tokens that a cache held, that were written into one, and the rest."""
    # A server that counts wrongly must not make a call that was paid for fail, and be paid for again.
    read = min(usage.cached_input_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - read)
    return read, written, usage.input_tokens - read - written


def _usage(usage: TokenUsage) -> Usage:
    read, written, _ = _parts(usage)
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )


def _or(price: int | None, otherwise: int) -> int:
    return otherwise if price is None else price
