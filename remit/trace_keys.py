"""The keys that sign the roots of traces, in a file that only the workers can read."""

import hashlib
import hmac
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from policies.capability import new_key, public_of
from policies.errors import InvalidInput
from remit.keyring import KeyFile
from remit.proof.sealing import key_id_of

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


class TraceKeys:
    """The file of trace keys, the newest last: that one signs. Read for each seal, so that keys rotate under workers."""

    def __init__(self, path: Path, *, env: str) -> None:
        self._path = path
        self._env = env
        self._file = KeyFile(path, TypeAdapter(tuple[TraceKey, ...]), "trace")

    def signing(self) -> TraceKey:
        """The key that signs now. Outside production the first call makes one.

        Raises:
            InvalidInput: there is no file in production, it can't be used, or its newest key is only a public one.
        """
        keys = self.list()
        if not keys and self._env == "production":
            raise InvalidInput(f"There are no trace keys in `{self._path}`; make one with `remit trace-keys rotate`.")
        key = keys[-1] if keys else self._file.add(_trace_key, only_first=True)
        if not key.private or public_of(bytes.fromhex(key.private)).hex() != key.public:
            raise InvalidInput(f"The newest key in `{self._path}` can't sign: its private part is missing, or another's.")
        return key

    def list(self) -> tuple[TraceKey, ...]:
        """The keys, oldest first; none when there is no file. Raises as `KeyFile.list`."""
        return self._file.list()

    def rotate(self) -> TraceKey:
        """Add a key, which signs from now on. What the others signed still verifies."""
        return self._file.add(_trace_key)


def _trace_key(_: tuple[TraceKey, ...]) -> TraceKey:
    private = new_key()
    return TraceKey(created_at=int(time.time()), public=public_of(private).hex(), private=private.hex())
