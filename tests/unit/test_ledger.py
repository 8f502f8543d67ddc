"""The effect ledger: one order of reservations and kills, sums that count what may have happened, nothing twice."""

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import SQLAlchemyError

from activities.ledger.store import COUNTED, DAY_MS, MIGRATIONS, Effect, EffectState, Intent, Ledger, existing, run_scope
from activities.ledger.tables import effects, metadata
from policies.errors import InvalidInput, KillSwitchEngaged, NotFound, OutcomeIndeterminate, ToolRefusal, Unavailable
from policies.models import Idempotency, Money, ResourceRef
from remit.settings import ROOT
from tests.builders import SUBJECT
from tests.postgres import PostgresServer
from tests.unit.conftest import KINDS, fresh

TOOL = "request_refund@1"
SCOPES = [run_scope("run-1")]


def intent(
    key: str = "rk_1",
    *,
    cents: int | None = 4900,
    subject: str = SUBJECT,
    tool: str = TOOL,
    strategy: Idempotency = "native_key",
    approvers: tuple[str, ...] = (),
) -> Intent:
    return Intent(
        idempotency_key=key,
        run_id="run-1",
        workflow_id="wf-1",
        agent="billing-resolution",
        tool=tool,
        resource=ResourceRef(type="Invoice", id="in_1001"),
        subject=subject,
        amount=None if cents is None else Money(cents=cents, currency="USD"),
        action_digest="sha256:" + "a" * 64,
        approvers=approvers,
        strategy=strategy,
    )


def yes(_: int) -> None:
    """The judge that lets everything pass."""


def no(_: int) -> None:
    raise ToolRefusal("denied", "The judge says no.")


def reserve(ledger: Ledger, wanted: Intent | None = None, judge: Callable[[int], None] = yes) -> Effect:
    return ledger.reserve(wanted or intent(), SCOPES, lambda total, _: judge(total))


def send(ledger: Ledger, wanted: Intent | None = None) -> Effect:
    """Reserve and mark as sent."""
    row = reserve(ledger, wanted)
    assert ledger.sent(row.idempotency_key, row.attempts, SCOPES)
    return row


def only(ledger: Ledger) -> Effect:
    (row,) = ledger.effects()
    return row


def change(url: str, **values: object) -> None:
    """Write into every row, behind the ledger's back."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.update(effects).values(**values))
    engine.dispose()


# ---- one effect -----------------------------------------------------------------------------------------------------


def test_a_reservation_records_the_intent(ledger: Ledger) -> None:
    """A reserved effect says who wants to do what, to what, for whom and with whose approval."""
    row = reserve(ledger, intent(approvers=("ana@example.com", "bo@example.com")))
    assert row == only(ledger)
    assert row.model_dump(exclude={"reserved_at"}) == {
        "idempotency_key": "rk_1",
        "run_id": "run-1",
        "workflow_id": "wf-1",
        "agent": "billing-resolution",
        "tool": TOOL,
        "resource": "Invoice:in_1001",
        "subject": SUBJECT,
        "amount_cents": 4900,
        "currency": "USD",
        "action_digest": "sha256:" + "a" * 64,
        "approvers": "ana@example.com,bo@example.com",
        "state": "reserved",
        "attempts": 1,
        "outcome": "",
        "settled_at": None,
        "resolved_by": None,
        "resolved_reason": None,
        "resolved_at": None,
        "capability": "",
        "risk": "",
        "epoch": 0,
    }


def test_an_effect_without_money_counts_nothing(ledger: Ledger) -> None:
    """A write that moves no money is recorded with no amount and no currency."""
    row = reserve(ledger, intent(cents=None))
    assert (row.amount_cents, row.currency, ledger.subject_sum(TOOL, SUBJECT)) == (0, "", 0)


def test_an_effect_goes_from_reserved_to_done(ledger: Ledger) -> None:
    """Reserved, sent, done: each state is on record, with the outcome and when it was settled."""
    send(ledger)
    assert only(ledger).state == "sent"
    ledger.settle("rk_1", "done", '{"refund_id": "re_1"}')
    row = only(ledger)
    assert (row.state, row.outcome) == ("done", '{"refund_id": "re_1"}')
    assert row.settled_at is not None
    assert row.settled_at >= row.reserved_at


@pytest.mark.parametrize("state", ["done", "failed"])
def test_what_is_settled_comes_back(ledger: Ledger, state: EffectState) -> None:
    """A retry gets what the earlier attempt recorded: not judged, not counted as an attempt, whatever was killed since."""
    send(ledger)
    ledger.settle("rk_1", "done" if state == "done" else "failed", "outcome")
    ledger.engage(SCOPES[0], "stop", "ana")
    row = reserve(ledger, judge=no)
    assert (row.state, row.outcome, row.attempts) == (state, "outcome", 1)


def test_a_lost_attempt_is_reserved_again(ledger: Ledger) -> None:
    """What was reserved and never sent can't have happened: the next attempt is judged anew and takes it over."""
    reserve(ledger)
    row = reserve(ledger, intent(approvers=("ana@example.com",)))
    assert (row.state, row.attempts, row.approvers) == ("reserved", 2, "ana@example.com")
    assert len(ledger.effects()) == 1


