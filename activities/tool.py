"""`read_facts`, `read_tool` and `execute_tool`: where an agent touches the business, and where each write is checked again."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping

from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.heartbeat import beating
from activities.ledger.store import Effect, Intent, Ledger, run_scope
from activities.runs import Runs
from policies import approvals
from policies.approvals import Action
from policies.authorize import authorize
from policies.bundle import compile_policy
from policies.errors import ApprovalRefused, KillSwitchEngaged, OutcomeIndeterminate, RemitError, ToolRefusal, Unavailable
from policies.identity import Directory
from policies.models import ActionFacts, ResourceFacts, RunFacts
from tools.catalog import Catalog
from tools.spec import Arguments, Connector, ToolContext, ToolSpec
from workflows.keys import idempotency_key
from workflows.messages import Capsule, ExecuteTool, ReadFacts, ReadTool, RecordedFacts, ToolMessage, ToolOutcome

__all__ = ["ToolActivities"]


class ApprovalNeeded(Exception):
    """The sum that the verdict rests on has risen; people must approve first."""

    def __init__(self, subject_sum_cents: int) -> None:
        self.subject_sum_cents = subject_sum_cents


class ToolActivities:
    """Tools over the connectors of this worker, with the ledger beside every write."""

    def __init__(
        self,
        runs: Runs,
        ledger: Ledger,
        catalog: Catalog,
        connectors: Mapping[type[Connector], Connector],
        directory: Callable[[], Directory],
    ) -> None:
        """`directory` is asked for each write that people approved: who they are now, whatever was pinned."""
        self._directory = directory
        self._runs = runs
        self._ledger = ledger
        self._catalog = catalog
        self._connectors = connectors

    @activity.defn(name="read_facts")
    async def read_facts(self, call: ReadFacts) -> RecordedFacts:
        """What the connector and the ledger say of the resource of a write, before it is judged."""
        spec = self._catalog.get(call.tool)
        args = spec.parse(call.arguments)
        facts = await self._facts(spec, args, ToolContext(subject=call.subject, connectors=self._connectors))
        total = await asyncio.to_thread(self._ledger.subject_sum, spec.id, call.subject) if spec.amount_fields else 0
        return RecordedFacts(facts=facts, subject_sum_cents=total)

    @activity.defn(name="read_tool")
    async def read_tool(self, call: ReadTool) -> ToolOutcome:
        """Carry out a read, bound to the run's subject."""
        async with beating():
            attempt = activity.info().attempt
            context = ToolContext(subject=call.subject, connectors=self._connectors, corpus=call.corpus)
            try:
                spec = self._catalog.get(call.tool)
                args = spec.parse(call.arguments)
                if spec.effect != "read":
                    raise ToolRefusal("denied", f"`{spec.name}` writes; it can't be carried out as a read.")
                if spec.facts:
                    spec.bind(args, await self._facts(spec, args, context), call.subject)
                result = await spec.run(args, context)
            except RemitError as e:
                return _refused(e, attempt)
        return self._done(call.capsule, call.slot, call.call_id, spec.name, result.model_dump_json(), attempt)

    @activity.defn(name="execute_tool")
    async def execute_tool(self, call: ExecuteTool) -> ToolOutcome:
        """Carry out a write that was authorized: check everything again, reserve it in the ledger, perform it, record it."""
        async with beating():
            attempt = activity.info().attempt
            try:
                capsule = await self._runs.capsule(call.capsule)
                spec = self._catalog.get(call.tool)
                args = spec.parse(call.arguments)
                intent, action_digest = _intent(capsule, call, spec, args)
                if action_digest != call.action_digest:
                    raise ToolRefusal("action_changed", "The action isn't the one that was authorized.")
                context = ToolContext(
                    subject=capsule.subject,
                    connectors=self._connectors,
                    idempotency_key=call.idempotency_key,
                    corpus=capsule.corpus,
                )
                effect = await self._reserve(capsule, call, spec, args, context, intent)
                if effect.state == "done":
                    return self._done(call.capsule, call.slot, call.call_id, spec.name, effect.outcome, attempt)
                if effect.state == "failed":
                    reason, _, message = effect.outcome.partition(": ")
                    return ToolOutcome(status="refused", reason=reason, content=message, attempt=attempt)
                # Once it is reserved, a cancellation must not cut it in two: it is finished and recorded.
                outcome = await _uncut(self._perform(spec, args, context, effect))
            except ApprovalNeeded as e:
                return ToolOutcome(status="approval_required", attempt=attempt, subject_sum_cents=e.subject_sum_cents)
            except KillSwitchEngaged as e:
                return ToolOutcome(status="killed", reason=e.code, content=e.message, attempt=attempt)
            except OutcomeIndeterminate as e:
                return ToolOutcome(status="indeterminate", reason=e.code, content=e.message, attempt=attempt)
            except RemitError as e:
                return _refused(e, attempt)
            except SQLAlchemyError as e:
                # G4: no ledger, no writes. Nothing was performed that isn't recorded as `sent`.
                raise ApplicationError(f"The ledger can't be reached: {type(e).__name__}.", type="ledger_unavailable") from None
        return self._done(call.capsule, call.slot, call.call_id, spec.name, outcome, attempt)

    async def _reserve(
        self, capsule: Capsule, call: ExecuteTool, spec: ToolSpec, args: Arguments, context: ToolContext, intent: Intent
    ) -> Effect:
        """The ledger's answer, after the contextual checks and with the policy judged again inside the transaction."""
        facts = await self._facts(spec, args, context)
        directory = await self._people() if call.approval else Directory()
        policy = compile_policy(capsule.bundle, self._catalog.cedar_schema)

        def judge(subject_sum_cents: int) -> None:
            # Checked here and not before, so that the retry of a write that is already done gets its result.
            spec.bind(args, facts, capsule.subject)
            spec.check(args, facts)
            approved = _approved(capsule, call, directory)
            verdict = authorize(
                policy,
                ActionFacts(
                    agent=capsule.agent,
                    tool=spec.name,
                    resource=spec.resource(args),
                    arguments=args.model_dump(mode="json", exclude_none=True),
                    run=RunFacts(
                        subject=capsule.subject,
                        calls_used=call.calls_used,
                        approvals=approved,
                        model_tier=call.model_tier,
                        assurance=capsule.agent.assurance,
                        tainted=call.tainted,
                        subject_sum_cents=subject_sum_cents,
                    ),
                    facts=facts,
                ),
            )
            if verdict.decision == "require_approval" and verdict.approvals_required > approved:
                raise ApprovalNeeded(subject_sum_cents)
            if verdict.decision != "allow":
                raise ToolRefusal("denied", f"Policy: {verdict.reason}.")

        return await asyncio.to_thread(self._ledger.reserve, intent, [run_scope(capsule.run_id)], judge)

    async def _perform(self, spec: ToolSpec, args: Arguments, context: ToolContext, effect: Effect) -> str:
        """Send the effect and record what became of it."""
        key = effect.idempotency_key
        if not await asyncio.to_thread(self._ledger.sent, key, effect.attempts, [run_scope(effect.run_id)]):
            # The retry asks `reserve`, which knows whether it was a kill or another attempt.
            raise ApplicationError("This attempt may not send the write any more.", type="superseded")
        try:
            result = (await spec.run(args, context)).model_dump_json()
        except ToolRefusal as e:
            # The vendor said no: nothing happened, for certain.
            await asyncio.to_thread(self._ledger.settle, key, "failed", f"{e.reason}: {e.message}")
            raise
        except Unavailable:
            # The connector's word that nothing was written: it wasn't let in, say.
            await asyncio.to_thread(self._ledger.settle, key, "released", "unavailable")
            raise
        except Exception as e:
            if spec.idempotency != "native_key" or _last_attempt():
                await asyncio.to_thread(self._ledger.settle, key, "indeterminate", type(e).__name__)
                raise OutcomeIndeterminate(f"`{spec.name}` failed after it was sent; a person must look.") from e
            raise ApplicationError(f"`{spec.name}`: the vendor failed ({type(e).__name__}).", type="vendor_error") from e
        await asyncio.to_thread(self._ledger.settle, key, "done", result)
        return result

    async def _people(self) -> Directory | Unavailable:
        """The directory as it is now, or why it can't be asked: a write that is already done needs nobody."""
        try:
            return await asyncio.to_thread(self._directory)
        except Unavailable as e:
            return e

    async def _facts(self, spec: ToolSpec, args: Arguments, context: ToolContext) -> ResourceFacts:
        return await spec.facts(args, context) if spec.facts else ResourceFacts()

    def _done(self, capsule: str, slot: int, call_id: str, tool: str, content: str, attempt: int) -> ToolOutcome:
        message = ToolMessage(call_id=call_id, name=tool, content=content)
        self._runs.wrote(capsule, slot, message.model_dump_json())
        return ToolOutcome(status="done", content=content, attempt=attempt)


