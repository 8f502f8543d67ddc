"""The anomaly breaker over replayed days: quiet on a normal one, and each rule trips on a day that is bad in its way."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.anomaly import Figures, Reading, Rule, judge, stepped_down

MINUTE = 60_000
DAY = 24 * 60
TURNS_BAD = 14 * 60
"""The minute of the day at which a bad day turns bad."""

RULES = (
    Rule(measure="moved_cents", window_minutes=60, limit=250_000, action="step_down"),
    Rule(measure="error_rate", window_minutes=60, limit=0.2, action="step_down"),
    Rule(measure="denial_rate", window_minutes=60, limit=0.2, action="kill"),
    Rule(measure="invalid_rate", window_minutes=60, limit=0.2, action="warn"),
    Rule(measure="repeated_rate", window_minutes=60, limit=0.2, action="kill"),
    Rule(measure="escalation_rate", window_minutes=120, limit=0.5, action="warn"),
    Rule(measure="rejection_rate", window_minutes=720, limit=0.5, minimum=10, action="step_down"),
    Rule(measure="cost_per_outcome", window_minutes=60, limit=20_000, minimum=5, action="warn"),
    Rule(measure="latency_seconds", window_minutes=60, limit=600, minimum=5, action="warn"),
)


@dataclass(frozen=True)
class Traffic:
    """A day's runs, by chance with a seed; twelve an hour, four times as many by day."""

    refund: float = 0.3
    cents: int = 4_000
    error: float = 0.02
    denied: float = 0.02
    invalid: float = 0.02
    repeated: float = 0.01
    asked: float = 0.15
    rejected: float = 0.1
    completed: float = 0.95
    cost: int = 3_000
    seconds: int = 90

    def run(self, chance: random.Random) -> Figures:
        calls = chance.randint(3, 6)
        asked = chance.random() < self.asked
        return Figures(
            runs=1,
            completed=int(chance.random() < self.completed),
            calls=calls,
            denied=_hits(chance, calls, self.denied),
            invalid=_hits(chance, calls, self.invalid),
            errors=_hits(chance, calls, self.error),
            repeated=_hits(chance, calls, self.repeated),
            looked_at=int(asked),
            decided=int(asked),
            rejected=int(asked and chance.random() < self.rejected),
            cost_micro_usd=int(self.cost * chance.uniform(0.5, 2)),
            seconds=int(self.seconds * chance.uniform(0.3, 3)),
            moved_cents=int(self.cents * chance.uniform(0.2, 3)) if chance.random() < self.refund else 0,
        )


def _hits(chance: random.Random, count: int, share: float) -> int:
    return sum(chance.random() < share for _ in range(count))


NORMAL = Traffic()
BAD = {
    "moved_cents": replace(NORMAL, cents=40_000),
    "error_rate": replace(NORMAL, error=0.5),
    "denial_rate": replace(NORMAL, denied=0.5),
    "invalid_rate": replace(NORMAL, invalid=0.5),
    "repeated_rate": replace(NORMAL, repeated=0.6),
    "escalation_rate": replace(NORMAL, asked=0.9),
    "rejection_rate": replace(NORMAL, rejected=0.95),
    "cost_per_outcome": replace(NORMAL, cost=60_000),
    "latency_seconds": replace(NORMAL, seconds=2_000),
}


def day(seed: int, good: Traffic, bad: Traffic | None = None) -> list[tuple[int, Figures]]:
    """Runs with the minute in which each ended."""
    chance = random.Random(seed)
    found: list[tuple[int, Figures]] = []
    for minute in range(DAY):
        busy = 8 * 60 <= minute < 20 * 60
        traffic = bad if bad and minute >= TURNS_BAD else good
        found += [(minute, traffic.run(chance)) for _ in range(4) if chance.random() < (0.2 if busy else 0.05)]
    return found


def replayed(runs: Sequence[tuple[int, Figures]], rules: Sequence[Rule] = RULES) -> list[tuple[int, str]]:
    """Minute and measure of each trip, when the breaker looks once a minute."""
    ended: dict[int, list[Figures]] = {}
    for minute, figures in runs:
        ended.setdefault(minute, []).append(figures)
    until = [Figures()]  # what had ended before each minute
    for minute in range(DAY):
        until.append(Figures.total([until[-1], *ended.get(minute, [])]))
    trips: list[tuple[int, str]] = []
    tripped: dict[str, int] = {}
    for minute in range(DAY):
        seen = [
            Reading(
                agent="a",
                mode="live",
                rule=rule,
                since=(minute - rule.window_minutes) * MINUTE,
                figures=_between(until[max(0, minute + 1 - rule.window_minutes)], until[minute + 1]),
            )
            for rule in rules
        ]
        found, tripped = judge(seen, tripped, minute * MINUTE)
        trips += [(minute, reading.rule.measure) for reading in found]
    return trips


