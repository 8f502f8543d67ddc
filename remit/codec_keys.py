"""The keys that encrypt payloads, in a file that only workers, commands and the codec server can read."""

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policies.errors import InvalidInput, NotFound
from remit.files import locked, write_private

__all__ = ["CodecKey", "CodecKeyFile", "CodecKeys"]


class CodecKey(BaseModel):
    """One AES-256 key. Times in Unix seconds; `key` is empty once it is retired."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int = Field(ge=1, lt=2**32)
    created_at: int
    encrypts_from: int
    key: str = Field(default="", pattern="^([0-9a-f]{64})?$", repr=False)


class _File(BaseModel):
    """All that the file holds. `family` is a secret that stays the same when keys rotate: it proves that a key id is ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str = Field(pattern="^[0-9a-f]{64}$", repr=False)
    keys: tuple[CodecKey, ...] = Field(min_length=1)

    def name(self, key_id: int) -> str:
        """What payloads call the key by: its number, and a MAC that only who has the file can make."""
        mac = hmac.new(bytes.fromhex(self.family), b"remit codec key %d" % key_id, hashlib.sha256)
        return f"{key_id}-{mac.hexdigest()[:16]}"


@dataclass(frozen=True)
class CodecKeys:
    """The keys as they were when the file was read."""

    file: _File = field(repr=False)
    ciphers: Mapping[str, AESGCM] = field(repr=False)

    @property
    def current(self) -> str:
        """The name of the key that encrypts now: the newest whose time has come."""
        now = time.time()
        due = [k for k in self.file.keys if k.key and k.encrypts_from <= now]
        return self.file.name(due[-1].id if due else next(k.id for k in self.file.keys if k.key))

    def secret(self, name: str) -> bytes | None:
        """The key itself, for deriving others from it; None for one that is retired, or not here."""
        return next((bytes.fromhex(k.key) for k in self.file.keys if k.key and self.file.name(k.id) == name), None)

    def awaited(self, name: str) -> bool:
        """Whether `name` is a key of this family that this file doesn't have yet; not so for a stranger's or a retired one."""
        number = name.partition("-")[0]
        if not (number.isascii() and number.isdigit() and len(number) <= 10):
            return False
        known = int(number) in {k.id for k in self.file.keys}
        return not known and hmac.compare_digest(self.file.name(int(number)), name)


class CodecKeyFile:
    """The file of codec keys, read again when it has changed, so that keys rotate under running workers."""

    def __init__(self, path: Path, *, env: str) -> None:
        self._path = path
        self._env = env
        self._read: tuple[tuple[int, int], CodecKeys] | None = None

    def __call__(self) -> CodecKeys:
        """The keys as they are now. Outside production the first call makes one.

        Raises:
            InvalidInput: there is no file in production, or it can't be used.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            if self._env == "production":
                raise InvalidInput(
                    f"There are no codec keys in `{self._path}`; make them with `remit codec-keys rotate`, or copy the file "
                    "from where they were made."
                ) from None
            self._add(only_first=True)
            found = self._path.stat()
        version = (found.st_mtime_ns, found.st_ino)
        if self._read is None or self._read[0] != version:
            file = self._load()
            if file is None:  # gone since
                return self()
            ciphers = {file.name(k.id): AESGCM(bytes.fromhex(k.key)) for k in file.keys if k.key}
            self._read = version, CodecKeys(file, ciphers)
        return self._read[1]

    def list(self) -> tuple[CodecKey, ...]:
        """The keys, oldest first, retired ones included; none when there is no file.

        Raises:
            InvalidInput: the file can't be used.
        """
        file = self._load()
        return file.keys if file else ()

    def current(self) -> int:
        """The number of the key that encrypts now. Raises as `__call__`."""
        return int(self().current.partition("-")[0])

    def rotate(self, after_seconds: int = 0) -> CodecKey:
        """Add a key, which decrypts at once and encrypts after that time; the others still decrypt."""
        return self._add(after_seconds=after_seconds)

    def retire(self, key_id: int) -> None:
        """Destroy a key: what it encrypted can never be read again.

        Raises:
            NotFound: there is no such key.
            InvalidInput: it is the one that encrypts, or is about to.
        """
        with locked(self._path.with_suffix(".lock")):
            file = self._load()
            if file is None or key_id not in {k.id for k in file.keys if k.key}:
                raise NotFound(f"There is no codec key {key_id}; see `remit codec-keys`.")
            if key_id >= self.current():
                raise InvalidInput(f"Codec key {key_id} encrypts, or is about to; run `remit codec-keys rotate` first.")
            # The number stays taken: a payload that names a retired key isn't waited for.
            keys = tuple(k.model_copy(update={"key": ""}) if k.id == key_id else k for k in file.keys)
            self._write(file.model_copy(update={"keys": keys}))

    def _add(self, *, only_first: bool = False, after_seconds: int = 0) -> CodecKey:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self._path.with_suffix(".lock")):
            file = self._load()
            if only_first and file:
                return file.keys[-1]
            now = int(time.time())
            key = CodecKey(
                id=file.keys[-1].id + 1 if file else 1,
                created_at=now,
                encrypts_from=now + after_seconds,
                key=secrets.token_hex(32),
            )
            family = file.family if file else secrets.token_hex(32)
            self._write(_File(family=family, keys=(*(file.keys if file else ()), key)))
        return key

    def _load(self) -> _File | None:
        try:
            return _File.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise InvalidInput(f"`{self._path}` isn't a file of codec keys that can be read.") from None

    def _write(self, file: _File) -> None:
        write_private(self._path, json.dumps(file.model_dump(), indent=2) + os.linesep)
