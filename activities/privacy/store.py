"""Where the names of runs lie: one encrypted file for each run, in the run's own storage. Never in history."""

from typing import Protocol

from pydantic import ValidationError

from activities.privacy.names import Written
from policies.canonical import sha256
from policies.errors import PlaceholdersLost

__all__ = ["FOLDER", "Files", "RunCipher", "VaultStore"]

FOLDER = "placeholders"


class Files(Protocol):
    """Storage of files by name."""

    async def put_file(self, name: str, data: bytes) -> None:
        """Raises:
        Unavailable: it couldn't be stored; a later try may succeed.
        """
        ...

    async def get_file(self, name: str) -> bytes | None:
        """Raises:
        Unavailable: the storage can't be read now.
        """
        ...


class RunCipher(Protocol):
    """Encrypts for one run: what was sealed for another one can't be opened."""

    def seal(self, run_id: str, data: bytes) -> bytes:
        """Raises:
        InvalidInput: there is no key.
        """
        ...

    def unseal(self, run_id: str, sealed: bytes) -> bytes:
        """Raises:
        Unavailable: the key isn't here yet.
        PlaceholdersLost: the key is gone, or these bytes weren't sealed for this run.
        """
        ...


class VaultStore:
    """The names of runs, encrypted. Every method raises what `Files` and `RunCipher` raise."""

    def __init__(self, files: Files, cipher: RunCipher) -> None:
        self._files = files
        self._cipher = cipher

    async def load(self, run_id: str) -> Written | None:
        """The names of a run; None when there are none."""
        sealed = await self._files.get_file(_name(run_id))
        if sealed is None:
            return None
        try:
            return Written.model_validate_json(self._cipher.unseal(run_id, sealed))
        except ValidationError:
            raise PlaceholdersLost("The placeholders of this run are of a form that this version doesn't know.") from None

    async def save(self, run_id: str, written: Written) -> None:
        await self._files.put_file(_name(run_id), self._cipher.seal(run_id, written.model_dump_json().encode()))


def _name(run_id: str) -> str:
    return f"{FOLDER}/{sha256(run_id.encode()).removeprefix('sha256:')}"
