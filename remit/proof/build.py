"""From a run's histories to its trace: each is replayed by the workflow's own code, and what that code is given and decides
is written down. So every verdict in a trace has been derived from the history, whoever made it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, JsonValue, ValidationError
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.worker import ExecuteWorkflowInput

from policies.canonical import digest, sha256
from policies.errors import InvalidInput
from policies.models import Money, ResourceRef, Usage
from remit.history import Watch, watched
from remit.proof.lines import (
    CallOutcome,
    DocumentRef,
    DroppedCall,
    DroppedLine,
    Judgement,
    KillLine,
    ModelLine,
    OutcomeLine,
    PauseLine,
    RefusedLine,
    ResumeLine,
    RunLine,
    ToolLine,
    Trace,
    TraceLine,
)
from remit.proof.reading import activities, asked_for
from tools.kb import Documents
from workflows.agent_run import AgentRun
from workflows.messages import CallModel, Capsule, ExecuteTool, KillState, ModelTurn, ReadTool, ToolOutcome, ToolRequest
from workflows.state import RunState
from workflows.turn import Call, Turn

__all__ = ["build"]

_CLOSED = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: "completed",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: "failed",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: "cancelled",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: "terminated",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: "timed_out",
}
_CARRY_OUT = ("execute_tool", "give_up", "read_tool")
Slot = tuple[int, int]


async def build(histories: Sequence[WorkflowHistory], converter: DataConverter) -> Trace:
    """The trace of a run from all of its histories, oldest first. Equal histories give equal traces.

    Install the catalog of the worker's app before.

    Raises:
        InvalidInput: one isn't the history of a run, can't be decoded, or today's code doesn't lead to it.
    """
    if not histories:
        raise InvalidInput("There is no history to make a trace of.")
    run = _Run(histories)
    for history in histories:
        run.enter(history)
        if why := await watched(history, converter, _Watch(run)):
            raise InvalidInput(f"Today's code can't read the run: {why}.")
    return run.trace()


@dataclass
class _Open:
    """A call that was asked for, and of which it isn't known yet what came."""

    request: ToolRequest
    call: Call | None = None
    judgements: list[Judgement] = field(default_factory=list[Judgement])
    asked: ExecuteTool | ReadTool | None = None
    event: int = 0
    history: int = 0
    idempotency_key: str = ""
    action_digest: str = ""


