"""The `remit` command. Each command does one thing, says one sentence when it can't, and ends with its own exit code."""

import asyncio
import io
import os
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from policies.approvals import Verb, decision_payload
from policies.errors import InvalidInput, RemitError
from remit import __version__, render, stops
from remit.agents import print_agents
from remit.approvals import approvals, print_waiting, today
from remit.authority import capabilities, delegate, keys
from remit.breaker import breaker
from remit.caps import caps
from remit.capsules import capsule, verify
from remit.client import RUN_STATUSES, Remit, RunRow
from remit.connection import connect, storage_of
from remit.deploy import deploy
from remit.effects import effects
from remit.login import login, logout, whoami
from remit.models import models, route_warnings, routes
from remit.options import AppDir, AsJson
from remit.people import people
from remit.privacy import codec_keys, codec_server
from remit.report import report
from remit.rollouts import outcome, rollout
from remit.schedule import schedule
from remit.scripts import changes_of, edited, inputs_of, read_inputs_file, read_script
from remit.session import Signer, requester_of
from remit.settings import Settings, load
from remit.tools import tools
from remit.trace import roots, sealed_as, trace, trace_keys
from remit.whatif.backtest import backtest
from remit.whatif.feedback import feedback
from remit.whatif.fork import fork
from workflows.messages import Decided, RunSummary
from workflows.state import OPEN

__all__ = ["app", "main"]

T = TypeVar("T")
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="AI agents as governed, durable work on Temporal: what an agent may do, and the proof of what it did.",
)
policy = typer.Typer(no_args_is_help=True, help="Policy bundles.")
app.add_typer(policy, name="policy")
app.add_typer(effects, name="effects")
app.add_typer(breaker, name="breaker")
app.add_typer(capabilities, name="capabilities")
app.add_typer(keys, name="keys")
app.add_typer(codec_keys, name="codec-keys")
app.add_typer(trace_keys, name="trace-keys")
app.command()(delegate)
app.command()(codec_server)
app.add_typer(approvals, name="approvals")
app.add_typer(people, name="people")
app.add_typer(rollout, name="rollout")
app.add_typer(tools, name="tools")
app.add_typer(schedule, name="schedule")
app.add_typer(feedback, name="feedback")
PROOF = (trace, roots, capsule, verify, backtest, fork)
for command in (*stops.COMMANDS, *PROOF, caps, login, whoami, logout, deploy, outcome, report, models):
    app.command()(command)

Run = Annotated[str, typer.Argument(help="The run's workflow id, as `remit runs` lists it.", show_default=False)]
Person = Annotated[
    str | None,
    typer.Option(
        "--as", help="Who decides: by default whoever is logged in; for example `ana` with the dev issuer.", show_default=False
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="An argument and its new value, as JSON or plain text: `amount_cents=3000`. Repeat it for several.",
        metavar="NAME=VALUE",
        show_default=False,
    ),
]
ApprovalId = Annotated[str | None, typer.Argument(help="Which approval; may be left out when only one is pending.")]


def _do(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def _remit(settings: Settings) -> Remit:
    return Remit(await connect(settings), settings.task_queue, storage_of(settings))


# ---- engine -------------------------------------------------------------------------------------------------------


@app.command()
def dev(
    port: Annotated[int | None, typer.Option(help="Port of the Temporal server; a free one by default.")] = None,
    ui_port: Annotated[int | None, typer.Option(help="Port of the Temporal UI; a free one by default.")] = None,
    app_dir: AppDir = None,
) -> None:
    """Run the embedded Temporal server, its UI and a worker until Ctrl-C; all is kept in `.remit/`."""
    del app_dir
    from remit import dev as engine

    _do(engine.serve(load(), port=port, ui_port=ui_port))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything up at the end, with commands to try.")] = False,
    as_json: AsJson = False,
) -> None:
    """Work through a queue of tickets with three agents and prove what happened. Scripted model, no key, no network."""
    from remit.demo import play

    raise typer.Exit(_do(play(keep=keep, as_json=as_json)))


