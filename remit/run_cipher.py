"""Encrypts what is kept for one run: AES-256-GCM under a key of the run's own, derived from the codec's keys."""

import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from policies.errors import PlaceholdersLost
from remit.codec import KeyAwaited
from remit.codec_keys import CodecKeys

__all__ = ["KeyedRunCipher"]

NONCE_BYTES = 12
_MAGIC = b"remit-run-1 "


class KeyedRunCipher:
    """See `activities.privacy.store.RunCipher`. `keys` gives the codec's keys as they are now, whether the codec is on or not.

    Each run has a key by HKDF-SHA256 of the codec's key and the run's id, so that neither the codec's own payloads nor another
    run's file can be passed off as this run's. Retiring a codec key destroys what was sealed under it.
    """

    def __init__(self, keys: Callable[[], CodecKeys]) -> None:
        self._keys = keys

    def seal(self, run_id: str, data: bytes) -> bytes:
        """`data` encrypted for this run. Raises as `keys`."""
        keys = self._keys()
        name = keys.current
        secret = keys.secret(name)
        assert secret  # the current one is never retired
        nonce = os.urandom(NONCE_BYTES)
        return _MAGIC + name.encode() + b"\n" + nonce + _cipher(secret, run_id).encrypt(nonce, data, _bound(name, run_id))

    def unseal(self, run_id: str, sealed: bytes) -> bytes:
        """What was sealed for this run.

        Raises:
            KeyAwaited: with a key of ours that isn't here yet.
            PlaceholdersLost: with one that will never be, for another run, or something else altogether.
        """
        head, found, rest = sealed.partition(b"\n")
        if not found or not head.startswith(_MAGIC):
            raise PlaceholdersLost("What is stored of this run's placeholders isn't what was stored; restore it from a backup.")
        name = head.removeprefix(_MAGIC).decode("ascii", errors="replace")
        keys = self._keys()
        secret = keys.secret(name)
        if secret is None:
            if keys.awaited(name):
                raise KeyAwaited(
                    f"The placeholders of this run are encrypted with codec key `{name[:60]}`, which isn't here yet; bring the "
                    "file of codec keys up to date."
                )
            raise PlaceholdersLost(
                f"The placeholders of this run are encrypted with codec key `{name[:60]}`, which is retired or not ours."
            )
        nonce, body = rest[:NONCE_BYTES], rest[NONCE_BYTES:]
        try:
            return _cipher(secret, run_id).decrypt(nonce, body, _bound(name, run_id))
        except (InvalidTag, ValueError):
            raise PlaceholdersLost(
                "What is stored of this run's placeholders was altered, or is another run's; restore it from a backup."
            ) from None


def _cipher(secret: bytes, run_id: str) -> AESGCM:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"remit placeholders of run " + run_id.encode())
    return AESGCM(derived.derive(secret))


def _bound(name: str, run_id: str) -> bytes:
    return _MAGIC + name.encode() + b"\x00" + run_id.encode()
