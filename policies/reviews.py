"""Reviews of tools: what a person signs, the seal that lets it be verified for years, and how a tool stands. Pure."""

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Literal

from joserfc import jws
from joserfc.jwk import OKPKey
from pydantic import Field, JsonValue

from policies.approvals import ALGORITHM
from policies.canonical import canonical_json, digest, sha256
from policies.capability import Keyring, public_of
from policies.control import Signable, verify_control
from policies.errors import ControlRefused
from policies.identity import Directory, Person, PublicKey
from policies.models import Frozen

__all__ = [
    "WHY",
    "Kept",
    "Review",
    "Shipped",
    "Standing",
    "ToolDescription",
    "changes",
    "proven",
    "seal",
    "stands",
    "unsealed",
]

Standing = Literal["reviewed", "changed", "withdrawn", "never"]
WHY: Mapping[Standing, str] = {
    "changed": "changed since its review",
    "withdrawn": "its review was withdrawn",
    "never": "never reviewed",
}
"""Why a tool isn't offered, in words."""
SEAL_TYPE = "review-seal+jws"
COMMANDS: tuple[Signable, ...] = ("tool_approve", "tool_withdraw")


class ToolDescription(Frozen):
    """What a reviewer looks at, and nothing that changes without the tool: its digest is what is signed.

    Attributes:
        arguments: their JSON Schema, with all constraints.
        resource, amount: what a call is about and moves, and which arguments say so.
        rules: whether it has business rules.
        facts: the ports that it asks whose its resource is; none if the arguments say so.
        connectors: the ports to vendors that its code asks for.
        logs: by which means its own code writes to logs or to the terminal.
        code: digest of its module and of those beside it that it imports; comments and layout don't count.
    """

    name: str
    version: str
    effect: str
    risk: str
    scope: str
    description: str
    arguments: dict[str, JsonValue]
    resource: str
    amount: str
    idempotency: str
    settle_seconds: int
    untrusted: bool
    rules: bool
    facts: tuple[str, ...]
    connectors: tuple[str, ...]
    logs: tuple[str, ...]
    code: str

    @property
    def digest(self) -> str:
        return digest(self)


class Shipped(Frozen):
    """A review that comes with a release: as good as the code beside it, which the same people can change.

    Attributes:
        on: the day, as `2026-11-28`.
    """

    digest: str
    note: str
    on: str
    description: ToolDescription


class Kept(Frozen):
    """A review as the ledger keeps it: claims of whoever wrote the row, until they are `proven`. `at` in Unix milliseconds.

    Attributes:
        action: `tool_approve` or `tool_withdraw`.
        description: a `ToolDescription` as JSON.
        statement: what the person signed.
        seal: what a worker added when it had verified that; empty before.
    """

    id: int = 0
    tool: str
    version: str
    digest: str
    description: str
    action: Signable
    by: str
    key_id: str
    statement: str
    reason: str
    at: int
    seal: str = ""


class Review(Frozen):
    """How a tool stands. Of `by`, `at` and `reason`: the review that counts, or the one that it has changed since.

    Attributes:
        at: Unix milliseconds; 0 for one that came with a release.
        changed: what is different since then, by the names of `ToolDescription`.
        ignored: rows that say they are reviews of it, and don't verify.
    """

    tool: str
    version: str
    digest: str
    state: Standing
    by: str = ""
    at: int = 0
    reason: str = ""
    changed: tuple[str, ...] = ()
    ignored: int = 0


class _Seal(Frozen):
    """A worker's word that `statement` was signed by this person, with this key, when it could still be looked up."""

    statement: str
    sub: str
    roles: tuple[str, ...]
    kid: str
    x: str
    at: int = Field(ge=0)


def proven(kept: Kept, people: Directory, *, audience: str, roles: frozenset[str], barred: frozenset[str]) -> Person:
    """Who signed exactly this review, as of when it was signed.

    Args:
        people: those known now, or the one whom a seal names.
        roles: those that may review; empty for any role.
        barred: who may not: the agents.

    Raises:
        ControlRefused: it doesn't count, and why.
    """
    if kept.action not in COMMANDS:
        raise ControlRefused("other_command", "The row is no review.")
    person, claims = verify_control(
        kept.statement, directory=people, now=kept.at // 1000, audience=audience, command=kept.action
    )
    if (claims.scope, claims.digest) != (f"tool:{kept.tool}@{kept.version}", kept.digest):
        raise ControlRefused("other_tool", "What was signed is for another tool, or for this one as it was at another time.")
    if (person.sub, claims.reason) != (kept.by, kept.reason):
        raise ControlRefused("other_words", "The row says something else than what was signed.")
    if person.sub in barred:
        raise ControlRefused("agent", f"`{person.sub}` is an agent; people review tools.")
    if roles and not roles & {*person.roles}:
        raise ControlRefused(
            "wrong_role", f"`{person.sub}` has none of the roles that review tools: {', '.join(sorted(roles))}."
        )
    return person


