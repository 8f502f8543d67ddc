"""`remit people`: who may decide, and who is suspended."""

import getpass
from contextlib import suppress
from typing import Annotated

import typer
from rich.markup import escape

from activities.ledger.rows import Standing
from policies.errors import InvalidInput, RemitError
from policies.identity import Directory, Person
from remit import render
from remit import session as sessions
from remit.options import AsJson
from remit.settings import Settings, load

__all__ = ["people"]

people = typer.Typer(help="The people who may decide.", invoke_without_command=True)
REASON_LENGTH = 500

Sub = Annotated[str, typer.Argument(help="Who, by the name that `remit people` lists.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why.", show_default=False)]
By = Annotated[str | None, typer.Option("--as", help="Who says so; by default whoever is logged in.", show_default=False)]


@people.callback()
def listed(
    ctx: typer.Context,
    as_json: AsJson = False,
) -> None:
    """List the people: their roles, until when their keys sign, and who is suspended, by whom and why."""
    if ctx.invoked_subcommand:
        return
    from activities.ledger import people as rows
    from activities.ledger.store import existing
    from remit.directory import LiveDirectory

    settings = load()
    with existing(settings.ledger) as ledger:
        with LiveDirectory(settings, ledger) as directory:
            found = directory()
        standing = {sub: s for sub, s in rows.standing(ledger).items() if s.suspended}
    if as_json:
        rows_json: list[dict[str, object]] = [p.model_dump(mode="json") for p in found.people]
        gone: list[dict[str, object]] = [s.model_dump(mode="json") for s in standing.values()]
        render.print_json(
            [*({**row, "suspended": None} for row in rows_json), *({"sub": g["sub"], "suspended": g} for g in gone)]
        )
        return
    if not found.people and not standing:
        print("Nobody; people appear when they log in with `remit login`." if settings.oidc else "Nobody.")
        return
    rows_ = [(escape(p.sub), escape(", ".join(p.roles)), _until(p), "") for p in found.people]
    rows_ += [(escape(s.sub), "", "", escape(_said(s))) for s in standing.values()]
    render.console().print(render.table("", ("Person", "Roles", "Key signs until", "Suspended"), rows_))


@people.command()
def suspend(sub: Sub, reason: Reason = ..., who: By = None) -> None:  # type: ignore[assignment]
    """Take a person out of the directory at once: nothing that they approved may happen any more, and they decide nothing."""
    _set(sub, suspended=True, reason=reason, who=who)


@people.command()
def restore(sub: Sub, reason: Reason = ..., who: By = None) -> None:  # type: ignore[assignment]
    """Let a suspended person back in."""
    _set(sub, suspended=False, reason=reason, who=who)


def _set(sub: str, *, suspended: bool, reason: str, who: str | None) -> None:
    if not reason.strip():
        raise InvalidInput("`--reason` is empty; say why.")
    if len(reason) > REASON_LENGTH:
        raise InvalidInput(f"`--reason` has {len(reason)} characters; {REASON_LENGTH} are the most.")
    if not sub.strip() or len(sub) > 200 or not sub.isprintable():
        raise InvalidInput("A person's name has 1 to 200 letters that can be printed.")
    from activities.ledger import people as rows
    from activities.ledger.store import existing
    from remit.directory import LiveDirectory

    settings = load()
    by = _by(settings, who)
    with existing(settings.ledger) as ledger:
        known = Directory()
        with suppress(RemitError), LiveDirectory(settings, ledger) as directory:  # nobody is kept in: the issuer may be away
            known = directory()
        gone = frozenset(s.sub for s in rows.standing(ledger).values() if s.suspended)
        name, seen = _name(sub, known, gone)
        changed = rows.set_standing(ledger, name, suspended=suspended, reason=reason, by=by)
    state = "suspended" if suspended else "restored" if changed else "not suspended"
    already = "" if changed or not suspended else " already"
    unseen = "" if seen else "; the directory knows nobody of this name, so check its spelling"
    print(f"{name} is{already} {state}{unseen}.")


def _by(settings: Settings, who: str | None) -> str:
    if settings.oidc and (who or sessions.saved(settings.home)):
        return sessions.acting(settings, who or "").sub
    if who and not settings.oidc:
        return sessions.named(settings, who)[0]
    return f"os:{getpass.getuser()}"  # whoever may run this holds the ledger's password; a leaver must be suspendable by them


def _name(sub: str, known: Directory, gone: frozenset[str]) -> tuple[str, bool]:
    """The full name of `sub`, and whether anybody is called so. The part before the `@` is enough when it is one person's."""
    names = {p.sub for p in known.people} | gone
    short = [n for n in names if n.partition("@")[0] == sub]
    if sub in names or len(short) != 1:
        return sub, sub in names
    return short[0], True


def _until(person: Person) -> str:
    ends = [k.not_after for k in person.keys if k.not_after is not None]
    return render.clock(max(ends)) if ends else "always" if person.keys else "never"


def _said(standing: Standing) -> str:
    return f"{render.clock(standing.set_at // 1000)} by {standing.set_by}: {standing.reason}"
