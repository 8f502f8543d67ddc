"""AgentRun: admit, then decide, authorize, approve, act, observe until the run closes. The loop and nothing else."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from temporalio import workflow
from temporalio.common import RawValue, SearchAttributeUpdate
from temporalio.exceptions import ActivityError, ApplicationError

from policies import approvals, budgets
from policies.approvals import Action, Approval, ApprovalDecision, ApprovalRequest
from policies.authorize import authorize
from policies.bundle import CompiledPolicy, compile_policy, explain
from policies.errors import ApprovalRefused, InvalidInput, RemitError, ToolRefusal, UsageLimitExceeded
from policies.models import ActionFacts, Frozen, Risk, RunFacts, RunStatus, Verdict
from tools.builtin import CATALOG
from tools.spec import Arguments, ToolSpec
from workflows import ports
from workflows.keys import idempotency_key
from workflows.messages import (
    AGENT_RUN,
    REMIT_AGENT,
    REMIT_AWAITING_APPROVAL,
    REMIT_COST_USD,
    REMIT_POLICY,
    REMIT_RISK,
    REMIT_STATUS,
    Admission,
    AssistantMessage,
    CallModel,
    Capsule,
    ExecuteTool,
    FinalAnswer,
    KillState,
    ModelTurn,
    ReadFacts,
    ReadTool,
    RecordedFacts,
    RunResult,
    RunSummary,
    ToolCallView,
    ToolMessage,
    ToolOutcome,
    ToolRequest,
    TranscriptPage,
    UserMessage,
    WriteKill,
)
from workflows.state import RunState
from workflows.view import cockpit, money

__all__ = ["FINAL_ANSWER", "AgentRun"]

FINAL_ANSWER = "final_answer"
MAX_SIGNAL_BYTES = 16_384
MAX_APPROVAL_ROUNDS = 3
STRONG = 2
RISKS: tuple[Risk, ...] = ("low", "medium", "high", "critical")
T = TypeVar("T", bound=Frozen)


class KillSignal(Frozen):
    """Payload of the signal `kill`: `{"reason": "..."}`."""

    reason: str = Field(min_length=1, max_length=500)
    by: str = Field(default="", max_length=200)


class DecideSignal(Frozen):
    """Payload of the signal or update `decide`. Whatever else it holds (an `approver`, say) is a claim, and ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    approval_id: str = Field(max_length=100)
    decision_jws: str


class Halted(Exception):
    """The plan must not go on: the run is being killed, or its time is over."""


class Escalated(Exception):
    """A human must take over; the argument names why."""


@dataclass(frozen=True)
class Call:
    """A tool call of the current turn, once it was judged. `refusal` says why it won't be made."""

    index: int
    slot: int
    request: ToolRequest
    spec: ToolSpec | None = None
    arguments: Arguments | None = None
    recorded: RecordedFacts | None = None
    verdict: Verdict | None = None
    refusal: ToolRefusal | None = None


