"""What the ledger takes and gives, as plain data: no database here, so that a command can name it without loading one."""

from typing import Literal

from pydantic import Field, JsonValue

from policies.anomaly import RuleAction
from policies.approvals import Verb
from policies.caps import OnCap
from policies.models import AutonomyMode, Decision, Frozen, Idempotency, Money, ResourceRef, Risk
from policies.models import Effect as ToolEffect

__all__ = [
    "COUNTED",
    "CapUse",
    "Capability",
    "CapabilityKind",
    "Charge",
    "DecisionRow",
    "Effect",
    "EffectState",
    "Enrolment",
    "Intent",
    "Logged",
    "Outcome",
    "Override",
    "PersonSaid",
    "ProposalRecord",
    "RolloutLine",
    "RootRow",
    "RunRecord",
    "SeenRelease",
    "Standing",
    "Switch",
    "ToSeal",
    "TripRecord",
]

EffectState = Literal["reserved", "sent", "done", "failed", "released", "indeterminate"]
CapabilityKind = Literal["run", "write", "delegation"]
COUNTED: tuple[EffectState, ...] = ("reserved", "sent", "done", "indeterminate")
"""States whose amounts count towards sums: an unknown outcome counts as if it had happened."""


class Intent(Frozen):
    """A write that wants to happen, with all that the ledger records of it.

    Attributes:
        capability: id of the capability that covers it; one that was revoked stops the reservation.
        risk: of the tool, as it declares it.
        per_run, per_agent_and_day: how many writes there may be, this one included; None for any number.
    """

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
    capability: str = ""
    per_run: int | None = None
    per_agent_and_day: int | None = None
    risk: Risk | Literal[""] = ""


