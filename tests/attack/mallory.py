"""An attacker with access to the namespace: a worker of their own that calls our activities past every workflow of ours."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

__all__ = ["Attacker", "Session", "attacker"]

SECONDS = timedelta(seconds=10)


@workflow.defn(name="Mallory", sandboxed=False)
class Mallory:
    """Schedules activities on a task queue that isn't its own, and answers the worker's queries with what it likes."""

    @workflow.init
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._over = False

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> None:
        if plan.get("continue_as"):
            other: Any = "AgentRun"  # by its name: Remit's own code runs it
            workflow.continue_as_new(plan["continue_as"], workflow=other, task_queue=plan["queue"])
        await workflow.wait_condition(lambda: self._over and workflow.all_handlers_finished())

    @workflow.update
    async def calls(self, calls: list[dict[str, Any]], capsule: Any) -> list[Any]:
        self._plan["capsule"] = capsule
        return list(await asyncio.gather(*(self._call(c) for c in calls)))

    @workflow.signal
    def end(self) -> None:
        self._over = True

    async def _call(self, call: Mapping[str, Any]) -> Any:
        try:
            return await workflow.execute_activity(
                str(call["activity"]),
                args=[call["input"]],
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


@workflow.defn(name="AgentRun", sandboxed=False)
class Impostor(Mallory):
    """The same under the name of Remit's own workflow."""

    @workflow.init
    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__(plan)

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> None:
        await super().run(plan)


class Session:
    """One open workflow of the attacker's."""

    def __init__(self, handle: WorkflowHandle[Any, Any]) -> None:
        self._handle = handle

    @property
    def workflow_id(self) -> str:
        return self._handle.id

    @property
    def run_id(self) -> str:
        return str(self._handle.result_run_id)

    async def calls(self, calls: Sequence[tuple[str, Any]], *, capsule: Any = None) -> list[Any]:
        """What the activities answered; a refusal by error as `{"status": "refused"}`."""
        given = [{"activity": name, "input": argument} for name, argument in calls]
        return await self._handle.execute_update("calls", args=[given, capsule], result_type=list)  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]


class Attacker:
    """Plays `Mallory` against the worker of one task queue."""

    def __init__(self, client: Client, own_queue: str, victim_queue: str) -> None:
        self._client = client
        self._own = own_queue
        self._victim = victim_queue

    @asynccontextmanager
    async def session(self, *, kind: str = "Mallory", workflow_id: str = "") -> AsyncGenerator[Session]:
        """A workflow of the attacker's that makes calls until the block ends; of the type and id that they want."""
        plan = {"queue": self._victim, "capsule": None}
        handle = await self._client.start_workflow(
            kind, plan, id=workflow_id or f"mallory-{uuid.uuid4().hex}", task_queue=self._own
        )
        try:
            yield Session(handle)
        finally:
            await handle.signal("end")

    async def continue_as_run(self, state: Any) -> str:
        """Continue a workflow of one's own as an `AgentRun` with a state of one's own; its workflow id."""
        name = f"mallory-{uuid.uuid4().hex}"
        plan = {"queue": self._victim, "capsule": None, "continue_as": state}
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
    worker = Worker(client, task_queue=own, workflows=[Mallory, Impostor], workflow_runner=UnsandboxedWorkflowRunner())
    async with worker:
        yield Attacker(client, own, victim_queue)
