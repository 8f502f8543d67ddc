"""Who is in which arm of a rollout, what a judgement and a promotion make of it, and what a release is. Pure."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.gates import Judgement
from policies.rollout import STAGES, Release, Rollout, RolloutStatus, assigned, position

SUBJECTS = st.text(min_size=1, max_size=60)
SALTS = st.text(alphabet="0123456789abcdef", min_size=8, max_size=32)
NOW = 1_760_000_000_000
MANY = 20_000


def rollout(stage: int = 20, *, salt: str = "salt", stable: str = "sha256:s", status: RolloutStatus = "running") -> Rollout:
    return Rollout(
        agent="a", status=status, stage=stage, salt=salt, candidate="sha256:c", stable=stable, started_at=NOW, stage_at=NOW
    )


def judgement(decision: Literal["wait", "pass", "fail", "pause"], checkpoint: int | None = 50) -> Judgement:
    return Judgement(decision=decision, checkpoint=checkpoint, findings=())


@given(SALTS, SUBJECTS, st.sampled_from([(a, b) for a in STAGES for b in STAGES if a < b]))
def test_who_was_in_stays_in_while_the_share_grows(salt: str, subject: str, stages: tuple[int, int]) -> None:
    """No customer is moved from the candidate back to the baseline by a promotion."""
    small, large = (assigned(rollout(stage, salt=salt), subject) for stage in stages)
    assert small == "stable" or large == "candidate"


@given(SALTS, SUBJECTS, st.sampled_from(STAGES[:-1]))
def test_the_same_subject_is_always_in_the_same_arm(salt: str, subject: str, stage: int) -> None:
    """Nothing but the salt, the subject and the share decides."""
    one, other = rollout(stage, salt=salt), rollout(stage, salt=salt, stable="sha256:other")
    assert assigned(one, subject) == assigned(other, subject)
    assert 0 <= position(salt, subject) < 1


@given(SALTS, SUBJECTS)
def test_the_last_stage_has_everybody(salt: str, subject: str) -> None:
    """100 % leaves nobody out, wherever they stand."""
    assert assigned(rollout(100, salt=salt), subject) == "candidate"


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_stage_gets_its_share(stage: int) -> None:
    """Of many subjects, the candidate gets as many as the stage says, to within four standard errors."""
    share = sum(assigned(rollout(stage), f"Customer:cus_{n}") == "candidate" for n in range(MANY)) / MANY
    weight = stage / 100
    assert abs(share - weight) < 4 * (weight * (1 - weight) / MANY) ** 0.5


def test_another_salt_begins_with_other_subjects() -> None:
    """It isn't always the same customers who get what is new: two salts agree as often as chance has it."""
    one = {n for n in range(MANY) if assigned(rollout(20, salt="one"), f"c{n}") == "candidate"}
    two = {n for n in range(MANY) if assigned(rollout(20, salt="two"), f"c{n}") == "candidate"}
    assert 0.15 < len(one & two) / len(one) < 0.25


@given(SUBJECTS, st.sampled_from(["paused", "aborted"]), st.sampled_from([("sha256:s", "stable"), ("", "human")]))
def test_what_is_stopped_gets_nobody(subject: str, status: RolloutStatus, baseline: tuple[str, str]) -> None:
    """A paused or aborted candidate gets no subject, whatever its stage was."""
    stable, arm = baseline
    assert assigned(rollout(50, stable=stable, status=status), subject) == arm


def test_promotions_go_through_all_stages_and_end() -> None:
    """Each stage begins its comparison anew; after the last one, the rollout is done."""
    now, seen = rollout(STAGES[0]), [1]
    while now.status == "running":
        now = now.after(judgement("pass")).promoted(NOW + 1)
        seen.append(now.stage)
        assert (now.judged, now.passed, now.stage_at) == ((), False, NOW + 1)
    assert (tuple(seen), now.status, now.weight) == (STAGES, "done", 100)


@pytest.mark.parametrize(
    ("decision", "status", "passed"),
    [("pass", "running", True), ("wait", "running", False), ("fail", "aborted", False), ("pause", "paused", False)],
)
def test_a_judgement_at_a_checkpoint_counts(
    decision: Literal["wait", "pass", "fail", "pause"], status: str, passed: bool
) -> None:
    """What the gates say at a checkpoint holds, and is remembered, so that this checkpoint isn't judged again."""
    after = rollout().after(judgement(decision))
    assert (after.status, after.passed, after.judged) == (status, passed, (50,))


@pytest.mark.parametrize("decision", ["pass", "wait"])
def test_looking_between_checkpoints_changes_nothing(decision: Literal["pass", "wait"]) -> None:
    """Who looks often doesn't promote by luck; what was passed stays so until the next checkpoint."""
    passed = rollout().after(judgement("pass"))
    assert passed.after(judgement(decision, None)) == passed
    assert rollout().after(judgement(decision, None)) == rollout()


def test_a_later_checkpoint_takes_a_pass_back() -> None:
    """More cases say more than few."""
    assert not rollout().after(judgement("pass")).after(judgement("wait", 100)).passed


RELEASE = Release(agent="a", prompt="p", policy="c", corpus="k", tools={"t": "d"}, route="r", prices="1", code="b1")


@pytest.mark.parametrize("part", ["agent", "prompt", "policy", "corpus"])
def test_what_people_wrote_is_a_releases_definition(part: str) -> None:
    """Each part of it makes another definition, and another release."""
    other = RELEASE.model_copy(update={part: "other"})
    other = Release.model_validate(other.model_dump())
    assert (other.definition != RELEASE.definition, other.digest != RELEASE.digest) == (True, True)


@pytest.mark.parametrize(("part", "value"), [("tools", {"t": "e"}), ("route", "s"), ("prices", "2"), ("code", "b2")])
def test_new_code_is_another_release_of_the_same_definition(part: str, value: object) -> None:
    """A deploy changes both arms, so a rollout goes on through it; runs tell the two apart all the same."""
    other = Release.model_validate({**RELEASE.model_dump(), part: value})
    assert (other.definition == RELEASE.definition, other.digest != RELEASE.digest) == (True, True)
