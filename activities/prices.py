"""What a model call costs, in micro-USD. The price table is read here only, never in workflow code."""

import importlib.metadata
import math

from genai_prices import Usage, calc_price

from policies.canonical import digest
from policies.errors import PriceUnknown
from policies.routing import ModelChoice
from workflows.messages import TokenUsage

__all__ = ["check", "cost"]

TABLE_VERSION = importlib.metadata.version("genai-prices")


def cost(choice: ModelChoice, usage: TokenUsage) -> tuple[int, str]:
    """The cost of `usage` in micro-USD, rounded up, and the digest of the prices that gave it.

    Raises:
        PriceUnknown: neither the route nor the table knows the model. Unknown is never free.
    """
    if price := choice.price:
        total = usage.input_tokens * price.input_per_mtok + usage.output_tokens * price.output_per_mtok
        return -(-total // 1_000_000), digest(price)
    try:
        found = calc_price(
            Usage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                # A server that counts wrongly must not make a call that was paid for fail, and be paid for again.
                cache_read_tokens=min(usage.cached_input_tokens, usage.input_tokens),
            ),
            model_ref=choice.model,
            provider_id=choice.provider,
        )
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
