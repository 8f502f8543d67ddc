"""A depot that ships parcels, in one SQLite file beside the app. It dedupes by our key only where it is asked to.

Its tables: `orders (id, customer)`, `parcels (id, order_id, key)`, `requests (kind, key)`, and `faults (kind, order_id)`, each
of which befalls one request: of those that concern it, the first.
"""

import sqlite3
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from policies.errors import ToolRefusal, Unavailable
from tools.spec import Connector
from tools.subjects import Subjects


class Depot(Connector):
    @abstractmethod
    async def customer(self, order_id: str) -> str | None: ...

    @abstractmethod
    async def ship(self, order_id: str, *, idempotency_key: str, dedupe: bool) -> int: ...

    @abstractmethod
    async def find(self, order_id: str, *, idempotency_key: str) -> int | None: ...


class SqliteDepot(Depot, Subjects):
    def __init__(self, path: Path) -> None:
        self._path = path

    async def subject_of(self, kind: str, resource_id: str) -> str | None:
        customer = await self.customer(resource_id) if kind == "order" else None
        return f"Customer:{customer}" if customer else None

    async def customer(self, order_id: str) -> str | None:
        with self._open() as db:
            shipped = db.execute("SELECT 1 FROM parcels WHERE order_id = ?", (order_id,)).fetchone()
            if shipped and _next(db, order_id, "no_facts"):
                raise ConnectionError("The depot's orders can't be read.")
            found = db.execute("SELECT customer FROM orders WHERE id = ?", (order_id,)).fetchone()
        return str(found[0]) if found else None

    async def ship(self, order_id: str, *, idempotency_key: str, dedupe: bool) -> int:
        with self._open() as db:
            db.execute("INSERT INTO requests VALUES ('ship', ?)", (idempotency_key,))
            fault = _next(db, order_id, "lost_before", "lost_after", "shut", "refuse")
            if fault == "lost_before":
                raise ConnectionError("The request didn't arrive.")
            if fault == "shut":
                raise Unavailable("The depot lets nobody in.")
            if fault == "refuse":
                raise ToolRefusal("no_van", "The depot has no van.")
            db.execute("BEGIN IMMEDIATE")
            known = db.execute("SELECT id FROM parcels WHERE key = ? AND ?", (idempotency_key, dedupe)).fetchone()
            if not known:
                db.execute("INSERT INTO parcels (order_id, key) VALUES (?, ?)", (order_id, idempotency_key))
                known = db.execute("SELECT last_insert_rowid()").fetchone()
            db.execute("COMMIT")
            if fault == "lost_after":
                raise ConnectionError("The answer didn't arrive.")
        return int(known[0])

    async def find(self, order_id: str, *, idempotency_key: str) -> int | None:
        with self._open() as db:
            db.execute("INSERT INTO requests VALUES ('find', ?)", (idempotency_key,))
            fault = _next(db, order_id, "no_search", "lag")
            if fault == "no_search":
                raise ConnectionError("The depot's search is down.")
            if fault == "lag":
                return None
            found = db.execute("SELECT id FROM parcels WHERE key = ?", (idempotency_key,)).fetchone()
        return int(found[0]) if found else None

    def _open(self) -> closing[sqlite3.Connection]:
        # What it waits for a lock is well within half of the tools' settling time.
        return closing(sqlite3.connect(self._path, timeout=0.8, isolation_level=None))


def _next(db: sqlite3.Connection, order_id: str, *kinds: str) -> str | None:
    """The next fault of one of `kinds` that is set for the order; it is used up."""
    found = db.execute("SELECT rowid, kind FROM faults WHERE order_id = ? ORDER BY rowid", (order_id,)).fetchall()
    for row, kind in found:
        if kind in kinds:
            db.execute("DELETE FROM faults WHERE rowid = ?", (row,))
            return str(kind)
    return None


def connectors() -> Mapping[type[Connector], Connector]:
    depot = SqliteDepot(Path(__file__).parent.parent / "depot.db")
    return {Depot: depot, Subjects: depot}
