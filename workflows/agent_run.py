"""AgentRun: admit, then decide, authorize, approve, act, observe until the run closes. The loop and nothing else."""

import asyncio
import contextlib
import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import Priority, RawValue, SearchAttributeUpdate
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError
from temporalio.exceptions import TimeoutError as TimedOut

from policies import budgets
from policies.approvals import Approval, ApprovalRequest
from policies.autonomy import READ_ONLY
from policies.bundle import explain
from policies.errors import ApprovalRefused, InvalidInput, RemitError, ToolRefusal, UsageLimitExceeded
from policies.identity import Directory
from policies.models import RISKS, Risk, RunStatus
from policies.switches import subject_tag
from tools import registry
from workflows import counts, inbox, options, ports, rising
from workflows.answer import SUMMARY, final_answer, words_of
from workflows.fleet_messages import ConfirmKill
from workflows.inbox import DecideSignal, KillSignal, PauseSignal
from workflows.messages import (
    AGENT_RUN,
    CAP_REACHED,
    FINAL_ANSWER,
    LOST,
    PROVIDER_BUSY,
    REMIT_AGENT,
    REMIT_AWAITING_APPROVAL,
    REMIT_COST_USD,
    REMIT_POLICY,
    REMIT_RISK,
    REMIT_STATUS,
    REMIT_SUBJECT,
    Admission,
    AssistantMessage,
    CallModel,
    Capped,
    Capsule,
    Decided,
    ExecuteTool,
    FinalAnswer,
    KillState,
    MintCapability,
    ModelTurn,
    PauseState,
    ProviderFailure,
    ReadPeople,
    RunResult,
    RunSummary,
    ToolOutcome,
    ToolRequest,
    TranscriptPage,
    UserMessage,
    Window,
    WriteKill,
)
from workflows.records import ProposalEnd, fate
from workflows.state import MAX_REFUSED, OpenTurn, RunState
from workflows.turn import Bound, Call, Turn, Watcher
from workflows.view import cockpit
from workflows.window import summary_note

__all__ = ["AgentRun"]

MAX_APPROVAL_ROUNDS = 3
MAX_ROOM = 2
"""How often an answer that was cut off is asked for again; each time with twice the room."""
FIRST_WAIT_SECONDS = 15
LONGEST_WAIT_SECONDS = 300
MAX_STRANGERS = 50
DECIDE_AGAIN = "decide_again"
LAST = ("killed", "indeterminate")  # outcomes after which nothing more is done
RENEW_SECONDS = 60
EMPTY = "The model gave neither text nor a tool call."
REMINDER = (
    "Text alone doesn't end the task. If nothing is left to do, call `final_answer` alone; otherwise call the tool you need."
)
STOPPED = {
    "refusal": "The model refused to go on, and gave no reason.",
    "content_filter": "The model's vendor refused to process the conversation, or withheld the model's answer.",
}


class Halted(Exception):
    """The plan must not go on: the run is being killed, or its time is over."""


class Escalated(Exception):
    """A human must take over.

    Args:
        code: names why.
        summary: what a person should know; the model's own words, where it gave some.
    """

    def __init__(self, code: str, summary: str = "A person must look at this run before anything is repeated.") -> None:
        super().__init__(code)
        self.summary = summary


class TooLong(Exception):
    """The model's vendor refused the conversation because it is too long for the model."""


class Full(Exception):
    """The run goes on in a new history, and does there what it was about to do."""


class Parked(Exception):
    """The run goes on in a new history; this call waits for people or for the end of a pause, and waits on there."""

    def __init__(self, call: Call) -> None:
        super().__init__(call.index)
        self.call = call


