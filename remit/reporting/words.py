"""Figures in words, the same on the terminal and on the page."""

from datetime import UTC, datetime

from policies.value import usd
from remit.reporting.figures import AgentReport, Caching, Drafts, Figures, Moved, Rate, Report, Spread

__all__ = [
    "ARMS",
    "AT_LEAST",
    "assumptions",
    "hit_rate",
    "interval",
    "lines",
    "money",
    "percent",
    "period",
    "seconds",
    "spending",
    "unit_cost",
]

AT_LEAST = " at least"
ARMS = {"agent": "Not compared", "candidate": "Candidate", "stable": "Stable", "human": "People"}
MINUTE, HOUR, DAY = 60, 3600, 86_400


def money(micro_usd: int) -> str:
    """Dollars to the cent, and to the hundredth of one where it is less than a dollar."""
    if 0 < abs(micro_usd) < 1_000_000:
        return usd(micro_usd)
    cents = (abs(micro_usd) + 5_000) // 10_000
    return f"{'-' if micro_usd < 0 else ''}${cents // 100:,}.{cents % 100:02}"


def period(report: Report) -> str:
    """From when to when it goes."""
    return f"Runs that ended from {_clock(report.since)} to {_clock(report.until)}"


def simulated(report: Report) -> str:
    """What must be said of cost that a script made up; empty when there is none."""
    count = sum(agent.all_runs.simulated_runs for agent in report.agents)
    return f"{count} of these runs had a scripted model: tokens and cost are simulated." if count else ""


def _clock(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def percent(rate: Rate) -> str:
    """A share without its interval; empty where there is nothing to have one of."""
    return "" if rate.value is None else f"{100 * rate.value:.0f} %"


def interval(rate: Rate) -> str:
    """A share with what it is of, and its 95 % interval."""
    if rate.value is None or rate.low is None or rate.high is None:
        return ""
    return f"{percent(rate)} ({rate.count} of {rate.of}; 95 %: {100 * rate.low:.0f} to {100 * rate.high:.0f} %)"


def seconds(value: float | None) -> str:
    """A duration with the unit that suits it."""
    if value is None:
        return ""
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s"


def spread(found: Spread) -> str:
    """Median and p95."""
    return f"median {seconds(found.median)}, p95 {seconds(found.p95)}" if found.of else ""


def unit_cost(found: Figures) -> str:
    """What a completed run cost, and whether that is all of it."""
    if found.cost_per_completed_micro_usd is None:
        return "none completed" if found.success.of else ""
    return money(found.cost_per_completed_micro_usd) + (AT_LEAST if found.unknown_cost_calls else "")


def lines(found: Figures, drafts: Drafts | None) -> list[tuple[str, str]]:
    """Each figure with its name; empty where there is none. The same names, in the same order, each time."""
    asked, value = found.approvals, found.value
    return [
        ("Runs", f"{found.runs}" + (f": {_ends(found)}" if found.ends else "")),
        ("Task success", interval(found.success)),
        ("Human escalation", interval(found.escalation)),
        ("Reopened", interval(found.reopened)),
        ("CSAT", f"{found.csat.mean:.2f} of 5 ({found.csat.answers} answers)" if found.csat.mean is not None else ""),
        ("Latency", spread(found.latency)),
        ("First write after", spread(found.first_response)),
        ("Tool calls per task", "" if found.tool_calls_per_task is None else f"{found.tool_calls_per_task:.1f}"),
        ("Cost per completed task", unit_cost(found)),
        ("Cost", _cost(found)),
        ("Prompt cache", _cached(found.caching)),
        ("Simulated", f"tokens and cost of {_runs(found.simulated_runs)}: a scripted model" if found.simulated_runs else ""),
        ("Validation failures", _count(found.validation_failures)),
        ("Policy denials", _count(found.policy_denials)),
        ("Tool errors", _count(found.errors)),
        ("Repeated calls", _count(found.repeated)),
        ("Approvals asked for", _asked(found)),
        ("Approval wait", spread(asked.wait)),
        ("Drafts accepted", "" if drafts is None else interval(drafts.accepted)),
        ("Why calls were refused", ", ".join(f"{r.code} {r.calls}" for r in found.refusals)),
        ("Moved by writes", "; ".join(map(_moved, found.moved))),
        ("Saved", money(value.saved_micro_usd) if value else ""),
        ("Less model calls", money(value.model_micro_usd) if value else ""),
        ("Less infrastructure", money(value.infrastructure_micro_usd) if value else ""),
        ("Less review", money(value.review_micro_usd) if value else ""),
        ("Net return", money(value.net_micro_usd) if value else ""),
    ]


def assumptions(agent: AgentReport) -> list[str]:
    """What the return rests on, or what it lacks."""
    if agent.known is None:
        return ["No usable `agent.toml` says what an outcome of it is worth."]
    value = agent.known.value
    if not (value.minutes_saved and value.minute_cents):
        return ["Set `minutes_saved` and `minute_cents` under `[value]` in its `agent.toml` to see the return."]
    beside = money(value.infrastructure_micro_usd)
    return [
        f"Assumed in `agent.toml`: a completed run saves {value.minutes_saved} min at ${value.minute_cents / 100:.2f}; a "
        f"person's decision takes {value.review_minutes} min; a run costs {beside} beside its model calls."
    ]


def spending(agent: AgentReport) -> list[str]:
    """Where what outcomes cost stands against the ceiling."""
    known = agent.known
    if known is None or known.ceiling_micro_usd is None:
        return []
    if known.figures is None:
        each = agent.all_runs.cost_per_completed_micro_usd
        over = each is not None and each > known.ceiling_micro_usd
        return [
            f"An outcome may cost {money(known.ceiling_micro_usd)}{', and costs more' if over else ''}; its bundle has no "
            "`[outcome]`, so that nothing follows."
        ]
    what = {
        "within": "New runs begin as usual",
        "cheaper": "New runs keep to the cheaper model",
        "stop": "No new run begins",
    }[known.spending or "within"]
    return [f"{what}: {known.figures.words}."]


def _ends(found: Figures) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.ends.items())


