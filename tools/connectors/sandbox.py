"""A business in one SQLite file: customers, invoices, tickets, alerts and all that agents write. For demos and tests only.

It behaves like a vendor: each write happens once per idempotency key, what makes no sense is refused in the transaction,
and faults can be armed as in a vendor's test mode.
"""

import asyncio
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self, TypeVar, get_args

from pydantic import ValidationError

from policies.bundle import explain
from policies.errors import InvalidInput, NotFound, ToolRefusal
from policies.models import Frozen
from tools.billing import Billing, Customer, Invoice, Refund
from tools.incidents import Alert, Incident, Incidents
from tools.subjects import Personal, PersonalDetail, Subjects, record
from tools.support import Support, Ticket

__all__ = ["KINDS", "TABLES", "Business", "Fault", "Operation", "Sandbox", "arm", "create", "rows"]

T = TypeVar("T")
Value = str | int
Row = dict[str, Value]
Operation = Literal["refund", "set_email", "add_tag", "add_note", "draft_reply", "open", "add_incident_note"]
Fault = Literal["slow", "crash_after_commit", "error_after_commit", "hang_after_commit"]
"""`slow` waits 1 s before the write; the others act right after its commit: SIGKILL to this process, `ConnectionError`, or
an hour of silence."""

_VERSION = 1
_ONCE = "idempotency_key TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL"
_SCHEMA = {
    "customers": "customer_id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, plan TEXT NOT NULL",
    "invoices": "invoice_id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, description TEXT NOT NULL, status TEXT NOT NULL,"
    " amount_cents INTEGER NOT NULL, refunded_cents INTEGER NOT NULL CHECK (refunded_cents BETWEEN 0 AND amount_cents),"
    " currency TEXT NOT NULL, issued_on TEXT NOT NULL",
    "tickets": "ticket_id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, subject TEXT NOT NULL, body TEXT NOT NULL,"
    " tags TEXT NOT NULL",
    "alerts": "alert_id TEXT PRIMARY KEY, service TEXT NOT NULL, title TEXT NOT NULL, details TEXT NOT NULL,"
    " status TEXT NOT NULL",
    "refunds": "refund_id TEXT PRIMARY KEY, invoice_id TEXT NOT NULL, customer_id TEXT NOT NULL,"
    f" amount_cents INTEGER NOT NULL CHECK (amount_cents > 0), currency TEXT NOT NULL, reason TEXT NOT NULL, {_ONCE}",
    "email_changes": f"change_id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, email TEXT NOT NULL, {_ONCE}",
    "ticket_tags": f"tag_id TEXT PRIMARY KEY, ticket_id TEXT NOT NULL, tag TEXT NOT NULL, {_ONCE}",
    "account_notes": "note_id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, text TEXT NOT NULL,"
    f" visibility TEXT NOT NULL, {_ONCE}",
    "reply_drafts": f"draft_id TEXT PRIMARY KEY, ticket_id TEXT NOT NULL, text TEXT NOT NULL, {_ONCE}",
    "incidents": f"incident_id TEXT PRIMARY KEY, alert_id TEXT NOT NULL, severity TEXT NOT NULL, title TEXT NOT NULL, {_ONCE}",
    "incident_notes": f"note_id TEXT PRIMARY KEY, incident_id TEXT NOT NULL, text TEXT NOT NULL, {_ONCE}",
    "faults": "operation TEXT NOT NULL, resource_id TEXT NOT NULL, kind TEXT NOT NULL,"
    " PRIMARY KEY (operation, resource_id, kind)",
    "contacts": "customer_id TEXT PRIMARY KEY, phone TEXT NOT NULL, street TEXT NOT NULL, postal_code TEXT NOT NULL,"
    " city TEXT NOT NULL",
}
TABLES = tuple(_SCHEMA)
KINDS = ("alert", "customer", "ticket")
"""Of what a run can be about."""


class Contact(Frozen):
    """How a customer can be reached, besides by e-mail. No tool shows it."""

    customer_id: str
    phone: str = ""
    street: str = ""
    postal_code: str = ""
    city: str = ""


class Business(Frozen):
    """What a business starts with; the file `business.json` of the demo has this shape."""

    customers: tuple[Customer, ...] = ()
    invoices: tuple[Invoice, ...] = ()
    tickets: tuple[Ticket, ...] = ()
    alerts: tuple[Alert, ...] = ()
    contacts: tuple[Contact, ...] = ()


