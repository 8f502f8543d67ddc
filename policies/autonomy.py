"""Autonomy modes: what an agent may do by itself, whatever its policy permits; how often people accept its drafts. Pure."""

from policies.errors import ToolRefusal
from policies.models import AutonomyMode, Effect, Frozen, Verdict

__all__ = ["BY_DRAFT", "MODES", "READ_ONLY", "Accepted", "check", "lowest", "offered", "under"]

MODES: tuple[AutonomyMode, ...] = ("read_only", "draft", "live")
"""From the least to the most that an agent may do."""
READ_ONLY = "mode_read_only"
"""How a write of an agent that only reads is refused; also what stands for it among a verdict's policies."""
BY_DRAFT = "mode_draft"
"""What stands among a verdict's policies for the mode that asks for the approval."""
LOW_RATE = 70
ENOUGH = 10


def lowest(mode: AutonomyMode, *others: AutonomyMode) -> AutonomyMode:
    """The mode that holds where several are said: the one that lets the agent do least."""
    return min((mode, *others), key=MODES.index)


def offered(mode: AutonomyMode, effect: Effect) -> bool:
    """Whether an agent in `mode` has tools of this effect at all."""
    return effect == "read" or mode != "read_only"


def check(mode: AutonomyMode, effect: Effect) -> None:
    """Whether an agent in `mode` may propose a call of this effect.

    Raises:
        ToolRefusal: `mode_read_only`.
    """
    if not offered(mode, effect):
        raise ToolRefusal(
            READ_ONLY, "This agent is in `read_only` mode and changes nothing; recommend it in `final_answer` instead."
        )


def under(mode: AutonomyMode, verdict: Verdict, effect: Effect, approvals: int = 0) -> Verdict:
    """The policy's verdict, held to the mode: it is never milder, and a denial stays what it is.

    In `draft`, a write that the policy would let pass needs one person; where the policy asks for more, its number holds.

    Args:
        approvals: different, verified people who approved exactly this action.
    """
    if effect == "read" or mode == "live" or verdict.decision == "deny":
        return verdict
    if not offered(mode, effect):
        return Verdict(decision="deny", policy_ids=(READ_ONLY,), reason="the agent is in `read_only` mode")
    if approvals or verdict.approvals_required:
        return verdict
    asking = verdict.policy_ids if verdict.decision == "require_approval" else ()
    return Verdict(
        decision="require_approval",
        policy_ids=tuple(sorted({*asking, BY_DRAFT})),
        approvals_required=1,
        route_strong=verdict.route_strong,
        reason="the agent is in `draft` mode: a person must accept this",
    )


class Accepted(Frozen):
    """What people made of an agent's proposals.

    Attributes:
        accepted: carried out exactly as the agent proposed it.
        edited: somebody changed it first, so it wasn't right as it was.
        expired: nobody decided in time, which says nothing about the proposal.
    """

    accepted: int = 0
    edited: int = 0
    rejected: int = 0
    expired: int = 0

    @property
    def put(self) -> int:
        return self.decided + self.expired

    @property
    def decided(self) -> int:
        return self.accepted + self.edited + self.rejected

    @property
    def percent(self) -> int | None:
        """Accepted ones of those that somebody decided, rounded down; None when there is none."""
        return 100 * self.accepted // self.decided if self.decided else None

    @property
    def flagged(self) -> bool:
        """Whether so few are accepted that somebody should look at the agent; not before there are ten to judge by."""
        return self.decided >= ENOUGH and 100 * self.accepted < LOW_RATE * self.decided
