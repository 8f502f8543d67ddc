"""`remit fork`: a recorded run again from a step, with another prompt, model or policy, beside what it did."""

import asyncio
import textwrap
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from policies.errors import InvalidInput, NotFound, Unavailable
from policies.models import Frozen
from remit import render
from remit.options import AppDir, AsJson
from remit.settings import Settings, load
from remit.whatif.side import Beside, Line, Side, compared

__all__ = ["fork"]

CELL = 300


class Told(Frozen):
    """All that `remit fork` says.

    Attributes:
        run: the recorded run; `since`, the step from which on the fork is on its own.
        diverges_at: the first place where the two differ; None if they don't.
        asked: steps at which a model was asked.
    """

    run: str
    since: int
    tried: dict[str, str]
    diverges_at: Beside | None
    steps: tuple[Beside, ...]
    recorded: Side
    fork: Side
    asked: tuple[int, ...]
    notes: tuple[str, ...]


def fork(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE", help="A run's workflow id, or a file with its history or capsule.", show_default=False
        ),
    ],
    step: Annotated[int, typer.Option("--at", min=0, help="The step from which on it runs again.", show_default=False)],
    prompt: Annotated[Path | None, typer.Option(help="A file with another prompt.", metavar="FILE", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model: `MODEL`, or `openai:MODEL`.", metavar="MODEL", show_default=False)
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Another policy: a bundle's name, or its folder.", metavar="BUNDLE", show_default=False)
    ] = None,
    fail_on_divergence: Annotated[bool, typer.Option("--fail-on-divergence", help="End with 1 if the two differ.")] = False,
    as_json: AsJson = False,
    app_dir: AppDir = None,
) -> None:
    """Run RUN again from a step with recorded results, side effects never, and show where it differs."""
    del app_dir
    from remit.replay import read_files

    files = read_files(Path(run)) if run.endswith((".json", ".gz")) or Path(run).is_file() else []
    told = asyncio.run(_forked(load(), run, files, step, prompt, model, policy))
    if as_json:
        render.print_json(told.model_dump(mode="json"))
    else:
        _tell(told)
    raise typer.Exit(1 if fail_on_divergence and told.diverges_at else 0)


async def _forked(
    settings: Settings,
    run: str,
    files: list[WorkflowHistory],
    step: int,
    prompt: Path | None,
    model: str | None,
    policy: str | None,
) -> Told:
    from remit.apps import assemble
    from remit.whatif import forking
    from remit.whatif.backtest import policy_of
    from remit.whatif.recording import read
    from tools import registry

    parts = assemble(settings)
    registry.install(parts.catalog)
    recording = await read(*await _histories(settings, run, files), parts.catalog)
    if step >= max(1, recording.steps):
        raise InvalidInput(f"The run has the steps 0 to {recording.steps - 1}; `--at {step}` is none of them.")
    was = recording.capsule.route
    if prompt is not None and model is None and was.models[0].provider == "scripted":
        raise InvalidInput("The run's model was a script, which reads no prompt; say which model should, with `--model`.")
    changes = forking.Changes(
        prompt=_text(prompt) if prompt else None,
        route=forking.route_of(model, was, settings) if model else None,
        bundle=policy_of(parts.library, policy) if policy else None,
    )
    recorded = Side.of(recording.summary, recording.messages)
    forked = await forking.fork(recording, step, changes, settings, parts.library, parts.catalog)
    rows = tuple(compared(recorded, forked.side))
    tried = {
        "prompt": str(prompt or ""),
        "model": f"{changes.route.models[0].provider}:{changes.route.models[0].model}" if changes.route else "",
        "policy": changes.bundle.version if changes.bundle else "",
    }
    return Told(
        run=recording.summary.workflow_id,
        since=step,
        tried={name: value for name, value in tried.items() if value},
        diverges_at=next((row for row in rows if row.differs), None),
        steps=rows,
        recorded=recorded,
        fork=forked.side,
        asked=forked.asked,
        notes=(*_scripted(forked.asked, was.models[0].provider, model, rows), *forked.notes),
    )


