"""Rollouts and releases in the ledger, and all that was done to them. Each function works in the transaction of its caller."""

import json
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger.rows import RolloutLine, SeenRelease
from activities.ledger.switches import lock, now_ms, text_of
from activities.ledger.tables import control, releases, rollout_log, rollouts
from policies.rollout import Release, Rollout

__all__ = ["current", "found", "keep_release", "logged", "release", "releases_of", "save"]

_FOUND = sa.select(rollouts).where(rollouts.c.agent == sa.bindparam("agent", type_=sa.String))


def found(connection: Connection, agent: str) -> Rollout | None:
    """The rollout of `agent`, if it was ever rolled out."""
    row = connection.execute(_FOUND, {"agent": agent}).mappings().first()
    return _rollout(row) if row else None


def current(connection: Connection) -> list[Rollout]:
    """All of them, by agent."""
    return [_rollout(row) for row in connection.execute(sa.select(rollouts).order_by(rollouts.c.agent)).mappings()]


def save(connection: Connection, rollout: Rollout, action: str, *, command: str = "", detail: str = "") -> Rollout:
    """Let the rollout stand so from now on, and write down why. Returns it as it was kept.

    All but a judgement that changes neither status nor stage gets a new epoch: what somebody signed for the old one is over.
    """
    epoch = lock(connection)
    if action != "judged":
        epoch += 1
        connection.execute(sa.update(control).values(epoch=epoch))
        rollout = rollout.model_copy(update={"epoch": epoch})
    kept = rollout.model_copy(update={"by": text_of(rollout.by)[:200], "reason": text_of(rollout.reason)})
    values = {**kept.model_dump(), "judged": json.dumps(kept.judged)}
    connection.execute(sa.delete(rollouts).where(rollouts.c.agent == kept.agent))
    connection.execute(sa.insert(rollouts).values(values))
    line = {"command": command, "action": action, "agent": kept.agent, "rollout": kept.model_dump_json(), "at": now_ms()}
    connection.execute(sa.insert(rollout_log).values({**line, "detail": detail}))
    return kept


def logged(connection: Connection, *, command: str | None = None, agent: str | None = None) -> list[RolloutLine]:
    """What was done, oldest first; only by this command, only to this agent's rollouts."""
    query = sa.select(rollout_log).order_by(rollout_log.c.id)
    if command is not None:
        query = query.where(rollout_log.c.command == command)
    if agent is not None:
        query = query.where(rollout_log.c.agent == agent)
    return [RolloutLine.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def keep_release(connection: Connection, agent: str, release: Release) -> None:
    """Keep what a run is pinned to, unless it was kept before."""
    lock(connection)  # or two workers insert the same one
    if connection.execute(sa.select(releases.c.digest).where(releases.c.digest == release.digest)).first():
        return
    row = {"digest": release.digest, "agent": agent, "definition": release.definition}
    connection.execute(sa.insert(releases).values({**row, "contents": release.model_dump_json(), "first_seen": now_ms()}))


def release(connection: Connection, name: str) -> Release | None:
    """What the release with this digest is made of; None if the ledger doesn't have it."""
    found = connection.execute(sa.select(releases.c.contents).where(releases.c.digest == name)).scalar()
    return Release.model_validate_json(str(found)) if found else None


def releases_of(connection: Connection, agent: str) -> Sequence[SeenRelease]:
    """What runs of `agent` were ever pinned to, oldest first."""
    query = sa.select(releases).where(releases.c.agent == agent).order_by(releases.c.first_seen, releases.c.digest)
    return [SeenRelease.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def _rollout(row: sa.RowMapping) -> Rollout:
    return Rollout.model_validate({**row, "judged": tuple(json.loads(row["judged"]))})
