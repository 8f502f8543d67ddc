# pyright: reportAttributeAccessIssue=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportArgumentType=false, reportCallIssue=false
# (The stubs of biscuit-python 0.4 lack `Algorithm`, the limits, and roots by key id.)
"""Capabilities: signed, narrow, short-lived permission for one run, checked beside the side effect. Biscuit, in our words.

A token names all that it is good for, so that a stolen one is good for nothing else. Its holder can narrow it, never widen it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from biscuit_auth import (
    Algorithm,
    AuthorizationError,
    AuthorizerBuilder,
    Biscuit,
    BiscuitBuilder,
    BiscuitValidationError,
    BlockBuilder,
    KeyPair,
    PrivateKey,
    PublicKey,
)
from pydantic import Field

from policies.errors import InvalidInput, ToolRefusal, Unavailable
from policies.models import Frozen, Money

__all__ = ["Grant", "Keyring", "Use", "audience_of", "mint", "narrow", "new_key", "public_of", "sign", "verify", "verify_by"]

# Biscuit's own limit is 1 ms of wall-clock time, which a busy machine exceeds about once in a thousand checks;
# one that a dozen workers share exceeds a tenth of a second, too. Facts and iterations stay limited.
MAX_TIME = timedelta(seconds=2)


class Grant(Frozen):
    """What a capability permits. None permits anything; the empty string only what has none.

    Attributes:
        capsule: digest of what the run was pinned to at admission: its agent, run, policy, tools and people.
        tools: ids such as `request_refund@1`.
        resource: for example `Invoice:in_1`.
        ceiling: the most that one use may move; None for no money at all.
        audience: the workers that may use it.
        epoch: of the off switches when it was minted; one that was set later ends it.
        expires_at: Unix seconds.
        reason: why a person gave it.
    """

    workflow_id: str | None = None
    run_id: str | None = None
    agent: str | None = None
    capsule: str | None = None
    policy_digest: str | None = None
    subject: str
    corpus: str | None = None
    tools: tuple[str, ...] = Field(min_length=1)
    resource: str | None = None
    ceiling: Money | None = None
    idempotency_key: str | None = None
    audience: str | None = None
    epoch: int | None = None
    expires_at: int
    reason: str = ""


class Use(Frozen):
    """What is about to happen, as the worker derived it from the typed arguments and from what the server says."""

    workflow_id: str
    run_id: str = ""
    agent: str = ""
    capsule: str
    policy_digest: str = ""
    subject: str
    corpus: str = ""
    tool: str
    resource: str
    amount: Money | None = None
    idempotency_key: str = ""
    audience: str
    epoch: int = 0
    now: int


@dataclass(frozen=True)
class Keyring:
    """The root keys of the workers, by id. The highest signs; the others still verify, until they are retired.

    Attributes:
        private: raw Ed25519 private keys; a worker without any verifies only.
        others: raw public keys of those whose private half isn't here.
    """

    private: Mapping[int, bytes]
    others: Mapping[int, bytes]

    @cached_property
    def public(self) -> dict[int, PublicKey]:
        mine = {key_id: _pair(raw).public_key for key_id, raw in self.private.items()}
        return {**{key_id: _public(raw) for key_id, raw in self.others.items()}, **mine}


def new_key() -> bytes:
    """A fresh Ed25519 private key, to be kept secret."""
    return bytes(KeyPair().private_key.to_bytes())


def public_of(private: bytes) -> bytes:
    """The public key of `private`."""
    return bytes(_pair(private).public_key.to_bytes())


def mint(grant: Grant, keys: Keyring) -> str:
    """The token for `grant`, signed by the newest root key.

    Raises:
        InvalidInput: this worker has no root key to sign with.
    """
    if not keys.private:
        raise InvalidInput("This worker holds no private root key, so it can't mint capabilities.")
    key_id = max(keys.private)
    builder = _builder(grant)
    builder.set_root_key_id(key_id)
    return builder.build(_pair(keys.private[key_id]).private_key).to_base64()


def sign(grant: Grant, private: bytes) -> str:
    """The token for `grant`, signed by a person's own key."""
    return _builder(grant).build(_pair(private).private_key).to_base64()


def narrow(token: str, signer: bytes, *, workflow_id: str, run_id: str) -> str:
    """`token`, signed by the public key `signer`, for one run only. Needs no private key; nothing can take it back.

    Raises:
        ToolRefusal: `signer` didn't sign it.
    """
    block = BlockBuilder("check if use_workflow_id({w}), use_run_id({r})", {"w": workflow_id, "r": run_id})
    return _read(token, _public(signer)).append(block).to_base64()


