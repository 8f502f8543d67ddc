"""`remit deploy`: which versions of the workers there are, which gets new runs, and what becomes of the old ones' runs."""

import asyncio
from typing import Annotated

import typer
from temporalio.client import Client

from policies.errors import InvalidInput, NotFound, RemitError
from policies.models import Frozen
from remit import render
from remit.connection import connect
from remit.deployment import Deployment, Version, build_id
from remit.options import AsJson
from remit.settings import Settings, load

__all__ = ["Moved", "deploy", "move_runs"]

NEWEST = "newest"
Build = str | None


class Moved(Frozen):
    """An open run of another version: taken over by today's code, or, with the reason, not."""

    workflow_id: str
    run_id: str
    moved: bool
    reason: str = ""


def deploy(
    current: Annotated[
        Build, typer.Option(help="Send all new runs to this version, or to the `newest`.", metavar="BUILD", show_default=False)
    ] = None,
    ramp: Annotated[
        Build, typer.Option(help="Send a share of the new runs to this version.", metavar="BUILD", show_default=False)
    ] = None,
    percent: Annotated[
        float | None, typer.Option(min=0, max=100, help="The share, with `--ramp`; 0 ends the ramp.", show_default=False)
    ] = None,
    move: Annotated[
        Build,
        typer.Option(
            help="Let today's code take over the open runs of this version, whose workers are gone.",
            metavar="BUILD",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the versions of the workers; make one current, ramp one, or move the runs of one."""
    if sum(given is not None for given in (current, ramp, move)) > 1:
        raise InvalidInput("`--current`, `--ramp` and `--move` are three things; do one at a time.")
    if (ramp is None) != (percent is None):
        raise InvalidInput("`--ramp BUILD` and `--percent N` go together.")
    settings = load()
    if not settings.deployment_name:
        raise InvalidInput("These workers are unversioned (`REMIT_DEPLOYMENT=none`), so there is nothing to deploy.")
    name, versions, moved = asyncio.run(_deploy(settings, current, ramp, percent or 0, move))
    if as_json:
        found = {"versions": [v.model_dump(mode="json") for v in versions], "moved": [m.model_dump(mode="json") for m in moved]}
        render.print_json({"deployment": name} | found)
    else:
        _print(name, versions, moved)
    raise typer.Exit(1 if any(not m.moved for m in moved) else 0)


async def _deploy(
    settings: Settings, current: Build, ramp: Build, percent: float, move: Build
) -> tuple[str, list[Version], list[Moved]]:
    client = await connect(settings)
    deployment = Deployment(client, settings.deployment_name)
    versions = await deployment.versions()
    if not versions:
        raise NotFound(f"Deployment `{deployment.name}` has no versions: no versioned worker has polled yet.")
    newest = versions[0].build_id
    moved: list[Moved] = []
    if current is not None:
        await deployment.make_current(newest if current == NEWEST else current)
    elif ramp is not None:
        await deployment.ramp(newest if ramp == NEWEST else ramp, percent)
    elif move is not None:
        moved = await _moved(settings, client, deployment, move, versions)
    return deployment.name, await deployment.counted(), moved


async def _moved(settings: Settings, client: Client, deployment: Deployment, old: str, versions: list[Version]) -> list[Moved]:
    from remit.apps import assemble
    from tools import registry

    mine, known = build_id(settings), {v.build_id for v in versions}
    if old not in known:
        raise NotFound(f"Deployment `{deployment.name}` has no version `{old}`; `remit deploy` lists those that there are.")
    if mine not in known:
        raise InvalidInput(
            f"The code here is version `{mine}`, of which no worker has polled. Move runs with the code that they move to."
        )
    if mine == old:
        raise InvalidInput(f"The code here is version `{mine}` itself; its runs are where they are.")
    registry.install(assemble(settings).catalog)
    return await move_runs(client, deployment, old, mine)


async def move_runs(client: Client, deployment: Deployment, old: str, new: str) -> list[Moved]:
    """Pin the open runs of version `old` to `new`, which is the version of this process's code, if that replays them.

    Install the catalog of the workers' app before.
    """
    from remit.history import judge

    done: list[Moved] = []
    async for found in client.list_workflows(deployment.pinned_to(old)):
        history = await client.get_workflow_handle(found.id, run_id=found.run_id).fetch_history()
        verdict = await judge(history, client.data_converter)
        reason = verdict.sentence
        if verdict.ok:
            try:
                await deployment.move(found.id, found.run_id, new)
            except RemitError as e:
                reason = e.message
        done.append(Moved(workflow_id=found.id, run_id=found.run_id, moved=not reason, reason=reason))
    return done


def _print(name: str, versions: list[Version], moved: list[Moved]) -> None:
    out = render.console()
    for m in moved:
        text = f"{m.workflow_id} goes on with today's code." if m.moved else f"{m.workflow_id} stays: {m.reason}."
        out.print(text, markup=False, highlight=False)
    ramping = sum(v.percent for v in versions)
    rows = [
        (
            *(v.build_id, v.status),
            f"{100 - ramping:g} %" if v.status == "current" else f"{v.percent:g} %" if v.percent else "",
            *(str(v.open_runs), render.clock(v.created_at)),
        )
        for v in versions
    ]
    out.print(render.table(f"Deployment {name}", ("Version", "Status", "New runs", "Open runs", "First seen"), rows))
    if not any(v.status == "current" for v in versions):
        out.print("No version is current: new runs wait until one is, with `remit deploy --current BUILD`.", markup=False)
