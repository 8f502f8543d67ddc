"""The anomaly breaker in the ledger: figures, trips, steps down. Each function works in the transaction of its caller."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger.rows import COUNTED, Override, TripRecord
from activities.ledger.switches import lock, now_ms, text_of
from activities.ledger.tables import control, effects, mode_overrides, run_records, switch_log, trips
from policies.anomaly import Figures
from policies.models import AutonomyMode

__all__ = ["ceiling", "figures", "override", "overrides", "put_back", "put_back_at", "record", "recorded", "step_down"]

_r = run_records.c
_looked_at = sa.case((sa.or_(_r.asked > 0, _r.outcome == "escalated"), 1), else_=0)
FIGURES = sa.select(
    sa.func.count().label("runs"),
    *(
        sa.func.coalesce(sa.func.sum(column), 0).label(name)
        for name, column in {
            "completed": sa.case((_r.outcome == "completed", 1), else_=0),
            "calls": _r.tool_calls,
            "denied": _r.denied,
            "invalid": _r.invalid,
            "errors": _r.errors,
            "repeated": _r.repeated,
            "looked_at": _looked_at,
            "decided": _r.approved + _r.rejected + _r.edited,
            "rejected": _r.rejected,
            "cost_micro_usd": _r.cost_micro_usd,
            "milliseconds": _r.closed_at - _r.started_at,
        }.items()
    ),
).where(
    _r.agent == sa.bindparam("agent", type_=sa.String),
    _r.recorded_at > sa.bindparam("since", type_=sa.BigInteger),
    _r.arm != "human",  # what people did says nothing of the agent
)
MOVED = sa.select(sa.func.coalesce(sa.func.sum(effects.c.amount_cents), 0)).where(
    effects.c.agent == sa.bindparam("agent", type_=sa.String),
    effects.c.reserved_at > sa.bindparam("since", type_=sa.BigInteger),
    effects.c.state.in_(COUNTED),
)
OVERRIDE = sa.select(mode_overrides).where(mode_overrides.c.agent == sa.bindparam("agent", type_=sa.String))


def figures(connection: Connection, agent: str, since: int) -> Figures:
    """What `agent` did after `since` (Unix milliseconds)."""
    known = {"agent": agent, "since": since}
    found = {k: int(v) for k, v in connection.execute(FIGURES, known).mappings().one().items()}
    moved = int(connection.execute(MOVED, known).scalar_one())
    seconds = found.pop("milliseconds") // 1000
    return Figures.model_validate({**found, "seconds": seconds, "moved_cents": moved})


def override(connection: Connection, agent: str) -> Override | None:
    """The mode that `agent` was stepped down to."""
    row = connection.execute(OVERRIDE, {"agent": agent}).mappings().first()
    return Override.model_validate(dict(row)) if row else None


def ceiling(connection: Connection, agent: str) -> AutonomyMode:
    """What `agent` may do by itself at most, whatever its file says."""
    found = override(connection, agent)
    return found.mode if found else "live"


def overrides(connection: Connection) -> list[Override]:
    """All agents that are stepped down."""
    rows = connection.execute(sa.select(mode_overrides).order_by(mode_overrides.c.agent)).mappings()
    return [Override.model_validate(dict(row)) for row in rows]


def step_down(connection: Connection, agent: str, mode: AutonomyMode, reason: str, by: str) -> Override:
    """From now on, `agent` may do no more by itself than `mode`: in the order of switches and reservations."""
    made = Override(
        agent=agent, mode=mode, reason=text_of(reason), set_by=text_of(by)[:200], set_at=now_ms(), epoch=_next(connection)
    )
    connection.execute(sa.delete(mode_overrides).where(mode_overrides.c.agent == agent))
    connection.execute(sa.insert(mode_overrides).values(made.model_dump()))
    return made


def put_back(connection: Connection, agent: str, by: str, reason: str) -> Override | None:
    """Take the step down away, and settle the agent's trips. Returns what was taken away; None when there was nothing."""
    found = override(connection, agent)
    open_ = sa.and_(trips.c.agent == agent, trips.c.put_back_at.is_(None))
    values = {"put_back_at": now_ms(), "put_back_by": text_of(by)[:200], "put_back_reason": text_of(reason)}
    settled = connection.execute(sa.update(trips).where(open_).values(values)).rowcount
    if found is None and not settled:
        return None
    _next(connection)
    connection.execute(sa.delete(mode_overrides).where(mode_overrides.c.agent == agent))
    return found or Override(agent=agent, mode="live", reason="", set_by="", set_at=0, epoch=0)


def put_back_at(connection: Connection, agent: str) -> int:
    """When a person last put `agent` back, or released its off switch (Unix milliseconds); 0 for never."""
    put = sa.select(sa.func.max(trips.c.put_back_at)).where(trips.c.agent == agent)
    released = sa.select(sa.func.max(switch_log.c.at)).where(
        switch_log.c.scope == f"agent:{agent}", switch_log.c.action == "unkill"
    )
    return max(int(connection.execute(q).scalar() or 0) for q in (put, released))


def record(connection: Connection, trip: TripRecord) -> None:
    """Keep a trip with the numbers that caused it."""
    connection.execute(sa.insert(trips).values(trip.model_dump()))


def recorded(
    connection: Connection, *, trip: str | None = None, agent: str | None = None, limit: int = 100
) -> Sequence[TripRecord]:
    """The newest trips; only this one, only of this agent."""
    query = sa.select(trips).order_by(trips.c.at.desc(), trips.c.id).limit(limit)
    if trip is not None:
        query = query.where(trips.c.id == trip)
    if agent is not None:
        query = query.where(trips.c.agent == agent)
    return [TripRecord.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def _next(connection: Connection) -> int:
    epoch = lock(connection) + 1
    connection.execute(sa.update(control).values(epoch=epoch))
    return epoch
