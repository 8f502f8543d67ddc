"""`remit kill`, `unkill`, `switches`, `pause`, `resume`, `control`: the off switches, as people at a terminal use them."""

import asyncio
import time
from typing import Annotated, Literal

import typer

from policies.errors import InvalidInput, NotFound
from policies.models import RISKS
from policies.switches import FLEET, Scope
from remit import render
from remit.client import Remit
from remit.connection import connect
from remit.fleet import Fleet, audience
from remit.options import AsJson
from remit.session import Signer
from remit.settings import Settings, load
from workflows.fleet_messages import Control, Switched, SwitchReport

__all__ = ["COMMANDS"]

REASON_LENGTH = 500
SHOWN = 10
Run = Annotated[str | None, typer.Argument(help="A run's workflow id, as `remit runs` lists it.", show_default=False)]
Agent = Annotated[str | None, typer.Option(help="All runs of this agent, now and later.", show_default=False)]
Tool = Annotated[str | None, typer.Option(help="This tool, whoever uses it; the runs go on.", show_default=False)]
Risk = Annotated[
    str | None,
    typer.Option(
        help="Tools that declare this risk or a higher one: `low` to `critical`; `writes` for all.", show_default=False
    ),
]
Subject = Annotated[str | None, typer.Option(help="Whatever is done for it, for example `Customer:cus_7`.", show_default=False)]
All = Annotated[bool, typer.Option("--fleet", help="Everything.")]
By = Annotated[str, typer.Option("--as", help="Who says so.")]
Reason = Annotated[str, typer.Option(help="Why.", show_default=False)]


