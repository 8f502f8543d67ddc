"""`remit caps`: the caps across runs, what of them is used, and when there is room again."""

from typing import Annotated

import typer

from activities.ledger.rows import CapUse
from policies.errors import NotFound
from remit import render
from remit.options import AsJson
from remit.settings import Settings, load

__all__ = ["caps"]


def caps(
    agent: Annotated[
        str | None, typer.Option(help="Only those of this agent, and the fleet's, which hold for it too.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the caps across runs: how much is used, how much is left, and when there is room again."""
    found = _used(load(), agent)
    if as_json:
        render.print_json([use.model_dump(mode="json") for use in found])
    elif found:
        columns = ("Whose", "Cap", "Limit", "Used", "Left", "Waiting", "Room again", "When reached")
        rows = (
            (
                *(use.scope, use.cap, f"{use.limit:,}", f"{use.used:,}", f"{use.left:,}", str(use.queued or "")),
                *(render.clock(-(-use.room_at // 1000)) if use.room_at else "now" if use.left else "never", use.on_cap),
            )
            for use in found
        )
        render.console().print(render.table("", columns, rows))
    else:
        print("No caps are set; `[caps]` in a bundle sets those of its agents, and the file `REMIT_CAPS` those of all.")


def _used(settings: Settings, agent: str | None) -> list[CapUse]:
    """The use of each cap, the fleet's last.

    Raises:
        NotFound: there is no such agent.
    """
    from activities.caps import LiveCaps
    from activities.ledger import usage
    from activities.ledger.store import existing
    from remit.apps import assemble

    library = assemble(settings).library
    names = library.names()
    if agent is not None and agent not in names:
        raise NotFound(f"There is no agent `{agent[:80]}`; `remit agents` lists them.")
    caps_of = LiveCaps(library, settings.caps)
    held = [each for name in ([agent] if agent else names) for each in caps_of(name)]
    own, fleet = [each for each in held if each.agent], [each for each in held if each.agent is None][:1]
    if not held:
        return []
    with existing(settings.ledger) as ledger, ledger.reading() as connection:
        return [use for each in (*own, *fleet) for use in usage.used(connection, each)]
