"""The tools that Remit ships, as one catalog."""

from tools import billing, incidents, kb, results, support
from tools.catalog import Catalog

__all__ = ["CATALOG", "MODULES"]

MODULES = (billing, incidents, kb, results, support)
CATALOG = Catalog.of(*MODULES)
