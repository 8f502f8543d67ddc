"""Gauges of what stands in the ledger and waits in Temporal, read by a worker every few seconds while metrics are on."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.common import MetricMeter

from activities.ledger.gauges import Standing, standing
from activities.ledger.store import Ledger
from workflows.messages import AGENT_RUN, REMIT_AWAITING_APPROVAL, REMIT_STATUS

__all__ = ["GAUGE_NAMES", "watching"]

SECONDS = 15.0
PATIENCE = timedelta(seconds=10)
GAUGE_NAMES = {
    "remit_effects_open": "Writes that are reserved, sent, or of unknown outcome (`indeterminate`).",
    "remit_effects_open_age_seconds": "Age of the oldest of them.",
    "remit_effects_duplicated": "Writes of 24 hours that repeat an earlier one: same tool, resource, subject and amount.",
    "remit_kill_epoch": "The epoch of the newest switch, pause or release in the ledger.",
    "remit_switches": "Off switches and pauses that are set, those of single runs left out.",
    "remit_kill_drill_last_timestamp_seconds": "When the last drill of the off switch was played to its end; 0 for never.",
    "remit_kill_drill_effect_seconds": "How long a kill would have taken to be in force, by the last drill.",
    "remit_kill_drill_open_seconds": "For how long a drill has been open that nobody ended.",
    "remit_traces_unsealed": "Closed runs whose trace isn't sealed yet.",
    "remit_traces_unsealed_age_seconds": "For how long the first of them has waited.",
    "remit_runs_open": "Runs that are open, as Temporal's visibility says.",
    "remit_runs_awaiting_approval": "Runs that wait for a person.",
    "remit_runs_waiting_for_provider": "Runs that wait because no model can be reached.",
    "remit_observed_timestamp_seconds": "When these figures were last read, from the ledger and from Temporal.",
}


@asynccontextmanager
async def watching(
    meter: MetricMeter | None, client: Client, task_queue: str, ledger: Ledger, seconds: float = SECONDS
) -> AsyncGenerator[None]:
    """Keep the gauges up to date while the block runs. `meter`: none when metrics are off."""
    task = asyncio.create_task(_Gauges(meter, client, task_queue, ledger).keep(seconds)) if meter else None
    try:
        yield
    finally:
        if task:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class _Gauges:
    def __init__(self, meter: MetricMeter, client: Client, task_queue: str, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self._gauges = {name: meter.create_gauge_float(name, text) for name, text in GAUGE_NAMES.items()}
        quoted = task_queue.replace("\\", "\\\\").replace("'", "\\'")
        self._open = f"WorkflowType = '{AGENT_RUN}' AND ExecutionStatus = 'Running' AND TaskQueue = '{quoted}'"

    async def keep(self, seconds: float) -> None:
        """Read, wait, and so on. What can't be read now keeps its last value; its time of reading shows that."""
        log = structlog.get_logger("remit.gauges")
        while True:
            try:
                self._show(await asyncio.to_thread(self._standing))
            except Exception as e:  # whatever it was: a worker goes on without its figures
                log.warning("the ledger's figures can't be read", reason=type(e).__name__)
            try:
                await self._count()
            except Exception as e:
                log.warning("open runs can't be counted", reason=type(e).__name__)
            await asyncio.sleep(seconds)

    def _standing(self) -> Standing:
        with self._ledger.reading() as connection:
            return standing(connection)

    def _set(self, name: str, value: float, **labels: str) -> None:
        self._gauges[name].set(value, labels)

    def _show(self, found: Standing) -> None:
        for state, (count, age) in found.open.items():
            self._set("remit_effects_open", count, state=state)
            self._set("remit_effects_open_age_seconds", age, state=state)
        self._set("remit_effects_duplicated", found.duplicated)
        self._set("remit_kill_epoch", found.epoch)
        self._set("remit_switches", found.kills, kind="kill")
        self._set("remit_switches", found.pauses, kind="pause")
        self._set("remit_kill_drill_last_timestamp_seconds", found.drilled_at)
        self._set("remit_kill_drill_effect_seconds", found.drill_seconds)
        self._set("remit_kill_drill_open_seconds", found.drilling_seconds)
        self._set("remit_traces_unsealed", found.unsealed[0])
        self._set("remit_traces_unsealed_age_seconds", found.unsealed[1])
        self._set("remit_observed_timestamp_seconds", time.time(), source="ledger")

    async def _count(self) -> None:
        waiting = f"{self._open} AND {REMIT_AWAITING_APPROVAL.name} = true"
        unreached = f"{self._open} AND {REMIT_STATUS.name} = 'waiting_for_provider'"
        for name, query in (
            ("remit_runs_open", self._open),
            ("remit_runs_awaiting_approval", waiting),
            ("remit_runs_waiting_for_provider", unreached),
        ):
            self._set(name, (await self._client.count_workflows(query, rpc_timeout=PATIENCE)).count)
        self._set("remit_observed_timestamp_seconds", time.time(), source="temporal")