@app.command()
def replay(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN|FILE]", help="A run's workflow id, a JSON file with a history, or a capsule.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="A visibility query: replay every run that it finds.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many of them at most, newest first.")] = 1000,
    as_json: AsJson = False,
    app_dir: AppDir = None,
) -> None:
    """Replay recorded histories with today's code; ends with 1 if any differs, and names the first event that does."""
    from remit.replay import replay as judged

    del app_dir
    raise typer.Exit(judged(load(), run_id, query, limit, as_json=as_json))


# ---- runs ---------------------------------------------------------------------------------------------------------


@app.command()
def run(
    agent: Annotated[str, typer.Argument(help="The agent, as `remit agents` lists it.", show_default=False)],
    inputs: Annotated[str | None, typer.Option(help='The inputs as JSON: \'{"ticket_id": "T-1001"}\'.')] = None,
    inputs_file: Annotated[Path | None, typer.Option(help="A JSON Lines file, one run a line.")] = None,
    run_id: Annotated[str | None, typer.Option("--id", help="The run's workflow id; a fresh one by default.")] = None,
    requester: Annotated[str, typer.Option("--as", help="Who asks for the run; can't approve in it.")] = "",
    script: Annotated[str | None, typer.Option(help="FILE#NAME: answer from a script instead of a model.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has closed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start runs of AGENT."""
    if (inputs is None) == (inputs_file is None):
        raise InvalidInput("Give the inputs with either `--inputs JSON` or `--inputs-file FILE.jsonl`.")
    if run_id is not None and inputs_file is not None:
        raise InvalidInput("`--id` names one run; leave it out with `--inputs-file`.")
    todo = [inputs_of(inputs)] if inputs is not None else read_inputs_file(inputs_file or Path())
    turns = read_script(script) if script else None
    settings = load()
    requester = requester_of(settings, requester)

    async def work() -> list[dict[str, object]]:
        remit = await _remit(settings)
        started = [await remit.start(agent, i, run_id=run_id, requester=requester, script=turns) for i in todo]
        if wait and not as_json:
            print(f"Started {', '.join(h.id for h in started)}; Ctrl-C leaves it running.", file=sys.stderr)
        found: list[dict[str, object]] = []
        for handle in started:
            try:
                summary = await remit.admitted(handle.id)
                if wait:
                    found.append((await remit.result(handle.id)).model_dump(mode="json"))
                else:
                    found.append({"run_id": summary.run_id, "workflow_id": handle.id, "agent": agent, "status": summary.status})
            except RemitError as e:
                if len(started) == 1:
                    raise
                # One bad line of a file must not hide the runs that the others started.
                found.append({"workflow_id": handle.id, "agent": agent, "status": "failed", "summary": e.message})
        return found

    rows = _do(work())
    failed = any(row.get("status") == "failed" for row in rows)
    if as_json:
        render.print_json(rows[0] if inputs is not None else rows)
        raise typer.Exit(1 if failed else 0)
    out = render.console()
    for row in rows:
        outcome = row.get("outcome") or row.get("status")
        by = f" by {row['stopped_by']}" if row.get("stopped_by") else ""
        out.print(f"{row['workflow_id']}  {str(outcome).replace('_', ' ')}{by}", markup=False)
        if row.get("summary"):
            out.print(f"  {row['summary']}", markup=False)
    if not wait:
        out.print(f"Look at it with: remit show {rows[0]['workflow_id']}", markup=False)
    raise typer.Exit(1 if failed else 0)


@app.command()
def runs(
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    status: Annotated[str | None, typer.Option(help="Only those in this status, for example `escalated`.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    if status and status not in RUN_STATUSES:
        raise InvalidInput(f"There is no status `{status[:80]}`; a run is one of {', '.join(RUN_STATUSES)}.")

    async def work() -> list[RunRow]:
        remit = await _remit(load())
        clauses = [f"RemitAgent = '{_quoted(agent)}'"] if agent else []
        if status:
            clauses.append(RUN_STATUSES[status])
        return [row async for row in remit.list(" AND ".join(clauses), limit)]

    rows = _do(work())
    if as_json:
        render.print_json([r.model_dump(mode="json") for r in rows])
    elif rows:
        render.console().print(render.runs(rows))
    else:
        print("No runs.")


def _quoted(value: str) -> str:
    if "'" in value or "\\" in value:
        raise InvalidInput("Quotes and backslashes can't stand in a filter.")
    return value


@app.command()
def show(
    run_id: Run, transcript: Annotated[bool, typer.Option(help="Every message too.")] = False, as_json: AsJson = False
) -> None:
    """Show one run: what it did, what was refused and why, who approved, and its number once it is sealed."""

    async def work() -> tuple[RunSummary, list[str]]:
        remit = await _remit(load())
        summary = await remit.seen(run_id)
        return summary, await remit.transcript(run_id) if transcript else []

    summary, messages = _do(work())
    if as_json:
        import json

        extra = {"transcript": [json.loads(m) for m in messages]} if transcript else {}
        render.print_json(summary.model_dump(mode="json") | extra)
        return
    out = render.console()
    for part in render.show(summary):
        out.print(part)
    if summary.status in OPEN and (policies := today()) and (changed := policies.changed(summary)):
        out.print(changed, markup=False)
    if summary.status not in OPEN and (sealed := sealed_as(load(), summary.run_id)):
        out.print(sealed, markup=False)
    for message in messages:
        out.print(message, markup=False)


@app.command()
def inbox(as_json: AsJson = False) -> None:
    """List what waits for people, over all runs, and the decisions that were refused."""

    print_waiting(as_json=as_json)


# ---- people -------------------------------------------------------------------------------------------------------


async def _token(
    signer: Signer,
    remit: Remit,
    run_id: str,
    approval_id: str | None,
    decision: Verb,
    reason: str,
    changes: dict[str, str] | None = None,
) -> tuple[str, str]:
    """The id of the approval and the signed decision on it; `changes` are those of an edit."""
    summary, approval = await remit.approval(run_id, approval_id)
    if approval.status != "pending":
        raise InvalidInput(f"Approval `{approval.request.approval_id}` is already {approval.status}.")
    request = approval.request
    arguments = edited(request.arguments, changes) if changes is not None else None
    return request.approval_id, signer.sign(request, summary.run_id, decision, reason, arguments)


def _decide(
    run_id: str,
    approval_id: str | None,
    who: str | None,
    decision: Verb,
    reason: str,
    changes: dict[str, str] | None = None,
) -> Decided:
    settings = load()
    signer = Signer(settings, who)

    async def work() -> Decided:
        remit = await _remit(settings)
        name, token = await _token(signer, remit, run_id, approval_id, decision, reason, changes)
        return await remit.decide(run_id, name, token)

    return _do(work())


def _decided(answer: Decided) -> None:
    more = f"; {len(answer.approvers)} of {answer.required} approvals" if answer.status == "pending" else ""
    print(f"{answer.approval_id} is {answer.status}{more}.")


@app.command()
def approve(
    run_id: Run,
    approval_id: ApprovalId = None,
    who: Person = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Approve what a run waits for, as PERSON."""
    _decided(_decide(run_id, approval_id, who, "approve", reason))


@app.command()
def reject(
    run_id: Run,
    approval_id: ApprovalId = None,
    who: Person = None,
    reason: Annotated[str, typer.Option(help="Why; the agent is told.", show_default=False)] = ...,  # type: ignore[assignment]
) -> None:
    """Reject what a run waits for, as PERSON; the agent gets the reason."""
    if not reason.strip():
        raise InvalidInput("`--reason` is empty; say why, for the agent is told.")
    _decided(_decide(run_id, approval_id, who, "reject", reason))


@app.command()
def edit(
    run_id: Run,
    approval_id: ApprovalId = None,
    who: Person = None,
    changes: Changes = ...,  # type: ignore[assignment]
    reason: Annotated[str, typer.Option(help="Why; the agent is told.", show_default=False)] = ...,  # type: ignore[assignment]
) -> None:
    """Change the arguments of what a run waits for, as PERSON. It is judged anew, and PERSON may not approve the outcome."""
    if not reason.strip():
        raise InvalidInput("`--reason` is empty; say why, for the agent is told.")
    answer = _decide(run_id, approval_id, who, "edit", reason, changes_of(changes))
    print(f"{answer.approval_id} is {answer.status}; the edited action is judged anew: `remit show {run_id}` says how.")


@app.command()
def sign(
    run_id: Run,
    approval_id: Annotated[str, typer.Argument(help="Which approval.", show_default=False)],
    who: Person = None,
    approved: Annotated[
        bool | None, typer.Option("--approve/--reject", help="The decision; left out with `--set`.", show_default=False)
    ] = None,
    changes: Changes = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Print a signed decision, to paste as signal or update `decide` into the Temporal UI or CLI."""
    import json

    if (approved is None) == (not changes):
        raise InvalidInput("Say what is decided: `--approve`, `--reject`, or an edit with `--set NAME=VALUE`.")
    settings = load()
    signer = Signer(settings, who)

    async def work() -> dict[str, str]:
        remit = await _remit(settings)
        decision: Verb = "edit" if approved is None else "approve" if approved else "reject"
        made = changes_of(changes) if changes else None
        return decision_payload(*await _token(signer, remit, run_id, approval_id, decision, reason, made))

    print(json.dumps(_do(work())))


# ---- what there is ------------------------------------------------------------------------------------------------


@app.command()
def agents(as_json: AsJson = False, app_dir: AppDir = None) -> None:
    """List the agents: who they are, who answers for them, what they may use, and what people made of their proposals."""
    del app_dir
    print_agents(load(), as_json=as_json)


@policy.command("check")
def policy_check(
    folder: Annotated[Path | None, typer.Argument(help="A bundle's folder; by default all bundles and agents.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings about models count as problems.")] = False,
    as_json: AsJson = False,
    app_dir: AppDir = None,
) -> None:
    """Check that policies parse, validate against the tools, and fit the agents; warn of models that won't do."""
    from remit.apps import assemble

    del app_dir
    settings = load()
    library = assemble(settings).library
    problems = library.problems() if folder is None else library.folder_problems(folder)
    today = datetime.now(UTC).date()
    warnings = route_warnings(routes(library, settings, today)) if folder is None and not problems else []
    bad = bool(problems) or (strict and bool(warnings))
    if as_json:
        render.print_json({"ok": not bad, "problems": problems, "warnings": warnings})
        raise typer.Exit(1 if bad else 0)
    for problem in problems:
        print(f"remit: {problem}", file=sys.stderr)
    for warning in warnings:
        print(f"remit: warning: {warning}", file=sys.stderr)
    if not bad:
        print(f"{'All bundles and agents are' if folder is None else 'The bundle is'} in order.")
    raise typer.Exit(1 if bad else 0)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"remit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    app_dir: AppDir = None,
) -> None:
    del version, app_dir


def main() -> NoReturn:
    """Run the command line and end the process: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    code = 1
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that can't show a letter must not stop a command
    try:
        app()
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):
            # `remit runs | head -1`: whoever reads has enough, and the command did what it says.
            os._exit(0)
        code = e.code if isinstance(e.code, int) else 1 if e.code else 0
    except RemitError as e:
        print(f"remit: {e.message}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        os._exit(0)
    except OSError as e:
        print(f"remit: {e.filename or 'The output'} can't be used: {e.strerror or e}.", file=sys.stderr)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # The SDK's threads can abort a normal interpreter exit (sdk-python#300): a command would lie about its outcome.
        os._exit(code)


if __name__ == "__main__":
    main()
