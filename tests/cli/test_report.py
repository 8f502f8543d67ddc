"""`remit report` over a ledger without an engine: what it prints, writes, and refuses."""

import contextlib
import io
import json
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from activities.ledger import records
from activities.ledger.rows import RunRecord
from activities.ledger.store import Ledger
from activities.ledger.switches import now_ms
from policies.errors import NotFound, Unavailable
from remit.agents import print_agents
from remit.report import made
from remit.settings import ROOT, Settings
from tests.console import Console


@pytest.fixture
def ledger(tmp_path: Path) -> Generator[Ledger]:
    found = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    found.migrate()
    yield found
    found.close()


@pytest.fixture
def console(tmp_path: Path, ledger: Ledger) -> Console:
    return Console(ROOT, {"REMIT_HOME": str(tmp_path)})


@pytest.fixture
def settings(tmp_path: Path, ledger: Ledger) -> Settings:
    """Those of a command beside the ledger, in this process."""
    del ledger
    return Settings(home=tmp_path)


def run(ledger: Ledger, name: str, agent: str = "billing-resolution", outcome: str = "completed") -> None:
    """A run that ended just now."""
    texts = dict.fromkeys(("release", "policy_version", "subject_tag"), "")
    times = {"started_at": now_ms() - 5000, "closed_at": now_ms()}
    fields = {"run_id": name, "workflow_id": name, "agent": agent, "arm": "agent", "mode": "live", "outcome": outcome}
    with ledger.begin() as connection:
        assert records.keep(connection, RunRecord.model_validate({**texts, **times, **fields, "cost_micro_usd": 20_000}))


def test_a_report_is_a_table_json_and_a_page(console: Console, ledger: Ledger, tmp_path: Path) -> None:
    """The same figures each time, with the assumptions of the agents' own files; what can't be had is one sentence."""
    run(ledger, "a")
    run(ledger, "b", outcome="escalated")
    run(ledger, "c", "support-triage")
    said = console.remit("report").out
    assert "50 % (1 of 2; 95 %: 9 to 91 %)" in said
    assert "Assumed in `agent.toml`: a completed run saves 12 min at $0.75;" in said
    page = tmp_path / "report.html"
    (agent,) = console.remit("report", "--agent", "support-triage", "--json", "--html", str(page)).json["agents"]
    assert (agent["agent"], agent["all_runs"]["cost_per_completed_micro_usd"]) == ("support-triage", 20_000)
    assert '<h2 id="agent-1">support-triage</h2>' in page.read_text()
    nobody = console.remit("report", "--agent", "nobody", code=1)
    assert (nobody.out, nobody.err) == ("", "remit: There is no agent `nobody`; `remit agents` lists them.\n")
    missing = tmp_path / "none" / "report.html"
    refused = console.remit("report", "--html", str(missing), code=1).err
    assert refused == f"remit: {missing} can't be used: No such file or directory.\n"


def test_an_agent_that_is_gone_is_reported_all_the_same(settings: Settings, ledger: Ledger) -> None:
    """Its runs are in the ledger; what they were worth, nobody says any more."""
    run(ledger, "a", "retired")
    (found,) = made(settings, "7d", "retired").agents
    assert (found.agent, found.known, found.all_runs.runs) == ("retired", None, 1)


def test_a_report_says_what_a_bundle_makes_of_the_cost(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    """The lower of both ceilings, and what follows for new runs; `remit agents` shows the same."""
    agents, bundles = tmp_path / "app" / "agents", tmp_path / "app" / "policies" / "bundles"
    shutil.copytree(ROOT / "agents" / "support-triage", agents / "mine")
    shutil.copytree(ROOT / "policies" / "bundles" / "support_v1", bundles / "mine_v1")
    file = agents / "mine" / "agent.toml"
    file.write_text(file.read_text().replace("support-triage", "mine").replace("support_v1", "mine_v1"))
    with (bundles / "mine_v1" / "limits.toml").open("a") as limits:
        limits.write("\n[outcome]\nceiling_micro_usd = 15_000\nminimum = 1\n")
    run(ledger, "a", "mine")
    own = settings.model_copy(update={"app": tmp_path / "app"})
    known = made(own, "7d", None).agents[0].known
    assert known and (known.spending, known.ceiling_micro_usd) == ("cheaper", 15_000)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_agents(own, as_json=True)
    shown = {a["name"]: a["outcome"] for a in json.loads(out.getvalue())}
    assert (shown["mine"]["spending"], shown["mine"]["micro_usd"], shown["support-triage"]) == ("cheaper", 20_000, None)


def test_a_period_without_runs_is_refused(settings: Settings) -> None:
    """There is nothing to report, and no page of zeros."""
    with pytest.raises(NotFound, match=r"^No run of `support-triage` ended since .*Z, so there is nothing to report\.$"):
        made(settings, "7d", "support-triage")
    with pytest.raises(NotFound, match=r"^No run ended since "):
        made(settings, "7d", None)


def test_without_a_ledger_there_is_no_report(settings: Settings, tmp_path: Path) -> None:
    """The sentence says who makes one."""
    with pytest.raises(Unavailable, match="There is no ledger at .* yet; `remit dev` or a worker makes it"):
        made(settings.model_copy(update={"home": tmp_path / "other"}), "7d", None)
