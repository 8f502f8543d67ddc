"""What the ledger takes and gives, as plain data: no database here, so that a command can name it without loading one."""

from typing import Literal

from policies.models import Frozen, Idempotency, Money, ResourceRef

__all__ = ["Effect", "EffectState", "Enrolment", "Intent", "Standing"]

EffectState = Literal["reserved", "sent", "done", "failed", "released", "indeterminate"]


class Intent(Frozen):
    """A write that wants to happen, with all that the ledger records of it."""

    idempotency_key: str
    run_id: str
    workflow_id: str
    agent: str
    tool: str
    resource: ResourceRef
    subject: str
    amount: Money | None
    action_digest: str
    approvers: tuple[str, ...]
    strategy: Idempotency


class Effect(Frozen):
    """A row of the ledger.

    Attributes:
        outcome: JSON text once `done`, or `CODE: SENTENCE` of why it `failed`.
        resolved_by, resolved_reason, resolved_at: the person who said what had become of an `indeterminate` effect.
    """

    idempotency_key: str
    run_id: str
    workflow_id: str
    agent: str
    tool: str
    resource: str
    subject: str
    amount_cents: int
    currency: str
    action_digest: str
    approvers: str
    state: EffectState
    attempts: int
    outcome: str
    reserved_at: int
    settled_at: int | None
    resolved_by: str | None = None
    resolved_reason: str | None = None
    resolved_at: int | None = None


class Enrolment(Frozen):
    """A person's signing key. Whose it is is proven by the ID token beside it in the table, and by nothing else.

    Attributes:
        kid: thumbprint of the key; `x` is the key itself, Ed25519, base64url.
        withdrawn_at: when its owner logged out.
    """

    kid: str
    x: str
    enrolled_at: int
    withdrawn_at: int | None = None


class Standing(Frozen):
    """Whether a person was suspended or restored, by whom and why."""

    sub: str
    suspended: bool
    reason: str
    set_by: str
    set_at: int
