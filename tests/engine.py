"""An engine for tests: the real worker with its own ledger, business and task queue, and short words for what tests do."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import JsonValue
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from activities.ledger.store import Effect, Intent, Ledger, run_scope
from activities.meter import Meter
from policies.approvals import Verb
from policies.models import Money, ResourceRef
from remit.client import Remit
from remit.connection import converter, storage_of
from remit.issuer import DevIssuer
from remit.keyring import RootKeys
from remit.settings import Settings
from tools.connectors import sandbox
from worker import ensure_search_attributes, working
from workflows.messages import Decided, Message, RunResult, RunSummary, ScriptCall, ScriptTurn, ToolMessage
from workflows.state import parse_message

__all__ = ["Engine", "call", "final", "turn", "uncapped"]

PATIENCE_SECONDS = 30
TASK_FAILED = EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED


def call(name: str, **arguments: object) -> ScriptCall:
    """A scripted tool call."""
    return ScriptCall.model_validate({"name": name, "arguments": arguments})


def turn(*calls: ScriptCall, text: str = "") -> ScriptTurn:
    """A scripted model turn."""
    return ScriptTurn(text=text, tool_calls=calls)


def final(outcome: str = "resolved", summary: str = "Done.") -> ScriptTurn:
    """The scripted end of a run."""
    return turn(call("final_answer", outcome=outcome, summary=summary))


def uncapped(ledger: Ledger) -> Meter:
    """The meter of a fleet without caps across runs."""
    return Meter(ledger, lambda _agent, _bundle: ())


class Engine:
    """A worker in this process over a real server.

    Attributes:
        overrides: settings that differ from those of a test.
        working: whether a worker runs from the start; without one, `work` starts it.
        operated: whether the server can be asked for its search attributes; the time-skipping one can't be.
    """

    def __init__(
        self,
        client: Client,
        home: Path,
        *,
        overrides: Mapping[str, object] | None = None,
        working: bool = True,
        operated: bool = True,
    ) -> None:
        self.home = home
        queue = f"remit-{uuid.uuid4().hex[:12]}"
        # Unversioned: a server holds 100 deployments at most, and each test has a queue of its own.
        base = Settings(home=home, task_queue=queue, deployment="none", shutdown_seconds=1)
        self.settings = base.model_copy(update=dict(overrides or {}))
        self.client = Client(**{**client.config(), "data_converter": converter(self.settings)})  # pyright: ignore[reportArgumentType]
        self._working = working
        self._operated = operated
        self.ledger = Ledger(self.settings.ledger)
        self.issuer = DevIssuer(home, env="dev")
        self.remit = Remit(self.client, self.settings.task_queue, storage_of(self.settings))
        self._worker: Worker | None = None
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.ledger.migrate()
        RootKeys(self.settings.root_keys_path, env="dev")()  # a worker of production makes none by itself
        if self._operated:
            await ensure_search_attributes(self.client)
        if self._working:
            await self.work()
        return self

    async def work(self) -> None:
        """Start the worker."""
        self._worker = await self._closing.enter_async_context(working(self.client, self.settings, self.ledger))

    async def rest(self) -> None:
        """Stop the worker."""
        await self._closing.aclose()

    @property
    def alive(self) -> bool:
        """Whether the worker is running."""
        return self._worker is not None and self._worker.is_running

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.aclose()
        self.ledger.close()

    async def start(
        self,
        turns: Sequence[ScriptTurn],
        *,
        ticket: str = "T-1001",
        agent: str = "billing-resolution",
        requester: str = "",
        run_id: str | None = None,
    ) -> WorkflowHandle[object, RunResult]:
        """Start a scripted run on a ticket of the demo's business."""
        return await self.remit.start(agent, {"ticket_id": ticket}, script=tuple(turns), requester=requester, run_id=run_id)

    async def run(
        self, turns: Sequence[ScriptTurn], *, ticket: str = "T-1001", agent: str = "billing-resolution"
    ) -> RunSummary:
        """A scripted run from start to end."""
        handle = await self.start(turns, ticket=ticket, agent=agent)
        return await self.closed(handle.id)

    async def until(self, workflow_id: str, holds: Callable[[RunSummary], bool]) -> RunSummary:
        """Poll the run until `holds`, for at most 30 s."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            summary = await self.remit.status(workflow_id)
            if holds(summary):
                return summary
            assert time.monotonic() < end, f"still {summary.model_dump_json()}"
            await asyncio.sleep(0.02)

    async def pending(self, workflow_id: str, count: int = 1) -> RunSummary:
        """Wait until `count` approvals are pending."""
        return await self.until(workflow_id, lambda s: sum(a.status == "pending" for a in s.approvals) == count)

    async def token(
        self,
        workflow_id: str,
        who: str,
        decision: Verb = "approve",
        *,
        approval_id: str | None = None,
        reason: str = "",
        changes: Mapping[str, JsonValue] | None = None,
    ) -> tuple[str, str]:
        """The id of the (only) pending approval and a decision on it, signed by `who`; `changes` are those of an edit."""
        summary, approval = await self.remit.approval(workflow_id, approval_id)
        request = approval.request
        arguments: dict[str, Any] | None = None if changes is None else {**request.arguments, **changes}
        token = self.issuer.sign(
            who, request=request, run_id=summary.run_id, decision=decision, reason=reason, arguments=arguments
        )
        return request.approval_id, token

    async def decide(
        self,
        workflow_id: str,
        who: str,
        decision: Verb = "approve",
        *,
        approval_id: str | None = None,
        reason: str = "",
        changes: Mapping[str, JsonValue] | None = None,
    ) -> Decided:
        """Decide on the named or only pending approval as `who`, by update."""
        token = await self.token(workflow_id, who, decision, approval_id=approval_id, reason=reason, changes=changes)
        return await self.remit.decide(workflow_id, *token)

    async def edit(self, workflow_id: str, who: str, *, reason: str = "Too much.", **changes: JsonValue) -> Decided:
        """Change arguments of the only pending action as `who`."""
        return await self.decide(workflow_id, who, "edit", reason=reason, changes=changes)

    async def closed(self, workflow_id: str) -> RunSummary:
        """Wait for the run's end, and look at it."""
        await self.remit.result(workflow_id)
        return await self.remit.status(workflow_id)

    async def messages(self, workflow_id: str) -> list[Message]:
        """The transcript of the run."""
        return [parse_message(text) for text in await self.remit.transcript(workflow_id)]

    async def answers(self, workflow_id: str) -> list[dict[str, Any]]:
        """What the model got back from its tool calls, in order."""
        return [json.loads(m.content) for m in await self.messages(workflow_id) if isinstance(m, ToolMessage)]

    async def errors(self, workflow_id: str) -> list[tuple[str, str]]:
        """Code and message of each error that the model got back."""
        found = [answer["error"] for answer in await self.answers(workflow_id) if "error" in answer]
        return [(error["code"], error["message"]) for error in found]

    async def stalls(self, workflow_id: str) -> list[str]:
        """Why workflow tasks of the run failed; a run that somebody poisoned fails one after the other."""
        found: list[str] = []
        async for event in self.remit.handle(workflow_id).fetch_history_events():
            failed = event.workflow_task_failed_event_attributes
            # The server itself gives some up, when many signals come during a task: only a worker's report has a failure in it.
            if event.event_type == TASK_FAILED and failed.HasField("failure"):
                found.append(failed.failure.message)
        return found

    def rows(self, table: str) -> list[dict[str, str | int]]:
        """Rows of the sandbox business: what really happened."""
        return sandbox.rows(self.settings.business_path, table)

    def reserve(self, run: RunSummary, capability: str = "") -> Effect:
        """Reserve one more write of `run` in the ledger, past every policy: only an off switch can refuse it."""
        intent = Intent(
            idempotency_key=f"rk_{uuid.uuid4().hex}",
            run_id=run.run_id,
            workflow_id=run.workflow_id,
            agent=run.agent,
            tool="request_refund@1",
            resource=ResourceRef(type="Invoice", id="in_1004"),
            subject=run.subject,
            amount=Money(cents=100, currency="USD"),
            action_digest="sha256:0",
            approvers=(),
            strategy="native_key",
            capability=capability,
        )
        return self.ledger.reserve(intent, [run_scope(run.run_id)], lambda _, __: None)

    def effects(self) -> list[Effect]:
        """Rows of the ledger: what was reserved and recorded."""
        return self.ledger.effects()