def seal(kept: Kept, people: Directory, keys: Keyring, now: int) -> str:
    """The seal on a review that was proven by `people`, by the newest root key; nothing where there is none to sign with."""
    found = people.by_key(str(jws.extract_compact(kept.statement.encode()).headers()["kid"]))
    if found is None or not keys.private:
        return ""
    person, public = found
    key_id = max(keys.private)
    claims = _Seal(
        statement=sha256(kept.statement.encode()), sub=person.sub, roles=person.roles, kid=public.kid, x=public.x, at=now
    )
    header = {"alg": ALGORITHM, "kid": str(key_id), "typ": SEAL_TYPE}
    key = _key(public_of(keys.private[key_id]), keys.private[key_id])
    return jws.serialize_compact(header, canonical_json(claims), key, algorithms=[ALGORITHM])


def unsealed(kept: Kept, keys: Keyring) -> tuple[Directory, int] | None:
    """The one person whom the seal names, and the root key that made it; None if there is no good one."""
    try:
        header = jws.extract_compact(kept.seal.encode()).headers()
        raw = keys.others.get(int(str(header.get("kid"))))
        if header.get("typ") != SEAL_TYPE or raw is None:
            return None
        payload = jws.deserialize_compact(kept.seal, _key(raw), algorithms=[ALGORITHM]).payload
        claims = _Seal.model_validate_json(payload)
    except Exception:  # whoever wrote the row chose what is in it
        return None
    if claims.statement != sha256(kept.statement.encode()):
        return None
    person = Person(sub=claims.sub, roles=claims.roles, keys=(PublicKey(kid=claims.kid, x=claims.x),))
    return Directory(people=(person,)), int(str(header["kid"]))


def _key(public: bytes, private: bytes | None = None) -> OKPKey:
    fields: dict[str, str | list[str]] = {"kty": "OKP", "crv": "Ed25519", "x": _b64(public)}
    return OKPKey.import_key({**fields, "d": _b64(private)} if private else fields)


def _b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def changes(kept: Kept, now: ToolDescription) -> tuple[str, ...]:
    """Which parts of the description differ from the reviewed one. Of one that isn't what was signed, nothing is said."""
    try:
        old = ToolDescription.model_validate_json(kept.description)
    except ValueError:
        return ()
    return _different(old, now) if old.digest == kept.digest else ()


def _different(old: ToolDescription, now: ToolDescription) -> tuple[str, ...]:
    return tuple(name for name in ToolDescription.model_fields if getattr(old, name) != getattr(now, name))


def stands(now: ToolDescription, valid: Sequence[Kept], shipped: Shipped | None, ignored: int = 0) -> Review:
    """How a tool stands that is as `now` says.

    A withdrawal ends all reviews before it, the shipped one too. After it, any review of exactly this tool counts: who rolls
    back gets what was reviewed then.

    Args:
        valid: the ledger's rows on it that verify, oldest first.
    """
    fields: dict[str, object] = {"tool": now.name, "version": now.version, "digest": now.digest, "ignored": ignored}

    def said(state: Standing, kept: Kept, changed: Sequence[str] = ()) -> Review:
        about = {"by": kept.by, "at": kept.at, "reason": kept.reason, "changed": tuple(changed)}
        return Review.model_validate({**fields, **about, "state": state})

    last = max((i for i, k in enumerate(valid) if k.action == "tool_withdraw"), default=-1)
    approved = valid[last + 1 :]
    for kept in reversed(approved):
        if kept.digest == now.digest:
            return said("reviewed", kept)
    if last >= 0 and not approved:
        return said("withdrawn", valid[last])
    by_release = shipped if last < 0 else None
    about = {"by": "the release", "reason": by_release.note} if by_release else {}
    if by_release and by_release.digest == now.digest:
        return Review.model_validate({**fields, **about, "state": "reviewed"})
    if approved:
        return said("changed", approved[-1], changes(approved[-1], now))
    if by_release:
        changed = _different(by_release.description, now)
        return Review.model_validate({**fields, **about, "state": "changed", "changed": changed})
    return Review.model_validate({**fields, "state": "never"})
