"""Directories: keys with a time, people who come later, and what a decision says of its key before anything is verified."""

import time

import pytest

from policies.approvals import claimed_key, verify_decision
from policies.errors import ApprovalRefused
from policies.identity import Directory, Person, PublicKey
from remit.issuer import DevIssuer
from tests.builders import ANA, capsule, request
from workflows.inbox import DecideSignal, stranger
from workflows.messages import StartInput
from workflows.state import RunState

OLD, NEW, ALWAYS = (
    PublicKey(kid="old", x="x", not_after=100),
    PublicKey(kid="new", x="x", not_before=100, not_after=200),
    PublicKey(kid="always", x="x"),
)
BO = "bo@example.com"


@pytest.mark.parametrize(
    ("now", "kids"), [(99, {"old", "always"}), (100, {"new", "always"}), (199, {"new", "always"}), (200, {"always"})]
)
def test_a_key_signs_in_its_time(now: int, kids: set[str]) -> None:
    """From `not_before` until before `not_after`; people stay known when their keys are over."""
    people = (Person(sub=ANA, keys=(OLD, NEW)), Person(sub=BO, keys=(ALWAYS,)))
    found = Directory(people=people, live=True).current(now)
    assert {k.kid for p in found.people for k in p.keys} == kids
    assert [p.sub for p in found.people] == [ANA, BO]
    assert found.live


def test_people_who_come_later_are_known_as_they_are_then() -> None:
    """Of who is in both, the later word counts; nobody is lost."""
    first = Directory(people=(Person(sub=ANA, roles=("a",), keys=(OLD,)), Person(sub=BO)), live=True)
    later = Directory(people=(Person(sub=ANA, roles=("b",), keys=(NEW,)), Person(sub="cleo")))
    found = first.joined(later)
    assert {p.sub: p.roles for p in found.people} == {ANA: ("b",), BO: (), "cleo": ()}
    assert found.by_key("old") is None
    assert found.by_key("new")
    assert found.live


def test_people_are_found_by_their_keys_or_left_out() -> None:
    """`holding` for those who decide, `without` for the suspended."""
    known = Directory(people=(Person(sub=ANA, keys=(OLD, NEW)), Person(sub=BO, keys=(ALWAYS,))))
    assert [p.sub for p in known.holding({"new", "nobody's"}).people] == [ANA]
    assert [p.sub for p in known.without({ANA, "nobody"}).people] == [BO]
    assert known.holding(frozenset()).people == ()


@pytest.mark.parametrize(("ends", "good"), [(None, True), (1, True), (0, False), (-1, False)])
def test_a_decision_counts_while_its_key_is_valid(
    tmp_path_factory: pytest.TempPathFactory, ends: int | None, good: bool
) -> None:
    """As of when it was given: `ends` seconds after that its key is over."""
    issuer = DevIssuer(tmp_path_factory.mktemp("home"), env="dev")
    ana = issuer.ensure().person(ANA)
    asked = request(requested_at=0, expires_at=1 << 40)
    token = issuer.sign("ana", request=asked, run_id="r", decision="approve", reason="")
    now = int(time.time())
    key = ana.keys[0].model_copy(update={"not_after": None if ends is None else now + ends})
    directory = Directory(people=(ana.model_copy(update={"keys": (key,)}),))

    def verify() -> str:
        return verify_decision(token, request=asked, run_id="r", directory=directory, now=now, barred=frozenset()).sub

    if good:
        assert verify() == ANA
        return
    with pytest.raises(ApprovalRefused) as caught:
        verify()
    assert caught.value.reason == "key_expired"
    assert caught.value.message == f"The login of `{ANA}` isn't valid at this time; run `remit login` again."


@pytest.mark.parametrize("junk", ["", ".", "..", "x.y.z", "é", "eyJhbGciOjF9..", "\0" * 9000], ids=repr)
def test_junk_claims_no_key(junk: str) -> None:
    """Whatever it is, nothing is raised."""
    assert claimed_key(junk) == ""


@pytest.mark.parametrize(("live", "known", "asked"), [(True, False, True), (True, True, False), (False, False, False)])
def test_only_a_live_directory_is_asked_for_strangers(
    tmp_path_factory: pytest.TempPathFactory, live: bool, known: bool, asked: bool
) -> None:
    """A key that is known needs no question, and a fixed directory has no answer."""
    issuer = DevIssuer(tmp_path_factory.mktemp("home"), env="dev")
    people = issuer.ensure().people if known else ()
    token = issuer.sign("ana", request=request(), run_id="r", decision="approve", reason="")
    state = RunState(start=StartInput(agent="a"), capsule=capsule(directory=Directory(people=people, live=live)))
    kid = issuer.ensure().person(ANA).keys[0].kid
    assert stranger(state, DecideSignal(approval_id="ap", decision_jws=token)) == (kid if asked else "")
