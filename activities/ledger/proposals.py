"""What people made of the proposals of agents that only draft: kept once each, and counted by agent."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger.rows import ProposalRecord
from activities.ledger.tables import proposals
from policies.autonomy import Accepted

__all__ = ["accepted", "keep", "of_run"]


def keep(connection: Connection, record: ProposalRecord) -> bool:
    """Keep what was decided. A second decision on the same action changes nothing: False.

    The first one is what people thought of the proposal. A second is asked for when sums have risen since.
    """
    same = sa.and_(proposals.c.run_id == record.run_id, proposals.c.action_digest == record.action_digest)
    if connection.execute(sa.select(proposals.c.run_id).where(same)).first():
        return False
    connection.execute(sa.insert(proposals).values(record.model_dump()))
    return True


def of_run(connection: Connection, run_id: str) -> list[ProposalRecord]:
    """What people made of a run's proposals, oldest decision first."""
    query = sa.select(proposals).where(proposals.c.run_id == run_id).order_by(proposals.c.decided_at, proposals.c.put_at)
    return [ProposalRecord.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def accepted(connection: Connection, since: int) -> dict[str, Accepted]:
    """By agent, what people made of the proposals on which they decided, or didn't in time, after `since` (Unix ms)."""
    query = (
        sa.select(proposals.c.agent, proposals.c.decision, sa.func.count())
        .where(proposals.c.decided_at > since)
        .group_by(proposals.c.agent, proposals.c.decision)
    )
    counts: dict[str, dict[str, int]] = {}
    for agent, decision, count in connection.execute(query):
        counts.setdefault(agent, {})["accepted" if decision == "approved" else decision] = count
    return {agent: Accepted.model_validate(found) for agent, found in counts.items()}
