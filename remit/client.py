"""What people do to runs, over a Temporal client: start, look, decide, kill. Every method fails with one sentence."""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, get_args

from pydantic import JsonValue, ValidationError
from temporalio.client import (
    Client,
    RPCTimeoutOrCancelledError,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.segments import read_segment
from activities.storage import Storage
from policies.approvals import Approval, decision_payload
from policies.bundle import explain
from policies.errors import ApprovalRefused, InvalidInput, NotFound, RemitError, Unavailable
from policies.models import Frozen, RunStatus
from remit.fleet import Fleet
from workflows.messages import (
    AGENT_RUN,
    REMIT_AGENT,
    REMIT_AWAITING_APPROVAL,
    REMIT_COST_USD,
    REMIT_STATUS,
    Decided,
    KillState,
    RunResult,
    RunSummary,
    ScriptTurn,
    Segment,
    StartInput,
    StoredSegment,
    TranscriptPage,
)
from workflows.options import share
from workflows.rollout_messages import RecordOutcome, RolledOut
from workflows.state import OPEN

if TYPE_CHECKING:
    from workflows.agent_run import AgentRun

__all__ = ["HELP", "RUN_STATUSES", "NoWorker", "Remit", "RunFailed", "RunRow", "checked_id", "status_of", "summary_of"]

ANSWER_SECONDS = 10.0
BUSY = "TMPRL1101"  # what the SDK answers when the workflow's thread had no turn for two seconds
_NO_WORKER = "No worker answers for run `{}`; start one with `remit dev` or `python worker.py`. Nothing is lost."
_PAST_REMIT: dict[WorkflowExecutionStatus | None, str] = {
    WorkflowExecutionStatus.TERMINATED: "terminated",
    WorkflowExecutionStatus.TIMED_OUT: "timed_out",
}
_RUNNING = "ExecutionStatus = 'Running'"
RUN_STATUSES: dict[str, str] = {
    # A run that was ended past Remit keeps the status that it had; only Temporal knows that it is over.
    **{s: f"{REMIT_STATUS.name} = '{s}'" + (f" AND {_RUNNING}" if s in OPEN else "") for s in get_args(RunStatus)},
    "admitted": f"{REMIT_STATUS.name} IS NULL AND {_RUNNING}",
    "terminated": "ExecutionStatus = 'Terminated'",
    "timed_out": "ExecutionStatus = 'TimedOut'",
}
"""Each status that a run may be in, as a visibility query."""
ANSWER = timedelta(seconds=ANSWER_SECONDS)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}")
_ADDRESS = re.compile(r"@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")


HELP = """\
- look: `remit show RUN` says what the tab *User Metadata*, *Current Details* says
- approve or reject: `remit approve RUN --as PERSON`, `remit reject RUN --as PERSON --reason '...'`
- stop: `remit kill RUN --reason '...'`, or *Request Cancellation* above
- not *Terminate*: it writes no kill row, so a write in flight may still happen
"""


class RunFailed(RemitError):
    """The run failed; the message is the run's own sentence."""

    code = "run_failed"


class NoWorker(Unavailable):
    """No worker answered for the run."""


class RunRow(Frozen):
    """One run as `remit runs` lists it. Times are Unix seconds."""

    workflow_id: str
    run_id: str
    agent: str
    status: str
    awaiting_approval: bool
    cost_usd: float | None
    started_at: int
    closed_at: int | None


