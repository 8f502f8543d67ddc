"""The payload codec: zstd, then AES-256-GCM. What isn't encrypted passes through, so that plain clients can start runs."""

import os
from collections.abc import Callable, Sequence

import zstandard
from cryptography.exceptions import InvalidTag
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from policies.errors import Unavailable
from remit.codec_keys import CodecKeys
from workflows.messages import ENCRYPTED, ENCRYPTION_KEY

__all__ = ["EncryptingCodec", "KeyAwaited"]

NONCE_BYTES = 12
STORED, ZSTD = b"\x00", b"\x01"
LEVEL = 3
WORTHWHILE_BYTES = 128
"""Smaller payloads aren't compressed: a frame costs more than it saves."""


class KeyAwaited(Unavailable):
    """A payload was encrypted with a key of ours that isn't here yet. Whoever needs it must wait for the key, not go on."""


class EncryptingCodec(PayloadCodec):
    """Encrypts every payload whole, its metadata included. `keys` gives the keys as they are now."""

    def __init__(self, keys: Callable[[], CodecKeys]) -> None:
        self._keys = keys
        self._shrink = zstandard.ZstdCompressor(level=LEVEL)
        self._grow = zstandard.ZstdDecompressor()

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """One encrypted payload for each, under the current key."""
        keys = self._keys()
        name = keys.current
        cipher, bound = keys.ciphers[name], _bound(name)
        found: list[Payload] = []
        for payload in payloads:
            nonce = os.urandom(NONCE_BYTES)
            data = nonce + cipher.encrypt(nonce, self._packed(payload.SerializeToString()), bound)
            found.append(Payload(metadata={"encoding": ENCRYPTED, ENCRYPTION_KEY: name.encode()}, data=data))
        return found

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """One payload for each. Those that nobody here can have encrypted stay as they are, and count for nothing.

        Raises:
            KeyAwaited: one was encrypted with a key that this process doesn't have yet.
        """
        return [self._opened(p) if p.metadata.get("encoding") == ENCRYPTED else p for p in payloads]

    def _packed(self, plain: bytes) -> bytes:
        if len(plain) >= WORTHWHILE_BYTES:
            small = self._shrink.compress(plain)
            if len(small) < len(plain):
                return ZSTD + small
        return STORED + plain

    def _opened(self, payload: Payload) -> Payload:
        keys = self._keys()
        name = payload.metadata.get(ENCRYPTION_KEY, b"").decode(errors="replace")
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
        return Payload.FromString(self._grow.decompress(body) if packed[:1] == ZSTD else body)


def _bound(name: str) -> bytes:
    """The associated data: a ciphertext says which encoding and which key it is of, and can't be told to be of others."""
    return ENCRYPTED + b"\x00" + name.encode()