def test_a_reservation_taken_over_counts_from_now(ledger: Ledger, url: str) -> None:
    """The window of the sums begins with the attempt that performs the effect, not with one that was lost long ago."""
    reserve(ledger)
    change(url, reserved_at=0)
    reserve(ledger)
    assert ledger.subject_sum(TOOL, SUBJECT) == 4900


def test_an_older_attempt_cant_send_what_another_took_over(ledger: Ledger) -> None:
    """An attempt that was slow, and given up for lost, learns that it must not perform the effect a second time."""
    old = reserve(ledger)
    new = reserve(ledger)
    assert ledger.sent("rk_1", new.attempts, SCOPES)
    assert not ledger.sent("rk_1", old.attempts, SCOPES)
    ledger.settle("rk_1", "done", "{}")
    assert not ledger.sent("rk_1", old.attempts, SCOPES)
    assert not ledger.sent("rk_1", new.attempts, SCOPES)
    assert only(ledger).state == "done"


@pytest.mark.parametrize("state", ["done", "failed"])
def test_what_is_known_isnt_forgotten(ledger: Ledger, state: EffectState) -> None:
    """A last attempt that failed can't turn what another one has recorded into an unknown outcome."""
    send(ledger)
    ledger.settle("rk_1", "done" if state == "done" else "failed", "outcome")
    ledger.settle("rk_1", "indeterminate", "ReadTimeout")
    assert (only(ledger).state, only(ledger).outcome) == (state, "outcome")


def test_an_unknown_outcome_can_become_known(ledger: Ledger) -> None:
    """A late answer settles what was indeterminate."""
    send(ledger)
    ledger.settle("rk_1", "indeterminate", "ReadTimeout")
    ledger.settle("rk_1", "done", "{}")
    assert only(ledger).state == "done"


def test_a_vendor_that_dedupes_is_asked_again(ledger: Ledger) -> None:
    """After a crash between sending and recording, a `native_key` write is sent again under its key."""
    send(ledger)
    row = reserve(ledger, judge=no)
    assert (row.state, row.attempts) == ("sent", 2)


UNKNOWN = "Whether `request_refund@1` on `Invoice:in_1001` happened isn't known."


def test_at_most_once_is_never_asked_again(ledger: Ledger) -> None:
    """After a crash between sending and recording, an `at_most_once` write is for a human to look at."""
    send(ledger, intent(strategy="at_most_once"))
    with pytest.raises(OutcomeIndeterminate) as caught:
        reserve(ledger, intent(strategy="at_most_once"))
    assert caught.value.message == UNKNOWN
    assert only(ledger).state == "indeterminate"


@pytest.mark.parametrize("killed", [False, True])
def test_a_vendor_that_can_be_searched_is_asked(ledger: Ledger, killed: bool) -> None:
    """After a crash between sending and recording, the next attempt gets a `lookup` write, killed or not: asking is a read."""
    send(ledger, intent(strategy="lookup"))
    if killed:
        ledger.engage(SCOPES[0], "stop", "ana")
    row = reserve(ledger, intent(strategy="lookup"), judge=no)
    assert (row.state, row.attempts) == ("sent", 2)


@pytest.mark.parametrize("strategy", ["native_key", "lookup"])
def test_what_was_sent_isnt_sent_again_after_a_kill(ledger: Ledger, strategy: Idempotency) -> None:
    """G4: a kill between the reservation of a second attempt and its send stops it, and leaves an unknown outcome."""
    send(ledger, intent(strategy=strategy))
    again = reserve(ledger, intent(strategy=strategy))
    ledger.engage(SCOPES[0], "stop", "ana")
    assert not ledger.sent("rk_1", again.attempts, SCOPES)
    assert only(ledger).state == "indeterminate"
    assert ledger.subject_sum(TOOL, SUBJECT) == 4900


