"""Approvals that can't be forged: what exactly is approved, and whether a signed decision counts for it.

A decision is a JWS (RFC 7515, EdDSA over Ed25519, RFC 8037) by the approver over the digest of the action, the run, the
decision, a reason, a nonce and two times. An `approver` field anywhere else is a claim and is ignored. An edit carries all
arguments of the action that shall take the place of the one it was put before.
"""

from typing import Literal, Self, TypeVar

from joserfc import jws
from joserfc.jwk import OKPKey
from pydantic import Field, JsonValue, model_validator

from policies.bundle import ApprovalRules
from policies.canonical import canonical_json, digest
from policies.errors import ApprovalRefused
from policies.identity import Directory, Person
from policies.models import ApprovalStatus, Frozen, Money, ResourceRef

__all__ = [
    "ALGORITHM",
    "CLOCK_SKEW_SECONDS",
    "MAX_JWS_BYTES",
    "MAX_SIGNATURE_SECONDS",
    "Action",
    "Approval",
    "ApprovalDecision",
    "ApprovalRequest",
    "DecisionClaims",
    "Verb",
    "action_digest",
    "add_decision",
    "claimed_key",
    "decision_payload",
    "edit_note",
    "editors",
    "quorum",
    "read_signed",
    "sign_decision",
    "verify_decision",
]

ALGORITHM = "Ed25519"
TYPE = "approval+jws"
MAX_JWS_BYTES = 8192
MAX_SIGNATURE_SECONDS = 3600
CLOCK_SKEW_SECONDS = 60
WHOSE = {"decision": "this run's", "command": "the"}
C = TypeVar("C", bound=Frozen)
Verb = Literal["approve", "reject", "edit"]


class Action(Frozen):
    """All that an approval is bound to. Two actions that differ anywhere have different digests.

    Attributes:
        edited_by: the people who changed the arguments that the model had proposed, in the order in which they did.
    """

    run_id: str
    agent: str
    subject: str
    tool: str
    resource: ResourceRef
    arguments: dict[str, object]
    policy_digest: str
    idempotency_key: str
    edited_by: tuple[str, ...] = ()


def action_digest(action: Action) -> str:
    """SHA-256 over the RFC 8785 JSON of `action`, without `edited_by` when nobody edited it."""
    return digest(action.model_dump(mode="json", exclude=None if action.edited_by else {"edited_by"}))


class ApprovalRequest(Frozen):
    """What is put before the approvers; `expires_at` is in Unix seconds.

    Attributes:
        edited_by: who changed the arguments. They proposed the action, so they may not approve it.
        edit_of: the approval that ended with the edit.
        proposal: whether the agent only drafts, so that what people make of this counts for its accepted rate.
    """

    approval_id: str
    action_digest: str
    tool: str
    resource: ResourceRef
    arguments: dict[str, object]
    amount: Money | None
    required: int
    roles: tuple[str, ...]
    policy_ids: tuple[str, ...]
    requested_at: int
    expires_at: int
    edited_by: tuple[str, ...] = ()
    edit_of: str = ""
    proposal: bool = False


class DecisionClaims(Frozen):
    """The signed content of a decision. `iat` and `exp` are Unix seconds; `arguments` are those of an edit, all of them."""

    act: str
    run: str
    approval_id: str
    decision: Verb
    reason: str = Field(default="", max_length=2000)
    nonce: str = Field(min_length=8, max_length=64)
    iat: int
    exp: int
    arguments: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _arguments_of_an_edit(self) -> Self:
        if (self.decision == "edit") != (self.arguments is not None):
            raise ValueError("an edit has arguments, and no other decision has")
        return self


class ApprovalDecision(Frozen):
    """A decision that was verified: who, what, and the token that proves it."""

    sub: str
    decision: Verb
    reason: str
    nonce: str
    decided_at: int
    decision_jws: str
    arguments: dict[str, JsonValue] | None = None


