"""The gates of a rollout: what they say of figures, and how often they are wrong about simulated traffic."""

import subprocess
import sys
import tomllib

import pytest
from pydantic import ValidationError
from scipy import stats

from policies import samples
from policies.gates import INDICATORS, ArmFigures, Finding, GateRules, Indicator, Judgement, judge
from policies.samples import Share
from remit.settings import ROOT
from tests.gatesim import BASE, WORSE, aborted, arms, at_the_margin, only, passed, play, rate

SOON = GateRules(checkpoints=(100, 200, 400))
"""What most simulations here are judged by: as the defaults, but for fewer runs."""


def arm(runs: int = 400, **changed: object) -> ArmFigures:
    """An arm with figures for every indicator."""
    marks = [5, 4, 4, 3, 5, 2, 4, 5] * (runs // 8)
    values = [100 + n % 37 for n in range(runs)]
    figures: dict[str, object] = {
        "runs": runs,
        "escalated": runs // 10,
        "violations": runs // 100,
        "reopened": runs // 20,
        "refunded": runs // 10,
        "csat": marks,
        "cost_micro_usd": values,
        "first_response_ms": values,
    }
    return ArmFigures.model_validate(figures | changed)


def one(found: Judgement, name: Indicator) -> Finding:
    (finding,) = (f for f in found.findings if f.indicator == name)
    return finding


# ---- when it judges -------------------------------------------------------------------------------------------------


def test_between_checkpoints_nothing_is_judged() -> None:
    """However often somebody looks, and however bad the figures are."""
    found = judge(arm(399, escalated=399), arm(4000), GateRules(), (200,))
    assert (found.decision, found.checkpoint, found.findings) == ("wait", None, ())
    assert found.sentence == "The next look is at 400 runs of the candidate; there are 399."


def test_a_checkpoint_is_judged_once() -> None:
    """The same figures again only say when the next look is, or that there is none."""
    rules = GateRules(checkpoints=(200, 400))
    assert judge(arm(250), arm(4000), rules, ()).checkpoint == 200
    assert judge(arm(250), arm(4000), rules, (200,)).checkpoint is None
    last = judge(arm(900, escalated=900), arm(4000), rules, (200, 400))
    assert (last.decision, last.checkpoint) == ("wait", None)
    assert last.sentence == "The last checkpoint, 400 runs, is judged; there is no further look."


def test_checkpoints_that_were_passed_over_are_lost() -> None:
    """Who comes late has one look, at the last one that was reached, and none at those before."""
    found = judge(arm(900), arm(4000), GateRules(), ())
    assert found.checkpoint == 800
    assert judge(arm(900), arm(4000), GateRules(), (800,)).checkpoint is None


def test_without_a_baseline_nothing_passes() -> None:
    """No arm to compare with: it waits, says what is missing, and uses up no checkpoint."""
    found = judge(arm(), ArmFigures(), GateRules(), ())
    assert (found.decision, found.checkpoint) == ("wait", None)
    assert found.sentence == "The baseline has 0 runs, and 100 are needed."


def test_a_small_arm_isnt_judged() -> None:
    """A checkpoint below the minimum changes nothing about the minimum."""
    found = judge(arm(50), arm(4000), GateRules(checkpoints=(50, 400)), ())
    assert (found.decision, found.sentence) == ("wait", "The candidate has 50 runs, and 100 are needed.")


# ---- what it says ---------------------------------------------------------------------------------------------------


def test_an_equal_candidate_passes() -> None:
    """With enough runs, each indicator rules out that it is worse by its margin."""
    found = judge(arm(1600), arm(1600), GateRules(), (200, 400, 800))
    assert (found.decision, found.checkpoint) == ("pass", 1600)
    assert [f.decision for f in found.findings] == ["pass"] * len(INDICATORS)
    assert found.sentence == "At 1,600 runs the candidate is as good in everything that is judged."


def test_one_bad_indicator_fails_it() -> None:
    """Its sentence has the counts, their Wilson intervals, the difference and the margin."""
    found = judge(arm(400, escalated=100), arm(400), GateRules(), (200,))
    assert (found.decision, found.sentence) == ("fail", "At 400 runs the candidate is worse in: escalation.")
    bad = one(found, "escalation")
    assert bad.decision == "fail"
    assert bad.p is not None and bad.p < 1e-6
    assert bad.estimate == pytest.approx(0.15)
    assert bad.sentence == (
        "Escalation worse: 100 of 400 (20.5% to 30.1%), baseline 40 of 400 (7.1% to 13.9%): "
        "+15.0 points (+9.0 to +20.9), 5 allowed."
    )


def test_worse_by_less_than_the_margin_is_good_enough() -> None:
    """A million runs prove the smallest difference; what counts is whether it is one that was allowed."""
    ours, theirs = (ArmFigures(runs=1_000_000, escalated=n) for n in (102_000, 100_000))
    found = judge(ours, theirs, only("escalation"), ())
    finding = one(found, "escalation")
    assert finding.p is not None and finding.p < 1e-4
    assert finding.decision == "pass"


def test_a_single_violation_proves_nothing_and_zero_not_yet_enough() -> None:
    """None of few is no proof that there are few: 200 runs without one leave 2 points possible, 1,600 don't."""
    rules = only("violations")
    few = judge(arm(200, violations=0), arm(200, violations=0), rules, ())
    assert (one(few, "violations").decision, one(few, "violations").p) == ("wait", 1.0)
    many = judge(arm(1600, violations=1), arm(1600, violations=0), rules, ())
    assert one(many, "violations").decision == "pass"


def test_less_satisfied_people_pause_it() -> None:
    """A drop that isn't luck pauses, and doesn't fail: people look first."""
    found = judge(arm(400, csat=[5, 4, 1, 2] * 50), arm(400, csat=[5, 4, 5, 3] * 50), GateRules(), (200,))
    assert (found.decision, one(found, "csat").decision) == ("pause", "pause")
    assert found.sentence == "At 400 runs the candidate is worse in: satisfaction."
    assert one(found, "csat").estimate == pytest.approx(-0.25)


def test_failing_comes_before_pausing() -> None:
    """Who would pause it only must not keep it from being aborted."""
    found = judge(arm(400, csat=[1] * 200, escalated=200), arm(400), GateRules(), (200,))
    assert (found.decision, one(found, "csat").decision) == ("fail", "pause")


def test_two_points_less_keep_it_from_passing() -> None:
    """A drop of two points that may be luck doesn't pause the candidate, and doesn't let it pass either."""
    theirs = [5] * 8000 + [2] * 2000
    enough = only("csat", margins={"csat": 0.05})
    down = one(judge(arm(400, csat=[5] * 7790 + [2] * 2210), arm(400, csat=theirs), enough, ()), "csat")
    assert down.decision == "pause"
    few = one(judge(arm(400, csat=[5] * 780 + [2] * 220), arm(400, csat=theirs), only("csat"), ()), "csat")
    assert few.low is not None and few.low > -0.1
    assert few.decision == "wait"
    less = one(judge(arm(400, csat=[5] * 785 + [2] * 215), arm(400, csat=theirs), only("csat"), ()), "csat")
    assert less.decision == "pass"


@pytest.mark.parametrize("name", ["csat", "cost_micro_usd", "first_response_ms"])
def test_figures_that_a_baseline_lacks_are_waited_for(name: str) -> None:
    """People's work has no model cost, and some teams ask nobody for a mark: unless it is left out, nothing passes without."""
    found = judge(arm(1600), arm(1600, **{name: ()}), GateRules(), (800,))
    assert found.decision == "wait"
    (missing,) = (f for f in found.findings if f.decision == "wait")
    assert (missing.p, missing.estimate) == (None, None)
    assert "and 0 of the baseline, and 50 of each are needed" in missing.sentence
    left: list[Indicator] = [n for n in INDICATORS if n != missing.indicator]
    assert judge(arm(1600), arm(1600, **{name: ()}), only(*left), (800,)).decision == "pass"


def test_the_worst_missing_figure_doesnt_hide_a_bad_one() -> None:
    """What can be judged is, whatever else is missing."""
    assert judge(arm(400, escalated=200, csat=()), arm(400), GateRules(), ()).decision == "fail"


def test_nothing_but_ties_is_as_good() -> None:
    """Every run costs the same in both arms, and every mark is a 5."""
    same = {"cost_micro_usd": [700] * 400, "csat": [5] * 400}
    found = judge(arm(400, **same), arm(400, **same), only("cost", "csat"), ())
    assert found.decision == "pass"
    assert one(found, "cost").estimate == pytest.approx(1, rel=1e-4)
    assert one(found, "cost").p == 1


def test_what_costs_nothing_is_compared_with_care() -> None:
    """Free against free is as good, free against dear too; dear against free is no factor, and waits."""
    free, dear = arm(400, cost_micro_usd=[0] * 400), arm(400)
    rules = only("cost")
    assert one(judge(free, free, rules, ()), "cost").decision == "pass"
    assert one(judge(free, dear, rules, ()), "cost").decision == "pass"
    waits = one(judge(dear, free, rules, ()), "cost")
    assert (waits.decision, waits.sentence) == ("wait", "Cost not shown to be as good: all values of the baseline are 0.")
    mostly = arm(400, cost_micro_usd=[0] * 300 + [5] * 100)
    unbounded = one(judge(mostly, mostly, rules, ()), "cost")
    assert (unbounded.decision, unbounded.high) == ("wait", None)


def test_a_judgement_survives_json() -> None:
    """It is stored with the rollout; no figure in it is one that JSON doesn't know."""
    for found in (judge(arm(400, csat=()), arm(400), GateRules(), ()), judge(arm(400), ArmFigures(), GateRules(), ())):
        assert Judgement.model_validate_json(found.model_dump_json()) == found


def test_rules_are_read_from_toml() -> None:
    """A margin or two may be set, and the others keep their defaults."""
    text = 'checkpoints = [100, 300]\nindicators = ["escalation", "cost"]\n[margins]\ncost = 1.5\n'
    rules = GateRules.model_validate(tomllib.loads(text))
    assert (rules.checkpoints, rules.indicators) == ((100, 300), ("escalation", "cost"))
    assert (rules.margins.cost, rules.margins.escalation) == (1.5, 0.05)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"checkpoints": (400, 200)}, "`checkpoints` must rise"),
        ({"checkpoints": ()}, "at least 1 item"),
        ({"indicators": ("csat", "csat")}, "`indicators` names one twice"),
        ({"margins": {"cost": 0.9}}, "greater than 1"),
        ({"abort_alpha": 0.5}, "less than or equal to 0.2"),
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, object], sentence: str) -> None:
    """A gate that can't work isn't set up."""
    with pytest.raises(ValidationError, match=sentence):
        GateRules.model_validate(wrong)