class Remit:
    """Runs on one Temporal namespace."""

    def __init__(self, client: Client, task_queue: str = "remit", storage: Storage | None = None) -> None:
        """`storage`: where workers keep earlier parts of long runs, to show these whole."""
        self.client = client
        self._queue = task_queue
        self._storage = storage
        self._read: dict[str, AgentRun] = {}

    async def start(
        self,
        agent: str,
        inputs: dict[str, JsonValue],
        *,
        run_id: str | None = None,
        requester: str = "",
        script: tuple[ScriptTurn, ...] | None = None,
    ) -> WorkflowHandle[object, RunResult]:
        """Start a run under the workflow id `run_id`, or a fresh one.

        Raises:
            InvalidInput: the id can't be used, holds an e-mail address, or a run with it exists.
        """
        workflow_id = checked_id(run_id or f"{agent[:80]}-{secrets.token_hex(5)}", "A run id")
        start = StartInput(agent=agent, inputs=inputs, requester=requester, script=script)
        with _answers(workflow_id):
            try:
                return await self.client.start_workflow(
                    AGENT_RUN,
                    start.lean(),
                    id=workflow_id,
                    task_queue=self._queue,
                    result_type=RunResult,
                    # A run that failed before it did anything may be started again under its id; no other may.
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                    static_summary=summary_of(start),
                    static_details=HELP,
                    priority=share(agent),
                    request_eager_start=False,
                )
            except WorkflowAlreadyStartedError:
                raise InvalidInput(f"A run `{workflow_id}` exists already; choose another `--id`, or leave it out.") from None

    def handle(self, workflow_id: str) -> WorkflowHandle[object, RunResult]:
        return self.client.get_workflow_handle(workflow_id, result_type=RunResult)

    async def admitted(self, workflow_id: str) -> RunSummary:
        """Wait until the run was admitted.

        Raises:
            RunFailed: it was refused; the message says why.
            Unavailable: no worker took it up in time; the run waits for one, nothing is lost.
        """
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            summary = await self.status(workflow_id)
            if summary.status == "failed":
                await self.result(workflow_id)
            if summary.status != "admitted":
                return summary
            if time.monotonic() > end:
                raise Unavailable(f"Run `{workflow_id}` is being admitted; look again with `remit show {workflow_id}`.")
            await asyncio.sleep(0.05)

    async def result(self, workflow_id: str) -> RunResult:
        """Wait for the run's end.

        Raises:
            RunFailed: it failed, was terminated, or timed out.
        """
        with _answers(workflow_id):
            try:
                return await self.handle(workflow_id).result()
            except WorkflowFailureError as e:
                cause = e.cause
                text = cause.message if isinstance(cause, ApplicationError) else str(cause or e)
                raise RunFailed(text) from None

    async def status(self, workflow_id: str) -> RunSummary:
        """The run as its own query `status` shows it; an open run needs a worker for that."""
        try:
            with _answers(workflow_id):
                return await self.handle(workflow_id).query("status", result_type=RunSummary, rpc_timeout=ANSWER)
        except WorkflowQueryFailedError as e:
            if BUSY in str(e):
                raise Unavailable(f"The worker is too busy to answer for run `{workflow_id}`; ask again.") from None
            raise RunFailed(str(e)) from None
        except NoWorker as e:
            run = await self._recorded(workflow_id, e)
        try:
            return run.status()
        except ApplicationError as e:
            raise RunFailed(e.message) from None

    async def _recorded(self, workflow_id: str, error: NoWorker) -> "AgentRun":
        """A closed run from its history, by today's code: a query goes to its version's workers, which may be gone for good.

        Raises:
            Unavailable: it is open, or today's code can't read it.
        """
        if workflow_id in self._read:
            return self._read[workflow_id]
        from remit.apps import assemble
        from remit.history import state
        from remit.settings import load
        from tools import registry
        from tools.builtin import CATALOG

        found = await self.describe(workflow_id)
        info = found.raw_description.workflow_execution_info.versioning_info
        build = info.versioning_override.pinned.version.build_id or info.deployment_version.build_id
        if found.status == WorkflowExecutionStatus.RUNNING:
            if not build:
                raise error
            raise Unavailable(
                f"Run `{workflow_id}` is pinned to version `{build}`, of which no worker answers. Start one, or let today's "
                f"code take it over with `remit deploy --move {build}`. Nothing is lost."
            )
        if registry.current() is CATALOG:  # nobody has installed an app's
            registry.install(assemble(load()).catalog)
        with _answers(workflow_id):
            history = await self.handle(workflow_id).fetch_history()
        try:
            run = self._read[workflow_id] = await state(history, self.client.data_converter)
            return run
        except InvalidInput as e:
            raise Unavailable(
                f"Run `{workflow_id}` has closed, and no worker of its version `{build}` answers. {e.message} "
                "Start such a worker to look at it."
            ) from None

    async def seen(self, workflow_id: str) -> RunSummary:
        """`status`, with what lies in storage, and what Temporal alone knows: that the run was terminated or timed out.

        Raises:
            StoredValueLost: a part of the run isn't in this process's storage.
        """
        summary = await self.status(workflow_id)
        stored = await self._stored(summary.segments)
        summary = summary.model_copy(
            update={
                "calls": tuple(c for s in stored for c in s.calls) + summary.calls,
                "approvals": tuple(a for s in stored for a in s.approvals) + summary.approvals,
                "segments": (),
            }
        )
        if summary.status not in OPEN:
            return summary
        found = (await self.describe(workflow_id)).status
        if found not in _PAST_REMIT:
            return summary
        how = _PAST_REMIT[found]
        approvals = [a.model_copy(update={"status": "cancelled"} if a.status == "pending" else {}) for a in summary.approvals]
        sentence = (
            f"The run was {how.replace('_', ' ')} in Temporal, past Remit: no kill row was written, so a write in flight "
            "may still have happened; see `remit effects`."
        )
        ended = {"status": "failed", "stopped_by": how, "summary": sentence, "approvals": tuple(approvals)}
        return summary.model_copy(update=ended)

    async def transcript(self, workflow_id: str) -> list[str]:
        """Every message of the run, as JSON text.

        Raises:
            StoredValueLost: a part of the run isn't in this process's storage.
        """
        texts: list[str] = []
        while True:
            page = await self._page(workflow_id, len(texts))
            texts += [text for s in await self._stored(page.segments) for text in s.messages]
            texts += page.messages
            if len(texts) >= page.total or not page.messages:
                return texts

    async def _page(self, workflow_id: str, since: int) -> TranscriptPage:
        if run := self._read.get(workflow_id):
            return run.transcript(since)
        try:
            with _answers(workflow_id):
                return await self.handle(workflow_id).query("transcript", since, result_type=TranscriptPage, rpc_timeout=ANSWER)
        except NoWorker as e:
            return (await self._recorded(workflow_id, e)).transcript(since)

    async def _stored(self, segments: Sequence[Segment]) -> list[StoredSegment]:
        if segments and self._storage is None:
            raise InvalidInput("Earlier parts of this run lie in storage; give `Remit` the workers' storage to read them.")
        return [await read_segment(self._storage, s) for s in segments if self._storage]

    async def approval(self, workflow_id: str, approval_id: str | None) -> tuple[RunSummary, Approval]:
        """The approval called `approval_id`, or the only pending one.

        Raises:
            NotFound: it doesn't exist, nothing is pending, or several are and none was named.
        """
        summary = await self.status(workflow_id)
        if approval_id is not None:
            for approval in summary.approvals:
                if approval.request.approval_id == approval_id:
                    return summary, approval
            known = ", ".join(a.request.approval_id for a in summary.approvals) or "none"
            raise NotFound(f"Run `{workflow_id}` has no approval `{approval_id}`; it has: {known}.")
        pending = [a for a in summary.approvals if a.status == "pending"]
        if not pending:
            raise NotFound(f"Nothing waits for approval in run `{workflow_id}`; its status is {summary.status}.")
        if len(pending) > 1:
            names = ", ".join(a.request.approval_id for a in pending)
            raise NotFound(f"Several approvals wait in run `{workflow_id}`; name one: {names}.")
        return summary, pending[0]

    async def decide(self, workflow_id: str, approval_id: str, token: str) -> Decided:
        """Send a signed decision by update, and say what became of the approval.

        Raises:
            ApprovalRefused: it doesn't count; nothing changed.
        """
        with _answers(workflow_id):
            try:
                return await self.handle(workflow_id).execute_update(  # pyright: ignore[reportUnknownMemberType]
                    "decide", decision_payload(approval_id, token), result_type=Decided, rpc_timeout=ANSWER
                )
            except WorkflowUpdateFailedError as e:
                cause = e.cause
                reason = cause.type if isinstance(cause, ApplicationError) and cause.type else "refused"
                raise ApprovalRefused(reason, getattr(cause, "message", str(cause))) from None

    async def resume(self, workflow_id: str, reason: str, by: str = "") -> bool:
        """Tell a run to go on that waits for a provider, or that was paused by a signal of its own; no other is told.

        Returns:
            Whether it waited, and was told.

        Raises:
            InvalidInput: the run is closed already.
            Unavailable: no worker answers.
        """
        run = await self.status(workflow_id)
        if not (run.waiting or any(not pause.scope for pause in run.pauses)):
            return False
        with _answers(workflow_id):
            await self.handle(workflow_id).signal("resume", {"reason": reason, "by": by})
        return True

    async def kill(self, workflow_id: str, reason: str, by: str = "") -> KillState:
        """Kill the run and wait for the acknowledgement: from then on, no write of it can start.

        Raises:
            InvalidInput: the run is closed already.
            Unavailable: no worker acknowledged in time; the signal stays and works as soon as one is back.
        """
        await self.open_run(workflow_id)
        handle = self.handle(workflow_id)
        with _answers(workflow_id):
            await handle.signal("kill", {"reason": reason, "by": by})
        end = time.monotonic() + ANSWER_SECONDS
        with suppress(Unavailable), _answers(workflow_id):
            while time.monotonic() < end:
                state = await handle.query("kill_switch", result_type=KillState, rpc_timeout=ANSWER)
                if state.acknowledged_at is not None:
                    return state
                if not state.engaged and (await self.describe(workflow_id)).status != WorkflowExecutionStatus.RUNNING:
                    raise InvalidInput(f"Run `{workflow_id}` ended by itself before the kill arrived.")
                await asyncio.sleep(0.02)
        raise Unavailable(
            f"The kill of `{workflow_id}` was sent but isn't acknowledged yet; it works as soon as a worker is back. "
            f"See `remit show {workflow_id}`."
        )

    async def open_run(self, workflow_id: str) -> str:
        """The run id of the first history of an open run, by which the ledger knows it.

        Raises:
            NotFound: there is no such run.
            InvalidInput: it is closed.
        """
        found = await self.describe(workflow_id)
        name = found.status.name.lower() if found.status else "closed"
        if name != "running":
            if name == "completed":
                name = found.typed_search_attributes.get(REMIT_STATUS) or name
            raise InvalidInput(f"Run `{workflow_id}` is {name} already; there is nothing to stop.")
        return found.raw_info.first_run_id or found.run_id

    async def outcome(
        self,
        workflow_id: str,
        *,
        csat: int | None = None,
        reopened: bool | None = None,
        refunded: bool | None = None,
        escalated: bool | None = None,
        cost_usd: float | None = None,
        first_response_seconds: float | None = None,
        by: str = "",
    ) -> RolledOut:
        """Record what became of a case after its run; what is left out stays as it was said before.

        Args:
            csat: how satisfied the customer is, from 1 to 5.
            cost_usd, first_response_seconds: only for a case that people were assigned to.

        Returns:
            The arm of the run; and the rollout, with its findings, if this made the gates pause or abort it.

        Raises:
            InvalidInput: nothing is said, or what is said can't be.
            ControlRefused: there is no such closed run.
            Unavailable: it isn't acknowledged.
        """
        fields = {
            "workflow_id": workflow_id,
            "csat": csat,
            "reopened": reopened,
            "refunded": refunded,
            "escalated": escalated,
            "cost_micro_usd": None if cost_usd is None else round(cost_usd * 1_000_000),
            "first_response_ms": None if first_response_seconds is None else round(first_response_seconds * 1000),
            "by": by,
        }
        try:
            said = RecordOutcome.model_validate(fields)
        except ValidationError as e:
            raise InvalidInput(f"The outcome can't be used: {explain(e)}.") from None
        return await Fleet(self.client, self._queue).roll_out(said)

    async def describe(self, workflow_id: str) -> WorkflowExecutionDescription:
        with _answers(workflow_id):
            return await self.handle(workflow_id).describe()

    async def list(self, query: str = "", limit: int = 200) -> AsyncGenerator[RunRow]:
        """Runs, newest first. `query` is added to Temporal's visibility query."""
        wanted = f"WorkflowType = '{AGENT_RUN}'" + (f" AND {query}" if query else "")
        with _answers(""):
            async for found in self.client.list_workflows(wanted, limit=limit):
                attributes = found.typed_search_attributes
                yield RunRow(
                    workflow_id=found.id,
                    run_id=found.run_id,
                    agent=attributes.get(REMIT_AGENT) or "",
                    status=status_of(found),
                    awaiting_approval=bool(attributes.get(REMIT_AWAITING_APPROVAL))
                    and found.status == WorkflowExecutionStatus.RUNNING,
                    cost_usd=attributes.get(REMIT_COST_USD),
                    started_at=int(found.start_time.timestamp()),
                    closed_at=int(found.close_time.timestamp()) if found.close_time else None,
                )

    async def waiting(self) -> AsyncGenerator[RunRow]:
        """Open runs that wait for people."""
        async for row in self.list(f"{REMIT_AWAITING_APPROVAL.name} = true AND ExecutionStatus = 'Running'"):
            yield row


