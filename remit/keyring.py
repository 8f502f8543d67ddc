"""The root keys that sign capabilities, in a file that only the workers can read."""

import json
import os
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from policies.capability import Keyring, new_key, public_of
from policies.errors import InvalidInput, NotFound
from remit.files import locked, write_private

__all__ = ["RootKey", "RootKeys"]


class RootKey(BaseModel):
    """One key. Times in Unix seconds; `private` is missing where it must not be, on a worker that only verifies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int = Field(ge=1, lt=2**32)
    created_at: int
    public: str = Field(pattern="^[0-9a-f]{64}$")
    private: str = Field(default="", pattern="^([0-9a-f]{64})?$", repr=False)


_FILE = TypeAdapter(tuple[RootKey, ...])


class RootKeys:
    """The file of root keys, read again when it has changed, so that keys rotate under running workers."""

    def __init__(self, path: Path, *, env: str) -> None:
        self._path = path
        self._env = env
        self._read: tuple[tuple[int, int], Keyring] | None = None

    def __call__(self) -> Keyring:
        """The keys as they are now. Outside production the first call makes one.

        Raises:
            InvalidInput: there is no file in production, or it can't be used.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            if self._env == "production":
                raise InvalidInput(f"There are no root keys in `{self._path}`; make them with `remit keys rotate`.") from None
            self._add(only_first=True)
            found = self._path.stat()
        version = (found.st_mtime_ns, found.st_ino)
        if self._read is None or self._read[0] != version:
            keys = self.list()
            private = {k.id: bytes.fromhex(k.private) for k in keys if k.private}
            self._read = version, Keyring(private, {k.id: bytes.fromhex(k.public) for k in keys})
        return self._read[1]

    def list(self) -> tuple[RootKey, ...]:
        """The keys, oldest first; none when there is no file.

        Raises:
            InvalidInput: the file can't be used.
        """
        try:
            return _FILE.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError):
            raise InvalidInput(f"`{self._path}` isn't a file of root keys that can be read.") from None

    def rotate(self) -> RootKey:
        """Add a key, which signs from now on; the others still verify."""
        return self._add()

    def retire(self, key_id: int) -> None:
        """Remove a key: what it signed is refused from now on.

        Raises:
            NotFound: there is no such key.
            InvalidInput: it is the one that signs.
        """
        with locked(self._path.with_suffix(".lock")):
            keys = self.list()
            if key_id not in {k.id for k in keys}:
                raise NotFound(f"There is no root key {key_id}; see `remit keys`.")
            if key_id == max(k.id for k in keys):
                raise InvalidInput(f"Root key {key_id} is the one that signs; run `remit keys rotate` first.")
            self._write(tuple(k for k in keys if k.id != key_id))

    def _add(self, *, only_first: bool = False) -> RootKey:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self._path.with_suffix(".lock")):
            keys = self.list()
            if only_first and keys:
                return keys[-1]
            private = new_key()
            key = RootKey(
                id=max((k.id for k in keys), default=0) + 1,
                created_at=int(time.time()),
                public=public_of(private).hex(),
                private=private.hex(),
            )
            self._write((*keys, key))
        return key

    def _write(self, keys: tuple[RootKey, ...]) -> None:
        write_private(self._path, json.dumps([k.model_dump() for k in keys], indent=2) + os.linesep)
