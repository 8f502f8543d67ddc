"""`remit delegate`, `remit capabilities`, `remit keys`: who gave an agent what, how that ends, and the keys that sign it."""

import re
import secrets
import time
from base64 import urlsafe_b64decode
from typing import Annotated

import typer

from activities.ledger.rows import Capability, CapabilityKind
from policies.capability import Grant, sign
from policies.errors import InvalidInput
from policies.models import Money
from remit import render
from remit.effects import decider
from remit.keyring import RootKeys
from remit.options import AsJson
from remit.session import Signer
from remit.settings import Settings, load

__all__ = ["capabilities", "delegate", "keys", "seconds_of"]

capabilities = typer.Typer(help="What runs were permitted, by whom and until when.", invoke_without_command=True)
keys = typer.Typer(help="The root keys that sign capabilities.", invoke_without_command=True)
As = Annotated[
    str | None,
    typer.Option("--as", help="Who does it, for example `ana`; by default whoever is logged in.", show_default=False),
]
Reason = Annotated[str, typer.Option(help="Why.", show_default=False)]
REASON_LENGTH = 500
LONGEST_SECONDS = 86_400
UNITS = {"s": 1, "m": 60, "h": 3600}


def delegate(
    agent: Annotated[str, typer.Argument(help="The agent, as `remit agents` lists it.", show_default=False)],
    tool: Annotated[str, typer.Option(help="The tool that it may use.", show_default=False)] = ...,  # type: ignore[assignment]
    subject: Annotated[
        str, typer.Option(help="Whom it may use it for, for example `Customer:cus_7`.", show_default=False)
    ] = ...,  # type: ignore[assignment]
    who: As = None,
    reason: Reason = ...,  # type: ignore[assignment]
    ttl: Annotated[str, typer.Option(help="For how long, for example `10m`; a day at most.")] = "10m",
    max_cents: Annotated[
        int | None, typer.Option(min=1, max=2**53 - 1, help="The most it may move in all, for a tool that moves money.")
    ] = None,
    currency: Annotated[str, typer.Option(help="Of `--max-cents`.")] = "USD",
    as_json: AsJson = False,
) -> None:
    """Hand AGENT one tool that it doesn't have, for one subject, one run and a short time; you sign for it."""
    from activities.ledger.store import existing
    from remit.apps import assemble

    settings = load()
    seconds = seconds_of(ttl, "--ttl")
    said = _reason(reason)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*:\S{1,200}", subject):
        raise InvalidInput("`--subject` is a kind and an id, for example `Customer:cus_7`, as `remit show` says it of a run.")
    if not re.fullmatch(r"[A-Z]{3}", currency):
        raise InvalidInput("`--currency` takes three capital letters, for example `USD`.")
    parts = assemble(settings)
    file = parts.library.agent(agent)
    if tool not in parts.catalog.specs:
        raise InvalidInput(f"There is no tool `{tool}`; `remit tools` lists them.")
    if tool in file.tools:
        raise InvalidInput(f"Agent `{agent}` has `{tool}` already; its policy says what it may do with it.")
    if file.subject is None:
        raise InvalidInput(f"Agent `{agent}` works without a subject, so nothing can be delegated for one.")
    spec = parts.catalog.specs[tool]
    if (spec.amount_fields is None) != (max_cents is None):
        raise InvalidInput(
            f"`{tool}` moves {'no ' if max_cents else ''}money; {'leave out' if max_cents else 'give'} `--max-cents`."
        )
    signer = Signer(settings, who)
    roles = parts.library.bundle(file.policy).limits().approvals.roles
    if not set(signer.roles) & set(roles):
        raise InvalidInput(f"`{signer.sub}` may not delegate to `{agent}`; that takes one of: {', '.join(roles) or 'no role'}.")
    now = int(time.time())
    ceiling = Money(cents=max_cents, currency=currency) if max_cents else None
    grant = Grant(agent=file.id, subject=subject, tools=(spec.id,), ceiling=ceiling, expires_at=now + seconds, reason=said)
    private = str(signer.key.as_dict(private=True)["d"])
    row = Capability(
        id=f"cap_{secrets.token_hex(12)}",
        kind="delegation",
        run_id="",
        agent=file.name,
        tools=spec.id,
        subject=subject,
        ceiling_cents=ceiling.cents if ceiling else 0,
        currency=ceiling.currency if ceiling else "",
        issuer=signer.sub,
        key_id=str(signer.key.kid),
        reason=said,
        token=sign(grant, urlsafe_b64decode(private + "=" * (-len(private) % 4))),
        minted_at=now * 1000,
        expires_at=grant.expires_at,
    )
    with existing(settings.ledger) as ledger:
        ledger.keep(row)
    if as_json:
        render.print_json(_shown(row))
        return
    most = f", {ceiling} at most" if ceiling else ""
    print(
        f"{row.id}: the next run of {agent} for {subject} may use {tool}{most}, if it starts by {render.clock(row.expires_at)}"
    )
    print(f"Take it back with: remit capabilities revoke {row.id} --as {signer.sub} --reason '...'")


