"""Which model decides: a route of one or two tiers, and when it moves up."""

from pydantic import SerializerFunctionWrapHandler, model_serializer

from policies.models import Frozen

__all__ = ["ModelChoice", "Price", "Route"]


class Price(Frozen):
    """Declared prices in micro-USD for a million tokens."""

    input_per_mtok: int
    output_per_mtok: int


class ModelChoice(Frozen):
    """One model of a route.

    Attributes:
        price: set when the price table doesn't know the model; None means the table's price.
    """

    provider: str
    model: str
    price: Price | None = None


class Route(Frozen):
    """The models of a run, cheap first. Tier 2 is the strong one; a route of one model has it for both.

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

    def choose(self, tier: int) -> ModelChoice:
        return _at(self.models, tier)

    def choices(self, tier: int) -> tuple[ModelChoice, ...]:
        """The model of `tier` and those to fall back to, in order."""
        return tuple(_at(models, tier) for models in (self.models, *self.fallbacks))


def _at(models: tuple[ModelChoice, ...], tier: int) -> ModelChoice:
    return models[min(tier, len(models)) - 1]
