"""What an agent's outcomes cost and are worth: the ceiling on a completed run, and the sums of its return. Pure.

A completed run is an outcome. Model cost is micro-USD; what people's time costs is said in US cents, so that both add up.
"""

from typing import Literal

from pydantic import Field

from policies.caps import OnCap
from policies.models import Frozen

__all__ = ["WITHHELD", "OutcomeCost", "OutcomeRules", "OverCeiling", "Return", "Value", "judge", "returned", "usd"]

WITHHELD = "strong_model_withheld"
"""How a call is refused that the policy wants the stronger model for, in a run that keeps to the cheaper one."""
MICRO_PER_CENT = 10_000
Spending = Literal["within", "cheaper", "stop"]


def usd(micro_usd: int) -> str:
    """Micro-USD as dollars, fine enough to show the price of one call."""
    sign = "-" if micro_usd < 0 else ""
    return f"{sign}${abs(micro_usd) / 1_000_000:,.4f}"


class Value(Frozen):
    """The table `[value]` of an `agent.toml`: what its owner takes an outcome to be worth, and to cost beside its model calls.

    Attributes:
        minutes_saved: of a person's work, by each completed run.
        minute_cents: what a minute of that person costs, in US cents.
        review_minutes: what one decision on an approval takes a person.
        infrastructure_micro_usd: what a run costs beside its model calls.
        ceiling_micro_usd: what a completed run may cost in model calls; it lowers that of the bundle's `[outcome]`.
    """

    minutes_saved: int = Field(default=0, ge=0, le=100_000)
    minute_cents: int = Field(default=0, ge=0, le=1_000_000)
    review_minutes: int = Field(default=0, ge=0, le=10_000)
    infrastructure_micro_usd: int = Field(default=0, ge=0, le=10**12)
    ceiling_micro_usd: int | None = Field(default=None, ge=1, le=10**12)


class OutcomeRules(Frozen):
    """The table `[outcome]` of a bundle's `limits.toml`: what happens to an agent whose outcomes cost too much.

    Attributes:
        ceiling_micro_usd: of model calls for each completed run; above it, new runs keep to the cheaper model of their route.
        stop_percent: of the ceiling; above that, no new run begins.
        window_hours: how far back runs count, by when they ended.
        minimum: how many runs there must be in it before anything is decided.
        on_stop: what happens to a run that may not begin, as `on_cap` of caps across runs.
    """

    ceiling_micro_usd: int = Field(ge=1, le=10**12)
    stop_percent: int = Field(default=200, ge=100, le=100_000)
    window_hours: int = Field(default=168, ge=1, le=2_160)
    minimum: int = Field(default=20, ge=1)
    on_stop: OnCap = "refuse"

    def ceiling(self, value: Value) -> int:
        """What a completed run may cost: an agent may lower its bundle's ceiling, never raise it."""
        return min(self.ceiling_micro_usd, value.ceiling_micro_usd or self.ceiling_micro_usd)


class OutcomeCost(Frozen):
    """What an agent's runs came to in a window. Runs that cost and complete nothing count as one outcome, not as none."""

    runs: int = 0
    completed: int = 0
    cost_micro_usd: int = 0

    @property
    def each_micro_usd(self) -> int:
        """Of each completed run, rounded up."""
        return -(-self.cost_micro_usd // max(1, self.completed))


class OverCeiling(Frozen):
    """What an agent's outcomes cost when a run of it was admitted, and what they may cost; by `OutcomeCost`."""

    micro_usd: int
    ceiling_micro_usd: int
    runs: int
    completed: int
    window_hours: int

    @property
    def words(self) -> str:
        """As a sentence about it begins."""
        return (
            f"an outcome cost {usd(self.micro_usd)} in the last {self.window_hours} h, with {self.completed} of "
            f"{self.runs} runs completed, and may cost {usd(self.ceiling_micro_usd)}"
        )

    @property
    def refusal(self) -> str:
        """What a model is told whose call needs the stronger one."""
        return (
            "Policy asks for the stronger model here, and this run keeps to the cheaper one, for the agent's outcomes cost "
            "too much. Leave this to a person: end with `escalated`."
        )


def judge(rules: OutcomeRules, value: Value, cost: OutcomeCost) -> tuple[Spending, OverCeiling]:
    """What the cost of its outcomes means for a new run of the agent, and the figures behind it."""
    ceiling = rules.ceiling(value)
    figures = OverCeiling(
        micro_usd=cost.each_micro_usd,
        ceiling_micro_usd=ceiling,
        runs=cost.runs,
        completed=cost.completed,
        window_hours=rules.window_hours,
    )
    if cost.runs < rules.minimum or cost.each_micro_usd <= ceiling:
        return "within", figures
    return ("stop" if cost.each_micro_usd * 100 > ceiling * rules.stop_percent else "cheaper"), figures


class Return(Frozen):
    """What an agent's runs brought and cost, in micro-USD; `net` is what they saved less all that they took."""

    saved_micro_usd: int
    model_micro_usd: int
    infrastructure_micro_usd: int
    review_micro_usd: int
    net_micro_usd: int


def returned(value: Value, *, runs: int, completed: int, reviews: int, model_micro_usd: int) -> Return:
    """The return of `runs` runs, by the assumptions of their agent's owner."""
    minute = value.minute_cents * MICRO_PER_CENT
    saved = completed * value.minutes_saved * minute
    infrastructure = runs * value.infrastructure_micro_usd
    review = reviews * value.review_minutes * minute
    return Return(
        saved_micro_usd=saved,
        model_micro_usd=model_micro_usd,
        infrastructure_micro_usd=infrastructure,
        review_micro_usd=review,
        net_micro_usd=saved - model_micro_usd - infrastructure - review,
    )
