"""Capabilities in the ledger, on both databases: kept, taken by one run, revoked in one order with reservations."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from activities.ledger.store import Capability, Intent, Ledger, run_scope
from policies.errors import NotFound, ToolRefusal
from policies.models import Money, ResourceRef
from tests.builders import SUBJECT

NOW = int(time.time())
TOOL = "request_refund@1"


def capability(name: str, **changes: object) -> Capability:
    row: dict[str, object] = {
        "id": name,
        "kind": "write",
        "run_id": "run-1",
        "agent": "support-triage",
        "tools": TOOL,
        "subject": SUBJECT,
        "issuer": "worker",
        "key_id": "1",
        "token": f"token of {name}",
        "minted_at": NOW * 1000,
        "expires_at": NOW + 600,
    }
    return Capability.model_validate({**row, **changes})


def delegation(name: str, **changes: object) -> Capability:
    given: dict[str, object] = {"kind": "delegation", "run_id": "", "ceiling_cents": 5000, "currency": "USD", "issuer": "cleo"}
    return capability(name, **{**given, **changes})


def reserve(ledger: Ledger, key: str, name: str, cents: int = 2500, run: str = "run-1", **limits: int) -> str:
    intent = Intent(
        idempotency_key=key,
        run_id=run,
        workflow_id="wf-1",
        agent="support-triage",
        tool=TOOL,
        resource=ResourceRef(type="Invoice", id="in_1001"),
        subject=SUBJECT,
        amount=Money(cents=cents, currency="USD"),
        action_digest="sha256:0",
        approvers=(),
        strategy="native_key",
        capability=name,
    ).model_copy(update=limits)
    return ledger.reserve(intent, [run_scope("run-1")], lambda _, __: None).state


def test_what_is_kept_is_found_whole(ledger: Ledger) -> None:
    """A capability comes back as it was; its token is in no text of it."""
    kept = capability("cap_1", reason="a\0b", resource="Invoice:in_1", ceiling_cents=100, currency="USD")
    ledger.keep(kept)
    assert ledger.capability("cap_1") == kept.model_copy(update={"reason": "a\ufffdb"})
    assert kept.token not in repr(kept)
    assert ledger.capability("cap_2") is None


def test_capabilities_are_listed(ledger: Ledger) -> None:
    """Oldest first, all of them, those of a run, those of a kind."""
    ledger.keep(capability("cap_b", minted_at=2))
    ledger.keep(capability("cap_a", minted_at=3, run_id="run-2", kind="run"))
    ledger.keep(capability("cap_c", minted_at=1))
    assert [c.id for c in ledger.capabilities()] == ["cap_c", "cap_b", "cap_a"]
    assert [c.id for c in ledger.capabilities("run-2")] == ["cap_a"]
    assert [c.id for c in ledger.capabilities(kind="write")] == ["cap_c", "cap_b"]


def test_a_write_needs_its_capability_in_the_ledger(ledger: Ledger) -> None:
    with pytest.raises(ToolRefusal) as caught:
        reserve(ledger, "rk_1", "cap_1")
    assert caught.value.reason == "capability_refused"
    ledger.keep(capability("cap_1"))
    assert reserve(ledger, "rk_1", "cap_1") == "reserved"


def test_a_revoked_capability_reserves_nothing(ledger: Ledger) -> None:
    """Its own, or that of the run's reads, without which the run has no authority left; that of another run changes nothing."""
    for name, changes in (
        ("cap_1", {}),
        ("cap_2", {}),
        ("cap_r", {"kind": "run"}),
        ("cap_o", {"kind": "run", "run_id": "run-2"}),
    ):
        ledger.keep(capability(name, **changes))
    ledger.revoke("cap_o", "ana", "another run")
    ledger.revoke("cap_1", "ana", "this one")
    with pytest.raises(ToolRefusal) as caught:
        reserve(ledger, "rk_1", "cap_1")
    assert caught.value.reason == "capability_revoked"
    assert reserve(ledger, "rk_2", "cap_2") == "reserved"
    ledger.revoke("cap_r", "ana", "all of it")
    with pytest.raises(ToolRefusal):
        reserve(ledger, "rk_2", "cap_2")
    assert [e.state for e in ledger.effects()] == ["released"]


def test_a_revocation_is_recorded_once(ledger: Ledger) -> None:
    """Who, why and when stay those of the first time."""
    ledger.keep(capability("cap_1"))
    first = ledger.revoke("cap_1", "ana", "a mistake\0")
    assert (first.revoked_by, first.revoked_reason) == ("ana", "a mistake\ufffd")
    assert ledger.revoke("cap_1", "bo", "me too") == first
    with pytest.raises(NotFound):
        ledger.revoke("cap_2", "ana", "nothing there")


