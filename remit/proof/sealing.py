"""Seals: the hash chain of a run's trace, the signed root over it, and the chain of roots of a namespace. Pure.

Everything is hashed and signed as RFC 8785 JSON; roots are signed with Ed25519 (RFC 8032).
"""

import math
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from policies.canonical import canonical_json, chain, digest, sha256
from policies.capability import public_of
from policies.models import Frozen

__all__ = ["Root", "SignedRoot", "check", "gaps", "head", "key_id_of", "plain", "sign"]

_SAFE = 2**53 - 1


class Root(Frozen):
    """What is signed of one run. `sealed_at` is in Unix seconds.

    Attributes:
        seq: its place in its namespace, from 1 on, without gaps.
        trace_head: `head` of the trace's lines; empty when there is no trace.
        contents: digest of each other part of the capsule, by name.
        previous: digest of the root before this one; empty for the first.
        reason: why there is no trace, when there is none.
    """

    namespace: str
    seq: int = Field(ge=1)
    run_id: str
    workflow_id: str
    trace_head: str
    lines: int = Field(ge=0)
    contents: dict[str, str]
    previous: str
    sealed_at: int
    reason: str = ""

    @property  # not cached: pydantic's `model_copy` would carry the digest of the root before over
    def digest(self) -> str:
        return digest(self)


class SignedRoot(Frozen):
    """A root, and who signed it.

    Attributes:
        digest: that of `root`.
        key_id: fingerprint of the public key, which is raw and in hex. Whose key it is, a root can't prove.
        signature: Ed25519 over `root` as RFC 8785 JSON, in base64.
    """

    root: Root
    digest: str
    key_id: str
    public_key: str = Field(pattern="^[0-9a-f]{64}$")
    signature: str


def plain(value: object) -> object:
    """`value` as JSON that RFC 8785 can hold: numbers and characters that it can't become text.

    A model may write an integer of a hundred digits, or half of a surrogate pair, and a run that does must be sealed too.
    """
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case bool() | None:
            return value
        case int():
            return value if abs(value) <= _SAFE else str(value)
        case float():
            return value if math.isfinite(value) and not (value.is_integer() and abs(value) > _SAFE) else str(value)
        case dict():
            return {str(plain(k)): plain(v) for k, v in cast("dict[str, object]", value).items()}
        case list() | tuple():
            return [plain(v) for v in cast("Sequence[object]", value)]
        case _:
            raise TypeError(f"`{type(value).__name__}` isn't JSON.")


def head(lines: Iterable[Mapping[str, object]]) -> str:
    """The hash chain over `lines`, in their order; empty for none."""
    at = ""
    for line in lines:
        at = chain(at, canonical_json(line).decode())
    return at


def key_id_of(public: bytes) -> str:
    """The fingerprint by which a public key is named."""
    return sha256(public)


def sign(root: Root, private: bytes) -> SignedRoot:
    """`root`, signed by the raw Ed25519 key `private`."""
    signature, public = Ed25519PrivateKey.from_private_bytes(private).sign(canonical_json(root)), public_of(private)
    return SignedRoot(
        root=root,
        digest=root.digest,
        key_id=key_id_of(public),
        public_key=public.hex(),
        signature=b64encode(signature).decode(),
    )


def check(signed: SignedRoot, key_ids: Container[str] | None = None) -> str:
    """Why `signed` proves nothing, in one sentence; empty when it proves that the holder of its key signed exactly it.

    Args:
        key_ids: fingerprints of the keys that may have; None for any.
    """
    where, public = f"Root {signed.root.seq}", bytes.fromhex(signed.public_key)
    if key_id_of(public) != signed.key_id:
        return f"{where} names the key `{signed.key_id}`, and has one with another fingerprint."
    if key_ids is not None and signed.key_id not in key_ids:
        return f"{where} is signed by another key, `{signed.key_id}`."
    if signed.digest != signed.root.digest:
        return f"{where} says another digest than it has."
    try:
        signature = b64decode(signed.signature, validate=True)
        if b64encode(signature).decode() != signed.signature:  # base64 can say the same in several ways
            return f"The signature of root {signed.root.seq} isn't written as it was made."
        Ed25519PublicKey.from_public_bytes(public).verify(signature, canonical_json(signed.root))
    except (InvalidSignature, Base64Error, ValueError):
        return f"The signature of root {signed.root.seq} doesn't verify."
    return ""


def gaps(roots: Sequence[SignedRoot], key_ids: Container[str] | None = None) -> str:
    """The first thing that breaks the chain of `roots`, in one sentence; empty when it is whole from number 1 on.

    What is missing at its end doesn't show here: compare the last number with the namespace's own.
    """
    previous = ""
    for number, signed in enumerate(roots, start=1):
        root = signed.root
        if root.namespace != roots[0].root.namespace:
            return f"Root {root.seq} is of the namespace `{root.namespace}`, the chain of `{roots[0].root.namespace}`."
        if root.seq > number:
            return f"Root {number} is missing: the next one is {root.seq}."
        if root.seq < number:
            return f"Root {root.seq} is there twice, or isn't in its place."
        if root.previous != previous:
            return f"Root {number} isn't linked to root {number - 1}: that one was changed, or another was in its place."
        if wrong := check(signed, key_ids):
            return wrong
        previous = root.digest
    return ""
