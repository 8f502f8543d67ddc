"""One canonical form (RFC 8785 JSON) and one digest (SHA-256) for everything that is compared, signed or pinned."""

import hashlib
from typing import Any

import rfc8785
from pydantic import BaseModel

__all__ = ["canonical_json", "chain", "digest", "sha256"]


def canonical_json(value: Any) -> bytes:
    """`value` as RFC 8785 JSON. Models are dumped in JSON mode first.

    Raises:
        ValueError: for floats that JSON can't hold and integers beyond 2**53 - 1.
    """
    return rfc8785.dumps(value.model_dump(mode="json") if isinstance(value, BaseModel) else value)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """`sha256:<hex>` over the canonical JSON of `value`."""
    return sha256(canonical_json(value))


def chain(head: str, item: str) -> str:
    """The running digest of a sequence after `item` was appended to what `head` stands for."""
    return hashlib.sha256(f"{head}\n{hashlib.sha256(item.encode()).hexdigest()}".encode()).hexdigest()
