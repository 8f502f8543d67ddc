"""The ledger's transactions, one method each. Blocking: activities call them in a thread."""

import json
import time
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

from activities.ledger.rows import Effect, EffectState, Intent
from activities.ledger.tables import control, effects, kill_switches
from policies.errors import InvalidInput, KillSwitchEngaged, NotFound, OutcomeIndeterminate, Unavailable

__all__ = [
    "COUNTED",
    "DAY_MS",
    "MIGRATIONS",
    "Effect",
    "EffectState",
    "Intent",
    "Ledger",
    "existing",
    "run_scope",
]

COUNTED: tuple[EffectState, ...] = ("reserved", "sent", "done", "indeterminate")
"""States whose amounts count towards sums: an unknown outcome counts as if it had happened."""
DAY_MS = 24 * 60 * 60 * 1000
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x72656D6974  # "remit": the advisory lock of PostgreSQL that migrations hold
CANT_OPEN = (
    "`REMIT_LEDGER_URL` can't be opened; use `sqlite:////absolute/path/ledger.db` or `postgresql+psycopg://user@host/database`."
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
                self._engine = _postgresql(parsed)
            else:
                self._engine = _sqlite(parsed)
        # A port that is no number: ValueError.
        except (ArgumentError, ImportError, NoSuchModuleError, OSError, ValueError):
            raise InvalidInput(CANT_OPEN) from None

    def close(self) -> None:
        self._engine.dispose()

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

    def engage(self, scope: str, reason: str, by: str) -> int:
        """Write an off switch and return when, in Unix milliseconds. Setting it again keeps the first."""
        with self._engine.begin() as connection:
            epoch = _lock(connection) + 1
            found = connection.execute(sa.select(kill_switches.c.set_at).where(kill_switches.c.scope == scope)).scalar()
            if found is not None:
                return int(found)
            now = _now()
            connection.execute(sa.update(control).values(epoch=epoch))
            row = {"scope": scope, "reason": _text(reason), "set_by": _text(by)[:200], "epoch": epoch, "set_at": now}
            connection.execute(sa.insert(kill_switches).values(row))
            return now

    def subject_sum(self, tool: str, subject: str) -> int:
        """Cents that `tool` moved, or may have moved, for `subject` in the last 24 h."""
        with self._engine.connect() as connection:
            return _sum(connection, tool, subject, "")

    def reserve(self, intent: Intent, scopes: Sequence[str], judge: Callable[[int], None]) -> Effect:
        """Reserve the effect, in one transaction with the off switches and the sums that its verdict rests on.

        Args:
            judge: called with the current sum for the subject (this effect excluded); raises to refuse the reservation.

        Returns:
            The row: `reserved` means that the caller performs it now; `done` and `failed` are what an earlier attempt
            recorded, and nothing is to be performed.

        Raises:
            KillSwitchEngaged: an off switch covers it; nothing was reserved, or the reservation was released.
            OutcomeIndeterminate: an earlier attempt may have performed it and it can't safely be repeated.
        """
        row: Effect | None = None
        failure: Exception | None = None
        with self._engine.begin() as connection:
            _lock(connection)
            row = _find(connection, intent.idempotency_key)
            killed = _killed(connection, scopes)
            if row and row.state in ("done", "failed"):
                return row
            if row and row.state in ("sent", "indeterminate"):
                # G2: it may have happened. Only a vendor that dedupes by our key may be asked again, and not after a kill.
                if row.state == "indeterminate" or killed is not None or intent.strategy != "native_key":
                    _set(connection, intent.idempotency_key, state="indeterminate", settled_at=_now())
                    failure = OutcomeIndeterminate(f"Whether `{intent.tool}` on `{intent.resource}` happened isn't known.")
                else:
                    _set(connection, intent.idempotency_key, attempts=row.attempts + 1)
            elif killed is not None:
                if row:
                    _set(connection, intent.idempotency_key, state="released", settled_at=_now())
                failure = KillSwitchEngaged(f"A kill switch is on: {killed}")
            elif refused := _refused(judge, _sum(connection, intent.tool, intent.subject, intent.idempotency_key)):
                if row:
                    _set(connection, intent.idempotency_key, state="released", settled_at=_now())
                failure = refused
            else:
                if row:
                    again = {**_values(intent), "attempts": row.attempts + 1, "settled_at": None}
                    _set(connection, intent.idempotency_key, **again)
                else:
                    connection.execute(sa.insert(effects).values(**_values(intent)))
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
            if _killed(connection, scopes) is not None:
                connection.execute(mine.where(effects.c.state == "reserved").values(state="released", settled_at=_now()))
                return False
            marked = connection.execute(mine.where(effects.c.state.in_(("reserved", "sent"))).values(state="sent"))
            return marked.rowcount == 1

    def settle(self, key: str, state: Literal["done", "failed", "released", "indeterminate"], outcome: str) -> None:
        """Record what became of the effect. What is known to be done or failed stays so."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(effects)
                .where(effects.c.idempotency_key == key, effects.c.state.not_in(("done", "failed")))
                .values(state=state, outcome=_text(outcome), settled_at=_now())
            )

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
        with self._engine.connect() as connection:
            return [Effect.model_validate(dict(r)) for r in connection.execute(query).mappings()]

    def current(self) -> bool:
        """Whether the schema is the one that this build works with."""
        with self._engine.connect() as connection:
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


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidInput(CANT_OPEN)  # a ledger that forgets, or that no other process sees, is none
    engine = sa.create_engine(url, hide_parameters=True)
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(engine, "connect")
    def _(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

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


def _lock(connection: Connection) -> int:
    return int(connection.execute(sa.select(control.c.epoch).with_for_update()).scalar_one())


def _killed(connection: Connection, scopes: Sequence[str]) -> str | None:
    """The reason of an off switch that covers one of `scopes`."""
    query = sa.select(kill_switches.c.reason).where(kill_switches.c.scope.in_(list(scopes))).limit(1)
    return connection.execute(query).scalar()


def _refused(judge: Callable[[int], None], total: int) -> Exception | None:
    try:
        judge(total)
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


def _values(intent: Intent) -> dict[str, object]:
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
    }


def _text(given: str) -> str:
    """`given` without what a database can't store: a stranger's odd letter must not stop a kill."""
    return given.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _now() -> int:
    return int(time.time() * 1000)
