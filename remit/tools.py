"""`remit tools`: what agents can be given, what reviewers look at, and how they sign for it."""

import json
import sys
import time
from typing import Annotated, cast

import typer
from pydantic import JsonValue
from rich.markup import escape

from policies.control import Signable
from policies.errors import InvalidInput
from policies.reviews import WHY, Kept, Review, Shipped
from remit import render
from remit.options import AppDir, AsJson
from remit.settings import ROOT, Settings, load
from tools.spec import ToolSpec

__all__ = ["tools"]

REASON_LENGTH = 500
SHOWN_TESTS = 3

tools = typer.Typer(help="Tools, and the reviews of those that write.", invoke_without_command=True)
Name = Annotated[str, typer.Argument(help="The tool, as `remit tools` lists it.", show_default=False)]
As = Annotated[str | None, typer.Option("--as", help="Who signs for it; by default whoever is logged in.", show_default=False)]


@tools.callback()
def listed(ctx: typer.Context, as_json: AsJson = False, app_dir: AppDir = None) -> None:
    """List the tools: what they touch, how risky they are, how a write is kept from happening twice."""
    del app_dir
    if ctx.invoked_subcommand:
        return
    from remit.apps import assemble

    specs = list(assemble(load()).catalog.specs.values())
    if as_json:
        render.print_json(
            [
                {
                    "name": s.name,
                    "version": s.version,
                    "effect": s.effect,
                    "risk": s.risk,
                    "scope": s.scope,
                    "resource": s.resource_type,
                    "idempotency": s.idempotency,
                    "description": s.description,
                    "arguments": s.schema,
                    "digest": s.digest,
                }
                for s in specs
            ]
        )
        return
    render.console().print(
        render.table(
            "",
            ("Tool", "Effect", "Risk", "Scope", "Acts on", "Idempotency"),
            ((s.id, s.effect, s.risk, s.scope, s.resource_type, s.idempotency or "") for s in specs),
        )
    )