async def _histories(settings: Settings, run: str, files: list[WorkflowHistory]) -> tuple[list[WorkflowHistory], DataConverter]:
    """The run's histories, oldest first, and what decodes them; `files` when they were read already.

    Raises:
        NotFound: there is no such run.
    """
    from remit.connection import connect, converter
    from remit.history import segments

    if files:
        return files, converter(settings)
    client = await connect(settings)
    try:
        return await segments(client, run), client.data_converter
    except RPCError as e:
        if e.status == RPCStatusCode.NOT_FOUND:
            raise NotFound(f"There is no run `{run}`; `remit runs` lists them.") from None
        raise Unavailable(f"The Temporal server didn't answer: {' '.join(e.message.split())[:300]}.") from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InvalidInput(f"The prompt `{file}` can't be read as text.") from None


def _scripted(asked: tuple[int, ...], provider: str, model: str | None, rows: tuple[Beside, ...]) -> list[str]:
    """What must be said of a script's answers: they don't know that the run has become another one."""
    if provider != "scripted" or model is not None:
        return []
    at = next((row.step for row in rows if row.differs), None)
    late = [step for step in asked if at is not None and step > at]
    if not late:
        return []
    return [f"scripted: from step {late[0]} on the script's turns answer, though they were written for the recorded run."]


# ---- what is said of it -------------------------------------------------------------------------------------------


def _tell(told: Told) -> None:
    out = render.console()
    tried = ", ".join(f"{name} {value}" for name, value in told.tried.items()) or "nothing changed"
    out.print(f"[bold]{escape(told.run)}[/] from step {told.since} on: {escape(tried)}")
    rows = (
        (f"{row.step}.{row.index}", *(_cell(line, bool(row.differs)) for line in (row.recorded, row.fork)), row.differs)
        for row in told.steps
    )
    out.print(render.table("", ("Step", "Recorded", "Fork", "Differs in"), rows))
    sides = (told.recorded, told.fork)
    lines = [
        ("Status", *(s.status.replace("_", " ") + (f" ({s.stopped_by})" if s.stopped_by else "") for s in sides)),
        ("Summary", *(textwrap.shorten(s.summary, CELL, placeholder=" …") for s in sides)),
        ("Approvals asked for", *(str(s.approvals_asked) for s in sides)),
        ("Money moved", told.recorded.moved, f"{told.fork.moved} (never really)"),
        ("Model calls, tool calls", *(f"{s.model_calls}, {s.tool_calls}" for s in sides)),
        ("Model cost", *(f"${s.cost_usd:.4f}" for s in sides)),
    ]
    out.print(render.table("", ("", "Recorded", "Fork"), [tuple(map(escape, line)) for line in lines]))
    for note in told.notes:
        out.print(f"- {note}", markup=False)
    if told.fork.status == "waiting_for_approval":
        out.print("The fork waits for a person: nobody decided on an action like this in the recorded run.", markup=False)
    if (at := told.diverges_at) is None:
        out.print("The fork does what the run did.")
    else:
        out.print(f"[yellow]It diverges at step {at.step}, call {at.index}[/], in its {at.differs}.")


def _cell(line: Line | None, differs: bool) -> str:
    if line is None:
        return ""
    what = f"{line.tool} {line.arguments}" if line.tool else f"says: {line.arguments}"
    became = " ".join(filter(None, (line.status.replace("_", " "), line.reason)))
    asked = f"; {line.needed} asked" if line.needed else ""
    people = f" ({', '.join(line.people)})" if line.people else ""
    text = escape(f"{textwrap.shorten(what, CELL, placeholder=' …')} → {became}{asked}{people}")
    return f"[yellow]{text}[/]" if differs else text
