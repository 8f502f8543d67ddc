"""Records of runs in the ledger: kept once each, and read by agent. Each function works in the transaction of its caller."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger.rows import EffectState, RunRecord
from activities.ledger.switches import now_ms
from activities.ledger.tables import effects, run_records

__all__ = ["HAPPENED", "keep", "of_agent"]

HAPPENED: tuple[EffectState, ...] = ("sent", "done", "indeterminate")
"""States of effects that happened, or may have."""


def keep(connection: Connection, record: RunRecord) -> bool:
    """Keep the record of a run, with what its writes moved. A second one for the same run changes nothing: False."""
    if connection.execute(sa.select(run_records.c.run_id).where(run_records.c.run_id == record.run_id)).first():
        return False
    moved = connection.execute(
        sa.select(sa.func.coalesce(sa.func.sum(effects.c.amount_cents), 0)).where(
            effects.c.run_id == record.run_id, effects.c.state.in_(HAPPENED)
        )
    ).scalar_one()
    kept = record.model_copy(update={"moved_cents": int(moved), "recorded_at": now_ms()})
    connection.execute(sa.insert(run_records).values(kept.model_dump()))
    return True


def of_agent(connection: Connection, agent: str, since: int) -> Sequence[RunRecord]:
    """The records of an agent's runs that were written after `since` (Unix milliseconds), oldest first."""
    query = (
        sa.select(run_records)
        .where(run_records.c.agent == agent, run_records.c.recorded_at > since)
        .order_by(run_records.c.recorded_at, run_records.c.run_id)
    )
    return [RunRecord.model_validate(dict(row)) for row in connection.execute(query).mappings()]
