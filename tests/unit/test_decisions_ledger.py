"""Judgements of actions in a ledger of each kind: kept once, streamed by time and agent."""

import sqlalchemy as sa

from activities.ledger import decisions
from activities.ledger.rows import DecisionRow
from activities.ledger.store import Ledger
from activities.ledger.tables import metadata


def row(n: int, *, agent: str = "helper", at: int = 2000, index: int = 0) -> DecisionRow:
    return DecisionRow(
        key=decisions.decision_key(f"run-{n}", 1, index, 0),
        run_id=f"run-{n}",
        workflow_id=f"wf-{n}",
        agent=agent,
        release="sha256:1",
        tool="request_refund@1",
        effect="write",
        risk="high",
        step=1,
        call_index=index,
        round=0,
        last=True,
        at=at,
        policy_name="refunds_v7",
        policy_digest="sha256:2",
        decision="allow",
        mode="live",
        amount_cents=2**40,
        currency="USD",
        facts='{"note": "\\u0000"}',
    )


def streamed(ledger: Ledger, since: int = 0, agent: str | None = None) -> list[str]:
    with ledger.reading() as connection:
        found = [str(run_id) for chunk in decisions.stream(connection, since, agent, ("run_id",)) for (run_id,) in chunk]
        assert decisions.count(connection, since, agent) == len(found)
    return found


def test_the_migration_makes_the_table_as_it_is_declared(ledger: Ledger) -> None:
    """Columns, their order and whether they may be empty, the key and the indexes."""
    declared = metadata.tables["decisions"]
    with ledger.begin() as connection:
        seen = sa.inspect(connection)
        assert [(c["name"], c["nullable"]) for c in seen.get_columns("decisions")] == [
            (c.name, c.nullable) for c in declared.columns
        ]
        assert seen.get_pk_constraint("decisions")["constrained_columns"] == ["key"]
        assert {i["name"] for i in seen.get_indexes("decisions")} == {i.name for i in declared.indexes}


def test_a_judgement_is_kept_once(ledger: Ledger) -> None:
    """Kept again, as a keeper that was cut off does, it changes nothing, and new ones beside it are kept all the same."""
    first = [row(1), row(1, index=1)]
    with ledger.begin() as connection:
        assert decisions.keep(connection, first) == 2
    with ledger.begin() as connection:
        changed = first[0].model_copy(update={"outcome": "refused"})
        assert decisions.keep(connection, [changed, first[1], row(1, index=2)]) == 1
        assert decisions.of_run(connection, "run-1") == [*first, row(1, index=2)]


def test_judgements_are_streamed_by_time_and_agent(ledger: Ledger) -> None:
    """Oldest first, only those after a time, only those of an agent, and chunk by chunk."""
    rows = [row(n, agent="helper" if n % 2 else "clerk", at=10_000 - n) for n in range(2 * decisions.CHUNK + 1)]
    with ledger.begin() as connection:
        assert decisions.keep(connection, rows) == len(rows)
    assert streamed(ledger) == [r.run_id for r in reversed(rows)]
    assert streamed(ledger, since=9_997) == ["run-2", "run-1", "run-0"]
    assert streamed(ledger, since=9_996, agent="helper") == ["run-3", "run-1"]
    with ledger.reading() as connection:
        assert [len(chunk) for chunk in decisions.stream(connection, 0)] == [decisions.CHUNK, decisions.CHUNK, 1]
