"""A ledger of each kind, for the tests of what is in it."""

from collections.abc import Generator
from pathlib import Path

import pytest

from activities.ledger.store import Ledger
from tests.postgres import PostgresServer

KINDS = ("sqlite", "postgresql")


def fresh(request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of an empty database of the kind that is this test's parameter."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.database()
    return f"sqlite:///{folder / 'ledger.db'}"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of each kind that the ledger runs on."""
    return fresh(request, tmp_path)


@pytest.fixture
def ledger(url: str) -> Generator[Ledger]:
    """An empty ledger of each kind."""
    found = Ledger(url)
    found.migrate()
    yield found
    found.close()
