"""`remit schedule`: runs of an agent, and drills of the off switch, by the clock."""

import asyncio
from typing import Annotated, Literal

import typer
from rich.markup import escape

from policies.errors import InvalidInput
from remit import render
from remit.authority import seconds_of
from remit.connection import connect
from remit.options import AsJson
from remit.schedules import Action, Overlap, Plan, ScheduleRow, Schedules, ScheduleView
from remit.scripts import inputs_of, read_script
from remit.session import requester_of
from remit.settings import Settings, load
from workflows.fleet_messages import PlayDrill
from workflows.messages import StartInput

__all__ = ["schedule"]

schedule = typer.Typer(no_args_is_help=True, help="Runs of an agent, and drills of the off switch, by the clock.")
REASON_LENGTH = 500
LEAST_CATCH_UP = 10
Name = Annotated[str, typer.Argument(help="The schedule, as `remit schedule list` lists it.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why.", show_default=False)]


@schedule.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for it; its runs are `NAME-TIME`.", show_default=False)],
    agent: Annotated[str | None, typer.Option(help="The agent that runs.", show_default=False)] = None,
    inputs: Annotated[str | None, typer.Option(help='Its inputs as JSON: \'{"ticket_id": "T-1001"}\'.')] = None,
    drill: Annotated[bool, typer.Option("--drill", help="A drill, as `remit kill --fleet --drill` does it.")] = False,
    cron: Annotated[str | None, typer.Option(help='When: "0 7 * * 1" is each Monday at 7.', show_default=False)] = None,
    every: Annotated[str | None, typer.Option(help="Or how often: `30m`, `6h`.", show_default=False)] = None,
    time_zone: Annotated[str, typer.Option(help="In which `--cron` is read, for example `Europe/Vienna`; else UTC.")] = "",
    overlap: Annotated[Overlap, typer.Option(help="What happens to one that is due while another is open.")] = "skip",
    catch_up: Annotated[str, typer.Option(help="How late one may start when the server was away.")] = "1h",
    reason: Annotated[str, typer.Option(help="What it is for.")] = "",
    who: Annotated[str, typer.Option("--as", help="Who asks for its runs; can't approve in them.")] = "",
    script: Annotated[str | None, typer.Option(help="FILE#NAME: answer from a script instead of a model.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Make it, and start nothing before `resume`.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run an agent, or a drill, by cron or at an interval."""
    settings = load()
    if (agent is None) != drill:
        raise InvalidInput("Say what is to run: `--agent AGENT --inputs JSON`, or `--drill`.")
    if drill and (inputs is not None or script is not None):
        raise InvalidInput("A drill takes no `--inputs` and no `--script`.")
    if (cron is None) == (every is None):
        raise InvalidInput("Say when: either `--cron CRON` or `--every 6h`.")
    if time_zone and cron is None:
        raise InvalidInput("`--time-zone` says how `--cron` is read; an interval has none.")
    late = seconds_of(catch_up, "--catch-up")
    if late < LEAST_CATCH_UP:
        raise InvalidInput(f"`--catch-up` is at least {LEAST_CATCH_UP}s: the server's clock isn't finer.")
    if len(reason) > REASON_LENGTH:
        raise InvalidInput(f"`--reason` has {len(reason)} characters; {REASON_LENGTH} are the most.")
    by = requester_of(settings, who)
    plan = Plan(
        queue=settings.task_queue,
        start=_start(settings, agent, inputs, by, script) if agent is not None else None,
        drill=PlayDrill(reason=reason or f"Drill on schedule `{name[:160]}`.", by=by) if drill else None,
        cron=cron or "",
        every_seconds=seconds_of(every, "--every") if every else 0,
        time_zone=time_zone,
        by=by,
        note=reason,
    )

    async def work() -> ScheduleView:
        found = await _schedules(settings)
        return await found.create(name, plan, overlap=overlap, catch_up_seconds=late, paused=paused)

    made = asyncio.run(work())
    if as_json:
        render.print_json(made.model_dump(mode="json"))
        return
    then = f"next at {render.clock(made.next_at[0])}" if made.next_at else "paused" if made.paused else "it has no next time"
    print(f"{name} is scheduled: {plan.what}, {plan.when}; {then}.")


def _start(settings: Settings, agent: str, inputs: str | None, by: str, script: str | None) -> StartInput:
    """How each run begins. Checked here, for nobody is there to read the refusal when the time comes.

    Raises:
        InvalidInput: there is no such agent, or it can't start with these inputs.
    """
    from remit.apps import assemble

    given = inputs_of(inputs) if inputs is not None else {}
    turns = read_script(script) if script else None
    assemble(settings).library.agent(agent).check_inputs(given)
    return StartInput(agent=agent, inputs=given, requester=by, script=turns)


@schedule.command("list")
def listed(as_json: AsJson = False) -> None:
    """List the schedules: what they start, when, and whether they are paused."""

    async def work() -> list[ScheduleRow]:
        return [row async for row in (await _schedules(load())).list()]

    rows = sorted(asyncio.run(work()), key=lambda r: r.name)
    if as_json:
        render.print_json([r.model_dump(mode="json") for r in rows])
    elif rows:
        columns = ("Schedule", "Starts", "When", "Next", "Last", "Note")
        cells = (
            (
                *(escape(text) for text in (r.name, r.plan.what, r.plan.when)),
                "paused" if r.paused else _next(r, 1),
                *(render.clock(r.last_at), escape(r.note)),
            )
            for r in rows
        )
        render.console().print(render.table("", columns, cells))
    else:
        print("No schedules.")


@schedule.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one schedule: when it is due, and what came of what it started."""

    async def work() -> ScheduleView:
        return await (await _schedules(load())).show(name)

    found = asyncio.run(work())
    if as_json:
        render.print_json(found.model_dump(mode="json"))
        return
    plan, out = found.plan, render.console()
    made = f", made by {plan.by}" if plan.by else ""
    out.print(f"{name}: {plan.what}, {plan.when}{made}.", markup=False)
    if plan.start and plan.start.inputs:
        out.print(f"Inputs: {', '.join(f'{k}={v}' for k, v in plan.start.inputs.items())}", markup=False)
    if found.note:
        out.print(f"Note: {found.note}", markup=False)
    out.print("Paused: nothing starts." if found.paused else f"Next: {_next(found)}", markup=False)
    late = f"up to {found.catch_up_seconds} s late"
    counts = f"{found.started} started, {found.skipped} skipped as one was open, {found.missed} missed"
    out.print(f"Overlap {found.overlap}, {late}; {counts}.", markup=False)
    if found.actions:
        cells = (
            (render.clock(a.scheduled_at), escape(a.workflow_id), a.status.replace("_", " "), escape(_came(a)))
            for a in found.actions
        )
        out.print(render.table("", ("Due", "Run", "Status", "What came of it"), cells))


@schedule.command()
def delete(name: Name) -> None:
    """Delete a schedule. What it started goes on."""

    async def work() -> None:
        await (await _schedules(load())).delete(name)

    asyncio.run(work())
    print(f"{name} is deleted; what it started goes on.")


@schedule.command()
def pause(name: Name, reason: Reason = ...) -> None:  # type: ignore[assignment]
    """Start nothing until `resume`."""
    said = _said(reason)

    async def work() -> None:
        await (await _schedules(load())).pause(name, said)

    asyncio.run(work())
    print(f"{name} is paused; what it started goes on.")


@schedule.command()
def resume(name: Name, reason: Reason = ...) -> None:  # type: ignore[assignment]
    """Start things again. Those that were due meanwhile aren't made up for."""
    said = _said(reason)

    async def work() -> ScheduleView:
        found = await _schedules(load())
        await found.resume(name, said)
        return await found.show(name)

    print(f"{name} goes on; next at {_next(asyncio.run(work()), 1)}.")


@schedule.command()
def trigger(name: Name) -> None:
    """Start one now, whether the schedule is paused or not; its overlap policy holds."""

    async def work() -> Action | Literal["skipped"] | None:
        return await (await _schedules(load())).trigger(name)

    came = asyncio.run(work())
    if isinstance(came, Action):
        print(f"Started {came.workflow_id}.")
        return
    if came == "skipped":
        print(f"Nothing was started: one of {name} is still open.")
    else:
        print(f"{name} is triggered, and hasn't started yet; `remit schedule show {name}` says when it has.")
    raise typer.Exit(1)


# ---- small helpers --------------------------------------------------------------------------------------------------


async def _schedules(settings: Settings) -> Schedules:
    return Schedules(await connect(settings), settings.task_queue)


def _said(reason: str) -> str:
    if not reason.strip() or len(reason) > REASON_LENGTH:
        raise InvalidInput(f"`--reason` takes 1 to {REASON_LENGTH} characters that say why.")
    return reason.strip()


def _next(row: ScheduleRow, most: int = 3) -> str:
    return ", ".join(render.clock(t) for t in row.next_at[:most]) or "never"


def _came(action: Action) -> str:
    drill = action.drill
    if drill is None:
        return action.said
    told = f"{drill.told} of {drill.found} open runs told" if drill.told is not None else "runs still being told"
    return f"in force within {drill.effect_ms} ms ({drill.gate_ms} in the worker); {told}; {drill.in_flight} writes in flight"