def test_more_runs_escalated_than_there_are_is_refused() -> None:
    """The figures of an arm fit together."""
    with pytest.raises(ValidationError, match="`escalated` is more than there are runs"):
        ArmFigures(runs=3, escalated=4)


# ---- the statistics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "of"), [(0, 20), (1, 20), (7, 31), (50, 100), (999, 1000), (20, 20)])
def test_the_wilson_interval_is_scipys(count: int, of: int) -> None:
    """Written out for speed, and the same."""
    found = samples.wilson(Share(count, of), samples.z_of(0.0125))
    expected = stats.binomtest(count, of).proportion_ci(0.975, method="wilson")
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_range_of_a_difference_is_newcombes() -> None:
    """Example (a) of Newcombe 1998, table II: 56 of 70 against 48 of 80."""
    found = samples.difference(Share(56, 70), Share(48, 80), samples.z_of(0.025))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_a_factor_is_found_with_the_range_that_mann_whitney_leaves() -> None:
    """Values three times as high are found so; at each end of the range, the test is just significant."""
    ours = [300 + 3 * (n * 7919 % 101) for n in range(120)]
    theirs = [100 + n * 104_729 % 103 for n in range(150)]
    low, estimate, high = samples.factor(ours, theirs, samples.z_of(0.01))
    assert low is not None and high is not None
    assert low < estimate < high
    assert estimate == pytest.approx(3, rel=0.1)
    above = stats.mannwhitneyu([x / low for x in ours], theirs, alternative="greater", method="asymptotic")
    below = stats.mannwhitneyu([x / high for x in ours], theirs, alternative="less", method="asymptotic")
    assert (above.pvalue, below.pvalue) == pytest.approx((0.01, 0.01), rel=0.05)


