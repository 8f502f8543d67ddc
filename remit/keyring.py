"""Keys in files that only the workers can read, and the root keys among them, which sign capabilities."""

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from policies.capability import Keyring, new_key, public_of
from policies.errors import InvalidInput, NotFound
from remit.files import locked, write_private

__all__ = ["KeyFile", "RootKey", "RootKeys"]


class RootKey(BaseModel):
    """One key. Times in Unix seconds; `private` is missing where it must not be, on a worker that only verifies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int = Field(ge=1, lt=2**32)
    created_at: int
    public: str = Field(pattern="^[0-9a-f]{64}$")
    private: str = Field(default="", pattern="^([0-9a-f]{64})?$", repr=False)


K = TypeVar("K", bound=BaseModel)


class KeyFile(Generic[K]):
    """Keys in a file that only the workers can read, oldest first."""

    def __init__(self, path: Path, form: TypeAdapter[tuple[K, ...]], what: str) -> None:
        """`what`: how a sentence calls one of its keys."""
        self._path = path
        self._form = form
        self._what = what

    def list(self) -> tuple[K, ...]:
        """The keys, oldest first; none when there is no file.

        Raises:
            InvalidInput: the file can't be used.
        """
        try:
            return self._form.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError):
            raise InvalidInput(f"`{self._path}` isn't a file of {self._what} keys that can be read.") from None

    def add(self, made: Callable[[tuple[K, ...]], K], *, only_first: bool = False) -> K:
        """Add the key that `made` makes beside those that are there; with `only_first`, only where there is none.

        Raises:
            InvalidInput: the file can't be used.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.held():
            keys = self.list()
            if only_first and keys:
                return keys[-1]
            key = made(keys)
            self.write((*keys, key))
        return key

    def held(self) -> AbstractContextManager[None]:
        """While the block runs, no other process changes the file."""
        return locked(self._path.with_suffix(".lock"))

    def write(self, keys: tuple[K, ...]) -> None:
        """Put `keys` in the place of all that are there. Call it while the file is `held`."""
        write_private(self._path, json.dumps([k.model_dump() for k in keys], indent=2) + os.linesep)


class RootKeys:
    """The file of root keys, read again when it has changed, so that keys rotate under running workers."""

    def __init__(self, path: Path, *, env: str) -> None:
        self._path = path
        self._env = env
        self._file = KeyFile(path, TypeAdapter(tuple[RootKey, ...]), "root")
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
            self._file.add(_root_key, only_first=True)
            found = self._path.stat()
        version = (found.st_mtime_ns, found.st_ino)
        if self._read is None or self._read[0] != version:
            keys = self.list()
            private = {k.id: bytes.fromhex(k.private) for k in keys if k.private}
            self._read = version, Keyring(private, {k.id: bytes.fromhex(k.public) for k in keys})
        return self._read[1]

    def list(self) -> tuple[RootKey, ...]:
        """The keys, oldest first; none when there is no file. Raises as `KeyFile.list`."""
        return self._file.list()

    def rotate(self) -> RootKey:
        """Add a key, which signs from now on; the others still verify."""
        return self._file.add(_root_key)

    def retire(self, key_id: int) -> None:
        """Remove a key: what it signed is refused from now on.

        Raises:
            NotFound: there is no such key.
            InvalidInput: it is the one that signs.
        """
        with self._file.held():
            keys = self.list()
            if key_id not in {k.id for k in keys}:
                raise NotFound(f"There is no root key {key_id}; see `remit keys`.")
            if key_id == max(k.id for k in keys):
                raise InvalidInput(f"Root key {key_id} is the one that signs; run `remit keys rotate` first.")
            self._file.write(tuple(k for k in keys if k.id != key_id))


def _root_key(keys: tuple[RootKey, ...]) -> RootKey:
    private = new_key()
    return RootKey(
        id=max((k.id for k in keys), default=0) + 1,
        created_at=int(time.time()),
        public=public_of(private).hex(),
        private=private.hex(),
    )
