"""Autonomy modes as functions: no mode makes a verdict milder, and what people accept is counted as they meant it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.authorize import authorize
from policies.autonomy import BY_DRAFT, MODES, READ_ONLY, Accepted, check, lowest, offered, under
from policies.bundle import Bundle, compile_policy
from policies.errors import ToolRefusal
from policies.models import AutonomyMode, Decision, Effect, Verdict
from tests.builders import agent, compiled, refund
from tools.builtin import CATALOG

MODE = st.sampled_from(MODES)
STRICTNESS: dict[Decision, int] = {"allow": 0, "require_approval": 1, "deny": 2}
PERMITS = compile_policy(
    Bundle(name="permits", policy='@id("all") permit (principal, action, resource);', limits_toml=""), CATALOG.cedar_schema
)
IDS = st.lists(st.sampled_from(["a", "b", "zz"]), max_size=3).map(tuple)
VERDICTS = st.one_of(
    st.builds(Verdict, decision=st.just("allow"), policy_ids=IDS),
    st.builds(Verdict, decision=st.just("deny"), policy_ids=IDS, reason=st.text(max_size=9)),
    st.builds(
        Verdict,
        decision=st.just("require_approval"),
        policy_ids=IDS,
        approvals_required=st.integers(0, 3),
        route_strong=st.booleans(),
    ),
)


@given(mode=MODE, verdict=VERDICTS, effect=st.sampled_from(["read", "write"]), approvals=st.integers(0, 3))
def test_no_mode_makes_a_verdict_milder(mode: AutonomyMode, verdict: Verdict, effect: Effect, approvals: int) -> None:
    """Whatever the policy said, the answer is as strict or stricter, needs as many people or more, and as strong a model."""
    found = under(mode, verdict, effect, approvals)
    assert STRICTNESS[found.decision] >= STRICTNESS[verdict.decision]
    if found.decision == verdict.decision == "require_approval":
        assert found.approvals_required >= verdict.approvals_required
        assert found.route_strong == verdict.route_strong


@given(mode=MODE, verdict=VERDICTS, approvals=st.integers(0, 3))
def test_reads_are_the_policy_s_alone(mode: AutonomyMode, verdict: Verdict, approvals: int) -> None:
    """No mode stops a read."""
    assert under(mode, verdict, "read", approvals) == verdict
    assert offered(mode, "read")


@given(verdict=VERDICTS, effect=st.sampled_from(["read", "write"]), approvals=st.integers(0, 3))
def test_a_live_agent_is_held_to_its_policy(verdict: Verdict, effect: Effect, approvals: int) -> None:
    """`live` adds nothing."""
    assert under("live", verdict, effect, approvals) == verdict


@given(verdict=VERDICTS, approvals=st.integers(0, 3))
def test_a_read_only_agent_writes_nothing_whatever_the_policy_says(verdict: Verdict, approvals: int) -> None:
    """No verdict and no number of approvals lets a write pass."""
    assert under("read_only", verdict, "write", approvals).decision == "deny"


@given(verdict=VERDICTS)
def test_a_draft_agent_never_writes_alone(verdict: Verdict) -> None:
    """With nobody's approval no write is allowed, and whatever may be approved at all asks for at least one person."""
    found = under("draft", verdict, "write")
    assert found.decision != "allow"
    assert (found.decision == "deny") == (verdict.decision == "deny")
    if found.decision == "require_approval":
        assert found.approvals_required == max(1, verdict.approvals_required)


@given(amount=st.integers(1, 120_000), mode=MODE, approvals=st.integers(0, 3), tier=st.sampled_from([1, 2]))
def test_a_draft_agent_needs_one_person_more_only_where_the_policy_needs_none(
    amount: int, mode: AutonomyMode, approvals: int, tier: int
) -> None:
    """Over the refund rules that ship and over a bundle that permits everything: whoever is enough for both is enough."""
    action = refund(amount, approvals=approvals, tier=tier)
    for policy in (compiled(), PERMITS):
        by_policy = authorize(policy, action)
        found = under(mode, by_policy, "write", approvals)
        least = {"read_only": 99, "draft": 1, "live": 0}[mode]
        assert (found.decision == "allow") == (by_policy.decision == "allow" and approvals >= least)


def test_the_verdict_names_the_mode_that_asks() -> None:
    """Where the policy asks for nobody, the mode stands among what asks; where it does, the policy's words stay."""
    allowed = authorize(PERMITS, refund(100))
    found = under("draft", allowed, "write")
    assert (found.policy_ids, found.approvals_required) == ((BY_DRAFT,), 1)
    assert found.reason == "the agent is in `draft` mode: a person must accept this"
    asked = authorize(compiled(), refund(60_000, by=agent(mode="draft")))
    assert under("draft", asked, "write") == asked
    strong = Verdict(decision="require_approval", policy_ids=("z", "a"), route_strong=True)
    assert under("draft", strong, "write").policy_ids == ("a", BY_DRAFT, "z")


def test_a_write_of_a_read_only_agent_is_refused_with_what_to_do_instead() -> None:
    """The model is told to recommend."""
    with pytest.raises(ToolRefusal) as refused:
        check("read_only", "write")
    assert refused.value.reason == READ_ONLY == "mode_read_only"
    assert refused.value.message == (
        "This agent is in `read_only` mode and changes nothing; recommend it in `final_answer` instead."
    )
    for mode in ("draft", "live"):
        check(mode, "write")


@given(st.lists(MODE, min_size=1, max_size=4))
def test_the_lowest_mode_holds(modes: list[AutonomyMode]) -> None:
    """Of several modes the one that lets the agent do least, in any order."""
    assert lowest(*modes) == lowest(*reversed(modes))
    assert MODES.index(lowest(*modes)) == min(MODES.index(m) for m in modes)


# ---- what people made of proposals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "percent", "flagged"),
    [
        (Accepted(), None, False),
        (Accepted(expired=50), None, False),
        (Accepted(rejected=9), 0, False),
        (Accepted(rejected=10), 0, True),
        (Accepted(accepted=7, rejected=3), 70, False),
        (Accepted(accepted=6, edited=4), 60, True),
        (Accepted(accepted=69, edited=30, rejected=1, expired=100), 69, True),
        (Accepted(accepted=699, rejected=301), 69, True),
        (Accepted(accepted=700, rejected=300), 70, False),
    ],
    ids=str,
)
def test_the_accepted_rate_is_of_what_was_decided(counts: Accepted, percent: int | None, flagged: bool) -> None:
    """An edit isn't an acceptance, an expiry isn't a decision; under 70 % is flagged from ten decisions on."""
    assert (counts.percent, counts.flagged) == (percent, flagged)
