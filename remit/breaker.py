"""`remit breaker`: what the anomaly breaker sees, what it did, and how a person puts an agent back."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape

from activities.ledger.rows import Override, TripRecord
from policies.anomaly import Reading
from policies.errors import InvalidInput
from remit import render
from remit.apps import assemble
from remit.connection import connect
from remit.fleet import Fleet, audience
from remit.options import AsJson
from remit.session import Signer
from remit.settings import load
from workflows.fleet_messages import Autonomy

__all__ = ["breaker"]

REASON_LENGTH = 500
SHOWN = 20

breaker = typer.Typer(help="The anomaly breaker: its rules, what they see now, and what it did.", invoke_without_command=True)


@breaker.callback()
def shown(
    ctx: typer.Context,
    agent: Annotated[str | None, typer.Option(help="Only this agent.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show each rule with its value now, agents that are stepped down, and the latest trips with their numbers."""
    if ctx.invoked_subcommand:
        return
    from activities.breaking import readings
    from activities.ledger import breaker as kept
    from activities.ledger.store import existing

    settings = load()
    library = assemble(settings).library
    if agent is not None:
        library.agent(agent)  # says so if there is none
    with existing(settings.ledger) as ledger, ledger.reading() as connection:
        seen = [r for r in readings(connection, library, int(time.time() * 1000)) if agent in (None, r.agent)]
        lowered = [o for o in kept.overrides(connection) if agent in (None, o.agent)]
        trips = kept.recorded(connection, agent=agent, limit=SHOWN)
    if as_json:
        rows = [{**r.model_dump(mode="json"), "value": r.value} for r in seen]
        found = {"stepped_down": [o.model_dump() for o in lowered], "trips": [_as_json(t) for t in trips]}
        render.print_json({"rules": rows, **found})
    else:
        _print(seen, lowered, trips)


def _as_json(trip: TripRecord) -> dict[str, object]:
    return {**trip.model_dump(), "rule": json.loads(trip.rule), "figures": json.loads(trip.figures)}


def _print(seen: list[Reading], lowered: list[Override], trips: Sequence[TripRecord]) -> None:
    out = render.console()
    if not seen:
        print("No rules; `[[breaker]]` in a bundle's `limits.toml` makes some.")
    else:
        columns = ("Agent", "Mode", "Looks at", "Window", "Now", "Limit", "Then")
        rows = (
            (
                escape(r.agent),
                r.mode,
                r.rule.measure,
                f"{r.rule.window_minutes} min",
                "too little" if r.value is None else _number(r.value),
                _number(r.rule.limit),
                r.rule.action,
            )
            for r in seen
        )
        out.print(render.table("", columns, rows))
    for o in lowered:
        since = render.clock(o.set_at // 1000)
        out.print(f"{o.agent} may do no more than `{o.mode}` since {since}, by {o.set_by}: {o.reason}", markup=False)
    for t in trips:
        rule = json.loads(t.rule)
        did = f"{t.mode_before} to {t.mode_after}" if t.action == "step_down" else t.action
        end = f"; put back {render.clock(t.put_back_at // 1000)} by {t.put_back_by}" if t.put_back_at else ""
        said = f"{t.agent}, {rule['measure']} {_number(t.value)} above {_number(rule['limit'])}: {did}{end}"
        out.print(f"{render.clock(t.at // 1000)}  {said}", markup=False)


@breaker.command(name="put-back")
def put_back(
    agent: Annotated[str, typer.Argument(help="The agent that was stepped down.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why it may go on as its file says.", show_default=False)],
    who: Annotated[
        str | None, typer.Option("--as", help="Who signs for it; by default whoever is logged in.", show_default=False)
    ] = None,
) -> None:
    """Let an agent do again what its `agent.toml` says; you sign for it. Its rules count from now on."""
    if not reason.strip():
        raise InvalidInput("`--reason` is empty; say why the agent may go on.")
    from activities.ledger import breaker as kept
    from activities.ledger.store import existing

    settings = load()
    signer = Signer(settings, who)
    assemble(settings).library.agent(agent)
    with existing(settings.ledger) as ledger, ledger.reading() as connection:
        lowered = kept.override(connection, agent)

    async def work() -> Autonomy:
        client = await connect(settings)
        epoch, workers = lowered.epoch if lowered else 0, audience(client, settings)
        token = signer.command("put_back", scope=f"agent:{agent}", epoch=epoch, audience=workers, reason=reason[:REASON_LENGTH])
        return await Fleet(client, settings.task_queue).put_back(agent, token)

    found = asyncio.run(work())
    if found.status == "unchanged":
        raise InvalidInput(f"The breaker has done nothing to `{agent}` that isn't settled; nothing was changed.")
    print(f"{agent} may do again what its file says, says {signer.sub}; it was at `{found.mode}`.")


def _number(value: float) -> str:
    """As people read it: with few digits when it is small, and whole when it is large."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