class Sandbox(Billing, Support, Incidents, Subjects, Personal):
    """The connector of all these ports over one business file, safe for many processes and threads at once.

    Raises (each operation):
        ToolRefusal: `not_found`, `not_paid`, `not_refundable`, `not_firing`, `idempotency_conflict` or
            `idempotency_key_missing`; nothing was written.
        NotFound: there is no business at `path`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        # Kept open between calls: closing the last connection of a WAL file checkpoints it, which costs more than a write.
        self._idle: list[sqlite3.Connection] = []

    @classmethod
    def create(cls, path: Path | str, business: Mapping[str, object]) -> Self:
        """The sandbox at `path`, filled with `business` unless the file holds one already.

        Raises:
            InvalidInput: `business` doesn't have the shape of `Business`.
        """
        create(path, business)
        return cls(path)

    def close(self) -> None:
        """Close the connections that no call is using; a later call opens new ones."""
        while self._idle:
            self._idle.pop().close()

    async def subject_of(self, kind: str, resource_id: str) -> str | None:
        """Whom a run about this object is for: `Customer:cus_..` or `Alert:AL-..`; None when the object doesn't exist."""
        if kind == "alert":
            return f"Alert:{resource_id}" if await self.alert(resource_id) else None
        if kind == "customer":
            return f"Customer:{resource_id}" if await self.customer(resource_id) else None
        ticket = await self.ticket(resource_id) if kind == "ticket" else None
        return f"Customer:{ticket.customer_id}" if ticket else None

    async def known(self, subject: str) -> tuple[PersonalDetail, ...]:
        """Name, e-mail address, phone number and address of a customer; what isn't filled in is left out."""
        kind, _, customer_id = subject.partition(":")
        if kind != "Customer":
            return ()

        def read(db: sqlite3.Connection) -> list[Row]:
            found = _select(db, "SELECT name, email FROM customers WHERE customer_id = ?", customer_id)
            if _select(db, "SELECT 1 FROM sqlite_master WHERE name = 'contacts'"):  # not in a file from before there were any
                found += _select(db, "SELECT * FROM contacts WHERE customer_id = ?", customer_id)
            return found

        row = {name: str(value) for found in await self._run(read) for name, value in found.items()}
        return record(**{name: row.get(name, "") for name in ("name", "email", "phone", "street", "postal_code", "city")})

    async def customer(self, customer_id: str) -> Customer | None:
        found = await self._get("customers", "customer_id", customer_id)
        return Customer.model_validate(found) if found else None

    async def invoice(self, invoice_id: str) -> Invoice | None:
        found = await self._get("invoices", "invoice_id", invoice_id)
        return Invoice.model_validate(found) if found else None

    async def invoices(self, customer_id: str) -> tuple[Invoice, ...]:
        sql = "SELECT * FROM invoices WHERE customer_id = ? ORDER BY issued_on DESC, invoice_id DESC"
        return tuple(Invoice.model_validate(row) for row in await self._run(lambda db: _select(db, sql, customer_id)))

    async def refund(self, invoice_id: str, amount_cents: int, reason: str, *, idempotency_key: str) -> Refund:
        def move(db: sqlite3.Connection) -> Row:
            invoice = Invoice.model_validate(_existing(db, "invoices", "invoice_id", invoice_id))
            if invoice.status != "paid":
                raise ToolRefusal("not_paid", f"Invoice `{invoice_id}` is {invoice.status}; only a paid one can be refunded.")
            if not 0 < amount_cents <= invoice.refundable_cents:
                raise ToolRefusal(
                    "not_refundable",
                    f"Invoice `{invoice_id}` has {invoice.refundable_cents} refundable cents, not {amount_cents}.",
                )
            db.execute(
                "UPDATE invoices SET refunded_cents = refunded_cents + ? WHERE invoice_id = ?", (amount_cents, invoice_id)
            )
            return {
                "refund_id": f"re_{5001 + _count(db, 'refunds')}",
                "customer_id": invoice.customer_id,
                "currency": invoice.currency,
            }

        parameters: Row = {"invoice_id": invoice_id, "amount_cents": amount_cents, "reason": reason}
        row = await self._once("refund", invoice_id, "refunds", parameters, idempotency_key, move)
        return Refund.model_validate({name: row[name] for name in Refund.model_fields})

    async def set_email(self, customer_id: str, email: str, *, idempotency_key: str) -> None:
        def change(db: sqlite3.Connection) -> Row:
            _existing(db, "customers", "customer_id", customer_id)
            db.execute("UPDATE customers SET email = ? WHERE customer_id = ?", (email, customer_id))
            return {"change_id": f"ch_{_count(db, 'email_changes') + 1}"}

        parameters: Row = {"customer_id": customer_id, "email": email}
        await self._once("set_email", customer_id, "email_changes", parameters, idempotency_key, change)

    async def ticket(self, ticket_id: str) -> Ticket | None:
        def read(db: sqlite3.Connection) -> Ticket | None:
            found = _select(db, "SELECT * FROM tickets WHERE ticket_id = ?", ticket_id)
            if not found:
                return None
            added = _select(db, "SELECT tag FROM ticket_tags WHERE ticket_id = ? ORDER BY rowid", ticket_id)
            tags = dict.fromkeys([*json.loads(str(found[0]["tags"])), *(row["tag"] for row in added)])
            return Ticket.model_validate({**found[0], "tags": tuple(tags)})

        return await self._run(read)

    async def add_tag(self, ticket_id: str, tag: str, *, idempotency_key: str) -> str:
        def add(db: sqlite3.Connection) -> Row:
            _existing(db, "tickets", "ticket_id", ticket_id)
            return {"tag_id": f"tag_{_count(db, 'ticket_tags') + 1}"}

        parameters: Row = {"ticket_id": ticket_id, "tag": tag}
        return str((await self._once("add_tag", ticket_id, "ticket_tags", parameters, idempotency_key, add))["tag_id"])

    async def add_note(self, customer_id: str, text: str, visibility: str, *, idempotency_key: str) -> str:
        def add(db: sqlite3.Connection) -> Row:
            _existing(db, "customers", "customer_id", customer_id)
            return {"note_id": f"note_{_count(db, 'account_notes') + 1}"}

        parameters: Row = {"customer_id": customer_id, "text": text, "visibility": visibility}
        return str((await self._once("add_note", customer_id, "account_notes", parameters, idempotency_key, add))["note_id"])

    async def draft_reply(self, ticket_id: str, text: str, *, idempotency_key: str) -> str:
        def add(db: sqlite3.Connection) -> Row:
            _existing(db, "tickets", "ticket_id", ticket_id)
            return {"draft_id": f"draft_{_count(db, 'reply_drafts') + 1}"}

        parameters: Row = {"ticket_id": ticket_id, "text": text}
        return str((await self._once("draft_reply", ticket_id, "reply_drafts", parameters, idempotency_key, add))["draft_id"])

    async def alert(self, alert_id: str) -> Alert | None:
        found = await self._get("alerts", "alert_id", alert_id)
        return Alert.model_validate(found) if found else None

    async def incident(self, incident_id: str) -> Incident | None:
        found = await self._get("incidents", "incident_id", incident_id)
        return _incident(found) if found else None

    async def open(self, alert_id: str, severity: str, title: str, *, idempotency_key: str) -> Incident:
        """Open an incident called after its alert: `INC-301` for `AL-301`, and `INC-301x2` should there be a second."""

        def add(db: sqlite3.Connection) -> Row:
            alert = _existing(db, "alerts", "alert_id", alert_id)
            if alert["status"] != "firing":
                raise ToolRefusal("not_firing", f"Alert `{alert_id}` is {alert['status']}; an incident needs a firing alert.")
            before = len(_select(db, "SELECT 1 FROM incidents WHERE alert_id = ?", alert_id))
            return {"incident_id": f"INC-{alert_id.removeprefix('AL-')}{f'x{before + 1}' if before else ''}"}

        parameters: Row = {"alert_id": alert_id, "severity": severity, "title": title}
        return _incident(await self._once("open", alert_id, "incidents", parameters, idempotency_key, add))

    async def add_incident_note(self, incident_id: str, text: str, *, idempotency_key: str) -> str:
        def add(db: sqlite3.Connection) -> Row:
            _existing(db, "incidents", "incident_id", incident_id)
            return {"note_id": f"inote_{_count(db, 'incident_notes') + 1}"}

        parameters: Row = {"incident_id": incident_id, "text": text}
        row = await self._once("add_incident_note", incident_id, "incident_notes", parameters, idempotency_key, add)
        return str(row["note_id"])

    async def _once(
        self,
        operation: Operation,
        resource_id: str,
        table: str,
        parameters: Row,
        key: str,
        effect: Callable[[sqlite3.Connection], Row],
    ) -> Row:
        """The row that `key` stands for in `table`, written now by `effect` if there is none yet."""
        if not key:
            raise ToolRefusal("idempotency_key_missing", f"`{operation}` needs an idempotency key.")

        def write(db: sqlite3.Connection) -> tuple[Row, set[Value]]:
            with _transaction(db):
                if known := _select(db, f"SELECT * FROM {table} WHERE idempotency_key = ?", key):
                    if any(known[0][name] != value for name, value in parameters.items()):
                        raise ToolRefusal(
                            "idempotency_conflict", f"The idempotency key of this `{operation}` was used with other parameters."
                        )
                    return known[0], set()
                row: Row = {**effect(db), **parameters, "idempotency_key": key, "created_at": datetime.now(UTC).isoformat()}
                _insert(db, table, row)
                # In the same transaction as the write: a fault that survived its crash would crash every restart again.
                fired = _select(db, f"DELETE FROM faults WHERE {_ARMED} RETURNING kind", operation, resource_id)
            return row, {fault["kind"] for fault in fired}

        def run(db: sqlite3.Connection) -> Row:
            if _select(db, f"SELECT 1 FROM faults WHERE {_ARMED} AND kind = 'slow'", operation, resource_id):
                time.sleep(1)
            row, fired = write(db)
            if "crash_after_commit" in fired:
                os.kill(os.getpid(), signal.SIGKILL)
            if "hang_after_commit" in fired:
                time.sleep(3600)
            if "error_after_commit" in fired:
                raise ConnectionError(f"The connection to the sandbox broke after `{operation}` was sent.")
            return row

        return await self._run(run)

    async def _get(self, table: str, column: str, value: str) -> Row | None:
        found = await self._run(lambda db: _select(db, f"SELECT * FROM {table} WHERE {column} = ?", value))
        return found[0] if found else None

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def call() -> T:
            try:
                db = self._idle.pop()
            except IndexError:
                db = _connect(self.path)
            try:
                return work(db)
            finally:
                self._idle.append(db)

        return await asyncio.to_thread(call)


