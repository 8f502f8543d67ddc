"""The keeper of traces beside the ledger: finds runs that have closed, and has each sealed under the next number."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog
from temporalio import activity
from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError

from activities.failures import AWAY, ledger_needed
from activities.fleet import quoted
from activities.heartbeat import beating
from activities.ledger import roots
from activities.ledger.rows import DecisionRow, RootRow, ToSeal
from activities.ledger.store import Ledger
from activities.ledger.switches import now_ms
from policies.errors import RemitError, Unavailable
from workflows.keeper_messages import SealedRuns, SealRuns
from workflows.messages import AGENT_RUN, REMIT_AGENT

__all__ = ["OPEN", "TRIES", "KeeperActivities", "Prepare", "Prepared"]

POLL_SECONDS = 60
OFF_SECONDS = 600
BATCH = 20
"""How many runs one look brings, and after how many an attempt ends."""
TRIES = 4
"""After so many that failed for the run's own sake, it is sealed without its trace, and with the reason."""
LONGEST_MS = 7 * 24 * 60 * 60 * 1000
"""So long a run waits for what isn't there, such as a key that was retired; then it is sealed without its trace, too."""
RACES = 20
PAGE = 200
OPEN = "It hasn't closed yet."
LOST = "The worker was lost each time that its trace was made."
_LOG = structlog.get_logger("remit.keeper")


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its number.

    Attributes:
        rows: its judgements.
        seal: signs its root under a number and the digest of the root before, and keeps the capsule. Raises `Unavailable`.
    """

    rows: Sequence[DecisionRow]
    seal: Callable[[int, str], Awaitable[RootRow]]


class Prepare(Protocol):
    """Makes all that is sealed of a run but its number."""

    async def __call__(self, run: ToSeal, reason: str) -> Prepared | None:
        """Args:
            reason: why there will be no trace; empty if there is to be one.

        Returns:
            None for a run that hasn't closed.

        Raises:
            Unavailable: something that it needs isn't there now, which isn't the run's fault.
            RemitError: the run can't be traced.
        """
        ...


class KeeperActivities:
    def __init__(self, ledger: Ledger, client: Client, task_queue: str, prepare: Prepare, seconds: float) -> None:
        """`seconds`: how often to look; with 0 nothing is sealed."""
        self._ledger = ledger
        self._client = client
        self._queue = task_queue
        self._prepare = prepare
        self._seconds = seconds

    @activity.defn(name="seal_runs")
    async def seal_runs(self, wanted: SealRuns) -> SealedRuns:
        """Seal runs that have closed, or wait a minute for some. Safe to repeat, and to be cut off at any point.

        A worker that stops ends the wait at once, and one run at most is sealed to its end.
        """
        if not self._seconds:
            return SealedRuns(sealed=0, again_seconds=OFF_SECONDS)
        with ledger_needed():
            async with beating():
                found = await self._sweep(wanted.since) if wanted.sweep else 0
                return SealedRuns(sealed=await self._serve(), found=found)

    async def _serve(self) -> int:
        loop = asyncio.get_running_loop()
        end, sealed = loop.time() + POLL_SECONDS, 0
        while True:
            for run in await asyncio.to_thread(self._due):
                if activity.is_worker_shutdown():
                    return sealed
                sealed += await self._seal(run)
            if sealed >= BATCH or loop.time() > end:
                return sealed
            with suppress(TimeoutError):
                await asyncio.wait_for(activity.wait_for_worker_shutdown(), self._seconds)
            if activity.is_worker_shutdown():
                return sealed

    def _due(self) -> list[ToSeal]:
        with self._ledger.reading() as connection:
            return roots.due(connection, self._client.namespace, BATCH)

    async def _seal(self, run: ToSeal) -> bool:
        """Whether the run was sealed. What goes wrong with one puts it off, and never stops the others."""
        tries = await asyncio.to_thread(self._take, run)
        given_up = tries > TRIES or now_ms() - run.queued_at > LONGEST_MS
        reason = run.why.removeprefix(OPEN) or LOST if given_up else ""
        try:
            prepared = await self._prepare(run, reason)
            if prepared is None:
                await asyncio.to_thread(self._postpone, run, OPEN, counted=False)
                return False
            return await self._append(run, prepared)
        except AWAY:
            raise
        except (Unavailable, RPCError) as e:
            why = e.message
            await asyncio.to_thread(self._postpone, run, why, counted=False)
        except Exception as e:
            why = e.message if isinstance(e, RemitError) else f"Making its trace failed with `{type(e).__name__}`."
            await asyncio.to_thread(self._postpone, run, why, counted=True)
            if not isinstance(e, RemitError):
                _LOG.exception("this run can't be sealed", workflow_id=run.workflow_id, run_id=run.run_id, tries=tries)
                return False
        _LOG.warning("this run can't be sealed now", workflow_id=run.workflow_id, run_id=run.run_id, tries=tries, reason=why)
        return False

    def _take(self, run: ToSeal) -> int:
        with self._ledger.begin() as connection:
            return roots.take(connection, run.run_id)

    def _postpone(self, run: ToSeal, why: str, *, counted: bool) -> None:
        with self._ledger.begin() as connection:
            roots.postpone(connection, run, why, counted=counted)

    async def _append(self, run: ToSeal, prepared: Prepared) -> bool:
        """Give the run the next number. Who is slower than another keeper signs again, for the number after that."""
        for _ in range(RACES):
            seq, previous = await asyncio.to_thread(self._last)
            row = await prepared.seal(seq + 1, previous)
            if await asyncio.to_thread(roots.append, self._ledger, row, prepared.rows):
                return True
            if await asyncio.to_thread(self._sealed, run):
                return False
        raise Unavailable("Others were faster each time.")

    def _last(self) -> tuple[int, str]:
        with self._ledger.reading() as connection:
            return roots.last(connection, self._client.namespace)

    def _sealed(self, run: ToSeal) -> bool:
        with self._ledger.reading() as connection:
            return roots.find(connection, run.run_id) is not None

    # ---- runs that nobody recorded ----------------------------------------------------------------------------------

    async def _sweep(self, since: int) -> int:
        """Find what closed after `since` (Unix seconds) and recorded nothing: it was terminated, or timed out."""
        after = datetime.fromtimestamp(since, UTC).isoformat()
        closed = f"CloseTime >= '{after}' AND ExecutionStatus != 'ContinuedAsNew'"
        query = f"WorkflowType = '{AGENT_RUN}' AND TaskQueue = {quoted(self._queue)} AND {closed}"
        found, page = 0, list[WorkflowExecution]()
        async for one in self._client.list_workflows(query, page_size=PAGE):
            page.append(one)
            if len(page) == PAGE:
                found += await self._enqueue(page)
                page = []
        return found + await self._enqueue(page)

    async def _enqueue(self, closed: Sequence[WorkflowExecution]) -> int:
        known = await asyncio.to_thread(self._known, [one.run_id for one in closed])
        found: list[tuple[WorkflowExecution, str]] = []
        for one in closed:
            if one.run_id not in known:
                with suppress(RPCError):  # it is past retention by now
                    handle = self._client.get_workflow_handle(one.id, run_id=one.run_id)
                    found.append((one, (await handle.describe()).raw_info.first_run_id or one.run_id))
        return await asyncio.to_thread(self._queued, found) if found else 0

    def _known(self, run_ids: Sequence[str]) -> set[str]:
        with self._ledger.reading() as connection:
            return roots.sealed(connection, run_ids)

    def _queued(self, found: Sequence[tuple[WorkflowExecution, str]]) -> int:
        with self._ledger.begin() as connection:
            return sum(
                roots.enqueue(
                    connection, self._client.namespace, first, one.id, one.typed_search_attributes.get(REMIT_AGENT) or ""
                )
                for one, first in found
            )
