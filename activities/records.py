"""What a run leaves outside its history: the row of its kill, its finished parts in storage, records of
what people made of its proposals and of its end."""

import asyncio
import json

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.failures import ledger_needed
from activities.ledger import proposals, records, roots
from activities.ledger.rows import ProposalRecord, RunRecord
from activities.ledger.store import Ledger, run_scope
from activities.runs import Runs
from activities.segments import write_segment
from activities.storage import Storage
from policies.errors import RemitError
from policies.switches import subject_tag
from workflows.messages import Archive, KillState, Segment, StoredSegment, WriteKill
from workflows.records import ProposalEnd, RunEnd

__all__ = ["RecordActivities"]

LARGEST = 2**63 - 1


class RecordActivities:
    def __init__(self, ledger: Ledger, runs: Runs, storage: Storage) -> None:
        self._ledger = ledger
        self._runs = runs
        self._storage = storage

    @activity.defn(name="write_kill")
    async def write_kill(self, kill: WriteKill) -> KillState:
        """G4: after this returns, no reservation of this run can succeed. Safe to repeat."""
        at = await asyncio.to_thread(self._ledger.engage, run_scope(kill.run_id), kill.reason, kill.by)
        return KillState(engaged=True, reason=kill.reason, by=kill.by, acknowledged_at=at // 1000)

    @activity.defn(name="archive")
    async def archive(self, wanted: Archive) -> Segment:
        """Store a part of the run's transcript, with the calls and approvals of that time. Safe to repeat.

        The content comes from this worker's memory or from the run's queries, so history doesn't hold it again.
        """
        texts, head = await self._runs.part(wanted.capsule, wanted.cursor, wanted.transcript, wanted.since, wanted.until)
        run = await self._runs.summary()
        approvals = {a.request.approval_id: a for a in run.approvals}
        script = None
        if wanted.since == 0:
            _, script = await self._runs.transcript(wanted.capsule, wanted.cursor, wanted.transcript, scripted=True)
        stored = StoredSegment(
            messages=tuple(texts),
            calls=run.calls[: wanted.calls],
            approvals=tuple(approvals[name] for name in wanted.approvals),
            script=script,
        )
        try:
            key = await write_segment(self._storage, stored)
        except RemitError as e:
            raise ApplicationError(e.message, type=e.code) from None  # retried: nothing is lost meanwhile
        return Segment(key=key, since=wanted.since, until=wanted.until, head=head, calls=wanted.calls)

    @activity.defn(name="record_run")
    async def record_run(self, end: RunEnd) -> bool:
        """Keep how the run ended, and say whether it wasn't kept yet; it waits to be sealed from then on. Safe to repeat."""
        with ledger_needed():
            return await asyncio.to_thread(self._keep, end, activity.info().namespace)

    @activity.defn(name="record_proposal")
    async def record_proposal(self, end: ProposalEnd) -> bool:
        """Keep what people made of a proposal, and say whether it wasn't kept yet. Safe to repeat."""
        times = {"put_at": end.put_at * 1000, "decided_at": end.decided_at * 1000}
        record = ProposalRecord.model_validate({**end.model_dump(), **times, "by": ",".join(end.by)})
        with ledger_needed():
            return await asyncio.to_thread(self._keep_proposal, record)

    def _keep_proposal(self, record: ProposalRecord) -> bool:
        with self._ledger.begin() as connection:
            return proposals.keep(connection, record)

    def _keep(self, end: RunEnd, namespace: str) -> bool:
        same = end.model_dump(exclude={"subject", "started_at", "closed_at", "tally", "arm"})
        # A run must be able to end, whatever numbers a vendor gave: no database holds a larger one.
        same.update({name: min(value, LARGEST) for name, value in same.items() if type(value) is int})
        tally = end.tally.model_dump(exclude={"first_write_at", "waits", "reasons"})
        first = end.tally.first_write_at
        record = RunRecord(
            **same,
            **tally,
            waits=json.dumps(end.tally.waits) if end.tally.waits else "",
            reasons=json.dumps(end.tally.reasons, sort_keys=True) if end.tally.reasons else "",
            arm=end.arm or "agent",
            subject_tag=subject_tag(end.subject) if end.subject else "",
            started_at=end.started_at * 1000,
            closed_at=end.closed_at * 1000,
            first_response_ms=(first - end.started_at) * 1000 if first else None,
        )
        with self._ledger.begin() as connection:
            roots.enqueue(connection, namespace, end.run_id, end.workflow_id, end.agent)
            return records.keep(connection, record)
