"""`remit agents`: who they are, who answers for them, what they may use, what people accept and what outcomes cost."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from policies.autonomy import Accepted
from policies.errors import PolicyInvalid, RemitError
from policies.reviews import WHY
from policies.value import OutcomeRules, OverCeiling, Spending, judge, usd
from remit import render
from remit.settings import Settings

if TYPE_CHECKING:
    from activities.library import AgentFile, Library

__all__ = ["print_agents"]

DAYS = 30
COLUMNS = (
    "Agent",
    "Identity",
    "Owner",
    "Role",
    "Mode",
    "Status",
    "Assurance",
    "Policy",
    "Proposals",
    "Accepted",
    "An outcome",
    "Tools",
    "Scopes",
)


def print_agents(settings: Settings, *, as_json: bool) -> None:
    """The agents, and what people made of their proposals."""
    from remit.apps import assemble
    from remit.reviewing import board

    parts = assemble(settings)
    library = parts.library
    found = [library.agent(name) for name in library.names()]
    tools = board(settings, parts, lenient=True)
    held = {a.name: [(r.tool, WHY[r.state]) for r in tools.held_back(a.name, a.mode)] for a in found}
    counts, costs, unknown = _counted(settings, found, library)
    if as_json:
        render.print_json(
            [
                a.identity.model_dump(mode="json")
                | {"tools": list(a.tools), "policy": a.policy}
                | {"not_offered": [{"tool": tool, "why": why} for tool, why in held[a.name]]}
                | {"proposals": None if counts is None else _as_json(counts.get(a.name, Accepted()))}
                | {"outcome": _outcome_json(costs.get(a.name))}
                for a in found
            ]
        )
        return
    rows = (
        (
            *(a.name, escape(a.id), escape(a.owner), escape(a.role), a.mode, a.status, str(a.assurance), a.policy),
            *_cells(None if counts is None else counts.get(a.name, Accepted())),
            _outcome(costs.get(a.name)),
            *(", ".join(a.tools), ", ".join(a.scopes)),
        )
        for a in found
    )
    out = render.console()
    out.print(render.table("", COLUMNS, rows))
    for a in found:
        for tool, why in held[a.name]:
            out.print(f"{a.name} isn't offered {tool}: {why}; `remit tools review` says more.", markup=False)
    if unknown:
        out.print(f"What people made of proposals isn't known here: {unknown}", markup=False)
    elif counts:
        out.print(f"Proposals and accepted ones: those of the last {DAYS} days.", markup=False)


def _counted(
    settings: Settings, agents: Sequence["AgentFile"], library: "Library"
) -> tuple[dict[str, Accepted] | None, dict[str, tuple[Spending, OverCeiling]], str]:
    """By agent, what people made of its proposals, and what its outcomes cost; or why the ledger doesn't say."""
    from activities.ceilings import outcome_cost
    from activities.ledger import proposals
    from activities.ledger.store import existing

    since = int((time.time() - DAYS * 86_400) * 1000)
    costs: dict[str, tuple[Spending, OverCeiling]] = {}
    try:
        with existing(settings.ledger) as ledger, ledger.reading() as connection:
            for agent in agents:
                if rules := _rules(library, agent.policy):
                    costs[agent.name] = judge(rules, agent.value, outcome_cost(connection, agent.name, rules))
            return proposals.accepted(connection, since), costs, ""
    except RemitError as e:  # the agents are there all the same
        return None, costs, e.message


def _rules(library: "Library", policy: str) -> OutcomeRules | None:
    """What the bundle says of outcomes; nothing for one that can't be used, as `remit policy check` says."""
    try:
        return library.bundle(policy).limits().outcome
    except PolicyInvalid:
        return None


def _outcome(found: tuple[Spending, OverCeiling] | None) -> str:
    """What an outcome costs, of what it may; empty for an agent whose bundle doesn't say."""
    if found is None:
        return ""
    spending, figures = found
    said = f"{usd(figures.micro_usd)} of {usd(figures.ceiling_micro_usd)}"
    return said + {"within": "", "cheaper": ": [yellow]cheaper model only[/]", "stop": ": [red]no new runs[/]"}[spending]


def _outcome_json(found: tuple[Spending, OverCeiling] | None) -> dict[str, object] | None:
    return {"spending": found[0], **found[1].model_dump()} if found else None


def _as_json(counts: Accepted) -> dict[str, object]:
    rate = counts.accepted / counts.decided if counts.decided else None
    return {"days": DAYS, "put": counts.put, **counts.model_dump(), "accepted_rate": rate, "flagged": counts.flagged}


def _cells(counts: Accepted | None) -> tuple[str, str]:
    if counts is None:
        return "?", "?"
    rate = f"{counts.accepted} of {counts.decided}, {counts.percent} %" if counts.decided else ""
    return str(counts.put or ""), f"[red]{rate}: under 70 %[/]" if counts.flagged else rate
