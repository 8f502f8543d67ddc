"""An app's own connector: a help desk in one SQLite file beside the app, and whose case each one is."""

import sqlite3
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from tools.spec import Connector
from tools.subjects import Subjects


class Desk(Connector):
    @abstractmethod
    async def customer(self, case_id: str) -> str | None: ...

    @abstractmethod
    async def close(self, case_id: str, credit_cents: int, *, idempotency_key: str) -> None: ...


class SqliteDesk(Desk, Subjects):
    def __init__(self, path: Path) -> None:
        self._path = path

    async def subject_of(self, kind: str, resource_id: str) -> str | None:
        customer = await self.customer(resource_id) if kind == "case" else None
        return f"Customer:{customer}" if customer else None

    async def customer(self, case_id: str) -> str | None:
        with closing(sqlite3.connect(self._path)) as db:
            found = db.execute("SELECT customer FROM cases WHERE id = ?", (case_id,)).fetchone()
        return str(found[0]) if found else None

    async def close(self, case_id: str, credit_cents: int, *, idempotency_key: str) -> None:
        with closing(sqlite3.connect(self._path)) as db, db:
            db.execute("INSERT OR IGNORE INTO closed VALUES (?, ?, ?)", (idempotency_key, case_id, credit_cents))


def connectors() -> Mapping[type[Connector], Connector]:
    desk = SqliteDesk(Path(__file__).parent.parent / "desk.db")
    return {Desk: desk, Subjects: desk}