class _Run:
    """What is known of the run so far; told by replays, one history after the other."""

    def __init__(self, histories: Sequence[WorkflowHistory]) -> None:
        self._histories = histories
        self._lines: list[TraceLine] = []
        self._first: RunLine | None = None
        self._open: dict[Slot, _Open] = {}
        self._refused = 0
        self._moves = 0
        self._paused: set[str] = set()
        self._kill: int | None = None
        self._killed_before = False
        self._now = 0
        self._state: RunState | None = None
        self._events: dict[str, list[int]] = {}
        self._entered = -1

    def enter(self, history: WorkflowHistory) -> None:
        """The replay of `history` is about to begin."""
        self._entered += 1
        self._events = {name: asked_for(history, name) for name in ("call_model", "execute_tool", "give_up", "read_tool")}

    # ---- what the watch tells -----------------------------------------------------------------------------------

    def began(self, state: RunState | None) -> None:
        """A history's first task begins; the state of a later one has what went before."""
        self._state = state
        self.tick()
        if state and state.capsule:
            self._admitted(state.capsule)
            self._paused |= state.pauses.keys()
            if self._first and not self._first.whole:
                self._refused, self._killed_before = state.refused_total, state.kill.engaged
                self._moves = len(state.moves)

    def tick(self) -> None:
        """Write down what has changed without an activity or a judgement: refusals, pauses, the kill."""
        self._now = int(workflow.now().timestamp() * 1000)
        state = self._state
        if state is None:
            return
        new = state.refused_total - self._refused
        self._refused = state.refused_total
        for one in state.refused[-new:] if new > 0 else ():  # as many as it kept
            self._add(RefusedLine(at=one.at * 1000, name=one.name, reason=one.reason, message=one.message))
        for scope, pause in state.pauses.items():
            if scope not in self._paused:
                self._add(PauseLine(at=self._now, scope=scope, reason=pause.reason, by=pause.by, epoch=pause.epoch))
        for scope in sorted(self._paused - state.pauses.keys()):
            self._add(ResumeLine(at=self._now, scope=scope))
        self._paused = {*state.pauses}
        if state.kill.engaged and self._kill is None and not self._killed_before:
            self._kill = len(self._lines)
            self._add(self._stopped(state.kill))

    def asked(self, name: str, arg: object) -> int:
        """An activity is asked for; the event that does so, if one is recorded."""
        self.tick()
        waiting = self._events.get(name)
        event = waiting.pop(0) if waiting else 0
        if isinstance(arg, ExecuteTool):
            self._calls(arg.step, arg.index, arg, event)
        elif isinstance(arg, ReadTool):
            slot = next((s for s, o in self._open.items() if o.call and o.call.slot == arg.slot), None)
            if slot:
                self._calls(*slot, arg, event)
        return event

    def _calls(self, step: int, index: int, arg: ExecuteTool | ReadTool, event: int) -> None:
        found = self._open.get((step, index))
        if found:
            found.asked, found.event, found.history = arg, event, self._entered

    def answered(self, name: str, arg: object, event: int, result: object) -> None:
        """An activity gave `result`."""
        self.tick()
        if isinstance(result, Capsule):
            self._admitted(result)
        elif isinstance(result, ModelTurn) and isinstance(arg, CallModel):
            self._model(arg, result, event)

    def judged(self, turn: Turn, call: Call) -> None:
        found = self._of(turn, call)
        if call.bound is None:
            return
        found.call = call
        found.judgements.append(self._judgement(turn, call))
        if call.bound.spec.effect == "write":
            action = turn.write(call, call.bound, None)
            found.idempotency_key, found.action_digest = action.idempotency_key, action.action_digest

    def observed(self, turn: Turn, call: Call, outcome: ToolOutcome) -> None:
        self.tick()
        step = turn.state.step
        found = self._of(turn, call)
        found.call = found.call or call
        if call.bound and not found.judgements and (call.verdict or call.recorded):  # judged in a history that is gone
            self.judged(turn, call)
        self._open.pop((step, call.index), None)
        self._tool(step, call.index, found, outcome)

    # ---- lines --------------------------------------------------------------------------------------------------

    def _add(self, line: TraceLine) -> None:
        self._lines.append(line)

    def _of(self, turn: Turn, call: Call) -> _Open:
        return self._open.setdefault((turn.state.step, call.index), _Open(call.request, call))

    def _judgement(self, turn: Turn, call: Call) -> Judgement:
        assert call.bound
        return Judgement(
            at=int(workflow.now().timestamp() * 1000),
            arguments=_json(call.bound.arguments),
            mode=turn.mode,
            facts=turn.facts(call.bound, call.recorded),
            verdict=call.verdict,
            reason=call.refusal.reason if call.refusal else "",
        )

    def _admitted(self, capsule: Capsule) -> None:
        if self._first:
            return
        started = self._histories[0].events[0].workflow_execution_started_event_attributes
        state = self._state
        self._first = RunLine(
            at=_ms(self._histories[0].events[0]),
            run_id=capsule.run_id,
            workflow_id=capsule.workflow_id,
            agent=capsule.agent.name,
            identity=capsule.agent,
            requester=capsule.requester,
            subject=capsule.subject,
            inputs=state.start.inputs if state else {},
            route=capsule.route,
            policy_version=capsule.bundle.version,
            policy_digest=capsule.bundle.digest,
            prompt_digest=digest(capsule.prompt),
            catalog_digest=capsule.catalog_digest,
            release=capsule.release,
            corpus=capsule.corpus,
            directory=digest(capsule.directory),
            tools=capsule.tools,
            delegations=capsule.delegations,
            limits=capsule.limits,
            capsule=capsule.digest,
            arm=capsule.arm,
            stage=capsule.stage,
            started_at=_ms(self._histories[0].events[0]),
            admitted_at=capsule.admitted_at * 1000,
            histories=len(self._histories),
            whole=not started.continued_execution_run_id,
        )

    def _model(self, arg: CallModel, turn: ModelTurn, event: int) -> None:
        decides = arg.summarise is None and not arg.classify
        strict = bool(self._state and self._state.capsule and self._state.capsule.model_protocol)
        requests = Turn.requests(turn.message, strict=strict) if decides else []
        if decides:
            self._drop(arg.step)  # the turn before, if it was the cheap model's
        self._add(
            ModelLine(
                at=self._now,
                step=arg.step,
                purpose="classifies" if arg.classify else "decides" if decides else "sums_up",
                tier=arg.tier,
                moved=self._why_moved(),
                provider=turn.provider,
                model=turn.model,
                fallback_from=turn.fallback_from,
                usage=turn.usage,
                cost_micro_usd=turn.cost_micro_usd,
                price_digest=turn.price_digest,
                request_digest=turn.request_digest,
                latency_ms=turn.latency_ms,
                calls=len(requests),
                stop=turn.stop,
                retried=turn.retried,
                event=event,
            )
        )
        for index, request in requests:
            self._open[arg.step, index] = _Open(request)

    def _why_moved(self) -> str:
        """Why the run moved up since the last model call; empty when it didn't."""
        moves = self._state.moves if self._state else []
        new = moves[self._moves :]
        self._moves = len(moves)
        return "; ".join(f"{move.why}: {move.words}" for move in new)

    def _drop(self, step: int) -> None:
        gone = {slot: one for slot, one in self._open.items() if slot[0] == step}
        if not gone:
            return
        calls = tuple(
            DroppedCall(
                index=index,
                tool=one.request.name[:80],
                raw=one.request.arguments,
                judgement=one.judgements[-1] if one.judgements else None,
            )
            for (_, index), one in sorted(gone.items())
        )
        self._add(DroppedLine(at=self._now, step=step, calls=calls))
        for slot in gone:
            del self._open[slot]

    def _tool(self, step: int, index: int, found: _Open, outcome: ToolOutcome | None) -> None:
        call = found.call
        bound = call.bound if call else None
        last = found.judgements[-1] if found.judgements else None
        documents = _documents(outcome) if bound and outcome else None
        write = found.asked if isinstance(found.asked, ExecuteTool) else None
        self._add(
            ToolLine(
                kind="retrieve" if documents else "tool",
                at=self._now,
                step=step,
                index=index,
                call_id=found.request.id,
                tool=bound.spec.name if bound else found.request.name[:80],
                version=bound.spec.version if bound else "",
                effect=bound.spec.effect if bound else "read",
                risk=bound.spec.risk if bound else "low",
                validation="valid" if bound else "invalid",
                raw="" if bound else found.request.arguments,
                proposed=found.judgements[0].arguments if found.judgements else _json(bound.arguments) if bound else {},
                arguments=last.arguments if last else _json(bound.arguments) if bound else {},
                resource=_resource(call),
                amount=_amount(call),
                facts=last.facts if last else None,
                verdict=last.verdict if last else None,
                mode=last.mode if last else None,
                earlier=tuple(found.judgements[:-1]),
                capability=found.asked.capability if found.asked else "",
                approvals=self._approvals(step, index),
                idempotency_key=write.idempotency_key if write else found.idempotency_key,
                action_digest=write.action_digest if write else found.action_digest,
                outcome=_outcome(outcome),
                corpus_digest=documents.corpus_digest if documents else "",
                documents=tuple(DocumentRef(document_id=d.document_id, digest=d.digest) for d in documents.documents)
                if documents
                else (),
                event=found.event,
            )
        )

    def _approvals(self, step: int, index: int) -> tuple[Any, ...]:
        name = f"ap-{step}-{index}"
        known = self._state.approvals if self._state else {}
        return tuple(a for key, a in known.items() if key == name or key.startswith(f"{name}-"))

    def _stopped(self, kill: KillState) -> KillLine:
        """The kill as it is known now; when it was acknowledged shows at the end."""
        asked, heard = kill.requested_at, kill.acknowledged_at
        before = self._lines[self._kill] if self._kill is not None and self._kill < len(self._lines) else None
        return KillLine(
            at=before.at if before else self._now,
            reason=kill.reason,
            by=kill.by,
            scope=kill.scope,
            requested_at=(asked or 0) * 1000,
            acknowledged_at=None if heard is None else heard * 1000,
        )

    # ---- the end ------------------------------------------------------------------------------------------------

    def trace(self) -> Trace:
        """All lines, numbered."""
        end = self._histories[-1].events[-1]
        closed_by = _CLOSED.get(end.event_type, "")
        state = self._state
        if closed_by:
            self._now = _ms(end)
            self._left()
        if state and self._kill is not None:
            self._lines[self._kill] = self._stopped(state.kill)
        first = self._first or self._never_admitted()
        lines: list[TraceLine] = [first, *self._lines]
        if closed_by:
            lines.append(self._outcome(first, closed_by))
        return Trace(lines=tuple(line.model_copy(update={"seq": n}) for n, line in enumerate(lines)))

    def _left(self) -> None:
        """Calls that nothing came of: the run ended before. Those of a turn that wasn't charged don't count as calls."""
        charged = self._state.usage.tool_calls if self._state else 0
        counted = sum(isinstance(line, ToolLine) for line in self._lines)
        whole = self._first is None or self._first.whole
        left = sorted(self._open.items())
        if whole and charged < counted + len(left):
            for step in sorted({slot[0] for slot, _ in left}):
                self._drop(step)
            return
        ended = {
            (n, done.event_id): done.result
            for n, history in enumerate(self._histories)
            for done in activities(history)
            if done.name in _CARRY_OUT
        }
        for (step, index), one in left:
            self._tool(step, index, one, _unseen(one, ended))
        self._open.clear()

    def _outcome(self, first: RunLine, closed_by: str) -> OutcomeLine:
        state = self._state
        usage = state.usage if state else Usage()
        dead = closed_by in ("terminated", "timed_out") or state is None
        return OutcomeLine(
            at=self._now,
            status=closed_by if dead or state is None else state.status,
            closed_by=closed_by,
            stopped_by=state.stopped_by if state else "",
            summary=state.summary if state else "",
            usage=usage,
            cost_usd=usage.cost_micro_usd / 1_000_000,
            latency_ms=self._now - first.started_at,
        )

    def _never_admitted(self) -> RunLine:
        event = self._histories[0].events[0]
        started = event.workflow_execution_started_event_attributes
        state = self._state
        return RunLine(
            at=_ms(event),
            run_id=started.first_execution_run_id or started.original_execution_run_id,
            workflow_id=self._histories[0].workflow_id,
            agent=state.start.agent if state else "",
            requester=state.start.requester if state else "",
            inputs=state.start.inputs if state else {},
            started_at=_ms(event),
            histories=len(self._histories),
            whole=not started.continued_execution_run_id,
        )


