"""The ledger's transactions, one method each. Blocking: activities call them in a thread."""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from activities.ledger import breaker, switches, usage
from activities.ledger.rows import COUNTED, Capability, CapabilityKind, Charge, Effect, EffectState, Intent, Switch
from activities.ledger.switches import lock as _lock
from activities.ledger.switches import now_ms as _now
from activities.ledger.switches import text_of as _text
from activities.ledger.tables import capabilities, effects, kill_switches
from policies.caps import ScopedCaps
from policies.errors import (
    InvalidInput,
    KillSwitchEngaged,
    NotFound,
    OutcomeIndeterminate,
    Paused,
    ToolRefusal,
    Unavailable,
)
from policies.models import AutonomyMode
from policies.switches import Scope

__all__ = [
    "COUNTED",
    "DAY_MS",
    "MIGRATIONS",
    "Capability",
    "Effect",
    "EffectState",
    "Intent",
    "Ledger",
    "existing",
    "run_scope",
]

DAY_MS = 24 * 60 * 60 * 1000
NOT_SENT = "not_sent: It wasn't carried out, and won't be: the workers or the ledger were away. Nothing was written."
"""The outcome of an effect that was given up before it was sent."""
BUSY_SECONDS = 10
"""How long a writer waits for SQLite's lock."""
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x72656D6974  # "remit": the advisory lock of PostgreSQL that migrations hold
CANT_OPEN = (
    "`REMIT_LEDGER_URL` can't be opened; use `sqlite:////absolute/path/ledger.db` or `postgresql+psycopg://user@host/database`."
)


# What each write needs is built once: SQLAlchemy takes longer to put a query together than SQLite to answer it.
KEEP = sa.insert(capabilities)
_ID, _RUN = sa.bindparam("id", type_=sa.String), sa.bindparam("run", type_=sa.String)
_given = capabilities.alias()
# When the capability, or one for the run's reads, was revoked: without that, the run has no authority left.
_REVOKED = (
    sa.select(sa.func.max(capabilities.c.revoked_at))
    .where(
        capabilities.c.run_id == _RUN,
        sa.or_(capabilities.c.id == _ID, sa.and_(capabilities.c.kind == "run", capabilities.c.delegation == "")),
    )
    .scalar_subquery()
)
STANDING = sa.select(
    _REVOKED,
    sa.select(sa.func.max(kill_switches.c.epoch)).where(kill_switches.c.scope == sa.bindparam("scope")).scalar_subquery(),
)
COVER = (
    sa.select(_REVOKED, _given.c.id, _given.c.revoked_at, _given.c.ceiling_cents)
    .select_from(capabilities.outerjoin(_given, capabilities.c.delegation == _given.c.id))
    .where(capabilities.c.id == _ID)
)

_counted = sa.select(sa.func.count()).where(
    effects.c.state.in_(COUNTED), effects.c.idempotency_key != sa.bindparam("key", type_=sa.String)
)
WRITES = sa.select(
    _counted.where(effects.c.run_id == _RUN).scalar_subquery(),
    _counted.where(
        effects.c.agent == sa.bindparam("agent", type_=sa.String),
        effects.c.reserved_at > sa.bindparam("since", type_=sa.BigInteger),
    ).scalar_subquery(),
)


def run_scope(run_id: str) -> str:
    """The kill switch that covers one run, all its segments included."""
    return f"run:{run_id}"


