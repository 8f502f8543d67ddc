"""Recorded histories under today's code: whether they replay, where they first differ, and what a run's state came to."""

import json
import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseError
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHistory
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import (
    ExecuteWorkflowInput,
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    Replayer,
    StartActivityInput,
    StartLocalActivityInput,
    UnsandboxedWorkflowRunner,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
    WorkflowRunner,
)
from temporalio.workflow import NondeterminismError

from policies.errors import InvalidInput
from policies.models import Frozen
from remit.sandbox import runner
from workflows.agent_run import AgentRun
from workflows.messages import AGENT_RUN

__all__ = ["Verdict", "Watch", "judge", "read_file", "segments", "state", "watched"]

_SCHEDULED = EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
_DECIDED = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
# As core's state machines call themselves in a nondeterminism error.
_COMMANDS = {
    "Timer": "a timer",
    "Local activity": "a local activity",
    "Complete workflow": "the run's end",
    "Fail workflow": "the run's failure",
    "Cancel workflow": "the run's cancellation",
    "Continue as new workflow": "a continuation as new",
    "UpsertWorkflowSearchAttributes": "an upsert of search attributes",
    "Upsert search attributes": "an upsert of search attributes",
    "Patch": "a patch marker",
}


class Verdict(Frozen):
    """What became of one replay.

    Attributes:
        event_id, event_type: the first event that today's code doesn't lead to.
        expected: what the history has there.
        got: what today's code asks for instead.
        error: why it can't be replayed, when no event says so.
    """

    workflow_id: str
    run_id: str
    events: int
    ok: bool
    event_id: int | None = None
    event_type: str = ""
    expected: str = ""
    got: str = ""
    error: str = ""

    @property
    def sentence(self) -> str:
        """Why it doesn't replay."""
        if self.event_id is None:
            return self.error
        return f"event {self.event_id} ({self.event_type}): the history has {self.expected}, today's code {self.got}"


class Watch(Interceptor):
    """Is told what a replayed run asks for, is given and hears. Whoever replays says what is made of it."""

    def began(self, input: ExecuteWorkflowInput) -> None:
        """A history's first task begins; `workflow.instance()` is the run."""

    def asked(self, name: str, arg: object, *, local: bool) -> object:
        """An activity is asked for with its first argument. What is returned goes to `answered`."""
        del name, arg, local

    def answered(self, note: Any, result: object) -> None:
        """An activity gave `result`."""

    def heard(self) -> None:
        """A signal or an update was handled, or the run came to its end."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor] | None:
        watch = self

        def follow(note: object, handle: workflow.ActivityHandle[Any]) -> workflow.ActivityHandle[Any]:
            def done(task: "workflow.ActivityHandle[Any]") -> None:
                if not task.cancelled() and task.exception() is None:
                    watch.answered(note, task.result())

            handle.add_done_callback(done)
            return handle

        class Outbound(WorkflowOutboundInterceptor):
            def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
                note = watch.asked(input.activity, next(iter(input.args), None), local=False)
                return follow(note, super().start_activity(input))

            def start_local_activity(self, input: StartLocalActivityInput) -> workflow.ActivityHandle[Any]:
                note = watch.asked(input.activity, next(iter(input.args), None), local=True)
                return follow(note, super().start_local_activity(input))

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

            async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
                watch.began(input)
                try:
                    return await super().execute_workflow(input)
                finally:
                    watch.heard()

            async def handle_signal(self, input: HandleSignalInput) -> None:
                try:
                    await super().handle_signal(input)
                finally:
                    watch.heard()

            async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
                try:
                    return await super().handle_update_handler(input)
                finally:
                    watch.heard()

        return Inbound


class _Asked(Watch):
    """Notes which activities a replayed run asks for, and keeps the run itself."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.run: AgentRun | None = None

    def began(self, input: ExecuteWorkflowInput) -> None:
        self.run = workflow.instance()

    def asked(self, name: str, arg: object, *, local: bool) -> object:
        if not local:
            self.names.append(name)
        return None


