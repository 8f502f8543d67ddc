"""`read_facts`, `read_tool` and `execute_tool`: where an agent touches the business, and where each write is checked again."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.capabilities import Capabilities
from activities.failures import ledger_awaited, ledger_needed
from activities.heartbeat import beating
from activities.ledger.store import Effect, Ledger
from activities.meter import Meter, pause_of
from activities.proposal import ApprovalNeeded, Proposal, mint_write
from activities.results import StoredResults
from activities.runs import Runs
from activities.sending import Sending, last_attempt
from activities.telling import tell, tell_agent
from policies import approvals
from policies.errors import CapReached, KillSwitchEngaged, OutcomeIndeterminate, Paused, RemitError, ToolRefusal, Unavailable
from policies.identity import Directory
from policies.models import AutonomyMode, ResourceFacts
from tools.catalog import Catalog
from tools.results import MAX_PAGE_BYTES, READ_MORE, Results
from tools.spec import Arguments, Connector, ToolContext, ToolSpec
from workflows.messages import (
    Capsule,
    ExecuteTool,
    MintCapability,
    PauseState,
    ReadFacts,
    ReadTool,
    RecordedFacts,
    ToolMessage,
    ToolOutcome,
)

__all__ = ["ToolActivities"]

T = TypeVar("T")


class ToolActivities:
    """Tools over the connectors of this worker, with the ledger beside every write."""

    def __init__(
        self,
        runs: Runs,
        ledger: Ledger,
        capabilities: Capabilities,
        catalog: Catalog,
        connectors: Mapping[type[Connector], Connector],
        directory: Callable[[], Directory],
        results: StoredResults,
        meter: Meter,
    ) -> None:
        """`directory` is asked for each write that people approved: who they are now, whatever was pinned."""
        self._directory = directory
        self._runs = runs
        self._ledger = ledger
        self._capabilities = capabilities
        self._catalog = catalog
        self._connectors = {**connectors, Results: results}
        self._results = results
        self._meter = meter

    @activity.defn(name="read_facts")
    async def read_facts(self, call: ReadFacts) -> RecordedFacts:
        """What the connector and the ledger say of the resource of a write, before it is judged."""
        try:
            spec = self._catalog.get(call.tool)
            args = spec.parse(call.arguments)
            await self._check_read(call, spec, args)
        except ToolRefusal as e:
            raise ApplicationError(e.message, type=e.reason, non_retryable=True) from None
        facts = await self._facts(spec, args, ToolContext(subject=call.subject, connectors=self._connectors))
        with ledger_needed():
            return await ledger_awaited(partial(self._recorded, call, spec, facts))

    async def _recorded(self, call: ReadFacts, spec: ToolSpec, facts: ResourceFacts) -> RecordedFacts:
        """The facts with what the ledger says, and with a capability if the write needs nobody's approval."""
        total = await asyncio.to_thread(self._ledger.subject_sum, spec.id, call.subject) if spec.amount_fields else 0
        recorded = RecordedFacts(facts=facts, subject_sum_cents=total)
        if not call.admitted or not call.write:
            return recorded
        capsule = self._runs.known(call.capsule) or call.admitted  # its digest takes time, and is what counts
        mint = MintCapability(capsule=capsule, write=call.write, recorded=recorded)
        # What needs people, or is refused, gets none here.
        with contextlib.suppress(ToolRefusal, ApprovalNeeded):
            minted = await asyncio.to_thread(mint_write, mint, self._capabilities, self._catalog, _workflow_id(), Directory)
            recorded = recorded.model_copy(update={"minted": minted})
        return recorded

    @activity.defn(name="read_tool")
    async def read_tool(self, call: ReadTool) -> ToolOutcome:
        """Carry out a read, bound to the run's subject."""
        async with beating():
            attempt = activity.info().attempt
            context = ToolContext(
                subject=call.subject,
                connectors=self._connectors,
                corpus=call.corpus,
                capsule=call.capsule,
                result_bytes=call.result_bytes or MAX_PAGE_BYTES,
            )
            try:
                spec = self._catalog.get(call.tool)
                args = spec.parse(call.arguments)
                if spec.effect != "read":
                    raise ToolRefusal("denied", f"`{spec.name}` writes; it can't be carried out as a read.")
                await self._check_read(call, spec, args)
                tell({"gen_ai.agent.name": self._capabilities.known(call.capability).agent})
                if spec.facts:
                    spec.bind(args, await self._facts(spec, args, context), call.subject)
                await self._count(call)
                result = await spec.run(args, context)
            except RemitError as e:
                return _refused(e, attempt)
            limit = None if spec.name == READ_MORE else call.result_bytes  # a page is short already
            return await self._done(call, result.model_dump_json(), attempt, limit)

    @activity.defn(name="execute_tool")
    async def execute_tool(self, call: ExecuteTool) -> ToolOutcome:
        """Carry out a write that was authorized: check everything again, reserve it in the ledger, perform it, record it."""
        async with beating():
            attempt = activity.info().attempt
            try:
                outcome = await self._execute(call, attempt)
            except ApprovalNeeded as e:
                return ToolOutcome(
                    status="approval_required", attempt=attempt, subject_sum_cents=e.subject_sum_cents, mode=e.mode
                )
            except KillSwitchEngaged as e:
                if not e.ends_run:
                    return ToolOutcome(status="refused", reason="kill_switch", content=e.message, attempt=attempt)
                return ToolOutcome(status="killed", reason=e.code, content=e.message, attempt=attempt)
            except Paused as e:
                pause = PauseState(scope=e.scope, reason=e.reason, epoch=e.epoch, since=int(time.time()))
                return ToolOutcome(status="paused", reason=e.code, content=e.message, attempt=attempt, paused=pause)
            except OutcomeIndeterminate as e:
                return ToolOutcome(status="indeterminate", reason=e.code, content=e.message, attempt=attempt)
            except RemitError as e:
                return _refused(e, attempt)
        return outcome

    async def _execute(self, call: ExecuteTool, attempt: int) -> ToolOutcome:
        with ledger_needed():  # G4: no ledger, no writes. Nothing was performed that isn't recorded as `sent`.
            capsule = await self._runs.capsule(call.capsule)
            tell_agent(capsule.agent)
            proposal, effect = await ledger_awaited(partial(self._reserved, capsule, call))
            tell({"remit.effect_state": effect.state, "remit.effect_attempts": effect.attempts})
            spec, context = proposal.spec, self._context(proposal)
            if effect.state == "failed":
                return _failed(effect, attempt)
            content = effect.outcome
            if effect.state != "done":
                # Once it is reserved, a cancellation must not cut it in two: it is finished and recorded.
                content = await _uncut(Sending(self._ledger, spec, proposal.arguments, context, effect).perform())
        return await self._done(call, _told(call, content), attempt, capsule.result_bytes)

    @activity.defn(name="give_up")
    async def give_up(self, call: ExecuteTool) -> ToolOutcome:
        """What became of a write whose attempts are all lost; what wasn't sent never will be. Safe to repeat.

        A vendor that dedupes by our key is asked by sending it again; workers that died needn't cost a person's time.
        """
        capsule = await self._runs.capsule(call.capsule)
        try:
            with ledger_needed():
                people = await self._people() if call.edits else Directory()
                proposal = Proposal.of(capsule, call, self._catalog, _workflow_id(), people)
                await asyncio.to_thread(self._capabilities.check_admitted, capsule, _workflow_id())
                effect = await asyncio.to_thread(self._ledger.give_up, proposal.intent, proposal.scopes)
        except RemitError as e:
            raise ApplicationError(e.message, type=e.code, non_retryable=not isinstance(e, Unavailable)) from None
        if effect.state == "failed":
            return _failed(effect, 1)
        content = effect.outcome if effect.state == "done" else None
        sending = Sending(self._ledger, proposal.spec, proposal.arguments, self._context(proposal), effect)
        if effect.state == "sent":
            try:
                content = await _uncut(sending.perform())
            except ToolRefusal as e:
                return _refused(e, 1)
            except OutcomeIndeterminate:
                content = None
        elif content is None:
            content = await sending.found()
        if content is None:
            return ToolOutcome(status="indeterminate", reason=OutcomeIndeterminate.code, content="A person must look.")
        return await self._done(call, _told(call, content), 1, capsule.result_bytes)

    async def _reserved(self, capsule: Capsule, call: ExecuteTool) -> tuple[Proposal, Effect]:
        """The write as it is now, and the ledger's answer, with everything that it rests on judged again in its transaction."""
        people = await self._people() if call.edits else Directory()
        proposal = Proposal.of(capsule, call, self._catalog, _workflow_id(), people)
        return proposal, await self._reserve(proposal, self._context(proposal))

    async def _reserve(self, proposal: Proposal, context: ToolContext) -> Effect:
        checked: tuple[ResourceFacts, int] | Exception
        try:
            facts = await self._facts(proposal.spec, proposal.arguments, context)
            decided = proposal.call.approval or proposal.call.edits
            checked = facts, proposal.approved(await self._people() if decided else Directory())
        except Exception as e:
            checked = e
        fresh = self._capabilities.fresh(proposal.call.capability)
        uncovered = self._uncovered(proposal) if fresh else await asyncio.to_thread(self._uncovered, proposal)

        def judge(subject_sum_cents: int, ceiling: AutonomyMode) -> None:
            # Raised here and not before, so that the retry of a write that is already done gets its result, and that of one
            # that was sent isn't refused as if nothing had happened, for the vendor is away or the approval has expired now.
            if uncovered:
                raise uncovered
            if isinstance(checked, Exception):
                raise checked
            facts, approved = checked
            verdict = proposal.judge(self._catalog.cedar_schema, facts, approved, subject_sum_cents, ceiling)
            tell({"remit.policy_ids": verdict.policy_ids, "remit.approvals": approved})

        tell({"remit.risk": proposal.spec.risk, "remit.policy_version": proposal.capsule.bundle.version})
        caps = self._meter.on_write(proposal.capsule)
        return await asyncio.to_thread(self._ledger.reserve, proposal.intent, proposal.scopes, judge, caps)

    async def _people(self) -> Directory:
        try:
            return await asyncio.to_thread(self._directory)
        except Unavailable as e:
            if last_attempt():
                raise
            raise ApplicationError(e.message, type="directory_unavailable") from None

    def _uncovered(self, proposal: Proposal) -> Exception | None:
        """G1: why the call's capability doesn't cover exactly this action; None when it does."""
        capsule = proposal.capsule
        try:
            self._capabilities.check_write(
                proposal.call.capability, capsule.workflow_id, capsule, proposal.action, proposal.amount
            )
        except ToolRefusal as e:
            return e
        except Unavailable as e:  # this worker stood still: another attempt asks again, and the ledger says if it is done
            return e if last_attempt() else ApplicationError(e.message, type=e.code)
        return None

    async def _count(self, call: ReadTool) -> None:
        """G6: count the read towards the caps across runs.

        Raises:
            CapReached: there is no room for it.
        """
        kept = self._capabilities.known(call.capability)
        known = self._runs.known(call.capsule)
        await self._meter.read(kept.run_id, kept.agent, call.slot, known.bundle if known else None)

    async def _check_read(self, call: ReadFacts | ReadTool, spec: ToolSpec, args: Arguments) -> None:
        """G1: whether the run's capability covers this.

        Raises:
            ToolRefusal: it doesn't.
            ApplicationError: the ledger, which knows, is away.
        """
        check = partial(
            self._capabilities.check_read,
            call.capability,
            workflow_id=_workflow_id(),
            capsule=call.capsule,
            subject=call.subject,
            corpus=call.corpus,
            tool=spec.id,
            resource=str(spec.resource(args)),
        )
        if self._capabilities.fresh(call.capability):
            check()
        else:
            with ledger_needed():
                await ledger_awaited(partial(asyncio.to_thread, check))

    def _context(self, proposal: Proposal) -> ToolContext:
        return ToolContext(
            subject=proposal.capsule.subject,
            connectors=self._connectors,
            idempotency_key=proposal.action.idempotency_key,
            corpus=proposal.capsule.corpus,
        )

    async def _facts(self, spec: ToolSpec, args: Arguments, context: ToolContext) -> ResourceFacts:
        return await spec.facts(args, context) if spec.facts else ResourceFacts()

    async def _done(self, call: ReadTool | ExecuteTool, content: str, attempt: int, limit: int | None) -> ToolOutcome:
        """The outcome, with at most `limit` bytes of it for the model; the whole of a longer one is kept for its run."""
        ref = ""
        if limit is not None and len(content.encode()) > limit:
            # A write has happened by now: that must be said, whatever is cancelled meanwhile.
            content, ref = await _uncut(self._results.keep(call.capsule, content))
        message = ToolMessage(call_id=call.call_id, name=call.tool, content=content)
        self._runs.wrote(call.capsule, call.slot, message.model_dump_json())
        return ToolOutcome(status="done", content=content, attempt=attempt, ref=ref)


def _workflow_id() -> str:
    """The caller, as the server says."""
    return str(activity.info().workflow_id)


def _told(call: ExecuteTool, outcome: str) -> str:
    """What the model is told of a write: its result and, if people changed the arguments, that they did."""
    if not call.edits:
        return outcome
    told = {"result": json.loads(outcome), "edited_by_people": approvals.edit_note(call.edits)}
    return json.dumps(told, sort_keys=True, ensure_ascii=False)


def _failed(effect: Effect, attempt: int) -> ToolOutcome:
    reason, _, message = effect.outcome.partition(": ")
    return ToolOutcome(status="refused", reason=reason, content=message, attempt=attempt)


def _refused(error: RemitError, attempt: int) -> ToolOutcome:
    if isinstance(error, CapReached) and (pause := pause_of(error)):
        return ToolOutcome(status="paused", reason=error.code, content=error.message, attempt=attempt, paused=pause)
    reason = error.reason if isinstance(error, ToolRefusal) else error.code
    return ToolOutcome(status="refused", reason=reason, content=error.message, attempt=attempt)


async def _uncut(work: Coroutine[object, object, T]) -> T:
    """Await `work` to its end even if this activity is cancelled meanwhile; a write in half is worse than a late stop."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
