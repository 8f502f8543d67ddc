"""The figures of a rollout's arms, from records of runs and what was said of them, on both databases."""

from activities.ledger import outcomes, records, rollouts
from activities.ledger.rows import Outcome, RunRecord
from activities.ledger.store import Ledger
from activities.ledger.tables import run_records
from policies.gates import ArmFigures
from policies.rollout import Arm, Release, Rollout

AGENT = "billing-resolution"
SECOND = 1_760_000_000
RELEASE = Release(agent="a", prompt="p", policy="c", corpus="k", tools={}, route="r", prices="1", code="b")


def rollout(*, stable: str = "sha256:s") -> Rollout:
    began = SECOND * 1000 + 700  # in the middle of a second, to which runs know their start
    return Rollout(
        agent=AGENT, status="running", stage=5, salt="s", candidate="sha256:c", stable=stable, started_at=began, stage_at=began
    )


def run(ledger: Ledger, name: str, arm: Arm, outcome: str = "completed", **changed: int | str) -> None:
    """A closed run, as the ledger keeps it."""
    fields = {
        "run_id": name,
        "workflow_id": f"wf-{name}",
        "agent": AGENT,
        "release": "sha256:r",
        "arm": arm,
        "mode": "live",
        "policy_version": "p",
        "subject_tag": "",
        "outcome": outcome,
        "started_at": SECOND * 1000,
        "closed_at": SECOND * 1000 + 5000,
        "cost_micro_usd": 100,
        **changed,
    }
    with ledger.begin() as connection:
        assert records.keep(connection, RunRecord.model_validate(fields))


def say(ledger: Ledger, name: str, *, command: str = "", **said: int | bool) -> None:
    with ledger.begin() as connection:
        outcomes.record(connection, name, said, "ana", command or f"{name}:{sorted(said)}")


def figures(ledger: Ledger, found: Rollout) -> tuple[ArmFigures, ArmFigures]:
    with ledger.reading() as connection:
        return outcomes.figures(connection, found)


def test_both_arms_are_counted_by_what_came_of_their_runs(ledger: Ledger) -> None:
    """Escalations, refusals of policy, what was said, cost and times; runs of other arms, agents and earlier stages aren't."""
    run(ledger, "c1", "candidate", denied=2, first_response_ms=3000)
    run(ledger, "c2", "candidate", "escalated")
    run(ledger, "c3", "candidate", "stopped")
    run(ledger, "s1", "stable", cost_micro_usd=500)
    run(ledger, "killed", "candidate", "killed")
    run(ledger, "before", "candidate", started_at=(SECOND - 1) * 1000)
    run(ledger, "nobody", "")
    run(ledger, "people", "human", "assigned")
    run(ledger, "other", "candidate", agent="support-triage")
    say(ledger, "c1", csat=4, reopened=True)
    say(ledger, "s1", csat=5, refunded=True)
    candidate, baseline = figures(ledger, rollout())
    assert candidate == ArmFigures(
        runs=3,
        escalated=2,
        violations=1,
        reopened=1,
        refunded=0,
        csat=(4,),
        cost_micro_usd=(100, 100, 100),
        first_response_ms=(3000,),
    )
    assert (baseline.runs, baseline.refunded, baseline.csat, baseline.cost_micro_usd) == (1, 1, (5,), (500,))


def test_what_closed_before_a_stage_says_nothing_of_it(ledger: Ledger) -> None:
    """A promotion in the second in which a run began and ended leaves it to the stage before."""
    run(ledger, "c1", "candidate")
    with ledger.reading() as connection:
        kept = outcomes.run_of(connection, "wf-c1")
    assert kept and figures(ledger, rollout())[0].runs == 1
    began = kept.recorded_at + 1
    later = rollout().model_copy(update={"stage_at": began})
    with ledger.begin() as connection:
        connection.execute(run_records.update().values(started_at=began // 1000 * 1000))
    assert figures(ledger, later)[0].runs == 0


def test_a_case_of_people_counts_once_somebody_said_what_became_of_it(ledger: Ledger) -> None:
    """Until then nobody knows that it is over; its cost and its times are what was said."""
    run(ledger, "h1", "human", "assigned", cost_micro_usd=0)
    run(ledger, "h2", "human", "assigned", cost_micro_usd=0)
    say(ledger, "h1", csat=3, cost_micro_usd=4_000_000, first_response_ms=60_000, escalated=True)
    _, people = figures(ledger, rollout(stable=""))
    assert people == ArmFigures(
        runs=1,
        escalated=1,
        violations=0,
        reopened=0,
        refunded=0,
        csat=(3,),
        cost_micro_usd=(4_000_000,),
        first_response_ms=(60_000,),
    )


def test_of_each_field_the_last_word_counts(ledger: Ledger) -> None:
    """What a later word leaves out stays; the same command again adds nothing; all words are kept."""
    run(ledger, "c1", "candidate")
    say(ledger, "c1", csat=2, command="one")
    say(ledger, "c1", reopened=True, command="two")
    say(ledger, "c1", csat=4, command="three")
    say(ledger, "c1", csat=1, command="one")
    with ledger.reading() as connection:
        assert outcomes.said_of(connection, "c1") == Outcome(csat=4, reopened=True)
        assert outcomes.said_of(connection, "nobody") == Outcome()
        found = outcomes.run_of(connection, "wf-c1")
        assert (found and found.run_id, outcomes.run_of(connection, "wf-none")) == ("c1", None)


def test_a_refund_that_was_made_counts_unless_somebody_says_otherwise(ledger: Ledger) -> None:
    """The ledger saw the money move; a person may know that it was given back."""
    run(ledger, "c1", "candidate")
    run(ledger, "c2", "candidate")
    with ledger.begin() as connection:
        connection.execute(run_records.update().values(moved_cents=4900))
    say(ledger, "c2", refunded=False)
    assert figures(ledger, rollout())[0].refunded == 1


def test_a_rollout_is_kept_with_all_that_was_done_to_it(ledger: Ledger) -> None:
    """A change of status or stage gets a new epoch; a judgement that changes neither keeps it, so that a signature holds."""
    with ledger.begin() as connection:
        begun = rollouts.save(connection, rollout(), "start", command="one")
    judged = begun.model_copy(update={"judged": (50,), "passed": True})
    with ledger.begin() as connection:
        kept = rollouts.save(connection, judged, "judged", detail="{}")
    with ledger.begin() as connection:
        raised = rollouts.save(connection, kept.promoted(SECOND * 1000), "promote", command="two")
    assert (kept.epoch, raised.epoch) == (begun.epoch, begun.epoch + 1)
    with ledger.reading() as connection:
        assert rollouts.found(connection, AGENT) == raised
        assert rollouts.current(connection) == [raised]
        assert [line.action for line in rollouts.logged(connection, agent=AGENT)] == ["start", "judged", "promote"]
        [line] = rollouts.logged(connection, command="one")
        assert Rollout.model_validate_json(line.rollout) == begun
        assert rollouts.found(connection, "support-triage") is None


def test_a_release_is_kept_once_with_its_contents(ledger: Ledger) -> None:
    """Who finds its digest in a run's capsule can look up what it was."""
    for _ in range(2):
        with ledger.begin() as connection:
            rollouts.keep_release(connection, AGENT, RELEASE)
    with ledger.reading() as connection:
        [seen] = rollouts.releases_of(connection, AGENT)
    assert (seen.digest, seen.definition) == (RELEASE.digest, RELEASE.definition)
    assert Release.model_validate_json(seen.contents) == RELEASE
