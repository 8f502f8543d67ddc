"""Signing keys that people enrolled, and who is suspended. One function per transaction; times in Unix milliseconds."""

import time
from collections.abc import Sequence

import sqlalchemy as sa

from activities.ledger.rows import Enrolment, Standing
from activities.ledger.store import Ledger
from activities.ledger.tables import enrolments, standings

__all__ = ["KEPT_MS", "enrol", "enrolled", "set_standing", "standing", "suspended", "tokens", "withdraw"]

BATCH = 500  # databases limit the parameters of a statement
KEPT_MS = 30 * 24 * 60 * 60 * 1000
"""How long an enrolment is looked at: longer than a run may wait for people, so that what they signed can be verified."""


def enrol(ledger: Ledger, *, kid: str, x: str, id_token: str) -> None:
    """Add a signing key with the ID token that is bound to it; what is older than `KEPT_MS` goes."""
    now = _now()
    with ledger.begin() as connection:
        connection.execute(sa.delete(enrolments).where(enrolments.c.enrolled_at < now - KEPT_MS))
        row = {"kid": kid, "x": x, "id_token": id_token, "enrolled_at": now, "withdrawn_at": None}
        connection.execute(sa.insert(enrolments).values(row))


def enrolled(ledger: Ledger) -> list[Enrolment]:
    """Every enrolment that is looked at, oldest first, withdrawn ones included."""
    columns = (enrolments.c.kid, enrolments.c.x, enrolments.c.enrolled_at, enrolments.c.withdrawn_at)
    query = sa.select(*columns).where(enrolments.c.enrolled_at >= _now() - KEPT_MS)
    with ledger.begin() as connection:
        rows = connection.execute(query.order_by(enrolments.c.enrolled_at, enrolments.c.kid)).mappings()
        return [Enrolment.model_validate(dict(r)) for r in rows]


def tokens(ledger: Ledger, kids: Sequence[str]) -> dict[str, str]:
    """The ID tokens beside these keys."""
    found: dict[str, str] = {}
    for start in range(0, len(kids), BATCH):
        query = sa.select(enrolments.c.kid, enrolments.c.id_token).where(enrolments.c.kid.in_(kids[start : start + BATCH]))
        with ledger.begin() as connection:
            found |= {str(kid): str(token) for kid, token in connection.execute(query)}
    return found


def withdraw(ledger: Ledger, kid: str) -> bool:
    """End the use of a key from now on; what it signed before stands. Whether there was such a key in use."""
    with ledger.begin() as connection:
        mine = sa.update(enrolments).where(enrolments.c.kid == kid, enrolments.c.withdrawn_at.is_(None))
        return connection.execute(mine.values(withdrawn_at=_now())).rowcount == 1


def set_standing(ledger: Ledger, sub: str, *, suspended: bool, reason: str, by: str) -> bool:
    """Suspend a person, or restore them. Whether that changed anything; nothing is written when it doesn't."""
    with ledger.begin() as connection:
        if (sub in _suspended(connection)) == suspended:
            return False
        row = {"sub": sub, "suspended": suspended, "reason": reason, "set_by": by[:200], "set_at": _now()}
        connection.execute(sa.insert(standings).values(row))
        return True


def suspended(ledger: Ledger) -> frozenset[str]:
    """Who is suspended now."""
    with ledger.begin() as connection:
        return _suspended(connection)


def standing(ledger: Ledger) -> dict[str, Standing]:
    """The last word on each person of whom there is one."""
    last = sa.select(sa.func.max(standings.c.id)).group_by(standings.c.sub)
    with ledger.begin() as connection:
        rows = connection.execute(sa.select(standings).where(standings.c.id.in_(last))).mappings()
        found = [Standing.model_validate({k: v for k, v in r.items() if k != "id"}) for r in rows]
    return {row.sub: row for row in found}


def _suspended(connection: sa.Connection) -> frozenset[str]:
    last = sa.select(sa.func.max(standings.c.id)).group_by(standings.c.sub)
    query = sa.select(standings.c.sub).where(standings.c.id.in_(last), standings.c.suspended)
    return frozenset(str(sub) for sub in connection.execute(query).scalars())


def _now() -> int:
    return int(time.time() * 1000)