class Approval(Frozen):
    """A request and what became of it.

    Attributes:
        decisions: who has decided, and what.
        escalated_at: Unix seconds when others were last asked too; the request's `roles` are all that may decide since then.
    """

    request: ApprovalRequest
    status: ApprovalStatus = "pending"
    decisions: tuple[ApprovalDecision, ...] = ()
    escalated_at: int | None = None

    @property
    def approvers(self) -> tuple[str, ...]:
        return tuple(d.sub for d in self.decisions if d.decision == "approve")

    @property
    def edit(self) -> ApprovalDecision | None:
        """The decision that put other arguments in the place of these."""
        return next((d for d in self.decisions if d.decision == "edit"), None)


def editors(edits: tuple[Approval, ...]) -> tuple[str, ...]:
    """The people who made `edits`, each once."""
    return tuple(dict.fromkeys(e.edit.sub for e in edits if e.edit))


def edit_note(edits: tuple[Approval, ...]) -> dict[str, object]:
    """What a model is told of `edits` of its call; empty when there is none."""
    last = edits[-1].edit if edits else None
    if last is None:
        return {}
    return {"by": list(editors(edits)), "arguments": last.arguments, "reason": last.reason}


def decision_payload(approval_id: str, token: str) -> dict[str, str]:
    """The wire form of a decision, by signal or update `decide`."""
    return {"approval_id": approval_id, "decision_jws": token}


def sign_decision(claims: DecisionClaims, key: OKPKey) -> str:
    """The compact JWS of `claims`, signed by `key` (its `kid` says whose it is)."""
    header = {"alg": ALGORITHM, "kid": str(key.kid), "typ": TYPE}
    payload = canonical_json(claims.model_dump(mode="json", exclude={"arguments"} if claims.arguments is None else None))
    return jws.serialize_compact(header, payload, key, algorithms=[ALGORITHM])


def claimed_key(token: str) -> str:
    """The key that `token` says it was signed by; empty when it says nothing that can be read. Never raises."""
    try:
        return str(jws.extract_compact(token[:MAX_JWS_BYTES].encode()).headers().get("kid", ""))[:100]
    except Exception:
        return ""


def read_signed(
    token: str, directory: Directory, now: int, model: type[C], *, typ: str, what: str, how: str
) -> tuple[Person, C]:
    """Who signed `token`, and what it says, if one of the people did and may sign now.

    Args:
        typ: what its header must say it is.
        what, how: what a sentence calls it, and the command that makes one.

    Raises:
        ApprovalRefused: it proves nothing.
    """
    if len(token) > MAX_JWS_BYTES:
        raise ApprovalRefused("too_large", f"The {what} is over {MAX_JWS_BYTES} bytes; sign it again with `{how}`.")
    try:
        header = jws.extract_compact(token.encode()).headers()
    except Exception:
        raise ApprovalRefused("malformed", f"The {what} isn't a compact JWS; make one with `{how}`.") from None
    if header.get("alg") != ALGORITHM or header.get("typ") != typ:
        raise ApprovalRefused("bad_header", f"The {what}'s header must say alg `{ALGORITHM}` and typ `{typ}`.")
    found = directory.by_key(str(header.get("kid", "")))
    if found is None:
        raise ApprovalRefused("unknown_key", f"The {what} is signed by a key that {WHOSE[what]} directory doesn't know.")
    person, public = found
    try:
        key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": public.x, "kid": public.kid})
        # Pydantic's own parser bounds the depth of nesting; `json.loads` would raise RecursionError and stall the run.
        claims = model.model_validate_json(jws.deserialize_compact(token, key, algorithms=[ALGORITHM]).payload)
    except Exception:
        # Any error at all, for a stranger chooses the header: joserfc meets `crit: 5` with a TypeError, and an error other
        # than a refusal would fail the workflow task again and again.
        raise ApprovalRefused("bad_signature", f"The {what}'s signature or content doesn't verify.") from None
    if not public.valid(now):
        raise ApprovalRefused("key_expired", f"The login of `{person.sub}` isn't valid at this time; run `remit login` again.")
    return person, claims


