"""The keys that sign the roots of traces, in a file that only the workers can read."""

import hashlib
import hmac
import json
import os
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from policies.errors import InvalidInput
from remit.files import locked, write_private
from remit.proof.sealing import key_id_of, new_key, public_of

__all__ = ["TraceKey", "TraceKeys"]


class TraceKey(BaseModel):
    """One key. `created_at` in Unix seconds; keys raw and in hex. `private` may be taken out of one that signs no more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created_at: int
    public: str = Field(pattern="^[0-9a-f]{64}$")
    private: str = Field(default="", pattern="^([0-9a-f]{64})?$", repr=False)

    @property
    def id(self) -> str:
        """The fingerprint by which roots name it."""
        return key_id_of(bytes.fromhex(self.public))

    @property
    def marks(self) -> bytes:
        """The key of the marks that stand in the place of what is redacted, derived from this one."""
        return hmac.new(bytes.fromhex(self.private), b"remit redaction marks", hashlib.sha256).digest()


_FILE = TypeAdapter(tuple[TraceKey, ...])


class TraceKeys:
    """The file of trace keys, the newest last: that one signs. Read for each seal, so that keys rotate under workers."""

    def __init__(self, path: Path, *, env: str) -> None:
        self._path = path
        self._env = env

    def signing(self) -> TraceKey:
        """The key that signs now. Outside production the first call makes one.

        Raises:
            InvalidInput: there is no file in production, it can't be used, or its newest key is only a public one.
        """
        keys = self.list()
        if not keys and self._env == "production":
            raise InvalidInput(f"There are no trace keys in `{self._path}`; make one with `remit trace-keys rotate`.")
        key = keys[-1] if keys else self._add(only_first=True)
        if not key.private or public_of(bytes.fromhex(key.private)).hex() != key.public:
            raise InvalidInput(f"The newest key in `{self._path}` can't sign: its private part is missing, or another's.")
        return key

    def list(self) -> tuple[TraceKey, ...]:
        """The keys, oldest first; none when there is no file.

        Raises:
            InvalidInput: the file can't be used.
        """
        try:
            return _FILE.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError):
            raise InvalidInput(f"`{self._path}` isn't a file of trace keys that can be read.") from None

    def rotate(self) -> TraceKey:
        """Add a key, which signs from now on. What the others signed still verifies."""
        return self._add()

    def _add(self, *, only_first: bool = False) -> TraceKey:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self._path.with_suffix(".lock")):
            keys = self.list()
            if only_first and keys:
                return keys[-1]
            private = new_key()
            key = TraceKey(created_at=int(time.time()), public=public_of(private).hex(), private=private.hex())
            write_private(self._path, json.dumps([k.model_dump() for k in (*keys, key)], indent=2) + os.linesep)
        return key
