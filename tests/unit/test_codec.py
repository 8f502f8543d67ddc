"""Payloads are compressed and encrypted; what is forged counts for nothing; keys rotate without anything getting lost."""

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

from policies.errors import InvalidInput, NotFound
from remit.codec import EncryptingCodec, KeyAwaited, Unreadable
from remit.codec_keys import CodecKeyFile
from remit.connection import CONVERTER, converter
from remit.settings import Settings
from workflows.messages import ENCRYPTED, ENCRYPTION_KEY

SECRET = b"Ada Lovelace <ada@example.com>"
PLAIN = Payload(metadata={"encoding": b"json/plain", "messageType": b"Ticket"}, data=b'"%s"' % SECRET)


@pytest.fixture
def file(tmp_path: Path) -> CodecKeyFile:
    """A file of codec keys that isn't there yet."""
    return CodecKeyFile(tmp_path / "home" / "codec-keys.json", env="dev")


@pytest.fixture
def codec(file: CodecKeyFile) -> EncryptingCodec:
    """A codec with those keys."""
    return EncryptingCodec(file)


async def sealed(codec: EncryptingCodec, payload: Payload = PLAIN) -> Payload:
    (found,) = await codec.encode([payload])
    return found


@given(data=st.binary(max_size=2000), metadata=st.dictionaries(st.text(max_size=20), st.binary(max_size=20), max_size=4))
async def test_whatever_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, metadata: dict[str, bytes]
) -> None:
    """Bytes and metadata, of any kind."""
    codec = EncryptingCodec(CodecKeyFile(tmp_path_factory.getbasetemp() / "any" / "codec-keys.json", env="dev"))
    payload = Payload(metadata=metadata, data=data)
    assert await codec.decode(await codec.encode([payload, payload])) == [payload, payload]


async def test_nothing_of_a_payload_can_be_read(codec: EncryptingCodec) -> None:
    """Not its bytes, and not its metadata; only the encoding and the key's name are."""
    found = await sealed(codec)
    assert {*found.metadata} == {"encoding", ENCRYPTION_KEY}
    assert found.metadata["encoding"] == ENCRYPTED
    for word in (SECRET, b"json/plain", b"Ticket"):
        assert word not in found.SerializeToString()


async def test_no_two_payloads_look_the_same(codec: EncryptingCodec) -> None:
    """Each has a nonce of its own."""
    found = await codec.encode([PLAIN] * 100)
    assert len({p.data[:12] for p in found}) == len({p.data for p in found}) == 100


async def test_what_shrinks_is_compressed(codec: EncryptingCodec) -> None:
    """And what doesn't, or is tiny, isn't made longer than encryption makes it."""
    repeated = await sealed(codec, Payload(data=b"a customer and an invoice, " * 100))
    assert len(repeated.data) < 200
    tiny = Payload(data=b"x" * 20)
    assert len((await sealed(codec, tiny)).data) == len(tiny.SerializeToString()) + 12 + 16 + 1


async def test_a_payload_of_others_passes_through(codec: EncryptingCodec) -> None:
    """So that plain clients can start runs and send signals."""
    assert await codec.decode([PLAIN, Payload()]) == [PLAIN, Payload()]


async def test_a_forged_payload_stays_as_it_is(codec: EncryptingCodec, file: CodecKeyFile) -> None:
    """Each bit of the ciphertext, its nonce and the key's name is bound; nothing raises, for that would stop a run."""
    file()
    file.rotate()
    good = await sealed(codec)
    forged = [
        Payload(metadata=good.metadata, data=good.data[:i] + bytes([good.data[i] ^ 1]) + good.data[i + 1 :])
        for i in range(len(good.data))
    ]
    forged += [Payload(metadata=good.metadata, data=good.data[:n]) for n in (0, 5, 12, 20, len(good.data) - 1)]
    older = file().file.name(1)
    for name in (older, "", "2-0000000000000000", "99-0000000000000000", "-", "x" * 1000, "٣-1", "9" * 5000 + "-1"):
        forged.append(Payload(metadata={"encoding": ENCRYPTED, ENCRYPTION_KEY: name.encode()}, data=good.data))
    forged += [
        Payload(metadata={"encoding": ENCRYPTED}, data=good.data),
        Payload(metadata={"encoding": ENCRYPTED, ENCRYPTION_KEY: b"\xff"}),
    ]
    assert await codec.decode(forged) == forged
    assert await codec.decode([good]) == [PLAIN]


async def test_a_key_that_is_on_its_way_is_waited_for(codec: EncryptingCodec, file: CodecKeyFile, tmp_path: Path) -> None:
    """Whoever has an older copy of the file says which key is missing, and goes on when it is there."""
    file()
    copy = tmp_path / "codec-keys.json"
    copy.write_bytes((tmp_path / "home" / "codec-keys.json").read_bytes())
    behind = EncryptingCodec(CodecKeyFile(copy, env="production"))
    file.rotate()
    found = await sealed(codec)
    name = found.metadata[ENCRYPTION_KEY].decode()
    with pytest.raises(KeyAwaited) as caught:
        await behind.decode([found])
    assert caught.value.message == (
        f"A payload is encrypted with codec key `{name}`, which isn't here yet; bring the file of codec keys up to date."
    )
    copy.unlink()
    copy.write_bytes((tmp_path / "home" / "codec-keys.json").read_bytes())
    assert await behind.decode([found]) == [PLAIN]


