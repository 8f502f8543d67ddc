"""When a route moves up to a stronger tier, next to what policy asks for. Rules only; `workflows.rising` applies them."""

from typing import Literal

from pydantic import Field

from policies.models import RISKS, Currency, Frozen, Money, Risk

__all__ = ["MovesUp", "WhyMoved"]

WhyMoved = Literal["policy", "sums", "amount", "risk", "failed_validations", "confidence", "class"]
"""Why a run moved up: its policy says `route:strong`; the sums for its subject rose meanwhile; a call that moves much money,
or is risky; calls that weren't well formed; a classification that is unsure, or that names a class that is hard."""


class MovesUp(Frozen):
    """The table `[moves_up]` of an `agent.toml`. A rule that isn't there moves nothing.

    Amount and risk move a run to the last tier, before the call is made; the others to the next one.

    Attributes:
        failed_validations: after how many calls that weren't well formed, since the last move.
        amount_cents: a call that moves at least this much, in `currency`; one in another currency always counts.
        risk: a call of a tool of at least this risk.
        confidence: a classification that is less sure, from 0 to 1.
        classes: what a run can be about: a label, and what it means. The cheapest tier says which of them it is.
        hard: those of `classes` that move it up however sure the classification is.
        classify_after: after how many turns it is asked for; the first one usually reads what the run is about.
    """

    failed_validations: int | None = Field(default=None, ge=1, le=100)
    amount_cents: int | None = Field(default=None, ge=0)
    currency: Currency = "USD"
    risk: Risk | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)
    classes: dict[str, str] = Field(default_factory=dict[str, str], max_length=20)
    hard: tuple[str, ...] = ()
    classify_after: int = Field(default=1, ge=0, le=10)

    @property
    def problem(self) -> str:
        """What is wrong with it, to be read after its name; empty when it can be used."""
        if bool(self.classes) != (self.confidence is not None or bool(self.hard)):
            return "takes `classes` together with `confidence` or `hard`; give both, or neither"
        unknown = next((label for label in self.hard if label not in self.classes), "")
        if unknown:
            return f"has `{unknown}` in `hard`, which isn't one of its `classes`"
        if not any((self.failed_validations, self.amount_cents is not None, self.risk, self.classes)):
            return "says no rule; give `failed_validations`, `amount_cents`, `risk`, or `classes` with `confidence`"
        return ""

    def by_amount(self, amount: Money | None) -> bool:
        """Whether a call that moves `amount` is for the last tier."""
        if self.amount_cents is None or amount is None:
            return False
        return amount.currency != self.currency or amount.cents >= self.amount_cents

    def by_risk(self, risk: Risk) -> bool:
        """Whether a call of a tool of `risk` is for the last tier."""
        return self.risk is not None and RISKS.index(risk) >= RISKS.index(self.risk)