def test_holm_lets_the_second_follow_the_first() -> None:
    """Of five tests at 5 %, the worst must be below 1 %, the next below 1.25 %, and after one that isn't none counts."""
    assert samples.holm({"a": 0.009, "b": 0.012, "c": 0.3}, 0.05, 5) == {"a", "b"}
    assert samples.holm({"a": 0.011, "b": 0.012}, 0.05, 5) == frozenset()


def test_a_worker_doesnt_load_scipy() -> None:
    """Nobody who never judges a rollout pays for it."""
    code = "import sys, worker, policies.gates; sys.exit('scipy' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ---- simulated traffic ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 4])
def test_equal_arms_are_seldom_aborted(times: int) -> None:
    """A/A: over all checkpoints and indicators, fewer than `abort_alpha` of the rollouts are failed or paused."""
    assert rate(play(60, BASE, BASE, SOON, times=times), aborted) <= SOON.abort_alpha


@pytest.mark.parametrize(
    ("name", "least"),
    [("escalation 12 to 22 %", 0.9), ("satisfied 82 to 62 %", 0.7), ("first response × 1.5", 0.95)],
)
def test_a_worse_candidate_is_aborted(name: str, least: float) -> None:
    """A/B: within 400 runs against four times as many, most are failed or paused, and none passes."""
    found = list(play(25, WORSE[name], BASE, SOON, times=4))
    assert rate(found, aborted) >= least
    assert rate(found, passed) == 0


