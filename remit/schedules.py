"""Schedules on a Temporal namespace: runs of an agent, and drills of the off switch. Every method fails with one sentence."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionResult,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)
from temporalio.common import Priority
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from policies.errors import InvalidInput, NotFound, Unavailable
from policies.models import Frozen
from remit.client import HELP, checked_id, status_of, summary_of
from remit.codec import Unreadable
from workflows.fleet_messages import KILL_DRILL, DrillReport, PlayDrill, control_queue
from workflows.messages import AGENT_RUN, StartInput
from workflows.options import share

__all__ = ["Action", "Overlap", "Plan", "ScheduleRow", "ScheduleView", "Schedules"]

# Temporal's `terminate_other` is left out: it ends a run past Remit, without a kill row; a write in flight may still happen.
Overlap = Literal["skip", "buffer-one", "buffer-all", "cancel-other", "allow-all"]
NAME_LENGTH = 160
"""Temporal appends the time of each action: the workflow id of its run mustn't get too long."""
MEMO = "remit"
STARTED_SECONDS = 5.0
SAME_ID_SECONDS = 1.0
SHOWN_TIMES = 3


class Plan(Frozen):
    """What a schedule is for, as it was given. It is kept in its memo, for Temporal turns cron into calendars of its own.

    Attributes:
        start: how each run begins; None for a drill.
        drill: what is played through; None for an agent.
        cron, every_seconds: one of the two.
        time_zone: in which cron is read, for example `Europe/Vienna`; UTC when empty.
        by, note: who made the schedule, and why.
        queue: the workers that it is for. Other fleets of the namespace have schedules of their own.
    """

    queue: str
    start: StartInput | None = None
    drill: PlayDrill | None = None
    cron: str = ""
    every_seconds: int = Field(default=0, ge=0)
    time_zone: str = ""
    by: str = ""
    note: str = ""

    @property
    def what(self) -> str:
        return self.start.agent if self.start else "kill drill"

    @property
    def when(self) -> str:
        if self.cron:
            return f"{self.cron} {self.time_zone or 'UTC'}"
        unit, seconds = next((u, n) for u, n in (("h", 3600), ("m", 60), ("s", 1)) if self.every_seconds % n == 0)
        return f"every {self.every_seconds // seconds}{unit}"

    @property
    def spec(self) -> ScheduleSpec:
        if self.cron:
            return ScheduleSpec(cron_expressions=[self.cron], time_zone_name=self.time_zone or None)
        return ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=self.every_seconds))])

    def action(self, name: str) -> ScheduleActionStartWorkflow:
        """The same start as `Remit.start` makes, so that a scheduled run is governed as any other."""
        if self.start:
            return ScheduleActionStartWorkflow(
                AGENT_RUN,
                self.start.lean(),
                id=name,
                task_queue=self.queue,
                static_summary=summary_of(self.start),
                static_details=HELP,
                priority=share(self.start.agent),
            )
        assert self.drill
        return ScheduleActionStartWorkflow(
            KILL_DRILL,
            self.drill.model_dump(mode="json"),
            id=name,
            task_queue=control_queue(self.queue),
            static_summary=f"A drill of the fleet's off switch: {self.drill.reason}"[:190],
            priority=Priority(priority_key=1),
        )


class Action(Frozen):
    """What a schedule started. Times are Unix seconds.

    Attributes:
        status: of the run or drill; `no longer kept` when Temporal has forgotten it.
        drill: what a drill measured.
        said: why it failed.
    """

    workflow_id: str
    scheduled_at: int
    started_at: int
    status: str
    drill: DrillReport | None = None
    said: str = ""


class ScheduleRow(Frozen):
    """A schedule as `remit schedule list` shows it. Times are Unix seconds.

    Attributes:
        note: why it was made, or last paused or resumed.
    """

    name: str
    plan: Plan
    paused: bool
    note: str
    next_at: tuple[int, ...]
    last_at: int | None