def create(path: Path | str, business: Mapping[str, object]) -> None:
    """Make the tables at `path` and load `business`, unless the file holds one already; then nothing changes.

    Raises:
        InvalidInput: `business` doesn't have the shape of `Business`.
    """
    try:
        loaded = Business.model_validate(business)
    except ValidationError as e:
        raise InvalidInput(f"The business for the sandbox can't be used: {explain(e)}.") from None
    with closing(_connect(Path(path), make=True)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        with _transaction(db):
            if _select(db, "PRAGMA user_version")[0]["user_version"]:
                return
            for table, columns in _SCHEMA.items():
                db.execute(f"CREATE TABLE {table} ({columns})")
            for table in Business.model_fields:
                for item in getattr(loaded, table):
                    row = item.model_dump()
                    _insert(db, table, {**row, "tags": json.dumps(row["tags"])} if "tags" in row else row)
            db.execute(f"PRAGMA user_version = {_VERSION}")


def rows(path: Path | str, table: str) -> list[Row]:
    """All rows of `table`, in the order they were written: the evidence of what happened.

    Raises:
        NotFound: the table or the file doesn't exist.
    """
    if table not in TABLES:
        raise NotFound(f"The sandbox has no table `{table[:80]}`; it has {', '.join(TABLES)}.")
    with closing(_connect(Path(path))) as db:
        return _select(db, f"SELECT * FROM {table} ORDER BY rowid")


def arm(path: Path | str, operation: Operation, resource_id: str, kind: Fault) -> None:
    """Make the next `operation` on `resource_id` that really writes fail in the way of `kind`, once.

    Raises:
        InvalidInput: there is no such operation or kind.
        NotFound: there is no business at `path`.
    """
    if operation not in get_args(Operation) or kind not in get_args(Fault):
        raise InvalidInput(f"A fault needs one of the operations {get_args(Operation)} and one of the kinds {get_args(Fault)}.")
    with closing(_connect(Path(path))) as db, _transaction(db):
        db.execute("INSERT OR REPLACE INTO faults VALUES (?, ?, ?)", (operation, resource_id, kind))


_ARMED = "operation = ? AND resource_id = ?"


def _connect(path: Path, *, make: bool = False) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={'rwc' if make else 'rw'}"
    try:
        # One thread at a time uses a connection, though not always the same one.
        db = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError as e:
        raise NotFound(f"There is no sandbox business at `{path}` ({e}); make one with `Sandbox.create`.") from None
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA busy_timeout = 30000")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


@contextmanager
def _transaction(db: sqlite3.Connection) -> Generator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _select(db: sqlite3.Connection, sql: str, *values: Value) -> list[Row]:
    return [dict(row) for row in db.execute(sql, values)]


def _insert(db: sqlite3.Connection, table: str, row: Row) -> None:
    marks = ", ".join("?" * len(row))
    db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))


def _existing(db: sqlite3.Connection, table: str, column: str, value: str) -> Row:
    if found := _select(db, f"SELECT * FROM {table} WHERE {column} = ?", value):
        return found[0]
    raise ToolRefusal("not_found", f"There is no {table.removesuffix('s')} `{value[:80]}`.")


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(_select(db, f"SELECT count(*) AS n FROM {table}")[0]["n"])


def _incident(row: Row) -> Incident:
    return Incident.model_validate({name: row[name] for name in Incident.model_fields})
