"""The anomaly breaker: rules over sliding windows of an agent's figures, and when they trip. Pure, and so replayable."""

from collections.abc import Iterable, Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from policies.autonomy import MODES
from policies.models import AutonomyMode, Frozen

__all__ = ["Figures", "Latches", "Measure", "Reading", "Rule", "RuleAction", "judge", "stepped_down"]

Measure = Literal[
    "moved_cents",
    "error_rate",
    "denial_rate",
    "invalid_rate",
    "repeated_rate",
    "escalation_rate",
    "rejection_rate",
    "cost_per_outcome",
    "latency_seconds",
]
RuleAction = Literal["warn", "step_down", "kill"]
RESET = 0.8  # of the limit, when a rule doesn't say
Latches = Mapping[str, int]
"""When each rule that is tripped did so, by `Reading.key`. Unix milliseconds."""


class Rule(Frozen):
    """One rule of a bundle's `limits.toml`.

    Attributes:
        measure: what is looked at: cents that were moved; of all tool calls, the share that failed, that policy denied, that
            weren't well formed, or that repeated an earlier one of their run; of all runs, the share that people had to look
            at; of what people decided, the share that they rejected; micro-USD of model calls for each completed run; seconds
            from a run's start to its end, on average.
        window_minutes: how far back it looks.
        limit: it trips above this.
        reset: a tripped rule may trip again once the value was at or below this. Without it, at 0.8 of the limit.
        minimum: how many calls, runs or decisions there must be; sums have none.
        action: say so, let the agent do less by itself (`live` to `draft` to `read_only`), or stop it.
    """

    measure: Measure
    window_minutes: int = Field(ge=1, le=10_080)
    limit: float = Field(ge=0)
    reset: float | None = Field(default=None, ge=0)
    minimum: int = Field(default=20, ge=1)
    action: RuleAction

    @model_validator(mode="after")
    def _resets_below(self) -> Self:
        if self.reset is not None and self.reset > self.limit:
            raise ValueError("`reset` must not be above `limit`, or it would trip again and again")
        return self

    @property
    def name(self) -> str:
        return f"{self.measure}/{self.window_minutes}m/{self.action}"

    @property
    def resets_at(self) -> float:
        return self.limit * RESET if self.reset is None else self.reset


class Figures(Frozen):
    """What an agent's runs came to in a window. Runs count when they end, money when it is moved.

    Attributes:
        looked_at: runs that put something before people, or ended by asking for one.
        decided, rejected: by people.
        seconds: from start to end, of all runs together.
    """

    runs: int = 0
    completed: int = 0
    calls: int = 0
    denied: int = 0
    invalid: int = 0
    errors: int = 0
    repeated: int = 0
    looked_at: int = 0
    decided: int = 0
    rejected: int = 0
    cost_micro_usd: int = 0
    seconds: int = 0
    moved_cents: int = 0

    @classmethod
    def total(cls, parts: Iterable["Figures"]) -> "Figures":
        """Those of all `parts` together."""
        sums = dict.fromkeys(cls.model_fields, 0)
        for part in parts:
            for name in sums:
                sums[name] += getattr(part, name)
        return cls.model_validate(sums)

    def value(self, rule: Rule) -> float | None:
        """What `rule` looks at; None while there is too little of it."""
        match rule.measure:
            case "moved_cents":
                return float(self.moved_cents)
            case "error_rate":
                return _share(self.errors, self.calls, rule.minimum)
            case "denial_rate":
                return _share(self.denied, self.calls, rule.minimum)
            case "invalid_rate":
                return _share(self.invalid, self.calls, rule.minimum)
            case "repeated_rate":
                return _share(self.repeated, self.calls, rule.minimum)
            case "escalation_rate":
                return _share(self.looked_at, self.runs, rule.minimum)
            case "rejection_rate":
                return _share(self.rejected, self.decided, rule.minimum)
            case "cost_per_outcome":
                # Runs that cost and complete nothing are the worst case, not one without a value.
                return self.cost_micro_usd / max(1, self.completed) if self.runs >= rule.minimum else None
            case "latency_seconds":
                return _share(self.seconds, self.runs, rule.minimum)


def _share(part: int, whole: int, minimum: int) -> float | None:
    return part / whole if whole >= minimum else None


class Reading(Frozen):
    """The figures that one rule of one agent sees now.

    Attributes:
        mode: what the agent may do by itself now.
        since: what is counted began then, Unix milliseconds: a window ago, or when a person put the agent back.
    """

    agent: str
    mode: AutonomyMode
    rule: Rule
    since: int
    figures: Figures

    @property
    def key(self) -> str:
        return f"{self.agent}/{self.rule.name}"

    @property
    def value(self) -> float | None:
        return self.figures.value(self.rule)

    @property
    def words(self) -> str:
        """What the rule sees, as a sentence about its trip says it. Only for a reading that has a value."""
        return f"{self.rule.measure} was {self.value:.4g} within {self.rule.window_minutes} min, above {self.rule.limit:g}"


def judge(readings: Iterable[Reading], tripped: Latches, now: int) -> tuple[tuple[Reading, ...], dict[str, int]]:
    """Which rules trip now, and which are tripped after that.

    A tripped rule doesn't trip again until its value was at or below `reset` (hysteresis), or a person put the agent back
    since. One whose rule or agent is gone is forgotten.

    Args:
        now: Unix milliseconds.
    """
    trips: list[Reading] = []
    after: dict[str, int] = {}
    for reading in readings:
        at, value = tripped.get(reading.key), reading.value
        if at is not None and reading.since <= at:
            if value is not None and value <= reading.rule.resets_at:
                continue
            after[reading.key] = at
        elif value is not None and value > reading.rule.limit:
            trips.append(reading)
            after[reading.key] = now
    return tuple(trips), after


def stepped_down(mode: AutonomyMode) -> AutonomyMode:
    """One step less than `mode`."""
    return MODES[max(0, MODES.index(mode) - 1)]
