"""The tools that Remit ships, as one catalog."""

from tools import billing, incidents, kb, support
from tools.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog.of(billing, incidents, kb, support)