def _between(before: Figures, after: Figures) -> Figures:
    return Figures.model_validate({name: getattr(after, name) - getattr(before, name) for name in Figures.model_fields})


@pytest.mark.parametrize("seed", range(5))
def test_nothing_trips_on_a_normal_day(seed: int) -> None:
    """A day's ordinary ups and downs are no anomaly."""
    assert replayed(day(seed, NORMAL)) == []


@pytest.mark.parametrize("measure", BAD)
def test_a_bad_day_trips_its_rule(measure: str) -> None:
    """Not before it turns bad, and within its window after that."""
    rules = [r for r in RULES if r.measure == measure]
    trips = replayed(day(7, NORMAL, BAD[measure]), rules)
    assert trips
    minute, name = trips[0]
    assert name == measure
    assert TURNS_BAD <= minute <= TURNS_BAD + rules[0].window_minutes


def test_the_same_day_trips_the_same() -> None:
    """Nothing but the figures decides."""
    runs = day(3, NORMAL, BAD["error_rate"])
    assert replayed(runs) == replayed(runs)


def reading(value: int, *, since: int = 0, reset: float | None = None, mode: str = "live") -> Reading:
    rule = Rule(measure="moved_cents", window_minutes=60, limit=100, reset=reset, action="step_down")
    return Reading.model_validate(
        {"agent": "a", "mode": mode, "rule": rule, "since": since, "figures": Figures(moved_cents=value)}
    )


def over(values: Sequence[int], see: Callable[[int], Reading] = reading) -> list[int]:
    """Which of these values, seen one after the other, trip."""
    tripped: dict[str, int] = {}
    found: list[int] = []
    for at, value in enumerate(values, 1):
        trips, tripped = judge([see(value)], tripped, at)
        found += [at] * len(trips)
    return found


def test_a_value_that_swings_around_the_limit_trips_once() -> None:
    """Hysteresis: it must have been at 0.8 of the limit before it trips again."""
    assert over([100, 101, 99, 101, 85, 150]) == [2]
    assert over([101, 80, 100, 101]) == [1, 4]


def test_a_rule_may_say_where_it_resets() -> None:
    """Lower than 0.8 of the limit, here at half of it."""
    assert over([101, 60, 101, 50, 101], lambda v: reading(v, reset=50)) == [1, 5]


def test_who_is_put_back_is_judged_anew() -> None:
    """What came after a person put the agent back counts, whatever the value was in between."""
    trips, tripped = judge([reading(500)], {}, 10)
    assert len(trips) == 1
    assert judge([reading(500)], tripped, 11)[0] == ()
    assert len(judge([reading(500, since=11)], tripped, 12)[0]) == 1


def test_rules_that_are_gone_are_forgotten() -> None:
    """A rule that was taken out of its bundle, and comes back, isn't tripped any more."""
    _, tripped = judge([reading(500)], {}, 10)
    assert tripped == {"a/moved_cents/60m/step_down": 10}
    assert judge([], tripped, 11) == ((), {})


@pytest.mark.parametrize("rule", [r for r in RULES if r.measure != "moved_cents"], ids=lambda r: r.measure)
def test_too_little_is_no_anomaly(rule: Rule) -> None:
    """One bad run of one isn't a rate."""
    bad = Figures(runs=1, calls=1, denied=1, invalid=1, errors=1, repeated=1, looked_at=1, decided=1, rejected=1, seconds=9999)
    assert bad.value(rule) is None


def test_costs_without_outcomes_are_the_worst() -> None:
    """An agent that completes nothing isn't cheap."""
    rule = Rule(measure="cost_per_outcome", window_minutes=60, limit=1, minimum=2, action="warn")
    assert Figures(runs=2, completed=0, cost_micro_usd=500).value(rule) == 500
    assert Figures(runs=2, completed=2, cost_micro_usd=500).value(rule) == 250


def test_a_rule_must_reset_below_its_limit() -> None:
    """Or it would trip each time the breaker looks."""
    with pytest.raises(ValidationError, match="`reset` must not be above `limit`"):
        Rule(measure="moved_cents", window_minutes=60, limit=1, reset=2, action="warn")


def test_steps_down_to_nothing() -> None:
    """From live to draft to read_only, and no further."""
    assert [stepped_down(mode) for mode in ("live", "draft", "read_only")] == ["draft", "read_only", "read_only"]


parts = st.lists(st.builds(Figures, runs=st.integers(0, 9), calls=st.integers(0, 9), errors=st.integers(0, 9)), max_size=6)


@given(parts, parts)
def test_figures_add_up(left: list[Figures], right: list[Figures]) -> None:
    """The figures of two lots of runs are those of all of them."""
    assert Figures.total([*left, *right]) == Figures.total([Figures.total(left), Figures.total(right)])