async def judge(history: WorkflowHistory, converter: DataConverter) -> Verdict:
    """Replay `history` with today's code in the worker's sandbox. Install the catalog of the worker's app before."""
    watch = _Asked()
    verdict = _verdict(history)
    try:
        failure = await _replay(history, converter, watch, runner())
    except InvalidInput as e:
        return verdict.model_copy(update={"ok": False, "error": e.message})
    if failure is None:
        return verdict
    return verdict.model_copy(update={"ok": False, **_explained(failure, history.events, watch.names)})


def _verdict(history: WorkflowHistory) -> Verdict:
    events = history.events
    # Not `history.run_id`, which needs a start as first event; what isn't a whole history has none.
    run_id = events[0].workflow_execution_started_event_attributes.original_execution_run_id if events else ""
    return Verdict(workflow_id=history.workflow_id, run_id=run_id, events=len(events), ok=True)


async def state(history: WorkflowHistory, converter: DataConverter) -> AgentRun:
    """The run as it stood at the end of `history`: it answers like its own queries, with no worker of its version.

    Raises:
        InvalidInput: today's code doesn't replay it.
    """
    watch = _Asked()
    failure = await _replay(history, converter, watch, UnsandboxedWorkflowRunner())
    if failure is not None:
        why = _verdict(history).model_copy(update=_explained(failure, history.events, watch.names)).sentence
        raise InvalidInput(f"Today's code can't read it: {why}.")
    if watch.run is None:
        raise InvalidInput("No worker ever took it up.")
    return watch.run


async def watched(history: WorkflowHistory, converter: DataConverter, watcher: Interceptor) -> str:
    """Replay `history` under `watcher`, in whose reach the run itself is; why today's code doesn't lead to it, or nothing.

    Raises:
        InvalidInput: it isn't the history of a run, or its payloads can't be decoded.
    """
    watch = _Asked()
    failure = await _replay(history, converter, watch, UnsandboxedWorkflowRunner(), watcher)
    if failure is None:
        return ""
    return _verdict(history).model_copy(update=_explained(failure, history.events, watch.names)).sentence


