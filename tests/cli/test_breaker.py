"""`remit breaker` at a terminal: its rules with their values, what it did, and what a person may say to that."""

import time
from collections.abc import Generator
from pathlib import Path

import pytest

from activities.ledger import breaker
from activities.ledger.rows import TripRecord
from activities.ledger.store import Ledger
from policies.anomaly import Figures, Rule
from remit.settings import ROOT
from tests.console import Console

AGENT = "billing-resolution"
RULE = Rule(measure="moved_cents", window_minutes=60, limit=1000, action="step_down")


@pytest.fixture
def ledger(tmp_path: Path) -> Generator[Ledger]:
    """A ledger of an agent that was stepped down."""
    found = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    found.migrate()
    with found.begin() as connection:
        breaker.step_down(connection, AGENT, "draft", "moved_cents was 4900 within 60 min, above 1000", "breaker")
        trip = TripRecord(
            id="t1",
            agent=AGENT,
            rule=RULE.model_dump_json(),
            action="step_down",
            figures=Figures(moved_cents=4900).model_dump_json(),
            value=4900,
            since=0,
            mode_before="live",
            mode_after="draft",
            at=int(time.time() * 1000),
        )
        breaker.record(connection, trip)
    yield found
    found.close()


@pytest.fixture
def alone(ledger: Ledger, tmp_path: Path) -> Console:
    """A terminal with that ledger and no server."""
    del ledger
    where = {"REMIT_LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}", "TEMPORAL_ADDRESS": "127.0.0.1:1"}
    return Console(ROOT, {"REMIT_HOME": str(tmp_path / "home"), **where})


def test_it_shows_rules_trips_and_who_is_stepped_down(alone: Console) -> None:
    """Each rule of the bundle with its value now; the trip with the numbers that caused it."""
    out = alone.remit("breaker").out
    assert f"{AGENT} may do no more than `draft` since " in out
    assert f"{AGENT}, moved_cents 4900 above 1000: live to draft\n" in out
    found = alone.remit("breaker", "--agent", AGENT, "--json").json
    assert [r["agent"] for r in found["rules"]] == [AGENT] * len(found["rules"])
    assert {r["rule"]["measure"] for r in found["rules"]} >= {"moved_cents", "error_rate"}
    [trip] = found["trips"]
    assert (trip["rule"]["limit"], trip["figures"]["moved_cents"], trip["put_back_at"]) == (1000, 4900, None)


def test_what_cannot_be_done_is_said(alone: Console) -> None:
    """No such agent, no reason, no server: one sentence each, and nothing is changed."""
    assert "There is no agent `nobody`" in alone.remit("breaker", "--agent", "nobody", code=1).err
    assert "`--reason` is empty" in alone.remit("breaker", "put-back", AGENT, "--as", "ana", "--reason", " ", code=1).err
    away = alone.remit("breaker", "put-back", AGENT, "--as", "ana", "--reason", "Fine.", code=1)
    assert away.err.startswith("remit: No Temporal server answers at `127.0.0.1:1`")
    assert "may do no more than `draft`" in alone.remit("breaker").out


def test_an_agent_to_which_nothing_was_done_stays_as_it_is(console: Console) -> None:
    """Nobody signs for nothing."""
    found = console.remit("breaker", "put-back", "support-triage", "--as", "ana", "--reason", "Just so.", code=1)
    assert found.err == "remit: The breaker has done nothing to `support-triage` that isn't settled; nothing was changed.\n"