def verify_decision(
    token: str,
    *,
    request: ApprovalRequest,
    run_id: str,
    directory: Directory,
    now: int,
    barred: frozenset[str],
    rules: ApprovalRules | None = None,
) -> ApprovalDecision:
    """The decision that `token` proves for `request`.

    Args:
        rules: those of the pinned bundle. They say who may decide, from when on, whatever the request says; a group that was
            asked later counts only if it also signed later.
        now: Unix seconds; in a workflow, the workflow's time.
        barred: who may not decide: the requester and the agent itself.

    Raises:
        ApprovalRefused: with the reason why it doesn't count.
    """
    person, claims = read_signed(token, directory, now, DecisionClaims, typ=TYPE, what="decision", how="remit sign")
    sub, roles = person.sub, person.roles
    if claims.run != run_id or claims.approval_id != request.approval_id:
        raise ApprovalRefused("other_approval", "The decision is for another run or another approval.")
    if claims.act != request.action_digest:
        raise ApprovalRefused("other_action", "The decision is for other arguments than those of this approval.")
    if sub in barred:
        raise ApprovalRefused("own_request", f"`{sub}` asked for this run and may not decide on it.")
    if sub in request.edited_by and claims.decision == "approve":
        raise ApprovalRefused("own_edit", f"`{sub}` edited this action and may not approve it; somebody else must.")
    allowed = rules.roles_at(min(now, claims.iat) - request.requested_at) if rules else request.roles
    if not set(roles) & set(allowed):
        raise ApprovalRefused("wrong_role", f"`{sub}` has none of the roles that may decide here: {', '.join(allowed)}.")
    if not claims.iat - CLOCK_SKEW_SECONDS <= now < min(claims.exp, claims.iat + MAX_SIGNATURE_SECONDS):
        raise ApprovalRefused("signature_expired", "The decision's signature isn't valid at this time; sign it again.")
    if now >= request.expires_at:
        raise ApprovalRefused("expired", "The approval has expired.")
    return ApprovalDecision(
        sub=sub,
        decision=claims.decision,
        reason=claims.reason,
        nonce=claims.nonce,
        decided_at=now,
        decision_jws=token,
        arguments=claims.arguments,
    )


def add_decision(approval: Approval, decision: ApprovalDecision) -> Approval:
    """`approval` after one more verified decision. One rejection rejects, one edit ends it; approvals count different people.

    Raises:
        ApprovalRefused: it is already decided, or this person has decided before.
    """
    if approval.status != "pending":
        raise ApprovalRefused("already_decided", f"Approval `{approval.request.approval_id}` is already {approval.status}.")
    if any(d.sub == decision.sub for d in approval.decisions):
        raise ApprovalRefused("same_person", f"`{decision.sub}` has already decided; somebody else must.")
    after = approval.model_copy(update={"decisions": (*approval.decisions, decision)})
    status: ApprovalStatus = "pending"
    if decision.decision == "reject":
        status = "rejected"
    elif decision.decision == "edit":
        status = "cancelled"
    elif len(set(after.approvers)) >= approval.request.required:
        status = "approved"
    return after.model_copy(update={"status": status})


def quorum(
    decisions: tuple[ApprovalDecision, ...],
    *,
    request: ApprovalRequest,
    run_id: str,
    directory: Directory,
    barred: frozenset[str],
    rules: ApprovalRules | None = None,
) -> int:
    """How many different people approved `request`, each signature verified again as of when it was given.

    Raises:
        ApprovalRefused: one of them doesn't count, or somebody rejected or edited it.
    """
    approval = Approval(request=request.model_copy(update={"required": len(decisions) + 1}))
    for given in decisions:
        proven = verify_decision(
            given.decision_jws,
            request=request,
            run_id=run_id,
            directory=directory,
            now=given.decided_at,
            barred=barred,
            rules=rules,
        )
        approval = add_decision(approval, proven)
    if approval.status == "rejected":
        raise ApprovalRefused("rejected", "The approval was rejected.")
    if approval.status == "cancelled":
        raise ApprovalRefused("edited", "The action was edited; this approval is for the one before.")
    return len(approval.approvers)