async def _replay(
    history: WorkflowHistory,
    converter: DataConverter,
    watch: _Asked,
    workflow_runner: WorkflowRunner,
    *watchers: Interceptor,
) -> Exception | None:
    """The failure of the replay, if it fails.

    Raises:
        InvalidInput: it isn't the history of a run, or its payloads can't be decoded.
    """
    await _readable(history, converter)
    if not any(e.event_type == _DECIDED for e in history.events):
        return None  # no code has decided anything yet; the replayer would wait for it for ever
    if not logging.getLogger().handlers:  # a command: a run that differs is a finding, not a log line
        for name in ("temporalio.worker", "temporalio.workflow"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    replayer = Replayer(
        workflows=[AgentRun],
        workflow_runner=workflow_runner,
        data_converter=converter,
        interceptors=[watch, *watchers],
        build_id="replay",
        runtime=_runtime(),
    )
    return (await replayer.replay_workflow(history, raise_on_replay_failure=False)).replay_failure


@cache
def _runtime() -> Runtime:
    """One for all replays: each has threads of its own."""
    return Runtime(telemetry=TelemetryConfig(logging=None))


async def _readable(history: WorkflowHistory, converter: DataConverter) -> None:
    events = history.events
    if not events or events[0].event_type != EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
        raise InvalidInput("It isn't a whole workflow history: its first event isn't a start.")
    start = events[0].workflow_execution_started_event_attributes
    if start.workflow_type.name != AGENT_RUN:
        raise InvalidInput(
            f"It is the history of a `{start.workflow_type.name[:80]}`; only runs (`{AGENT_RUN}`) can be replayed."
        )
    given = list(start.input.payloads)
    try:
        values = await converter.decode(given) if given else []
    except Exception:  # whatever a codec raises on bytes that it has no key for
        values = [RawValue(given[0])]
    if any(isinstance(v, RawValue) for v in values) and not _never_began(events):
        kind = given[0].metadata.get("encoding", b"?").decode(errors="replace")[:80]
        raise InvalidInput(f"Its payloads (`{kind}`) can't be decoded; set what its workers had, such as the codec's keys.")


def _never_began(events: Sequence[HistoryEvent]) -> bool:
    """Whether the run failed on its input: what couldn't be decoded then needn't be now."""
    return not any(e.event_type == _SCHEDULED for e in events)


def _explained(failure: Exception, events: Sequence[HistoryEvent], asked: Sequence[str]) -> dict[str, object]:
    """Fields of a `Verdict`, from what core says."""
    text = str(failure)
    said = re.search(r'message: "((?:[^"\\]|\\.)*)"', text)
    message = (said.group(1) if said else text).replace('\\"', '"')[:500]
    if not isinstance(failure, NondeterminismError):
        return {"error": f"today's code fails on it: {message}"}
    message = message.removeprefix("[TMPRL1100] Nondeterminism error: ")
    at, got = _first_difference(message, events, asked)
    if at is None:
        return {"error": message}
    return {"event_id": at.event_id, "event_type": _type(at), "expected": _content(at), "got": got}


def _first_difference(message: str, events: Sequence[HistoryEvent], asked: Sequence[str]) -> tuple[HistoryEvent | None, str]:
    if named := re.search(r"HistoryEvent\(id: (\d+)", message):
        at = next((e for e in events if e.event_id == int(named.group(1))), None)
        before = sum(e.event_type == _SCHEDULED for e in events if at and e.event_id < at.event_id)
        return at, _asked(message, asked[before] if before < len(asked) else "")
    # Core names the types, but no event: it is the first whose activity isn't the one that was asked for.
    pairs = zip((e for e in events if e.event_type == _SCHEDULED), asked, strict=False)
    for event, name in pairs:
        if event.activity_task_scheduled_event_attributes.activity_type.name != name:
            return event, f"asks for the activity `{name}`"
    return None, ""


def _asked(message: str, activity: str) -> str:
    machine = re.match(r"(.*?) ?[Mm]achine does not handle", message)
    if machine is None:
        return "asks for nothing there"
    name = machine.group(1).strip()
    if name == "Activity":
        return f"asks for the activity `{activity}`" if activity else "asks for an activity"
    return f"asks for {_COMMANDS.get(name, name)}"


def _type(event: HistoryEvent) -> str:
    words = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").split("_")
    return "".join(w.capitalize() for w in words)


def _content(event: HistoryEvent) -> str:
    if event.event_type == _SCHEDULED:
        return f"the activity `{event.activity_task_scheduled_event_attributes.activity_type.name}`"
    if event.HasField("marker_recorded_event_attributes"):
        return f"the marker `{event.marker_recorded_event_attributes.marker_name}`"
    return "this event"


def read_file(path: Path) -> WorkflowHistory:
    """A history as the Temporal UI or CLI exports it.

    Raises:
        InvalidInput: the file can't be read, or holds something else.
    """
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InvalidInput(f"`{path}` can't be read: {e.strerror}.") from None
    except ValueError:
        raise InvalidInput(f"`{path}` isn't a history: it isn't JSON.") from None
    try:
        history = WorkflowHistory.from_json(path.stem, json.dumps({"events": found} if isinstance(found, list) else found))
    except (ParseError, KeyError, ValueError, TypeError, AttributeError):
        history = None
    if history is None or not history.events:
        raise InvalidInput(f"`{path}` isn't a history: export one with `temporal workflow show --output json`, or in the UI.")
    return history


async def segments(client: Client, workflow_id: str, run_id: str | None = None) -> list[WorkflowHistory]:
    """The histories of a run, oldest first: one, and one more for each time that it continued as new.

    Those past the namespace's retention are left out. Raises the client's `RPCError` if there is no such run.
    """
    found: list[WorkflowHistory] = []
    while run_id != "":
        try:
            history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
        except RPCError as e:
            if not found or e.status != RPCStatusCode.NOT_FOUND:
                raise
            break
        found.append(history)
        run_id = history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    return found[::-1]
