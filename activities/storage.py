"""Content-addressed storage for values that are too large for history: in a folder, or in an S3 bucket; and files by name.

A value is written once under the digest of its bytes, and nothing here changes or deletes it. Who may read which value is
decided elsewhere: knowing an address must never be enough for a model.
"""

import asyncio
import os
import re
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from policies.canonical import sha256
from policies.errors import InvalidInput, StoredValueLost, Unavailable

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError
    from types_boto3_s3 import S3Client

__all__ = ["FolderStorage", "S3Storage", "Sealed", "Storage", "storage_at"]

T = TypeVar("T")
THREADS = 8
_KEY = re.compile(r"sha256:([0-9a-f]{64})")


class Storage(ABC):
    """Bytes by the digest of what is stored: `sha256:<hex>`. Safe for several tasks, threads and processes at once."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where this is, for people."""

    @abstractmethod
    async def put(self, data: bytes) -> str:
        """Store `data` and return its address.

        Raises:
            Unavailable: it couldn't be stored; a later try may succeed.
        """

    @abstractmethod
    async def get(self, key: str) -> bytes:
        """What was stored at the address `key`.

        Raises:
            StoredValueLost: there is nothing at this address, or it isn't what was stored.
            Unavailable: the storage can't be read now.
        """


class _Addressed(Storage):
    """The address is the digest of the bytes: the same bytes, however often they are stored, are one value."""

    def __init__(self) -> None:
        # Threads of its own: a bucket that hangs must not keep the ledger waiting.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="storage")

    async def _apart(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def put(self, data: bytes) -> str:
        key = sha256(data)
        # Written though it may be there already: that repairs a damaged one, and starts its retention anew.
        await self._apart(partial(self._write, key.removeprefix("sha256:"), data))
        return key

    async def get(self, key: str) -> bytes:
        match = _KEY.fullmatch(key)  # it becomes a path
        if match is None:
            raise StoredValueLost(f"`{key[:80]}` isn't an address of a stored value; expected `sha256:` and 64 hex digits.")
        data = await self._apart(partial(self._read, match[1]))
        if data is None:
            raise StoredValueLost(f"`{key}` isn't in {self.place}; point `REMIT_STORAGE` at where its run's worker stores.")
        if sha256(data) != key:
            raise StoredValueLost(f"`{key}` in {self.place} isn't what was stored; restore it from a backup.")
        return data

    async def put_file(self, name: str, data: bytes) -> None:
        """Store `data` under a name with a `/` in it, which no address has. Raises as `put`."""
        await self._apart(partial(self._write, name, data))

    async def get_file(self, name: str) -> bytes | None:
        """What was stored under this name; None if nothing was.

        Raises:
            Unavailable: the storage can't be read now.
        """
        return await self._apart(partial(self._read, name))

    @abstractmethod
    def _write(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, whole or not at all (blocking)."""

    @abstractmethod
    def _read(self, name: str) -> bytes | None:
        """What is stored under `name`; None if nothing is (blocking)."""


class FolderStorage(_Addressed):
    """Files in a folder that only their owner can read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path.absolute()

    @property
    def place(self) -> str:
        return f"the folder `{self._path}`"

    def _file(self, name: str) -> Path:
        return self._path / name if "/" in name else self._path / name[:2] / name

    def _write(self, name: str, data: bytes) -> None:
        target = self._file(name)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self._path, target.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".")  # 0600
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(handle)  # history will name it: it must survive what history survives
                Path(temporary).replace(target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            _sync(target.parent)
        except OSError as e:
            raise Unavailable(f"Can't write to {self.place}: {e.strerror}.") from None

    def _read(self, name: str) -> bytes | None:
        try:
            return self._file(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise Unavailable(f"Can't read from {self.place}: {e.strerror}.") from None


class S3Storage(_Addressed):
    """Objects under a prefix of a bucket of S3, or of a server that speaks its protocol.

    Region and credentials are those of the AWS SDK's default chain: environment, profile, instance role.
    """

    def __init__(self, bucket: str, prefix: str = "", endpoint: str | None = None) -> None:
        """`endpoint`: the server, if it isn't AWS; by default what `AWS_ENDPOINT_URL_S3` says.

        Raises:
            InvalidInput: the AWS SDK isn't installed.
        """
        super().__init__()
        if find_spec("boto3") is None:  # an extra; say so at the start, not to the first run
            raise InvalidInput("S3 needs the AWS SDK; install it with `pip install 'remit[s3]'`.")
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._made: S3Client | None = None

    @property
    def place(self) -> str:
        return f"the bucket `s3://{self._bucket}/{self._prefix}`"

    @property
    def _client(self) -> "S3Client":
        import boto3
        from botocore.config import Config

        with self._lock:  # a client may be shared by threads, but not made by several at once
            if self._made is None:
                self._made = boto3.session.Session().client(  # pyright: ignore[reportUnknownMemberType]
                    "s3",
                    endpoint_url=self._endpoint,
                    config=Config(
                        connect_timeout=3,
                        read_timeout=20,
                        retries={"mode": "standard", "total_max_attempts": 2},
                        max_pool_connections=THREADS,
                        # Servers other than AWS's own often don't know the newer checksums; we verify the digest ourselves.
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                    ),
                )
            return self._made

    def _write(self, name: str, data: bytes) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data)
        except (BotoCoreError, ClientError) as e:
            raise Unavailable(f"Can't write to {self.place}: {_reason(e)}.") from None

    def _read(self, name: str) -> bytes | None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
        except ClientError as e:
            if _code(e) == "NoSuchKey":
                return None
            raise Unavailable(f"Can't read from {self.place}: {_reason(e)}.") from None
        except BotoCoreError as e:
            raise Unavailable(f"Can't read from {self.place}: {_reason(e)}.") from None


class Sealed(Storage):
    """Another storage with each value encrypted. The address is that of the sealed bytes.

    So it tells nobody what is inside, nor whether two values are the same, and whoever keeps the files can check them
    without a key. The price: the same value, stored twice, is two.
    """

    def __init__(self, storage: Storage, seal: Callable[[bytes], bytes], unseal: Callable[[bytes], bytes]) -> None:
        """`unseal` raises `RemitError` when the key is missing or the bytes weren't sealed."""
        self._storage, self._seal, self._unseal = storage, seal, unseal

    @property
    def place(self) -> str:
        return self._storage.place

    async def put(self, data: bytes) -> str:
        return await self._storage.put(await asyncio.to_thread(self._seal, data))

    async def get(self, key: str) -> bytes:
        return await asyncio.to_thread(self._unseal, await self._storage.get(key))


def storage_at(where: str | Path, setting: str = "REMIT_STORAGE") -> FolderStorage | S3Storage:
    """The storage that `setting` names: a folder, or `s3://bucket/prefix`.

    Raises:
        InvalidInput: it is neither, or the AWS SDK isn't installed.
    """
    text = str(where)
    if "://" not in text:
        return FolderStorage(Path(text))
    url = urlsplit(text)
    if url.scheme != "s3" or not url.netloc:
        raise InvalidInput(f"`{setting}` is `{text[:200]}`; use a folder, or `s3://bucket/prefix`.")
    return S3Storage(url.netloc, url.path)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _code(error: "ClientError") -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _reason(error: "BotoCoreError | ClientError") -> str:
    """What went wrong, in the SDK's words but without the request."""
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    return str(code) or type(error).__name__
