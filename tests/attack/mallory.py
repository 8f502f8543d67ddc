"""An attacker with access to the namespace: a worker of their own that calls Remit's activities past every workflow of Remit's."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

__all__ = ["Attacker", "attacker"]

SECONDS = timedelta(seconds=10)


@workflow.defn(name="Mallory", sandboxed=False)
class Mallory:
    """Schedules activities on a task queue that isn't its own, and answers the worker's queries with what it likes."""

    @workflow.init
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> list[Any]:
        if plan.get("continue_as"):
            workflow.continue_as_new(plan["continue_as"], workflow="AgentRun", task_queue=plan["queue"])
        return list(await asyncio.gather(*(self._call(c) for c in plan["calls"])))

    async def _call(self, call: Mapping[str, Any]) -> Any:
        try:
            return await workflow.execute_activity(
                str(call["activity"]),
                args=call["args"],
                task_queue=self._plan["queue"],
                start_to_close_timeout=SECONDS,
                heartbeat_timeout=SECONDS,
                retry_policy=RetryPolicy(maximum_attempts=2),
            )
        except ActivityError as e:
            return {"status": "refused", "reason": str(e.cause)[:200]}

    @workflow.query
    def capsule(self) -> Any:
        return self._plan["capsule"]

    @workflow.query
    def transcript(self, since: int = 0) -> Any:
        return {"since": since, "total": 0, "digest": "", "messages": []}


class Attacker:
    """Plays `Mallory` against the worker of one task queue."""

    def __init__(self, client: Client, own_queue: str, victim_queue: str) -> None:
        self._client = client
        self._own = own_queue
        self._victim = victim_queue

    async def call(self, calls: Sequence[tuple[str, Any]], *, capsule: Any = None, workflow_id: str = "") -> list[Any]:
        """What the activities answered; a refusal by error as `{"status": "refused"}`."""
        plan = {
            "queue": self._victim,
            "capsule": capsule,
            "calls": [{"activity": name, "args": [argument]} for name, argument in calls],
        }
        return await self._client.execute_workflow(
            "Mallory", plan, id=workflow_id or f"mallory-{uuid.uuid4().hex}", task_queue=self._own, result_type=list
        )

    async def continue_as_run(self, state: Any) -> str:
        """Continue a workflow of one's own as an `AgentRun` with a state of one's own; its workflow id."""
        name = f"mallory-{uuid.uuid4().hex}"
        plan = {"queue": self._victim, "capsule": None, "calls": [], "continue_as": state}
        await self._client.start_workflow("Mallory", plan, id=name, task_queue=self._own)
        return name

    async def scheduled(self, workflow_id: str, activity: str) -> list[Any]:
        """The inputs of every such activity in a run's history, as JSON: whoever may read the namespace sees them."""
        found: list[Any] = []
        async for event in self._client.get_workflow_handle(workflow_id).fetch_history_events():
            asked = event.activity_task_scheduled_event_attributes
            if asked.activity_type.name == activity:
                found.append(json.loads(asked.input.payloads[0].data))
        return found


@asynccontextmanager
async def attacker(client: Client, victim_queue: str) -> AsyncGenerator[Attacker]:
    """The attacker, with their worker running."""
    own = f"mallory-{uuid.uuid4().hex[:12]}"
    worker = Worker(client, task_queue=own, workflows=[Mallory], workflow_runner=UnsandboxedWorkflowRunner())
    async with worker:
        yield Attacker(client, own, victim_queue)
