"""What stands in the ledger, as the gauges of a worker show it, on both databases."""

import json
import time

from activities.ledger import roots, switches
from activities.ledger.gauges import Standing, standing
from activities.ledger.rows import Intent
from activities.ledger.store import Ledger
from policies.models import Money, ResourceRef


def reserve(ledger: Ledger, key: str, **changed: object) -> None:
    intent = Intent.model_validate(
        {
            "idempotency_key": key,
            "run_id": f"run-of-{key}",
            "workflow_id": "w",
            "agent": "billing-resolution",
            "tool": "request_refund@1",
            "resource": ResourceRef(type="Invoice", id="in_1"),
            "subject": "Customer:cus_1",
            "amount": Money(cents=4900, currency="USD"),
            "action_digest": "sha256:0",
            "approvers": (),
            "strategy": "native_key",
            **changed,
        }
    )
    ledger.reserve(intent, [], lambda _, __: None)


def now(ledger: Ledger) -> Standing:
    with ledger.reading() as connection:
        return standing(connection)


def test_an_empty_ledger_has_nothing_open(ledger: Ledger) -> None:
    """Each state is there with 0, for a gauge that was never set would be no series."""
    assert now(ledger) == Standing(
        open=dict.fromkeys(("reserved", "sent", "indeterminate"), (0, 0.0)),
        duplicated=0,
        epoch=0,
        kills=0,
        pauses=0,
        drilled_at=0,
        drill_seconds=0,
        drilling_seconds=0,
        unsealed=(0, 0.0),
    )


def test_runs_that_wait_for_their_seal_are_counted(ledger: Ledger) -> None:
    """How many, and for how long the first one has waited."""
    with ledger.begin() as connection:
        for name in ("a", "b"):
            roots.enqueue(connection, "default", name, f"w-{name}", "billing-resolution")
    time.sleep(0.01)
    count, age = now(ledger).unsealed
    assert (count, age > 0) == (2, True)


def test_what_repeats_a_write_is_counted_once_each(ledger: Ledger) -> None:
    """Same tool, resource, subject and amount, happened or perhaps; what failed, moves nothing, or differs doesn't count."""
    for key in "abcd":
        reserve(ledger, key)
    for key, state in {"a": "done", "b": "done", "c": "indeterminate", "d": "failed"}.items():
        ledger.settle(key, state, "{}")  # pyright: ignore[reportArgumentType]
    for key, changed in {
        "other-amount": {"amount": Money(cents=4901, currency="USD")},
        "other-invoice": {"resource": ResourceRef(type="Invoice", id="in_2")},
        "other-customer": {"subject": "Customer:cus_2"},
    }.items():
        reserve(ledger, key, **changed)
        ledger.settle(key, "done", "{}")
    for key in ("note-1", "note-2"):
        reserve(ledger, key, tool="add_note@1", amount=None)
        ledger.settle(key, "done", "{}")
    found = now(ledger)
    assert found.duplicated == 2
    assert {state: count for state, (count, _) in found.open.items()} == {"reserved": 0, "sent": 0, "indeterminate": 1}
    assert found.open["indeterminate"][1] >= 0


def test_switches_and_drills(ledger: Ledger) -> None:
    """Switches of single runs don't count, nor do drills, which have figures of their own."""
    with ledger.begin() as connection:
        switches.lock(connection)
        switches.engage(connection, "run:r", "stop", "ana")
        switches.engage(connection, "tool:draft_reply", "stop", "ana")
        switches.pause(connection, "agent:a", "wait", "ana")
        switches.engage(connection, "drill:fleet", "weekly", "ana")
    found = now(ledger)
    assert (found.kills, found.pauses, found.epoch, found.drilled_at) == (1, 1, 4, 0)
    time.sleep(0.01)
    assert now(ledger).drilling_seconds > 0
    with ledger.begin() as connection:
        switches.lock(connection)
        switches.release(connection, "drill:fleet", "it took 40 ms", "ana", detail=json.dumps({"effect_ms": 40}))
        switches.engage(connection, "drill:fleet", "again", "ana")
        switches.release(connection, "drill:fleet", "another drill began", "ana")  # which nobody ended
    found = now(ledger)
    assert (found.drill_seconds, found.drilling_seconds) == (0.04, 0)
    assert abs(found.drilled_at - time.time()) < 60
