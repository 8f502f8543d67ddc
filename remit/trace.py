"""`remit trace`, `remit roots`, `remit trace-keys`: what a run was, line by line; the chain of signed roots; their keys."""

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue
from temporalio.client import Client, WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from policies.errors import InvalidInput, NotFound, Unavailable
from remit import render
from remit.options import AsJson
from remit.settings import Settings, load
from remit.trace_keys import TraceKeys

__all__ = ["roots", "sealed_as", "trace", "trace_keys"]

Lines = Sequence[dict[str, JsonValue]]
To = Annotated[Path | None, typer.Option("--output", "-o", help="A file to write instead.", metavar="F", show_default=False)]
trace_keys = typer.Typer(help="The keys that sign the roots of traces.", invoke_without_command=True)


def trace(
    run: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="A run's workflow id or run id; or a history, or a capsule, in a file.")
    ],
    output: To = None,
    as_json: AsJson = False,
) -> None:
    """Print what a run was, one JSON object a line: what it was pinned to, each step, who allowed it, how it ended."""
    settings = load()
    lines, notes = asyncio.run(_of_file(Path(run), settings) if Path(run).is_file() else _of_run(run, settings))
    _write(lines, output, as_json=as_json)
    for note in notes:
        print(f"remit: {note}", file=sys.stderr)


def roots(output: To = None, as_json: AsJson = False) -> None:
    """Print the signed roots of the namespace's runs, oldest first, one a line; `remit verify` checks that none is missing."""
    from activities.ledger import roots as kept
    from activities.ledger.store import existing
    from remit.connection import namespace
    from remit.proof.kept import signed

    where = namespace()
    with existing(load().ledger) as ledger, ledger.reading() as connection:
        found = (signed(row).model_dump(mode="json") for row in kept.chain(connection, where))
        count = _write(found, output, as_json=as_json)
    if not count:
        print(f"remit: No run of the namespace `{where}` has been sealed yet.", file=sys.stderr)


def sealed_as(settings: Settings, name: str) -> str:
    """What `remit show` says of the seal of a closed run; nothing if there is none, or no ledger here."""
    from remit.proof.kept import root_of

    root = root_of(settings, name)
    without = f", without a trace: {root.reason}" if root and root.reason else ""
    return f"sealed as #{root.seq}{without}" if root else ""


@trace_keys.callback()
def listed(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the trace keys, oldest first; publish the fingerprint of the one that signs, for whoever verifies."""
    if ctx.invoked_subcommand:
        return
    found = _keys(load()).list()
    if as_json:
        render.print_json(
            [{"id": k.id, "public": k.public, "created_at": k.created_at, "signs": k is found[-1]} for k in found]
        )
    elif found:
        rows = ((k.id, render.clock(k.created_at), "signs" if k is found[-1] else "verifies") for k in found)
        render.console().print(render.table("", ("Key", "Made", "Use"), rows))
    else:
        print("No trace keys yet; a worker makes the first one, or `remit trace-keys rotate`.")


@trace_keys.command()
def rotate(
    if_none: Annotated[bool, typer.Option("--if-none", help="Do nothing when there is a key already.")] = False,
) -> None:
    """Add a trace key, which signs from now on. Running workers take it up; what the older ones signed still verifies."""
    keys = _keys(load())
    if if_none and (there := keys.list()):
        print(f"Trace key {there[-1].id} signs already.")
        return
    print(f"Trace key {keys.rotate().id} signs from now on. Publish it; keep the older ones listed, for what they signed.")


def _keys(settings: Settings) -> TraceKeys:
    return TraceKeys(settings.trace_keys_path, env=settings.env)


def _write(lines: Iterable[dict[str, JsonValue]], output: Path | None, *, as_json: bool) -> int:
    """Write JSON Lines, or one list; how many lines that were."""
    from remit.proof.sealing import plain

    texts = (json.dumps(plain(line), ensure_ascii=False, separators=(",", ":")) for line in lines)
    file = output.open("w", encoding="utf-8") if output else sys.stdout
    count = 0
    try:
        for count, text in enumerate(texts, start=1):
            file.write(f"{'' if not as_json else '[' if count == 1 else ','}{text}\n")
        if as_json:
            file.write("]\n" if count else "[]\n")
    finally:
        if output:
            file.close()
    return count


async def _of_file(path: Path, settings: Settings) -> tuple[Lines, list[str]]:
    """Raises:
    InvalidInput: it is neither a history nor a capsule, or can't be read.
    """
    from remit.connection import converter
    from remit.history import read_file
    from remit.proof.capsule import NotACapsule, read

    try:
        return read(await asyncio.to_thread(path.read_bytes)).trace, []
    except NotACapsule:
        pass
    return await _made([read_file(path)], converter(settings), settings)


async def _of_run(name: str, settings: Settings) -> tuple[Lines, list[str]]:
    """From the live history, or from the sink: when history is gone, in part too, or today's code can't read it.

    Raises:
        NotFound: there is no such run, or none of its trace is left.
        InvalidInput: today's code can't read it, and it isn't sealed.
        Unavailable: neither the server nor the sink can be reached.
    """
    from remit.connection import connect
    from remit.proof.kept import capsule_at, root_of

    why: NotFound | InvalidInput | Unavailable
    live: tuple[Lines, list[str]] | None = None
    try:
        live = await _live(await connect(settings), name, settings)
        if live[0][0]["whole"]:
            return live
        why = InvalidInput(f"The first histories of run `{name}` are past retention.")
    except (NotFound, InvalidInput, Unavailable) as e:
        why = e
    row = root_of(settings, name)
    if row is None:
        if live is None:
            raise why
        return live[0], [*live[1], f"{why.message} The trace begins where they end."]
    if row.reason:
        raise NotFound(f"{why.message} It was sealed as #{row.seq} without a trace: {row.reason}")
    capsule = await capsule_at(settings, row)
    return capsule.trace, [f"As it was sealed, redacted, as #{row.seq}. {why.message}"]


async def _live(client: Client, name: str, settings: Settings) -> tuple[Lines, list[str]]:
    from remit.history import segments

    try:
        found = await segments(client, name)
    except RPCError as e:
        if e.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise NotFound(f"There is no run `{name[:200]}`; `remit runs` lists them.") from None
        raise Unavailable(f"The Temporal server refused: {' '.join(e.message.split())[:300]}") from None
    return await _made(found, client.data_converter, settings)


async def _made(histories: list[WorkflowHistory], converter: DataConverter, settings: Settings) -> tuple[Lines, list[str]]:
    from remit.apps import assemble
    from remit.proof.build import build
    from tools import registry

    registry.install(assemble(settings).catalog)
    found = await build(histories, converter)
    return found.dicts(), [] if found.outcome else ["The run is still open: its trace has no `outcome` line yet."]
