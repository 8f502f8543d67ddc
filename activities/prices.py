"""What a model call costs, in micro-USD. The price table is read here only, never in workflow code."""

import importlib.metadata
import math
from decimal import Decimal

from genai_prices import Usage, calc_price
from genai_prices.types import ModelPrice, TieredPrices
from pydantic import JsonValue, TypeAdapter

from policies.canonical import digest
from policies.errors import PriceUnknown
from policies.models import Frozen
from policies.routing import ModelChoice, Price
from workflows.messages import TokenUsage

__all__ = ["PriceRow", "check", "cost", "cost_by", "row"]

TABLE_VERSION = importlib.metadata.version("genai-prices")
_TABLE: TypeAdapter[dict[str, Decimal | TieredPrices]] = TypeAdapter(dict[str, Decimal | TieredPrices])


class PriceRow(Frozen):
    """What a model cost, so that its calls can be priced again.

    Attributes:
        digest: as each call names it.
        declared: by the route; else `table` is the row of the price table of this version, in USD for a million tokens.
    """

    provider: str
    model: str
    digest: str
    declared: Price | None = None
    table_version: str = ""
    table: dict[str, JsonValue] | None = None


def row(choice: ModelChoice) -> PriceRow:
    """The prices that `cost` takes for `choice`.

    Raises:
        PriceUnknown: there are none.
    """
    _, found = cost(choice, TokenUsage())
    named = PriceRow(provider=choice.provider, model=choice.model, digest=found)
    if choice.price:
        return named.model_copy(update={"declared": choice.price})
    price = calc_price(Usage(), model_ref=choice.model, provider_id=choice.provider).model_price
    table: dict[str, JsonValue] = _TABLE.dump_python({k: v for k, v in vars(price).items() if v is not None}, mode="json")
    return named.model_copy(update={"table_version": TABLE_VERSION, "table": table})


def cost_by(priced: PriceRow, usage: TokenUsage) -> tuple[int, str]:
    """As `cost`, by a row that was kept.

    Raises:
        ValueError: it says no prices.
    """
    if priced.declared:
        return cost(ModelChoice(provider=priced.provider, model=priced.model, price=priced.declared), usage)
    found = ModelPrice(**_TABLE.validate_python(priced.table)).calc_price(_usage(usage))
    return math.ceil(found["total_price"] * 1_000_000), digest(["genai-prices", priced.table_version, priced.model])


def cost(choice: ModelChoice, usage: TokenUsage) -> tuple[int, str]:
    """The cost of `usage` in micro-USD, rounded up, and the digest of the prices that gave it.

    Raises:
        PriceUnknown: neither the route nor the table knows the model. Unknown is never free.
    """
    if price := choice.price:
        total = usage.input_tokens * price.input_per_mtok + usage.output_tokens * price.output_per_mtok
        return -(-total // 1_000_000), digest(price)
    try:
        found = calc_price(_usage(usage), model_ref=choice.model, provider_id=choice.provider)
    except LookupError:
        raise PriceUnknown(
            f"The price of `{choice.model}` isn't known; declare it with `REMIT_PRICE_INPUT_PER_MTOK` and "
            "`REMIT_PRICE_OUTPUT_PER_MTOK` (micro-USD for a million tokens)."
        ) from None
    return math.ceil(found.total_price * 1_000_000), digest(["genai-prices", TABLE_VERSION, choice.model])


def check(choice: ModelChoice) -> None:
    """Whether `choice` can be priced.

    Raises:
        PriceUnknown: it can't.
    """
    cost(choice, TokenUsage())


def _usage(usage: TokenUsage) -> Usage:
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        # A server that counts wrongly must not make a call that was paid for fail, and be paid for again.
        cache_read_tokens=min(usage.cached_input_tokens, usage.input_tokens),
    )
