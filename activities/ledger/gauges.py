"""What stands in the ledger now, for whoever watches it. Each function works in the transaction of its caller."""

import json
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger.records import HAPPENED
from activities.ledger.rows import EffectState
from activities.ledger.switches import now_ms
from activities.ledger.tables import control, effects, kill_switches, pauses, switch_log, to_seal

__all__ = ["OPEN", "Standing", "standing"]

OPEN: tuple[EffectState, ...] = ("reserved", "sent", "indeterminate")
"""States of effects that somebody, or some attempt, must still settle."""
DAY_MS = 86_400_000

_OPEN = (
    sa.select(effects.c.state, sa.func.count(), sa.func.min(effects.c.reserved_at))
    .where(effects.c.state.in_(OPEN))
    .group_by(effects.c.state)
)
_SAME = (
    sa.select((sa.func.count() - 1).label("more"))
    .where(
        effects.c.reserved_at > sa.bindparam("since", type_=sa.BigInteger),
        effects.c.amount_cents > 0,
        effects.c.state.in_(HAPPENED),
    )
    .group_by(effects.c.tool, effects.c.resource, effects.c.subject, effects.c.amount_cents, effects.c.currency)
    .having(sa.func.count() > 1)
    .subquery()
)
_DUPLICATED = sa.select(sa.func.coalesce(sa.func.sum(_SAME.c.more), 0))
_DRILLED = (
    sa.select(switch_log.c.at, switch_log.c.detail)
    .where(switch_log.c.scope == "drill:fleet", switch_log.c.action == "drilled", switch_log.c.detail != "")
    .order_by(switch_log.c.id.desc())
    .limit(1)
)
_UNSEALED = sa.select(sa.func.count(), sa.func.min(to_seal.c.queued_at))
_DRILLING = sa.select(sa.func.min(kill_switches.c.set_at)).where(kill_switches.c.scope.like("drill:%"))


@dataclass(frozen=True)
class Standing:
    """The ledger at one moment. Ages in seconds, 0 when there is nothing; times in Unix seconds.

    Attributes:
        open: how many effects are in each state of `OPEN`, and how old the oldest is.
        duplicated: writes of 24 hours that moved the same amount by the same tool on the same resource for the same subject
            as an earlier one.
        epoch: of the newest switch, pause or release.
        drilled_at, drill_seconds: the last drill that was played to its end, and how long a kill would have taken.
        drilling_seconds: for how long a drill has been open.
        unsealed: how many closed runs have no sealed trace yet, and for how long the first of them has waited.
    """

    open: dict[str, tuple[int, float]]
    duplicated: int
    epoch: int
    kills: int
    pauses: int
    drilled_at: float
    drill_seconds: float
    drilling_seconds: float
    unsealed: tuple[int, float]


def standing(connection: Connection) -> Standing:
    """What stands in the ledger: a few queries, each over an index."""
    now = now_ms()
    open_: dict[str, tuple[int, float]] = dict.fromkeys(OPEN, (0, 0.0))
    for state, count, oldest in connection.execute(_OPEN):
        open_[state] = (int(count), max(0, now - int(oldest)) / 1000)
    drilled = connection.execute(_DRILLED).first()
    drilling = connection.execute(_DRILLING).scalar()
    unsealed, queued = connection.execute(_UNSEALED).one()
    covering = kill_switches.c.scope.not_like("drill:%") & kill_switches.c.scope.not_like("run:%")
    return Standing(
        open=open_,
        duplicated=int(connection.execute(_DUPLICATED, {"since": now - DAY_MS}).scalar_one()),
        epoch=int(connection.execute(sa.select(control.c.epoch)).scalar_one()),
        kills=int(connection.execute(sa.select(sa.func.count()).select_from(kill_switches).where(covering)).scalar_one()),
        pauses=int(connection.execute(sa.select(sa.func.count()).select_from(pauses)).scalar_one()),
        drilled_at=drilled.at / 1000 if drilled else 0.0,
        drill_seconds=json.loads(drilled.detail).get("effect_ms", 0) / 1000 if drilled else 0.0,
        drilling_seconds=max(0, now - int(drilling)) / 1000 if drilling else 0.0,
        unsealed=(int(unsealed), max(0, now - int(queued)) / 1000 if queued else 0.0),
    )