@pytest.mark.parametrize("state", ["failed", "released", "indeterminate"])
def test_only_the_newest_attempt_can_say_that_nothing_happened(
    ledger: Ledger, state: Literal["failed", "released", "indeterminate"]
) -> None:
    """An attempt that was overtaken and failed says nothing of what the other one has sent since."""
    old = send(ledger)
    new = reserve(ledger)
    ledger.settle("rk_1", state, "ReadTimeout", old.attempts)
    assert (only(ledger).state, only(ledger).outcome) == ("sent", "")
    ledger.settle("rk_1", state, "ReadTimeout", new.attempts)
    assert (only(ledger).state, only(ledger).outcome) == (state, "ReadTimeout")


def test_what_is_indeterminate_stays_so(ledger: Ledger) -> None:
    """An unknown outcome isn't retried, not even with a vendor that dedupes."""
    send(ledger)
    ledger.settle("rk_1", "indeterminate", "ReadTimeout")
    with pytest.raises(OutcomeIndeterminate, match="isn't known"):
        reserve(ledger)


def test_a_released_effect_can_be_reserved_again(ledger: Ledger) -> None:
    """A released effect never left, so a later attempt may have it, without a time at which it was settled."""
    reserve(ledger)
    ledger.settle("rk_1", "released", "")
    row = reserve(ledger)
    assert (row.state, row.attempts, row.settled_at) == ("reserved", 2, None)


# ---- when all attempts are lost -------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", ["nothing", "reserved", "released"])
def test_what_was_given_up_is_never_sent(ledger: Ledger, begun: str) -> None:
    """An effect that wasn't sent has failed for good: no attempt that wakes up can send it, and it counts nothing."""
    row = None if begun == "nothing" else reserve(ledger)
    if begun == "released":
        ledger.settle("rk_1", "released", "unavailable")
    given_up = ledger.give_up(intent(), SCOPES)
    assert (given_up.state, given_up.outcome.partition(":")[0]) == ("failed", "not_sent")
    assert given_up.settled_at is not None
    assert not row or not ledger.sent("rk_1", row.attempts, SCOPES)
    assert reserve(ledger) == given_up == only(ledger)
    assert ledger.subject_sum(TOOL, SUBJECT) == 0


@pytest.mark.parametrize("strategy", ["lookup", "at_most_once", "native_key"])
def test_what_was_sent_and_given_up_is_unknown(ledger: Ledger, strategy: Idempotency) -> None:
    """It isn't sent again, it counts, and a person can resolve it, unless its answer comes late. After a kill, so with all."""
    row = send(ledger)
    if strategy == "native_key":
        ledger.engage(SCOPES[0], "stop", "ana")
    assert ledger.give_up(intent(strategy=strategy), SCOPES).state == "indeterminate"
    assert not ledger.sent("rk_1", row.attempts, SCOPES)
    assert ledger.subject_sum(TOOL, SUBJECT) == 4900
    ledger.settle("rk_1", "done", "{}")
    assert only(ledger).state == "done"


def test_a_vendor_that_dedupes_may_be_asked_by_the_last_of_all(ledger: Ledger) -> None:
    """And by nobody before it: an attempt that wakes up can't send any more, nor say that nothing came of it."""
    row = send(ledger)
    last = ledger.give_up(intent(strategy="native_key"), SCOPES)
    assert (last.state, last.attempts) == ("sent", row.attempts + 1)
    assert not ledger.sent("rk_1", row.attempts, SCOPES)
    ledger.settle("rk_1", "failed", "no", row.attempts)
    assert only(ledger).state == "sent"
    assert ledger.sent("rk_1", last.attempts, SCOPES)


@pytest.mark.parametrize("state", ["done", "failed"])
def test_giving_up_keeps_what_is_on_record(ledger: Ledger, state: Literal["done", "failed"]) -> None:
    """The last attempt may have died after it recorded what it did."""
    send(ledger)
    ledger.settle("rk_1", state, "outcome")
    row = ledger.give_up(intent(), SCOPES)
    assert (row.state, row.outcome) == (state, "outcome")


# ---- the judge ------------------------------------------------------------------------------------------------------


def test_a_refused_reservation_leaves_nothing(ledger: Ledger) -> None:
    """What the judge raises comes out as it is, and nothing was reserved."""
    with pytest.raises(ToolRefusal, match=r"^The judge says no\.$"):
        reserve(ledger, judge=no)
    assert ledger.effects() == []


def test_the_judge_sees_the_sum_without_this_effect(ledger: Ledger) -> None:
    """A retry isn't judged as if its own amount had been spent already."""
    reserve(ledger, intent("rk_0", cents=100))
    seen: list[int] = []
    reserve(ledger, judge=seen.append)
    reserve(ledger, judge=seen.append)
    assert seen == [100, 100]


