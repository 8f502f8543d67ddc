"""Gates of a rollout: whether a candidate is shown to be as good as the baseline, or to be worse. Nothing is fetched here.

`judge` imports scipy. Workflow code may use the models, and never calls it.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from policies import samples
from policies.models import Frozen
from policies.samples import Range, Share

__all__ = ["INDICATORS", "ArmFigures", "Finding", "GateDecision", "GateRules", "Indicator", "Judgement", "Margins", "judge"]

Indicator = Literal["escalation", "violations", "reopened", "refunded", "csat", "cost", "first_response"]
GateDecision = Literal["wait", "pass", "fail", "pause"]
INDICATORS: tuple[Indicator, ...] = get_args(Indicator)
SATISFIED = 4
"""The lowest of the five marks that counts as satisfied, as customer satisfaction is usually reported."""

Count = Annotated[int, Field(ge=0)]
Part = Annotated[float, Field(gt=0, lt=1)]
Factor = Annotated[float, Field(gt=1, le=10)]
Alpha = Annotated[float, Field(gt=0, le=0.2)]


class ArmFigures(Frozen):
    """What is known of one arm's closed runs. A run counts at most once in each of the numbers.

    Attributes:
        violations: runs with a call that policy refused.
        csat: ratings from 1 to 5, of the runs that got one.
        cost_micro_usd: model cost of each run that has one; leave people's work out of it.
        first_response_ms: from the start to the first answer, of each run that has one.
    """

    runs: Count = 0
    escalated: Count = 0
    violations: Count = 0
    reopened: Count = 0
    refunded: Count = 0
    csat: tuple[Annotated[int, Field(ge=1, le=5)], ...] = ()
    cost_micro_usd: tuple[Count, ...] = ()
    first_response_ms: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _within(self) -> Self:
        for name in ("escalated", "violations", "reopened", "refunded"):
            if getattr(self, name) > self.runs:
                raise ValueError(f"`{name}` is more than there are runs")
        return self


class Margins(Frozen):
    """By how much a candidate may be worse and still count as good: shares of runs, and factors for cost and time."""

    escalation: Part = 0.05
    violations: Part = 0.02
    reopened: Part = 0.05
    refunded: Part = 0.05
    csat: Part = 0.10
    cost: Factor = 1.25
    first_response: Factor = 1.25


class GateRules(Frozen):
    """The table `[gates]`.

    Attributes:
        checkpoints: numbers of the candidate's runs at which it is judged, once each.
        indicators: what is judged. All of them must be good; leave out what nobody measures.
        abort_alpha: how likely an equally good candidate may be failed or paused, all checkpoints and indicators together.
        promote_alpha: how likely one may pass that is worse by a whole margin in any indicator, all checkpoints together.
        minimum_runs: of each arm; shares of fewer aren't judged.
        minimum_values: of each arm; fewer ratings, costs or times aren't judged.
        csat_drop: the drop of the satisfied share that keeps a candidate from passing, and pauses it if it isn't luck.
    """

    checkpoints: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(200, 400, 800, 1600), min_length=1, max_length=20)
    indicators: tuple[Indicator, ...] = Field(default=INDICATORS, min_length=1)
    margins: Margins = Field(default_factory=Margins)
    abort_alpha: Alpha = 0.05
    promote_alpha: Alpha = 0.05
    minimum_runs: int = Field(default=100, ge=20)
    minimum_values: int = Field(default=50, ge=20)
    csat_drop: Part = 0.02

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if list(self.checkpoints) != sorted(set(self.checkpoints)):
            raise ValueError("`checkpoints` must rise")
        if len(set(self.indicators)) != len(self.indicators):
            raise ValueError("`indicators` names one twice")
        return self


class Finding(Frozen):
    """What one indicator shows.

    Attributes:
        decision: `pass`: worse by a margin is ruled out. `fail`, `pause`: it is worse, and that isn't luck. `wait`: neither.
        p: how likely so bad a figure is if both arms are equally good; None if it couldn't be judged.
        estimate: candidate less baseline as a share of runs (of csat: of those satisfied); of cost and time, the factor.
        low, high: the range that `estimate` is sure to be in, each end but for `promote_alpha` of this checkpoint.
    """

    indicator: Indicator
    decision: GateDecision
    p: float | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    sentence: str


class Judgement(Frozen):
    """What a look at both arms came to.

    Attributes:
        decision: `fail` if any indicator fails, else `pause` if any does, `pass` if all pass, else `wait`.
        checkpoint: the one that was judged and must not be judged again; None if none was due.
    """

    decision: GateDecision
    checkpoint: int | None = None
    findings: tuple[Finding, ...] = ()
    sentence: str = ""


class _Measured(Frozen):
    """An indicator, before the others are known. `good`: it passes. `bad`: it counts as worse, if that isn't luck."""

    indicator: Indicator
    words: str
    p: float | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    good: bool = False
    bad: bool = True


