"""Stored histories of real runs, for tests of what is made from them: their traces, and the ledger's rows of those."""

from pathlib import Path

from activities.ledger.rows import DecisionRow
from remit import __version__
from remit.connection import CONVERTER
from remit.history import read_file
from remit.proof.build import build
from remit.proof.lines import Trace
from remit.whatif.rows import rows_of
from tools import registry
from tools.builtin import CATALOG

__all__ = ["HISTORIES", "rows", "stored", "trace"]

HISTORIES = Path(__file__).parent / "replay" / "histories" / __version__
_made: dict[str, Trace] = {}


def stored(name: str) -> Path:
    """The file with the history of the scenario `name`."""
    return HISTORIES / f"{name}.json"


async def trace(name: str) -> Trace:
    """The trace of that run, made once."""
    if name not in _made:
        registry.install(CATALOG)
        _made[name] = await build([read_file(stored(name))], CONVERTER)
    return _made[name]


async def rows(*names: str) -> list[DecisionRow]:
    """The ledger's rows of those runs."""
    return [row for name in names for row in rows_of(await trace(name), CATALOG)]
