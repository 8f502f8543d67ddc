"""Where sealed capsules are kept for good: files in a folder or in an S3 bucket, by the run's workflow id and run id."""

import re

from activities.storage import FolderStorage, S3Storage, storage_at
from policies.canonical import sha256
from policies.errors import NotFound
from remit.proof.capsule import CapsuleFile, read, written
from remit.settings import Settings

__all__ = ["Sink"]

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Sink:
    """Capsules, each in a file of its own, which nothing here changes or deletes."""

    def __init__(self, files: FolderStorage | S3Storage) -> None:
        self._files = files

    @classmethod
    def of(cls, settings: Settings) -> "Sink":
        """The one that `REMIT_TRACES` names.

        Raises:
            InvalidInput: it is neither a folder nor a bucket.
        """
        return cls(storage_at(settings.traces_place, "REMIT_TRACES"))

    async def put(self, capsule: CapsuleFile) -> str:
        """Keep a capsule, and return its place: `WORKFLOW/RUN.SEAL.capsule.gz`.

        The seal is in the name, for a root that somebody else's took the number of must not stand in the other's file.

        Raises:
            Unavailable: it couldn't be written; a later try may succeed.
        """
        root = capsule.root.root
        seal = capsule.root.digest.removeprefix("sha256:")[:12]
        place = f"{_part(root.workflow_id)}/{_part(root.run_id)}.{seal}.capsule.gz"
        await self._files.put_file(place, written(capsule))
        return place

    async def get(self, place: str) -> CapsuleFile:
        """What was kept at `place`.

        Raises:
            NotFound: there is nothing.
            InvalidInput: it isn't what was written there.
            Unavailable: it can't be read now.
        """
        data = await self._files.get_file(place)
        if data is None:
            raise NotFound(f"`{place}` isn't in {self._files.place}; point `REMIT_TRACES` at where the workers keep traces.")
        return read(data)


def _part(name: str) -> str:
    """`name` as a part of a path: as it is, or so that no two names become one."""
    if _PLAIN.fullmatch(name):
        return name
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)[:60]}-{sha256(name.encode())[7:23]}"
