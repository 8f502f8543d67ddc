"""What people do to the fleet over a Temporal client: switches, pauses, drills, rollouts. Each fails with one sentence."""

import asyncio
import secrets
import time
from contextlib import suppress
from typing import TypedDict, TypeVar

from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from policies.errors import ControlRefused, NotFound, Unavailable
from policies.models import Frozen
from policies.switches import FLEET, Scope
from remit.settings import Settings
from workflows.commands import Command
from workflows.fleet_messages import (
    FLEET_CONTROL,
    MOVED_ON,
    Autonomy,
    Control,
    Drilled,
    DrillReport,
    Kill,
    Pause,
    PlayDrill,
    PutBack,
    Resume,
    Switched,
    SwitchReport,
    Unkill,
    WantReport,
    control_queue,
    fleet_id,
)
from workflows.rollout_messages import ROLLOUT_COMMANDS, RolledOut

__all__ = ["Fleet", "audience"]

ANSWER_SECONDS = 10.0
REPORT_SECONDS = 30.0
ROLLOUT_SECONDS = 30.0  # the first look at the gates loads scipy
AGAIN_SECONDS = 0.05
_AWAY = "No worker answers for the fleet; start one with `remit dev` or `python worker.py`."
T = TypeVar("T", bound=Frozen)


def audience(client: Client, settings: Settings) -> str:
    """The workers that capabilities and signed commands are for."""
    return settings.audience or f"{client.namespace}/{settings.task_queue}"


class _About(TypedDict):
    priority: Priority
    static_summary: str


ABOUT: _About = {"priority": Priority(priority_key=1), "static_summary": "The fleet: off switches and pauses."}