def judge(candidate: ArmFigures, baseline: ArmFigures, rules: GateRules, judged: Sequence[int]) -> Judgement:
    """What the figures show at the checkpoint that is due, if one is.

    Whoever calls keeps the checkpoint with the decision: a pass stands, and asking again only says `wait`. Without enough
    runs in either arm nothing is judged and no checkpoint is used up; nothing passes for want of figures.

    Args:
        judged: the checkpoints that were judged before, with these rules and since both arms' figures began.
    """
    due = [c for c in rules.checkpoints if c <= candidate.runs and c > max(judged, default=0)]
    if not due:
        return Judgement(decision="wait", sentence=_not_due(candidate.runs, rules, judged))
    for arm, runs in (("candidate", candidate.runs), ("baseline", baseline.runs)):
        if runs < rules.minimum_runs:
            return Judgement(decision="wait", sentence=f"The {arm} has {runs:,} runs, and {rules.minimum_runs:,} are needed.")
    # Bonferroni over the checkpoints: it holds for exact tests, and at whatever sample size a checkpoint is met.
    looks = len(rules.checkpoints)
    z = samples.z_of(rules.promote_alpha / looks)
    measured = [_measure(name, candidate, baseline, rules, z) for name in rules.indicators]
    ps = {m.indicator: m.p for m in measured if m.p is not None}
    worse = samples.holm(ps, rules.abort_alpha / looks, len(measured))
    findings = tuple(_finding(m, m.indicator in worse) for m in measured)
    decision = _overall(findings)
    return Judgement(decision=decision, checkpoint=due[-1], findings=findings, sentence=_sum_up(due[-1], decision, findings))


# ---- indicators -----------------------------------------------------------------------------------------------------


def _measure(name: Indicator, candidate: ArmFigures, baseline: ArmFigures, rules: GateRules, z: float) -> _Measured:
    margin: float = getattr(rules.margins, name)
    match name:
        case "escalation" | "violations" | "reopened" | "refunded":
            field = "escalated" if name == "escalation" else name
            ours, theirs = (Share(getattr(arm, field), arm.runs) for arm in (candidate, baseline))
            return _share(name, ours, theirs, margin, z)
        case "csat" | "cost" | "first_response":
            field = {"csat": "csat", "cost": "cost_micro_usd", "first_response": "first_response_ms"}[name]
            mine: tuple[int, ...] = getattr(candidate, field)
            other: tuple[int, ...] = getattr(baseline, field)
            if min(len(mine), len(other)) < rules.minimum_values:
                counts = f"{len(mine):,} values of the candidate and {len(other):,} of the baseline"
                return _Measured(indicator=name, words=f"{counts}, and {rules.minimum_values:,} of each are needed")
            return _csat(mine, other, rules, z) if name == "csat" else _factor(name, mine, other, margin, z)


def _share(name: Indicator, ours: Share, theirs: Share, margin: float, z: float) -> _Measured:
    found = samples.difference(ours, theirs, z)
    words = f"{_of(ours, z)}, baseline {_of(theirs, z)}: {_points(found)}, {margin * 100:g} allowed"
    return _measured(name, words, samples.more(ours, theirs), found, good=_below(found.high, margin))


