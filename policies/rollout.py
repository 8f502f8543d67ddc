"""How a candidate release reaches its users: stages, who is in which arm, what a judgement does to a rollout. Pure."""

import hashlib
from functools import cached_property
from typing import Literal

from pydantic import Field

from policies.canonical import digest
from policies.gates import Judgement
from policies.models import Frozen

__all__ = ["STAGES", "Arm", "Release", "Rollout", "RolloutStatus", "assigned", "position"]

STAGES = (1, 5, 20, 50, 100)
"""Percent of the subjects that a candidate gets, one stage after the other."""
Arm = Literal["", "candidate", "stable", "human"]
"""Who does the work, for comparisons; empty where nothing is compared."""
RolloutStatus = Literal["running", "paused", "aborted", "done"]


class Release(Frozen):
    """All that the behaviour of a run depends on, each part by its digest.

    Attributes:
        agent: of the `agent.toml`; the prompt is beside it.
        tools: digest of each tool, by name.
        route: the models that were chosen for the run.
        prices: version of the table of prices.
        code: version of the code that decides a run's commands.
    """

    agent: str
    prompt: str
    policy: str
    corpus: str
    tools: dict[str, str]
    route: str
    prices: str
    code: str

    @cached_property
    def definition(self) -> str:
        """What people wrote of it: `agent.toml`, prompt, policy and corpus. It stays the same when new code is deployed."""
        return digest({"agent": self.agent, "prompt": self.prompt, "policy": self.policy, "corpus": self.corpus})

    @cached_property
    def digest(self) -> str:
        return digest(self)


class Rollout(Frozen):
    """Where the rollout of an agent stands. Times in Unix milliseconds.

    Attributes:
        stage: percent of the subjects that the candidate gets while it is `running`.
        salt: what subjects are hashed with, so that other ones come first each time.
        candidate, stable: definitions (`Release.definition`); without a stable one, people do the rest of the work.
        judged: sizes of the candidate's sample at which this stage was judged.
        passed: whether the last judgement lets the next stage begin.
        epoch: of the last change of status or stage, in the order of all switches.
        stage_at: when this stage began; what is compared happened since.
        by, reason: of the last change.
    """

    agent: str
    status: RolloutStatus
    stage: int = Field(ge=1, le=100)
    salt: str
    candidate: str
    stable: str = ""
    judged: tuple[int, ...] = ()
    passed: bool = False
    epoch: int = 0
    started_at: int
    stage_at: int
    by: str = ""
    reason: str = ""

    @property
    def baseline(self) -> Arm:
        """The arm that the candidate is compared with."""
        return "stable" if self.stable else "human"

    @property
    def weight(self) -> int:
        """Percent of the subjects that the candidate gets now. Paused or aborted, it gets none."""
        return {"running": self.stage, "done": 100, "paused": 0, "aborted": 0}[self.status]

    @property
    def next_stage(self) -> int:
        """The stage after this one."""
        return next(stage for stage in STAGES if stage > self.stage)

    @property
    def words(self) -> str:
        """As a sentence says it."""
        return f"{self.status} at {self.stage} %" if self.status in ("running", "paused") else self.status

    def promoted(self, now: int) -> "Rollout":
        """At its next stage, whose comparison begins anew; after the last one, it is done."""
        stage = self.next_stage
        status = "done" if stage == STAGES[-1] else "running"
        return self.model_copy(update={"status": status, "stage": stage, "judged": (), "passed": False, "stage_at": now})

    def after(self, judgement: Judgement) -> "Rollout":
        """What `judgement` makes of it: one that fails is aborted, one that must pause is paused, by nobody's word."""
        if judgement.checkpoint is None and judgement.decision in ("wait", "pass"):
            return self
        checkpoints = () if judgement.checkpoint is None else (judgement.checkpoint,)
        status = {"fail": "aborted", "pause": "paused"}.get(judgement.decision, self.status)
        judged = (*self.judged, *(c for c in checkpoints if c not in self.judged))
        return self.model_copy(update={"status": status, "judged": judged, "passed": judgement.decision == "pass"})


def position(salt: str, subject: str) -> float:
    """Where `subject` stands in [0, 1): the same each time, and for each salt another."""
    return int.from_bytes(hashlib.sha256(f"{salt}\0{subject}".encode()).digest()[:6]) / 2**48


def assigned(rollout: Rollout, subject: str) -> Arm:
    """The arm that works for `subject`. Whoever is the candidate's stays so while its weight grows."""
    return "candidate" if position(rollout.salt, subject) < rollout.weight / 100 else rollout.baseline
