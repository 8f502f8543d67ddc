"""A run made again on a Temporal server of its own, in a folder that is thrown away, with what stands in for its activities."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from joserfc.jwk import OKPKey
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.ledger.store import Ledger
from activities.library import Library
from activities.meter import Meter
from activities.model import ModelActivities
from activities.runs import Runs
from activities.storage import storage_at
from activities.tiers import VENDORS, pinned
from policies.approvals import Approval, ApprovalDecision
from policies.bundle import Bundle
from policies.caps import ScopedCaps
from policies.errors import ApprovalRefused, InvalidInput, Unavailable
from policies.identity import Directory, Person, PublicKey
from policies.routing import ModelChoice, Route
from remit.client import Remit, RunFailed
from remit.connection import CONVERTER, converter
from remit.embedded import TemporalServer
from remit.issuer import signed
from remit.offload import external_storage
from remit.providers import providers, servers
from remit.settings import Settings
from remit.whatif.recording import Call, Recording, call_of
from remit.whatif.side import Side
from remit.whatif.stand_in import MINTED, StandIn
from tools.catalog import Catalog
from workflows.agent_run import AgentRun
from workflows.messages import Capsule, RunSummary
from workflows.state import OPEN, parse_message

__all__ = ["Changes", "Forked", "fork", "route_of"]

QUEUE = "fork"
RUN = "fork"
LOOK_SECONDS = 0.05
QUIET_LOOKS = 4
"""Looks at a run in which nothing moved, after which it waits for people and for nothing else."""
LONGEST_SECONDS = 1800


@dataclass(frozen=True)
class Changes:
    """What is tried in the place of what the run was pinned to; None leaves it."""

    prompt: str | None = None
    route: Route | None = None
    bundle: Bundle | None = None


@dataclass(frozen=True)
class Forked:
    """What became of the fork.

    Attributes:
        asked: steps at which the model was asked, for the record had no answer.
        notes: what came otherwise than by the record.
    """

    side: Side
    asked: tuple[int, ...]
    notes: tuple[str, ...]


async def fork(
    recording: Recording, since: int, changes: Changes, settings: Settings, library: Library, catalog: Catalog
) -> Forked:
    """Run `recording` again from step `since` with `changes`. Nothing but a model is asked, and nothing is performed.

    Raises:
        InvalidInput: a change can't be made.
        Unavailable: the embedded server doesn't start, or the run takes over half an hour.
    """
    people = _People(recording, catalog, changes.bundle)
    capsule = _capsule(recording, changes, people.directory, library)
    async with AsyncExitStack() as closing:
        home = Path(closing.enter_context(TemporaryDirectory(prefix="remit-fork-", ignore_cleanup_errors=True)))
        storage = storage_at(str(home / "storage"))
        runs = Runs(storage)
        # No cap holds here, so the meter asks no ledger; this one is never made.
        ledger = Ledger(f"sqlite:///{home / 'unused.db'}")
        closing.callback(ledger.close)
        model = ModelActivities(runs, providers(settings, closing), catalog, {}, Meter(ledger, _no_caps), servers(closing))
        same_model = changes.prompt is None and changes.route is None
        stand_in = StandIn(recording, capsule, since, same_model, model, runs, catalog)
        server = TemporalServer(home, headless=True)
        closing.callback(server.stop)
        # Encrypted where the record is, though the folder is its owner's alone and doesn't stay.
        codec = converter(settings).payload_codec
        mine = replace(CONVERTER, payload_codec=codec, external_storage=external_storage(str(home / "storage")))
        client = await server.ready(data_converter=mine)
        worker = Worker(
            client,
            task_queue=QUEUE,
            workflows=[AgentRun],
            activities=stand_in.all,  # pyright: ignore[reportArgumentType]  (methods, each with its own input)
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        await closing.enter_async_context(worker)
        remit = Remit(client, QUEUE, storage)
        start = recording.start
        await remit.start(start.agent, start.inputs, run_id=RUN, requester=start.requester, script=start.script)
        summary = await _ended(remit, people)
        messages = [parse_message(text) for text in await remit.transcript(RUN)]
        asked, notes = tuple(stand_in.asked), (*stand_in.notes, *people.notes)
        return Forked(side=Side.of(summary, messages), asked=asked, notes=notes)


def _capsule(recording: Recording, changes: Changes, directory: Directory, library: Library) -> Capsule:
    """What the fork is pinned to: as the recorded run, but for the changes."""
    was = recording.capsule
    fields = {name: getattr(was, name) for name in Capsule.model_fields}
    fields |= {"directory": directory, "paused": None, "recorded": False, "history_events": 20_000}
    if was.capability:
        fields["capability"] = MINTED
    if changes.prompt is not None:
        fields["prompt"] = changes.prompt
    if changes.route is not None:
        fields["route"] = changes.route
    if bundle := changes.bundle:
        rules, name = bundle.limits(), was.agent.name
        # An agent that isn't there any more has no wishes of its own.
        limits = library.limits(library.agent(name), bundle) if name in library.names() else rules.run
        fields |= {"bundle": bundle, "limits": limits, "approver_roles": rules.approvals.roles}
    return Capsule.model_validate(fields)


def _no_caps(_agent: str, _bundle: Bundle | None) -> Sequence[ScopedCaps]:
    return ()


async def _ended(remit: Remit, people: "_People") -> RunSummary:
    """The run once it has closed, or waits for people who decided nothing like this."""
    end, before, quiet = time.monotonic() + LONGEST_SECONDS, None, 0
    while time.monotonic() < end:
        summary = await remit.status(RUN)
        if summary.status not in OPEN:
            with suppress(RunFailed):  # the summary says why
                await remit.result(RUN)
            return await remit.status(RUN)
        pending = [a for a in summary.approvals if a.status == "pending"]
        moved = False
        for approval in pending:
            moved = await people.decide(remit, summary.run_id, approval) or moved
        quiet = quiet + 1 if not moved and summary == before else 0
        if pending and quiet >= QUIET_LOOKS:
            return summary
        before = summary
        await asyncio.sleep(LOOK_SECONDS)
    raise Unavailable(f"The fork wasn't over after {LONGEST_SECONDS // 60} minutes.")


class _People:
    """Those who decided in the recorded run, with keys made for its fork: they decide the same again on the same action."""

    def __init__(self, recording: Recording, catalog: Catalog, bundle: Bundle | None) -> None:
        self.notes: list[str] = []
        self._catalog = catalog
        rules = bundle.limits().approvals if bundle else recording.capsule.approval_rules
        known = recording.capsule.directory.joined(recording.people).people
        self._keys = {p.sub: OKPKey.generate_key("Ed25519", {"kid": f"fork-{n}"}) for n, p in enumerate(known)}
        self.directory = Directory(people=tuple(self._person(p, rules.roles, rules.roles_at(2**40)) for p in known))
        self._left: dict[Call, deque[Approval]] = {call: deque(found) for call, found in recording.approvals.items()}
        self._decisions: dict[str, deque[ApprovalDecision]] = {}

    def _person(self, person: Person, roles: tuple[str, ...], later: tuple[str, ...]) -> Person:
        key = self._keys[person.sub].as_dict(private=False)
        # Who may decide hours later may at once, for nobody waits here.
        more = roles if set(person.roles) & set(later) else ()
        public = PublicKey(kid=str(key["kid"]), x=str(key["x"]))
        return Person(sub=person.sub, roles=tuple(dict.fromkeys((*person.roles, *more))), keys=(public,))

    async def decide(self, remit: Remit, run_id: str, approval: Approval) -> bool:
        """Decide the next thing that was decided on this action, if there is one left, and say whether there was."""
        request = approval.request
        decisions = self._decisions.get(request.approval_id)
        if decisions is None:
            left = self._left.get(call_of(self._catalog, request.tool.partition("@")[0], request.arguments))
            decisions = deque(left.popleft().decisions if left else ())
            self._decisions[request.approval_id] = decisions
        if not decisions:
            return False
        said = decisions.popleft()
        token = signed(
            self._keys[said.sub],
            request=request,
            run_id=run_id,
            decision=said.decision,
            reason=said.reason,
            arguments=said.arguments,
        )
        try:
            await remit.decide(RUN, request.approval_id, token)
        except ApprovalRefused as e:
            self.notes.append(
                f"{said.sub}'s decision to {said.decision} `{request.tool}` doesn't count in the fork: {e.message}"
            )
        except InvalidInput:
            return False  # it was settled meanwhile: expired, or the run ended
        return True


def route_of(model: str, was: Route, settings: Settings) -> Route:
    """The route with `model` in each tier: `PROVIDER:MODEL`, or a model of the recorded provider, or of today's.

    Raises:
        InvalidInput: no provider of it can be reached.
    """
    provider, _, name = model.partition(":") if model.partition(":")[0] in VENDORS else ("", "", model)
    recorded = was.models[0].provider
    provider = provider or (recorded if recorded != "scripted" else settings.model_provider)
    if not provider:
        raise InvalidInput("No model can be reached: set `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` or `GEMINI_API_KEY`.")
    choice = pinned(ModelChoice(provider=provider, model=name, price=settings.declared_price), settings.max_output_tokens)
    return Route(models=tuple(choice for _ in was.models))
