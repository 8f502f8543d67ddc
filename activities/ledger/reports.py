"""What a report is made of: the records of runs that ended in a period, and what goes with them. Reads only.

A run counts when it has ended, and with it its writes and what was said of it afterwards.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger import outcomes, proposals
from activities.ledger.records import HAPPENED
from activities.ledger.rows import Outcome, RunRecord
from activities.ledger.tables import effects, run_records
from policies.autonomy import Accepted

__all__ = ["Ended", "MovedSum", "agents", "ended"]


@dataclass(frozen=True)
class MovedSum:
    """What the writes of an agent's arm moved in one currency; `unknown` of them may not have happened."""

    agent: str
    arm: str
    currency: str
    cents: int
    writes: int
    unknown: int


@dataclass(frozen=True)
class Ended:
    """What ended in a period. `said` by run, `drafts` by agent."""

    runs: list[RunRecord]
    said: dict[str, Outcome]
    moved: list[MovedSum]
    drafts: dict[str, Accepted]


def agents(connection: Connection) -> set[str]:
    """The agents that any run was ever recorded of."""
    return {*connection.execute(sa.select(run_records.c.agent).distinct()).scalars()}


def ended(connection: Connection, since: int, until: int, agent: str | None = None) -> Ended:
    """All that ended after `since` and not after `until` (Unix milliseconds), oldest first; of one agent, or of all."""
    mine = sa.and_(run_records.c.recorded_at > since, run_records.c.recorded_at <= until)
    if agent is not None:
        mine = sa.and_(mine, run_records.c.agent == agent)
    query = sa.select(run_records).where(mine).order_by(run_records.c.recorded_at, run_records.c.run_id)
    # Each row is of our own table: checking them again would take longer than reading them.
    runs = [RunRecord.model_construct(None, **row) for row in connection.execute(query).mappings()]
    return Ended(
        runs=runs,
        said=outcomes.said_where(connection, mine),
        moved=_moved(connection, mine),
        drafts=proposals.accepted(connection, since),
    )


def _moved(connection: Connection, mine: sa.ColumnElement[bool]) -> list[MovedSum]:
    unknown = sa.case((effects.c.state == "indeterminate", 1), else_=0)
    query = (
        sa.select(
            run_records.c.agent,
            run_records.c.arm,
            effects.c.currency,
            sa.func.sum(effects.c.amount_cents),
            sa.func.count(),
            sa.func.sum(unknown),
        )
        .select_from(effects.join(run_records, effects.c.run_id == run_records.c.run_id))
        .where(mine, effects.c.state.in_(HAPPENED), effects.c.currency != "")
        .group_by(run_records.c.agent, run_records.c.arm, effects.c.currency)
        .order_by(run_records.c.agent, run_records.c.arm, effects.c.currency)
    )
    return [MovedSum(a, arm, cur, int(c), int(n), int(u)) for a, arm, cur, c, n, u in connection.execute(query)]