# ---- sums -----------------------------------------------------------------------------------------------------------

STATES: tuple[EffectState, ...] = ("reserved", "sent", "done", "failed", "released", "indeterminate")


@pytest.mark.parametrize("state", STATES)
def test_a_sum_counts_what_may_have_happened(ledger: Ledger, url: str, state: EffectState) -> None:
    """Reserved, sent, done and unknown amounts count; failed and released ones don't."""
    reserve(ledger)
    change(url, state=state)
    counts = state in ("reserved", "sent", "done", "indeterminate")
    assert ledger.subject_sum(TOOL, SUBJECT) == (4900 if counts else 0)
    assert (state in COUNTED) is counts


@pytest.mark.parametrize(("age", "counted"), [(DAY_MS - 60_000, 4900), (DAY_MS + 60_000, 0)], ids=["yesterday", "older"])
def test_a_sum_looks_back_a_day(ledger: Ledger, url: str, age: int, counted: int) -> None:
    """Amounts of the last 24 hours count, older ones don't."""
    row = reserve(ledger)
    change(url, reserved_at=row.reserved_at - age)
    assert ledger.subject_sum(TOOL, SUBJECT) == counted


def test_sums_are_kept_apart_by_tool_and_subject(ledger: Ledger) -> None:
    """Another tool's amounts, or another customer's, don't count."""
    reserve(ledger, intent("rk_1", cents=1))
    reserve(ledger, intent("rk_2", cents=20))
    reserve(ledger, intent("rk_3", cents=300, subject="Customer:cus_102"))
    reserve(ledger, intent("rk_4", cents=4000, tool="grant_credit@1"))
    assert ledger.subject_sum(TOOL, SUBJECT) == 21
    assert ledger.subject_sum(TOOL, "Customer:cus_102") == 300
    assert ledger.subject_sum("grant_credit@1", SUBJECT) == 4000


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Ledger]:
    """A ledger for the many examples of one property, each with a subject of its own."""
    found = Ledger(fresh(request, tmp_path_factory.mktemp("sums")))
    found.migrate()
    yield found
    found.close()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**40), st.sampled_from(STATES)), max_size=6))
def test_a_sum_is_exact(shared: Ledger, rows: list[tuple[int, EffectState]]) -> None:
    """For any amounts in any states, the sum is that of the states that count."""
    subject = f"Customer:{uuid.uuid4().hex}"
    for cents, state in rows:
        row = reserve(shared, intent(f"rk_{uuid.uuid4().hex}", cents=cents, subject=subject))
        if state == "sent":
            assert shared.sent(row.idempotency_key, row.attempts, SCOPES)
        elif state != "reserved":
            shared.settle(row.idempotency_key, state, "")
    expected = sum(cents for cents, state in rows if state not in ("failed", "released"))
    assert shared.subject_sum(TOOL, subject) == expected


# ---- kill switches --------------------------------------------------------------------------------------------------


def test_a_kill_stops_a_reservation(ledger: Ledger) -> None:
    """Under an off switch nothing is reserved, and the judge isn't asked."""
    ledger.engage(SCOPES[0], "wrong customer", "ana")
    with pytest.raises(KillSwitchEngaged) as caught:
        reserve(ledger, judge=no)
    assert caught.value.message == "A kill switch is on: wrong customer"
    assert ledger.effects() == []


def test_a_kill_covers_its_scope_only(ledger: Ledger) -> None:
    """A switch of another run doesn't stop this one."""
    ledger.engage(run_scope("run-2"), "stop", "ana")
    assert reserve(ledger).state == "reserved"


def test_a_kill_releases_what_wasnt_sent(ledger: Ledger) -> None:
    """An effect reserved before the kill and never sent is released, so that it no longer counts."""
    reserve(ledger)
    ledger.engage(SCOPES[0], "stop", "ana")
    with pytest.raises(KillSwitchEngaged):
        reserve(ledger)
    assert only(ledger).state == "released"
    assert only(ledger).settled_at is not None
    assert ledger.subject_sum(TOOL, SUBJECT) == 0


def test_a_kill_makes_what_was_sent_indeterminate(ledger: Ledger) -> None:
    """An effect that may have happened isn't sent again after a kill, not even to a vendor that dedupes."""
    send(ledger)
    ledger.engage(SCOPES[0], "stop", "ana")
    with pytest.raises(OutcomeIndeterminate) as caught:
        reserve(ledger)
    assert caught.value.message == UNKNOWN
    assert only(ledger).state == "indeterminate"