class Ledger:
    """The effect ledger in a SQL database."""

    def __init__(self, url: str) -> None:
        """Raises:
        InvalidInput: `url` isn't a database URL that this build can open.
        """
        try:
            parsed = make_url(url)
            self._backend = parsed.get_backend_name()
            if self._backend not in ("sqlite", "postgresql"):
                raise InvalidInput(CANT_OPEN)
            if self._backend == "postgresql":
                self._engine = self._readers = _postgresql(parsed)
            else:
                self._engine, self._readers = _sqlite(parsed, "BEGIN IMMEDIATE"), _sqlite(parsed, "BEGIN")
        # A port that is no number: ValueError.
        except (ArgumentError, ImportError, NoSuchModuleError, OSError, ValueError):
            raise InvalidInput(CANT_OPEN) from None

    def close(self) -> None:
        self._engine.dispose()
        self._readers.dispose()

    def migrate(self) -> None:
        """Bring the schema to the newest revision; workers that start together wait for one another.

        Raises:
            Unavailable: the database can't be reached, or lets nobody in.
        """
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        try:
            with self._engine.begin() as connection:
                if self._backend == "postgresql":
                    # Held until the commit. SQLite's transaction holds its write lock from the beginning.
                    connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except SQLAlchemyError as e:
            raise Unavailable(_unreachable(e)) from None
        except CommandError:
            raise InvalidInput("The ledger was made by a newer Remit; run that one, or restore a ledger of this one.") from None

    def begin(self) -> AbstractContextManager[Connection]:
        """One transaction, for what other modules keep in this database."""
        return self._engine.begin()

    def reading(self) -> AbstractContextManager[Connection]:
        """One transaction that only reads; it waits for nobody who writes."""
        return self._reading()

    def engage(self, scope: str, reason: str, by: str) -> int:
        """Write an off switch and return when, in Unix milliseconds. Setting it again keeps the first."""
        with self._engine.begin() as connection:
            return switches.engage(connection, scope, reason, by).set_at

    def switched(self, scopes: Sequence[str]) -> tuple[Switch | None, Switch | None]:
        """The off switch, and the pause, that covers one of `scopes`."""
        with self._reading() as connection:
            return switches.covering(connection, scopes)

    def subject_sum(self, tool: str, subject: str) -> int:
        """Cents that `tool` moved, or may have moved, for `subject` in the last 24 h."""
        with self._reading() as connection:
            return _sum(connection, tool, subject, "")

    def epoch(self, scopes: Sequence[str]) -> int:
        """The epoch of the newest off switch that covers one of `scopes`; 0 when there is none."""
        with self._reading() as connection:
            return int(connection.execute(_epoch(scopes)).scalar() or 0)

    def standing(self, name: str, run_id: str) -> tuple[bool, int]:
        """Whether the run's capability `name`, or its authority as a whole, was revoked; and the `epoch` of the run."""
        with self._reading() as connection:
            revoked, epoch = connection.execute(STANDING, {"id": name, "run": run_id, "scope": run_scope(run_id)}).one()
        return revoked is not None, int(epoch or 0)

    def keep(self, capability: Capability) -> None:
        """Keep a capability under its id, which is fresh."""
        row = {**capability.model_dump(), "reason": _text(capability.reason)}
        with self._engine.begin() as connection:
            connection.execute(KEEP, row)

    def capability(self, name: str) -> Capability | None:
        """The capability called `name`, or None."""
        with self._reading() as connection:
            return _capability(connection, name)

    def capabilities(self, run: str | None = None, kind: CapabilityKind | None = None) -> list[Capability]:
        """Capabilities, oldest first; only those of the run id `run`, only of this kind."""
        query = sa.select(capabilities).order_by(capabilities.c.minted_at, capabilities.c.id)
        if run is not None:
            query = query.where(capabilities.c.run_id == run)
        if kind is not None:
            query = query.where(capabilities.c.kind == kind)
        with self._reading() as connection:
            return [Capability.model_validate(dict(r)) for r in connection.execute(query).mappings()]

    def take(self, agent: str, subject: str, run_id: str, now: int) -> list[Capability]:
        """The delegations to `agent` for `subject` that the run has, or takes now: each serves one run only.

        Args:
            now: Unix seconds.
        """
        fits = sa.and_(
            capabilities.c.kind == "delegation",
            capabilities.c.agent == agent,
            capabilities.c.subject == subject,
            capabilities.c.run_id.in_(("", run_id)),
            capabilities.c.expires_at > now,
            capabilities.c.revoked_at.is_(None),
        )
        with self._reading() as connection:
            if connection.execute(sa.select(capabilities.c.id).where(fits).limit(1)).first() is None:
                return []
        with self._engine.begin() as connection:
            _lock(connection)
            connection.execute(sa.update(capabilities).where(fits).values(run_id=run_id))
            mine = sa.select(capabilities).where(fits).order_by(capabilities.c.minted_at, capabilities.c.id)
            return [Capability.model_validate(dict(r)) for r in connection.execute(mine).mappings()]

    def revoke(self, name: str, by: str, reason: str) -> Capability:
        """End a capability. G1: no effect is reserved under it from now on, nor under what rests on it.

        Raises:
            NotFound: there is none called `name`.
        """
        with self._engine.begin() as connection:
            _lock(connection)
            found = _capability(connection, name)
            if found is None:
                raise NotFound(f"There is no capability `{name[:80]}`; see `remit capabilities`.")
            if found.revoked_at is None:
                values = {"revoked_at": _now(), "revoked_by": _text(by)[:200], "revoked_reason": _text(reason)}
                connection.execute(sa.update(capabilities).where(capabilities.c.id == name).values(values))
            found = _capability(connection, name)
        assert found
        return found

    def reserve(
        self,
        intent: Intent,
        scopes: Sequence[str],
        judge: Callable[[int, AutonomyMode], None],
        caps: Sequence[ScopedCaps] = (),
    ) -> Effect:
        """Reserve the effect, in one transaction with the off switches, the sums that its verdict rests on, and the caps.

        Args:
            judge: called with the current sum for the subject (this effect excluded) and with the most that the agent may do by
                itself now; raises to refuse the reservation.
            caps: those across runs that it counts towards. G6: counted last, so that what is refused takes no room.

        Returns:
            The row: `reserved` means that the caller performs it now; `sent` that an earlier attempt may have performed it,
            and that the caller asks the vendor; `done` and `failed` are what an earlier attempt recorded, and nothing is to
            be performed.

        Raises:
            KillSwitchEngaged: an off switch covers it; nothing was reserved, or the reservation was released.
            Paused: a pause does; likewise.
            ToolRefusal: its capability was revoked, what was delegated is used up, or there were too many writes.
            CapReached: a cap across runs leaves no room.
            OutcomeIndeterminate: an earlier attempt may have performed it and it can't safely be repeated.
        """
        row: Effect | None = None
        failure: Exception | None = None
        with self._engine.begin() as connection:
            epoch = _lock(connection)
            row = _find(connection, intent.idempotency_key)
            killed, paused = switches.covering(connection, scopes)
            if row and row.state in ("done", "failed"):
                return row
            if row and row.state in ("sent", "indeterminate"):
                # G2: it may have happened. A vendor that dedupes by our key may be asked again, but not after a kill; one that
                # can be searched is asked in any case, and `sent` says whether the write may leave once more.
                askable = intent.strategy == "lookup" or (intent.strategy == "native_key" and killed is None)
                if row.state == "indeterminate" or not askable:
                    _set(connection, intent.idempotency_key, state="indeterminate", settled_at=_now())
                    failure = OutcomeIndeterminate(f"Whether `{intent.tool}` on `{intent.resource}` happened isn't known.")
                else:
                    _set(connection, intent.idempotency_key, attempts=row.attempts + 1)
            elif stopped := _stopped(killed, paused):
                if row:
                    _set(connection, intent.idempotency_key, state="released", settled_at=_now())
                failure = stopped
            elif (
                refused := _uncovered(connection, intent)
                or _over(connection, intent)
                or _refused(connection, intent, judge)
                or (usage.charge(connection, _charge(intent), caps) if caps else None)
            ):
                if row:
                    _set(connection, intent.idempotency_key, state="released", settled_at=_now())
                failure = refused
            else:
                if row:
                    again = {**_values(intent, epoch), "attempts": row.attempts + 1, "settled_at": None}
                    _set(connection, intent.idempotency_key, **again)
                else:
                    connection.execute(sa.insert(effects).values(**_values(intent, epoch)))
            row = _find(connection, intent.idempotency_key)
        if failure:
            raise failure
        assert row
        return row

    def sent(self, key: str, attempt: int, scopes: Sequence[str]) -> bool:
        """Record that the effect is about to leave: from now on it may have happened.

        Args:
            attempt: the `attempts` of the row that `reserve` gave.
            scopes: the off switches that cover it. G4: one that was set since the reservation stops it here.

        Returns:
            Whether the caller may perform it. G2: an attempt that was given up for lost, and then woke up, may not, for
            another one has reserved the effect since. After a kill, nobody may.
        """
        with self._engine.begin() as connection:
            _lock(connection)
            mine = sa.update(effects).where(effects.c.idempotency_key == key, effects.c.attempts == attempt)
            if switches.covering(connection, scopes)[0] is not None:
                connection.execute(mine.where(effects.c.state == "reserved").values(state="released", settled_at=_now()))
                connection.execute(mine.where(effects.c.state == "sent").values(state="indeterminate", settled_at=_now()))
                return False
            marked = connection.execute(mine.where(effects.c.state.in_(("reserved", "sent"))).values(state="sent"))
            return marked.rowcount == 1

    def settle(
        self,
        key: str,
        state: Literal["done", "failed", "released", "indeterminate"],
        outcome: str,
        attempt: int | None = None,
    ) -> None:
        """Record what became of the effect. What is known to be done or failed stays so.

        Args:
            attempt: if given, it counts only while no other attempt has taken over: that nothing came of one attempt says
                nothing of what another has sent. That it happened can be said by any.
        """
        update = sa.update(effects).where(effects.c.idempotency_key == key, effects.c.state.not_in(("done", "failed")))
        if attempt is not None:
            update = update.where(effects.c.attempts == attempt)
        with self._engine.begin() as connection:
            connection.execute(update.values(state=state, outcome=_text(outcome), settled_at=_now()))

    def give_up(self, intent: Intent, scopes: Sequence[str]) -> Effect:
        """Settle an effect whose attempts are all lost, so that none of them, should it wake up, can begin to send it.

        Args:
            scopes: the off switches that cover it.

        Returns:
            The row: `done` or `failed` as it was recorded; `failed`, for certain, if it was never sent; `sent` if the vendor
            may be asked again by the caller, for it dedupes by our key and no switch is on; else `indeterminate`.
        """
        key, unsent = intent.idempotency_key, {"state": "failed", "outcome": NOT_SENT, "settled_at": _now()}
        with self._engine.begin() as connection:
            _lock(connection)
            row = _find(connection, key)
            if row is None:
                # Nothing is reserved by this: in the epoch before all switches, it isn't taken for what one let through.
                connection.execute(sa.insert(effects).values({**_values(intent, 0), "attempts": 0, **unsent}))
            elif row.state in ("reserved", "released"):
                _set(connection, key, **unsent)
            elif row.state == "sent" and intent.strategy == "native_key" and switches.covering(connection, scopes)[0] is None:
                _set(connection, key, attempts=row.attempts + 1)
            elif row.state == "sent":
                _set(connection, key, state="indeterminate", settled_at=_now())
            row = _find(connection, key)
        assert row
        return row

    def resolve(self, key: str, *, happened: bool, by: str, reason: str) -> Effect:
        """Settle an effect of unknown outcome with what a person found out.

        Raises:
            NotFound: no effect has this key.
            InvalidInput: its outcome isn't unknown; nothing was changed.
        """
        said, now = _text(reason), _now()
        if happened:
            outcome = json.dumps({"resolved": "happened", "by": by, "reason": said}, ensure_ascii=False)
        else:
            outcome = f"resolved: {by} says that it didn't happen: {said}"
        with self._engine.begin() as connection:
            _lock(connection)
            row = _find(connection, key)
            if row is None:
                raise NotFound(f"No effect has the key `{key}`; see `remit effects`.")
            if row.state != "indeterminate":
                by_whom = f", as `{row.resolved_by}` said" if row.resolved_by else ""
                raise InvalidInput(f"Effect `{key}` is `{row.state}`{by_whom}; only an `indeterminate` one can be resolved.")
            _set(
                connection,
                key,
                state="done" if happened else "failed",
                outcome=outcome,
                settled_at=now,
                resolved_by=by[:200],
                resolved_reason=said,
                resolved_at=now,
            )
            row = _find(connection, key)
        assert row
        return row

    def effects(self, run: str | None = None, state: EffectState | None = None) -> list[Effect]:
        """Rows, oldest first.

        Args:
            run: only those of this run, by its workflow id or its run id.
            state: only those in this state.
        """
        query = sa.select(effects).order_by(effects.c.reserved_at, effects.c.idempotency_key)
        if run is not None:
            query = query.where(sa.or_(effects.c.run_id == run, effects.c.workflow_id == run))
        if state is not None:
            query = query.where(effects.c.state == state)
        with self._reading() as connection:
            return [Effect.model_validate(dict(r)) for r in connection.execute(query).mappings()]

    def effects_by_key(self, keys: Sequence[str]) -> list[Effect]:
        """The rows of these keys, oldest first."""
        query = sa.select(effects).where(effects.c.idempotency_key.in_(list(keys))).order_by(effects.c.reserved_at)
        with self._reading() as connection:
            return [Effect.model_validate(dict(r)) for r in connection.execute(query).mappings()]

    def _reading(self) -> Connection:
        """A connection that only reads: on SQLite it waits for nobody who writes, and makes nobody wait."""
        return self._readers.connect()

    def current(self) -> bool:
        """Whether the schema is the one that this build works with."""
        with self._reading() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        return found == ScriptDirectory(str(MIGRATIONS)).get_current_head()


