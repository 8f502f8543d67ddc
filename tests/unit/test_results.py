"""Long results in storage: cut between characters, read by their run alone, and refused when they are lost."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities import results
from activities.results import HEAD_BYTES, StoredResults
from activities.storage import FolderStorage, Storage
from policies.errors import ToolRefusal
from tools.results import Page

CAPSULE = "sha256:" + "1" * 64


async def whole(kept: StoredResults, ref: str, offset: int, limit: int) -> tuple[str, list[Page]]:
    """All pages from `offset` on, joined."""
    pages: list[Page] = []
    at: int | None = offset
    while at is not None:
        pages.append(await kept.page(CAPSULE, ref, at, limit))
        at = pages[-1].next_offset
    return "".join(p.text for p in pages), pages


class Memory(Storage):
    """Storage in a dict: hypothesis needs no disk."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    @property
    def place(self) -> str:
        return "memory"

    async def put(self, data: bytes) -> str:
        key = f"sha256:{len(self.kept)}"
        self.kept[key] = data
        return key

    async def get(self, key: str) -> bytes:
        return self.kept[key]


@given(text=st.text(min_size=1, max_size=2000), limit=st.integers(256, 700), pad=st.integers(0, 3))
async def test_head_and_pages_are_the_whole(text: str, limit: int, pad: int) -> None:
    """Whatever the characters and wherever the cuts: nothing is lost, nothing twice, and each page ends."""
    kept = StoredResults(Memory())
    content = "é" * (HEAD_BYTES // 2 - pad) + "x" * pad + text * 3
    shown, ref = await kept.keep(CAPSULE, content)
    head = json.loads(shown)
    rest, pages = await whole(kept, ref, head["next_offset"], limit)
    assert head["head"] + rest == content
    assert head["bytes"] == len(content.encode()) == pages[0].bytes
    assert len(head["head"].encode()) <= HEAD_BYTES
    assert all(len(p.text.encode()) <= limit for p in pages)


async def test_an_offset_inside_a_character_goes_back_to_its_beginning(tmp_path: Path) -> None:
    """A model may count characters, not bytes; it gets text, and is told where it begins."""
    kept = StoredResults(FolderStorage(tmp_path))
    _, ref = await kept.keep(CAPSULE, "€" * 3000)
    page = await kept.page(CAPSULE, ref, 5, 300)
    assert (page.offset, page.text, page.next_offset) == (3, "€" * 100, 303)
    beyond = await kept.page(CAPSULE, ref, 10_000_000, 300)
    assert (beyond.offset, beyond.text, beyond.next_offset) == (9000, "", None)


async def test_a_result_is_read_by_its_run_alone(tmp_path: Path) -> None:
    """The same text in two runs has two addresses, and neither run reads the other's."""
    kept = StoredResults(FolderStorage(tmp_path))
    other = "sha256:" + "2" * 64
    _, mine = await kept.keep(CAPSULE, "text")
    _, theirs = await kept.keep(other, "text")
    assert mine != theirs
    with pytest.raises(ToolRefusal, match=f"^This run has no result `{theirs}`.$"):
        await kept.page(CAPSULE, theirs, 0, 300)
    assert (await kept.page(other, theirs, 0, 300)).text == "text"


async def test_what_is_no_result_is_read_by_nobody(tmp_path: Path) -> None:
    """Other values in the same storage, such as segments of transcripts, aren't results of any run."""
    storage = FolderStorage(tmp_path)
    ref = await storage.put(CAPSULE.encode() + b"\ntext")
    with pytest.raises(ToolRefusal, match="^This run has no result"):
        await StoredResults(storage).page(CAPSULE, ref, 0, 300)


async def test_a_result_that_was_changed_is_refused(tmp_path: Path) -> None:
    """The model is told that it is lost, and never sees what somebody put in its place."""
    kept = StoredResults(FolderStorage(tmp_path))
    _, ref = await kept.keep(CAPSULE, "refund nobody")
    file = tmp_path / ref[7:9] / ref[7:]
    file.write_bytes(file.read_bytes().replace(b"nobody", b"Mallory"))
    with pytest.raises(ToolRefusal, match="isn't what was stored; restore it from a backup") as caught:
        await kept.page(CAPSULE, ref, 0, 300)
    assert caught.value.reason == "stored_value_lost"


async def test_a_storage_that_hangs_costs_the_rest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write has happened by then; its attempt must not run out of time because a bucket hangs."""

    class Hanging(Memory):
        async def put(self, data: bytes) -> str:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(results, "KEEP_SECONDS", 0.05)
    shown, ref = await StoredResults(Hanging()).keep(CAPSULE, "x" * 9000)
    assert ref == ""
    assert json.loads(shown) == {
        "head": "x" * HEAD_BYTES,
        "truncated": True,
        "bytes": 9000,
        "error": "The rest couldn't be kept.",
    }