def test_a_second_kill_keeps_the_first(ledger: Ledger) -> None:
    """Setting a switch again gives the time and keeps the reason of the first."""
    first = ledger.engage(SCOPES[0], "first", "ana")
    assert ledger.engage(SCOPES[0], "second", "bo") == first
    with pytest.raises(KillSwitchEngaged, match="first"):
        reserve(ledger)


def test_another_process_sees_the_kill(ledger: Ledger, url: str) -> None:
    """The switch is in the database, not in the memory of whoever set it."""
    other = Ledger(url)
    other.engage(SCOPES[0], "stop", "ana")
    other.close()
    with pytest.raises(KillSwitchEngaged):
        reserve(ledger)


# ---- a person settles what nobody knows -----------------------------------------------------------------------------


def lost(ledger: Ledger, wanted: Intent | None = None) -> None:
    """An effect that was sent, and whose answer never came."""
    ledger.settle(send(ledger, wanted).idempotency_key, "indeterminate", "ReadTimeout")


def test_a_person_says_that_it_happened(ledger: Ledger) -> None:
    """A resolved effect is done: its outcome says who and why, its amount counts, and a retry gets that outcome."""
    lost(ledger)
    row = ledger.resolve("rk_1", happened=True, by="ana@example.com", reason="Seen on the statement.")
    assert (row.state, json.loads(row.outcome)) == (
        "done",
        {"resolved": "happened", "by": "ana@example.com", "reason": "Seen on the statement."},
    )
    assert (row.resolved_by, row.resolved_reason) == ("ana@example.com", "Seen on the statement.")
    assert row.resolved_at == row.settled_at
    assert row.resolved_at is not None
    assert only(ledger) == row
    assert ledger.subject_sum(TOOL, SUBJECT) == 4900
    assert reserve(ledger, judge=no) == row


def test_a_person_says_that_it_did_not_happen(ledger: Ledger) -> None:
    """It has failed, counts for nothing, and isn't sent again: a new attempt is a new decision."""
    lost(ledger)
    row = ledger.resolve("rk_1", happened=False, by="ana@example.com", reason="Not on the statement.")
    assert (row.state, row.outcome) == ("failed", "resolved: ana@example.com says that it didn't happen: Not on the statement.")
    assert ledger.subject_sum(TOOL, SUBJECT) == 0
    assert reserve(ledger) == row


def test_what_a_person_said_stays(ledger: Ledger) -> None:
    """Neither a late answer nor a second person changes what was resolved."""
    lost(ledger)
    row = ledger.resolve("rk_1", happened=True, by="ana@example.com", reason="Seen.")
    ledger.settle("rk_1", "failed", "late")
    with pytest.raises(InvalidInput) as caught:
        ledger.resolve("rk_1", happened=False, by="bo@example.com", reason="No.")
    assert caught.value.message == (
        "Effect `rk_1` is `done`, as `ana@example.com` said; only an `indeterminate` one can be resolved."
    )
    assert only(ledger) == row


@pytest.mark.parametrize("state", [s for s in STATES if s != "indeterminate"])
def test_only_an_unknown_outcome_is_resolved(ledger: Ledger, url: str, state: EffectState) -> None:
    """An effect in any other state is refused in one sentence and stays as it is."""
    reserve(ledger)
    change(url, state=state)
    with pytest.raises(InvalidInput) as caught:
        ledger.resolve("rk_1", happened=True, by="ana@example.com", reason="Seen.")
    assert caught.value.message == f"Effect `rk_1` is `{state}`; only an `indeterminate` one can be resolved."
    assert (only(ledger).state, only(ledger).resolved_by) == (state, None)


def test_an_unknown_key_isnt_resolved(ledger: Ledger) -> None:
    """A key that no effect has is refused in one sentence."""
    with pytest.raises(NotFound, match=r"^No effect has the key `rk_9`; see `remit effects`\.$"):
        ledger.resolve("rk_9", happened=True, by="ana@example.com", reason="Seen.")


def test_two_people_at_once_resolve_it_once(ledger: Ledger) -> None:
    """Of people who say different things at the same moment, one is heard and the others are refused."""
    lost(ledger)
    start = threading.Barrier(8)

    def say(i: int) -> bool:
        start.wait()
        try:
            ledger.resolve("rk_1", happened=i % 2 == 0, by=f"p{i}@example.com", reason="Seen.")
        except InvalidInput:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        heard = list(pool.map(say, range(8)))
    assert heard.count(True) == 1
    assert only(ledger).resolved_by == f"p{heard.index(True)}@example.com"


