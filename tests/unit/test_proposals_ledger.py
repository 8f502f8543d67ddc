"""Proposals in a ledger of each kind: kept once, counted by agent and time."""

import sqlalchemy as sa

from activities.ledger import proposals
from activities.ledger.rows import ProposalRecord
from activities.ledger.store import Ledger
from activities.ledger.tables import metadata
from policies.autonomy import Accepted


def record(n: int, decision: str, agent: str = "helper", at: int = 2000) -> ProposalRecord:
    return ProposalRecord(
        run_id="run-1",
        action_digest=f"sha256:{n:064}",
        workflow_id="wf-1",
        agent=agent,
        tool="tag_ticket@1",
        put_at=1000,
        decided_at=at,
        decision=decision,
        by="ana@example.com",
    )


def keep(ledger: Ledger, *records: ProposalRecord) -> list[bool]:
    with ledger.begin() as connection:
        return [proposals.keep(connection, r) for r in records]


def test_the_migration_makes_the_table_as_it_is_declared(ledger: Ledger) -> None:
    """Columns, their order and whether they may be empty, the key and the indexes."""
    declared = metadata.tables["proposals"]
    with ledger.begin() as connection:
        seen = sa.inspect(connection)
        assert [(c["name"], c["nullable"]) for c in seen.get_columns("proposals")] == [
            (c.name, c.nullable) for c in declared.columns
        ]
        assert seen.get_pk_constraint("proposals")["constrained_columns"] == [c.name for c in declared.primary_key]
        assert {i["name"] for i in seen.get_indexes("proposals")} == {i.name for i in declared.indexes}


def test_the_first_decision_on_an_action_stays(ledger: Ledger) -> None:
    """A worker that died after it wrote the row writes it again, and a later decision on the same action counts for nothing."""
    first = record(1, "approved")
    assert keep(ledger, first, first, record(1, "rejected", at=3000)) == [True, False, False]
    with ledger.reading() as connection:
        assert proposals.of_run(connection, "run-1") == [first]
        assert proposals.of_run(connection, "run-2") == []


def test_proposals_are_counted_by_agent_and_from_a_time_on(ledger: Ledger) -> None:
    """Each kind of fate by itself; what was decided before that time doesn't count."""
    keep(
        ledger,
        *(record(n, "approved") for n in range(3)),
        record(3, "edited"),
        record(4, "rejected"),
        record(5, "expired"),
        record(6, "rejected", at=1500),
        record(7, "approved", agent="other"),
    )
    with ledger.reading() as connection:
        assert proposals.accepted(connection, 1500) == {
            "helper": Accepted(accepted=3, edited=1, rejected=1, expired=1),
            "other": Accepted(accepted=1),
        }
        assert proposals.accepted(connection, 2000) == {}
