"""`remit rollout` and `remit outcome`: give an agent or a candidate of it a growing share, and say what became of cases."""

import asyncio
from typing import Annotated

import typer

from policies.control import Signable
from policies.errors import InvalidInput, NotFound
from policies.rollout import Rollout
from remit import render
from remit.client import Remit
from remit.connection import connect
from remit.fleet import Fleet, audience
from remit.options import AsJson
from remit.session import Signer
from remit.settings import Settings, load
from workflows.rollout_messages import (
    ArmSummary,
    JudgeRollout,
    RolledOut,
    RolloutAbort,
    RolloutPause,
    RolloutPromote,
    RolloutStart,
)

__all__ = ["outcome", "rollout"]

REASON_LENGTH = 500
rollout = typer.Typer(no_args_is_help=True, help="Rollouts: a growing share of the work, judged at each stage.")
Agent = Annotated[str, typer.Argument(help="The agent, as `remit agents` lists it.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why.", show_default=False)]
By = Annotated[str, typer.Option("--as", help="Who says so.")]
Person = Annotated[
    str | None, typer.Option("--as", help="Who signs for it; by default whoever is logged in.", show_default=False)
]


@rollout.command()
def show(agent: Agent, as_json: AsJson = False) -> None:
    """Show where the rollout stands and what its arms came to; its gates are judged if a checkpoint is due."""
    found = _command(JudgeRollout(agent=agent))
    if as_json:
        render.print_json(found.model_dump(mode="json", exclude={"refused", "message", "status"}))
        return
    now, out = found.rollout, render.console()
    assert now
    since = f"since {render.clock(now.started_at // 1000)}, this stage since {render.clock(now.stage_at // 1000)}"
    out.print(f"{agent}: {now.words}, {since}.", markup=False)
    out.print(f"Last change{_by(now.by)}: {now.reason}", markup=False)
    against = f"stable {now.stable[:19]}" if now.stable else "people"
    out.print(f"Candidate {now.candidate[:19]} against {against}.", markup=False)
    if found.candidate and found.baseline:
        out.print(
            render.table("", ("", "Candidate", "Stable" if now.stable else "People"), _figures(found.candidate, found.baseline))
        )
    if now.status == "running":
        out.print(_judged(now), markup=False)
    for sentence in (*found.findings, *found.notes):
        out.print(f"- {sentence}", markup=False)


@rollout.command()
def start(
    agent: Agent,
    reason: Reason = ...,  # type: ignore[assignment]
    who: Person = None,
    people: Annotated[
        bool, typer.Option("--people", help="Roll out the agent itself: people do the rest. Else, the candidate beside it.")
    ] = False,
) -> None:
    """Give the candidate 1 % of the subjects, or let a paused rollout go on; you sign for it."""
    said = _said(reason)
    settings = load()
    signer = Signer(settings, who)
    found = _kept(settings, agent)
    release = _definition(settings, agent, people=people)
    done = _signed(settings, signer, "rollout_start", agent, said, found, release=release, people=people)
    now = done.rollout
    assert now
    rest = "people do the rest" if not now.stable else "the stable release gets the rest"
    print(f"The rollout of {agent} is {now.words}, says {signer.sub}; {rest}.")
    _notes(done)


@rollout.command()
def promote(
    agent: Agent,
    reason: Reason = ...,  # type: ignore[assignment]
    who: Person = None,
) -> None:
    """Give a candidate that passed its gates the next share: 1, 5, 20, 50, 100 %; you sign for it. There is no `--force`."""
    said = _said(reason)
    settings = load()
    signer = Signer(settings, who)
    found = _kept(settings, agent)
    if found is None:
        raise NotFound(f"Agent `{agent[:80]}` was never rolled out; `remit rollout start` begins it.")
    now = _signed(settings, signer, "rollout_promote", agent, said, found)
    assert now.rollout
    share = "gets all subjects: the rollout is done" if now.rollout.status == "done" else f"gets {now.rollout.stage} %"
    print(f"The candidate of {agent} {share}, says {signer.sub}.")
    _notes(now)


@rollout.command()
def pause(
    agent: Agent,
    reason: Reason = ...,  # type: ignore[assignment]
    who: By = "",
) -> None:
    """Give the candidate no new run until `start` lets it go on at the same stage. Anybody may."""
    _lowered(RolloutPause(agent=agent, reason=_said(reason), by=who))


@rollout.command()
def abort(
    agent: Agent,
    reason: Reason = ...,  # type: ignore[assignment]
    who: By = "",
) -> None:
    """End the rollout: new runs go to the stable release, or to people, at once. Anybody may."""
    _lowered(RolloutAbort(agent=agent, reason=_said(reason), by=who))