# ---- races ----------------------------------------------------------------------------------------------------------

THREADS = 16


def test_racing_reservations_never_pass_the_threshold(ledger: Ledger) -> None:
    """Sixteen threads want $49 each for one customer, and the judge says no from $150 on: exactly three get it."""
    start = threading.Barrier(THREADS)

    def judge(total: int) -> None:
        if total + 4900 >= 15_000:
            no(total)

    def attempt(i: int) -> bool:
        start.wait()
        try:
            reserve(ledger, intent(f"rk_{i}"), judge)
        except ToolRefusal:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        granted = list(pool.map(attempt, range(THREADS)))
    assert granted.count(True) == 3
    assert ledger.subject_sum(TOOL, SUBJECT) == 14_700


def test_one_key_is_reserved_by_one(ledger: Ledger) -> None:
    """Sixteen threads want the same effect: only the last of them may send it."""
    start = threading.Barrier(THREADS)

    def attempt(_: int) -> Effect:
        start.wait()
        return reserve(ledger)

    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(attempt, range(THREADS)))
    assert sorted(r.attempts for r in rows) == list(range(1, THREADS + 1))
    assert [r.attempts for r in rows if ledger.sent(r.idempotency_key, r.attempts, SCOPES)] == [THREADS]


def test_after_a_kill_no_reservation_succeeds(ledger: Ledger) -> None:
    """While threads reserve as fast as they can, a kill is set: no reservation begun after it returned succeeds."""
    acknowledged, warm = threading.Event(), threading.Event()
    late: list[str] = []

    def work(i: int) -> int:
        reserved = 0
        while True:
            too_late = acknowledged.is_set()
            try:
                row = reserve(ledger, intent(f"rk_{i}_{reserved}"))
            except KillSwitchEngaged:
                return reserved
            reserved += 1
            warm.set()
            if too_late:
                late.append(row.idempotency_key)
                return reserved

    with ThreadPoolExecutor(8) as pool:
        counts = [pool.submit(work, i) for i in range(8)]
        assert warm.wait(30)
        ledger.engage(SCOPES[0], "stop", "ana")
        acknowledged.set()
        before = sum(c.result() for c in counts)
    assert late == []
    assert len(ledger.effects()) == before > 0


def test_a_kill_waits_for_a_reservation_in_progress(ledger: Ledger) -> None:
    """G4: a kill isn't acknowledged between a reservation's look at the switches and its commit."""
    with ThreadPoolExecutor(1) as pool:
        kills: list[Future[int]] = []

        def judge(_: int) -> None:
            kills.append(pool.submit(ledger.engage, SCOPES[0], "stop", "ana"))
            with pytest.raises(TimeoutError):
                kills[0].result(0.5)

        row = reserve(ledger, judge=judge)
        assert kills[0].result(30)
    assert not ledger.sent(row.idempotency_key, row.attempts, SCOPES)


@pytest.mark.parametrize("strategy", ["native_key", "at_most_once"])
def test_a_record_is_never_lost_to_a_retry(ledger: Ledger, strategy: Idempotency) -> None:
    """While one attempt records what happened, a retry reserves the same effect: what is recorded stays recorded."""
    for i in range(40):
        wanted = intent(f"rk_{i}", strategy=strategy)
        send(ledger, wanted)
        start = threading.Barrier(2)

        def record(key: str = wanted.idempotency_key, start: threading.Barrier = start) -> None:
            start.wait()
            ledger.settle(key, "done", "{}")

        def retry(wanted: Intent = wanted, start: threading.Barrier = start) -> None:
            start.wait()
            with suppress(OutcomeIndeterminate):
                reserve(ledger, wanted)

        with ThreadPoolExecutor(2) as pool:
            for each in (pool.submit(record), pool.submit(retry)):
                each.result()
    assert {e.state for e in ledger.effects()} == {"done"}


def test_the_isolation_level_is_ours_to_say(postgres: PostgresServer) -> None:
    """G3: whatever isolation the server's default is, a reservation that waited for another one sees its amount."""
    found = Ledger(f"{postgres.database()}&options=-c%20default_transaction_isolation%3Dserializable")
    found.migrate()
    test_racing_reservations_never_pass_the_threshold(found)
    found.close()


# ---- rows, schema, URL ----------------------------------------------------------------------------------------------


