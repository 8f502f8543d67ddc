"""A report as tables for a terminal: one line an agent, then all figures of each, its arms side by side."""

from collections.abc import Iterator

from rich.markup import escape

from remit import render
from remit.reporting.figures import AgentReport, Figures, Report
from remit.reporting.words import ARMS, assumptions, lines, money, percent, period, seconds, simulated, spending, unit_cost

__all__ = ["SUMMARY", "figures_of", "row", "tables"]

SUMMARY = ("Agent", "Runs", "Success", "Escalated", "Cost/completed", "p95", "Approvals", "Refused", "Net")


def tables(report: Report) -> Iterator[object]:
    """What to print, in order."""
    yield f"[bold]{escape(period(report))}[/]"
    if note := simulated(report):
        yield f"[yellow]{note}[/]"
    yield render.table("", SUMMARY, (tuple(map(escape, row(agent))) for agent in report.agents))
    for agent in report.agents:
        yield f"\n[bold]{escape(agent.agent)}[/]" + (f"  {escape(agent.known.owner)}" if agent.known else "")
        columns, rows = figures_of(agent)
        yield render.table("", columns, (tuple(map(escape, cells)) for cells in rows))
        for note in (*assumptions(agent), *spending(agent)):
            yield escape(note)


def row(agent: AgentReport) -> tuple[str, ...]:
    """The agent's line under `SUMMARY`."""
    found = agent.all_runs
    return (
        agent.agent,
        str(found.runs),
        percent(found.success),
        percent(found.escalation),
        unit_cost(found),
        seconds(found.latency.p95),
        str(found.approvals.asked or ""),
        str(found.refused or ""),
        money(found.value.net_micro_usd) if found.value else "",
    )


def figures_of(agent: AgentReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The names of the columns, and each figure that any of them has: all runs first, then the arms."""
    columns: list[tuple[str, Figures]] = [("All runs" if agent.arms else "", agent.all_runs)]
    columns += [(ARMS.get(arm.name, arm.name), arm.figures) for arm in agent.arms]
    # Proposals aren't counted by arm.
    each = [lines(figures, agent.drafts if n == 0 else None) for n, (_, figures) in enumerate(columns)]
    rows = [(names[0][0], *(value for _, value in names)) for names in zip(*each, strict=True)]
    return ("", *(name for name, _ in columns)), [cells for cells in rows if any(cells[1:])]
