"""Signed roots of runs in the ledger, a chain without gaps for each namespace, and the queue of runs that have none yet.

Each function works in the transaction of its caller. None of them locks `control`: sealing holds up no write and no kill.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from activities.ledger.decisions import keep
from activities.ledger.rows import DecisionRow, RootRow, ToSeal
from activities.ledger.store import Ledger
from activities.ledger.switches import now_ms, text_of
from activities.ledger.tables import to_seal, trace_roots

__all__ = ["append", "chain", "due", "enqueue", "find", "last", "postpone", "sealed", "take"]

_OLD, _LATEST_MS = 2, 60_000
CHUNK = 500


def enqueue(connection: Connection, namespace: str, run_id: str, workflow_id: str, agent: str) -> bool:
    """Let the run be sealed; False if it waits already, or was sealed."""
    for table in (to_seal, trace_roots):
        if connection.execute(sa.select(table.c.run_id).where(table.c.run_id == run_id)).first():
            return False
    now = now_ms()
    row = ToSeal(namespace=namespace, run_id=run_id, workflow_id=workflow_id, agent=agent, queued_at=now, due_at=now)
    connection.execute(sa.insert(to_seal).values(row.model_dump()))
    return True


def due(connection: Connection, namespace: str, limit: int) -> list[ToSeal]:
    """Runs whose turn it is, those that wait longest first. One indexed look, however many runs there were."""
    # Those from before there was this queue don't say where they ran: in the one namespace of this ledger.
    mine = sa.and_(to_seal.c.namespace.in_((namespace, "")), to_seal.c.due_at <= now_ms())
    query = sa.select(to_seal).where(mine).order_by(to_seal.c.due_at, to_seal.c.run_id).limit(limit)
    return [ToSeal.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def take(connection: Connection, run_id: str) -> int:
    """Count one more try, before it is made: one that takes its worker with it counts too. Returns how many that are."""
    connection.execute(sa.update(to_seal).where(to_seal.c.run_id == run_id).values(tries=to_seal.c.tries + 1))
    return int(connection.execute(sa.select(to_seal.c.tries).where(to_seal.c.run_id == run_id)).scalar() or 0)


def postpone(connection: Connection, run: ToSeal, why: str, *, counted: bool) -> None:
    """Put the run behind the others: for half as long as it has waited, a minute at most.

    Args:
        why: what stands in the way, for people.
        counted: whether the try counts; one that failed for something else than the run doesn't.
    """
    now = now_ms()
    later = now + min(max((now - run.queued_at) // _OLD, 500), _LATEST_MS)
    tries = to_seal.c.tries if counted else to_seal.c.tries - 1
    values = {"due_at": later, "tries": tries, "why": text_of(why)[:500]}
    connection.execute(sa.update(to_seal).where(to_seal.c.run_id == run.run_id).values(values))


def last(connection: Connection, namespace: str) -> tuple[int, str]:
    """Number and digest of the namespace's newest root; 0 and nothing when there is none."""
    query = sa.select(trace_roots.c.seq, trace_roots.c.digest).where(trace_roots.c.namespace == namespace)
    row = connection.execute(query.order_by(trace_roots.c.seq.desc()).limit(1)).first()
    return (int(row[0]), str(row[1])) if row else (0, "")


def append(ledger: Ledger, row: RootRow, rows: Iterable[DecisionRow] = ()) -> bool:
    """Add a root to its chain, and the run's judgements, in one transaction. Blocking.

    Returns:
        Whether it was added. Not when somebody else was faster: the number is taken, or the run was sealed. So two that seal
        at once never make a gap, a fork or a second root of a run, and nobody waits for a lock while a file is written.
    """
    with suppress(IntegrityError), ledger.begin() as connection:
        seq, digest = last(connection, row.namespace)
        if (row.seq, row.previous) != (seq + 1, digest):
            return False
        connection.execute(sa.insert(trace_roots).values({**row.model_dump(), "reason": text_of(row.reason)}))
        connection.execute(sa.delete(to_seal).where(to_seal.c.run_id == row.run_id))
        keep(connection, rows)
        return True
    return False


def sealed(connection: Connection, run_ids: Sequence[str]) -> set[str]:
    """Those of `run_ids` that have a root, or wait for one."""
    found: set[str] = set()
    for start in range(0, len(run_ids), CHUNK):
        some = run_ids[start : start + CHUNK]
        for table in (trace_roots, to_seal):
            found |= set(connection.execute(sa.select(table.c.run_id).where(table.c.run_id.in_(some))).scalars())
    return found


def find(connection: Connection, name: str) -> RootRow | None:
    """The root of the run with this run id, or else the newest of those with this workflow id."""
    for column in (trace_roots.c.run_id, trace_roots.c.workflow_id):
        query = sa.select(trace_roots).where(column == name).order_by(trace_roots.c.sealed_at.desc(), trace_roots.c.seq.desc())
        if row := connection.execute(query.limit(1)).mappings().first():
            return RootRow.model_validate(dict(row))
    return None


def chain(connection: Connection, namespace: str) -> Generator[RootRow]:
    """All roots of the namespace, oldest first; however many there are, only some of them are in memory at once."""
    query = sa.select(trace_roots).where(trace_roots.c.namespace == namespace).order_by(trace_roots.c.seq)
    for row in connection.execution_options(yield_per=CHUNK).execute(query).mappings():
        yield RootRow.model_validate(dict(row))
