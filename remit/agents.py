"""`remit agents`: who they are, who answers for them, what they may use, and what people make of their proposals."""

import time

from rich.markup import escape

from policies.autonomy import Accepted
from policies.errors import RemitError
from policies.reviews import WHY
from remit import render
from remit.settings import Settings

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
    counts, why = _accepted(settings)
    if as_json:
        render.print_json(
            [
                a.identity.model_dump(mode="json")
                | {"tools": list(a.tools), "policy": a.policy}
                | {"not_offered": [{"tool": tool, "why": why} for tool, why in held[a.name]]}
                | {"proposals": None if counts is None else _as_json(counts.get(a.name, Accepted()))}
                for a in found
            ]
        )
        return
    rows = (
        (
            *(a.name, escape(a.id), escape(a.owner), escape(a.role), a.mode, a.status, str(a.assurance), a.policy),
            *_cells(None if counts is None else counts.get(a.name, Accepted())),
            *(", ".join(a.tools), ", ".join(a.scopes)),
        )
        for a in found
    )
    out = render.console()
    out.print(render.table("", COLUMNS, rows))
    for a in found:
        for tool, why in held[a.name]:
            out.print(f"{a.name} isn't offered {tool}: {why}; `remit tools review` says more.", markup=False)
    if why:
        out.print(f"What people made of proposals isn't known here: {why}", markup=False)
    elif counts:
        out.print(f"Proposals and accepted ones: those of the last {DAYS} days.", markup=False)


def _accepted(settings: Settings) -> tuple[dict[str, Accepted] | None, str]:
    """By agent, what people made of its proposals; or why the ledger doesn't say."""
    from activities.ledger import proposals
    from activities.ledger.store import existing

    since = int((time.time() - DAYS * 86_400) * 1000)
    try:
        with existing(settings.ledger) as ledger, ledger.reading() as connection:
            return proposals.accepted(connection, since), ""
    except RemitError as e:  # the agents are there all the same
        return None, e.message


def _as_json(counts: Accepted) -> dict[str, object]:
    rate = counts.accepted / counts.decided if counts.decided else None
    return {"days": DAYS, "put": counts.put, **counts.model_dump(), "accepted_rate": rate, "flagged": counts.flagged}


def _cells(counts: Accepted | None) -> tuple[str, str]:
    if counts is None:
        return "?", "?"
    rate = f"{counts.accepted} of {counts.decided}, {counts.percent} %" if counts.decided else ""
    return str(counts.put or ""), f"[red]{rate}: under 70 %[/]" if counts.flagged else rate
