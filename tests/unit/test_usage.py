"""What counts towards caps across runs: exact, once, over the last day and the last minute, on either database."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.ledger import switches, usage
from activities.ledger.rows import CapUse, Charge, Effect, Intent
from activities.ledger.store import Ledger, run_scope
from activities.ledger.tables import charges, usage_minutes
from policies.caps import Caps, CapsFile, ScopedCaps, scoped
from policies.errors import CapReached, KillSwitchEngaged, ToolRefusal
from policies.models import Money, ResourceRef

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
START = 1_800_000_030_000  # half a minute into a minute


class Clock:
    """The ledger's time, which a test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        for module in ("activities.ledger.usage.now_ms", "activities.ledger.switches.now_ms", "activities.ledger.store._now"):
            monkeypatch.setattr(module, lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def agent(caps: Caps, name: str = "billing") -> ScopedCaps:
    return ScopedCaps(scope=f"agent:{name}", caps=caps)


def fleet(caps: Caps) -> ScopedCaps:
    return ScopedCaps(scope="fleet", caps=caps)


def charge(ledger: Ledger, wanted: Charge, *caps: ScopedCaps) -> CapReached | None:
    with ledger.begin() as connection:
        switches.lock(connection)
        return usage.charge(connection, wanted, caps)


def call(key: str, name: str = "billing") -> Charge:
    """A read."""
    return Charge(key=key, kind="tool", run_id="run-1", agent=name)


def asked(key: str, tokens: int, cost: int = 0) -> Charge:
    """An attempt of a model call, with its estimate."""
    return Charge(key=key, kind="model", run_id="run-1", agent="billing", tokens=tokens, cost_micro_usd=cost)


def begun(key: str) -> Charge:
    """A run."""
    return Charge(key=key, kind="run", run_id=key, agent="billing")


def settle(ledger: Ledger, key: str, tokens: int, cost: int = 0) -> None:
    with ledger.begin() as connection:
        switches.lock(connection)
        usage.settle(connection, key, tokens=tokens, cost_micro_usd=cost)


def used(ledger: Ledger, each: ScopedCaps) -> dict[str, CapUse]:
    with ledger.reading() as connection:
        return {use.cap: use for use in usage.used(connection, each)}


def refund(key: str, cents: int, currency: str = "USD", name: str = "billing") -> Intent:
    return Intent(
        idempotency_key=key,
        run_id="run-1",
        workflow_id="wf-1",
        agent=name,
        tool="refund@1",
        resource=ResourceRef(type="Invoice", id="in_1"),
        subject="Customer:cus_1",
        amount=Money(cents=cents, currency=currency),
        action_digest="sha256:0",
        approvers=(),
        strategy="native_key",
    )


def write(
    ledger: Ledger, key: str, cents: int, caps: Sequence[ScopedCaps], currency: str = "USD", name: str = "billing"
) -> Effect:
    """Reserve a write that moves money."""
    return ledger.reserve(refund(key, cents, currency, name), [run_scope("run-1")], lambda _sum, _mode: None, caps)


# ---- a day ----------------------------------------------------------------------------------------------------------


def test_exactly_as_many_calls_are_counted_as_the_cap_says(ledger: Ledger) -> None:
    """The one that would be too many isn't, and the sentence says whose cap, how much is used and when there is room."""
    caps = agent(Caps(tool_calls_per_day=3, on_cap="refuse"))
    answers = [charge(ledger, call(f"k{n}"), caps) for n in range(5)]
    assert [a is None for a in answers] == [True, True, True, False, False]
    assert (refused := answers[3])
    assert (refused.cap, refused.scope, refused.until) == ("tool_calls_per_day", "", 0)
    start = "A cap across runs leaves no room: 3 of 3 are used, of `tool_calls_per_day` of agent `billing`; there is room "
    assert refused.message.startswith(start)
    assert used(ledger, caps)["tool_calls_per_day"].used == 3


def test_a_retry_is_not_counted_again(ledger: Ledger) -> None:
    """What was counted under a key has its room for good, also once the cap is used up, or was lowered."""
    caps = agent(Caps(tool_calls_per_day=1))
    assert [charge(ledger, call("k"), caps) for _ in range(3)] == [None] * 3
    assert charge(ledger, call("other"), caps)
    assert used(ledger, caps)["tool_calls_per_day"].used == 1


def test_agents_have_a_cap_each_and_the_fleet_one_for_all(ledger: Ledger) -> None:
    """An agent's cap leaves others alone; the fleet's counts them together."""
    both = fleet(Caps(tool_calls_per_day=3))
    one, two = agent(Caps(tool_calls_per_day=2), "one"), agent(Caps(tool_calls_per_day=2), "two")
    answers = [charge(ledger, call(f"a{n}", "one"), one, both) for n in range(3)]
    answers += [charge(ledger, call(f"b{n}", "two"), two, both) for n in range(2)]
    assert [a and (a.scope, a.cap) for a in answers] == [
        *(None, None, ("cap:agent:one", "tool_calls_per_day")),
        *(None, ("cap:fleet", "tool_calls_per_day")),
    ]


def test_a_day_is_the_last_24_hours_and_never_shorter(ledger: Ledger, clock: Clock) -> None:
    """Room comes back when the minute of the first call is a whole day ago, not at midnight; `used` says when that is."""
    caps = agent(Caps(tool_calls_per_day=2, on_cap="refuse"))
    assert charge(ledger, call("k0"), caps) is None
    clock.now += 10 * MINUTE
    assert charge(ledger, call("k1"), caps) is None
    found = used(ledger, caps)["tool_calls_per_day"]
    room_at = (START // MINUTE + 1) * MINUTE + DAY
    assert (found.left, found.room_at) == (0, room_at)
    clock.now = room_at - 1
    assert charge(ledger, call("k2"), caps)
    clock.now = room_at
    assert charge(ledger, call("k2"), caps) is None
    assert charge(ledger, call("k3"), caps)


def test_what_no_cap_looks_at_any_more_is_deleted(ledger: Ledger, clock: Clock) -> None:
    """After some days of calls, little more than a day of them is kept."""
    caps = agent(Caps(tool_calls_per_day=1000))
    for n in range(40):
        assert charge(ledger, call(f"k{n}"), caps) is None
        clock.now += 2 * 60 * MINUTE
    with ledger.reading() as connection:
        kept = [connection.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in (charges, usage_minutes)]
    assert kept == [13, 26]  # one every two hours, for the agent and for the fleet


def test_a_lowered_cap_bites_at_once(ledger: Ledger) -> None:
    """What is used counts against whatever the cap is now; a raised one gives room at once."""
    for n in range(5):
        assert charge(ledger, call(f"k{n}"), agent(Caps(tool_calls_per_day=10))) is None
    assert charge(ledger, call("low"), agent(Caps(tool_calls_per_day=3)))
    assert charge(ledger, call("high"), agent(Caps(tool_calls_per_day=6))) is None


def test_a_run_that_begins_needs_room_for_a_first_step(ledger: Ledger) -> None:
    """It takes nothing by itself, and doesn't begin while a day is used up."""
    caps = agent(Caps(tokens_per_day=100))
    assert charge(ledger, begun("r1"), caps) is None
    assert charge(ledger, asked("m", 100), caps) is None
    assert (held := charge(ledger, begun("r2"), caps))
    assert held.cap == "tokens_per_day"
    assert charge(ledger, begun("r1"), caps) is None


# ---- model calls: an estimate before, the truth after -----------------------------------------------------------------


def test_an_estimate_is_reserved_and_settled_to_the_truth(ledger: Ledger) -> None:
    """Before the answer the estimate counts, after it what the call took, whether that was less or more."""
    caps = agent(Caps(tokens_per_day=1000, cost_micro_usd_per_day=500, on_cap="refuse"))
    assert charge(ledger, asked("m1", 600, 300), caps) is None
    assert charge(ledger, asked("m2", 600, 100), caps)
    settle(ledger, "m1", 150, 40)
    assert charge(ledger, asked("m2", 600, 100), caps) is None
    settle(ledger, "m2", 900, 470)
    found = used(ledger, caps)
    assert [(u.used, u.left) for u in found.values()] == [(1050, 0), (510, 0)]
    assert charge(ledger, asked("m3", 1, 1), caps)


def test_what_was_settled_stays_so(ledger: Ledger) -> None:
    """A second word on the same call changes nothing, nor does one on a call that nobody counted."""
    caps = agent(Caps(tokens_per_day=1000))
    charge(ledger, asked("m", 600), caps)
    settle(ledger, "m", 100)
    settle(ledger, "m", 0)
    settle(ledger, "another", 50)
    assert used(ledger, caps)["tokens_per_day"].used == 100


def test_an_estimate_that_nobody_settles_stands(ledger: Ledger, clock: Clock) -> None:
    """The attempt died, and nobody knows what it took: it counts as spent, for a day."""
    caps = agent(Caps(tokens_per_day=1000))
    charge(ledger, asked("died", 1000), caps)
    clock.now += DAY - MINUTE
    assert charge(ledger, asked("m", 1), caps)
    clock.now += 2 * MINUTE
    assert charge(ledger, asked("m", 1), caps) is None


def test_an_answer_that_came_after_its_day_changes_nothing(ledger: Ledger, clock: Clock) -> None:
    """Its minute is gone, and isn't made again with less than nothing in it."""
    caps = agent(Caps(tokens_per_day=1000))
    charge(ledger, asked("late", 600), caps)
    clock.now += 2 * DAY
    charge(ledger, asked("m", 1), caps)
    settle(ledger, "late", 100)
    assert used(ledger, caps)["tokens_per_day"].used == 1


@pytest.mark.parametrize("on_cap", ["wait", "escalate", "refuse"])
def test_nobody_waits_for_room_that_never_comes(ledger: Ledger, on_cap: str) -> None:
    """A call whose estimate is above the cap itself is refused, whatever `on_cap` says."""
    caps = agent(Caps.model_validate({"tokens_per_day": 100, "on_cap": on_cap}))
    assert (refused := charge(ledger, asked("m", 101), caps))
    assert (refused.scope, refused.until, refused.epoch) == ("", 0, 0)
    assert refused.message == (
        "This takes more than a cap across runs lets through at all: 0 of 100 are used, of `tokens_per_day` of agent `billing`."
    )


# ---- money ----------------------------------------------------------------------------------------------------------


def test_writes_move_exactly_what_the_cap_says(ledger: Ledger) -> None:
    """The sum may reach the cap, and not pass it by a cent; a smaller one may still fit."""
    caps = [agent(Caps(moved_cents_per_day={"USD": 10_000}))]
    write(ledger, "k1", 6_000, caps)
    with pytest.raises(CapReached, match="6,000 of 10,000 are used, of `moved_cents_per_day.USD` of agent `billing`"):
        write(ledger, "k2", 4_001, caps)
    write(ledger, "k3", 4_000, caps)
    assert [e.idempotency_key for e in ledger.effects()] == ["k1", "k3"]
    assert used(ledger, caps[0])["moved_cents_per_day.USD"].left == 0


def test_a_currency_without_a_cap_may_not_be_moved_beside_one_that_has_one(ledger: Ledger) -> None:
    """Else the cap on dollars would be no cap on money."""
    caps = [agent(Caps(moved_cents_per_day={"USD": 10_000}))]
    with pytest.raises(CapReached, match="at all: 0 of 0 are used, of `moved_cents_per_day.EUR`") as refused:
        write(ledger, "k1", 100, caps, "EUR")
    assert refused.value.scope == ""


def test_what_was_not_moved_after_all_gives_its_room_back(ledger: Ledger) -> None:
    """A write that failed or was released counts no more; one of unknown outcome does."""
    caps = [agent(Caps(moved_cents_per_day={"USD": 100}))]
    for key, state in (("k1", "failed"), ("k2", "released"), ("k3", "indeterminate")):
        row = write(ledger, key, 100, caps)
        ledger.settle(key, state, "", row.attempts)  # type: ignore[arg-type]
    with pytest.raises(CapReached):
        write(ledger, "k4", 100, caps)


def test_the_fleets_money_is_that_of_all_agents(ledger: Ledger, clock: Clock) -> None:
    """Whoever moved it; and after a day, it counts no more."""
    caps = [fleet(Caps(moved_cents_per_day={"USD": 100}))]
    write(ledger, "k1", 60, caps, name="one")
    clock.now += 1
    with pytest.raises(CapReached):
        write(ledger, "k2", 60, caps, name="two")
    clock.now = START + DAY
    assert write(ledger, "k2", 60, caps, name="two").state == "reserved"


def test_a_write_that_is_refused_for_another_reason_takes_no_room(ledger: Ledger) -> None:
    """Off switches and the policy come first."""
    caps = [agent(Caps(tool_calls_per_day=1, moved_cents_per_day={"USD": 100}))]

    def no(*_: object) -> None:
        raise ToolRefusal("denied", "No.")

    with pytest.raises(ToolRefusal):
        ledger.reserve(refund("k1", 100), [run_scope("run-1")], no, caps)
    ledger.engage(run_scope("run-1"), "stop", "ana")
    with pytest.raises(KillSwitchEngaged):
        write(ledger, "k1", 100, caps)
    assert [u.used for u in used(ledger, caps[0]).values()] == [0, 0]


def test_a_write_that_is_tried_again_counts_once(ledger: Ledger) -> None:
    """Each attempt reserves it anew; the call was counted with the first."""
    caps = [agent(Caps(tool_calls_per_day=2, moved_cents_per_day={"USD": 100}))]
    for _ in range(3):
        write(ledger, "k1", 100, caps)
    assert [u.used for u in used(ledger, caps[0]).values()] == [1, 100]


# ---- a minute -------------------------------------------------------------------------------------------------------


def test_those_who_wait_for_a_rate_have_places_in_a_queue(ledger: Ledger, clock: Clock) -> None:
    """Each is told its own time, and has its turn then; asking too early changes nothing."""
    caps = agent(Caps(runs_per_minute=2))
    answers = [charge(ledger, begun(f"r{n}"), caps) for n in range(6)]
    assert [a and (a.until - START // 1000) for a in answers] == [None, None, 60, 60, 120, 120]
    found = used(ledger, caps)["runs_per_minute"]
    assert (found.used, found.queued, found.room_at) == (2, 4, START + 3 * MINUTE)
    clock.now += MINUTE - 1
    assert charge(ledger, begun("r2"), caps)
    clock.now += 1
    assert [charge(ledger, begun(f"r{n}"), caps) is None for n in (2, 3, 4)] == [True, True, False]


@pytest.mark.parametrize("on_cap", ["escalate", "refuse"])
def test_whoever_does_not_wait_takes_no_place(ledger: Ledger, clock: Clock, on_cap: str) -> None:
    """A call that is refused for a rate leaves the next minute to others."""
    caps = agent(Caps.model_validate({"tool_calls_per_minute": 1, "on_cap": on_cap}))
    assert charge(ledger, call("k0"), caps) is None
    assert all(charge(ledger, call(f"k{n}"), caps) for n in (1, 2, 3))
    clock.now += MINUTE
    assert charge(ledger, call("k3"), caps) is None


def test_no_minute_holds_more_than_the_rate(tmp_path: Path) -> None:
    """Whoever asks when, of the agents or the fleet, waiting their turn or not: every window of 60 s stays within both."""

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        waits=st.lists(st.integers(0, 40_000), min_size=1, max_size=25),
        names=st.lists(st.sampled_from(["one", "two"]), min_size=25, max_size=25),
        rates=st.tuples(st.integers(1, 4), st.integers(1, 6)),
    )
    def holds(waits: list[int], names: list[str], rates: tuple[int, int]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            clock = Clock(patch)
            for file in tmp_path.glob("rates.db*"):
                file.unlink()
            ledger = Ledger(f"sqlite:///{tmp_path / 'rates.db'}")
            ledger.migrate()
            for n, (wait, name) in enumerate(zip(waits, names, strict=False)):
                clock.now += wait
                own, all_ = agent(Caps(tool_calls_per_minute=rates[0]), name), fleet(Caps(tool_calls_per_minute=rates[1]))
                charge(ledger, call(f"k{n}", name), own, all_)
            with ledger.reading() as connection:
                rows = [(str(r.agent), int(r.at)) for r in connection.execute(sa.select(charges.c.agent, charges.c.at))]
            ledger.close()
        assert len(rows) == min(len(waits), 25)
        for start in (at for _, at in rows):
            window = [who for who, at in rows if start <= at < start + MINUTE]
            assert len(window) <= rates[1]
            assert all(window.count(name) <= rates[0] for name in ("one", "two"))

    holds()


# ---- whoever finds no room --------------------------------------------------------------------------------------------


def test_who_waits_for_a_day_looks_again_before_it_is_over(ledger: Ledger, clock: Clock) -> None:
    """A quarter of an hour at most, for somebody may raise the cap; and not all at the same moment."""
    caps = agent(Caps(tool_calls_per_day=1))
    charge(ledger, call("k"), caps)
    answers = [charge(ledger, call(f"k{n}"), caps) for n in range(20)]
    after = [a.until - clock.now // 1000 for a in answers if a]
    assert len(after) == 20
    assert all(900 <= seconds <= 961 for seconds in after)
    assert len(set(after)) > 1
    assert {a.scope for a in answers if a} == {"cap:agent:billing"}


def test_who_waits_for_a_person_is_paused_in_the_ledger(ledger: Ledger) -> None:
    """In the same transaction: the gate holds the run's writes, and `remit resume` finds what to end."""
    caps = agent(Caps(tool_calls_per_day=1, on_cap="escalate"))
    charge(ledger, call("k"), caps)
    assert (held := charge(ledger, call("k2"), caps))
    assert (held.scope, held.until) == ("run:run-1", 0)
    with ledger.reading() as connection:
        (pause,) = switches.current(connection, paused=True)
    assert (pause.scope, pause.set_by, pause.reason, pause.epoch) == ("run:run-1", "cap", held.message, held.epoch)


def test_all_that_is_said_of_an_agent_holds() -> None:
    """The bundle's caps, the file's and the fleet's; those that say nothing aren't asked."""
    low, high = Caps(tool_calls_per_day=1), Caps(tool_calls_per_day=9)
    file = CapsFile(fleet=high, agents={"billing": low, "other": high})
    assert [(s.scope, s.caps) for s in scoped("billing", high, file)] == [
        ("agent:billing", high),
        ("agent:billing", low),
        ("fleet", high),
    ]
    assert scoped("third", Caps(), CapsFile()) == ()
