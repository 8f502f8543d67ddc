"""`remit replay`: whether today's code leads to what production's histories hold, before it is deployed."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from temporalio.client import Client, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from policies.errors import InvalidInput, NotFound, Unavailable
from remit import render
from remit.connection import connect, converter
from remit.history import Verdict, judge, read_file, segments
from remit.proof.reading import history_of
from remit.settings import Settings
from workflows.messages import AGENT_RUN

__all__ = ["read_files", "replay"]

GZIP = b"\x1f\x8b"


def replay(settings: Settings, run: str | None, query: str | None, limit: int, *, as_json: bool) -> int:
    """Print what became of each replay, and return the exit code.

    Raises:
        InvalidInput: it isn't said what is replayed, or it isn't a history of a run.
        NotFound: there is no such run, or the query finds none.
    """
    if (run is None) == (query is None):
        raise InvalidInput("Say what is replayed: a run, a file, or `--query QUERY`.")
    files = read_files(Path(run)) if run is not None and (run.endswith((".json", ".gz")) or Path(run).is_file()) else []
    verdicts = asyncio.run(_judged(settings, files, run, query, limit))
    differ = [v for v in verdicts if not v.ok]
    if as_json:
        rows = [v.model_dump(mode="json") for v in verdicts]
        render.print_json({"replayed": len(verdicts), "differ": len(differ), "runs": rows})
    else:
        out = render.console()
        for v in verdicts:
            name = f"{v.workflow_id} ({v.run_id}), {v.events} events"
            out.print(f"ok       {name}" if v.ok else f"differs  {name}\n         {v.sentence}", markup=False, highlight=False)
        out.print(f"{len(verdicts)} replayed, {len(differ)} differ.", markup=False, highlight=False)
    return 1 if differ else 0


def read_files(path: Path) -> list[WorkflowHistory]:
    """What is in a file: one history, or those of a capsule.

    Raises:
        InvalidInput: neither can be read in it.
    """
    from remit.proof.capsule import FORMAT, read

    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if data[:2] != GZIP and FORMAT.encode() not in data[:100]:
        return [read_file(path)]
    try:
        capsule = read(data)
    except InvalidInput as e:
        raise InvalidInput(f"`{path}`: {e.message}") from None
    found = [history_of(capsule.root.root.workflow_id, history) for history in capsule.contents.history]
    if not found:
        raise InvalidInput(f"`{path}`: The capsule has no history to replay.")
    return found


async def _judged(
    settings: Settings, files: list[WorkflowHistory], run: str | None, query: str | None, limit: int
) -> list[Verdict]:
    from remit.apps import assemble
    from tools import registry

    registry.install(assemble(settings).catalog)
    if files:
        return [_known(await judge(file, converter(settings))) for file in files]
    client = await connect(settings)
    try:
        found = [await judge(h, client.data_converter) async for h in _histories(client, run, query, limit)]
    except RPCError as e:
        if e.status == RPCStatusCode.NOT_FOUND:
            raise NotFound(f"There is no run `{run}`; `remit runs` lists them.") from None
        said = " ".join(e.message.split())[:300]
        if e.status == RPCStatusCode.INVALID_ARGUMENT:
            raise InvalidInput(f"The Temporal server refused: {said}.") from None
        raise Unavailable(f"The Temporal server didn't answer: {said}.") from None
    if not found:
        raise NotFound("The query finds no runs, so nothing was replayed.")
    return [_known(found[0])] if run is not None and len(found) == 1 else found


def _known(verdict: Verdict) -> Verdict:
    """The only verdict that was asked for.

    Raises:
        InvalidInput: it was no history of a run at all.
    """
    if verdict.error and not verdict.error.startswith("today's code"):
        raise InvalidInput(f"`{verdict.workflow_id}` can't be replayed: {verdict.error[0].lower()}{verdict.error[1:]}")
    return verdict


async def _histories(client: Client, run: str | None, query: str | None, limit: int) -> AsyncGenerator[WorkflowHistory]:
    if run is not None:
        for history in await segments(client, run):
            yield history
        return
    async for found in client.list_workflows(f"WorkflowType = '{AGENT_RUN}' AND ({query})", limit=limit):
        yield await client.get_workflow_handle(found.id, run_id=found.run_id).fetch_history()
