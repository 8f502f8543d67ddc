"""The breaker's tables: the figures of an agent as SQL adds them up, and who is stepped down since when."""

import random

from activities.ledger import breaker, records, switches
from activities.ledger.rows import Intent, RunRecord
from activities.ledger.store import Ledger
from policies.anomaly import Figures
from policies.models import AutonomyMode, Money, ResourceRef

AGENT = "billing-resolution"


def run(number: int, chance: random.Random) -> RunRecord:
    counts = {n: chance.randint(0, 3) for n in ("denied", "invalid", "errors", "repeated", "approved", "rejected", "edited")}
    asked = counts["approved"] + counts["rejected"] + counts["edited"]
    return RunRecord.model_validate(
        {
            **dict.fromkeys(("workflow_id", "release", "arm", "mode", "policy_version", "subject_tag"), "x"),
            **counts,
            "run_id": f"run-{number}",
            "agent": AGENT if number % 2 else "another",
            "outcome": chance.choice(["completed", "escalated", "stopped"]),
            "started_at": 1_000_000,
            "closed_at": 1_000_000 + 1000 * chance.randint(0, 90),
            "tool_calls": chance.randint(0, 9),
            "cost_micro_usd": chance.randint(0, 9999),
            "asked": asked,
        }
    )


def figures_of(record: RunRecord) -> Figures:
    """The figures of one run, by hand."""
    return Figures(
        runs=1,
        completed=int(record.outcome == "completed"),
        calls=record.tool_calls,
        denied=record.denied,
        invalid=record.invalid,
        errors=record.errors,
        repeated=record.repeated,
        looked_at=int(record.asked > 0 or record.outcome == "escalated"),
        decided=record.approved + record.rejected + record.edited,
        rejected=record.rejected,
        cost_micro_usd=record.cost_micro_usd,
        seconds=(record.closed_at - record.started_at) // 1000,
    )


def intent(n: int) -> Intent:
    """A refund of $7."""
    return Intent(
        idempotency_key=f"k{n}",
        run_id="run-1",
        workflow_id="w",
        agent=AGENT,
        tool="request_refund@1",
        resource=ResourceRef(type="Invoice", id="in_1"),
        subject="Customer:cus_1",
        amount=Money(cents=700, currency="USD"),
        action_digest="sha256:0",
        approvers=(),
        strategy="native_key",
    )


def test_figures_are_those_of_the_runs(ledger: Ledger) -> None:
    """What SQL adds up is what the runs of this agent come to, and nothing from before the window."""
    chance = random.Random(1)
    runs = [run(n, chance) for n in range(40)]
    with ledger.begin() as connection:
        assert all(records.keep(connection, r) for r in runs)
        found = breaker.figures(connection, AGENT, 0)
        later = breaker.figures(connection, AGENT, switches.now_ms() + 60_000)
    assert found == Figures.total(figures_of(r) for r in runs if r.agent == AGENT)
    assert later == Figures()


def test_money_counts_when_it_is_moved(ledger: Ledger) -> None:
    """A refund is in the sum as soon as it is reserved, long before its run ends; one that was released isn't."""
    ledger.reserve(intent(1), ["fleet"], lambda _, __: None)
    with ledger.reading() as connection:
        assert breaker.figures(connection, AGENT, 0) == Figures(moved_cents=700)
    ledger.settle("k1", "released", "unavailable")
    with ledger.reading() as connection:
        assert breaker.figures(connection, AGENT, 0) == Figures()


def test_a_reservation_is_judged_by_what_the_agent_may_do_now(ledger: Ledger) -> None:
    """In the transaction that reserves it: the mode as it was stepped down to, and `live` before and after."""
    seen: list[AutonomyMode] = []

    def judge(_: int, mode: AutonomyMode) -> None:
        seen.append(mode)

    def reserve(n: int) -> None:
        ledger.reserve(intent(n), ["fleet"], judge)

    reserve(1)
    with ledger.begin() as connection:
        breaker.step_down(connection, AGENT, "draft", "too much", "breaker")
        breaker.step_down(connection, "another", "read_only", "too much", "breaker")
    reserve(2)
    with ledger.begin() as connection:
        breaker.put_back(connection, AGENT, "ana", "fine")
    reserve(3)
    assert seen == ["live", "draft", "live"]


def test_an_agent_is_stepped_down_and_put_back(ledger: Ledger) -> None:
    """Both have their place in the order of switches and reservations."""
    with ledger.begin() as connection:
        made = breaker.step_down(connection, AGENT, "draft", "too much", "breaker")
        again = breaker.step_down(connection, AGENT, "read_only", "still too much", "breaker")
        assert again.epoch > made.epoch
        assert breaker.override(connection, AGENT) == again
        assert breaker.overrides(connection) == [again]
        assert breaker.override(connection, "another") is None
    with ledger.begin() as connection:
        assert breaker.put_back(connection, AGENT, "ana", "fine") == again
        assert breaker.override(connection, AGENT) is None
        assert switches.lock(connection) > again.epoch
        assert breaker.put_back(connection, AGENT, "ana", "fine") is None
