"""`remit demo`, as it is run by people and by CI: its evidence, its JSON, and that nothing of it stays behind."""

import re
import signal
import subprocess
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, JsonValue

from remit.settings import ROOT
from tests.backtestbench import looser
from tests.console import BIN, Console

SCENARIOS = {
    "auto_refund",
    "one_approval",
    "two_approvals",
    "rejected",
    "other_customer",
    "prompt_injection",
    "loop_stopped",
    "worker_killed_once_only",
    "run_killed",
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Decided(Strict):
    approval_id: str
    required: int
    approvers: list[str]
    status: str


class Run(Strict):
    run_id: str
    workflow_id: str
    agent: str
    ticket_id: str
    outcome: str
    stopped_by: str
    refund_cents: int
    approvals: list[Decided]
    tool_calls: int
    cost_usd: float


class Refund(Strict):
    invoice_id: str
    customer_id: str
    amount_cents: int
    idempotency_key: str
    run_id: str


class Sandbox(Strict):
    refunds: list[Refund]


class Scenario(Strict):
    holds: bool
    evidence: dict[str, JsonValue]


class Report(Strict):
    model: str
    runs: list[Run]
    sandbox: Sandbox
    scenarios: dict[str, Scenario]


@dataclass(frozen=True)
class Kept:
    """A demo that stays up: what it reported, and a terminal in which its `REMIT_HOME` is set."""

    report: Report
    console: Console


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Generator[Kept]:
    """`remit demo --keep --json`, started in an empty folder with foreign settings around it, and ended by Ctrl-C."""
    folder, said = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("said")
    foreign = {"REMIT_ENV": "production", "REMIT_LEDGER_URL": "nonsense://", "TEMPORAL_ADDRESS": "127.0.0.1:9"}
    with (said / "out").open("wb") as out, (said / "err").open("wb") as err:
        argv = [str(BIN / "remit"), "demo", "--keep", "--json"]
        child = subprocess.Popen(argv, cwd=folder, env=Console(folder, foreign).env, stdout=out, stderr=err)
    end = time.monotonic() + 170
    while not (home := re.search(r"export REMIT_HOME=(.*)", (said / "err").read_text())):
        assert child.poll() is None and time.monotonic() < end, (said / "err").read_text()
        time.sleep(0.2)
    yield Kept(Report.model_validate_json((said / "out").read_text()), Console(ROOT, {"REMIT_HOME": home[1]}))
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 0
    assert list(folder.iterdir()) == []
    assert not Path(home[1]).exists()


@pytest.fixture(scope="module")
def report(demo: Kept) -> Report:
    """What it reported."""
    return demo.report


def test_every_scenario_holds(report: Report) -> None:
    """All nine scenarios are there and hold."""
    assert set(report.scenarios) == SCENARIOS
    assert {name: s.evidence for name, s in report.scenarios.items() if not s.holds} == {}


def test_the_whole_queue_was_worked_through(report: Report) -> None:
    """At least 24 tickets, by three agents, each closed with an outcome."""
    assert len(report.runs) >= 24
    assert {r.agent for r in report.runs} == {"billing-resolution", "incident-assistant", "support-triage"}
    assert {r.outcome for r in report.runs} == {"completed", "escalated", "stopped", "killed"}


def test_every_refund_belongs_to_one_run(report: Report) -> None:
    """Each refund of the business carries the key of exactly one run, and no run has more than its limits."""
    refunds = report.sandbox.refunds
    assert len({r.idempotency_key for r in refunds}) == len(refunds) > 3
    assert {r.run_id for r in refunds} <= {r.run_id for r in report.runs}
    assert sum(r.refund_cents for r in report.runs) == sum(r.amount_cents for r in refunds)
    assert all(r.tool_calls <= 20 for r in report.runs)


def test_large_refunds_have_their_approvers(report: Report) -> None:
    """No run moved $50 or more without one approver, nor more than $500 without two different ones."""
    for run in report.runs:
        people = {who for a in run.approvals if a.status == "consumed" for who in a.approvers}
        assert run.refund_cents < 5000 or people
        assert run.refund_cents <= 50000 or len(people) >= 2


def test_the_demo_says_that_its_model_is_scripted(report: Report) -> None:
    """Nobody may take the demo's figures for a real model's."""
    assert report.model == "scripted"


def test_policies_and_runs_of_the_demo_can_be_tried_again(demo: Kept, tmp_path: Path) -> None:
    """A backtest over all that its agents did, a fork of a run, and what its people decided as an evaluation set."""
    mine = ("--agent", "billing-resolution", "--json")
    end = time.monotonic() + 60
    while True:  # runs are sealed a moment after they have closed
        same = demo.console.remit("backtest", "--policy", "refunds_v7", *mine, code=None)
        exported = demo.console.remit("feedback", "export", code=None).out
        if '"rejected"' in exported and exported.count('"approved"') >= 2:
            break
        assert time.monotonic() < end, same
        time.sleep(0.5)
    assert same.code == 0 and same.json["drifted"] == 0 and same.json["judged"] > 20
    policy = looser(tmp_path)
    text = (policy / "policy.cedar").read_text()
    (policy / "policy.cedar").write_text(text.replace(">= 20000", ">= 30000"))
    other = demo.console.remit("backtest", "--policy", str(policy), *mine, code=1).json
    [rejected] = other["against_people"]
    assert (rejected["workflow_id"], rejected["by"]) == ("billing-resolution-T-1004", "ana@example.com")
    fork = ("fork", "billing-resolution-T-1004", "--at", "3", "--json")
    assert demo.console.remit(*fork).json["diverges_at"] is None
    diverges = demo.console.remit(*fork, "--policy", str(policy)).json["diverges_at"]
    assert (diverges["step"], diverges["differs"]) == (3, "approvals")


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGKILL of the demo takes its server and its worker with it."""
    console = Console(ROOT, {"TMPDIR": str(tmp_path)})
    child = subprocess.Popen(
        [str(BIN / "remit"), "demo"], env=console.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def alive() -> int:
        return len(console.run(["pgrep", "-f", str(tmp_path)], code=None).out.split())

    end = time.monotonic() + 60
    while alive() < 1 and time.monotonic() < end:
        time.sleep(0.1)
    assert alive() >= 1
    child.send_signal(signal.SIGKILL)
    child.wait()
    end = time.monotonic() + 30
    while alive() and time.monotonic() < end:
        time.sleep(0.1)
    assert alive() == 0
