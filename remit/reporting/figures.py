"""The figures of a report: what they are, and how they are counted from what the ledger holds. Pure.

Times are Unix milliseconds, durations seconds, model cost micro-USD, business money cents with a currency.
"""

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from activities.ledger.outcomes import ENDED_BY_PEOPLE
from activities.ledger.reports import Ended, MovedSum
from activities.ledger.rows import Outcome, RunRecord
from policies.autonomy import Accepted
from policies.models import Frozen, Money
from policies.samples import Share, wilson
from policies.value import OverCeiling, Return, Spending, Value, returned

__all__ = [
    "ENDS",
    "AgentReport",
    "Approvals",
    "Arm",
    "Caching",
    "Day",
    "Drafts",
    "Figures",
    "Known",
    "Moved",
    "Rate",
    "Refusal",
    "Report",
    "Satisfaction",
    "Spread",
    "report_of",
]

Z95 = 1.959964
"""Standard deviations that leave 2.5 % at each side of a normal distribution."""
TOP_REASONS = 10
PEOPLE = "human"
ENDS = ("completed", "escalated", "stopped", "failed", "killed")


class Rate(Frozen):
    """A share, with its 95 % Wilson interval; without values where there is nothing to have a share of."""

    count: int
    of: int
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def share(cls, count: int, of: int) -> "Rate":
        if not of:
            return cls(count=count, of=of)
        found = Share(count, of)
        low, high = wilson(found, Z95)
        return cls(count=count, of=of, value=found.value, low=low, high=high)


class Spread(Frozen):
    """Seconds of `of` things: the median, and the 95th percentile by nearest rank."""

    of: int
    median: float | None = None
    p95: float | None = None

    @classmethod
    def over(cls, seconds: Sequence[float]) -> "Spread":
        if not seconds:
            return cls(of=0)
        ranked = sorted(seconds)
        return cls(of=len(ranked), median=statistics.median(ranked), p95=ranked[math.ceil(0.95 * len(ranked)) - 1])


class Approvals(Frozen):
    """What was put before people.

    Attributes:
        undecided: nobody decided in time, or the run ended before.
        reviews: decisions that people signed; an action may need several.
        wait: from asking until it was decided.
    """

    asked: int
    approved: int
    rejected: int
    edited: int
    undecided: int
    reviews: int
    wait: Spread


class Drafts(Frozen):
    """What people made of proposals of an agent that only drafts, decided in the period; `accepted` is of those decided."""

    put: int
    accepted: Rate
    edited: int
    rejected: int
    expired: int


class Satisfaction(Frozen):
    """CSAT, from 1 to 5, of those cases of which somebody said it."""

    answers: int
    mean: float | None = None


class Moved(Frozen):
    """What writes moved in one currency; `unknown` of them may not have happened, and count as if they had."""

    amount: Money
    writes: int
    unknown: int


class Refusal(Frozen):
    """Calls that weren't carried out, by stable code."""

    code: str
    calls: int


class Caching(Frozen):
    """What prompt caches held of what model calls read.

    Attributes:
        input_tokens: all that was read; 0 for runs that ended before this was kept.
        hit_rate: the share of it that came from a cache; None where nothing was read.
        saved_micro_usd: against the same calls without a cache, at the prices of the models that answered; negative when
            writing cost more than reading saved.
    """

    input_tokens: int
    read_tokens: int
    written_tokens: int
    hit_rate: float | None
    saved_micro_usd: int


class Figures(Frozen):
    """What runs came to.

    Attributes:
        ends: how many ended how.
        success: completed ones, of those that weren't killed.
        escalation: those that a person had to take over, because the run ended so or somebody said so afterwards.
        latency: from admission to the end, waiting for people included.
        first_response: from admission to the first write.
        cost_micro_usd: of model calls; the least that it can be while `unknown_cost_calls` isn't 0.
        cost_per_completed_micro_usd: the cost of all runs for each completed one, rounded up.
        simulated_runs: of a scripted model, whose cost is made up.
        caching: what prompt caches held, and saved.
        refused: calls that weren't carried out, for whatever reason; `refusals` are the most frequent ones.
        value: what they brought and cost, by the owner's assumptions; None without assumptions, and for people's cases.
    """

    runs: int
    ends: dict[str, int]
    success: Rate
    escalation: Rate
    reopened: Rate
    csat: Satisfaction
    tool_calls: int
    tool_calls_per_task: float | None
    latency: Spread
    first_response: Spread
    cost_micro_usd: int
    cost_per_completed_micro_usd: int | None
    unknown_cost_calls: int
    simulated_runs: int
    caching: Caching
    validation_failures: int
    policy_denials: int
    errors: int
    repeated: int
    refused: int
    approvals: Approvals
    refusals: tuple[Refusal, ...]
    moved: tuple[Moved, ...]
    value: Return | None