@contextmanager
def existing(url: str) -> Generator[Ledger]:
    """The ledger that workers keep at `url`, for a command: neither made nor migrated here.

    Raises:
        InvalidInput: `url` isn't a database URL that this build can open.
        Unavailable: there is no ledger, it is of another version, or its database can't be used.
    """
    with suppress(ArgumentError, ValueError):  # which `Ledger` says better
        path = make_url(url).database if url.startswith("sqlite") else None
        if path and not Path(path).exists():
            raise Unavailable(f"There is no ledger at `{path}` yet; `remit dev` or a worker makes it.")
    ledger = Ledger(url)
    try:
        if not ledger.current():
            raise Unavailable("The ledger isn't of this version of Remit; start a worker of this version, which migrates it.")
        yield ledger
    except SQLAlchemyError as e:
        raise Unavailable(_unreachable(e)) from None
    finally:
        ledger.close()


def _unreachable(error: SQLAlchemyError) -> str:
    """One sentence on why the ledger's database can't be used.

    The driver's own text isn't in it: with a URL that was typed wrong, the part that the driver takes for the host may be
    half a password.
    """
    text = str(getattr(error, "orig", None) or error)
    if "authentication failed" in text or "no password supplied" in text:
        why = "it refuses the user or the password"
    elif "does not exist" in text and "FATAL" in text:
        why = "it has no such database or user"
    elif "permission denied" in text or "readonly database" in text:
        why = "its user may not write there"
    elif "locked" in text or "lock timeout" in text:
        why = "somebody else holds its lock"
    else:
        why = "no usable database answers there"
    return f"The ledger at `REMIT_LEDGER_URL` can't be used: {why}."