@workflow.defn(name=AGENT_RUN)
class AgentRun:
    """One run of one agent. Start input: `workflows.messages.StartInput` as one JSON object."""

    @workflow.init
    def __init__(self, *args: Any) -> None:
        info = workflow.info()
        self.watcher: Watcher | None = None
        self._run_id = info.first_execution_run_id
        self._workflow_id = info.workflow_id
        self._invalid = ""
        self._halted = False
        self._roll_over = False
        self._strangers: list[str] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._closing = False
        self._published: tuple[RunStatus, bool, Risk] | None = None
        lost = _lost(args)
        self._awaits_storage = bool(lost) and (info.continued_run_id is not None or workflow.unsafe.is_replaying())
        try:
            if lost:
                raise InvalidInput(f"The input of `AgentRun` can't be read: {lost}")
            self._state = RunState.of(args, continued=_continued(info))
        except InvalidInput as e:
            self._invalid = e.message

    # ---- the run ------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, *_: Any) -> RunResult:
        if self._awaits_storage:
            raise RuntimeError(self._invalid)  # fails the task, not the run, which goes on where its storage can be read
        if self._invalid:
            raise ApplicationError(self._invalid, type=InvalidInput.code, non_retryable=True)
        plan = asyncio.create_task(self._plan())
        meeting = asyncio.create_task(self._meet())
        try:
            await self._watch(plan)
            if self._roll_over:
                await workflow.wait_condition(lambda: self._state.kill.engaged or workflow.all_handlers_finished())
        except asyncio.CancelledError:
            if workflow.cancellation_reason() is None:
                raise  # the worker drops this run from its cache; nobody cancelled anything
            # `temporal workflow cancel` is an off switch too, and must stop writes just as `kill` does.
            self._engage_kill(KillSignal(reason="cancelled in Temporal (UI or CLI)", by="temporal"))
        if self._state.kill.engaged:
            await _uncancelled(self._kill(plan))
        elif self._roll_over:
            # A run stays with the code that it began with, but a long one moves to the current version between its segments.
            workflow.continue_as_new(
                self._state, initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE
            )
        await _uncancelled(self._close(plan))
        meeting.cancel()
        return self._state.result(self._run_id, self._workflow_id, self._now())

    async def _watch(self, plan: asyncio.Task[None]) -> None:
        """Wait for the plan's end, a kill, or the end of the run's wall time."""
        state = self._state

        def over() -> bool:
            return plan.done() or state.kill.engaged

        await workflow.wait_condition(lambda: over() or state.deadline > 0)
        if over():
            return
        try:
            left = timedelta(seconds=max(0, state.deadline - self._now()))
            await workflow.wait_condition(over, timeout=left, timeout_summary="the run's wall time ends")
        except TimeoutError:
            await self._halt(plan)
            self._stop(UsageLimitExceeded("wall_seconds", f"The run was open for {state.limits.wall_seconds} s."))

    async def _plan(self) -> None:
        state = self._state
        try:
            if state.capsule is None:
                await self._admit()
                if self._capsule.arm == "human":
                    return self._assign()
            self._set_status("running")
            while True:
                await self._hold()
                if state.turn:
                    turn, calls = self._reopened(state.turn)
                elif state.full:
                    return await self._roll()
                else:
                    message, turn, calls = await self._decide()
                    if not calls:
                        if self._finish(message):
                            return None
                        continue
                    self._check_loops(calls)
                state.turn = await self._carry_out(turn, calls)
                if state.turn:
                    return await self._roll()
                state.step += 1
                self._publish()
        except Full:
            await self._roll()
        except UsageLimitExceeded as e:
            self._stop(e)
        except Escalated as e:
            state.stopped_by, state.summary = str(e), e.summary[:SUMMARY]
            self._set_status("escalated")

    async def _hold(self) -> None:
        """Wait while the run is paused, or until this history is full. Timers go on meanwhile: they are absolute."""
        state = self._state
        if not state.pauses:
            return
        self._set_status("paused")
        while state.pauses and not state.full:
            await self._resumed(state.next_end)
            state.end_pauses(self._now())
        self._check()
        if not state.pauses:
            self._set_status("waiting_for_approval" if state.pending else "running")

    async def _resumed(self, end: int) -> None:
        """Wait until nothing is paused any more, the first of the pauses ends by itself, or another one does so before."""
        state = self._state
        left = timedelta(seconds=max(0, end - self._now())) if end else None
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: not state.pauses or state.full or state.next_end != end,
                timeout=left,
                timeout_summary="a cap across runs is looked at again",
            )

    async def _held(self, error: ActivityError) -> bool:
        """Whether an activity failed for a cap across runs, and the run was held until it may try again.

        Raises:
            UsageLimitExceeded: it isn't to wait for room.
            Full: there was none before this history was full.
        """
        cause = error.cause
        if not isinstance(cause, ApplicationError) or cause.type != CAP_REACHED:
            return False
        self._check()
        capped = Capped.model_validate(cause.details[0])
        if capped.pause is None and self._state.capsule is None:
            return False  # it doesn't begin at all
        if capped.pause is None:
            raise UsageLimitExceeded(capped.cap, cause.message)
        self._state.pause(capped.pause)
        await self._hold()
        if self._state.pauses:
            raise Full
        return True

    async def _roll(self) -> None:
        """Go on in a new history, once what is long lies in storage."""
        state = self._state
        await self._kept()
        if gone := state.to_archive():
            state.archived(gone, await ports.archive(gone, summary=f"messages {gone.since} to {gone.until - 1} to storage"))
            self._check()
        self._roll_over = True

    # ---- 1. admit -----------------------------------------------------------------------------------------------

    async def _admit(self) -> None:
        state, start = self._state, self._state.start
        admission = Admission(
            run_id=self._run_id,
            agent=start.agent,
            inputs=start.inputs,
            requester=start.requester,
            scripted=start.script is not None,
        )
        while state.capsule is None:
            try:
                state.capsule = await ports.admit(admission, summary=f"admit {start.agent[:60]}")
            except ActivityError as e:
                if not await self._held(e):
                    raise
        self._check()
        if state.capsule.paused:
            state.pause(state.capsule.paused)
        state.deadline = self._now() + state.limits.wall_seconds
        state.append(UserMessage(text=json.dumps(start.inputs, sort_keys=True, ensure_ascii=False)))

    def _assign(self) -> None:
        """The case is one of those that people do, so that the agent can be compared with them. The agent does nothing."""
        state, share = self._state, self._capsule.stage
        state.stopped_by = "rollout"
        state.summary = (
            f"This case is for people: the rollout of the agent gives it {share} % of the subjects, and not this one."
        )
        self._set_status("assigned")

    # ---- 2. decide ----------------------------------------------------------------------------------------------

    async def _decide(self) -> tuple[AssistantMessage, Turn, list[Call]]:
        """The model's next turn, its calls judged. A turn that needs the strong model is dropped, and decided again by it."""
        state, capsule = self._state, self._capsule
        if rising.classification_due(state, capsule):
            state.classification = rising.classified(state, capsule, await self._classified())
        state.rise(rising.before_turn(state, capsule))
        while True:
            answer = await self._whole()
            requests = Turn.requests(answer.message, strict=self._strict)
            await self._renew(needed=bool(requests))
            charged = budgets.charge_tools(state.usage, state.limits, len(requests))
            turn = Turn(state, capsule, registry.current(), charged.tool_calls, watcher=self.watcher)
            calls = await asyncio.gather(*(self._authorize(turn, i, r) for i, r in requests))
            self._check()
            if state.rise(rising.after_judging(state, capsule, calls)):
                continue
            state.usage = charged
            state.began(capsule.context_rules, answer.usage.input_tokens)
            state.append(answer.message)
            return answer.message, turn, list(calls)

    async def _classified(self) -> ModelTurn | None:
        """What the cheapest tier says the run is about; None when that is more than it can read."""
        try:
            return await self._ask("classifies", classify=True)
        except TooLong:
            return None

    async def _whole(self) -> ModelTurn:
        """The model's answer, once it is whole: each reason why a model stops has a path of its own.

        Raises:
            UsageLimitExceeded: `output_cut_off` or `context_exceeded`, when neither more room nor less to read helped.
            Escalated: `refusal` or `content_filter`.
        """
        state, room = self._state, 0
        while True:
            await self._compact()
            try:
                answer = await self._ask("decides", room=room)
            except TooLong:
                self._shorten()
                continue
            match answer.stop:
                case "length" if room < MAX_ROOM:
                    room += 1
                case "length":
                    said = f"The model's answer was cut off {room + 1} times by the limit of output tokens."
                    raise UsageLimitExceeded("output_cut_off", said)
                case "refusal" | "content_filter":
                    raise Escalated(answer.stop, answer.message.text.strip() or STOPPED[answer.stop])
                case "context_exceeded":
                    self._shorten()
                case "pause" if not answer.message.tool_calls:
                    state.append(answer.message)
                    state.step += 1
                    room = 0
                case _:
                    return answer

    def _shorten(self) -> None:
        """Show the model less of the conversation, which was too long for it.

        Raises:
            UsageLimitExceeded: `context_exceeded`, when nothing more can be left out.
        """
        window = self._state.shorter()
        if window is None:
            said = "The conversation is too long for the model, though all results of tools are left out."
            raise UsageLimitExceeded("context_exceeded", said)
        self._state.compacted(window)

    async def _ask(self, what: str, *, summarise: int | None = None, room: int = 0, classify: bool = False) -> ModelTurn:
        """One model call, charged. A provider or a cap that is at its limit is waited for; the run's wall time bounds that.

        Raises:
            TooLong: the vendor refuses a conversation of this length.
            Escalated: `content_filter`: the vendor refuses what was sent.
            Full: the provider can't be reached, and this history is full.
        """
        state, capsule = self._state, self._capsule
        budgets.check_model(state.usage, state.limits)
        while True:
            try:
                answer = await ports.call_model(
                    CallModel(
                        cursor=state.length,
                        transcript=state.head,
                        capsule=capsule.digest,
                        tier=state.tier,
                        step=state.step,
                        window=state.window,
                        summarise=summarise,
                        paging=self._strict or bool(state.refs),
                        room=room,
                        tries=state.waiting.tries if state.waiting else 0,
                        classify=classify,
                    ),
                    summary=f"step {state.step}: {capsule.route.choose(state.tier).model} {what}",
                )
                break
            except ActivityError as e:
                state.usage = budgets.lost_model(state.usage, _unanswered(e))
                self._check()
                failure = _failed_provider(e) if self._strict else None
                busy = isinstance(e.cause, ApplicationError) and e.cause.type == PROVIDER_BUSY
                if failure and failure.waits:
                    await self._wait_for(failure)
                elif failure and failure.code == "context_exceeded":
                    raise TooLong from None
                elif failure and failure.code == "content_filter":
                    raise Escalated("content_filter", STOPPED["content_filter"]) from None
                elif not busy and not await self._held(e):
                    raise
                self._check()
        self._check()
        self._charge(answer)
        if state.waiting:
            state.waiting = None
            self._set_status("running")
        return answer

    async def _wait_for(self, failure: ProviderFailure) -> None:
        """Wait until a provider is worth asking again: by a durable timer, or until somebody says `resume`.

        Raises:
            Full: this history is full before that; the run waits on in the next one.
        """
        state = self._state
        tries = state.waiting.tries if state.waiting else 0
        seconds = max(failure.after_s, min(FIRST_WAIT_SECONDS * 2**tries, LONGEST_WAIT_SECONDS))
        # Runs that met an outage together don't all come back in the same second.
        seconds = int(seconds * workflow.random().uniform(1.0, 1.25))
        state.wait(failure, seconds, self._now())
        counts.waits(self._capsule.agent.name, failure)
        self._set_status("waiting_for_provider")
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: state.full or state.waiting is None or state.waiting.next_try == 0,
                timeout=timedelta(seconds=seconds),
                timeout_summary=f"{failure.provider} is asked again ({failure.code})"[:190],
            )
        self._check()
        await self._hold()
        if state.full:
            raise Full

    async def _compact(self) -> None:
        """Show the model less of the older turns from now on, if the last call took more tokens than the bundle lets it."""
        state, rules = self._state, self._capsule.context_rules
        until = state.compactable(rules)
        if until is None:
            return
        summary = ""
        if rules.strategy == "summarise":
            summary = await self._summary(until)
        # Where the model gave no summary, only the tool results are left out.
        window = Window(until=until, note=state.length if summary else None, made_at=state.length if self._strict else 0)
        state.compacted(window)
        if summary:
            state.append(summary_note(summary))

    async def _summary(self, until: int) -> str:
        """The model's summary of the turns before `until`; empty when it gave no whole one."""
        if not self._strict:
            return (await self._ask("sums up", summarise=until)).message.text.strip()
        try:
            answer = await self._ask("sums up", summarise=until)
        except (TooLong, Escalated):
            return ""
        except ActivityError:
            self._check()
            return ""
        return answer.message.text.strip() if answer.stop == "end" else ""

    async def _renew(self, *, needed: bool) -> None:
        """Mint the capability for reads anew before it ends."""
        minted = self._state.minted
        if not needed or minted is None or minted.expires_at - RENEW_SECONDS > self._now():
            return
        with contextlib.suppress(ActivityError):  # the old one then says that it has expired
            self._state.capability = await ports.mint_capability(
                MintCapability(capsule=self._capsule), summary="capability for reads"
            )
        self._check()

    def _charge(self, answer: ModelTurn) -> None:
        state = self._state
        state.model = answer.model
        counts.answered(self._capsule.agent.name, answer)
        if answer.fallback_from:
            state.fallbacks, state.fell_back_from = state.fallbacks + 1, answer.fallback_from
        state.repeated(answer.retried)
        state.simulated = state.simulated or answer.usage.simulated
        state.tally = state.tally.read(answer.usage, answer.saved_micro_usd)
        state.usage = budgets.charge_model(
            state.usage,
            input_tokens=answer.usage.input_tokens,
            output_tokens=answer.usage.output_tokens,
            cost_micro_usd=answer.cost_micro_usd,
            unknown=answer.lost,
        )

    # ---- 3. authorize -------------------------------------------------------------------------------------------

    async def _authorize(self, turn: Turn, index: int, request: ToolRequest) -> Call:
        return await self._judge(turn, turn.propose(index, request))

    async def _judge(self, turn: Turn, call: Call) -> Call:
        if call.bound:
            self._state.risk = RISKS[max(RISKS.index(self._state.risk), RISKS.index(call.bound.spec.risk))]
        wanted = turn.facts_wanted(call)
        try:
            recorded = await ports.read_facts(wanted, summary=f"facts for {wanted.tool}") if wanted else None
        except ActivityError:
            self._check()
            return replace(call, refusal=ToolRefusal("unavailable", f"`{call.request.name[:80]}` can't be reached now."))
        judged = turn.judge(call, recorded)
        counts.judged(self._capsule.agent.name, judged)
        return judged

    # ---- 4. approve ---------------------------------------------------------------------------------------------

    async def _approve(self, turn: Turn, call: Call, bound: Bound) -> Approval:
        """Put the action before people and wait for what they decide: an approval, or an edit.

        Raises:
            ToolRefusal: `rejected` or `approval_expired`.
            Parked: nobody has decided, and the run goes on in a new history.
        """
        state = self._state
        request = turn.approval_request(call, bound, call.rounds, self._now())
        name = request.approval_id
        if name in state.approvals:  # it was asked for in an earlier history
            request = state.approvals[name].request
        else:
            state.approvals[name] = Approval(request=request)
            state.tally = state.tally.more(asked=1)
            state.judged[name] = turn.facts(bound, call.recorded)
        self._set_status("waiting_for_approval")
        for step in self._capsule.approval_rules.escalation:
            if request.requested_at + step.after_seconds <= (state.approvals[name].escalated_at or 0):
                continue
            if await self._decided(
                call, request, request.requested_at + step.after_seconds, f"then {', '.join(step.roles)} too"
            ):
                break
            state.escalate(name, self._capsule.approval_rules, self._now())
            self._publish()
        if not await self._decided(call, request, request.expires_at, "then it expires"):
            state.settle(name, "expired")
        state.judged.pop(name, None)
        approval = state.approvals[name]
        self._decided_on(approval)
        self._check()
        self._set_status("waiting_for_approval" if state.pending else "running")
        if approval.status == "rejected":
            last = approval.decisions[-1]
            raise ToolRefusal("rejected", f"{last.sub} rejected this: {last.reason or 'no reason given'}")
        if approval.status == "expired":
            raise ToolRefusal("approval_expired", "Nobody approved this in time.")
        return approval

    def _decided_on(self, approval: Approval) -> None:
        """Count what people made of it, and have the ledger keep it if the agent proposed it and only drafts."""
        state, request, what = self._state, approval.request, fate(approval)
        if what is not None:
            state.tally = state.tally.decided(what, self._now() - request.requested_at, len(approval.decisions))
        counts.decided(self._capsule.agent.name, what or approval.status, self._now() - request.requested_at)
        if what is None or not request.proposal or request.edited_by:  # an edited one is a person's proposal
            return
        end = ProposalEnd(
            run_id=self._run_id,
            workflow_id=self._workflow_id,
            agent=self._capsule.agent.name,
            tool=request.tool,
            action_digest=request.action_digest,
            put_at=request.requested_at,
            decided_at=self._now(),
            decision=what,
            by=tuple(d.sub for d in approval.decisions),
        )
        # The write doesn't wait for it: figures must not hold up what people have just accepted.
        self._keeping.append(asyncio.create_task(self._keep(end)))

    async def _keep(self, end: ProposalEnd) -> None:
        with contextlib.suppress(ActivityError):  # after ten thousand attempts: the figures lack it, and the run goes on
            await ports.record_proposal(end, summary=f"{end.tool} {end.decision}")

    async def _kept(self) -> None:
        """Wait until the ledger has what it was to keep. A kill of the plan doesn't cut that off."""
        if self._keeping:
            await workflow.wait(self._keeping)
            self._keeping.clear()

    async def _decided(self, call: Call, request: ApprovalRequest, until: int, then: str) -> bool:
        """Wait until somebody has decided on `request`, or until that time.

        Raises:
            Parked: this history is full before that.
        """
        approvals, name = self._state.approvals, request.approval_id
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: approvals[name].status != "pending" or self._state.full,
                timeout=timedelta(seconds=max(0, until - self._now())),
                timeout_summary=f"{name}: {request.tool} {request.resource.id} waits for {request.required}, {then}"[:190],
            )
        if approvals[name].status == "pending" and self._now() < until:
            raise Parked(call)
        return approvals[name].status != "pending"

    async def _meet(self) -> None:
        """Ask the directory for those who decide and weren't known when the run was admitted: they logged in since."""
        while True:
            await workflow.wait_condition(lambda: bool(self._strangers))
            asked = tuple(sorted({*self._strangers}))
            try:
                found = await ports.read_people(ReadPeople(kids=asked), summary="who decides")
            except Exception:  # whatever it was, a handler waits for an answer: they stay strangers, and are refused
                found = Directory()
            self._state.people = self._state.directory.joined(found)
            self._strangers = [kid for kid in self._strangers if kid not in asked]

    # ---- 5. act -------------------------------------------------------------------------------------------------

    def _check_loops(self, calls: list[Call]) -> None:
        for call in calls:
            if call.request.name == FINAL_ANSWER:
                continue  # its failed tries in a row are counted, and end the run with the model's words
            arguments = json.dumps(call.bound.values, sort_keys=True) if call.bound else call.request.arguments
            count = self._state.seen_before(call.request.name, arguments)
            if count > 1:
                self._state.tally = self._state.tally.more(repeated=1)
                counts.repeated(self._capsule.agent.name)
            budgets.check_identical(count, self._state.limits, call.request.name[:80])

    async def _carry_out(self, turn: Turn, calls: list[Call]) -> OpenTurn | None:
        """Make the calls of one turn, concurrently and independent of one another; then 6. observe, in their order.

        Returns:
            What the next history must go on with, when this one is full and calls wait for people.
        """
        state = self._state
        done = state.turn.done if state.turn else {}
        tasks = {c.index: asyncio.create_task(self._perform(turn, c)) for c in calls if c.index not in done}
        try:
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        finally:
            ended = {i: task for i, task in tasks.items() if task.done() and not task.cancelled()}
            errors = {i: error for i, task in ended.items() if (error := task.exception())}
            done |= {i: task.result() for i, task in ended.items() if i not in errors}
            parked = {i: error.call for i, error in errors.items() if isinstance(error, Parked)}
            last = self._halted or len(parked) < len(errors) or any(o.status in LAST for o in done.values())
            if last or not parked:
                # Also while the run is being halted: a write that was in flight has happened all the same, and must show.
                self._observe(turn, calls, done)
        self._check()
        for i, error in errors.items():
            if i not in parked:
                raise error
        if any(o.reason == DECIDE_AGAIN for o in done.values()):
            state.rise(rising.decided_again(state, self._capsule))
        if any(o.status == "killed" for o in done.values()):
            self._engage_kill(KillSignal(reason="a kill switch covers this run", by="ledger"))
            raise Halted
        if any(o.status == "indeterminate" for o in done.values()):
            raise Escalated("outcome_indeterminate")
        if parked:
            return turn.leave_open([parked.get(c.index, c) for c in calls], done)
        for call in calls:
            if self._strict and call.request.name == FINAL_ANSWER and len(calls) == 1:
                self._check_answer(call.request)
            budgets.check_attempts(state.failures, state.limits, call.request.name)
        state.reminded = state.reminded and all(c.request.name == FINAL_ANSWER for c in calls)
        return None

    def _check_answer(self, request: ToolRequest) -> None:
        """Whether the model may try its final answer again.

        Raises:
            Escalated: `final_answer_invalid`, with its words.
        """
        if self._state.failures.get(FINAL_ANSWER, 0) >= self._state.limits.attempts_per_step:
            raise Escalated("final_answer_invalid", words_of(request.arguments))

    def _reopened(self, left: OpenTurn) -> tuple[Turn, list[Call]]:
        return Turn.reopened(self._state, self._capsule, registry.current(), left, self.watcher)

    def _observe(self, turn: Turn, calls: list[Call], done: Mapping[int, ToolOutcome]) -> None:
        """Put what came of the calls into the transcript, in their order."""
        self._state.turn = None
        for call in calls:
            if call.index in done:
                turn.observe(call, done[call.index])
                counts.observed(self._capsule.agent.name, call, done[call.index])
                self._written(call, done[call.index])

    def _written(self, call: Call, outcome: ToolOutcome) -> None:
        tally = self._state.tally
        if outcome.status == "done" and call.bound and call.bound.spec.effect == "write" and not tally.first_write_at:
            self._state.tally = tally.model_copy(update={"first_write_at": self._now()})

    async def _perform(self, turn: Turn, call: Call) -> ToolOutcome:
        bound = call.bound
        if call.refusal or bound is None:
            reason, text = (call.refusal.reason, call.refusal.message) if call.refusal else ("refused", "")
            return ToolOutcome(status="refused", reason=reason, content=text)
        attempts = max(1, self._state.limits.attempts_per_step - self._state.failures.get(bound.spec.name, 0))
        try:
            if bound.spec.effect == "write":
                return await self._write(turn, call, bound, attempts)
            return await self._read(turn, call, bound, attempts)
        except ToolRefusal as e:
            return ToolOutcome(status="refused", reason=e.reason, content=e.message)
        except ActivityError as e:
            if isinstance(e.cause, CancelledError):
                self._check()  # the halted run cancelled it before it started
            if bound.spec.effect == "write":
                # G2: the last attempt died; nobody here can say whether the write happened, and a kill doesn't change that.
                return ToolOutcome(status="indeterminate", reason="outcome_indeterminate", attempt=attempts)
            self._check()
            detail = e.cause.message if isinstance(e.cause, ApplicationError) else "it didn't answer"
            return ToolOutcome(status="refused", reason="unavailable", content=detail, attempt=attempts)

    async def _read(self, turn: Turn, call: Call, bound: Bound, attempts: int) -> ToolOutcome:
        """Read, once the caps across runs have room for it.

        Raises:
            Parked: they have none, and the run goes on in a new history.
        """
        state, summary = self._state, f"{bound.spec.name} {bound.resource.id}"
        while True:
            outcome = await ports.read_tool(turn.read(call, bound), fast=bound.spec.fast, attempts=attempts, summary=summary)
            if outcome.paused is None:
                return outcome
            self._check()
            state.pause(outcome.paused)
            await self._hold()
            if state.pauses:
                raise Parked(call)

    async def _write(self, turn: Turn, call: Call, bound: Bound, attempts: int) -> ToolOutcome:
        """Approve as often as the sums outside and edits demand it, then execute."""
        for rounds in count(call.rounds):
            if rounds - len(call.edits) == MAX_APPROVAL_ROUNDS:
                break
            approval: Approval | None = None
            if call.verdict and call.verdict.decision == "require_approval":
                approval = await self._approve(turn, replace(call, rounds=rounds), bound)
                if approval.edit:
                    # An edit is a new action: other facts, another verdict, another digest, and nobody has approved it.
                    await self._renew(needed=True)  # people took their time
                    call = await self._judge(turn, turn.edit(call, bound, approval))
                    self._check()
                    call, bound = self._allowed(call), call.bound or bound
                    continue
            summary = f"{bound.spec.name} {bound.resource.id}" + (f" {bound.amount}" if bound.amount else "")
            outcome = await self._unpaused(turn, replace(call, rounds=rounds), bound, approval, attempts, summary)
            if approval and outcome.status == "done":
                self._state.settle(approval.request.approval_id, "consumed")
                self._publish()  # a sibling may still wait for people: what is already done must show
            if outcome.reason == READ_ONLY:
                self._state.step_down("read_only")
            if outcome.status != "approval_required" or outcome.subject_sum_cents is None or not call.recorded:
                return outcome
            # Others moved money for this subject meanwhile, and the sum lies in a higher tier; or the agent was stepped down.
            if approval:
                self._state.settle(approval.request.approval_id, "cancelled")
            self._state.step_down(outcome.mode)
            recorded = call.recorded.model_copy(update={"subject_sum_cents": outcome.subject_sum_cents})
            call = self._allowed(turn.judge(replace(call, refusal=None), recorded))
        raise ToolRefusal("approval_required", "The sums for this subject keep changing; try again later.")

    async def _unpaused(
        self, turn: Turn, call: Call, bound: Bound, approval: Approval | None, attempts: int, summary: str
    ) -> ToolOutcome:
        """Execute the write once nothing is paused and no cap is used up, as far as the run knows and as the gate says.

        Raises:
            Parked: something still is, and the run goes on in a new history.
        """
        state = self._state
        while True:
            await self._hold()
            if state.pauses:
                raise Parked(call)
            write = await self._capable(turn.write(call, bound, approval), call)
            outcome = await self._execute(write, attempts=attempts, summary=summary)
            if outcome.reason == "capability_expired":  # no worker was there to take it up in time
                write = await self._capable(write, call)
                outcome = await self._execute(write, attempts=attempts, summary=summary)
            if outcome.status != "paused" or outcome.paused is None:
                return outcome
            state.pause(outcome.paused)

    async def _capable(self, write: ExecuteTool, call: Call) -> ExecuteTool:
        """The write with a capability that was minted for it, after all who must approve it have.

        Raises:
            ToolRefusal: none is minted; nothing was written.
        """
        if self._capsule.capability is None:
            return write  # admitted before there were capabilities: it will be refused beside the side effect
        minted = call.recorded.minted if call.recorded and write.approval is None else None
        if minted and minted.expires_at - RENEW_SECONDS > self._now():
            return write.model_copy(update={"capability": minted.id})
        try:
            minted = await ports.mint_capability(
                MintCapability(capsule=self._capsule, write=write, recorded=call.recorded),
                summary=f"capability for {write.tool}",
            )
        except ActivityError as e:
            self._check()
            cause = e.cause if isinstance(e.cause, ApplicationError) else None
            raise ToolRefusal((cause and cause.type) or "unavailable", cause.message if cause else "No capability.") from None
        self._check()
        return write.model_copy(update={"capability": minted.id})

    def _allowed(self, call: Call) -> Call:
        """The call, if its new verdict lets it go on.

        Raises:
            ToolRefusal: it is denied, or needs the strong model, which hasn't decided on it.
        """
        if call.refusal:
            raise call.refusal
        if call.verdict and call.verdict.route_strong and self._state.tier < self._capsule.route.last:
            # Nobody is asked to approve what the cheap model decided: the policy would refuse it all the same.
            changed = "A person edited this" if call.edits else "The sums for this subject have risen"
            raise ToolRefusal(DECIDE_AGAIN, f"{changed}; decide anew whether this is right.")
        return call

    async def _execute(self, wanted: ExecuteTool, *, attempts: int, summary: str) -> ToolOutcome:
        """Execute it; and when all attempts were lost, ask the ledger what became of it."""
        try:
            return await ports.execute_tool(wanted, attempts=attempts, summary=summary)
        except ActivityError:
            if not workflow.patched("give-up"):
                raise
            outcome = await ports.give_up(wanted, summary=f"what became of {summary}"[:150])
        if outcome.status == "refused":
            self._check()  # the halted run cancelled it before it was sent
        return outcome.model_copy(update={"attempt": attempts})

    # ---- 7. close -----------------------------------------------------------------------------------------------

    def _finish(self, message: AssistantMessage) -> bool:
        """The turn had no tool call to make: it is the final answer, or says that there is none yet.

        Returns:
            Whether the run ends with it.

        Raises:
            Escalated: `no_final_answer` or `empty_answer`, though the model was told once to call `final_answer`.
        """
        state, text = self._state, message.text.strip()
        status: RunStatus = "completed"
        if self._strict and not message.tool_calls and not (text and self._capsule.answer == "text"):
            if state.reminded:
                raise Escalated("no_final_answer", text) if text else Escalated("empty_answer", EMPTY)
            state.reminded = True
            state.append(UserMessage(text=REMINDER))
            state.step += 1
            return False
        if message.tool_calls:
            try:
                answer = final_answer(message.tool_calls[0].arguments)
            except ValidationError as e:
                answer = FinalAnswer(outcome="escalated", summary=f"The final answer couldn't be read: {explain(e)}"[:SUMMARY])
                state.stopped_by = "final_answer_invalid"
            state.summary = answer.summary
            status = "escalated" if answer.outcome == "escalated" else "completed"
        elif text:
            state.summary = message.text[:SUMMARY]
        else:
            state.stopped_by, state.summary, status = "empty_answer", EMPTY, "escalated"
        self._set_status(status)
        return True

    def _stop(self, error: UsageLimitExceeded) -> None:
        state = self._state
        state.stopped_by, state.summary = error.limit, error.message
        self._set_status("escalated" if state.limits.on_limit == "escalate" else "stopped")

    async def _halt(self, plan: asyncio.Task[None]) -> None:
        """Stop the plan and wait until nothing of it is in flight."""
        self._halted = True
        plan.cancel()
        await workflow.wait_condition(plan.done)

    def _engage_kill(self, kill: KillSignal) -> None:
        if not self._state.kill.engaged:
            fields = kill.model_dump(include={"reason", "by", "scope"})
            self._state.kill = KillState.model_validate({**fields, "engaged": True, "requested_at": self._now()})

    async def _kill(self, plan: asyncio.Task[None]) -> None:
        """Stop the plan, cancel what is in flight, write the kill row, acknowledge. The row is what stops writes (G4)."""
        state = self._state
        halting = asyncio.create_task(self._halt(plan))
        written = await self._confirmed() or await ports.write_kill(
            WriteKill(run_id=self._run_id, reason=state.kill.reason, by=state.kill.by),
            summary=f"kill: {state.kill.reason[:100]}",
        )
        state.kill = state.kill.model_copy(update={"acknowledged_at": written.acknowledged_at})
        self._publish()
        await halting
        state.stopped_by, state.summary = "kill", state.kill.reason
        if state.kill.scope:  # a fleet that is stopped at once: one upsert of search attributes a run, not two
            for approval in state.pending:
                state.settle(approval.request.approval_id, "cancelled")
        self._set_status("killed")

    async def _confirmed(self) -> KillState | None:
        """The switch that the run was told of, as the ledger has it; None: it needs a row of its own."""
        if not self._state.kill.scope:
            return None
        capsule = self._state.capsule
        run = ConfirmKill(run_id=self._run_id, agent=self._state.start.agent, subject=capsule.subject if capsule else "")
        try:
            found = await ports.confirm_kill(run, summary="the switch in the ledger")
        except ActivityError:
            return None
        return found if found.engaged else None

    async def _close(self, plan: asyncio.Task[None]) -> None:
        state = self._state
        self._closing = True
        for approval in state.pending:
            state.settle(approval.request.approval_id, "cancelled")
        if state.turn:  # it was to go on in a new history, and was killed before
            turn, calls = self._reopened(state.turn)
            self._observe(turn, calls, state.turn.done)
        # Also asked of a halted plan, whose end means nothing, or it would be logged as never looked at.
        error = None if plan.cancelled() else plan.exception()
        failure = self._failure(error) if error and not self._halted else None
        if failure is None:
            self._publish()
        await self._kept()
        if end := state.end(self._run_id, self._workflow_id, self._now()):
            await ports.record_run(end, summary=state.status)
        if failure:
            raise failure
        await workflow.wait_condition(workflow.all_handlers_finished)

    def _failure(self, error: BaseException) -> ApplicationError:
        """What fails the workflow, not its task, with the sentence of the activity that gave up."""
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
        return ApplicationError(sentence, type=code, non_retryable=True)

    # ---- what others may send and ask ---------------------------------------------------------------------------

    # Only a dynamic handler sees every signal: a typed one drops what it can't decode, or fails the task for ever.
    @workflow.signal(
        dynamic=True,
        description='Choose "Custom" and type the name. `decide`: paste what `remit sign` prints. `kill`: {"reason": "..."}.',
    )
    async def on_signal(self, name: str, args: Sequence[RawValue]) -> None:
        if self._invalid:
            return
        self._state.heard(args)
        try:
            if name == "kill":
                self._engage_kill(inbox.parse(KillSignal, args))
            elif name == "pause":
                state = self._state
                state.pause(PauseState(**inbox.parse(PauseSignal, args).model_dump(), since=self._now()))
            elif name == "resume":
                request = inbox.parse(PauseSignal, args)
                self._state.resume(request.scope, request.epoch)
            elif name == "drill":
                pass  # it came, as a kill would have
            elif name == "decide":
                await self._count(inbox.parse(DecideSignal, args))
            else:
                raise ApprovalRefused("unknown_signal", "This signal doesn't exist; use `decide`, `kill`, `pause` or `resume`.")
        except ApprovalRefused as e:
            self._state.refuse(name, e.reason, e.message, self._now())
        self._publish()

    @workflow.update(dynamic=True, description='Choose "Custom" and type the name. `decide`: paste what `remit sign` prints.')
    async def on_update(self, name: str, args: Sequence[RawValue]) -> Decided:
        self._state.heard(args)
        try:
            approval = await self._count(self._decide_request(name, args))
        except ApprovalRefused as e:
            self._state.refuse(name, e.reason, e.message, self._now())
            raise ApplicationError(e.message, type=e.reason, non_retryable=True) from None
        self._publish()
        return Decided(
            approval_id=approval.request.approval_id,
            status=approval.status,
            approvers=approval.approvers,
            required=approval.request.required,
        )

    @on_update.validator
    def _validate_update(self, name: str, args: Sequence[RawValue]) -> None:
        try:
            request = self._decide_request(name, args)
            inbox.known(self._state, request)
            # What is refused here leaves no trace. A decision on an approval of this run does, until there are enough of them.
            if self._state.refused_total >= MAX_REFUSED and not inbox.stranger(self._state, request):
                inbox.verified(self._state, self._run_id, request, self._now(), registry.current())
        except ApprovalRefused as e:
            raise ApplicationError(e.message, type=e.reason, non_retryable=True) from None

    async def _count(self, request: DecideSignal) -> Approval:
        """Count a decision. Nothing is awaited, but for a stranger: the run closes and rolls over only after the answer."""
        if kid := inbox.stranger(self._state, request):
            if len(self._strangers) >= MAX_STRANGERS:
                raise ApprovalRefused("too_many", "Too many unknown keys decide at once; send the decision again.")
            self._strangers.append(kid)
            # A run that closes doesn't wait for a directory that is away.
            await workflow.wait_condition(lambda: self._closing or kid not in self._strangers)
        return inbox.count_decision(self._state, self._run_id, request, self._now(), registry.current())

    def _decide_request(self, name: str, args: Sequence[RawValue]) -> DecideSignal:
        if self._invalid or name != "decide":
            raise ApprovalRefused("unknown_update", "This update doesn't exist; use `decide`.")
        return inbox.parse(DecideSignal, args)

    @workflow.query
    def status(self) -> RunSummary:
        return self._ready().summary_view(self._run_id, self._workflow_id)

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
    def state(self) -> RunState | None:
        """As it stands, for whoever replays the run; None when its input couldn't be used."""
        return None if self._invalid else self._state

    @property
    def _capsule(self) -> Capsule:
        capsule = self._ready().capsule
        if capsule is None:
            raise ApplicationError("The run isn't admitted yet.", type="not_admitted", non_retryable=True)
        return capsule

    @property
    def _strict(self) -> bool:
        """Whether the run looks at why its model stopped; one that was admitted before it could doesn't."""
        return self._capsule.model_protocol >= 1

    def _now(self) -> int:
        return int(workflow.now().timestamp())

    @property
    def share(self) -> Priority:
        """Whose work this is, among all that waits for a worker."""
        capsule = self._state.capsule
        return options.share(self._state.start.agent, *((capsule.priority, capsule.weight) if capsule else ()))

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
        workflow.set_current_details(cockpit(state, self._workflow_id))
        now = (state.status, bool(state.pending), state.risk)
        if now == self._published or state.status == "admitted":
            return
        updates: list[SearchAttributeUpdate[Any]] = [
            REMIT_STATUS.value_set(state.status),
            REMIT_AWAITING_APPROVAL.value_set(bool(state.pending)),
            REMIT_RISK.value_set(state.risk),
            REMIT_COST_USD.value_set(state.usage.cost_micro_usd / 1_000_000),
        ]
        if self._published is None:
            updates.append(REMIT_AGENT.value_set(state.start.agent))
            if state.capsule:  # none in a run that was refused, or killed before it was admitted
                updates.append(REMIT_POLICY.value_set(state.capsule.bundle.version))
                if state.capsule.subject:
                    updates.append(REMIT_SUBJECT.value_set(subject_tag(state.capsule.subject)))
        workflow.upsert_search_attributes(updates)  # pyright: ignore[reportUnknownMemberType]
        self._published = now


