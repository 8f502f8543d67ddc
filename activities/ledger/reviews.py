"""Reviews of tools in the ledger, as people signed them. Each function works in the transaction of its caller."""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger.tables import tool_reviews
from policies.reviews import Kept

__all__ = ["add", "add_seal", "of"]


def add(connection: Connection, kept: Kept) -> None:
    """Add a row, which counts for whoever can verify it."""
    connection.execute(sa.insert(tool_reviews).values(kept.model_dump(exclude={"id"})))


def of(connection: Connection, tools: Collection[str]) -> list[Kept]:
    """What there is on `tools`, oldest first, verified by nobody yet."""
    query = sa.select(tool_reviews).where(tool_reviews.c.tool.in_(sorted(tools))).order_by(tool_reviews.c.id)
    return [Kept.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def add_seal(connection: Connection, kept: Kept, seal: str) -> None:
    """Add a worker's seal; of two that come at once, either will do."""
    connection.execute(sa.update(tool_reviews).where(tool_reviews.c.id == kept.id).values(seal=seal))