class ScheduleView(ScheduleRow):
    """A schedule and what came of it.

    Attributes:
        catch_up_seconds: how late an action may be taken, when the server was away at its time.
        started, skipped, missed: actions taken; left out as one was still open; left out as the server was away for too long.
        actions: the last ten, newest first.
    """

    overlap: str
    catch_up_seconds: int
    started: int
    skipped: int
    missed: int
    actions: tuple[Action, ...]


class Schedules:
    """The schedules of the workers on one task queue."""

    def __init__(self, client: Client, task_queue: str = "remit") -> None:
        self._client = client
        self._queue = task_queue

    async def create(
        self, name: str, plan: Plan, *, overlap: Overlap = "skip", catch_up_seconds: int = 3600, paused: bool = False
    ) -> ScheduleView:
        """Make a schedule. Its runs get the workflow id `NAME-TIME`.

        Args:
            overlap: what happens when an action is due while the one before is still open.

        Raises:
            InvalidInput: the name is taken or can't be used, or the server can't use the plan.
        """
        if len(name) > NAME_LENGTH:
            raise InvalidInput(f"A schedule's name takes {NAME_LENGTH} characters at most.")
        checked_id(name, "A schedule's name")
        policy = SchedulePolicy(
            overlap=ScheduleOverlapPolicy[overlap.replace("-", "_").upper()],
            catchup_window=timedelta(seconds=catch_up_seconds),
        )
        state = ScheduleState(note=plan.note or None, paused=paused)
        with _answers(name):
            try:
                await self._client.create_schedule(
                    name, Schedule(plan.action(name), plan.spec, policy, state), memo={MEMO: plan.model_dump(mode="json")}
                )
            except ScheduleAlreadyRunningError:
                raise InvalidInput(
                    f"There is a schedule `{name}` in this namespace already; choose another name, or delete it first."
                ) from None
        return await self.show(name)

    async def list(self) -> AsyncGenerator[ScheduleRow]:
        """The schedules of these workers. One that was just made or deleted may take a second to show it.

        Raises:
            Unreadable: there are encrypted ones only, and the key isn't here. Beside others they are another fleet's.
        """
        readable, foreign = False, None
        with _answers(""):
            async for found in await self._client.list_schedules():
                try:
                    plan = await found.memo_value(MEMO, None, type_hint=Plan)
                except Unreadable as e:
                    foreign = e
                    continue
                if plan is None or plan.queue != self._queue or found.schedule is None or found.info is None:
                    continue
                readable = True
                recent = found.info.recent_actions
                yield ScheduleRow(
                    name=found.id,
                    plan=plan,
                    paused=found.schedule.state.paused,
                    note=found.schedule.state.note or "",
                    next_at=_times(found.info.next_action_times, found.schedule.state.paused),
                    last_at=_unix(recent[-1].started_at) if recent else None,
                )
        if foreign and not readable:
            raise foreign

    async def show(self, name: str) -> ScheduleView:
        """The schedule, and what came of the last ten things that it started.

        Raises:
            NotFound: these workers have no such schedule.
        """
        found, plan = await self._described(name)
        with _answers(name):
            actions = await asyncio.gather(*(self._action(a) for a in reversed(found.info.recent_actions)))
        schedule = found.schedule
        window = schedule.policy.catchup_window
        return ScheduleView(
            name=name,
            plan=plan,
            paused=schedule.state.paused,
            note=schedule.state.note or "",
            next_at=_times(found.info.next_action_times, schedule.state.paused),
            last_at=actions[0].started_at if actions else None,
            overlap=schedule.policy.overlap.name.lower().replace("_", "-"),
            catch_up_seconds=round(window.total_seconds()) if window else 0,
            started=found.info.num_actions,
            skipped=found.info.num_actions_skipped_overlap,
            missed=found.info.num_actions_missed_catchup_window,
            actions=tuple(actions),
        )

    async def delete(self, name: str) -> None:
        """End a schedule; what it started goes on. Raises as `show`."""
        await self._described(name)
        with _answers(name):
            await self._handle(name).delete()

    async def pause(self, name: str, note: str) -> None:
        """Start nothing until `resume`. Raises as `show`."""
        await self._described(name)
        with _answers(name):
            await self._handle(name).pause(note=note)

    async def resume(self, name: str, note: str) -> None:
        """Start things again; those that were due meanwhile are lost. Raises as `show`."""
        await self._described(name)
        with _answers(name):
            await self._handle(name).unpause(note=note)

    async def trigger(self, name: str) -> Action | Literal["skipped"] | None:
        """Start one now, paused or not: what was started, or that it was skipped; None if neither happened within seconds.

        Raises as `show`.
        """
        before, _ = await self._described(name)
        recent = before.info.recent_actions
        known = {_id(a) for a in recent}
        if recent and time.time() - recent[-1].started_at.timestamp() < SAME_ID_SECONDS:
            # Temporal names an action by its second, and starts nothing under a name that is taken.
            await asyncio.sleep(SAME_ID_SECONDS)
        with _answers(name):
            await self._handle(name).trigger()
            end = time.monotonic() + STARTED_SECONDS
            while time.monotonic() < end:
                found = await self._handle(name).describe()
                for action in found.info.recent_actions:
                    if _id(action) not in known:
                        return await self._action(action)
                if found.info.num_actions_skipped_overlap > before.info.num_actions_skipped_overlap:
                    return "skipped"
                await asyncio.sleep(0.1)
        return None

    def _handle(self, name: str) -> ScheduleHandle:
        return self._client.get_schedule_handle(name)

    async def _described(self, name: str) -> tuple[ScheduleDescription, Plan]:
        with _answers(name):
            found = await self._handle(name).describe()
            plan = await found.memo_value(MEMO, None, type_hint=Plan)
        if plan is None or plan.queue != self._queue:
            raise NotFound(f"`{name}` isn't a schedule of these workers; `remit schedule list` lists theirs.")
        return found, plan

    async def _action(self, action: ScheduleActionResult) -> Action:
        """What came of one action, as far as it can be told without a worker."""
        workflow_id = _id(action)
        handle = self._client.get_workflow_handle(workflow_id, result_type=DrillReport)
        due, started = _unix(action.scheduled_at), _unix(action.started_at)
        try:
            found = await handle.describe()
        except RPCError as e:
            if e.status != RPCStatusCode.NOT_FOUND:
                raise
            return Action(workflow_id=workflow_id, scheduled_at=due, started_at=started, status="no longer kept")
        made = Action(workflow_id=workflow_id, scheduled_at=due, started_at=started, status=status_of(found))
        if found.workflow_type != KILL_DRILL:
            return made
        if found.status == WorkflowExecutionStatus.RUNNING:
            return made.model_copy(update={"status": "running"})
        try:
            return made.model_copy(update={"drill": await handle.result()})
        except WorkflowFailureError as e:
            return made.model_copy(update={"said": e.cause.message if isinstance(e.cause, ApplicationError) else str(e.cause)})


def _id(action: ScheduleActionResult) -> str:
    assert isinstance(action.action, ScheduleActionExecutionStartWorkflow)
    return action.action.workflow_id


def _unix(when: datetime) -> int:
    return int(when.timestamp())


def _times(found: Sequence[datetime], paused: bool) -> tuple[int, ...]:
    return () if paused else tuple(_unix(t) for t in found[:SHOWN_TIMES])


@contextmanager
def _answers(name: str) -> Generator[None]:
    """Turn what the server says into one sentence."""
    try:
        yield
    except RPCError as e:
        said = " ".join(e.message.split())[:300]
        if e.status == RPCStatusCode.NOT_FOUND:
            raise NotFound(f"There is no schedule `{name}`; `remit schedule list` lists them.") from None
        if e.status == RPCStatusCode.INVALID_ARGUMENT:
            raise InvalidInput(f"The schedule can't be made: {said}.") from None
        if e.status == RPCStatusCode.UNAVAILABLE:
            raise Unavailable("The Temporal server doesn't answer; try again once it is back.") from None
        raise Unavailable(f"The Temporal server refused: {said}.") from None