def verify(token: str, use: Use, keys: Keyring) -> None:
    """Whether `token` was minted by a worker and covers `use`.

    Raises:
        ToolRefusal: `capability_refused`; `capability_expired` when nothing but the time is wrong.
        Unavailable: the check took too long, and says nothing.
    """
    _authorize(_read(token, _root_of(keys)), use)


def verify_by(token: str, use: Use, signer: bytes) -> None:
    """Whether `token` was signed by the person with the public key `signer`, and covers `use`.

    Raises:
        ToolRefusal: as for `verify`.
    """
    _authorize(_read(token, _public(signer)), use)


def audience_of(token: str, keys: Keyring) -> str:
    """Which workers `token` was minted for, as it says itself; empty when it doesn't.

    Raises:
        ToolRefusal: no worker minted it.
    """
    source = _read(token, _root_of(keys)).block_source(0) or ""
    found = re.search(r'^check if use_audience\("(.*)"\);$', source, re.MULTILINE)
    return found[1] if found else ""


def _root_of(keys: Keyring) -> Callable[[int | None], PublicKey]:
    def root(key_id: int | None) -> PublicKey:
        if key_id is None or key_id not in keys.public:
            raise ValueError("unknown root key")
        return keys.public[key_id]

    return root


def _builder(grant: Grant) -> BiscuitBuilder:
    exact = grant.model_dump(
        include={
            "workflow_id",
            "run_id",
            "agent",
            "capsule",
            "policy_digest",
            "subject",
            "corpus",
            "resource",
            "idempotency_key",
            "audience",
        },
        exclude_none=True,
    )
    money = grant.ceiling or Money.model_construct(cents=0, currency="")
    builder = BiscuitBuilder(
        """
        reason({reason});
        check if time($now), $now < {end};
        check if use_tool($tool), tool($tool);
        check if use_money($cents, {currency}), $cents <= {cents};
        """,
        {"reason": grant.reason, "end": _time(grant.expires_at), "currency": money.currency, "cents": money.cents},
    )
    for name, value in exact.items():
        builder.add_code(f"check if use_{name}({{value}})", {"value": value})
    for tool in grant.tools:
        builder.add_code("tool({tool})", {"tool": tool})
    if grant.epoch is not None:
        builder.add_code("check if use_epoch($epoch), $epoch <= {epoch}", {"epoch": grant.epoch})
    return builder


def _read(token: str, root: object) -> Biscuit:
    try:
        return Biscuit.from_base64(token, root)
    except (BiscuitValidationError, ValueError):
        raise ToolRefusal("capability_refused", "The capability's signature doesn't verify.") from None


def _authorize(biscuit: Biscuit, use: Use) -> None:
    if _covers(biscuit, use, use.now):
        return
    # The same use a long time ago: if that passes, it was the time.
    if _covers(biscuit, use, 0):
        raise ToolRefusal("capability_expired", "The capability has expired.")
    raise ToolRefusal("capability_refused", f"No capability covers `{use.tool}` on `{use.resource}` here.")


def _covers(biscuit: Biscuit, use: Use, now: int) -> bool:
    money = use.amount or Money.model_construct(cents=0, currency="")
    builder = AuthorizerBuilder(
        """
        time({now}); use_workflow_id({workflow_id}); use_run_id({run_id}); use_agent({agent}); use_capsule({capsule});
        use_policy_digest({policy_digest}); use_subject({subject}); use_corpus({corpus}); use_tool({tool});
        use_resource({resource}); use_money({cents}, {currency}); use_idempotency_key({idempotency_key});
        use_audience({audience}); use_epoch({epoch});
        allow if true;
        """,
        {
            **use.model_dump(exclude={"amount", "now"}),
            "now": _time(now),
            "cents": money.cents,
            "currency": money.currency,
        },
    )
    limits = builder.limits()
    limits.max_time = MAX_TIME
    builder.set_limits(limits)
    try:
        builder.build(biscuit).authorize()
    except AuthorizationError as e:
        if "execution limits" in str(e):  # a worker that stood still, not an answer
            raise Unavailable("The capability couldn't be checked in time.") from None
        return False
    return True


def _pair(private: bytes) -> KeyPair:
    return KeyPair.from_private_key(PrivateKey.from_bytes(private, Algorithm.Ed25519))


def _public(raw: bytes) -> PublicKey:
    return PublicKey.from_bytes(raw, Algorithm.Ed25519)


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