@pytest.mark.parametrize("name", ["escalation", "violations", "csat", "cost"])
def test_who_is_worse_by_the_margin_seldom_passes(name: Indicator) -> None:
    """Worse by just what isn't allowed, in the only thing that is judged: `promote_alpha` of the rollouts pass, at most."""
    rules = only(name, checkpoints=SOON.checkpoints)
    assert rate(play(200, at_the_margin(name, rules.margins), BASE, rules, times=2), passed) <= rules.promote_alpha


def test_looking_after_each_run_changes_nothing() -> None:
    """Who asks 400 times gets the answers of who asks at the checkpoints, and `wait` in between."""
    rules = only("escalation", checkpoints=SOON.checkpoints)
    worse = at_the_margin("escalation", rules.margins)
    often = [[j for j in looks if j.checkpoint] for looks in play(10, worse, BASE, rules, looks=range(1, 401))]
    assert often == list(play(10, worse, BASE, rules))


def test_without_checkpoints_looking_often_would_promote_by_luck() -> None:
    """What the checkpoints are for: looks at full strength, one every 50 runs, pass far more bad candidates than they may."""
    worse, looks = at_the_margin("escalation", GateRules().margins), range(100, 801, 50)

    def tempted(figures: list[tuple[ArmFigures, ArmFigures]]) -> bool:
        at_once = (judge(c, b, only("escalation", checkpoints=(c.runs,)), ()) for c, b in figures)
        return any(j.decision == "pass" for j in at_once)

    found = [tempted(figures) for figures in arms(150, worse, BASE, looks, ("escalation",))]
    assert sum(found) / len(found) > 2 * GateRules().promote_alpha