@tools.command()
def review(
    check: Annotated[
        bool, typer.Option("--check", help="Only say what of agents in `live` mode isn't reviewed; 1 if anything is.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="In a checkout of Remit: renew the reviews that it ships; takes `--note`.")
    ] = False,
    note: Annotated[str, typer.Option(help="What was looked at.")] = "",
    as_json: AsJson = False,
    app_dir: AppDir = None,
) -> None:
    """Show what a reviewer must know of each tool, and whether it still is as somebody reviewed it."""
    from remit.apps import assemble
    from remit.reviewing import board

    del app_dir
    settings = load()
    parts = assemble(settings)
    if write:
        _write(settings, note)
        return
    found = board(settings, parts)
    if check:
        missing = found.unreviewed()
        if as_json:
            render.print_json({"ok": not missing, "unreviewed": [{"agent": a} | r.model_dump(mode="json") for a, r in missing]})
        for agent, each in missing if not as_json else ():
            print(f"remit: `{agent}` is live, and its tool `{each.tool}` is {_why(each)}.", file=sys.stderr)
        if not missing and not as_json:
            print("Every tool with which an agent in `live` mode writes is as it was reviewed.")
        raise typer.Exit(1 if missing else 0)
    from remit.coverage import naming

    roots = {spec.name: source.root for source in parts.sources for spec in parts.specs(source)}
    tests = naming(roots)
    specs = list(parts.catalog.specs.values())
    if as_json:
        render.print_json([_as_json(spec, found.reviews.get(spec.name), tests[spec.name]) for spec in specs])
        return
    out = render.console()
    for spec in specs:
        if spec.effect == "write":
            for line in _lines(spec, found.reviews[spec.name], tests[spec.name]):
                out.print(line)
    reads = [s for s in specs if s.effect == "read"]
    columns = ("Read", "Scope", "Risk", "Acts on", "Takes", "Text from outside", "Tests")
    rows = (
        (
            *(s.id, s.scope, s.risk, s.resource_type, escape("; ".join(_constraints(s.schema)) or "nothing")),
            *("yes" if s.untrusted else "", _tests(tests[s.name], shown=0)),
        )
        for s in reads
    )
    out.print(render.table("", columns, rows))
    if found.why:
        out.print(f"Only reviews that came with this release are known here. {found.why}", markup=False)


@tools.command()
def approve(
    name: Name,
    reason: Annotated[str, typer.Option(help="What you looked at, and why it may be used.", show_default=False)],
    who: As = None,
    app_dir: AppDir = None,
) -> None:
    """Sign that you reviewed a tool that writes, as it is now; agents in `live` mode get it, until it changes."""
    del app_dir
    _say(name, "tool_approve", reason, who)


@tools.command()
def withdraw(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why it mustn't be used.", show_default=False)],
    who: As = None,
    app_dir: AppDir = None,
) -> None:
    """Sign that the reviews of a tool count no more: new runs of agents in `live` mode don't get it.

    Runs that are open keep it; `remit kill --tool` stops it there too.
    """
    del app_dir
    _say(name, "tool_withdraw", reason, who)


def _say(name: str, action: Signable, reason: str, who: str | None) -> None:
    from activities.described import describe
    from activities.ledger import reviews
    from activities.ledger.store import existing
    from remit.apps import assemble
    from remit.reviewing import audience
    from remit.session import Signer

    if not reason.strip() or len(reason) > REASON_LENGTH:
        raise InvalidInput(f"`--reason` takes 1 to {REASON_LENGTH} characters that say why.")
    settings = load()
    parts = assemble(settings)
    spec = parts.catalog.specs.get(name)
    if spec is None:
        raise InvalidInput(f"There is no tool `{name[:80]}`; `remit tools` lists them.")
    if spec.effect != "write":
        raise InvalidInput(f"`{name}` reads; only tools that write are reviewed.")
    described = describe(spec)
    signer = Signer(settings, who)
    roles = settings.reviewing_roles
    if not signer.roles or (roles and not {*roles} & {*signer.roles}):
        raise InvalidInput(f"`{signer.sub}` may not review tools; that takes {' or '.join(roles) or 'a role'}.")
    if signer.sub in parts.library.identities():
        raise InvalidInput(f"`{signer.sub}` is an agent; people review tools.")
    said = reason.strip()
    scope = f"tool:{spec.id}"
    token = signer.command(action, scope=scope, epoch=0, audience=audience(settings), reason=said, digest=described.digest)
    row = Kept(
        tool=spec.name,
        version=spec.version,
        digest=described.digest,
        description=described.model_dump_json(),
        action=action,
        by=signer.sub,
        key_id=str(signer.key.kid),
        statement=token,
        reason=said,
        at=int(time.time() * 1000),
    )
    with existing(settings.ledger) as ledger, ledger.begin() as connection:
        reviews.add(connection, row)
    if action == "tool_approve":
        print(f"{spec.id} is reviewed by {signer.sub}, as {described.digest[:19]}; new runs of agents in `live` mode get it.")
    else:
        print(f"The reviews of {spec.id} count no more, says {signer.sub}; new runs of agents in `live` mode don't get it.")
        print(f"Stop it in open runs too with: remit kill --tool {spec.name} --reason '...'")


# ---- what is shown ----------------------------------------------------------------------------------------------------


def _why(review: Review) -> str:
    changed = f": {', '.join(review.changed)}" if review.state == "changed" and review.changed else ""
    return f"{WHY.get(review.state, review.state)}{changed}"


def _standing(review: Review) -> str:
    by = f"by {review.by}" + (f", {render.clock(review.at // 1000)}" if review.at else "")
    said = f" ({review.reason})" if review.reason else ""
    match review.state:
        case "reviewed":
            text, style = f"reviewed {by}{said}", "green"
        case "changed":
            text, style = f"CHANGED since it was reviewed {by}{said}: {', '.join(review.changed) or 'how isn’t known'}", "red"
        case "withdrawn":
            text, style = f"its review was WITHDRAWN {by}{said}", "red"
        case "never":
            text, style = "NEVER REVIEWED; with `REMIT_ENV=production`, no agent in `live` mode gets it", "yellow"
    more = f"; {review.ignored} rows about it don't verify and count for nothing" if review.ignored else ""
    return f"[{style}]{escape(text + more)}[/]"


def _lines(spec: ToolSpec, review: Review, tests: list[str]) -> list[str]:
    from activities.described import describe

    said = describe(spec)
    again = {
        "native_key": "the vendor knows the key; it is sent again",
        "lookup": "the vendor is asked first" + (f", again after {spec.settle_seconds} s" if spec.settle_seconds else ""),
        "at_most_once": "it is never sent again; a person looks",
    }[said.idempotency]
    logs = f"its code uses {', '.join(said.logs)}: look at what it writes" if said.logs else "its code writes none"
    owner = f"asked of {', '.join(said.facts)}" if said.facts else "by its arguments alone"
    facts = [
        ("Scope, risk", f"{said.scope}, {said.risk}" + (", text from outside" if said.untrusted else "")),
        ("Acts on", said.resource + (f"; moves {said.amount}" if said.amount else "; moves no money")),
        ("Validation", "; ".join(_constraints(spec.schema)) or "no arguments"),
        ("Rules", f"{'business rules' if said.rules else 'no business rules'}; whose it is, {owner}"),
        ("Idempotency", f"{said.idempotency}: {again}"),
        ("Connectors", ", ".join(said.connectors) or "none that its code names"),
        ("Logging", f"{logs}; each call is kept in its run's history, its result in the ledger too"),
        ("Tests", _tests(tests)),
        ("Digest", f"{review.digest}; declaration {spec.digest[:19]}, code {said.code[:19] or 'not readable'}"),
    ]
    return [f"[bold]{escape(spec.id)}[/]  {_standing(review)}", *(f"  {label:<12} {escape(text)}" for label, text in facts), ""]


def _tests(found: list[str], shown: int = SHOWN_TESTS) -> str:
    if not found:
        return "none found"
    files = f"{len(found)} file{'s' if len(found) > 1 else ''}"
    return f"{files} that name it: {', '.join(found[:shown])}{', …' if len(found) > shown else ''}" if shown else files


def _as_json(spec: ToolSpec, review: Review | None, tests: list[str]) -> dict[str, object]:
    from activities.described import describe

    more = {"review": review.model_dump(mode="json"), "digest": review.digest} if review else {}
    return {**describe(spec).model_dump(mode="json"), "tests": tests, "declaration": spec.digest, **more}


def _constraints(schema: dict[str, object]) -> list[str]:
    """What pydantic holds each argument to, in words; the whole is in the JSON."""
    known = cast(dict[str, dict[str, JsonValue]], schema.get("properties", {}))
    needed = cast(list[str], schema.get("required", []))
    return [f"{name} {_held_to(each)}" + ("" if name in needed else " (may be left out)") for name, each in known.items()]


def _held_to(field: dict[str, JsonValue]) -> str:
    if "const" in field:
        return f"is {json.dumps(field['const'])}"
    if isinstance(values := field.get("enum"), list):
        return f"is one of {', '.join(map(str, values))}"
    words = [str(field.get("type", "as in the schema"))]
    for key, word in (
        ("minimum", "from"),
        ("exclusiveMinimum", "above"),
        ("maximum", "to"),
        ("exclusiveMaximum", "below"),
        ("minLength", "at least"),
        ("maxLength", "at most"),
        ("minItems", "at least"),
        ("maxItems", "at most"),
        ("pattern", "matching"),
        ("format", "as"),
    ):
        if key in field:
            words += [word, str(field[key]) + (" long" if "Length" in key or "Items" in key else "")]
    return " ".join(words)


# ---- what ships -------------------------------------------------------------------------------------------------------


def _write(settings: Settings, note: str) -> None:
    """Renew the reviews of the built-in tools: of those that changed, by whoever commits the file."""
    from activities.described import describe
    from remit.apps import REVIEWED, assemble

    if not note.strip():
        raise InvalidInput("`--write` takes a `--note` that says what was looked at.")
    parts = assemble(settings.model_copy(update={"app": None}), ROOT)
    writes = [describe(s) for s in parts.catalog.specs.values() if s.effect == "write"]
    before = parts.reviewed
    on = time.strftime("%Y-%m-%d", time.gmtime())
    after = {
        d.name: kept
        if (kept := before.get(d.name)) and kept.digest == d.digest
        else Shipped(digest=d.digest, note=note.strip(), on=on, description=d)
        for d in writes
    }
    REVIEWED.write_text(json.dumps({n: s.model_dump(mode="json") for n, s in after.items()}, indent=1) + "\n", encoding="utf-8")
    renewed = sorted(n for n in after if after[n] != before.get(n))
    print(f"Renewed: {', '.join(renewed)}." if renewed else "Nothing has changed.")