def _csat(ours: Sequence[int], theirs: Sequence[int], rules: GateRules, z: float) -> _Measured:
    """All five marks say whether it is luck; the satisfied share, in points, by how much it is down."""
    pleased, others = (Share(sum(mark >= SATISFIED for mark in marks), len(marks)) for marks in (ours, theirs))
    found = samples.difference(pleased, others, z)
    dropped = found.estimate <= -rules.csat_drop
    arms = f"{_of(pleased, z)} satisfied, baseline {_of(others, z)}"
    words = (
        f"{arms}: {_points(found)}, -{rules.csat_drop * 100:g} or less mustn't show, -{rules.margins.csat * 100:g} be possible"
    )
    good = found.low is not None and found.low > -rules.margins.csat and not dropped
    return _measured("csat", words, samples.shifted(ours, theirs, "less"), found, good=good, bad=dropped)


def _factor(name: Indicator, ours: Sequence[int], theirs: Sequence[int], margin: float, z: float) -> _Measured:
    if not any(ours) or not any(theirs):  # no factor leads from nothing to something
        whose = "candidate" if any(theirs) else "baseline" if any(ours) else "candidate and the baseline"
        return _Measured(indicator=name, words=f"all values of the {whose} are 0", good=not any(ours))
    found = samples.factor(ours, theirs, z)
    between = "" if found.low is None or found.high is None else f" ({found.low:.2f} to {found.high:.2f})"
    words = f"{found.estimate:.2f} times the baseline's{between}, {margin:g} times allowed"
    return _measured(name, words, samples.shifted(ours, theirs, "greater"), found, good=_below(found.high, margin))


def _measured(name: Indicator, words: str, p: float, found: Range, *, good: bool, bad: bool = True) -> _Measured:
    low, estimate, high = found
    return _Measured(indicator=name, words=words, p=p, estimate=estimate, low=low, high=high, good=good, bad=bad)


def _below(high: float | None, margin: float) -> bool:
    return high is not None and high < margin


# ---- what it comes to -----------------------------------------------------------------------------------------------


def _finding(found: _Measured, worse: bool) -> Finding:
    """Good comes first: with many runs, what is worse by less than the margin is surely worse, and still good enough."""
    if found.good:
        decision, words = "pass", "as good"
    elif worse and found.bad:
        decision, words = ("pause" if found.indicator == "csat" else "fail"), "worse"
    else:
        decision, words = "wait", "not shown to be as good"
    fields = found.model_dump(exclude={"words", "good", "bad"})
    name = _words(found.indicator)
    sentence = f"{name[:1].upper()}{name[1:]} {words}: {found.words}."
    return Finding.model_validate({**fields, "decision": decision, "sentence": sentence})


def _overall(findings: Sequence[Finding]) -> GateDecision:
    made = {f.decision for f in findings}
    order: tuple[GateDecision, ...] = ("fail", "pause", "wait", "pass")
    return next(d for d in order if d in made)


def _sum_up(checkpoint: int, decision: GateDecision, findings: Sequence[Finding]) -> str:
    if decision == "pass":
        return f"At {checkpoint:,} runs the candidate is as good in everything that is judged."
    words = "not shown to be as good" if decision == "wait" else "worse"
    names = ", ".join(_words(f.indicator) for f in findings if f.decision == decision)
    return f"At {checkpoint:,} runs the candidate is {words} in: {names}."


def _not_due(runs: int, rules: GateRules, judged: Sequence[int]) -> str:
    later = [c for c in rules.checkpoints if c > max(runs, *judged, 0)]
    if not later:
        return f"The last checkpoint, {rules.checkpoints[-1]:,} runs, is judged; there is no further look."
    return f"The next look is at {later[0]:,} runs of the candidate; there are {runs:,}."


def _words(name: Indicator) -> str:
    return {"csat": "satisfaction", "first_response": "first response"}.get(name, name)


def _of(share: Share, z: float) -> str:
    low, high = samples.wilson(share, z)
    return f"{share.count:,} of {share.of:,} ({low:.1%} to {high:.1%})"


def _points(found: Range) -> str:
    low, estimate, high = (f"{(x or 0) * 100:+.1f}" for x in found)
    return f"{estimate} points ({low} to {high})"