@workflow.defn(name=AGENT_RUN)
class AgentRun:
    """One run of one agent. Start input: `workflows.messages.StartInput` as one JSON object."""

    @workflow.init
    def __init__(self, *args: Any) -> None:
        info = workflow.info()
        self._run_id = info.first_execution_run_id
        self._invalid = ""
        self._halted = False
        self._roll_over = False
        self._published: tuple[RunStatus, bool, Risk] | None = None
        try:
            self._state = RunState.of(args, continued=info.continued_run_id is not None)
        except InvalidInput as e:
            self._invalid = e.message

    # ---- the run ------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, *_: Any) -> RunResult:
        if self._invalid:
            raise ApplicationError(self._invalid, type=InvalidInput.code, non_retryable=True)
        plan = asyncio.create_task(self._plan())
        try:
            await self._watch(plan)
        except asyncio.CancelledError:
            # `temporal workflow cancel` is an off switch too, and must stop writes just as `kill` does.
            self._engage_kill("the workflow was cancelled", "temporal")
        if self._state.kill.engaged:
            await self._kill(plan)
        if self._roll_over and not self._halted:
            await workflow.wait_condition(workflow.all_handlers_finished)
            workflow.continue_as_new(self._state)
        await self._close(plan)
        return self._state.result(self._run_id, workflow.info().workflow_id, self._now())

    async def _watch(self, plan: asyncio.Task[None]) -> None:
        """Wait for the plan's end, a kill, or the end of the run's wall time."""
        state = self._state

        def over() -> bool:
            return plan.done() or state.kill.engaged

        await workflow.wait_condition(lambda: over() or state.deadline > 0)
        if over():
            return
        try:
            await workflow.wait_condition(over, timeout=timedelta(seconds=max(0, state.deadline - self._now())))
        except asyncio.TimeoutError:
            await self._halt(plan)
            self._stop(UsageLimitExceeded("wall_seconds", f"The run was open for {state.limits.wall_seconds} s."))

    async def _plan(self) -> None:
        state = self._state
        if state.capsule is None:
            await self._admit()
        self._set_status("running")
        try:
            while True:
                if workflow.info().is_continue_as_new_suggested():
                    self._roll_over = True
                    return
                message, calls = await self._decide()
                if not calls:
                    return self._finish(message)
                await self._carry_out(calls)
                state.step += 1
                self._publish()
        except UsageLimitExceeded as e:
            self._stop(e)
        except Escalated as e:
            state.stopped_by = str(e)
            state.summary = state.summary or "A person must look at this run."
            self._set_status("escalated")

    # ---- 1. admit -----------------------------------------------------------------------------------------------

    async def _admit(self) -> None:
        state = self._state
        start = state.start
        state.capsule = await ports.admit(
            Admission(
                run_id=self._run_id,
                agent=start.agent,
                inputs=start.inputs,
                requester=start.requester,
                scripted=start.script is not None,
            ),
            summary=f"admit {start.agent[:60]}",
        )
        self._check()
        state.deadline = self._now() + state.limits.wall_seconds
        state.append(UserMessage(text=json.dumps(start.inputs, sort_keys=True, ensure_ascii=False)))

    # ---- 2. decide ----------------------------------------------------------------------------------------------

    async def _decide(self) -> tuple[AssistantMessage, list[Call]]:
        """The model's next turn, with its tool calls judged. A turn that needs the strong model is decided again by it."""
        state = self._state
        while True:
            budgets.check_model(state.usage, state.limits)
            turn = await ports.call_model(
                CallModel(
                    cursor=len(state.messages),
                    transcript=state.head,
                    capsule=self._capsule.digest,
                    tier=state.tier,
                    step=state.step,
                ),
                summary=f"step {state.step}: decide with {self._capsule.route.choose(state.tier).model}",
            )
            self._check()
            self._charge(turn)
            requests = [r for r in turn.message.tool_calls if r.name != FINAL_ANSWER or len(turn.message.tool_calls) > 1]
            charged = budgets.charge_tools(state.usage, state.limits, len(requests))
            calls = await asyncio.gather(
                *(self._judge(i, r, charged.tool_calls) for i, r in enumerate(turn.message.tool_calls) if r in requests)
            )
            self._check()
            if state.tier < STRONG and any(c.verdict and c.verdict.route_strong for c in calls):
                state.tier = STRONG
                continue
            state.usage = charged
            state.append(turn.message)
            return turn.message, list(calls)

    def _charge(self, turn: ModelTurn) -> None:
        state = self._state
        state.model = turn.model
        state.simulated = state.simulated or turn.usage.simulated
        state.usage = budgets.charge_model(
            state.usage,
            input_tokens=turn.usage.input_tokens,
            output_tokens=turn.usage.output_tokens,
            cost_micro_usd=turn.cost_micro_usd,
        )

    # ---- 3. authorize -------------------------------------------------------------------------------------------

    async def _judge(self, index: int, request: ToolRequest, calls_used: int) -> Call:
        call = Call(index=index, slot=len(self._state.messages) + 1 + index, request=request)
        try:
            spec = self._granted(request.name)
            arguments = spec.parse(request.arguments)
            call = replace(call, spec=spec, arguments=arguments)
            self._state.risk = max(self._state.risk, spec.risk, key=RISKS.index)
            if spec.effect == "write":
                recorded = await ports.read_facts(
                    ReadFacts(subject=self._capsule.subject, tool=spec.name, arguments=request.arguments),
                    summary=f"facts for {spec.name}",
                )
                call = replace(call, recorded=recorded)
                if not recorded.facts.exists:
                    raise ToolRefusal("not_found", f"`{spec.resource(arguments).id}` doesn't exist.")
                if self._capsule.subject and recorded.facts.owner != self._capsule.subject:
                    raise ToolRefusal("not_subject", f"`{spec.resource(arguments).id}` isn't what this run is for.")
                if spec.rules:
                    spec.rules(arguments, recorded.facts)
            return self._authorized(call, calls_used)
        except ToolRefusal as e:
            return replace(call, refusal=e)
        except ActivityError:
            return replace(call, refusal=ToolRefusal("unavailable", f"`{request.name[:80]}` can't be reached now."))

    def _granted(self, name: str) -> ToolSpec:
        if name == FINAL_ANSWER:
            raise ToolRefusal("not_alone", "Call `final_answer` alone, after you have seen the results of the other calls.")
        spec = CATALOG.get(name)
        pinned = next((t for t in self._capsule.tools if t.name == name), None)
        if pinned is None:
            raise ToolRefusal("not_granted", f"This agent may not use `{name}`.")
        if pinned.digest != spec.digest:
            raise ToolRefusal("tool_changed", f"`{name}` has changed since this run was admitted.")
        return spec

    def _authorized(self, call: Call, calls_used: int) -> Call:
        assert call.spec and call.arguments is not None
        capsule, state = self._capsule, self._state
        verdict = authorize(
            self._policy,
            ActionFacts(
                agent=capsule.agent,
                tool=call.spec.name,
                resource=call.spec.resource(call.arguments),
                arguments=call.arguments.model_dump(mode="json", exclude_none=True),
                run=RunFacts(
                    subject=capsule.subject,
                    calls_used=calls_used,
                    approvals=0,
                    model_tier=state.tier,
                    assurance=capsule.agent.assurance,
                    tainted=state.tainted,
                    subject_sum_cents=call.recorded.subject_sum_cents if call.recorded else 0,
                ),
                facts=call.recorded.facts if call.recorded else None,
            ),
        )
        if verdict.decision == "deny":
            return replace(call, verdict=verdict, refusal=ToolRefusal("denied", f"Policy: {verdict.reason}."))
        return replace(call, verdict=verdict)

    # ---- 4. approve ---------------------------------------------------------------------------------------------

    async def _approve(self, call: Call, action: Action, rounds: int) -> Approval:
        """Put the action before people and wait for what they decide."""
        assert call.spec and call.arguments is not None and call.verdict
        state, now = self._state, self._now()
        approval_id = f"ap-{state.step}-{call.index}" + (f"-{rounds}" if rounds else "")
        state.approvals[approval_id] = Approval(
            request=ApprovalRequest(
                approval_id=approval_id,
                action_digest=approvals.action_digest(action),
                tool=call.spec.id,
                resource=action.resource,
                arguments=action.arguments,
                amount=call.spec.amount(call.arguments) if call.spec.amount else None,
                required=call.verdict.approvals_required,
                roles=self._capsule.approver_roles,
                policy_ids=call.verdict.policy_ids,
                requested_at=now,
                expires_at=now + state.limits.approval_seconds,
            )
        )
        self._set_status("waiting_for_approval")
        try:
            await workflow.wait_condition(
                lambda: state.approvals[approval_id].status != "pending",
                timeout=timedelta(seconds=state.limits.approval_seconds),
                timeout_summary=f"approval {approval_id} expires",
            )
        except asyncio.TimeoutError:
            self._settle(approval_id, "expired")
        self._check()
        self._set_status("waiting_for_approval" if state.pending else "running")
        approval = state.approvals[approval_id]
        if approval.status == "rejected":
            reason = approval.decisions[-1].reason
            raise ToolRefusal("rejected", f"{approval.decisions[-1].sub} rejected this: {reason or 'no reason given'}")
        if approval.status == "expired":
            raise ToolRefusal("approval_expired", "Nobody approved this in time.")
        return approval

    def _settle(self, approval_id: str, status: approvals.ApprovalStatus) -> None:
        approval = self._state.approvals[approval_id]
        self._state.approvals[approval_id] = approval.model_copy(update={"status": status})

    # ---- 5. act -------------------------------------------------------------------------------------------------

    async def _carry_out(self, calls: list[Call]) -> None:
        """Make the calls of one turn, concurrently and independent of one another; then 6. observe, in their order."""
        state = self._state
        for call in calls:
            count = state.seen_before(call.request.name, call.request.arguments)
            budgets.check_identical(count, state.limits, call.request.name[:80])
        outcomes = await asyncio.gather(*(self._perform(c) for c in calls), return_exceptions=True)
        self._check()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        for call, outcome in zip(calls, outcomes, strict=True):
            assert isinstance(outcome, ToolOutcome)
            self._observe(call, outcome)
        self._raise_if_over(calls, [o for o in outcomes if isinstance(o, ToolOutcome)])

    async def _perform(self, call: Call) -> ToolOutcome:
        if call.refusal:
            return ToolOutcome(status="refused", reason=call.refusal.reason, content=call.refusal.message)
        assert call.spec and call.arguments is not None
        attempts = max(1, self._state.limits.attempts_per_step - self._state.failures.get(call.spec.name, 0))
        try:
            if call.spec.effect == "read":
                return await self._read(call, attempts)
            return await self._write(call, attempts)
        except ToolRefusal as e:
            return ToolOutcome(status="refused", reason=e.reason, content=e.message)
        except ActivityError as e:
            self._check()
            if call.spec.effect == "write":
                # G2: the last attempt died; nobody here can say whether the write happened.
                return ToolOutcome(status="indeterminate", reason="outcome_indeterminate", attempt=attempts)
            detail = e.cause.message if isinstance(e.cause, ApplicationError) else "it didn't answer"
            return ToolOutcome(status="refused", reason="unavailable", content=detail, attempt=attempts)

    async def _read(self, call: Call, attempts: int) -> ToolOutcome:
        assert call.spec and call.arguments is not None
        capsule = self._capsule
        return await ports.read_tool(
            ReadTool(
                capsule=capsule.digest,
                subject=capsule.subject,
                corpus=capsule.corpus,
                tool=call.spec.name,
                arguments=call.request.arguments,
                call_id=call.request.id,
                slot=call.slot,
            ),
            fast=call.spec.fast,
            attempts=attempts,
            summary=f"{call.spec.name} {call.spec.resource(call.arguments).id}",
        )

    async def _write(self, call: Call, attempts: int) -> ToolOutcome:
        """Approve as often as the sums outside demand it, then execute."""
        assert call.spec and call.arguments is not None and call.verdict
        spec, state, capsule = call.spec, self._state, self._capsule
        action = self._action(call)
        for rounds in range(MAX_APPROVAL_ROUNDS):
            approval: Approval | None = None
            if call.verdict and call.verdict.decision == "require_approval":
                approval = await self._approve(call, action, rounds)
            amount = f" {money(spec.amount(call.arguments))}" if spec.amount else ""
            outcome = await ports.execute_tool(
                ExecuteTool(
                    capsule=capsule.digest,
                    step=state.step,
                    index=call.index,
                    slot=call.slot,
                    call_id=call.request.id,
                    tool=spec.name,
                    arguments=call.request.arguments,
                    idempotency_key=action.idempotency_key,
                    action_digest=approvals.action_digest(action),
                    calls_used=state.usage.tool_calls,
                    model_tier=state.tier,
                    tainted=state.tainted,
                    approval=approval,
                ),
                attempts=attempts,
                summary=f"{spec.name} {action.resource.id}{amount}",
            )
            if approval and outcome.status == "done":
                self._settle(approval.request.approval_id, "consumed")
            if outcome.status != "approval_required" or outcome.subject_sum_cents is None or not call.recorded:
                return outcome
            # Others moved money for this subject meanwhile: the sum lies in a higher tier now.
            if approval:
                self._settle(approval.request.approval_id, "cancelled")
            recorded = call.recorded.model_copy(update={"subject_sum_cents": outcome.subject_sum_cents})
            call = self._authorized(replace(call, recorded=recorded), state.usage.tool_calls)
            if call.refusal:
                raise call.refusal
        raise ToolRefusal("approval_required", "The sums for this subject keep changing; try again later.")

    def _action(self, call: Call) -> Action:
        assert call.spec and call.arguments is not None
        arguments = call.arguments.model_dump(mode="json")
        capsule = self._capsule
        return Action(
            run_id=self._run_id,
            agent=capsule.agent.id,
            subject=capsule.subject,
            tool=call.spec.id,
            resource=call.spec.resource(call.arguments),
            arguments=arguments,
            policy_digest=capsule.bundle.digest,
            idempotency_key=idempotency_key(capsule.workflow_id, self._state.step, call.index, call.spec.id, arguments),
        )

    # ---- 6. observe ---------------------------------------------------------------------------------------------

    def _observe(self, call: Call, outcome: ToolOutcome) -> None:
        state, name = self._state, call.request.name
        if outcome.status == "done":
            state.succeeded(name)
            content = outcome.content
            state.tainted = state.tainted or bool(call.spec and call.spec.untrusted)
        else:
            state.failed(name, outcome.attempt)
            left = max(0, state.limits.attempts_per_step - state.failures[name])
            error = {"code": outcome.reason or outcome.status, "message": outcome.content, "attempts_left": left}
            content = json.dumps({"error": error}, sort_keys=True, ensure_ascii=False)
        state.append(ToolMessage(call_id=call.request.id, name=name, content=content))
        parsed = call.spec is not None and call.arguments is not None
        state.calls.append(
            ToolCallView(
                step=state.step,
                tool=name[:80],
                resource=str(call.spec.resource(call.arguments)) if parsed and call.spec else "",
                amount=call.spec.amount(call.arguments) if parsed and call.spec and call.spec.amount else None,
                status=outcome.status,
                reason=outcome.reason,
                policy_ids=call.verdict.policy_ids if call.verdict else (),
                idempotency_key=self._action(call).idempotency_key if parsed and call.spec and call.spec.effect == "write" else "",
            )
        )

    def _raise_if_over(self, calls: list[Call], outcomes: list[ToolOutcome]) -> None:
        """End the run if a kill switch answered, an outcome is unknown, or a tool's attempts are used up."""
        if any(o.status == "killed" for o in outcomes):
            self._engage_kill("a kill switch covers this run", "ledger")
            raise Halted
        if any(o.status == "indeterminate" for o in outcomes):
            raise Escalated("outcome_indeterminate")
        for call in calls:
            budgets.check_attempts(self._state.failures, self._state.limits, call.request.name)

    # ---- 7. close -----------------------------------------------------------------------------------------------

    def _finish(self, message: AssistantMessage) -> None:
        """The turn had no tool call to make: it is the final answer, structured or plain text."""
        state = self._state
        status: RunStatus = "completed"
        if message.tool_calls:
            try:
                answer = FinalAnswer.model_validate_json(message.tool_calls[0].arguments)
            except ValidationError as e:
                answer = FinalAnswer(outcome="escalated", summary=f"The final answer couldn't be read: {explain(e)}"[:4000])
                state.stopped_by = "final_answer_invalid"
            state.summary = answer.summary
            status = "escalated" if answer.outcome == "escalated" else "completed"
        elif message.text.strip():
            state.summary = message.text[:4000]
        else:
            state.stopped_by, state.summary, status = "empty_answer", "The model gave neither text nor a tool call.", "escalated"
        self._set_status(status)

    def _stop(self, error: UsageLimitExceeded) -> None:
        state = self._state
        state.stopped_by, state.summary = error.limit, error.message
        self._set_status("escalated" if state.limits.on_limit == "escalate" else "stopped")

    async def _halt(self, plan: asyncio.Task[None]) -> None:
        """Stop the plan and wait until nothing of it is in flight."""
        self._halted = True
        plan.cancel()
        await asyncio.wait([plan])

    def _engage_kill(self, reason: str, by: str) -> None:
        if not self._state.kill.engaged:
            self._state.kill = KillState(engaged=True, reason=reason, by=by, requested_at=self._now())

    async def _kill(self, plan: asyncio.Task[None]) -> None:
        """Stop the plan, cancel what is in flight, write the kill row, acknowledge. The row is what stops writes (G4)."""
        state = self._state
        halting = asyncio.create_task(self._halt(plan))
        written = await ports.write_kill(
            WriteKill(run_id=self._run_id, reason=state.kill.reason, by=state.kill.by), summary=f"kill: {state.kill.reason[:100]}"
        )
        state.kill = state.kill.model_copy(update={"acknowledged_at": written.acknowledged_at})
        self._publish()
        await halting
        for approval in state.pending:
            self._settle(approval.request.approval_id, "cancelled")
        state.stopped_by, state.summary = "kill", state.kill.reason
        self._set_status("killed")

    async def _close(self, plan: asyncio.Task[None]) -> None:
        if not self._halted and (error := plan.exception()):
            self._fail(error)
        for approval in self._state.pending:
            self._settle(approval.request.approval_id, "cancelled")
        self._publish()
        await workflow.wait_condition(workflow.all_handlers_finished)

    def _fail(self, error: BaseException) -> NoReturn:
        """Fail the workflow, not its task, with the sentence of the activity that gave up."""
        cause = error.cause if isinstance(error, ActivityError) else error
        if isinstance(cause, ApplicationError):
            sentence, code = cause.message, cause.type or "failed"
        elif isinstance(error, ActivityError):
            sentence, code = f"`{error.activity_type}` gave up: {cause or error}", "failed"
        elif isinstance(error, RemitError):
            sentence, code = error.message, error.code
        else:
            raise error
        self._state.stopped_by, self._state.summary = code, sentence
        self._set_status("failed")
        raise ApplicationError(sentence, type=code, non_retryable=True)

    # ---- what others may send and ask ---------------------------------------------------------------------------

    @workflow.signal(
        dynamic=True,
        description='`decide`: {"approval_id": "...", "decision_jws": "..."} from `remit sign`. `kill`: {"reason": "..."}.',
    )
    def on_signal(self, name: str, args: Sequence[RawValue]) -> None:
        # Only a dynamic handler sees every signal: a typed one drops what it can't decode, or fails the task for ever.
        if self._invalid:
            return
        try:
            payload = _payload(args)
            if name == "kill":
                request = _parse(KillSignal, payload)
                self._engage_kill(request.reason, request.by)
            elif name == "decide":
                self._decision(_parse(DecideSignal, payload))
            else:
                raise ApprovalRefused("unknown_signal", "This signal doesn't exist; use `decide` or `kill`.")
        except ApprovalRefused as e:
            self._state.refuse(name, e.reason, e.message, self._now())
        self._publish()

    @workflow.update(
        dynamic=True, description='`decide`: {"approval_id": "...", "decision_jws": "..."} from `remit sign`.'
    )
    def on_update(self, name: str, args: Sequence[RawValue]) -> dict[str, Any]:
        try:
            approval = self._decision(self._decide_request(name, args))
        except ApprovalRefused as e:
            self._state.refuse(name, e.reason, e.message, self._now())
            raise ApplicationError(e.message, type=e.reason, non_retryable=True) from None
        self._publish()
        return {
            "approval_id": approval.request.approval_id,
            "status": approval.status,
            "approvers": list(approval.approvers),
            "required": approval.request.required,
        }

    @on_update.validator
    def _validate_update(self, name: str, args: Sequence[RawValue]) -> None:
        try:
            self._verified(self._decide_request(name, args))
        except ApprovalRefused as e:
            raise ApplicationError(e.message, type=e.reason, non_retryable=True) from None

    def _decide_request(self, name: str, args: Sequence[RawValue]) -> DecideSignal:
        if self._invalid or name != "decide":
            raise ApprovalRefused("unknown_update", "This update doesn't exist; use `decide`.")
        return _parse(DecideSignal, _payload(args))

    def _verified(self, request: DecideSignal) -> tuple[Approval, ApprovalDecision]:
        state = self._state
        approval = state.approvals.get(request.approval_id)
        if approval is None or state.capsule is None:
            raise ApprovalRefused("unknown_approval", f"There is no approval `{request.approval_id}` in this run.")
        decision = approvals.verify_decision(
            request.decision_jws,
            request=approval.request,
            run_id=self._run_id,
            directory=state.capsule.directory,
            now=self._now(),
            barred=frozenset({state.start.requester, state.capsule.agent.id}),
        )
        if decision.nonce not in state.nonces:
            approvals.add_decision(approval, decision)
        return approval, decision

    def _decision(self, request: DecideSignal) -> Approval:
        """Count a decision; the same one sent twice (a client that retried) changes nothing."""
        approval, decision = self._verified(request)
        if decision.nonce in self._state.nonces:
            return approval
        after = approvals.add_decision(approval, decision)
        self._state.nonces.append(decision.nonce)
        self._state.approvals[request.approval_id] = after
        return after

    @workflow.query
    def status(self) -> RunSummary:
        return self._ready().summary_view(self._run_id, workflow.info().workflow_id)

    @workflow.query
    def pending_approvals(self) -> list[Approval]:
        return self._ready().pending

    @workflow.query
    def kill_switch(self) -> KillState:
        return self._ready().kill

    @workflow.query
    def transcript(self, since: int = 0) -> TranscriptPage:
        return self._ready().page(since)

    @workflow.query
    def capsule(self) -> Capsule:
        return self._capsule

    # ---- small helpers ------------------------------------------------------------------------------------------

    def _ready(self) -> RunState:
        if self._invalid:
            raise ApplicationError(self._invalid, type=InvalidInput.code, non_retryable=True)
        return self._state

    @property
    def _capsule(self) -> Capsule:
        capsule = self._ready().capsule
        if capsule is None:
            raise ApplicationError("The run isn't admitted yet.", type="not_admitted", non_retryable=True)
        return capsule

    @property
    def _policy(self) -> CompiledPolicy:
        return compile_policy(self._capsule.bundle, CATALOG.cedar_schema)

    def _now(self) -> int:
        return int(workflow.now().timestamp())

    def _check(self) -> None:
        """After each await of the plan: a write that was cancelled may still have answered, and must not lead on."""
        if self._halted or self._state.kill.engaged:
            raise Halted

    def _set_status(self, status: RunStatus) -> None:
        self._state.status = status
        self._publish()

    def _publish(self) -> None:
        """Show the run in the UI. Search attributes cost an event, so they are upserted only when they change."""
        state = self._state
        workflow.set_current_details(cockpit(state, workflow.info().workflow_id))
        now = (state.status, bool(state.pending), state.risk)
        if now == self._published or state.capsule is None:
            return
        updates: list[SearchAttributeUpdate[Any]] = [
            REMIT_STATUS.value_set(state.status),
            REMIT_AWAITING_APPROVAL.value_set(bool(state.pending)),
            REMIT_RISK.value_set(state.risk),
        ]
        if self._published is None:
            updates += [
                REMIT_AGENT.value_set(state.start.agent),
                REMIT_POLICY.value_set(state.capsule.bundle.version),
            ]
        if state.status not in ("running", "waiting_for_approval"):
            updates.append(REMIT_COST_USD.value_set(state.usage.cost_micro_usd / 1_000_000))
        workflow.upsert_search_attributes(updates)
        self._published = now


def _payload(args: Sequence[RawValue]) -> bytes:
    if len(args) != 1:
        raise ApprovalRefused("malformed", f"Expected one JSON object, got {len(args)} inputs.")
    data = args[0].payload.data
    if len(data) > MAX_SIGNAL_BYTES:
        raise ApprovalRefused("too_large", f"The payload is over {MAX_SIGNAL_BYTES} bytes.")
    return data


def _parse(model: type[T], data: bytes) -> T:
    try:
        return model.model_validate_json(data)
    except ValidationError as e:
        raise ApprovalRefused("malformed", f"The payload can't be used: {explain(e)}.") from None
