"""What `FleetControl` does beside the ledger and the runs: set switches, tell the runs, report what came of it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.failures import ledger_needed
from activities.heartbeat import beating
from activities.ledger import switches
from activities.ledger.rows import Effect, Switch
from activities.ledger.store import Ledger
from activities.switching import carry_out, people_now
from policies.identity import Directory
from policies.switches import Scope, scopes_of_run, subject_tag
from workflows.fleet_messages import (
    Applied,
    ApplySwitches,
    ConfirmKill,
    EffectOutcome,
    Kill,
    Order,
    ReportSwitch,
    SwitchReport,
    SwitchView,
    TellAll,
    TellRuns,
    Told,
    ToldAll,
)
from workflows.messages import AGENT_RUN, REMIT_AGENT, REMIT_SUBJECT, KillState

__all__ = ["FleetActivities"]

AT_ONCE = 64
SHOWN = 200
AGAIN_SECONDS = 1.0  # what the list of runs lags behind, usually
POLL_SECONDS = 0.05
OUTCOMES = {"done": "done", "failed": "refused", "released": "refused", "indeterminate": "unknown"}


class FleetActivities:
    def __init__(
        self, ledger: Ledger, client: Client, task_queue: str, directory: Callable[[], Directory], audience: str
    ) -> None:
        """Args:
        task_queue: that of the runs which this ledger is for; others of the namespace aren't told.
        directory: asked for each command that somebody signed: who they are now.
        audience: the workers that such a command must be signed for.
        """
        self._audience = audience
        self._ledger = ledger
        self._client = client
        self._queue = task_queue
        self._directory = directory

    # ---- switches ---------------------------------------------------------------------------------------------------

    @activity.defn(name="apply_switches")
    async def apply_switches(self, wanted: ApplySwitches) -> Applied:
        """G4: carry out the orders in one transaction. After this returns, the gate knows. Safe to repeat."""
        with ledger_needed():
            return await asyncio.to_thread(self._apply, wanted.orders)

    def _apply(self, orders: Sequence[Order]) -> Applied:
        begun = time.monotonic()
        # Before the transaction, for the directory may take its time, or lie in the same database.
        people = people_now(self._directory) if any(o.name == "unkill" for o in orders) else None
        with self._ledger.begin() as connection:
            switches.lock(connection)
            outcomes = [carry_out(connection, order, people, self._audience) for order in orders]
            kills, many_kills = switches.newest(connection, SHOWN)
            pauses, many_pauses = switches.newest(connection, SHOWN, paused=True)
        for i, (order, outcome) in enumerate(zip(orders, outcomes, strict=True)):
            if outcome.status == "engaged" and isinstance(order.command, Kill) and order.command.drill:
                assert self._ledger.switched([outcome.scope])[0]
                outcomes[i] = outcome.model_copy(update={"gate_ms": round((time.monotonic() - begun) * 1000)})
        views = [_view("kill", s) for s in kills] + [_view("pause", s) for s in pauses]
        shown = sorted(views, key=lambda v: v.epoch)
        return Applied(outcomes=tuple(outcomes), switches=tuple(shown[-SHOWN:]), total=many_kills + many_pauses)

    # ---- runs -------------------------------------------------------------------------------------------------------

    @activity.defn(name="tell_runs")
    async def tell_runs(self, wanted: TellAll) -> ToldAll:
        """Signal the open runs in the scope of each switch, and those again that the list of runs didn't show yet."""
        async with beating():
            gate = asyncio.Semaphore(AT_ONCE)
            return ToldAll(told=tuple(await asyncio.gather(*(self._tell(each, gate) for each in wanted.tell))))

    async def _tell(self, wanted: TellRuns, gate: asyncio.Semaphore) -> Told:
        if wanted.workflow_id:
            done = [await self._signal(wanted.workflow_id, wanted, gate)]
            return Told(scope=wanted.scope, epoch=wanted.epoch, found=1, told=sum(done))
        seen: set[str] = set()
        told = 0
        for again in (False, True):
            if again:
                await asyncio.sleep(AGAIN_SECONDS)
            found = [name async for name in self._open(Scope.parse(wanted.scope).played) if name not in seen]
            seen.update(found)
            told += sum(await asyncio.gather(*(self._signal(name, wanted, gate) for name in found)))
        return Told(scope=wanted.scope, epoch=wanted.epoch, found=len(seen), told=told)

    async def _open(self, scope: Scope) -> AsyncGenerator[str]:
        """Workflow ids of the open runs in `scope`."""
        query = f"WorkflowType = '{AGENT_RUN}' AND ExecutionStatus = 'Running' AND TaskQueue = {quoted(self._queue)}"
        match scope.kind:
            case "run":
                query += f" AND RunId = {quoted(scope.value)}"
            case "agent":
                query += f" AND {REMIT_AGENT.name} = {quoted(scope.value)}"
            case "subject":
                query += f" AND {REMIT_SUBJECT.name} = {quoted(subject_tag(scope.value))}"
            case _:
                pass
        async for found in self._client.list_workflows(query, page_size=1000):
            yield found.id

    async def _signal(self, workflow_id: str, wanted: TellRuns, gate: asyncio.Semaphore) -> bool:
        """Whether the run got it; one that has closed meanwhile needs it no more."""
        payload = {"reason": wanted.reason, "by": wanted.by, "scope": wanted.scope, "epoch": wanted.epoch}
        async with gate:
            try:
                await self._client.get_workflow_handle(workflow_id).signal(wanted.signal, payload)
            except RPCError as e:
                if e.status != RPCStatusCode.NOT_FOUND:
                    raise
                return False
        return True

    @activity.defn(name="confirm_kill")
    async def confirm_kill(self, run: ConfirmKill) -> KillState:
        """Whether the ledger has a switch that ends this run: who told it so could be anybody."""
        with ledger_needed():
            found, _ = await asyncio.to_thread(self._ledger.switched, scopes_of_run(run.run_id, run.agent, run.subject))
        if found is None:
            return KillState()
        return KillState(
            engaged=True, reason=found.reason, by=found.set_by, acknowledged_at=found.set_at // 1000, scope=found.scope
        )

    # ---- reports ----------------------------------------------------------------------------------------------------

    @activity.defn(name="report_switch")
    async def report_switch(self, wanted: ReportSwitch) -> SwitchReport:
        """What became of the effects that were in flight, and how many were reserved in spite of the switch."""
        end = time.monotonic() + wanted.wait_seconds
        with ledger_needed():
            while True:
                found = await asyncio.to_thread(self._ledger.effects_by_key, wanted.keys)
                if all(e.state not in ("reserved", "sent") for e in found) or time.monotonic() > end:
                    break
                await asyncio.sleep(POLL_SECONDS)
            after = await asyncio.to_thread(self._reserved_since, Scope.parse(wanted.scope), wanted.epoch)
        return SwitchReport(
            scope=wanted.scope, epoch=wanted.epoch, effects=tuple(_outcome(e) for e in found), reserved_after=after
        )

    def _reserved_since(self, scope: Scope, epoch: int) -> int:
        with self._ledger.reading() as connection:
            return switches.reserved_since(connection, scope, epoch)


def _view(kind: str, switch: Switch) -> SwitchView:
    fields = {"scope": switch.scope, "reason": switch.reason, "by": switch.set_by, "epoch": switch.epoch, "at": switch.set_at}
    return SwitchView.model_validate({**fields, "kind": kind})


def _outcome(effect: Effect) -> EffectOutcome:
    fields = effect.model_dump(include={"workflow_id", "tool", "resource", "amount_cents", "currency"})
    outcome = OUTCOMES.get(effect.state, "open")
    return EffectOutcome.model_validate({**fields, "key": effect.idempotency_key, "outcome": outcome})


def quoted(value: str) -> str:
    """`value` in a visibility query."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
