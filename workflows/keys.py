"""How the things of a run are named, so that every attempt gives them the same name. Pure."""

import hashlib
from collections.abc import Mapping

from policies.canonical import canonical_json

__all__ = ["idempotency_key"]


def idempotency_key(workflow_id: str, step: int, index: int, tool: str, arguments: Mapping[str, object]) -> str:
    """The key under which a write may happen once.

    G2: a function of what the call is, never of the attempt, the worker or the time.
    """
    named = canonical_json([workflow_id, step, index, tool, dict(arguments)])
    return "rk_" + hashlib.sha256(named).hexdigest()[:40]