async def test_keys_rotate_under_a_running_process(codec: EncryptingCodec, file: CodecKeyFile) -> None:
    """The newest encrypts, the older ones decrypt until they are retired; a retired one isn't waited for."""
    first = await sealed(codec)
    assert file.rotate().id == 2
    second = await sealed(codec)
    assert [p.metadata[ENCRYPTION_KEY].partition(b"-")[0] for p in (first, second)] == [b"1", b"2"]
    assert await codec.decode([first, second]) == [PLAIN, PLAIN]
    file.retire(1)
    assert await codec.decode([first, second]) == [first, PLAIN]


async def test_a_key_can_be_handed_out_before_it_encrypts(codec: EncryptingCodec, file: CodecKeyFile) -> None:
    """It decrypts at once, so that everybody has it when its time comes."""
    file()
    file.rotate(after_seconds=3600)
    assert (await sealed(codec)).metadata[ENCRYPTION_KEY].startswith(b"1-")
    assert file.current() == 1
    assert file.list()[-1].encrypts_from >= int(time.time()) + 3590


def test_a_key_in_use_is_not_retired(file: CodecKeyFile) -> None:
    """Nor one that is about to be, nor one that isn't there."""
    file()
    for number, error, said in (
        (1, InvalidInput, "Codec key 1 encrypts, or is about to; run `remit codec-keys rotate` first."),
        (7, NotFound, "There is no codec key 7; see `remit codec-keys`."),
    ):
        with pytest.raises(error) as caught:
            file.retire(number)
        assert caught.value.message == said
    file.rotate(after_seconds=3600)
    with pytest.raises(InvalidInput):
        file.retire(2)


def test_the_file_is_its_owners(file: CodecKeyFile, tmp_path: Path) -> None:
    """And no key shows in what is printed of it."""
    keys = file()
    path = tmp_path / "home" / "codec-keys.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (key,) = file.list()
    assert len(key.key) == 64
    assert key.key not in repr(key) + repr(keys) + repr(keys.file)
    assert keys.file.family not in repr(keys) + repr(keys.file)


def test_production_makes_no_key_by_itself(tmp_path: Path) -> None:
    """A worker that can't decrypt what others wrote must not begin with a key of its own."""
    settings = Settings(home=tmp_path, env="production", codec=True)
    with pytest.raises(InvalidInput) as caught:
        converter(settings)
    assert caught.value.message.startswith(f"There are no codec keys in `{tmp_path}/codec-keys.json`; make them with")
    (tmp_path / "codec-keys.json").write_text('{"keys": []}')
    with pytest.raises(InvalidInput) as caught:
        converter(settings)
    assert caught.value.message == f"`{tmp_path}/codec-keys.json` isn't a file of codec keys that can be read."


async def test_whoever_has_no_key_is_told_so(codec: EncryptingCodec) -> None:
    """With the codec off, or with other keys: one sentence, naming the key. A signal's raw value is had all the same."""
    found = await sealed(codec)
    name = found.metadata[ENCRYPTION_KEY].decode()
    for hints in (None, [str]):
        with pytest.raises(Unreadable) as caught:
            await CONVERTER.decode([found], hints)
        assert caught.value.message == (
            f"A payload is encrypted with codec key `{name}`, which isn't here; set `REMIT_CODEC=on`, "
            "and `REMIT_CODEC_KEYS` to the file that the workers use."
        )
    (raw,) = await CONVERTER.decode([found], [RawValue])
    assert raw.payload == found


def test_bytes_outside_temporal_are_sealed(codec: EncryptingCodec, file: CodecKeyFile) -> None:
    """From several threads at once; what was altered or is of a retired key isn't taken for what was kept."""
    values = [b"", SECRET, SECRET * 1000, os.urandom(50_000)] * 20
    with ThreadPoolExecutor(8) as pool:
        sealed = [*pool.map(codec.seal, values)]
        assert [*pool.map(codec.unseal, sealed)] == values
    assert not any(SECRET in s for s in sealed)
    for older in (SECRET, b"", Payload(data=SECRET).SerializeToString()):
        assert codec.unseal(older) == older
    altered = Payload.FromString(sealed[1])
    altered.data = altered.data[:-1] + bytes([altered.data[-1] ^ 1])
    with pytest.raises(Unreadable):
        codec.unseal(altered.SerializeToString())
    file.rotate()
    file.retire(1)
    with pytest.raises(Unreadable, match="codec key `1-"):
        codec.unseal(sealed[1])


def test_the_codec_is_off_by_default() -> None:
    """One setting turns it on."""
    assert converter(Settings()).payload_codec is None