def outcome(
    run_id: Annotated[str, typer.Argument(help="The closed run's workflow id.", show_default=False)],
    csat: Annotated[int | None, typer.Option(help="How satisfied the customer is, from 1 to 5.", show_default=False)] = None,
    reopened: Annotated[bool | None, typer.Option(help="Whether the case came back.", show_default=False)] = None,
    refunded: Annotated[bool | None, typer.Option(help="Whether money was given back.", show_default=False)] = None,
    escalated: Annotated[bool | None, typer.Option(help="Whether somebody else had to take over.", show_default=False)] = None,
    cost: Annotated[
        float | None, typer.Option(help="US dollars that it cost; of a case that people did.", show_default=False)
    ] = None,
    first_response: Annotated[
        float | None, typer.Option(help="Seconds until something was done; of a case that people did.", show_default=False)
    ] = None,
    who: By = "",
    as_json: AsJson = False,
) -> None:
    """Say what became of a case after its run, by an agent or by people. What is left out stays as it was said before."""
    if all(v is None for v in (csat, reopened, refunded, escalated, cost, first_response)):
        raise InvalidInput("Say what became of it: `--csat`, `--reopened`, `--refunded`, `--escalated`, or their opposites.")

    async def work() -> RolledOut:
        settings = load()
        remit = Remit(await connect(settings), settings.task_queue)
        return await remit.outcome(
            run_id,
            csat=csat,
            reopened=reopened,
            refunded=refunded,
            escalated=escalated,
            cost_usd=cost,
            first_response_seconds=first_response,
            by=who,
        )

    found = asyncio.run(work())
    if as_json:
        render.print_json(found.model_dump(mode="json", include={"agent", "arm", "rollout", "findings"}))
        return
    print(f"Recorded for {run_id}, arm {found.arm}.")
    if found.rollout:
        print(f"The rollout of {found.agent} is {found.rollout.status} by {found.rollout.by}: {found.rollout.reason}")


# ---- small helpers --------------------------------------------------------------------------------------------------


def _command(command: JudgeRollout | RolloutStart | RolloutPromote | RolloutPause | RolloutAbort) -> RolledOut:
    async def work() -> RolledOut:
        settings = load()
        return await Fleet(await connect(settings), settings.task_queue).roll_out(command)

    return asyncio.run(work())


def _signed(
    settings: Settings,
    signer: Signer,
    command: Signable,
    agent: str,
    reason: str,
    found: Rollout | None,
    *,
    release: str = "",
    people: bool = False,
) -> RolledOut:
    """Sign for the rollout as the ledger has it now, and give the command."""

    async def work() -> RolledOut:
        client = await connect(settings)
        epoch, workers = found.epoch if found else 0, audience(client, settings)
        token = signer.command(
            command, scope=f"agent:{agent}", epoch=epoch, audience=workers, reason=reason, release=release, people=people
        )
        kind = RolloutStart if command == "rollout_start" else RolloutPromote
        return await Fleet(client, settings.task_queue).roll_out(kind(agent=agent, control_jws=token))

    return asyncio.run(work())


def _kept(settings: Settings, agent: str) -> Rollout | None:
    from activities.ledger import rollouts
    from activities.ledger.store import existing

    with existing(settings.ledger) as ledger, ledger.reading() as connection:
        return rollouts.found(connection, agent)


def _definition(settings: Settings, agent: str, *, people: bool) -> str:
    """What would be rolled out, as it lies in the folders here: it is signed for, and the worker must have the same.

    Raises:
        NotFound: there is no candidate.
    """
    from activities.releases import Releases
    from remit.apps import assemble

    parts = assemble(settings)
    releases = Releases(parts.library, parts.corpora)
    candidate = releases.candidate(agent, people=people)
    if candidate is None:
        raise NotFound(
            f"There is no candidate in `agents/{agent}/candidate/`; put an `agent.toml` or a `prompt.md` there with what is to "
            "change, or roll out the agent itself with `--people`."
        )
    return releases.definition(candidate)


def _lowered(command: RolloutPause | RolloutAbort) -> None:
    found = _command(command).rollout
    assert found
    rest = "the stable release" if found.stable else "people"
    print(f"The rollout of {found.agent} is {found.status}; new runs go to {rest}.")


def _said(reason: str) -> str:
    if not reason.strip():
        raise InvalidInput("`--reason` is empty; say why.")
    return reason[:REASON_LENGTH]


def _by(name: str) -> str:
    return f" by {name}" if name else ""


def _notes(found: RolledOut) -> None:
    for note in found.notes:
        print(note)


def _judged(now: Rollout) -> str:
    if now.passed:
        return f"Passed at {now.judged[-1]} runs; `remit rollout promote` may give it {now.next_stage} %."
    return f"Judged at {', '.join(map(str, now.judged))} runs; not passed." if now.judged else "Not judged yet."


def _figures(candidate: ArmSummary, baseline: ArmSummary) -> list[tuple[str, str, str]]:
    def share(count: int, arm: ArmSummary) -> str:
        return f"{count} ({count / arm.runs:.1%})" if arm.runs else "0"

    def csat(arm: ArmSummary) -> str:
        return f"{arm.csat:.2f} of 5 ({arm.csat_answers})" if arm.csat is not None else ""

    def cost(arm: ArmSummary) -> str:
        return f"${arm.cost_usd:.4f}" if arm.cost_usd is not None else ""

    def response(arm: ArmSummary) -> str:
        return f"{arm.first_response_ms / 1000:.0f} s" if arm.first_response_ms is not None else ""

    arms = (candidate, baseline)
    rows = [
        ("Cases", *(str(a.runs) for a in arms)),
        ("Escalated", *(share(a.escalated, a) for a in arms)),
        ("Refused by policy", *(share(a.violations, a) for a in arms)),
        ("Reopened", *(share(a.reopened, a) for a in arms)),
        ("Refunded", *(share(a.refunded, a) for a in arms)),
        ("CSAT", *map(csat, arms)),
        ("Cost a case", *map(cost, arms)),
        ("First response", *map(response, arms)),
    ]
    return [(name, one, other) for name, one, other in rows]
