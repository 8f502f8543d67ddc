"""What counts towards caps across runs: charged, settled, looked at. Each function works in the transaction of its caller.

Whoever charges or settles locks the row of `control` first, as each reservation does: what is counted is exact, whoever counts
at the same time (G6). A day's sums are kept by the minute, and its oldest minute counts whole: a day is never too short.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger import switches
from activities.ledger.rows import COUNTED, CapUse, Charge
from activities.ledger.switches import now_ms
from activities.ledger.tables import charges, effects, usage_minutes
from policies.caps import Caps, ScopedCaps
from policies.errors import CapReached
from policies.models import Money

__all__ = ["charge", "settle", "used"]

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
SOONEST_SECONDS, LATEST_SECONDS = 60, 900
"""When a run that waits for room in a day looks again: not all at once, and soon after somebody raised the cap."""

Kind = Literal["run", "tool", "model"]
Daily = Literal["tool_calls", "tokens", "cost_micro_usd"]
RATES: dict[Kind, str] = {"tool": "tool_calls_per_minute", "run": "runs_per_minute"}
DAILY: tuple[Daily, ...] = ("tool_calls", "tokens", "cost_micro_usd")
_SCOPE, _SINCE = sa.bindparam("scope", type_=sa.String), sa.bindparam("since", type_=sa.BigInteger)
_in_day = sa.and_(usage_minutes.c.scope == _SCOPE, usage_minutes.c.minute >= _SINCE)
# What each counted call needs is built once: SQLAlchemy takes longer to put a query together than SQLite to answer it.
DAY = sa.select(*(sa.func.coalesce(sa.func.sum(usage_minutes.c[name]), 0) for name in DAILY)).where(_in_day)
COUNTED_AT = sa.select(charges.c.at).where(charges.c.key == sa.bindparam("key"))
INSERT = sa.insert(charges)
BEFORE_OF_ALL = (
    sa.select(charges.c.at)
    .where(charges.c.kind == sa.bindparam("kind", type_=sa.String))
    .order_by(charges.c.at.desc())
    .offset(sa.bindparam("places", type_=sa.Integer))
    .limit(1)
)
BEFORE = BEFORE_OF_ALL.where(charges.c.agent == sa.bindparam("agent", type_=sa.String))
ADD = (
    sa.update(usage_minutes)
    .where(
        usage_minutes.c.scope.in_(sa.bindparam("scopes", type_=sa.String, expanding=True)),
        usage_minutes.c.minute == sa.bindparam("of", type_=sa.BigInteger),
    )
    .values({name: usage_minutes.c[name] + sa.bindparam(f"more_{name}", type_=sa.BigInteger) for name in DAILY})
)


@dataclass(frozen=True)
class _Full:
    """A cap without room. `free_at`: Unix milliseconds at which there would be; None for never."""

    cap: str
    limit: int
    used: int
    free_at: int | None


def charge(connection: Connection, wanted: Charge, caps: Sequence[ScopedCaps]) -> CapReached | None:
    """Count `wanted`, if every cap has room for it. What was counted under its key before isn't counted again.

    Returns:
        Which cap hasn't; then nothing was counted, but perhaps a place in the queue for a rate given out.
    """
    now = now_ms()
    turn = connection.execute(COUNTED_AT, {"key": wanted.key}).scalar()
    for each in caps:
        full = _moved(connection, each, wanted, now) or (_used_up(connection, each, wanted, now) if turn is None else None)
        if full:
            return _reached(connection, wanted, each, full)
    if turn is None:
        turns = [(each, _turn(connection, each, wanted.kind, now)) for each in caps]
        for each, free_at in turns:
            if free_at > now and each.caps.on_cap != "wait":
                return _reached(connection, wanted, each, _rate_full(each, wanted.kind, free_at))
        turn = max((free_at for _, free_at in turns), default=now)
        _count(connection, wanted, turn)
    slow = next((each for each in caps if _rate(each.caps, wanted.kind)), None)
    return _reached(connection, wanted, slow, _rate_full(slow, wanted.kind, turn)) if slow and turn > now else None


def _count(connection: Connection, wanted: Charge, at: int) -> None:
    row = wanted.model_dump(include={"key", "kind", "agent", "tokens", "cost_micro_usd"})
    connection.execute(INSERT, {**row, "at": at, "settled_at": None})
    more = {"tool_calls": int(wanted.kind == "tool"), "tokens": wanted.tokens, "cost_micro_usd": wanted.cost_micro_usd}
    scopes, minute = _scopes(wanted.agent), at // MINUTE_MS
    if not any(more.values()) or _add(connection, scopes, minute, more) == len(scopes):
        return
    here = sa.and_(usage_minutes.c.minute == minute, usage_minutes.c.scope.in_(scopes))
    there = set(connection.execute(sa.select(usage_minutes.c.scope).where(here)).scalars())
    new = [{"scope": scope, "minute": minute, **more} for scope in scopes if scope not in there]
    connection.execute(sa.insert(usage_minutes), new)
    # What no cap looks at any more goes once a minute, so that each time there is little of it.
    since = now_ms() - DAY_MS - MINUTE_MS
    old = sa.and_(usage_minutes.c.scope.in_(scopes), usage_minutes.c.minute < since // MINUTE_MS)
    connection.execute(sa.delete(usage_minutes).where(old))
    connection.execute(sa.delete(charges).where(charges.c.kind.in_(("run", "tool", "model")), charges.c.at < since))


def settle(connection: Connection, key: str, *, tokens: int, cost_micro_usd: int) -> None:
    """Put what a model call really took in the place of its estimate. The second time it changes nothing."""
    row = connection.execute(sa.select(charges).where(charges.c.key == key)).mappings().first()
    if row is None or row["settled_at"] is not None:
        return
    values = {"tokens": tokens, "cost_micro_usd": cost_micro_usd, "settled_at": now_ms()}
    connection.execute(sa.update(charges).where(charges.c.key == key).values(values))
    more = {"tool_calls": 0, "tokens": tokens - row["tokens"], "cost_micro_usd": cost_micro_usd - row["cost_micro_usd"]}
    _add(connection, _scopes(str(row["agent"])), int(row["at"]) // MINUTE_MS, more)


def used(connection: Connection, each: ScopedCaps) -> list[CapUse]:
    """How much of each of these caps is used now."""
    now, caps = now_ms(), each.caps
    found: list[CapUse] = []

    def add(cap: str, limit: int, count: int, free_at: int | None, queued: int = 0) -> None:
        room_at = free_at if count >= limit or queued else None
        row = {"scope": each.scope, "cap": cap, "limit": limit, "used": count, "left": max(0, limit - count)}
        found.append(CapUse.model_validate({**row, "on_cap": caps.on_cap, "queued": queued, "room_at": room_at}))

    sums = _day(connection, each.scope, now)
    for name in DAILY:
        if limit := _limit(caps, name):
            over = sums[name] + 1 - limit
            add(f"{name}_per_day", limit, sums[name], _day_free_at(connection, each.scope, name, over, now))
    for currency, limit in sorted(caps.moved_cents_per_day.items()):
        total = _moved_sum(connection, each.agent, currency, "", now)
        free_at = _moved_free_at(connection, each.agent, currency, "", total + 1 - limit, now) if limit else None
        add(f"moved_cents_per_day.{currency}", limit, total, free_at)
    for kind, cap in RATES.items():
        if limit := _rate(caps, kind):
            ahead = _in_minute(connection, each.agent, kind, now)
            counted = sum(at <= now for at in ahead)
            add(cap, limit, counted, _turn(connection, each, kind, now), len(ahead) - counted)
    return found


# ---- a day ----------------------------------------------------------------------------------------------------------


def _limit(caps: Caps, name: Daily) -> int | None:
    match name:
        case "tool_calls":
            return caps.tool_calls_per_day
        case "tokens":
            return caps.tokens_per_day
        case "cost_micro_usd":
            return caps.cost_micro_usd_per_day


def _needs(wanted: Charge) -> dict[Daily, int]:
    """What must fit; a run that begins takes nothing by itself, but needs room for a first step."""
    match wanted.kind:
        case "run":
            return dict.fromkeys(DAILY, 1)
        case "tool":
            return {"tool_calls": 1}
        case "model":
            return {"tokens": wanted.tokens, "cost_micro_usd": wanted.cost_micro_usd}


def _used_up(connection: Connection, each: ScopedCaps, wanted: Charge, now: int) -> _Full | None:
    needs: list[tuple[Daily, int, int]] = [
        (name, need, limit) for name, need in _needs(wanted).items() if (limit := _limit(each.caps, name)) is not None
    ]
    if not needs:
        return None
    sums = _day(connection, each.scope, now)
    for name, need, limit in needs:
        over = sums[name] + need - limit
        if over > 0:
            free_at = _day_free_at(connection, each.scope, name, over, now) if need <= limit else None
            return _Full(f"{name}_per_day", limit, sums[name], free_at)
    return None


def _day(connection: Connection, scope: str, now: int) -> dict[Daily, int]:
    row = connection.execute(DAY, {"scope": scope, "since": (now - DAY_MS) // MINUTE_MS}).one()
    return {name: int(value) for name, value in zip(DAILY, row, strict=True)}


def _day_free_at(connection: Connection, scope: str, name: Daily, over: int, now: int) -> int | None:
    """When so much of the day will have gone by that `over` less is used."""
    column = usage_minutes.c[name]
    query = sa.select(usage_minutes.c.minute, column).where(_in_day, column > 0).order_by(usage_minutes.c.minute)
    found = connection.execute(query, {"scope": scope, "since": (now - DAY_MS) // MINUTE_MS})
    # A minute counts until its last moment has gone by.
    return _freed((((int(minute) + 1) * MINUTE_MS, int(count)) for minute, count in found), over)


def _freed(parts: Iterable[tuple[int, int]], over: int) -> int | None:
    """When `over` less counts, of amounts and when they were counted, oldest first; None if that is more than there is."""
    for at, amount in parts:
        over -= amount
        if over <= 0:
            return at + DAY_MS
    return None


def _scopes(agent: str) -> tuple[str, str]:
    return f"agent:{agent}", "fleet"


def _add(connection: Connection, scopes: Sequence[str], minute: int, more: Mapping[str, int]) -> int:
    """Add to the minute of each of these scopes that has one; returns how many have."""
    values = {"of": minute, "scopes": list(scopes), **{f"more_{name}": count for name, count in more.items()}}
    return connection.execute(ADD, values).rowcount


# ---- money that writes move -----------------------------------------------------------------------------------------


def _moved(connection: Connection, each: ScopedCaps, wanted: Charge, now: int) -> _Full | None:
    limits = each.caps.moved_cents_per_day
    if wanted.kind == "run":
        # It may need any of them: only when nothing can be moved any more has it no room.
        some = [currency for currency, limit in limits.items() if limit]
        full = [_moved_full(connection, each, Money(cents=1, currency=currency), "", now) for currency in some]
        return full[0] if full and all(full) else None
    return _moved_full(connection, each, wanted.moved, wanted.key, now) if limits and wanted.moved else None


def _moved_full(connection: Connection, each: ScopedCaps, amount: Money, but: str, now: int) -> _Full | None:
    limit = each.caps.moved_cents_per_day.get(amount.currency, 0)
    total = _moved_sum(connection, each.agent, amount.currency, but, now)
    over = total + amount.cents - limit
    if over <= 0:
        return None
    free_at = _moved_free_at(connection, each.agent, amount.currency, but, over, now) if amount.cents <= limit else None
    return _Full(f"moved_cents_per_day.{amount.currency}", limit, total, free_at)


def _moving(agent: str | None, currency: str, but: str, now: int) -> sa.ColumnElement[bool]:
    """Effects that moved money in the last day, or may have, but for the one of this key."""
    found = sa.and_(
        effects.c.reserved_at > now - DAY_MS,
        effects.c.currency == currency,
        effects.c.state.in_(COUNTED),
        effects.c.idempotency_key != but,
    )
    return found if agent is None else sa.and_(found, effects.c.agent == agent)


def _moved_sum(connection: Connection, agent: str | None, currency: str, but: str, now: int) -> int:
    total = sa.select(sa.func.coalesce(sa.func.sum(effects.c.amount_cents), 0))
    return int(connection.execute(total.where(_moving(agent, currency, but, now))).scalar_one())


def _moved_free_at(connection: Connection, agent: str | None, currency: str, but: str, over: int, now: int) -> int | None:
    query = sa.select(effects.c.reserved_at, effects.c.amount_cents).order_by(effects.c.reserved_at)
    found = connection.execute(query.where(_moving(agent, currency, but, now)))
    return _freed(((int(at), int(cents)) for at, cents in found), over)


# ---- a minute -------------------------------------------------------------------------------------------------------


def _rate(caps: Caps, kind: Kind) -> int | None:
    return {"tool": caps.tool_calls_per_minute, "run": caps.runs_per_minute}.get(kind)


def _rate_full(each: ScopedCaps, kind: Kind, free_at: int) -> _Full:
    limit = _rate(each.caps, kind) or 0
    return _Full(RATES[kind], limit, limit, free_at)


def _of(agent: str | None, kind: Kind) -> sa.ColumnElement[bool]:
    return charges.c.kind == kind if agent is None else sa.and_(charges.c.kind == kind, charges.c.agent == agent)


def _turn(connection: Connection, each: ScopedCaps, kind: Kind, now: int) -> int:
    """From when on one more may begin: a minute after the one that is as many places before it as the rate lets begin."""
    rate = _rate(each.caps, kind)
    if rate is None:
        return now
    query = BEFORE if each.agent else BEFORE_OF_ALL
    before = connection.execute(query, {"kind": kind, "agent": each.agent, "places": rate - 1}).scalar()
    return now if before is None else max(now, int(before) + MINUTE_MS)


def _in_minute(connection: Connection, agent: str | None, kind: Kind, now: int) -> list[int]:
    """When those of the last minute began, and those begin that wait for their turn."""
    query = sa.select(charges.c.at).where(_of(agent, kind), charges.c.at > now - MINUTE_MS)
    return [int(at) for at in connection.execute(query).scalars()]


# ---- what a run is told ---------------------------------------------------------------------------------------------


def _reached(connection: Connection, wanted: Charge, each: ScopedCaps, full: _Full) -> CapReached:
    """What the run is told, which is paused here and now if a person is to resume it."""
    said = f"{full.used:,} of {full.limit:,} are used, of `{full.cap}` of {each.words}"
    if full.free_at is None:  # nobody is to wait for what never comes
        return CapReached(f"This takes more than a cap across runs lets through at all: {said}.", cap=full.cap)
    back = datetime.fromtimestamp(full.free_at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    message = f"A cap across runs leaves no room: {said}; there is room again at {back}."
    match each.caps.on_cap:
        case "wait":
            return CapReached(message, cap=full.cap, scope=f"cap:{each.scope}", until=_look_again(full))
        case "escalate":
            scope = f"run:{wanted.run_id}"
            return CapReached(message, cap=full.cap, scope=scope, epoch=switches.pause(connection, scope, message, "cap").epoch)
        case "refuse":
            return CapReached(message, cap=full.cap)


def _look_again(full: _Full) -> int:
    now, free_at = now_ms() / 1000, (full.free_at or 0) / 1000
    if full.cap in RATES.values():
        return math.ceil(free_at)  # a place of one's own
    soon = min(max(free_at - now, SOONEST_SECONDS), LATEST_SECONDS)
    return math.ceil(now + soon + random.uniform(0, SOONEST_SECONDS))  # noqa: S311  (it spreads the runs, and hides nothing)
