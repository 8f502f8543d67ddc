"""Finished parts of long runs, in storage: written once, read by whoever shows the run or asks a model about it."""

from pydantic import ValidationError

from activities.storage import Storage
from policies.errors import StoredValueLost
from workflows.messages import Segment, StoredSegment

__all__ = ["read_segment", "write_segment"]


async def write_segment(storage: Storage, stored: StoredSegment) -> str:
    """Store a segment and return its key.

    Raises:
        Unavailable: it couldn't be stored now.
    """
    return await storage.put(stored.model_dump_json(exclude_none=True).encode())


async def read_segment(storage: Storage, segment: Segment) -> StoredSegment:
    """What `segment` names.

    Raises:
        StoredValueLost: it isn't there, or isn't a segment.
        Unavailable: the storage can't be read now.
    """
    try:
        return StoredSegment.model_validate_json(await storage.get(segment.key))
    except ValidationError:
        raise StoredValueLost(f"`{segment.key}` in {storage.place} isn't a part of a run.") from None
