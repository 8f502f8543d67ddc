"""The payload codec: zstd, then AES-256-GCM. What isn't encrypted passes through, so that plain clients can start runs."""

import os
import threading
from collections.abc import Callable, Sequence

import zstandard
from cryptography.exceptions import InvalidTag
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from policies.errors import InvalidInput, Unavailable
from remit.codec_keys import CodecKeys
from remit.offload import INLINE
from workflows.messages import ENCRYPTED, ENCRYPTION_KEY

__all__ = ["EncryptingCodec", "KeyAwaited", "Unreadable"]

NONCE_BYTES = 12
STORED, ZSTD = b"\x00", b"\x01"
LEVEL = 3
WORTHWHILE_BYTES = 128
"""Smaller payloads aren't compressed: a frame costs more than it saves."""


class _Zstd(threading.local):
    """Contexts that are costly to make, and no two threads may use at once."""

    def __init__(self) -> None:
        self.shrink = zstandard.ZstdCompressor(level=LEVEL)
        self.grow = zstandard.ZstdDecompressor()


class KeyAwaited(Unavailable):
    """A payload was encrypted with a key of ours that isn't here yet. Whoever needs it must wait for the key, not go on."""


class Unreadable(InvalidInput):
    """A payload is encrypted, and nobody here can decrypt it."""

    def __init__(self, payload: Payload) -> None:
        super().__init__(
            f"A payload is encrypted with codec key `{_name(payload)[:60]}`, which isn't here; set `REMIT_CODEC=on`, and "
            "`REMIT_CODEC_KEYS` to the file that the workers use."
        )


class EncryptingCodec(PayloadCodec):
    """Encrypts every payload whole, its metadata included. `keys` gives the keys as they are now."""

    def __init__(self, keys: Callable[[], CodecKeys]) -> None:
        self._keys = keys
        self._own = _Zstd()

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """One encrypted payload for each, under the current key."""
        return [self._sealed(p) for p in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """One payload for each. Those that nobody here can have encrypted stay as they are, and count for nothing.

        Raises:
            KeyAwaited: one was encrypted with a key that this process doesn't have yet.
        """
        return [self._opened(p) if p.metadata.get("encoding") == ENCRYPTED else p for p in payloads]

    def seal(self, data: bytes) -> bytes:
        """`data` encrypted, for what is kept outside Temporal. From any thread."""
        return self._sealed(Payload(data=data)).SerializeToString()

    def unseal(self, sealed: bytes) -> bytes:
        """What was sealed; what never was, from before the codec was switched on, as it is.

        Raises:
            KeyAwaited: it was sealed with a key that this process doesn't have yet.
            Unreadable: with a key that it will never have, or it was altered.
        """
        try:
            payload = Payload.FromString(sealed)
        except DecodeError:
            return sealed
        if payload.metadata.get("encoding") != ENCRYPTED:
            return sealed
        found = self._opened(payload)
        if found is payload:
            raise Unreadable(payload)
        return found.data

    def _sealed(self, payload: Payload) -> Payload:
        keys = self._keys()
        name, nonce = keys.current, os.urandom(NONCE_BYTES)
        data = nonce + keys.ciphers[name].encrypt(nonce, self._packed(payload.SerializeToString()), _bound(name))
        kept = {INLINE: payload.metadata[INLINE]} if INLINE in payload.metadata else {}  # for whoever stores what is large
        return Payload(metadata={"encoding": ENCRYPTED, ENCRYPTION_KEY: name.encode(), **kept}, data=data)

    def _packed(self, plain: bytes) -> bytes:
        if len(plain) >= WORTHWHILE_BYTES:
            small = self._own.shrink.compress(plain)
            if len(small) < len(plain):
                return ZSTD + small
        return STORED + plain

    def _opened(self, payload: Payload) -> Payload:
        keys = self._keys()
        name = _name(payload)
        cipher = keys.ciphers.get(name)
        if cipher is None:
            if keys.awaited(name):
                raise KeyAwaited(
                    f"A payload is encrypted with codec key `{name}`, which isn't here yet; "
                    "bring the file of codec keys up to date."
                )
            return payload
        nonce, sealed = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
        try:
            packed = cipher.decrypt(nonce, sealed, _bound(name))
        except (InvalidTag, ValueError):  # forged, cut short or altered
            return payload
        body = packed[1:]
        return Payload.FromString(self._own.grow.decompress(body) if packed[:1] == ZSTD else body)


def _name(payload: Payload) -> str:
    return payload.metadata.get(ENCRYPTION_KEY, b"").decode("ascii", errors="replace")


def _bound(name: str) -> bytes:
    """The associated data: a ciphertext says which encoding and which key it is of, and can't be told to be of others."""
    return ENCRYPTED + b"\x00" + name.encode()
