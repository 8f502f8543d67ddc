"""External storage in a folder: addresses, damage, concurrency and who may read the files."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from activities.storage import FolderStorage, S3Storage, Sealed, storage_at
from policies.canonical import sha256
from policies.errors import InvalidInput, StoredValueLost, Unavailable


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


async def test_what_is_put_is_got_by_the_digest_of_its_bytes(tmp_path: Path) -> None:
    """The address is the SHA-256 of what was stored, also of nothing at all."""
    storage = FolderStorage(tmp_path / "storage")
    for data in (b"", b"\x00\xff text", b"x" * 3_000_000):
        key = await storage.put(data)
        assert key == sha256(data)
        assert await storage.get(key) == data


async def test_the_same_bytes_are_one_value(tmp_path: Path) -> None:
    """Storing twice, at once and from two objects, leaves one whole file and nothing else."""
    first, second = FolderStorage(tmp_path), FolderStorage(tmp_path)
    keys = await asyncio.gather(*(s.put(b"same" * 100_000) for s in (first, second) for _ in range(10)))
    assert len(set(keys)) == 1
    assert [f.name for f in files(tmp_path)] == [keys[0].removeprefix("sha256:")]
    assert await second.get(keys[0]) == b"same" * 100_000


async def test_a_changed_value_is_refused_and_storing_it_again_repairs_it(tmp_path: Path) -> None:
    """The digest is verified on each read, for the folder is anybody's who can write to it."""
    storage = FolderStorage(tmp_path)
    key = await storage.put(b"refund $10")
    files(tmp_path)[0].write_bytes(b"refund $99")
    with pytest.raises(StoredValueLost, match=f"^`{key}` in the folder `{tmp_path}` isn't what was stored; restore it"):
        await storage.get(key)
    assert await storage.put(b"refund $10") == key
    assert await storage.get(key) == b"refund $10"


async def test_an_address_with_nothing_behind_it_says_where_it_looked(tmp_path: Path) -> None:
    """A client that looks at another storage than the worker's learns it in one sentence."""
    key = sha256(b"never stored")
    with pytest.raises(StoredValueLost, match=f"^`{key}` isn't in the folder `{tmp_path}`; point `REMIT_STORAGE` at"):
        await FolderStorage(tmp_path).get(key)


@pytest.mark.parametrize("key", ["", "sha256:", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "0" * 64 + "\n"])
async def test_what_is_no_address_never_becomes_a_path(tmp_path: Path, key: str) -> None:
    """A model may give any text as a reference."""
    with pytest.raises(StoredValueLost, match="isn't an address of a stored value"):
        await FolderStorage(tmp_path).get(key)


async def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    """Folders have mode 0700 and files 0600, whatever the umask says."""
    before = os.umask(0)
    try:
        await FolderStorage(tmp_path / "home" / "storage").put(b"private")
    finally:
        os.umask(before)
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "home" / "storage").rglob("*")}
    assert sorted(modes.values()) == [0o600, 0o700]
    assert stat.S_IMODE((tmp_path / "home" / "storage").stat().st_mode) == 0o700


async def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    """It may be there again later, so nothing is given up for it."""
    (tmp_path / "storage").write_text("a file")
    with pytest.raises(Unavailable, match="^Can't write to the folder `.*storage`: "):
        await FolderStorage(tmp_path / "storage").put(b"x")


async def test_a_sealed_value_is_stored_under_the_digest_of_what_is_stored(tmp_path: Path) -> None:
    """Neither the file nor its name tells what is inside, and the files can be checked without a key."""
    inner = FolderStorage(tmp_path)
    storage = Sealed(inner, seal=lambda data: os.urandom(8) + data[::-1], unseal=lambda data: data[8:][::-1])
    first, second = await storage.put(b"secret"), await storage.put(b"secret")
    assert await storage.get(first) == await storage.get(second) == b"secret"
    assert first != second
    assert sha256(b"secret") not in (first, second)
    assert first == sha256(await inner.get(first))


def test_the_setting_names_a_folder_or_a_bucket(tmp_path: Path) -> None:
    """Anything else is refused at the start, in one sentence."""
    assert storage_at(tmp_path).place == f"the folder `{tmp_path}`"
    assert storage_at("s3://bucket/some/prefix/").place == "the bucket `s3://bucket/some/prefix/`"
    assert storage_at("s3://bucket").place == S3Storage("bucket").place == "the bucket `s3://bucket/`"
    with pytest.raises(InvalidInput, match=r"^`REMIT_STORAGE` is `gs://x`; use a folder, or `s3://bucket/prefix`\.$"):
        storage_at("gs://x")
