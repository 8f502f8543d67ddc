"""Roots of runs in a ledger of each kind: numbered without a gap by however many keepers, and the queue of those to come."""

from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from activities.ledger import roots
from activities.ledger.rows import RootRow, ToSeal
from activities.ledger.store import MIGRATIONS, Ledger
from activities.ledger.tables import to_seal
from policies.canonical import sha256

HERE = "default"


def root(seq: int, previous: str, run_id: str, by: str = "", namespace: str = HERE) -> RootRow:
    return RootRow(
        namespace=namespace,
        seq=seq,
        run_id=run_id,
        workflow_id=f"wf-{run_id}",
        agent="helper",
        root="{}",
        digest=sha256(f"{seq}{previous}{run_id}{by}".encode()),
        previous=previous,
        signature="s",
        key_id="k",
        public_key="0" * 64,
        place=f"{run_id}.capsule.gz",
        lines=3,
        events=20,
        reason="\x00",
        sealed_at=seq,
    )


def seal(ledger: Ledger, run_id: str, by: str, namespace: str = HERE) -> bool:
    """What a keeper does once it has made a run ready; whether it was the one whose root counts."""
    while True:
        with ledger.reading() as connection:
            seq, previous = roots.last(connection, namespace)
        if roots.append(ledger, root(seq + 1, previous, run_id, by, namespace)):
            return True
        with ledger.reading() as connection:
            if roots.find(connection, run_id):
                return False


def test_keepers_side_by_side_make_one_chain(ledger: Ledger) -> None:
    """Four keepers seal the same thirty runs at once: each run once, no gap, no fork; another namespace counts for itself."""
    names = [f"run-{n}" for n in range(30)]

    def keeper(by: int) -> int:
        return sum(seal(ledger, name, str(by)) for name in names)

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(keeper, range(4))) == len(names)
    assert seal(ledger, "elsewhere", "", "other")
    with ledger.reading() as connection:
        found = list(roots.chain(connection, HERE))
        assert [row.seq for row in roots.chain(connection, "other")] == [1]
    assert [row.seq for row in found] == list(range(1, 31))
    assert [row.previous for row in found] == ["", *(row.digest for row in found[:-1])]
    assert sorted(row.run_id for row in found) == sorted(names)


def test_a_root_out_of_its_place_is_not_added(ledger: Ledger) -> None:
    """Not one that leaves a number out, nor one that names another root before it, which the database alone would take."""
    assert seal(ledger, "one", "")
    with ledger.reading() as connection:
        seq, previous = roots.last(connection, HERE)
    assert not roots.append(ledger, root(seq + 2, previous, "two", ""))
    assert not roots.append(ledger, root(seq + 1, sha256(b"another"), "two", ""))
    assert roots.append(ledger, root(seq + 1, previous, "two", ""))


def test_a_run_waits_once_until_it_is_sealed(ledger: Ledger) -> None:
    """It is found by its namespace, goes behind the others when it is put off, and is gone with its root."""
    with ledger.begin() as connection:
        assert roots.enqueue(connection, HERE, "one", "wf-one", "helper")
        assert not roots.enqueue(connection, HERE, "one", "wf-one", "helper")
        assert roots.enqueue(connection, HERE, "two", "wf-two", "helper")
        assert roots.enqueue(connection, "other", "three", "wf-three", "helper")
    first = look(ledger)
    assert {run.run_id for run in first} == {"one", "two"}
    with ledger.begin() as connection:
        assert roots.take(connection, "one") == 1
        roots.postpone(connection, first[0], "It\x00 hasn't closed yet.", counted=False)
        assert roots.take(connection, "two") == 1
        assert roots.take(connection, "two") == 2
    assert [(run.run_id, run.tries) for run in look(ledger)] == [("two", 2)]
    assert seal(ledger, "two", "")
    assert look(ledger) == []
    with ledger.begin() as connection:
        assert not roots.enqueue(connection, HERE, "two", "wf-two", "helper")
        assert roots.sealed(connection, ["one", "two", "four"]) == {"one", "two"}
        [row] = connection.execute(sa.select(to_seal).where(to_seal.c.run_id == "one")).mappings()
        assert (row["tries"], row["why"]) == (0, "It\ufffd hasn't closed yet.")
        assert row["due_at"] > row["queued_at"]


def test_runs_of_a_ledger_from_before_are_sealed_too(ledger: Ledger) -> None:
    """Every run that was recorded before there were roots waits for one after the upgrade, wherever it is looked for."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with ledger.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0011-1")
        then = sa.Table("run_records", sa.MetaData(), autoload_with=connection)  # columns have come since
        row = dict.fromkeys((c.name for c in then.columns if isinstance(c.type, sa.BigInteger)), 5)
        names = {c.name: False if isinstance(c.type, sa.Boolean) else "x" for c in then.columns if c.name not in row}
        connection.execute(sa.insert(then).values({**names, **row, "run_id": "old", "workflow_id": "wf"}))
    ledger.migrate()
    assert [(run.run_id, run.workflow_id, run.queued_at) for run in look(ledger)] == [("old", "wf", 5)]


def look(ledger: Ledger) -> list[ToSeal]:
    with ledger.reading() as connection:
        return roots.due(connection, HERE, 10)


def test_a_root_is_found_by_run_and_by_workflow(ledger: Ledger) -> None:
    """A workflow id that was used again names the newer run; an unknown one names none."""
    for seq, run in enumerate(("a", "b"), start=1):
        with ledger.reading() as connection:
            previous = roots.last(connection, HERE)[1]
        assert roots.append(ledger, root(seq, previous, run).model_copy(update={"workflow_id": "wf"}))
    with ledger.reading() as connection:
        found = [roots.find(connection, name) for name in ("a", "wf", "c")]
    assert [row.run_id if row else None for row in found] == ["a", "b", None]
