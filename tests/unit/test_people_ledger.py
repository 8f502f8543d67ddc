"""Enrolments and standings in a ledger of each kind: what is kept, for how long, and who had the last word."""

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from activities.ledger import people
from activities.ledger.store import Ledger
from activities.ledger.tables import enrolments, metadata


def test_the_migration_makes_the_tables_as_they_are_declared(ledger: Ledger) -> None:
    """Columns, their order and whether they may be empty, and the indexes."""
    with ledger.begin() as connection:
        seen = sa.inspect(connection)
        for name in ("enrolments", "standings"):
            declared = metadata.tables[name]
            assert [(c["name"], c["nullable"]) for c in seen.get_columns(name)] == [
                (c.name, c.nullable) for c in declared.columns
            ]
            assert {i["name"] for i in seen.get_indexes(name)} == {i.name for i in declared.indexes}


def test_an_enrolment_is_kept_a_month(ledger: Ledger) -> None:
    """The oldest are looked at no more, and go with the next login."""
    people.enrol(ledger, kid="old", x="x", id_token="t")
    with ledger.begin() as connection:
        connection.execute(sa.update(enrolments).values(enrolled_at=enrolments.c.enrolled_at - people.KEPT_MS - 1))
    assert people.enrolled(ledger) == []
    people.enrol(ledger, kid="new", x="x", id_token="t" * 20_000)
    assert [row.kid for row in people.enrolled(ledger)] == ["new"]
    assert people.tokens(ledger, ["new", "old", "none"]) == {"new": "t" * 20_000}
    with ledger.begin() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(enrolments)).scalar() == 1


def test_a_key_is_enrolled_once(ledger: Ledger) -> None:
    """Nobody can put another token under a key's name."""
    people.enrol(ledger, kid="k", x="x", id_token="mine")
    with pytest.raises(IntegrityError):
        people.enrol(ledger, kid="k", x="y", id_token="theirs")
    assert people.tokens(ledger, ["k"]) == {"k": "mine"}


def test_many_tokens_are_read_in_batches(ledger: Ledger) -> None:
    """More than a statement may have parameters for, were it one."""
    names = [f"k{n}" for n in range(people.BATCH + 1)]
    people.enrol(ledger, kid=names[-1], x="x", id_token="last")
    assert people.tokens(ledger, names) == {names[-1]: "last"}
    assert people.tokens(ledger, []) == {}


def test_the_last_word_counts(ledger: Ledger) -> None:
    """Suspended, restored and suspended again; one person's standing isn't another's."""
    for suspended in (True, False, True):
        assert people.set_standing(ledger, "ana", suspended=suspended, reason="r", by="cleo")
        assert people.suspended(ledger) == (frozenset({"ana"}) if suspended else frozenset())
    assert people.set_standing(ledger, "bo", suspended=True, reason="r", by="cleo")
    assert people.suspended(ledger) == {"ana", "bo"}
    assert {sub: s.suspended for sub, s in people.standing(ledger).items()} == {"ana": True, "bo": True}