class Arm(Frozen):
    """One arm of a rollout: who did the work. `releases`: how many of its runs had which."""

    name: str
    releases: dict[str, int]
    figures: Figures


class Day(Frozen):
    """One UTC day."""

    date: str
    ends: dict[str, int]
    cost_micro_usd: int


class Known(Frozen):
    """What the files say of an agent now.

    Attributes:
        ceiling_micro_usd: what an outcome may cost, if anybody says so.
        spending: what its bundle makes of what outcomes cost now; None when it has no `[outcome]`, and `figures` with it.
    """

    owner: str
    mode: str
    value: Value
    ceiling_micro_usd: int | None = None
    spending: Spending | None = None
    figures: OverCeiling | None = None


class AgentReport(Frozen):
    """An agent's runs of the period. `known` is None when no file says anything of it any more."""

    agent: str
    known: Known | None
    all_runs: Figures
    drafts: Drafts
    arms: tuple[Arm, ...]
    days: tuple[Day, ...]


class Report(Frozen):
    """The answer of `remit report --json`."""

    version: Literal[2] = 2
    made_at: int
    since: int
    until: int
    agents: tuple[AgentReport, ...] = Field(min_length=1)


def report_of(found: Ended, known: Mapping[str, Known], since: int, until: int) -> Report:
    """The report on what ended between `since` and `until`; of at least one run."""
    by_agent: dict[str, list[RunRecord]] = defaultdict(list)
    for run in found.runs:
        by_agent[run.agent].append(run)
    return Report(
        made_at=until,
        since=since,
        until=until,
        agents=tuple(_agent(name, runs, found, known.get(name), since, until) for name, runs in sorted(by_agent.items())),
    )


def _agent(name: str, runs: Sequence[RunRecord], found: Ended, known: Known | None, since: int, until: int) -> AgentReport:
    by_arm: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        by_arm[run.arm].append(run)
    moved = [m for m in found.moved if m.agent == name]
    own = [run for run in runs if run.arm != PEOPLE]
    compared = len(by_arm) > 1 or set(by_arm) != {"agent"}
    return AgentReport(
        agent=name,
        known=known,
        all_runs=_figures(own, found.said, [m for m in moved if m.arm != PEOPLE], known),
        drafts=_drafts(found.drafts.get(name, Accepted())),
        arms=tuple(
            Arm(
                name=arm,
                releases=dict(Counter(run.release for run in some).most_common()),
                figures=_people(some, found.said)
                if arm == PEOPLE
                else _figures(some, found.said, [m for m in moved if m.arm == arm], known),
            )
            for arm, some in sorted(by_arm.items())
        )
        if compared
        else (),
        days=tuple(_days(own, since, until)),
    )


def _figures(runs: Sequence[RunRecord], said: Mapping[str, Outcome], moved: Iterable[MovedSum], known: Known | None) -> Figures:
    ends = Counter(run.outcome for run in runs)
    judged = [run for run in runs if run.outcome != "killed"]  # an off switch says nothing of the agent
    completed, cost = ends["completed"], sum(run.cost_micro_usd for run in runs)
    escalated = sum(run.outcome in ENDED_BY_PEOPLE or bool(_said(said, run).escalated) for run in judged)
    tool_calls = sum(run.tool_calls for run in runs)
    approvals = _approvals(runs)
    reasons = Counter[str]()
    for run in runs:
        if run.reasons:
            reasons.update(json.loads(run.reasons))
    firsts = [run.first_response_ms / 1000 for run in judged if run.first_response_ms is not None]
    return Figures(
        runs=len(runs),
        ends={name: ends[name] for name in (*ENDS, *sorted(set(ends) - {*ENDS})) if ends[name]},
        success=Rate.share(completed, len(judged)),
        escalation=Rate.share(escalated, len(judged)),
        reopened=_reopened(runs, said),
        csat=_satisfaction(runs, said),
        tool_calls=tool_calls,
        tool_calls_per_task=tool_calls / len(runs) if runs else None,
        latency=Spread.over([(run.closed_at - run.started_at) / 1000 for run in judged]),
        first_response=Spread.over(firsts),
        cost_micro_usd=cost,
        cost_per_completed_micro_usd=-(-cost // completed) if completed else None,
        unknown_cost_calls=sum(run.unknown_cost_calls for run in runs),
        simulated_runs=sum(run.simulated for run in runs),
        caching=_caching(runs),
        validation_failures=sum(run.invalid for run in runs),
        policy_denials=sum(run.denied for run in runs),
        errors=sum(run.errors for run in runs),
        repeated=sum(run.repeated for run in runs),
        refused=reasons.total(),
        approvals=approvals,
        refusals=tuple(
            Refusal(code=code, calls=calls)
            for code, calls in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:TOP_REASONS]
        ),
        moved=_moved(moved),
        value=_value(known, len(runs), completed, approvals.reviews, cost),
    )


