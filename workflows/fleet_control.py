"""FleetControl: takes commands, carries them out room by room, answers, tells the runs, and goes on for ever."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError

from policies import anomaly
from policies.errors import ApprovalRefused, ControlRefused, InvalidInput
from policies.switches import Scope
from workflows import inbox, ports
from workflows.fleet_messages import (
    COMMANDS,
    FLEET_CONTROL,
    MOVED_ON,
    ApplyRollouts,
    ApplySwitches,
    ApplyTrips,
    Autonomy,
    Control,
    Kill,
    Look,
    Order,
    Outcome,
    Pause,
    ReportSwitch,
    Resume,
    Room,
    Switched,
    SwitchReport,
    TellAll,
    TellRuns,
    Told,
    Trip,
    WantReport,
)
from workflows.fleet_state import FleetState
from workflows.rollout_messages import RolledOut

__all__ = ["FleetControl"]

MORE_EVENTS = 2000
"""By how much a history may outgrow what the server suggests, until what hangs, for the ledger is away, is left behind."""
REPORT_SECONDS = 10
TELL_TOGETHER = 100
TELLERS = 4
LOOK_AGAIN_SECONDS = 60
"""When the breaker couldn't look, for the ledger is away: nothing is reserved meanwhile either."""


@workflow.defn(name=FLEET_CONTROL)
class FleetControl:
    """The durable record of what the fleet was told. Takes no input; `workflows.fleet_messages.COMMANDS` are its commands."""

    @workflow.init
    def __init__(self, *args: Any) -> None:
        continued = workflow.info().continued_run_id is not None
        self._state = FleetState.model_validate(args[0]) if continued else FleetState()
        self._invalid = bool(args) and not continued
        self._moving = False
        self._busy: set[Room] = set()
        self._being_told: set[tuple[str, str, int]] = set()
        self._tellers: set[asyncio.Task[None]] = set()
        self._rooms: dict[Room, Callable[[tuple[Order, ...]], Awaitable[Sequence[Outcome]]]] = {
            "switches": self._switch,
            "rollouts": self._roll_out,
            "breaker": self._break,
        }

    @workflow.run
    async def run(self, *_: Any) -> None:
        if self._invalid:
            raise ApplicationError("`FleetControl` takes no input.", type=InvalidInput.code, non_retryable=True)
        working = [asyncio.create_task(self._serve(room)) for room in self._rooms]
        working.append(asyncio.create_task(self._tell()))
        if workflow.patched("breaker"):
            working.append(asyncio.create_task(self._watch()))
        await workflow.wait_condition(lambda: self._full() or any(t.done() for t in working))
        for task in working:
            if task.done():
                task.result()  # it serves for ever: this raises what ended it
        # A flood of signals keeps the server from letting a history end; commands are carried out and answered meanwhile.
        most = workflow.info().get_current_history_length() + MORE_EVENTS
        await workflow.wait_condition(lambda: self._idle() or workflow.info().get_current_history_length() > most)
        # What is still under way is begun anew in the next history: nothing is carried out twice, for orders have ids.
        self._moving = not self._idle()
        await workflow.wait_condition(workflow.all_handlers_finished)
        self._state.histories += 1
        workflow.continue_as_new(self._state)

    def _full(self) -> bool:
        return workflow.info().is_continue_as_new_suggested()

    def _idle(self) -> bool:
        return workflow.all_handlers_finished() and not (self._busy or self._tellers or self._state.queue)

    # ---- rooms ----------------------------------------------------------------------------------------------------

    async def _serve(self, room: Room) -> None:
        """Carry out the orders of one room, in their order."""
        state = self._state
        while True:
            await workflow.wait_condition(lambda: bool(state.batch(room)))
            orders = state.batch(room)
            self._busy.add(room)
            try:
                state.finished(orders, await self._rooms[room](orders))
            finally:
                self._busy.discard(room)

    async def _switch(self, orders: tuple[Order, ...]) -> Sequence[Outcome]:
        """G4: what this answers is in the ledger."""
        state = self._state
        try:
            applied = await ports.apply_switches(ApplySwitches(orders=orders), summary=_summary(orders))
        except ActivityError as e:
            return [Switched(status="refused", scope="", refused="unavailable", message=_why(e)) for _ in orders]
        state.switches, state.switches_total = applied.switches, applied.total
        for order, outcome in zip(orders, applied.outcomes, strict=True):
            if wanted := _to_tell(order, outcome):
                state.telling.append(wanted)
        return applied.outcomes

    # ---- the breaker ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at the agents' figures again and again, and trip what they exceed. Decided here, and so the same on replay."""
        state = self._state
        while True:
            again = LOOK_AGAIN_SECONDS
            with contextlib.suppress(ActivityError):
                looked = await ports.look_at_agents(Look(), summary="the figures of all agents")
                again, state.looked_at = looked.again_seconds, looked.at
                trips, state.tripped = anomaly.judge(looked.readings, state.tripped, looked.at)
                for reading in trips:
                    self._trip(reading, looked.at)
            await workflow.sleep(timedelta(seconds=again), summary="look again")

    def _trip(self, reading: anomaly.Reading, at: int) -> None:
        """Keep the trip; and stop the agent, if the rule says so, in the room of the switches."""
        name = str(workflow.uuid4())
        self._state.accept(Order(id=name, name="trip", body=Trip(reading=reading, at=at).model_dump_json()))
        if reading.rule.action == "kill":
            kill = Kill(scope=f"agent:{reading.agent}", reason=reading.words, by="breaker")
            self._state.accept(Order(id=f"{name}-kill", name="kill", body=kill.model_dump_json()))

    async def _break(self, orders: tuple[Order, ...]) -> Sequence[Outcome]:
        """What this answers is in the ledger."""
        try:
            return (await ports.apply_trips(ApplyTrips(orders=orders), summary=_summary(orders))).outcomes
        except ActivityError as e:
            why = _why(e)
            return [Autonomy(status="refused", agent=_agent(o), refused="unavailable", message=why) for o in orders]

    # ---- rollouts ---------------------------------------------------------------------------------------------------

    async def _roll_out(self, orders: tuple[Order, ...]) -> Sequence[Outcome]:
        """What this answers is in the ledger too, where the next run that is admitted looks."""
        try:
            applied = await ports.apply_rollouts(ApplyRollouts(orders=orders), summary=_summary(orders))
        except ActivityError as e:
            return [RolledOut(status="refused", agent="", refused="unavailable", message=_why(e)) for _ in orders]
        self._state.rollouts = applied.rollouts
        return applied.outcomes

    async def _tell(self) -> None:
        """Tell the runs of each switch. The gate in the ledger holds them meanwhile; this only makes them close soon."""
        state = self._state

        def due() -> tuple[TellRuns, ...]:
            return tuple(islice((t for t in state.telling if t.key not in self._being_told), TELL_TOGETHER))

        while True:
            await workflow.wait_condition(
                lambda: bool(state.telling) and len(self._tellers) < TELLERS and not self._full() and bool(due())
            )
            task = asyncio.create_task(self._tell_of(due()))
            self._tellers.add(task)
            await asyncio.sleep(0)  # it says what it tells before the next one looks

    async def _tell_of(self, wanted: tuple[TellRuns, ...]) -> None:
        self._being_told |= {w.key for w in wanted}
        words = ", ".join(f"{w.signal} {w.scope}" for w in wanted[:3])
        try:
            told = (await ports.tell_runs(TellAll(tell=wanted), summary=f"tell the runs: {words}"[:190])).told
        except ActivityError:
            told = tuple(Told(scope=w.scope, epoch=w.epoch, found=0, told=0) for w in wanted)
        for each, came in zip(wanted, told, strict=True):
            self._state.was_told(each, came.model_copy(update={"at": self._now()}))
        self._being_told -= {w.key for w in wanted}
        self._tellers = {t for t in self._tellers if t is not asyncio.current_task()}

    # ---- what others may send and ask -------------------------------------------------------------------------------

    @workflow.signal(
        dynamic=True,
        description='Choose "Custom" and type the name: `kill`, `pause` or `resume`. {"scope": "agent:NAME", "reason": "..."}.',
    )
    def on_signal(self, name: str, args: Sequence[RawValue]) -> None:
        if self._invalid:
            return
        try:
            self._accept(str(workflow.uuid4()), name, args)
        except (ApprovalRefused, ControlRefused) as e:
            self._state.refuse(name, e.reason, e.message, self._now())

    @workflow.update(
        dynamic=True,
        description='Choose "Custom" and type the name: `kill`, `pause` or `resume`. {"scope": "agent:NAME", "reason": "..."}.',
    )
    async def on_update(self, name: str, args: Sequence[RawValue]) -> Outcome | SwitchReport:
        try:
            if name == "report":
                return await self._report(inbox.parse(WantReport, args))
            info = workflow.current_update_info()
            assert info
            return await self._done(self._accept(info.id, name, args))
        except (ApprovalRefused, ControlRefused) as e:
            self._state.refuse(name, e.reason, e.message, self._now())
            raise ApplicationError(e.message, type=e.reason, non_retryable=True) from None

    @on_update.validator
    def _validate_update(self, name: str, args: Sequence[RawValue]) -> None:
        try:
            inbox.parse(WantReport if name == "report" else self._model(name), args)
        except (ApprovalRefused, ControlRefused) as e:
            raise ApplicationError(e.message, type=e.reason, non_retryable=True) from None

    def _model(self, name: str) -> type[Any]:
        if self._invalid or name not in COMMANDS:
            raise ControlRefused("unknown_command", f"There is no such command; use one of {', '.join(COMMANDS)}.")
        return COMMANDS[name]

    def _accept(self, name_of_it: str, name: str, args: Sequence[RawValue]) -> Order:
        order = Order(id=name_of_it, name=name, body=inbox.parse(self._model(name), args).model_dump_json())
        self._state.accept(order)
        return order

    async def _done(self, order: Order) -> Outcome:
        """What came of `order`. Who gives it again with its id, in the next history too, gets the same answer."""
        await workflow.wait_condition(lambda: order.id in self._state.done or self._moving)
        outcome = self._state.done.get(order.id)
        if outcome is None:
            raise _moved_on()
        if outcome.refused:
            raise ControlRefused(outcome.refused, outcome.message)
        return outcome

    async def _report(self, wanted: WantReport) -> SwitchReport:
        state = self._state
        work = asyncio.create_task(
            ports.report_switch(ReportSwitch.model_validate(wanted.model_dump()), summary=f"report on {wanted.scope}"[:190])
        )
        tells = Scope.parse(wanted.scope).played.ends_runs

        def ready() -> bool:
            return work.done() and (not tells or state.told_of(wanted.scope, wanted.epoch) is not None)

        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._moving or ready(),
                timeout=timedelta(seconds=REPORT_SECONDS),
            )
        if self._moving or not work.done():
            raise _moved_on()
        try:
            report = work.result()
        except ActivityError:
            raise ControlRefused("unavailable", "The ledger doesn't answer; ask for the report again.") from None
        told = state.told_of(wanted.scope, wanted.epoch)
        return report.model_copy(update={"found": told.found, "told": told.told}) if told else report

    @workflow.query
    def control(self) -> Control:
        return self._state.view()

    def _now(self) -> int:
        return int(workflow.now().timestamp())