def checked_id(text: str, what: str) -> str:
    """`text`, if it can name runs.

    Raises:
        InvalidInput: it can't.
    """
    if not _ID.fullmatch(text):
        raise InvalidInput(f"{what} takes 1 to 200 letters, digits and `. _ : / @ -`, and starts with a letter or digit.")
    if _ADDRESS.search(text):
        raise InvalidInput(f"{what} is never encrypted, and in every log: leave e-mail addresses out of it.")
    return text


def status_of(found: WorkflowExecution) -> str:
    """The status of a run as it says itself, unless Temporal knows better."""
    temporal = found.status.name.lower() if found.status else "unknown"
    status = found.typed_search_attributes.get(REMIT_STATUS)
    if status is None or (temporal not in ("running", "completed") and status not in ("failed", "killed")):
        return "admitted" if temporal == "running" else temporal
    return status


def summary_of(start: StartInput) -> str:
    """One line about a run, for the Temporal UI."""
    given = ", ".join(f"{k}={v}" for k, v in start.inputs.items())
    return f"{start.agent[:60]}: {given}{f', for {start.requester}' if start.requester else ''}"[:190]


@contextmanager
def _answers(workflow_id: str) -> Generator[None]:
    """Turn what the server says into one sentence."""
    try:
        yield
    except RPCTimeoutOrCancelledError:
        # What an update raises instead of an RPC error when no worker takes it up in time.
        raise NoWorker(_NO_WORKER.format(workflow_id)) from None
    except RPCError as e:
        if e.status == RPCStatusCode.NOT_FOUND and "already completed" in e.message:
            raise InvalidInput(f"Run `{workflow_id}` has closed already; `remit show {workflow_id}` says how.") from None
        if e.status == RPCStatusCode.NOT_FOUND:
            raise NotFound(f"There is no run `{workflow_id}`; `remit runs` lists them.") from None
        if e.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED, RPCStatusCode.FAILED_PRECONDITION):
            raise NoWorker(_NO_WORKER.format(workflow_id)) from None
        if e.status == RPCStatusCode.UNAVAILABLE:
            raise Unavailable("The Temporal server doesn't answer; nothing is lost. Try again once it is back.") from None
        raise Unavailable(f"The Temporal server refused: {' '.join(e.message.split())[:300]}") from None
