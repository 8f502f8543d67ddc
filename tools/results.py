"""Results that were too long to show: the model has their head and a reference, and reads on with `read_more`."""

from abc import abstractmethod
from typing import Annotated

from pydantic import Field

from tools.spec import Arguments, Connector, Result, ToolContext, tool

__all__ = ["MAX_PAGE_BYTES", "READ_MORE", "Page", "Results"]

READ_MORE = "read_more"
"""Pinned for every run; offered from when on the run has such a result."""
MAX_PAGE_BYTES = 16_384


class Page(Result):
    """A piece of a result. Offsets count the bytes of its UTF-8 text.

    Attributes:
        next_offset: where the next piece begins; None at the end.
    """

    ref: str
    offset: int
    bytes: int
    next_offset: int | None
    text: str


class Results(Connector):
    """Port to the long results of runs."""

    @abstractmethod
    async def page(self, capsule: str, ref: str, offset: int, limit: int) -> Page:
        """About `limit` bytes of the result `ref` of the run with this capsule.

        Raises:
            ToolRefusal: the run has no such result.
        """


class ReadMore(Arguments):
    ref: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="The `ref` of a truncated result.")]
    offset: Annotated[int, Field(ge=0, le=2**53 - 1, description="The byte to start at: the last `next_offset`.")]
    limit: Annotated[int, Field(ge=256, le=MAX_PAGE_BYTES, description="How many bytes to read.")] = 8192


# It isn't `untrusted` by itself: where the text came from outside, the tool that brought it has tainted the run already.
@tool(effect="read", risk="low", scope="results:read", resource=("StoredResult", "ref"))
async def read_more(args: ReadMore, context: ToolContext) -> Page:
    """Read on in a tool result that was cut off, which has `"truncated": true` and a `ref`."""
    limit = min(args.limit, context.result_bytes)
    return await context.use(Results).page(context.capsule, args.ref, args.offset, limit)
