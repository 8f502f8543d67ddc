"""Off switches and pauses in the ledger: set, released, looked at. Each function works in the transaction of its caller.

Whoever sets or releases one locks the row of `control` first, as each reservation does: so their order is total (G4).
"""

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger.rows import Logged, Switch
from activities.ledger.tables import control, effects, kill_switches, pauses, switch_log
from policies.models import RISKS
from policies.switches import Scope

__all__ = [
    "IN_FLIGHT",
    "covering",
    "current",
    "engage",
    "in_flight",
    "lock",
    "log",
    "logged",
    "newest",
    "now_ms",
    "pause",
    "release",
    "reserved_since",
    "resume",
    "text_of",
    "within",
]

IN_FLIGHT = 100
"""How many effects a report follows by their keys; it counts all of them."""
KILL, PAUSE = 0, 1


def _covering(kind: int, table: sa.Table) -> sa.Select[int, Any, Any, Any, Any, Any]:
    columns = (table.c.scope, table.c.reason, table.c.set_by, table.c.epoch, table.c.set_at)
    return sa.select(sa.literal(kind).label("kind"), *columns).where(table.c.scope.in_(sa.bindparam("scopes", expanding=True)))


# What each write needs is built once: SQLAlchemy takes longer to put a query together than SQLite to answer it.
COVERING = sa.union_all(_covering(KILL, kill_switches), _covering(PAUSE, pauses))


def lock(connection: Connection) -> int:
    """Take this transaction's place in the order of reservations and switches; returns the epoch."""
    return int(connection.execute(sa.select(control.c.epoch).with_for_update()).scalar_one())


def engage(connection: Connection, scope: str, reason: str, by: str, *, command: str = "", detail: str = "") -> Switch:
    """Set an off switch. Setting it again keeps the first, and says so by its epoch."""
    return _set(
        connection, kill_switches, scope, reason, by, "drill" if scope.startswith("drill:") else "kill", command, detail
    )


def pause(connection: Connection, scope: str, reason: str, by: str, *, command: str = "") -> Switch:
    """Pause what is in `scope`. Pausing it again keeps the first."""
    return _set(connection, pauses, scope, reason, by, "pause", command, "")


def release(connection: Connection, scope: str, reason: str, by: str, *, command: str = "", detail: str = "") -> int | None:
    """Take an off switch away. Returns the epoch of the release; None if there was none."""
    action = "drilled" if scope.startswith("drill:") else "unkill"
    return _unset(connection, kill_switches, scope, reason, by, action, command, detail)


def resume(connection: Connection, scope: str, reason: str, by: str, *, command: str = "") -> int | None:
    """End a pause. Returns the epoch of its end; None if there was none."""
    return _unset(connection, pauses, scope, reason, by, "resume", command, "")


def covering(connection: Connection, scopes: Sequence[str]) -> tuple[Switch | None, Switch | None]:
    """The off switch and the pause that cover one of `scopes`; one that ends runs before one that only refuses calls."""
    killed: list[Switch] = []
    paused: list[Switch] = []
    for row in connection.execute(COVERING, {"scopes": list(scopes)}).mappings():
        found = Switch.model_validate({k: v for k, v in row.items() if k != "kind"})
        (killed if row["kind"] == KILL else paused).append(found)
    first = min(killed, key=lambda s: (not Scope.parse(s.scope).ends_runs, s.epoch), default=None)
    return first, min(paused, key=lambda s: s.epoch, default=None)


def current(connection: Connection, *, paused: bool = False) -> list[Switch]:
    """All that are set, oldest first."""
    table = pauses if paused else kill_switches
    return [Switch.model_validate(dict(row)) for row in connection.execute(sa.select(table).order_by(table.c.epoch)).mappings()]


def newest(connection: Connection, count: int, *, paused: bool = False) -> tuple[list[Switch], int]:
    """The newest of those that are set, runs left out; and how many there are in all."""
    table = pauses if paused else kill_switches
    total = int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
    query = sa.select(table).where(table.c.scope.not_like("run:%")).order_by(table.c.epoch.desc()).limit(count)
    return [Switch.model_validate(dict(row)) for row in connection.execute(query).mappings()], total


