"""Judges a chaos run: by the business's own tables first, then by what the ledger and the histories say of them. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from activities.ledger.rows import Effect
from tests.chaos.plan import Identity, Job

__all__ = ["Ended", "Evidence", "Findings", "Written", "judge"]


@dataclass(frozen=True)
class Written:
    """One row of a vendor: what it is, and under which key it was asked for. `at` in Unix seconds; 0 where nobody noted it."""

    identity: Identity
    key: str
    at: float = 0


@dataclass(frozen=True)
class Ended:
    """How a run ended, and what it knows of its writes, by key.

    Attributes:
        acknowledged: when its kill was acknowledged, in Unix seconds; None when it wasn't killed.
    """

    status: str
    stopped_by: str = ""
    writes: Mapping[str, str] = field(default_factory=dict[str, str])
    acknowledged: int | None = None


@dataclass(frozen=True)
class Evidence:
    """What is left when everything has settled. `ended` lacks the runs that are still open."""

    written: Sequence[Written]
    ended: Mapping[str, Ended]
    effects: Sequence[Effect]


@dataclass
class Findings:
    """What isn't as it must be, each as a sentence; and how many writes are honestly unknown."""

    expected: int = 0
    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    unintended: list[str] = field(default_factory=list[str])
    disagree: list[str] = field(default_factory=list[str])
    misended: list[str] = field(default_factory=list[str])
    open: list[str] = field(default_factory=list[str])
    indeterminate: int = 0

    @property
    def failures(self) -> list[str]:
        kinds = ("lost", "doubled", "unintended", "disagree", "misended", "open")
        return [f"{kind}: {what}" for kind in kinds for what in getattr(self, kind)]


def judge(jobs: Iterable[Job], evidence: Evidence) -> Findings:
    """What is wrong with `evidence`, given what `jobs` were to bring about."""
    found, jobs = Findings(), tuple(jobs)
    _effects(jobs, evidence, found)
    effects = {e.idempotency_key: e for e in evidence.effects}
    for row in evidence.written:
        _row(row, effects.get(row.key), evidence, found)
    once = Counter(row.key for row in evidence.written)
    done = [e for e in evidence.effects if e.state == "done"]
    found.disagree += [f"{once[e.idempotency_key]} rows, done in the ledger: {e}" for e in done if once[e.idempotency_key] != 1]
    for job in jobs:
        _run(job, [e for e in evidence.effects if e.workflow_id == job.id], evidence, found)
    return found


def _effects(jobs: Sequence[Job], evidence: Evidence, found: Findings) -> None:
    """The tables against the plan, whatever anybody says."""
    rows = Counter(row.identity for row in evidence.written)
    expected = {identity: job for job in jobs for identity in job.expected}
    allowed = {identity for job in jobs for identity in job.allowed}
    found.expected = len(expected)
    for identity, job in expected.items():
        end = evidence.ended.get(job.id)
        if not rows[identity] and not (job.unsure and end and end.stopped_by == "outcome_indeterminate"):
            found.lost.append(f"{identity} of `{job.id}`, which ended {end}")
    for identity, count in rows.items():
        if count > 1:
            found.doubled.append(f"{identity} {count} times")
        if identity not in expected and identity not in allowed:
            found.unintended.append(f"{identity}")


def _row(row: Written, effect: Effect | None, evidence: Evidence, found: Findings) -> None:
    if effect is None or effect.state not in ("done", "indeterminate"):
        found.disagree.append(f"{row} is `{effect.state if effect else 'unknown'}` in the ledger")
        return
    end = evidence.ended.get(effect.workflow_id)
    # What had been reserved before the kill may arrive after it; what arrives must have been reserved before.
    if end and end.acknowledged is not None and effect.reserved_at // 1000 > end.acknowledged:
        found.unintended.append(f"{row.identity} was reserved after the kill of `{effect.workflow_id}` was acknowledged")


def _run(job: Job, effects: Sequence[Effect], evidence: Evidence, found: Findings) -> None:
    end = evidence.ended.get(job.id)
    if end is None:
        found.open.append(f"`{job.id}`")
        return
    fine = {"completed"} | ({"killed"} if job.killed else set[str]())
    unknown = {key for key, status in end.writes.items() if status == "indeterminate"}
    if end.status not in fine and not (job.unsure and unknown and end.stopped_by == "outcome_indeterminate"):
        found.misended.append(f"`{job.id}` ended {end}")
    found.indeterminate += len(unknown)
    done = {key for key, status in end.writes.items() if status == "done"}
    states = {e.idempotency_key: e.state for e in effects}
    recorded = {key for key, state in states.items() if state == "done"}
    # A worker that wakes up too late for its run tells the ledger alone what it had done.
    if done - recorded or recorded - done - unknown:
        found.disagree.append(f"`{job.id}` knows of {end.writes}, the ledger of {states}")
    if unfinished := [e for e in effects if e.state in ("reserved", "sent")]:
        found.disagree.append(f"`{job.id}` is closed, the ledger has {unfinished}")
    if any(e.state == "indeterminate" and e.idempotency_key not in unknown for e in effects):
        found.disagree.append(f"`{job.id}` doesn't know that {states} are unknown")
