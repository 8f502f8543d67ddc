"""An engine for tests: the real worker with its own ledger, business and task queue, and short words for what tests do."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from activities.ledger.store import Effect, Ledger
from remit.client import Remit
from remit.issuer import DevIssuer
from remit.settings import Settings
from tools.connectors import sandbox
from worker import build, ensure_search_attributes
from workflows.messages import RunResult, RunSummary, ScriptCall, ScriptTurn

__all__ = ["Engine", "call", "final", "turn"]

PATIENCE_SECONDS = 30


def call(name: str, **arguments: object) -> ScriptCall:
    """A scripted tool call."""
    return ScriptCall.model_validate({"name": name, "arguments": arguments})


def turn(*calls: ScriptCall, text: str = "") -> ScriptTurn:
    """A scripted model turn."""
    return ScriptTurn(text=text, tool_calls=calls)


def final(outcome: str = "resolved", summary: str = "Done.") -> ScriptTurn:
    """The scripted end of a run."""
    return turn(call("final_answer", outcome=outcome, summary=summary))


class Engine:
    """A worker in this process over a real server."""

    def __init__(self, client: Client, home: Path) -> None:
        self.client = client
        self.home = home
        self.settings = Settings(home=home, task_queue=f"remit-{uuid.uuid4().hex[:12]}", shutdown_seconds=1)
        self.ledger = Ledger(self.settings.ledger)
        self.issuer = DevIssuer(home, env="dev")
        self.remit = Remit(client, self.settings.task_queue)
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        self.ledger.migrate()
        await ensure_search_attributes(self.client)
        self._worker = build(self.client, self.settings, self.ledger)
        await self._worker.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._worker:
            await self._worker.__aexit__(kind, error, trace)
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

    async def run(self, turns: Sequence[ScriptTurn], *, ticket: str = "T-1001", agent: str = "billing-resolution") -> RunSummary:
        """A scripted run from start to end."""
        handle = await self.start(turns, ticket=ticket, agent=agent)
        await handle.result()
        return await self.remit.status(handle.id)

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
        decision: Literal["approve", "reject"] = "approve",
        *,
        approval_id: str | None = None,
        reason: str = "",
    ) -> tuple[str, str]:
        """The id of the (only) pending approval and a decision on it, signed by `who`."""
        summary, approval = await self.remit.approval(workflow_id, approval_id)
        token = self.issuer.sign(who, request=approval.request, run_id=summary.run_id, decision=decision, reason=reason)
        return approval.request.approval_id, token

    async def decide(
        self, workflow_id: str, who: str, decision: Literal["approve", "reject"] = "approve", *, reason: str = ""
    ) -> dict[str, object]:
        """Decide on the only pending approval as `who`, by update."""
        return await self.remit.decide(workflow_id, *await self.token(workflow_id, who, decision, reason=reason))

    def rows(self, table: str) -> list[dict[str, str | int]]:
        """Rows of the sandbox business: what really happened."""
        return sandbox.rows(self.settings.business_path, table)

    def effects(self) -> list[Effect]:
        """Rows of the ledger: what was reserved and recorded."""
        return self.ledger.effects()