def _cost(found: Figures) -> str:
    lost = found.unknown_cost_calls
    if not (found.cost_micro_usd or lost or found.success.of):
        return ""
    said = "" if found.success.of else ", as somebody said"
    return money(found.cost_micro_usd) + said + (f", and {_calls(lost)} of unknown cost" if lost else "")


def hit_rate(found: Caching) -> str:
    """The share of what was read that came from a prompt cache; empty where none held or took anything."""
    if found.hit_rate is None or not (found.read_tokens or found.written_tokens):
        return ""
    return f"{100 * found.hit_rate:.0f} %"


def _cached(found: Caching) -> str:
    if not (rate := hit_rate(found)):
        return ""
    written = f", {100 * found.written_tokens / found.input_tokens:.0f} % written into it" if found.written_tokens else ""
    saved = found.saved_micro_usd
    what = f"saved {money(saved)}" if saved >= 0 else f"cost {money(-saved)} more than it saved"
    return f"{rate} of {found.input_tokens:,} input tokens read from it{written}; {what}"


def _runs(count: int) -> str:
    return f"{count} {'run' if count == 1 else 'runs'}"


def _calls(count: int) -> str:
    return f"{count} model {'call' if count == 1 else 'calls'}"


def _count(count: int) -> str:
    return str(count) if count else ""


def _asked(found: Figures) -> str:
    asked = found.approvals
    if not asked.asked:
        return ""
    parts = {"approved": asked.approved, "rejected": asked.rejected, "edited": asked.edited, "undecided": asked.undecided}
    return f"{asked.asked}: " + ", ".join(f"{count} {name}" for name, count in parts.items() if count)


def _moved(moved: Moved) -> str:
    unknown = f", {moved.unknown} of them unknown" if moved.unknown else ""
    return f"{moved.amount} by {moved.writes} {'write' if moved.writes == 1 else 'writes'}{unknown}"
