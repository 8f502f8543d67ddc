"""Long tool results: kept in external storage for their run alone, shown to the model piece by piece."""

import asyncio
import json

import structlog

from activities.storage import Storage
from policies.errors import StoredValueLost, ToolRefusal, Unavailable
from tools.results import Page, Results

__all__ = ["HEAD_BYTES", "StoredResults"]

HEAD_BYTES = 4096
KEEP_SECONDS = 5
"""How long storing may take. It comes out of the time of the tool's own attempt."""


class StoredResults(Results):
    """Results under the digest of their run's capsule and their text.

    G1: the capsule is stored with the text, and a call's capability binds its capsule to the workflow that the server says
    is calling. So whoever knows or guesses the address of another run's result gets nothing for it.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def keep(self, capsule: str, content: str) -> tuple[str, str]:
        """What the model is shown of `content`, and the reference to all of it.

        When the storage is away, the head is shown without a reference: the call has happened, and must not fail for this.
        """
        data = content.encode()
        try:
            ref = await asyncio.wait_for(self._storage.put(_header(capsule) + data), KEEP_SECONDS)
        except (Unavailable, TimeoutError) as e:
            structlog.get_logger("remit.worker").warning("a long result isn't kept", reason=str(e) or "it took too long")
            ref = ""
        end = _boundary(data, HEAD_BYTES)
        shown: dict[str, object] = {"head": data[:end].decode(), "truncated": True, "bytes": len(data)}
        shown |= {"ref": ref, "next_offset": end} if ref else {"error": "The rest couldn't be kept."}
        return json.dumps(shown, ensure_ascii=False), ref

    async def page(self, capsule: str, ref: str, offset: int, limit: int) -> Page:
        try:
            stored = await self._storage.get(ref)
        except (StoredValueLost, Unavailable) as e:
            raise ToolRefusal(e.code, e.message) from None
        header = _header(capsule)
        if not stored.startswith(header):
            raise ToolRefusal("unknown_ref", f"This run has no result `{ref}`.")
        data = stored[len(header) :]
        start = _boundary(data, offset)
        end = _boundary(data, start + limit)
        return Page(
            ref=ref,
            offset=start,
            bytes=len(data),
            next_offset=end if end < len(data) else None,
            text=data[start:end].decode(),
        )


def _header(capsule: str) -> bytes:
    return b"remit-result-1 " + capsule.encode() + b"\n"


def _boundary(data: bytes, at: int) -> int:
    """The last place up to `at` where a character of the UTF-8 text `data` begins, or its end."""
    at = min(at, len(data))
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return at
