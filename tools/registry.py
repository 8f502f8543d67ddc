"""The catalog of this process, for workflow code, which takes no arguments: installed once, before a worker starts. Pure.

It holds no state of a run. A run that was admitted with another catalog notices by the digests that its capsule pins.
"""

from tools.builtin import CATALOG
from tools.catalog import Catalog

__all__ = ["current", "install"]

_installed = CATALOG


def install(catalog: Catalog) -> None:
    """Make `catalog` the one that workflow code of this process uses; without it, that is what Remit ships."""
    global _installed
    _installed = catalog


def current() -> Catalog:
    """The catalog that was installed last."""
    return _installed