def _moved_on() -> ApplicationError:
    return ApplicationError("It goes on in a new history; ask again there.", type=MOVED_ON, non_retryable=True)


def _to_tell(order: Order, outcome: Switched) -> TellRuns | None:
    """Whom to tell of what came of `order`; nobody of a switch that covers single tools: their calls meet the gate."""
    command = order.command
    if not isinstance(command, Kill | Pause | Resume) or outcome.refused or not outcome.epoch:
        return None
    scope = Scope.parse(outcome.scope)
    if not scope.played.ends_runs:
        return None
    signal = "drill" if scope.kind == "drill" else order.name
    fields = {"scope": outcome.scope, "reason": command.reason, "by": command.by, "epoch": outcome.epoch}
    return TellRuns.model_validate({**fields, "signal": signal, "workflow_id": command.workflow_id})


def _why(error: ActivityError) -> str:
    return error.cause.message if isinstance(error.cause, ApplicationError) else "the ledger didn't answer"


def _agent(order: Order) -> str:
    match order.command:
        case Trip() as trip:
            return trip.reading.agent
        case command:
            return str(getattr(command, "agent", ""))


def _summary(orders: Sequence[Order]) -> str:
    names = [f"{o.name} {getattr(o.command, 'scope', '') or _agent(o)}" for o in orders[:3]]
    more = f" and {len(orders) - 3} more" if len(orders) > 3 else ""
    return (", ".join(names) + more)[:190]