def test_effects_are_listed_by_run(ledger: Ledger) -> None:
    """Rows come oldest first, of one run or of all."""
    reserve(ledger, intent("rk_b"))
    reserve(ledger, intent("rk_a").model_copy(update={"run_id": "run-2"}))
    assert [r.idempotency_key for r in ledger.effects("run-2")] == ["rk_a"]
    assert {r.idempotency_key for r in ledger.effects()} == {"rk_a", "rk_b"}
    assert {r.idempotency_key for r in ledger.effects("wf-1")} == {"rk_a", "rk_b"}
    assert ledger.effects("run-3") == []


def test_effects_are_listed_by_state(ledger: Ledger) -> None:
    """Of one state, or of one state in one run."""
    lost(ledger, intent("rk_a"))
    reserve(ledger, intent("rk_b"))
    assert [r.idempotency_key for r in ledger.effects(state="indeterminate")] == ["rk_a"]
    assert [r.idempotency_key for r in ledger.effects("run-1", "reserved")] == ["rk_b"]
    assert ledger.effects("run-2", "reserved") == []


def test_an_effect_names_the_longest_workflow_id(ledger: Ledger) -> None:
    """A workflow id of 1000 characters, Temporal's most, fits."""
    row = reserve(ledger, intent().model_copy(update={"workflow_id": "w" * 1000}))
    assert row.workflow_id == "w" * 1000


def test_a_ledger_of_the_first_version_is_upgraded(url: str) -> None:
    """The rows of a ledger that revision 0001 made are kept, with nobody who resolved them."""
    engine = sa.create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        old = {
            c.name: "x"
            for c in effects.columns
            if not c.name.startswith("resolved_") and c.name not in ("capability", "risk", "epoch")
        }
        numbers = {"amount_cents": 4900, "attempts": 1, "reserved_at": 5, "settled_at": 6}
        connection.execute(sa.insert(effects).values({**old, **numbers, "currency": "USD", "state": "indeterminate"}))
    engine.dispose()
    with pytest.raises(Unavailable, match="isn't of this version of Remit"), existing(url):
        pass
    found = Ledger(url)
    found.migrate()
    row = only(found)
    assert (row.state, row.amount_cents, row.settled_at, row.resolved_by) == ("indeterminate", 4900, 6, None)
    found.close()
    with existing(url) as again:
        assert again.effects() == [row]


def test_a_command_makes_no_ledger(tmp_path: Path) -> None:
    """Looking for a ledger where there is none leaves no file behind."""
    path = tmp_path / "a" / "ledger.db"
    with pytest.raises(Unavailable) as caught, existing(f"sqlite:///{path}"):
        pass
    assert caught.value.message == f"There is no ledger at `{path}` yet; `remit dev` or a worker makes it."
    assert list(tmp_path.iterdir()) == []


def test_the_migrations_make_the_declared_tables(ledger: Ledger, url: str) -> None:
    """What the migrations build is what `tables.py` declares, down to the indexes."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrating_again_changes_nothing(ledger: Ledger) -> None:
    """A worker that starts on a ledger in use leaves it as it is."""
    reserve(ledger)
    ledger.engage(SCOPES[0], "stop", "ana")
    ledger.migrate()
    assert only(ledger).state == "reserved"
    with pytest.raises(KillSwitchEngaged):
        reserve(ledger, intent("rk_2"))


def test_processes_that_start_together_migrate_once(url: str) -> None:
    """Four workers that start on an empty ledger at the same moment all find it ready."""
    code = (
        "import sys; from activities.ledger.store import Ledger\n"
        "print('ready', flush=True); sys.stdin.readline(); l = Ledger(sys.argv[1]); l.migrate(); print(l.effects())"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=60) for worker in workers]
    assert answers == [("[]\n", "")] * 4


@dataclass(frozen=True)
class BadUrl:
    name: str
    url: str


BAD_URLS = (
    BadUrl("not a URL", "ledger.db"),
    BadUrl("empty", ""),
    BadUrl("unknown database", "abacus://host/ledger"),
    BadUrl("unknown driver", "sqlite+nope:///ledger.db"),
    BadUrl("not a ledger's database", "mysql+psycopg://host/ledger"),
    BadUrl("PostgreSQL without its driver's name", "postgres://host/ledger"),
    BadUrl("port is no number", "postgresql://host:port/ledger"),
    BadUrl("folder can't be made", "sqlite:////proc/remit/ledger.db"),
    BadUrl("folder is a file", f"sqlite:///{ROOT / 'pyproject.toml' / 'ledger.db'}"),
)


@dataclass(frozen=True)
class Unreachable:
    name: str
    user: str
    database: str
    why: str


UNREACHABLE = (
    Unreachable("no such database", "postgres", "nowhere", "it has no such database or user"),
    Unreachable("no such user", "nobody", "postgres", "it has no such database or user"),
    Unreachable("wrong password", "guarded:s3cret", "postgres", "it refuses the user or the password"),
    Unreachable("no password", "guarded", "postgres", "it refuses the user or the password"),
)


@pytest.mark.parametrize("case", UNREACHABLE, ids=lambda c: c.name)
def test_a_database_that_lets_nobody_in_is_one_sentence(postgres: PostgresServer, case: Unreachable) -> None:
    """What PostgreSQL refuses is said in one sentence, without the password."""
    found = Ledger(f"postgresql+psycopg://{case.user}@/{case.database}?host={postgres.folder}")
    with pytest.raises(Unavailable) as caught:
        found.migrate()
    found.close()
    assert caught.value.message == f"The ledger at `REMIT_LEDGER_URL` can't be used: {case.why}."


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:s3cret@127.0.0.1:1/ledger",
        "postgresql+psycopg://u:s3@cret@/ledger?host=/nowhere",
        "sqlite:////proc",
    ],
)
def test_a_database_that_isnt_there_is_one_sentence(url: str) -> None:
    """A server that doesn't answer, and a file that is a folder, are said in one sentence, without the password."""
    found = Ledger(url)
    with pytest.raises(Unavailable) as caught:
        found.migrate()
    found.close()
    assert caught.value.message == "The ledger at `REMIT_LEDGER_URL` can't be used: no usable database answers there."