def logged(connection: Connection, *, command: str | None = None, scope: str | None = None, since: int = 0) -> list[Logged]:
    """What was done to switches, oldest first; only by this command, only to this scope, only from this epoch on."""
    query = sa.select(switch_log).where(switch_log.c.epoch >= since).order_by(switch_log.c.id)
    if command is not None:
        query = query.where(switch_log.c.command == command)
    if scope is not None:
        query = query.where(switch_log.c.scope == scope)
    return [Logged.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def log(
    connection: Connection, *, command: str, action: str, scope: str, reason: str, by: str, epoch: int, detail: str = ""
) -> None:
    """Add a line to the log."""
    row = {"command": command, "action": action, "scope": scope, "reason": text_of(reason), "by": text_of(by)[:200]}
    connection.execute(sa.insert(switch_log).values({**row, "epoch": epoch, "at": now_ms(), "detail": detail}))


def within(scope: Scope) -> sa.ColumnElement[bool]:
    """Which effects `scope` covers."""
    scope = scope.played
    match scope.kind:
        case "run":
            return effects.c.run_id == scope.value
        case "agent":
            return effects.c.agent == scope.value
        case "tool":
            return effects.c.tool.startswith(f"{scope.value}@", autoescape=True)
        case "risk":
            # Effects from before the ledger knew their risk are covered: better one too many in a report than one too few.
            return effects.c.risk.in_(("", *RISKS[next(i for i, r in enumerate(RISKS) if r == scope.value) :]))
        case "subject":
            return effects.c.subject == scope.value
        case _:
            return sa.true()


def in_flight(connection: Connection, scope: Scope) -> tuple[list[str], int]:
    """Keys of effects that are reserved or sent, oldest first and `IN_FLIGHT` at most; and how many there are."""
    where = sa.and_(effects.c.state.in_(("reserved", "sent")), within(scope))
    # One statement: effects settle meanwhile, and PostgreSQL shows each statement what is so by then.
    found = sa.select(effects.c.idempotency_key, sa.func.count().over()).where(where).order_by(effects.c.reserved_at)
    rows = connection.execute(found.limit(IN_FLIGHT)).all()
    return [str(key) for key, _ in rows], int(rows[0][1]) if rows else 0


def reserved_since(connection: Connection, scope: Scope, epoch: int) -> int:
    """How many effects of `scope` were reserved after the switch of `epoch` and before it was released. G4: must be 0."""
    released = sa.select(sa.func.min(switch_log.c.epoch)).where(
        switch_log.c.scope == str(scope), switch_log.c.action == "unkill", switch_log.c.epoch > epoch
    )
    until = connection.execute(released).scalar()
    where = sa.and_(within(scope), effects.c.epoch >= epoch)
    if until is not None:
        where = sa.and_(where, effects.c.epoch < until)
    return int(connection.execute(sa.select(sa.func.count()).select_from(effects).where(where)).scalar_one())


def _set(
    connection: Connection, table: sa.Table, scope: str, reason: str, by: str, action: str, command: str, detail: str
) -> Switch:
    epoch = lock(connection) + 1
    found = connection.execute(sa.select(table).where(table.c.scope == scope)).mappings().first()
    if found is not None:
        return Switch.model_validate(dict(found))
    connection.execute(sa.update(control).values(epoch=epoch))
    made = Switch(scope=scope, reason=text_of(reason), set_by=text_of(by)[:200], epoch=epoch, set_at=now_ms())
    connection.execute(sa.insert(table).values(made.model_dump()))
    log(connection, command=command, action=action, scope=scope, reason=reason, by=by, epoch=epoch, detail=detail)
    return made


def _unset(
    connection: Connection, table: sa.Table, scope: str, reason: str, by: str, action: str, command: str, detail: str
) -> int | None:
    epoch = lock(connection) + 1
    if connection.execute(sa.delete(table).where(table.c.scope == scope)).rowcount == 0:
        return None
    connection.execute(sa.update(control).values(epoch=epoch))
    log(connection, command=command, action=action, scope=scope, reason=reason, by=by, epoch=epoch, detail=detail)
    return epoch


def text_of(given: str) -> str:
    """`given` without what a database can't store: a stranger's odd letter must not stop a kill."""
    return given.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def now_ms() -> int:
    """Unix milliseconds."""
    return int(time.time() * 1000)