def _sqlite(url: URL, begin: str) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidInput(CANT_OPEN)  # a ledger that forgets, or that no other process sees, is none
    engine = sa.create_engine(url, hide_parameters=True)
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(engine, "connect")
    def _(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={BUSY_SECONDS * 1000}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgresql(url: URL) -> Engine:
    # G4: under REPEATABLE READ or above, a transaction that waited for the `control` row would go on with the snapshot from
    # before it waited, and miss a reservation. So the level is ours to say, whatever the server's or the role's default is.
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # errors end up in logs and in the history
        pool_pre_ping=True,  # the server may have been started again since
        connect_args={} if "connect_timeout" in url.query else {"connect_timeout": 10},
    )

    @event.listens_for(engine, "connect")
    def _(connection: Any, _: object) -> None:
        # A worker that is frozen or cut off inside a transaction must not hold up everybody's writes and kills.
        with connection.cursor() as cursor:
            cursor.execute("SET idle_in_transaction_session_timeout = '30s'")
            cursor.execute("SET lock_timeout = '10s'")
        connection.commit()

    return engine


def _stopped(killed: Switch | None, paused: Switch | None) -> KillSwitchEngaged | Paused | None:
    """Why nothing may be reserved now, if a switch says so."""
    if killed:
        scope = Scope.parse(killed.scope)
        what = "" if scope.kind == "run" else f" for {scope.words}"
        return KillSwitchEngaged(f"A kill switch is on{what}: {killed.reason}", ends_run=scope.ends_runs)
    return Paused(paused.scope, paused.reason, paused.epoch) if paused else None


