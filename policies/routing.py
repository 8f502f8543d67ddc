"""Which model decides: a route of one or two tiers, and when it moves up."""

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
    """The models of a run, cheap first. Tier 2 is the strong one; a route of one model has it for both."""

    models: tuple[ModelChoice, ...]

    def choose(self, tier: int) -> ModelChoice:
        return self.models[min(tier, len(self.models)) - 1]