@capabilities.callback()
def listed(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Option(help="Only those of this run id.", show_default=False)] = None,
    kind: Annotated[CapabilityKind | None, typer.Option(help="Only those of this kind.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List capabilities, oldest first: what each permits and until when. Tokens are never shown."""
    if ctx.invoked_subcommand:
        return
    from activities.ledger.store import existing

    with existing(load().ledger) as ledger:
        rows = ledger.capabilities(run, kind)
    if as_json:
        render.print_json([_shown(r) for r in rows])
    elif rows:
        render.console().print(render.capabilities(rows))
    else:
        print("No capabilities.")


@capabilities.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="ID", help="As `remit capabilities` lists it.", show_default=False)],
    who: As = None,
    reason: Reason = ...,  # type: ignore[assignment]
) -> None:
    """End a capability or a delegation. When this returns with 0, no write is reserved under it any more."""
    from activities.ledger.store import existing

    settings, said = load(), _reason(reason)
    with existing(settings.ledger) as ledger:
        row = ledger.revoke(name, decider(settings, who), said)
    print(f"{row.id} was revoked by {row.revoked_by}; no write starts under it any more.")


@keys.callback()
def root_keys(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the root keys, oldest first; the last one signs."""
    if ctx.invoked_subcommand:
        return
    found = _root_keys(load()).list()
    if as_json:
        render.print_json([k.model_dump(exclude={"private"}) | {"signs": k == found[-1]} for k in found])
    elif found:
        rows = ((str(k.id), render.clock(k.created_at), "signs" if k == found[-1] else "verifies", k.public) for k in found)
        render.console().print(render.table("", ("Key", "Made", "Use", "Public key"), rows))
    else:
        print("No root keys yet; a worker makes the first one, or `remit keys rotate`.")


@keys.command()
def rotate(
    if_none: Annotated[bool, typer.Option("--if-none", help="Do nothing when there is a key already.")] = False,
) -> None:
    """Add a root key, which signs from now on. Running workers take it up; what the older ones signed still holds."""
    found = _root_keys(load())
    if if_none and (there := found.list()):
        print(f"Root key {there[-1].id} signs already.")
        return
    key = found.rotate()
    print(
        f"Root key {key.id} signs from now on. Retire the older ones when the runs that were admitted under them have closed."
    )


@keys.command()
def retire(key_id: Annotated[int, typer.Argument(metavar="KEY", help="As `remit keys` lists it.", show_default=False)]) -> None:
    """Remove a root key: what it signed is refused from now on."""
    _root_keys(load()).retire(key_id)
    print(f"Root key {key_id} is retired; what it signed is refused.")


def _root_keys(settings: Settings) -> RootKeys:
    return RootKeys(settings.root_keys_path, env=settings.env)


def _shown(row: Capability) -> dict[str, object]:
    return row.model_dump(mode="json", exclude={"token"})


def seconds_of(ttl: str, option: str) -> int:
    """What a duration such as `10m` is in seconds.

    Raises:
        InvalidInput: it is none, or over a day.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smh])", ttl)
    seconds = int(found[1]) * UNITS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_SECONDS:
        raise InvalidInput(f"`{option}` takes a number with `s`, `m` or `h`, for example `10m`; a day at most.")
    return seconds


def _reason(reason: str) -> str:
    if not reason.strip() or len(reason) > REASON_LENGTH:
        raise InvalidInput(f"`--reason` takes 1 to {REASON_LENGTH} characters that say why.")
    return reason.strip()