def test_a_file_that_is_no_ledger_is_one_sentence(tmp_path: Path) -> None:
    """A file of something else is refused and left as it is."""
    (tmp_path / "ledger.db").write_text("hello" * 1000)
    found = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with pytest.raises(Unavailable, match=r"can't be used: no usable database answers there\.$"):
        found.migrate()
    found.close()


def test_a_newer_ledger_is_refused(ledger: Ledger, url: str) -> None:
    """A ledger of a newer version isn't written to by an older one."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(InvalidInput, match="made by a newer Remit"):
        ledger.migrate()


def test_the_ledger_survives_a_restart_of_the_database() -> None:
    """G8: after PostgreSQL was stopped and started, the same ledger goes on, and nothing it recorded is lost."""
    server = PostgresServer()
    try:
        found = Ledger(server.database())
        found.migrate()
        send(found)
        server.halt()
        server.start()
        assert [e.state for e in found.effects()] == ["sent"]
        server.halt()
        with pytest.raises(SQLAlchemyError):
            reserve(found, intent("rk_2"))
        server.start()
        assert reserve(found, intent("rk_2")).state == "reserved"
        found.close()
    finally:
        server.stop()


def test_odd_letters_dont_stop_a_kill(ledger: Ledger) -> None:
    """G4: a kill whose reason holds letters that a database can't store is set all the same."""
    ledger.engage(SCOPES[0], "stop\0now \ud800", "ana" * 100)
    with pytest.raises(KillSwitchEngaged, match="A kill switch is on: stop\ufffdnow [?]"):
        reserve(ledger)


@pytest.mark.parametrize("case", BAD_URLS, ids=lambda c: c.name)
def test_a_bad_url_is_one_sentence(case: BadUrl) -> None:
    """A ledger that can't be opened is named by its setting, with an example of one that can; the URL may hold a password."""
    with pytest.raises(InvalidInput) as caught:
        Ledger(case.url)
    assert caught.value.message == (
        "`REMIT_LEDGER_URL` can't be opened; use `sqlite:////absolute/path/ledger.db` or "
        "`postgresql+psycopg://user@host/database`."
    )


def test_the_ledgers_folder_is_made(tmp_path: Path) -> None:
    """A first start needs no folder to be there."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'a' / 'b' / 'ledger.db'}")
    ledger.migrate()
    ledger.close()
    assert (tmp_path / "a" / "b" / "ledger.db").is_file()


def test_a_kill_after_the_reservation_stops_the_send(ledger: Ledger) -> None:
    """G4: an effect that was reserved but hasn't left when the kill is acknowledged never leaves, and counts for nothing."""
    row = reserve(ledger)
    ledger.engage(SCOPES[0], "stop", "ana")
    assert not ledger.sent(row.idempotency_key, row.attempts, SCOPES)
    assert [e.state for e in ledger.effects()] == ["released"]


def test_a_retry_that_is_refused_releases_its_reservation(ledger: Ledger) -> None:
    """What was reserved by an attempt that died, and is refused now, counts towards no sum any more."""
    reserve(ledger)
    with pytest.raises(ToolRefusal):
        reserve(ledger, judge=no)
    assert [e.state for e in ledger.effects()] == ["released"]
