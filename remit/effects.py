"""`remit effects`: what the ledger holds of writes, and how a person settles one whose outcome nobody knows."""

from typing import Annotated

import typer

from activities.ledger.rows import EffectState
from policies.errors import InvalidInput
from remit import render
from remit.options import AsJson
from remit.session import named
from remit.settings import Settings, load

__all__ = ["decider", "effects"]

effects = typer.Typer(help="The writes that the ledger knows.", invoke_without_command=True)
REASON_LENGTH = 500


@effects.callback()
def listed(
    ctx: typer.Context,
    state: Annotated[EffectState | None, typer.Option(help="Only those in this state.", show_default=False)] = None,
    run: Annotated[str | None, typer.Option(help="Only this run's, by its workflow id or run id.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List the writes in the ledger, oldest first; `indeterminate` ones are for a person to resolve."""
    if ctx.invoked_subcommand:
        return
    from activities.ledger.store import existing

    with existing(load().ledger) as ledger:
        rows = ledger.effects(run, state)
    if as_json:
        render.print_json([e.model_dump(mode="json") for e in rows])
    elif rows:
        render.console().print(render.effects(rows))
    else:
        print("No effects.")


@effects.command()
def resolve(
    key: Annotated[str, typer.Argument(help="The effect's key, as `remit effects` lists it.", show_default=False)],
    happened: Annotated[
        bool, typer.Option("--happened/--did-not-happen", help="What the vendor's own records say.", show_default=False)
    ] = ...,  # type: ignore[assignment]
    who: Annotated[
        str | None,
        typer.Option("--as", help="Who says so, for example `ana`; by default whoever is logged in.", show_default=False),
    ] = None,
    reason: Annotated[str, typer.Option(help="How you know.", show_default=False)] = ...,  # type: ignore[assignment]
) -> None:
    """Settle an `indeterminate` write, after looking at the vendor's records. Nothing is sent to the vendor."""
    if not reason.strip():
        raise InvalidInput("`--reason` is empty; say how you know what became of the write.")
    if len(reason) > REASON_LENGTH:
        raise InvalidInput(f"`--reason` has {len(reason)} characters; {REASON_LENGTH} are the most.")
    from activities.ledger.store import existing

    settings = load()
    with existing(settings.ledger) as ledger:
        person = decider(settings, who)
        effect = ledger.resolve(key, happened=happened, by=person, reason=reason)
    counts = "counts towards the sums" if happened else "counts no more"
    print(f"{key} is {effect.state}, says {person}; it {counts}.")


def decider(settings: Settings, who: str | None) -> str:
    """The name of `who`, or of whoever is logged in, if they may decide anything.

    Raises:
        NotFound, LoginRefused: nobody is.
        InvalidInput: they have no role.
    """
    person, roles = named(settings, who)
    if not roles:
        raise InvalidInput(f"`{person}` has no role, and so may decide nothing.")
    return person