def _caching(runs: Sequence[RunRecord]) -> Caching:
    total, held = sum(run.input_tokens for run in runs), sum(run.cached_input_tokens for run in runs)
    return Caching(
        input_tokens=total,
        read_tokens=held,
        written_tokens=sum(run.cache_write_tokens for run in runs),
        hit_rate=held / total if total else None,
        saved_micro_usd=sum(run.cache_saved_micro_usd for run in runs),
    )


def _value(known: Known | None, runs: int, completed: int, reviews: int, cost: int) -> Return | None:
    if known is None or not (known.value.minutes_saved and known.value.minute_cents):
        return None
    return returned(known.value, runs=runs, completed=completed, reviews=reviews, model_micro_usd=cost)


def _people(runs: Sequence[RunRecord], said: Mapping[str, Outcome]) -> Figures:
    """Cases of people: of them only that is known which somebody said."""
    told = [_said(said, run) for run in runs if run.run_id in said]
    escalated = [o.escalated for o in told if o.escalated is not None]
    firsts = [o.first_response_ms / 1000 for o in told if o.first_response_ms is not None]
    blank = _figures([], {}, [], None)
    return blank.model_copy(
        update={
            "runs": len(runs),
            "ends": dict(Counter(run.outcome for run in runs)),
            "escalation": Rate.share(sum(escalated), len(escalated)),
            "reopened": _reopened(runs, said),
            "csat": _satisfaction(runs, said),
            "first_response": Spread.over(firsts),
            "cost_micro_usd": sum(o.cost_micro_usd or 0 for o in told),
        }
    )


def _said(said: Mapping[str, Outcome], run: RunRecord) -> Outcome:
    return said.get(run.run_id) or Outcome()


def _reopened(runs: Sequence[RunRecord], said: Mapping[str, Outcome]) -> Rate:
    known = [again for run in runs if (again := _said(said, run).reopened) is not None]
    return Rate.share(sum(known), len(known))


def _satisfaction(runs: Sequence[RunRecord], said: Mapping[str, Outcome]) -> Satisfaction:
    found = [mark for run in runs if (mark := _said(said, run).csat) is not None]
    return Satisfaction(answers=len(found), mean=statistics.fmean(found) if found else None)


def _approvals(runs: Sequence[RunRecord]) -> Approvals:
    totals = {name: sum(getattr(run, name) for run in runs) for name in ("asked", "approved", "rejected", "edited")}
    decided = totals["approved"] + totals["rejected"] + totals["edited"]
    waits: list[float] = []
    for run in runs:
        if run.waits:
            waits += json.loads(run.waits)
    return Approvals(
        **totals,
        undecided=max(0, totals["asked"] - decided),
        # What ended before they were counted took one each, at the least.
        reviews=sum(max(run.reviews, run.approved + run.rejected + run.edited) for run in runs),
        wait=Spread.over(waits),
    )


def _drafts(counts: Accepted) -> Drafts:
    return Drafts(
        put=counts.put,
        accepted=Rate.share(counts.accepted, counts.decided),
        edited=counts.edited,
        rejected=counts.rejected,
        expired=counts.expired,
    )


def _moved(sums: Iterable[MovedSum]) -> tuple[Moved, ...]:
    totals: dict[str, list[int]] = {}
    for each in sums:
        total = totals.setdefault(each.currency, [0, 0, 0])
        for n, more in enumerate((each.cents, each.writes, each.unknown)):
            total[n] += more
    return tuple(
        Moved(amount=Money(cents=cents, currency=currency), writes=writes, unknown=unknown)
        for currency, (cents, writes, unknown) in sorted(totals.items())
    )


def _days(runs: Sequence[RunRecord], since: int, until: int) -> Iterable[Day]:
    """Each UTC day of the period, also one on which nothing ended."""
    day_ms = 86_400_000
    by_day: dict[int, list[RunRecord]] = defaultdict(list)
    for run in runs:
        by_day[run.recorded_at // day_ms].append(run)
    for day in range(since // day_ms, until // day_ms + 1):
        some = by_day.get(day, [])
        yield Day(
            date=datetime.fromtimestamp(day * day_ms / 1000, UTC).strftime("%Y-%m-%d"),
            ends=dict(Counter(run.outcome for run in some)),
            cost_micro_usd=sum(run.cost_micro_usd for run in some),
        )
