"""`write_kill`: the durable off switch of a run."""

import asyncio

from temporalio import activity

from activities.ledger.store import Ledger, run_scope
from workflows.messages import KillState, WriteKill

__all__ = ["RecordActivities"]


class RecordActivities:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @activity.defn(name="write_kill")
    async def write_kill(self, kill: WriteKill) -> KillState:
        """G4: after this returns, no reservation of this run can succeed. Safe to repeat."""
        at = await asyncio.to_thread(self._ledger.engage, run_scope(kill.run_id), kill.reason, kill.by)
        return KillState(engaged=True, reason=kill.reason, by=kill.by, acknowledged_at=at // 1000)