def _epoch(scopes: Sequence[str]) -> sa.Select[Any]:
    return sa.select(sa.func.max(kill_switches.c.epoch)).where(kill_switches.c.scope.in_(list(scopes)))


def _capability(connection: Connection, name: str) -> Capability | None:
    row = connection.execute(sa.select(capabilities).where(capabilities.c.id == name)).mappings().first()
    return Capability.model_validate(dict(row)) if row else None


def _uncovered(connection: Connection, intent: Intent) -> ToolRefusal | None:
    """Why the effect's capability doesn't let it be reserved now; None when it does."""
    if not intent.capability:
        return None
    found = connection.execute(COVER, {"id": intent.capability, "run": intent.run_id}).first()
    if found is None:
        return ToolRefusal("capability_refused", "The capability isn't in the ledger.")
    revoked, delegation, withdrawn, ceiling = found
    if revoked is not None or withdrawn is not None:
        return ToolRefusal("capability_revoked", "The capability was revoked.")
    if delegation is not None and intent.amount:
        used = connection.execute(
            sa.select(sa.func.coalesce(sa.func.sum(effects.c.amount_cents), 0))
            .select_from(effects.join(capabilities, effects.c.capability == capabilities.c.id))
            .where(
                capabilities.c.delegation == delegation,
                effects.c.state.in_(COUNTED),
                effects.c.idempotency_key != intent.idempotency_key,
            )
        ).scalar_one()
        if int(used) + intent.amount.cents > ceiling:
            return ToolRefusal("delegation_used_up", "More than was delegated would be moved.")
    return None


