"""`remit agents` by subprocess: what people made of proposals, from a ledger of each kind, and without one."""

from collections.abc import Generator
from pathlib import Path

import pytest

from activities.ledger import proposals
from activities.ledger.rows import ProposalRecord
from activities.ledger.store import Ledger
from activities.ledger.switches import now_ms
from remit.settings import ROOT
from tests.console import Console
from tests.postgres import PostgresServer

MONTH_MS = 30 * 86_400_000


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.database()
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Generator[Ledger]:
    """A ledger of this version."""
    found = Ledger(url)
    found.migrate()
    yield found
    found.close()


def keep(ledger: Ledger, agent: str, *decisions: str, before_ms: int = 0) -> None:
    at = now_ms() - before_ms
    with ledger.begin() as connection:
        for n, decision in enumerate(decisions):
            row = ProposalRecord(
                run_id=f"{agent}-{before_ms}",
                action_digest=f"sha256:{n:064}",
                workflow_id="wf",
                agent=agent,
                tool="tag_ticket@1",
                put_at=at - 1000,
                decided_at=at,
                decision=decision,
                by="ana@example.com",
            )
            assert proposals.keep(connection, row)


def test_the_accepted_rate_is_shown_and_a_low_one_flagged(ledger: Ledger, url: str, tmp_path: Path) -> None:
    """Of the last thirty days, by agent; an expired proposal was put and not decided, an edited one not accepted."""
    keep(ledger, "support-triage", *["approved"] * 6, *["rejected"] * 3, "edited", "expired")
    keep(ledger, "billing-resolution", *["approved"] * 7, *["rejected"] * 3)
    keep(ledger, "incident-assistant", *["rejected"] * 20, before_ms=MONTH_MS + 60_000)
    console = Console(ROOT, {"REMIT_HOME": str(tmp_path / "home"), "REMIT_LEDGER_URL": url, "COLUMNS": "400"})
    shown = {line.split()[0]: line for line in console.remit("agents").out.splitlines() if line.strip()}
    assert "11         6 of 10, 60 %: under 70 %" in shown["support-triage"]
    assert "10         7 of 10, 70 %  " in shown["billing-resolution"]
    assert " %" not in shown["incident-assistant"]
    found = {a["name"]: (a["mode"], a["proposals"]) for a in console.remit("agents", "--json").json}
    assert found["support-triage"] == (
        "live",
        {
            "days": 30,
            "put": 11,
            "accepted": 6,
            "edited": 1,
            "rejected": 3,
            "expired": 1,
            "accepted_rate": 0.6,
            "flagged": True,
        },
    )
    assert not found["billing-resolution"][1]["flagged"]
    assert (found["incident-assistant"][1]["put"], found["incident-assistant"][1]["accepted_rate"]) == (0, None)


def test_agents_are_listed_without_a_ledger(tmp_path: Path) -> None:
    """What isn't known is said, and isn't taken for nothing."""
    console = Console(ROOT, {"REMIT_HOME": str(tmp_path / "home"), "REMIT_LEDGER_URL": f"sqlite:///{tmp_path}/none.db"})
    said = console.remit("agents").out
    assert "billing-resolution" in said
    assert f"What people made of proposals isn't known here: There is no ledger at `{tmp_path}/none.db` yet; " in said
    assert {a["proposals"] for a in console.remit("agents", "--json").json} == {None}