def _lost(args: Sequence[Any]) -> str:
    """Why an input couldn't be had from external storage; empty if each could."""
    lost = (a.payload for a in args if isinstance(a, RawValue) and a.payload.metadata.get("encoding") == LOST.encode())
    return next((payload.data.decode(errors="replace")[:500] for payload in lost), "")


def _failed_provider(error: ActivityError) -> ProviderFailure | None:
    """What `call_model` says of the provider that it gave up on; None when it says nothing."""
    cause = error.cause
    if isinstance(cause, TimedOut):
        lost = "Its workers died, or gave no sign of life, at each try."
        return ProviderFailure(provider="worker", code="no_answer", message=lost, waits=True)
    if isinstance(cause, ApplicationError) and cause.type != CAP_REACHED and len(cause.details) > 1:
        return ProviderFailure.model_validate(cause.details[1])
    return None


def _unanswered(error: ActivityError) -> int:
    """How often a model was asked by an activity that failed, and may have been billed; at least."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        counted = cause.details[0] if cause.details and cause.type != CAP_REACHED else 0
        return counted if isinstance(counted, int) else 0
    return int(isinstance(cause, TimedOut))  # the last attempt died: whatever it had asked, nobody can say


def _continued(info: workflow.Info) -> bool:
    """Whether an earlier segment of this run continued as this one.

    Raises:
        InvalidInput: the server repeats a start, by a cron schedule or a retry policy. Such an execution names the one before
            it too, and its input is still a stranger's: it must not be taken for a segment.
    """
    if info.cron_schedule or info.attempt > 1:
        raise InvalidInput("`AgentRun` takes no cron schedule and no retry policy; start one run for each task.")
    return info.continued_run_id is not None


async def _uncancelled(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end, though the workflow is cancelled meanwhile: it is the stopping itself."""
    task = asyncio.create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await workflow.wait([task])
    task.result()