def kill(
    run_id: Run = None,
    agent: Agent = None,
    tool: Tool = None,
    risk: Risk = None,
    subject: Subject = None,
    fleet: All = False,
    reason: Reason = ...,  # type: ignore[assignment]
    who: By = "",
    drill: Annotated[bool, typer.Option("--drill", help="Play it through; nothing is stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop a run, an agent, a tool, a risk, a subject or the fleet. From the first line on, no write of it can start."""
    said = _said(reason, "say why it is stopped" if run_id is None else "say why the run is killed")
    scope = _scope(run_id, agent=agent, tool=tool, risk=risk, subject=subject, fleet=fleet)

    async def work() -> tuple[Switched, SwitchReport, int]:
        settings = load()
        remit = await _remit(settings)
        target = await _target(remit, scope)
        commands = _fleet(remit, settings)
        begun = time.monotonic()
        switched = await commands.kill(target, said, by=who, workflow_id=run_id or "", drill=drill)
        seconds = time.monotonic() - begun
        if not as_json:
            _acknowledged(run_id, target, switched, seconds)
        report = await commands.report(switched)
        if drill:
            await commands.drilled(Scope.parse(switched.scope), round(seconds * 1000), by=who)
        return switched, report, round(seconds * 1000)

    switched, report, effect_ms = asyncio.run(work())
    if as_json:
        found = switched.model_dump(mode="json", include={"scope", "reason", "by", "epoch", "in_flight_total"})
        measured = {"acknowledged_at": switched.at, "effect_ms": effect_ms, "gate_ms": switched.gate_ms, "drill": drill}
        render.print_json({**found, **measured, **report.model_dump(mode="json")})
    else:
        render.console().print("\n".join(_lines(switched, report)), markup=False, soft_wrap=True)
    raise typer.Exit(1 if report.reserved_after and not drill else 0)


def _acknowledged(run_id: str | None, scope: Scope, switched: Switched, seconds: float) -> None:
    when = render.clock(switched.at // 1000)
    if Scope.parse(switched.scope).kind == "drill":
        took = f"it would have taken effect within {seconds * 1000:.0f} ms ({switched.gate_ms} ms of them in the worker)"
        print(f"A drill for {scope.words}, {when}: {took}. Nothing is stopped.", flush=True)
        return
    name = run_id or _capital(scope.words)
    verb = "are" if scope.kind == "risk" else "is"
    print(f"{name} {verb} killed; acknowledged {when}, epoch {switched.epoch}. No write of it can start any more.", flush=True)


def _lines(switched: Switched, report: SwitchReport) -> list[str]:
    """The report, as people read it."""
    scope = Scope.parse(switched.scope)
    lines: list[str] = []
    if not scope.played.ends_runs:
        lines.append("Runs go on; their calls in its scope are refused.")
    elif report.told is None:
        lines.append("Its open runs are still being told; `remit control` says when that is done.")
    else:
        lines.append(f"{report.told} of {report.found} open runs told.")
    lines.append(f"{switched.in_flight_total} writes were in flight.")
    lines += [f"  {e.outcome}: {e.tool} {e.resource}, run {e.workflow_id} ({e.key})" for e in report.effects]
    if scope.kind != "drill":
        lines.append(f"{report.reserved_after} writes were reserved after it, as the ledger counts.")
    return lines


def switches(
    everything: Annotated[bool, typer.Option("--all", help="All that was ever done to switches, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is switched off or paused: who did it, when and why."""
    from activities.ledger import switches as kept
    from activities.ledger.store import existing

    with existing(load().ledger) as ledger, ledger.reading() as connection:
        kills, pauses = kept.current(connection), kept.current(connection, paused=True)
        log = kept.logged(connection) if everything else []
    if as_json:
        rows = [{"kind": "kill", **s.model_dump()} for s in kills] + [{"kind": "pause", **s.model_dump()} for s in pauses]
        render.print_json({"switches": rows, "log": [line.model_dump() for line in log]} if everything else rows)
    elif everything:
        columns = ("When", "What", "Scope", "By", "Why", "Epoch")
        rows_ = ((render.clock(x.at // 1000), x.action, x.scope, x.by, x.reason, str(x.epoch)) for x in log)
        render.console().print(render.table("", columns, rows_))
    elif kills or pauses:
        columns = ("Scope", "Is", "Since", "By", "Why", "Epoch")
        marked = [("killed", s) for s in kills] + [("paused", s) for s in pauses]
        rows_ = ((s.scope, is_, render.clock(s.set_at // 1000), s.set_by, s.reason, str(s.epoch)) for is_, s in marked)
        render.console().print(render.table("", columns, rows_))
    else:
        print("No switches.")


def unkill(
    agent: Agent = None,
    tool: Tool = None,
    risk: Risk = None,
    subject: Subject = None,
    fleet: All = False,
    reason: Reason = ...,  # type: ignore[assignment]
    who: Annotated[
        str | None, typer.Option("--as", help="Who signs for it; by default whoever is logged in.", show_default=False)
    ] = None,
) -> None:
    """Release an off switch; you sign for it. The fleet's takes two different people. What was killed stays closed."""
    said = _said(reason, "say why it may go on")
    scope = _scope(None, agent=agent, tool=tool, risk=risk, subject=subject, fleet=fleet)
    settings = load()
    signer = Signer(settings, who)
    epoch = _epoch(settings, scope)

    async def work() -> Switched:
        remit = await _remit(settings)
        workers = audience(remit.client, settings)
        token = signer.command("unkill", scope=str(scope), epoch=epoch, audience=workers, reason=said)
        return await _fleet(remit, settings).unkill(scope, token)

    found = asyncio.run(work())
    if found.status == "pending":
        print(f"{signer.sub} has signed; {scope.words} stays stopped until one more person signs, within an hour.")
        raise typer.Exit(1)
    print(f"{_capital(scope.words)} may go on, says {signer.sub}; epoch {found.epoch}.")


def pause(
    run_id: Run = None,
    agent: Agent = None,
    fleet: All = False,
    reason: Reason = ...,  # type: ignore[assignment]
    who: By = "",
) -> None:
    """Park a run, an agent or the fleet: each run at its next step, and before each write. `resume` lets them go on."""
    _park("pause", run_id, agent, fleet, reason, who)


def resume(
    run_id: Run = None,
    agent: Agent = None,
    fleet: All = False,
    reason: Reason = ...,  # type: ignore[assignment]
    who: By = "",
) -> None:
    """Let go on what was paused. A run that waits for a provider asks it at once."""
    _park("resume", run_id, agent, fleet, reason, who)


def _park(what: Literal["pause", "resume"], run_id: str | None, agent: str | None, fleet: bool, reason: str, who: str) -> None:
    said = _said(reason, f"say why you {what} it")
    scope = _scope(run_id, agent=agent, fleet=fleet)

    async def work() -> tuple[Switched | None, SwitchReport | None]:
        settings = load()
        remit = await _remit(settings)
        target, commands = await _target(remit, scope), _fleet(remit, settings)
        command = commands.pause if what == "pause" else commands.resume
        switched = await command(target, said, by=who, workflow_id=run_id or "")
        if what == "resume" and run_id and switched.status == "unchanged" and await remit.resume(run_id, said, who):
            return None, None
        return switched, await commands.report(switched) if switched.epoch else None

    switched, report = asyncio.run(work())
    name = run_id or _capital(scope.words)
    if switched is None:
        print(f"{name} was told to go on.")
        return
    if switched.status == "unchanged":
        raise InvalidInput(f"{name} isn't paused; nothing was changed.")
    told = f" {report.told} of {report.found} open runs told." if report and report.told is not None else ""
    print(f"{name} is {switched.status}, epoch {switched.epoch}.{told}")


def control(as_json: AsJson = False) -> None:
    """Show what `FleetControl` holds: what is set, what waits, which runs were told, what was refused."""

    async def work() -> Control:
        settings = load()
        return await _fleet(await _remit(settings), settings).control()

    found = asyncio.run(work())
    if as_json:
        render.print_json(found.model_dump(mode="json"))
        return
    out = render.console()
    accepted = ", ".join(f"{count} {name}" for name, count in sorted(found.accepted.items())) or "none"
    waiting = sum(found.waiting.values())
    out.print(f"Commands: {accepted}; {waiting} wait, {found.refused_total} were refused.", markup=False)
    out.print(f"Switches and pauses: {found.switches_total}; `remit switches` lists them.", markup=False)
    for switch in found.switches:
        since = render.clock(switch.at // 1000)
        out.print(f"  {switch.kind} {switch.scope}, since {since}{_by(switch.by)}: {switch.reason}", markup=False)
    for rollout in found.rollouts:
        out.print(f"Rollout of {rollout.agent}: {rollout.words}.", markup=False)
    for wanted in found.telling:
        out.print(f"Being told of {wanted.signal} {wanted.scope}.", markup=False)
    for told in found.told[-SHOWN:]:
        out.print(f"Told of {told.scope}, epoch {told.epoch}: {told.told} of {told.found} open runs.", markup=False)
    if found.looked_at:
        out.print(
            f"The breaker looked {render.clock(found.looked_at // 1000)}; {len(found.tripped)} rules are tripped.", markup=False
        )
    for key, at in found.tripped.items():
        out.print(f"  {key}, since {render.clock(at // 1000)}", markup=False)
    for refused in found.refused[-SHOWN:]:
        out.print(f"Refused {refused.name}: {refused.message}", markup=False)


COMMANDS = (kill, unkill, switches, pause, resume, control)


# ---- small helpers --------------------------------------------------------------------------------------------------


def _epoch(settings: Settings, scope: Scope) -> int:
    """Which switch is set on `scope` now.

    Raises:
        NotFound: none is.
    """
    from activities.ledger.store import existing

    with existing(settings.ledger) as ledger:
        found, _ = ledger.switched([str(scope)])
    if found is None:
        raise NotFound(f"There is no kill switch on {scope.words}; `remit switches` lists those there are.")
    return found.epoch


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _by(name: str) -> str:
    return f" by {name}" if name else ""


async def _remit(settings: Settings) -> Remit:
    return Remit(await connect(settings), settings.task_queue)


def _fleet(remit: Remit, settings: Settings) -> Fleet:
    return Fleet(remit.client, settings.task_queue)


def _said(reason: str, why: str) -> str:
    if not reason.strip():
        raise InvalidInput(f"`--reason` is empty; {why}.")
    return reason[:REASON_LENGTH]


def _scope(
    run_id: str | None,
    *,
    agent: str | None = None,
    tool: str | None = None,
    risk: str | None = None,
    subject: str | None = None,
    fleet: bool = False,
) -> Scope:
    """The one scope that was named; a run by its workflow id, for now.

    Raises:
        InvalidInput: none was, or several were.
    """
    given = {"run": run_id, "agent": agent, "tool": tool, "risk": risk, "subject": subject}
    named = [Scope.parse(f"{kind}:{value}") for kind, value in _ready(given).items()] + ([FLEET] if fleet else [])
    if len(named) != 1:
        raise InvalidInput("Name one thing: a RUN, or one of `--agent`, `--tool`, `--risk`, `--subject` and `--fleet`.")
    return named[0]


def _ready(given: dict[str, str | None]) -> dict[str, str]:
    found = {kind: value for kind, value in given.items() if value is not None}
    if found.get("risk") == "writes":
        found["risk"] = RISKS[0]
    return found


async def _target(remit: Remit, scope: Scope) -> Scope:
    """The scope as the ledger knows it: a run by the id of its first history.

    Raises:
        NotFound, InvalidInput: there is no such run, or it is closed.
    """
    return Scope(kind="run", value=await remit.open_run(scope.value)) if scope.kind == "run" else scope