class Fleet:
    """The runs of one task queue, as a whole. Its `FleetControl` is started by the first command."""

    def __init__(self, client: Client, task_queue: str = "remit", *, seconds: float = ANSWER_SECONDS) -> None:
        """`seconds`: how long a command may take until it is acknowledged."""
        self._seconds = seconds
        self._client = client
        self._queue = task_queue

    async def begin(self) -> None:
        """Start `FleetControl`, so that the first kill needn't."""
        with suppress(WorkflowAlreadyStartedError):
            await self._client.start_workflow(
                FLEET_CONTROL,
                id=fleet_id(self._queue),
                task_queue=control_queue(self._queue),
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                **ABOUT,
            )

    async def kill(self, scope: Scope, reason: str, *, by: str = "", workflow_id: str = "", drill: bool = False) -> Switched:
        """Set an off switch. When this returns, the gate in the ledger has it: no effect in `scope` is reserved any more.

        Args:
            workflow_id: of the run, if `scope` is one: it is told without looking for it.
            drill: play it through, stopping nothing.

        Raises:
            ControlRefused: it can't be used.
            Unavailable: it isn't acknowledged. The command may have been taken, and then works once a worker is back.
        """
        command = Kill(scope=str(scope), reason=reason, by=by, workflow_id=workflow_id, drill=drill)
        return await self._command("kill", command, Switched)

    async def unkill(self, scope: Scope, control_jws: str) -> Switched:
        """Release an off switch, or sign as the first of two for that.

        Raises:
            ControlRefused: the signature doesn't count for it.
            Unavailable: it isn't acknowledged.
        """
        return await self._command("unkill", Unkill(scope=str(scope), control_jws=control_jws), Switched)

    async def pause(self, scope: Scope, reason: str, *, by: str = "", workflow_id: str = "") -> Switched:
        """Park what is in `scope`. Raises as `kill`."""
        return await self._command("pause", Pause(scope=str(scope), reason=reason, by=by, workflow_id=workflow_id), Switched)

    async def resume(self, scope: Scope, reason: str, *, by: str = "", workflow_id: str = "") -> Switched:
        """Let what is in `scope` go on. Raises as `kill`."""
        return await self._command("resume", Resume(scope=str(scope), reason=reason, by=by, workflow_id=workflow_id), Switched)

    async def drilled(self, scope: Scope, effect_ms: int, *, by: str = "") -> Switched:
        """End a drill; what it measured is kept with it."""
        return await self._command("drilled", Drilled(scope=str(scope), effect_ms=effect_ms, by=by), Switched)

    async def drill(self, wanted: PlayDrill) -> DrillReport:
        """Play a kill of the fleet through: the command, what came of it, and the end. Raises as `kill`."""
        begun = time.monotonic()
        switched = await self.kill(FLEET, wanted.reason, by=wanted.by, drill=True)
        effect_ms = round((time.monotonic() - begun) * 1000)
        report = await self.report(switched)
        await self.drilled(Scope.parse(switched.scope), effect_ms, by=wanted.by)
        return DrillReport(
            epoch=switched.epoch,
            at=switched.at,
            effect_ms=effect_ms,
            gate_ms=switched.gate_ms,
            found=report.found,
            told=report.told,
            in_flight=switched.in_flight_total,
        )

    async def put_back(self, agent: str, control_jws: str) -> Autonomy:
        """Let an agent that the breaker stepped down do again what its file says.

        Raises:
            ControlRefused: the signature doesn't count for it.
            Unavailable: it isn't acknowledged.
        """
        return await self._command("put_back", PutBack(agent=agent, control_jws=control_jws), Autonomy)

    async def report(self, switched: Switched) -> SwitchReport:
        """What came of a switch: waits until the runs were told and the effects in flight settled, some seconds at most."""
        wanted = WantReport(scope=switched.scope, epoch=switched.epoch, keys=switched.in_flight)
        return await self._command("report", wanted, SwitchReport, REPORT_SECONDS)

    async def roll_out(self, command: Command) -> RolledOut:
        """Give a command of `workflows.rollout_messages`. When this returns, the next run that is admitted follows it.

        Raises:
            ControlRefused: it changed nothing; the sentence says why.
            Unavailable: it isn't acknowledged.
        """
        name = next(name for name, kind in ROLLOUT_COMMANDS.items() if isinstance(command, kind))
        return await self._command(name, command, RolledOut, ROLLOUT_SECONDS)

    async def control(self) -> Control:
        """What `FleetControl` holds.

        Raises:
            NotFound: nothing was ever commanded.
        """
        try:
            return await self._handle.query("control", result_type=Control)
        except RPCError as e:
            if e.status == RPCStatusCode.NOT_FOUND:
                raise NotFound("There is no `FleetControl` yet; the first command to the fleet starts it.") from None
            raise Unavailable(_AWAY) from None

    @property
    def _handle(self) -> WorkflowHandle[object, object]:
        return self._client.get_workflow_handle(fleet_id(self._queue))

    async def _command(self, name: str, command: Frozen, answer: type[T], seconds: float = 0) -> T:
        """Give a command until it is answered: by a `FleetControl` that has moved on to another history too."""
        end, order = time.monotonic() + (seconds or self._seconds), secrets.token_hex(16)
        while True:
            start = WithStartWorkflowOperation[object, object](
                FLEET_CONTROL,
                id=fleet_id(self._queue),
                task_queue=control_queue(self._queue),
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                **ABOUT,
            )
            try:
                async with asyncio.timeout(max(0.1, end - time.monotonic())):
                    return await self._client.execute_update_with_start_workflow(  # pyright: ignore[reportUnknownMemberType]
                        name, command.model_dump(mode="json"), id=order, result_type=answer, start_workflow_operation=start
                    )
            except WorkflowUpdateFailedError as e:
                cause = e.cause
                reason = cause.type if isinstance(cause, ApplicationError) and cause.type else "refused"
                if reason != MOVED_ON and reason not in ("AcceptedUpdateCompletedWorkflow",):
                    raise ControlRefused(reason, getattr(cause, "message", str(cause))) from None
            except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
                raise Unavailable(
                    f"{_AWAY} It isn't acknowledged; if it was taken, it works as soon as one is back: see `remit switches`."
                ) from None
            except RPCError as e:
                if time.monotonic() > end:
                    raise Unavailable(f"The Temporal server refused: {' '.join(e.message.split())[:300]}") from None
            await asyncio.sleep(AGAIN_SECONDS)