def test_standing_says_what_has_changed_since(ledger: Ledger) -> None:
    """Whether it was revoked, and the epoch of the newest off switch of its run."""
    ledger.keep(capability("cap_1"))
    assert ledger.standing("cap_1", "run-1") == (False, 0)
    ledger.engage(run_scope("run-2"), "another", "ana")
    ledger.engage(run_scope("run-1"), "stop", "ana")
    assert ledger.standing("cap_1", "run-1") == (False, 2)
    ledger.revoke("cap_1", "ana", "enough")
    assert ledger.standing("cap_1", "run-1") == (True, 2)


def test_a_delegation_is_taken_by_one_run(ledger: Ledger) -> None:
    """By the first that fits, again when that one asks again (an admission that was retried), and by no other."""
    ledger.keep(delegation("cap_d"))
    for agent, subject in (("billing-resolution", SUBJECT), ("support-triage", "Customer:cus_9")):
        assert ledger.take(agent, subject, "run-0", NOW) == []
    assert [c.id for c in ledger.take("support-triage", SUBJECT, "run-1", NOW)] == ["cap_d"]
    assert [c.run_id for c in ledger.take("support-triage", SUBJECT, "run-1", NOW)] == ["run-1"]
    assert ledger.take("support-triage", SUBJECT, "run-2", NOW) == []


def test_of_runs_that_start_together_one_takes_the_delegation(ledger: Ledger) -> None:
    ledger.keep(delegation("cap_d"))
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ledger.take, "support-triage", SUBJECT, f"run-{n}", NOW) for n in range(8)]
        found = [w.result() for w in waiting]
    assert sum(len(rows) for rows in found) == 1


def test_what_is_over_or_revoked_is_not_taken(ledger: Ledger) -> None:
    ledger.keep(delegation("cap_over", expires_at=NOW))
    ledger.keep(delegation("cap_back"))
    ledger.revoke("cap_back", "cleo", "no")
    assert ledger.take("support-triage", SUBJECT, "run-1", NOW) == []


def test_a_delegation_s_ceiling_holds_for_all_of_its_writes(ledger: Ledger) -> None:
    """What may have happened counts, what the vendor refused doesn't, and a retry doesn't count twice."""
    ledger.keep(delegation("cap_d"))
    for name in ("cap_1", "cap_2", "cap_3"):
        ledger.keep(capability(name, delegation="cap_d"))
    assert reserve(ledger, "rk_1", "cap_1") == "reserved"
    assert reserve(ledger, "rk_1", "cap_1") == "reserved"
    assert reserve(ledger, "rk_2", "cap_2") == "reserved"
    with pytest.raises(ToolRefusal) as caught:
        reserve(ledger, "rk_3", "cap_3", 1)
    assert caught.value.reason == "delegation_used_up"
    ledger.settle("rk_2", "failed", "denied: no")
    assert reserve(ledger, "rk_3", "cap_3") == "reserved"
    ledger.revoke("cap_d", "cleo", "enough")
    with pytest.raises(ToolRefusal) as caught:
        reserve(ledger, "rk_1", "cap_1")
    assert caught.value.reason == "capability_revoked"


def test_writes_are_counted_by_run_and_by_agent(ledger: Ledger) -> None:
    """What may have happened counts, a retry doesn't count twice, and what was released makes room."""
    for key in ("rk_1", "rk_1", "rk_2"):
        assert reserve(ledger, key, "", per_run=2) == "reserved"
    with pytest.raises(ToolRefusal, match="the 2 writes that it may make") as caught:
        reserve(ledger, "rk_3", "", per_run=2)
    assert caught.value.reason == "too_many_writes"
    with pytest.raises(ToolRefusal, match="the 2 writes of 24 hours"):
        reserve(ledger, "rk_3", "", run="run-2", per_run=2, per_agent_and_day=2)
    assert reserve(ledger, "rk_3", "", run="run-2", per_run=2, per_agent_and_day=3) == "reserved"
    ledger.settle("rk_1", "released", "unavailable")
    assert reserve(ledger, "rk_4", "", per_run=2) == "reserved"


def test_of_writes_that_come_together_no_more_than_the_limit_get_through(ledger: Ledger) -> None:
    def one(n: int) -> bool:
        try:
            return reserve(ledger, f"rk_{n}", "", run=f"run-{n}", per_agent_and_day=3) == "reserved"
        except ToolRefusal:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(12))) == 3
