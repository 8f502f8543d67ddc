"""What people tell `FleetControl` of rollouts and of what became of runs, and what it answers. Add optional fields only."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from policies.models import Frozen
from policies.rollout import Rollout
from workflows.commands import Answer, By, Command, Reason, Room

__all__ = [
    "ROLLOUT_COMMANDS",
    "AppliedRollouts",
    "ArmSummary",
    "JudgeRollout",
    "RecordOutcome",
    "RolledOut",
    "RolloutAbort",
    "RolloutPause",
    "RolloutPromote",
    "RolloutStart",
    "Say",
]

Agent = Annotated[str, Field(min_length=1, max_length=100)]
Signed = Annotated[str, Field(max_length=8192)]
Said = Literal["started", "resumed", "promoted", "paused", "aborted", "judged", "recorded", "refused"]


class _OfRollouts(Command):
    room: ClassVar[Room] = "rollouts"


class RolloutStart(_OfRollouts):
    """Give a candidate its first share, or let a paused rollout go on. Who says so, and which release, is signed."""

    agent: Agent
    control_jws: Signed


class RolloutPromote(_OfRollouts):
    """Give a candidate that passed its gates the next share. Signed."""

    agent: Agent
    control_jws: Signed


class Say(_OfRollouts):
    """Base of what anybody may say, for it only takes from a candidate. `by` is a claim."""

    agent: Agent
    reason: Reason
    by: By = ""


class RolloutPause(Say):
    """Give the candidate no new run until it is started again."""


class RolloutAbort(Say):
    """End the rollout: the candidate gets no new run any more."""


class JudgeRollout(_OfRollouts):
    """Look at a rollout; its gates are judged if a checkpoint is due."""

    agent: Agent


class RecordOutcome(_OfRollouts):
    """What became of a case after its run, as somebody says. What is left out stays as it was said before.

    Attributes:
        workflow_id: of the closed run, one that people were assigned to included.
        cost_micro_usd, first_response_ms: of people's work; the ledger knows those of an agent.
    """

    workflow_id: str = Field(min_length=1, max_length=1000)
    csat: int | None = Field(default=None, ge=1, le=5)
    reopened: bool | None = None
    refunded: bool | None = None
    escalated: bool | None = None
    cost_micro_usd: int | None = Field(default=None, ge=0, le=2**53 - 1)
    first_response_ms: int | None = Field(default=None, ge=0, le=2**53 - 1)
    by: By = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.said:
            raise ValueError("it says nothing of what became of the run")
        return self

    @property
    def said(self) -> dict[str, int | bool]:
        """What it says."""
        return {k: v for k, v in self.model_dump(exclude={"workflow_id", "by"}).items() if v is not None}


ROLLOUT_COMMANDS: dict[str, type[Command]] = {
    "rollout_start": RolloutStart,
    "rollout_promote": RolloutPromote,
    "rollout_pause": RolloutPause,
    "rollout_abort": RolloutAbort,
    "rollout_judge": JudgeRollout,
    "outcome": RecordOutcome,
}


class ArmSummary(Frozen):
    """The figures of one arm, as people read them. Means and medians are None where nothing was measured."""

    runs: int
    escalated: int
    violations: int
    reopened: int
    refunded: int
    csat: float | None
    csat_answers: int
    cost_usd: float | None
    first_response_ms: int | None


class RolledOut(Answer):
    """What came of a command about a rollout: written to the ledger before this is answered.

    Attributes:
        rollout: as it is now; None where there is none, as for a run of an agent that was never rolled out.
        arm: of an outcome: that of its run.
        findings: what the gates found, one sentence each, if they were asked.
        notes: what else people should know, for example that a release isn't there any more.
    """

    status: Said
    agent: str
    rollout: Rollout | None = None
    arm: str = ""
    candidate: ArmSummary | None = None
    baseline: ArmSummary | None = None
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class AppliedRollouts(Frozen):
    """Answer of `apply_rollouts`: an answer for each order, and all rollouts as they are now."""

    outcomes: tuple[RolledOut, ...]
    rollouts: tuple[Rollout, ...]
