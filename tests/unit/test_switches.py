"""Scopes of switches: how they are named, and what each covers."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import InvalidInput
from policies.models import RISKS, Risk
from policies.switches import ENDS_RUNS, Scope, scopes_of, scopes_of_run, subject_tag

GOOD = (
    "run:0192",
    "agent:billing-resolution",
    "tool:request_refund",
    "risk:high",
    "subject:Customer:cus_7",
    "fleet",
    "drill:fleet",
)


@pytest.mark.parametrize("text", GOOD)
def test_a_scope_is_read_as_it_is_written(text: str) -> None:
    """What `parse` takes is what `str` gives."""
    assert str(Scope.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no scope; give"),
        ("galaxy", "is no scope; give"),
        ("agent", "is no scope; give"),
        ("agent:", "is no scope; give"),
        ("fleet:", "is no scope; give"),
        ("fleet:all", "is no scope; give"),
        ("risk:huge", "`huge` is no risk; it is one of low, medium, high, critical."),
        ("agent:" + "x" * 256, "at most 255 characters"),
        ("agent:a\n", "is printable"),
        ("drill:galaxy", "`galaxy` is no scope; give"),
        ("drill:drill:fleet", "A drill of a drill stops nothing twice."),
    ],
)
def test_what_names_no_scope_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    """The sentence says what there is."""
    with pytest.raises(InvalidInput) as caught:
        Scope.parse(text)
    assert sentence in caught.value.message


@given(st.text(max_size=300))
def test_any_text_is_a_scope_or_refused(text: str) -> None:
    """A stranger's text raises nothing else."""
    with suppress(InvalidInput):
        assert str(Scope.parse(text)) == text


@pytest.mark.parametrize("risk", RISKS)
def test_a_risk_covers_itself_and_what_is_above(risk: Risk) -> None:
    """A critical tool is covered by a switch on any level, a low one only by that on all writes."""
    found = [s.removeprefix("risk:") for s in scopes_of("r", "a", "t", risk, "s") if s.startswith("risk:")]
    assert found == list(RISKS[: RISKS.index(risk) + 1])


def test_a_write_is_covered_by_each_kind_of_scope() -> None:
    """Run, agent, tool, risk, subject and fleet; a run without a subject is covered by no subject's switch."""
    scopes = scopes_of("r-1", "billing", "refund", "low", "Customer:cus_1")
    assert scopes == ("fleet", "run:r-1", "agent:billing", "subject:Customer:cus_1", "tool:refund", "risk:low")
    assert scopes_of_run("r-1", "billing", "") == ("fleet", "run:r-1", "agent:billing")


def test_what_ends_runs_is_what_holds_whole_runs() -> None:
    """The scopes that a run asks about at its admission are those that end it."""
    held = {Scope.parse(s).kind for s in scopes_of_run("r", "a", "s")}
    assert held == set(ENDS_RUNS)


def test_no_write_is_covered_by_a_drill() -> None:
    """A drill has the words of what it plays through, and a scope of its own."""
    drill = Scope.parse("agent:a").drill
    assert (str(drill), drill.played, drill.ends_runs) == ("drill:agent:a", Scope.parse("agent:a"), False)
    assert str(drill) not in scopes_of("r", "a", "t", "critical", "s")


def test_a_subjects_tag_says_nothing_of_it() -> None:
    """Search attributes aren't encrypted: the tag is the same for the same subject, and isn't its name."""
    tag = subject_tag("Customer:cus_7")
    assert (tag, len(tag)) == (subject_tag("Customer:cus_7"), 32)
    assert "cus_7" not in tag
    assert tag != subject_tag("Customer:cus_8")