def _over(connection: Connection, intent: Intent) -> ToolRefusal | None:
    """Which number of writes would be exceeded; None when none is."""
    if intent.per_run is None and intent.per_agent_and_day is None:
        return None
    known = {"key": intent.idempotency_key, "run": intent.run_id, "agent": intent.agent, "since": _now() - DAY_MS}
    of_run, of_agent = connection.execute(WRITES, known).one()
    if intent.per_run is not None and of_run >= intent.per_run:
        return ToolRefusal("too_many_writes", f"This run has made the {intent.per_run} writes that it may make.")
    if intent.per_agent_and_day is not None and of_agent >= intent.per_agent_and_day:
        return ToolRefusal(
            "too_many_writes", f"The agent has made the {intent.per_agent_and_day} writes of 24 hours that it may make."
        )
    return None


def _charge(intent: Intent) -> Charge:
    return Charge(key=intent.idempotency_key, kind="tool", run_id=intent.run_id, agent=intent.agent, moved=intent.amount)


def _refused(connection: Connection, intent: Intent, judge: Callable[[int, AutonomyMode], None]) -> Exception | None:
    total = _sum(connection, intent.tool, intent.subject, intent.idempotency_key)
    mode = breaker.ceiling(connection, intent.agent)
    try:
        judge(total, mode)
    except Exception as e:
        return e
    return None


def _find(connection: Connection, key: str) -> Effect | None:
    """The row, locked until the commit: `settle`, which doesn't take `control`, mustn't record an outcome in between."""
    row = connection.execute(sa.select(effects).where(effects.c.idempotency_key == key).with_for_update()).mappings().first()
    return Effect.model_validate(dict(row)) if row else None


def _set(connection: Connection, key: str, **values: object) -> None:
    connection.execute(sa.update(effects).where(effects.c.idempotency_key == key).values(**values))


def _sum(connection: Connection, tool: str, subject: str, but: str) -> int:
    found = connection.execute(
        sa.select(sa.func.coalesce(sa.func.sum(effects.c.amount_cents), 0)).where(
            effects.c.subject == subject,
            effects.c.tool == tool,
            effects.c.state.in_(COUNTED),
            effects.c.reserved_at > _now() - DAY_MS,
            effects.c.idempotency_key != but,
        )
    ).scalar_one()
    return int(found)


def _values(intent: Intent, epoch: int) -> dict[str, object]:
    return {
        "idempotency_key": intent.idempotency_key,
        "run_id": intent.run_id,
        "workflow_id": intent.workflow_id,
        "agent": intent.agent,
        "tool": intent.tool,
        "resource": str(intent.resource),
        "subject": intent.subject,
        "amount_cents": intent.amount.cents if intent.amount else 0,
        "currency": intent.amount.currency if intent.amount else "",
        "action_digest": intent.action_digest,
        "approvers": ",".join(intent.approvers),
        "state": "reserved",
        "attempts": 1,
        "outcome": "",
        "reserved_at": _now(),
        "capability": intent.capability,
        "risk": intent.risk,
        "epoch": epoch,
    }
