"""Judgements of actions in the ledger: kept once each, and streamed by time and agent. Each function works in the transaction
of its caller."""

import hashlib
from collections.abc import Generator, Iterable, Sequence
from itertools import islice

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger.rows import DecisionRow
from activities.ledger.switches import text_of
from activities.ledger.tables import decisions

__all__ = ["CHUNK", "count", "decision_key", "keep", "of_run", "stream"]

CHUNK = 2000
"""Rows that are in memory at once while others are streamed."""
_KEYS = 500  # SQLite takes so many parameters in any build


def decision_key(run_id: str, step: int, index: int, round: int) -> str:
    """What names a judgement for good, whoever writes it down."""
    return hashlib.sha256(f"{run_id}\n{step}\n{index}\n{round}".encode()).hexdigest()


def keep(connection: Connection, rows: Iterable[DecisionRow]) -> int:
    """Keep judgements, and say how many weren't kept yet. Safe to repeat: one that is there already stays as it is."""
    left, kept = iter(rows), 0
    while batch := {row.key: row for row in islice(left, _KEYS)}:
        there = connection.execute(sa.select(decisions.c.key).where(decisions.c.key.in_(batch))).scalars()
        new = [_values(batch[key]) for key in batch.keys() - set(there)]
        if new:
            connection.execute(sa.insert(decisions), new)
        kept += len(new)
    return kept


def _values(row: DecisionRow) -> dict[str, object]:
    # PostgreSQL stores no NUL, which a model's arguments may hold. JSON escapes it, and `text_of` drops what is left.
    return {**row.model_dump(), "facts": text_of(row.facts), "people": text_of(row.people)}


def stream(
    connection: Connection, since: int, agent: str | None = None, columns: Sequence[str] = tuple(DecisionRow.model_fields)
) -> Generator[Sequence[sa.Row[tuple[object, ...]]]]:
    """Chunks of the judgements made after `since` (Unix milliseconds), oldest first; of each, only `columns`.

    However many there are, only some of them are in memory at once.
    """
    query = sa.select(*(decisions.c[name] for name in columns)).where(_wanted(since, agent))
    found = connection.execution_options(yield_per=CHUNK).execute(query.order_by(decisions.c.at, decisions.c.key))
    yield from found.partitions()


def count(connection: Connection, since: int, agent: str | None = None) -> int:
    """How many judgements `stream` gives."""
    query = sa.select(sa.func.count()).select_from(decisions).where(_wanted(since, agent))
    return int(connection.execute(query).scalar_one())


def of_run(connection: Connection, run_id: str) -> list[DecisionRow]:
    """The judgements of one run, in the order of its calls."""
    order = (decisions.c.step, decisions.c.call_index, decisions.c.round)
    query = sa.select(decisions).where(decisions.c.run_id == run_id).order_by(*order)
    return [DecisionRow.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def _wanted(since: int, agent: str | None) -> sa.ColumnElement[bool]:
    newer = decisions.c.at > since
    return newer if agent is None else sa.and_(newer, decisions.c.agent == agent)
