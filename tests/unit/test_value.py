"""What outcomes cost and are worth: ceilings, what passing them means, and the sums of a return. Exact, in integers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from activities.ceilings import outcome_cost
from activities.ledger import records, switches
from activities.ledger.rows import RunRecord
from activities.ledger.store import Ledger
from policies.bundle import Bundle
from policies.errors import PolicyInvalid
from policies.value import OutcomeCost, OutcomeRules, Value, judge, returned, usd
from tests.builders import bundle, capsule
from workflows.messages import Capsule
from workflows.records import Tally

RULES = OutcomeRules(ceiling_micro_usd=1_000, stop_percent=200, minimum=4)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (OutcomeCost(runs=4, completed=4, cost_micro_usd=4_000), "within"),
        (OutcomeCost(runs=4, completed=4, cost_micro_usd=4_001), "cheaper"),
        (OutcomeCost(runs=4, completed=2, cost_micro_usd=4_000), "cheaper"),
        (OutcomeCost(runs=4, completed=2, cost_micro_usd=4_001), "stop"),
        (OutcomeCost(runs=3, completed=0, cost_micro_usd=1_000_000), "within"),  # too few to say
        (OutcomeCost(runs=4, completed=0, cost_micro_usd=2_001), "stop"),  # they complete nothing
    ],
)
def test_an_outcome_above_the_ceiling_is_cheapened_and_then_stopped(cost: OutcomeCost, expected: str) -> None:
    """At the ceiling nothing happens yet; from the minimum of runs on, above it the cheaper model, above the second, no run."""
    spending, figures = judge(RULES, Value(), cost)
    assert spending == expected
    assert (figures.micro_usd, figures.ceiling_micro_usd) == (cost.each_micro_usd, 1_000)


def test_an_agent_lowers_the_ceiling_of_its_bundle_and_never_raises_it() -> None:
    """As with every limit: the bundle's is the most that there is."""
    assert RULES.ceiling(Value(ceiling_micro_usd=500)) == 500
    assert RULES.ceiling(Value(ceiling_micro_usd=5_000)) == 1_000
    assert RULES.ceiling(Value()) == 1_000


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**12))
def test_a_dearer_agent_is_never_treated_milder(runs: int, completed: int, cost: int) -> None:
    """For the same runs, more cost never brings it back within its ceiling."""
    order = ("within", "cheaper", "stop")
    ends = [
        judge(RULES, Value(), OutcomeCost(runs=runs, completed=min(runs, completed), cost_micro_usd=c))[0]
        for c in (cost, cost + 1)
    ]
    assert order.index(ends[0]) <= order.index(ends[1])


def test_a_return_is_what_was_saved_less_what_it_took() -> None:
    """Minutes at cents, reviews at the same, infrastructure for every run, model calls as they were recorded: all micro-USD."""
    value = Value(minutes_saved=12, minute_cents=75, review_minutes=2, infrastructure_micro_usd=1_500)
    found = returned(value, runs=10, completed=7, reviews=3, model_micro_usd=123_456)
    assert found.saved_micro_usd == 7 * 12 * 75 * 10_000 == 63_000_000
    assert (found.model_micro_usd, found.infrastructure_micro_usd) == (123_456, 15_000)
    assert found.review_micro_usd == 3 * 2 * 75 * 10_000 == 4_500_000
    assert found.net_micro_usd == 63_000_000 - 123_456 - 15_000 - 4_500_000
    assert (usd(found.net_micro_usd), usd(-1_500), usd(0)) == ("$58.3615", "-$0.0015", "$0.0000")


def test_a_bundle_says_what_happens_to_a_dear_agent() -> None:
    """`[outcome]` is optional; a misspelt field, or a ceiling of nothing, is refused with the bundle's name."""
    plain = bundle()
    assert plain.limits().outcome is None
    given = Bundle(name="b", policy="", limits_toml='[outcome]\nceiling_micro_usd = 9\non_stop = "wait"\n').limits().outcome
    assert given == OutcomeRules(ceiling_micro_usd=9, on_stop="wait")
    for wrong, why in (("celing = 1", "outcome.celing"), ("ceiling_micro_usd = 0", "greater than or equal to 1")):
        with pytest.raises(PolicyInvalid, match=f"Bundle `b`: `limits.toml`: .*{why}"):
            Bundle(name="b", policy="", limits_toml=f"[outcome]\n{wrong}\n").limits()


@pytest.mark.parametrize("field", ["minute_cents", "review_minutes", "infrastructure_micro_usd", "minutes_saved"])
def test_no_assumption_is_negative(field: str) -> None:
    """A cost below nothing would make any agent pay."""
    with pytest.raises(ValidationError):
        Value.model_validate({field: -1})


def test_a_run_within_its_ceiling_has_the_capsule_that_it_had() -> None:
    """Its digest, which every activity of the run names, doesn't depend on there being ceilings."""
    plain = capsule()
    held = capsule(over_ceiling=judge(RULES, Value(), OutcomeCost(runs=4, completed=1, cost_micro_usd=1_500))[1])
    assert plain.digest == Capsule.model_validate(plain.model_dump(exclude={"over_ceiling"})).digest != held.digest


def test_a_tally_keeps_waits_and_reasons_within_bounds() -> None:
    """The latest thousand waits, fifty codes and then `other`: a long run's record doesn't grow without end."""
    tally = Tally()
    for n in range(1_005):
        tally = tally.decided("approved", n, reviews=2)
    assert (tally.approved, tally.reviews, len(tally.waits), tally.waits[0]) == (1_005, 2_010, 1_000, 5)
    assert tally.decided("expired", 9, reviews=0) == tally
    for n in range(55):
        tally = tally.refused(f"code_{n}")
    assert (len(tally.reasons), tally.reasons["other"], tally.errors) == (51, 5, 55)


def test_what_says_nothing_of_a_call_is_a_reason_and_no_error() -> None:
    """People's refusals, caps, and a model that the run may not have: the agent did nothing wrong."""
    tally = Tally()
    for reason in ("rejected", "approval_expired", "cap_reached", "strong_model_withheld"):
        tally = tally.refused(reason)
    assert (tally.errors, tally.denied, tally.invalid) == (0, 0, 0)
    assert set(tally.reasons.values()) == {1} and len(tally.reasons) == 4


def test_the_count_begins_anew_when_a_person_lets_the_agent_go_on(tmp_path: Path) -> None:
    """After a switch that somebody set on the agent was released, runs from before it don't count any more."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.migrate()
    texts = dict.fromkeys(("run_id", "workflow_id", "release", "arm", "mode", "policy_version", "subject_tag"), "x")
    spent = {"agent": "a", "outcome": "completed", "started_at": 1, "closed_at": 2, "cost_micro_usd": 900}
    with ledger.begin() as connection:
        assert records.keep(connection, RunRecord.model_validate({**texts, **spent}))
        assert outcome_cost(connection, "a", RULES) == OutcomeCost(runs=1, completed=1, cost_micro_usd=900)
        switches.engage(connection, "agent:a", "It costs too much.", "ana")
        switches.release(connection, "agent:a", "It is mended.", "ana")
        assert outcome_cost(connection, "a", RULES) == OutcomeCost()
    ledger.close()
