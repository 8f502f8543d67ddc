"""Which model decides: a route of one to four tiers, cheapest first."""

from typing import ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from policies.models import Frozen, Lean

__all__ = ["Effort", "ModelChoice", "Price", "Route"]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much a model should reason before it answers. Not every model knows every level."""
_STRONG = 2


class Price(Frozen):
    """Declared prices in micro-USD for a million tokens. Reasoning is output.

    Attributes:
        cache_read_per_mtok: of input that came from a prompt cache; None: as other input.
        cache_write_per_mtok: of input that was written into one; None: as other input.
    """

    input_per_mtok: int = Field(ge=0)
    output_per_mtok: int = Field(ge=0)
    # Not `Lean`: a cache that is free costs 0, which isn't the same as one of no price of its own.
    cache_read_per_mtok: int | None = Field(default=None, ge=0, exclude_if=lambda price: price is None)
    cache_write_per_mtok: int | None = Field(default=None, ge=0, exclude_if=lambda price: price is None)


class ModelChoice(Lean):
    """One model of a route.

    Attributes:
        provider: whose API it is reached through: `openai`, `anthropic`, `google` or `scripted`.
        model: the model's own name, by which it is priced.
        price: set when the price table doesn't know the model; None means the table's price.
        max_output_tokens: the most that one answer may take, reasoning included; None in a route from before it was pinned.
            One that is cut off is asked for again with twice that, but never more than `output_ceiling`.
        output_ceiling: the most that the model can write; None where nobody knows.
        effort: how much it should reason; None leaves it to the vendor's default.
        base_url: the server of this tier alone; empty for the one that the worker's settings name.
        key_variable: the environment variable with the key of `base_url`; empty for a server that asks for none.
        sent_as: the name under which its server knows the model, for example an Azure deployment; empty when it is `model`.
        surcharge_percent: what a door bills above the price table, for example 10 for a region; not with a `price`.
    """

    optional: ClassVar[frozenset[str]] = frozenset(
        {"max_output_tokens", "output_ceiling", "effort", "base_url", "key_variable", "sent_as", "surcharge_percent"}
    )

    provider: str
    model: str
    price: Price | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    output_ceiling: int | None = Field(default=None, ge=1)
    effort: Effort | None = None
    base_url: str = ""
    key_variable: str = ""
    sent_as: str = ""
    surcharge_percent: int = Field(default=0, ge=0, le=100)

    @property
    def endpoint(self) -> str:
        """Names what a worker reaches it through: the provider, with the server of this tier if it has one of its own."""
        return f"{self.provider} {self.base_url}" if self.base_url else self.provider


class Route(Frozen):
    """The models of a run, cheap first. The last tier is the strong one; a route of one model has it for both.

    Attributes:
        fallbacks: the same route at other providers, in the order in which they are asked when the ones before are down.
    """

    models: tuple[ModelChoice, ...]
    fallbacks: tuple[tuple[ModelChoice, ...], ...] = ()

    @model_serializer(mode="wrap")
    def _lean(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        # Absent when there are none: a route from before they existed keeps its digest.
        return {name: value for name, value in dump(self).items() if name != "fallbacks" or value}

    @property
    def has_cheaper(self) -> bool:
        """Whether the cheap tier is another model than the strong one."""
        return len(self.models) > 1 and self.models[0] != self.models[-1]

    @property
    def last(self) -> int:
        """The number of the strong tier: 2 also where there is one model."""
        return max(_STRONG, len(self.models))

    def policy_tier(self, tier: int) -> int:
        """What policies are told of `tier`: 2 for the strong one, 1 for each before it, however many there are."""
        return _STRONG if tier >= self.last else 1

    def choose(self, tier: int) -> ModelChoice:
        return _at(self.models, tier)

    def choices(self, tier: int) -> tuple[ModelChoice, ...]:
        """The model of `tier` and those to fall back to, in order."""
        # A tier with a provider of its own has the same model in each fallback.
        return tuple(dict.fromkeys(_at(models, tier) for models in (self.models, *self.fallbacks)))


def _at(models: tuple[ModelChoice, ...], tier: int) -> ModelChoice:
    return models[min(tier, len(models)) - 1]
