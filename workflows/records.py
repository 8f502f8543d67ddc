"""What a run leaves behind for the figures of its agent: counted as it goes, recorded in the ledger when it ends. Pure."""

from typing import Literal

from pydantic import Field

from policies.approvals import Approval
from policies.autonomy import READ_ONLY
from policies.errors import CapReached
from policies.models import Frozen
from policies.rollout import Arm
from policies.value import WITHHELD
from workflows.messages import TokenUsage

__all__ = ["Fate", "ProposalEnd", "RunEnd", "Tally", "fate"]

Fate = Literal["approved", "edited", "rejected", "expired"]

INVALID = ("validation_failed", "unknown_tool", "not_alone")
DENIED = ("denied", "not_granted", "not_subject", "unknown_corpus", "other_run", READ_ONLY)
BY_PEOPLE = ("rejected", "approval_expired")
SAYS_NOTHING = (*BY_PEOPLE, CapReached.code, WITHHELD)
"""Of the call: people's decisions are counted where they decide, the others say what the fleet has left."""
MAX_WAITS = 1_000
MAX_REASONS = 50


def fate(approval: Approval) -> Fate | None:
    """What people made of an action that was put before them; None while they haven't, or when the run didn't let them."""
    if approval.edit:
        return "edited"
    match approval.status:
        case "approved" | "consumed":
            return "approved"
        case "rejected" | "expired":
            return approval.status
        case _:
            return None


class Tally(Frozen):
    """How often something happened in a run.

    Attributes:
        denied: calls that policy, or the lack of authority, refused.
        invalid: calls that weren't well formed.
        errors: calls that failed: the vendor refused, didn't answer, or left it unknown.
        repeated: calls that had been made with the same arguments before.
        asked: actions put before people; some of them were `approved`, `rejected` or `edited`.
        reviews: decisions that people signed on them; an action may need several.
        waits: seconds from asking to each of those ends, the latest thousand.
        reasons: calls that weren't carried out, by code.
        first_write_at: Unix seconds; 0 when nothing was written.
        input_tokens: read by model calls; some of them came from a prompt cache (`cached_input_tokens`) or were written into
            one (`cache_write_tokens`).
        cache_saved_micro_usd: what that saved, at the prices of the models that answered; negative when it cost more.
    """

    denied: int = 0
    invalid: int = 0
    errors: int = 0
    repeated: int = 0
    asked: int = 0
    approved: int = 0
    rejected: int = 0
    edited: int = 0
    reviews: int = 0
    waits: tuple[int, ...] = ()
    reasons: dict[str, int] = Field(default_factory=dict[str, int])
    first_write_at: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_saved_micro_usd: int = 0

    def more(self, **by: int) -> "Tally":
        """With some of the counts raised."""
        return self.model_copy(update={name: getattr(self, name) + n for name, n in by.items()})

    def read(self, usage: TokenUsage, saved_micro_usd: int) -> "Tally":
        """With a model call that was answered."""
        held = min(usage.cached_input_tokens, usage.input_tokens)
        return self.more(
            input_tokens=usage.input_tokens,
            cached_input_tokens=held,
            cache_write_tokens=min(usage.cache_write_tokens, usage.input_tokens - held),
            cache_saved_micro_usd=saved_micro_usd,
        )

    def decided(self, what: Fate, waited: int, reviews: int) -> "Tally":
        """With an action that people decided on `waited` seconds after they were asked; one that expired changes nothing."""
        if what == "expired":
            return self
        counted = self.more(**{what: 1}, reviews=reviews)
        return counted.model_copy(update={"waits": (*self.waits, waited)[-MAX_WAITS:]})

    def refused(self, reason: str) -> "Tally":
        """With a call that wasn't carried out, for `reason`."""
        code = reason if reason in self.reasons or len(self.reasons) < MAX_REASONS else "other"
        counted = self.model_copy(update={"reasons": {**self.reasons, code: self.reasons.get(code, 0) + 1}})
        if reason in SAYS_NOTHING:
            return counted
        if reason in INVALID:
            return counted.more(invalid=1)
        if reason in DENIED or reason.startswith("capability_"):
            return counted.more(denied=1)
        return counted.more(errors=1)


class RunEnd(Frozen):
    """Input of `record_run`: a run as it ended. Times in Unix seconds, money of model calls in micro-USD.

    Attributes:
        run_id: of the run's first history.
        outcome: its last status.
        arm: who did the work, in a rollout.
    """

    run_id: str
    workflow_id: str
    agent: str
    release: str
    mode: str
    policy_version: str
    subject: str
    outcome: str
    started_at: int
    closed_at: int
    model_calls: int
    tool_calls: int
    tokens: int
    cost_micro_usd: int
    tally: Tally
    arm: Arm = ""
    unknown_cost_calls: int = 0
    simulated: bool = False


class ProposalEnd(Frozen):
    """Input of `record_proposal`: what people made of an action of an agent that only drafts. Times in Unix seconds.

    Attributes:
        run_id: of the run's first history.
        by: who decided; nobody, when it expired.
    """

    run_id: str
    workflow_id: str
    agent: str
    tool: str
    action_digest: str
    put_at: int
    decided_at: int
    decision: Fate
    by: tuple[str, ...] = ()
