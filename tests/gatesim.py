"""Simulated traffic for the gates of a rollout: equal arms, and worse ones. `make gates` measures docs/rollout-gates.md."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.gates import ArmFigures, GateRules, Indicator, Judgement, Margins, judge

__all__ = ["BASE", "WORSE", "Traffic", "aborted", "arms", "at_the_margin", "only", "passed", "play", "rate"]

SEED = 20_261_128


@dataclass(frozen=True)
class Traffic:
    """How the runs of an arm turn out. `marks`: how often each is given; `cost` and `first_response` are medians."""

    escalation: float = 0.12
    violations: float = 0.01
    reopened: float = 0.06
    refunded: float = 0.10
    marks: tuple[float, ...] = (0.04, 0.05, 0.09, 0.27, 0.55)
    rated: float = 0.35
    cost: float = 30_000
    first_response: float = 4_000


BASE = Traffic()
WORSE: dict[str, Traffic] = {
    "escalation 12 to 17 %": replace(BASE, escalation=0.17),
    "escalation 12 to 22 %": replace(BASE, escalation=0.22),
    "violations 1 to 4 %": replace(BASE, violations=0.04),
    "reopened 6 to 12 %": replace(BASE, reopened=0.12),
    "refunded 10 to 18 %": replace(BASE, refunded=0.18),
    "satisfied 82 to 72 %": replace(BASE, marks=(0.07, 0.09, 0.12, 0.27, 0.45)),
    "satisfied 82 to 62 %": replace(BASE, marks=(0.12, 0.12, 0.14, 0.25, 0.37)),
    "cost × 1.3": replace(BASE, cost=39_000),
    "first response × 1.5": replace(BASE, first_response=6_000),
}
"""What detection rates are stated for."""


def at_the_margin(name: Indicator, margins: Margins) -> Traffic:
    """An arm that is worse than `BASE` by exactly what is allowed in one indicator: nothing worse than that may pass."""
    margin: float = getattr(margins, name)
    if name == "csat":
        return replace(BASE, marks=(0.04 + margin, 0.05, 0.09, 0.27, 0.55 - margin))
    found: float = getattr(BASE, name)
    return replace(BASE, **{name: found * margin if name in ("cost", "first_response") else found + margin})


def only(*names: Indicator, **changed: object) -> GateRules:
    """Rules for these indicators alone."""
    return GateRules.model_validate({"indicators": names, **changed})


class _Arm:
    """Runs of one arm, drawn beforehand, to be looked at after any number of them."""

    def __init__(self, rng: np.random.Generator, traffic: Traffic, runs: int) -> None:
        def happened(share: float) -> list[int]:
            return (rng.random(runs) < share).cumsum().tolist()

        def spread(median: float, sigma: float) -> list[int]:
            return (median * np.exp(rng.normal(0, sigma, runs))).astype(np.int64).tolist()

        self._escalated = happened(traffic.escalation)
        self._violations = happened(traffic.violations)
        self._reopened = happened(traffic.reopened)
        self._refunded = happened(traffic.refunded)
        self._rated = happened(traffic.rated)
        self._marks: list[int] = (rng.choice(5, self._rated[-1], p=traffic.marks) + 1).tolist()
        self._cost = spread(traffic.cost, 0.7)
        self._first_response = spread(traffic.first_response, 1.0)

    def after(self, runs: int, indicators: Sequence[Indicator]) -> ArmFigures:
        """The figures after so many runs; values that aren't judged are left out, for they take time."""
        last = runs - 1
        return ArmFigures(
            runs=runs,
            escalated=self._escalated[last],
            violations=self._violations[last],
            reopened=self._reopened[last],
            refunded=self._refunded[last],
            csat=tuple(self._marks[: self._rated[last]]) if "csat" in indicators else (),
            cost_micro_usd=tuple(self._cost[:runs]) if "cost" in indicators else (),
            first_response_ms=tuple(self._first_response[:runs]) if "first_response" in indicators else (),
        )


def arms(
    repeats: int, ours: Traffic, theirs: Traffic, looks: Sequence[int], indicators: Sequence[Indicator], *, times: float = 1
) -> Iterator[list[tuple[ArmFigures, ArmFigures]]]:
    """Candidate and baseline as they are at each of `looks`, for each of `repeats`; the same traffic each time it is asked for.

    Args:
        times: how many runs the baseline has for each of the candidate's.
    """
    rng = np.random.default_rng(SEED)
    for _ in range(repeats):
        candidate, baseline = _Arm(rng, ours, max(looks)), _Arm(rng, theirs, round(max(looks) * times))
        yield [(candidate.after(n, indicators), baseline.after(round(n * times), indicators)) for n in looks]


def play(
    repeats: int, ours: Traffic, theirs: Traffic, rules: GateRules, *, looks: Sequence[int] = (), times: float = 1
) -> Iterator[list[Judgement]]:
    """What is said at each of `looks` (by default, the checkpoints), whatever was said before; once for each of `repeats`."""
    for figures in arms(repeats, ours, theirs, looks or rules.checkpoints, rules.indicators, times=times):
        found: list[Judgement] = []
        for candidate, baseline in figures:
            found.append(judge(candidate, baseline, rules, [j.checkpoint for j in found if j.checkpoint]))
        yield found


def aborted(looks: Sequence[Judgement]) -> bool:
    """Whether any look failed or paused the candidate."""
    return any(j.decision in ("fail", "pause") for j in looks)


def passed(looks: Sequence[Judgement]) -> bool:
    """Whether any look passed it."""
    return any(j.decision == "pass" for j in looks)


def rate(repeats: Iterable[list[Judgement]], holds: Callable[[Sequence[Judgement]], bool]) -> float:
    found = [holds(looks) for looks in repeats]
    return sum(found) / len(found)


def _ended(looks: Sequence[Judgement], at: int) -> str:
    """How a rollout stood after `at` looks: the first look that isn't `wait` ends it."""
    return next((j.decision for j in looks[:at] if j.decision != "wait"), "wait")


def _line(name: str, traffic: Traffic, rules: GateRules, repeats: int, times: float) -> str:
    found = list(play(repeats, traffic, BASE, rules, times=times))
    cells: list[str] = []
    for at in range(1, len(rules.checkpoints) + 1):
        ends = [_ended(looks, at) for looks in found]
        stopped, went = (sum(e in how for e in ends) / repeats for how in (("fail", "pause"), ("pass",)))
        cells.append(f"{stopped:.1%} / {went:.1%}")
    return f"| {name} | {' | '.join(cells)} | {rate(found, aborted):.1%} | {rate(found, passed):.1%} |"


def main(repeats: int) -> None:
    rules = GateRules()
    for times in (1, 4):
        print(f"\nBaseline {times} times the candidate's runs: stopped / passed, by checkpoint; any abort, any pass.\n")
        print(f"| | {' | '.join(str(c) for c in rules.checkpoints)} | any abort | any pass |")
        for name, traffic in {"equal": BASE, **WORSE}.items():
            print(_line(name, traffic, rules, repeats, times), flush=True)
    print("\nWorse by the whole margin in one indicator, which alone is judged: passed at any checkpoint.\n")
    for name in rules.indicators:
        found = [
            rate(play(repeats, at_the_margin(name, rules.margins), BASE, only(name), times=times), passed) for times in (1, 4)
        ]
        print(f"| {name} | {' | '.join(f'{x:.1%}' for x in found)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
