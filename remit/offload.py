"""Payloads that are too large for history: stored outside, and named in it. What `temporalio` calls external storage."""

from collections.abc import Sequence

from temporalio.api.common.v1 import Payload
from temporalio.api.sdk.v1.external_storage_pb2 import ExternalStorageReference
from temporalio.converter import (
    ExternalStorage,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverSelectContext,
    StorageDriverStoreContext,
)

from activities.storage import Storage, storage_at
from policies.errors import StoredValueLost
from workflows.messages import LOST

__all__ = ["INLINE", "THRESHOLD_BYTES", "external_storage"]

THRESHOLD_BYTES = 128 * 1024
"""Larger payloads are stored outside. Twenty calls of one turn then fit into a gRPC message of 4 MB, whatever they bring."""
INLINE = "remit-inline"
"""Metadata of a payload that stays where it is if it can: the answer of a query is in no history, and is asked for often."""
INLINE_BYTES = 1_500_000
"""Up to here: Temporal refuses one of 2 MB."""
_DRIVER = "remit"
_KEY = "key"


class _Driver(StorageDriver):
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def name(self) -> str:
        return _DRIVER

    def type(self) -> str:
        return "remit.storage"

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        return [StorageDriverClaim({_KEY: await self._storage.put(p.SerializeToString())}) for p in payloads]

    async def retrieve(self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]) -> list[Payload]:
        return [await self._payload(claim.claim_data.get(_KEY, "")) for claim in claims]

    async def _payload(self, key: str) -> Payload:
        """The payload at `key`. One that is lost comes out as one that says so.

        An error here would fail the workflow task, again and again, also for a stranger's signal that names what never was.
        """
        try:
            return Payload.FromString(await self._storage.get(key))
        except StoredValueLost as e:
            return Payload(metadata={"encoding": LOST.encode()}, data=e.message.encode())


class _OwnReferences(ExternalStorage):
    """External storage that leaves a reference alone which isn't its own, or is none, for the same reason."""

    def _decode_reference(self, payload: Payload) -> ExternalStorageReference | None:
        try:
            found = super()._decode_reference(payload)
        except Exception:  # a stranger's bytes
            return None
        return found if found and found.driver_name == _DRIVER else None


def external_storage(place: str) -> ExternalStorage:
    """Payloads over the threshold below `place`, apart from all else that is stored there: no reference can name that.

    Raises:
        InvalidInput: `place` can't be used.
    """
    driver = _Driver(storage_at(f"{place.rstrip('/')}/payloads"))

    def chosen(_: StorageDriverSelectContext, payload: Payload) -> StorageDriver | None:
        return None if INLINE in payload.metadata and payload.ByteSize() < INLINE_BYTES else driver

    return _OwnReferences(drivers=[driver], driver_selector=chosen, payload_size_threshold=THRESHOLD_BYTES)