class Effect(Frozen):
    """A row of the ledger.

    Attributes:
        outcome: JSON text once `done`, or `CODE: SENTENCE` of why it `failed`.
        resolved_by, resolved_reason, resolved_at: the person who said what had become of an `indeterminate` effect.
        epoch: the ledger's epoch when it was last reserved. Each switch raises it, so a reservation came after a switch if its
            epoch isn't lower: by their order in the database, and not by anybody's clock.
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
    capability: str = ""
    risk: str = ""
    epoch: int = 0


class Capability(Frozen):
    """A capability as the ledger keeps it. Times in Unix milliseconds, but `expires_at` in Unix seconds, as in the token.

    Attributes:
        run_id: whose it is; empty for a delegation that no run has taken yet.
        tools: ids such as `request_refund@1`, separated by commas.
        idempotency_key: of the one write that it covers; empty for a run's reads and for a delegation.
        delegation: id of the delegation that a write rests on.
        issuer: `worker`, or the person who delegates.
        key_id: of the root key, or of the person's key, that signed the token.
    """

    id: str
    kind: CapabilityKind
    run_id: str
    agent: str
    tools: str
    resource: str = ""
    subject: str
    ceiling_cents: int = 0
    currency: str = ""
    idempotency_key: str = ""
    delegation: str = ""
    issuer: str
    key_id: str
    reason: str = ""
    token: str = Field(repr=False)
    minted_at: int
    expires_at: int
    revoked_at: int | None = None
    revoked_by: str | None = None
    revoked_reason: str | None = None


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


class Switch(Frozen):
    """An off switch or a pause, as the gate sees it. `set_at` in Unix milliseconds.

    Attributes:
        epoch: its place in the order of all switches and reservations.
    """

    scope: str
    reason: str
    set_by: str
    epoch: int
    set_at: int


class Logged(Frozen):
    """Something that was done to a switch. `at` in Unix milliseconds; `detail` is JSON text, or empty."""

    id: int
    command: str
    action: str
    scope: str
    reason: str
    by: str
    epoch: int
    at: int
    detail: str


class RunRecord(Frozen):
    """A run as it ended, for the figures of its agent. Times in Unix milliseconds, model cost in micro-USD.

    Attributes:
        release: digest of what it was pinned to.
        arm: who did the work, for comparisons.
        subject_tag: `policies.switches.subject_tag` of whom it was for.
        denied, invalid, errors, repeated, asked, approved, rejected, edited, reviews: as in `workflows.records.Tally`.
        waits, reasons: likewise, as JSON; empty for none, and in runs that ended before they were kept.
        input_tokens, cached_input_tokens, cache_write_tokens, cache_saved_micro_usd: likewise; 0 in such runs.
        unknown_cost_calls: model calls that nobody knows the cost of, beside `cost_micro_usd`.
        simulated: whether the model was scripted, so that tokens and cost are made up.
        moved_cents: by its writes that happened, or may have.
        first_response_ms: from the start to the first write; None when nothing was written.
        recorded_at: when this row was written, by the ledger's worker.
    """

    run_id: str
    workflow_id: str
    agent: str
    release: str
    arm: str
    mode: str
    policy_version: str
    subject_tag: str
    outcome: str
    started_at: int
    closed_at: int
    model_calls: int = 0
    tool_calls: int = 0
    tokens: int = 0
    cost_micro_usd: int = 0
    denied: int = 0
    invalid: int = 0
    errors: int = 0
    repeated: int = 0
    asked: int = 0
    approved: int = 0
    rejected: int = 0
    edited: int = 0
    moved_cents: int = 0
    first_response_ms: int | None = None
    recorded_at: int = 0
    unknown_cost_calls: int = 0
    reviews: int = 0
    waits: str = ""
    reasons: str = ""
    simulated: bool = False
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_saved_micro_usd: int = 0


class Charge(Frozen):
    """Something that counts towards caps across runs.

    Attributes:
        key: names it for good: what was counted under it isn't counted again.
        tokens, cost_micro_usd: of an attempt of a model call, by estimate.
        moved: by a write, whose effect is reserved in the same transaction, under the same key.
    """

    key: str
    kind: Literal["run", "tool", "model"]
    run_id: str
    agent: str
    tokens: int = 0
    cost_micro_usd: int = 0
    moved: Money | None = None


class CapUse(Frozen):
    """How much of a cap is used.

    Attributes:
        scope, cap: whose it is, and its name in `limits.toml`.
        queued: places that are given out already, of those who wait for a rate.
        room_at: Unix milliseconds at which there is room again; None when there is.
    """

    scope: str
    cap: str
    limit: int
    used: int
    left: int
    on_cap: OnCap
    queued: int = 0
    room_at: int | None = None


class ProposalRecord(Frozen):
    """What people made of an action of an agent that only drafts. Times in Unix milliseconds.

    Attributes:
        decision: as in `workflows.records.Fate`.
        by: who decided, separated by commas.
    """

    run_id: str
    action_digest: str
    workflow_id: str
    agent: str
    tool: str
    put_at: int
    decided_at: int
    decision: str
    by: str


class SeenRelease(Frozen):
    """A release that runs were pinned to. `contents` is a `policies.rollout.Release` as JSON; times in Unix milliseconds."""

    digest: str
    agent: str
    definition: str
    contents: str
    first_seen: int


class RolloutLine(Frozen):
    """Something that was done to a rollout. `rollout` is how it stood then, as JSON; `at` in Unix milliseconds."""

    id: int
    command: str
    action: str
    agent: str
    rollout: str
    at: int
    detail: str


class Outcome(Frozen):
    """What is known of a case after its run; None where nobody said anything.

    Attributes:
        csat: how satisfied the customer is, from 1 to 5.
        violated: whether policy refused the agent something. The ledger's own word.
    """

    csat: int | None = None
    reopened: bool | None = None
    refunded: bool | None = None
    escalated: bool | None = None
    cost_micro_usd: int | None = None
    first_response_ms: int | None = None
    violated: bool = False


class TripRecord(Frozen):
    """A rule of the anomaly breaker that tripped. Times in Unix milliseconds.

    Attributes:
        rule, figures: as JSON: `policies.anomaly.Rule` and the `Figures` that it saw, counted from `since` on.
        value: what the rule made of them.
        mode_before, mode_after: what the agent might do by itself.
    """

    id: str
    agent: str
    rule: str
    action: RuleAction
    figures: str
    value: float
    since: int
    mode_before: AutonomyMode
    mode_after: AutonomyMode
    at: int
    put_back_at: int | None = None
    put_back_by: str | None = None
    put_back_reason: str | None = None


class Override(Frozen):
    """An agent that was stepped down to `mode`. `set_at` in Unix milliseconds; `epoch` as of a switch."""

    agent: str
    mode: AutonomyMode
    reason: str
    set_by: str
    set_at: int
    epoch: int


class PersonSaid(Frozen):
    """What a person decided on an action, their signature verified. `at` in Unix milliseconds.

    Attributes:
        edit: all arguments that they put in the place of the proposed ones; None if they didn't edit it.
    """

    by: str
    decision: Verb
    reason: str = ""
    at: int
    edit: dict[str, JsonValue] | None = None


class DecisionRow(Frozen):
    """One judgement of an action. A call has several when people edited it, or when sums rose before it was performed.

    Attributes:
        key: names the judgement for good: `decision_key` of run, step, index and round.
        round: which of the call's judgements this is, from 0; `last` marks the one that the call ended with.
        at: Unix milliseconds of the judgement; of the last one, of the call's end.
        decision: the verdict; empty when the call was refused before any policy was asked, by the agent's mode, the subject
            binding or a business rule, which `reason` names.
        policy_ids: those that determined the verdict, sorted, separated by commas.
        reason: code of the refusal at the judgement, or else of the one that the call ended with; empty when there is none.
        mode: what the agent was held to.
        facts: `policies.models.ActionFacts` as JSON: all that the verdict rests on next to the policy; the arguments are only
            here.
        people: `PersonSaid`s as a JSON list, oldest first.
        outcome: the status of the call at its end, for example `done` or `refused`.
    """

    key: str
    run_id: str
    workflow_id: str
    agent: str
    release: str
    tool: str
    effect: ToolEffect
    risk: Risk
    step: int
    call_index: int
    round: int
    last: bool
    at: int
    policy_name: str
    policy_digest: str
    decision: Decision | Literal[""]
    policy_ids: str = ""
    approvals_required: int = 0
    reason: str = ""
    mode: AutonomyMode
    amount_cents: int = 0
    currency: str = ""
    facts: str
    people: str = "[]"
    outcome: str = ""


class ToSeal(Frozen):
    """A run that has no root yet. Times in Unix milliseconds.

    Attributes:
        namespace: empty for one from before there was this queue.
        due_at: when it is its turn; later for one that had to be put off.
        tries: how often sealing it was begun.
        why: what stood in the way the last time.
    """

    run_id: str
    namespace: str
    workflow_id: str
    agent: str
    queued_at: int
    due_at: int
    tries: int = 0
    why: str = ""


class RootRow(Frozen):
    """The signed root of a run, and where its capsule is.

    Attributes:
        seq: its place in its namespace, from 1 on, without gaps.
        root: what is signed, as JSON.
        place: of the file in the sink.
        lines: of the trace.
        events: of the run's histories.
        reason: why there is no trace, when there is none.
        sealed_at: Unix milliseconds.
    """

    namespace: str
    seq: int
    run_id: str
    workflow_id: str
    agent: str
    root: str
    digest: str
    previous: str
    signature: str
    key_id: str
    public_key: str
    place: str
    lines: int
    events: int
    reason: str = ""
    sealed_at: int