class _Watch(Watch):
    """Tells `_Run` what a replay asks for, is given, and hears."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def began(self, input: ExecuteWorkflowInput) -> None:
        found = workflow.instance()
        if isinstance(found, AgentRun):
            found.watcher = self._run
            self._run.began(found.state)

    def asked(self, name: str, arg: object, *, local: bool) -> object:
        name = f"local {name}" if local else name
        return name, arg, self._run.asked(name, arg)

    def answered(self, note: tuple[str, object, int], result: object) -> None:
        self._run.answered(*note, result)

    def heard(self) -> None:
        self._run.tick()


def _json(value: BaseModel) -> dict[str, JsonValue]:
    return value.model_dump(mode="json")


def _ms(event: HistoryEvent) -> int:
    return event.event_time.seconds * 1000 + event.event_time.nanos // 1_000_000


def _resource(call: Call | None) -> ResourceRef | None:
    return call.bound.resource if call and call.bound else None


def _amount(call: Call | None) -> Money | None:
    return call.bound.amount if call and call.bound else None


def _outcome(outcome: ToolOutcome | None) -> CallOutcome:
    if outcome is None:
        return CallOutcome(status="not_carried_out", attempt=0)
    return CallOutcome(
        status=outcome.status,
        reason=outcome.reason,
        detail="" if outcome.status == "done" else outcome.content,
        attempt=outcome.attempt,
        result_digest=sha256(outcome.content.encode()) if outcome.content else "",
        ref=outcome.ref,
    )


def _unseen(one: _Open, ended: Mapping[Slot, object]) -> ToolOutcome | None:
    """What came of a call that the run didn't live to see, for it was terminated; None when nothing was carried out.

    A write that its history asks for and that has no result there may have happened: only the ledger, or the vendor, knows.
    """
    if not one.event:
        return None
    at = one.history, one.event
    if at not in ended:
        write = isinstance(one.asked, ExecuteTool)
        return ToolOutcome(status="indeterminate", reason="outcome_indeterminate", attempt=0) if write else None
    outcome = ToolOutcome.model_validate(ended[at])
    return None if outcome.status in ("approval_required", "paused") else outcome


def _documents(outcome: ToolOutcome) -> Documents | None:
    if outcome.status != "done" or '"corpus_digest"' not in outcome.content:
        return None
    try:
        return Documents.model_validate_json(outcome.content)
    except ValidationError:
        return None