def _intent(capsule: Capsule, call: ExecuteTool, spec: ToolSpec, args: Arguments) -> tuple[Intent, str]:
    """What is to be done, derived again from the arguments and the capsule, and its digest."""
    arguments = args.model_dump(mode="json")
    action = Action(
        run_id=capsule.run_id,
        agent=capsule.agent.id,
        subject=capsule.subject,
        tool=spec.id,
        resource=spec.resource(args),
        arguments=arguments,
        policy_digest=capsule.bundle.digest,
        idempotency_key=idempotency_key(capsule.workflow_id, call.step, call.index, spec.id, arguments),
    )
    if spec.idempotency is None or action.idempotency_key != call.idempotency_key:
        raise ToolRefusal("action_changed", "The idempotency key isn't that of this action.")
    digest = approvals.action_digest(action)
    return (
        Intent(
            idempotency_key=action.idempotency_key,
            run_id=action.run_id,
            workflow_id=capsule.workflow_id,
            agent=capsule.agent.name,
            tool=spec.id,
            resource=action.resource,
            subject=action.subject,
            amount=spec.amount(args),
            action_digest=digest,
            approvers=call.approval.approvers if call.approval else (),
            strategy=spec.idempotency,
        ),
        digest,
    )


def _approved(capsule: Capsule, call: ExecuteTool, directory: Directory | Unavailable) -> int:
    """G3: how many different people approved exactly this action, each signature and each person's standing verified again."""
    approval = call.approval
    if approval is None:
        return 0
    if approval.request.action_digest != call.action_digest:
        raise ToolRefusal("action_changed", "The approval is for another action.")
    if time.time() >= approval.request.expires_at:
        raise ToolRefusal("approval_expired", "The approval expired before the action could start.")
    if isinstance(directory, Unavailable):
        if _last_attempt():
            raise directory
        raise ApplicationError(directory.message, type="directory_unavailable")
    if gone := {d.sub for d in approval.decisions} - {p.sub for p in directory.people}:
        raise ToolRefusal("approver_suspended", f"`{min(gone)}` approved this, and isn't in the directory any more.")
    try:
        return approvals.quorum(
            approval.decisions,
            request=approval.request.model_copy(update={"roles": capsule.approver_roles}),
            run_id=capsule.run_id,
            directory=directory,
            barred=frozenset({capsule.requester, capsule.agent.id}),
        )
    except ApprovalRefused as e:
        raise ToolRefusal(e.reason, e.message) from None


def _refused(error: RemitError, attempt: int) -> ToolOutcome:
    reason = error.reason if isinstance(error, ToolRefusal) else error.code
    return ToolOutcome(status="refused", reason=reason, content=error.message, attempt=attempt)


def _last_attempt() -> bool:
    info = activity.info()
    return info.retry_policy is not None and 0 < info.retry_policy.maximum_attempts <= info.attempt


async def _uncut(work: Coroutine[object, object, str]) -> str:
    """Await `work` to its end even if this activity is cancelled meanwhile; a write in half is worse than a late stop."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
