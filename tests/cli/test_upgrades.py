"""`remit deploy` and `remit replay` by subprocess: what they show, and each refusal's sentence."""

import json
from pathlib import Path

import pytest

from remit import __version__
from remit.deployment import build_id
from remit.settings import ROOT, Settings
from tests.console import Console, DevEngine

STORED = ROOT / "tests" / "replay" / "histories" / "0.1.0"
SCRIPT = str(ROOT / "demo" / "scripts.json")


def test_deploy_shows_the_version_of_dev(dev: DevEngine, console: Console) -> None:
    """The code that `remit dev` runs is its only version, named by Remit's version and a digest, and gets all new runs."""
    [version] = console.remit("deploy", "--json").json["versions"]
    assert (version["build_id"], version["status"]) == (build_id(Settings()), "current")
    assert version["build_id"].startswith(f"{__version__}-")
    out = console.remit("deploy").out
    assert "Deployment remit" in out and "100 %" in out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--current", "nope"], "Deployment `remit` has no version `nope`: no worker of it has polled yet."),
        (["--ramp", "nope", "--percent", "5"], "Deployment `remit` has no version `nope`: no worker of it has polled yet."),
        (["--ramp", "newest", "--percent", "5"], "The Temporal server refused: requested ramping version"),
        (["--ramp", "nope"], "`--ramp BUILD` and `--percent N` go together."),
        (["--current", "a", "--move", "b"], "`--current`, `--ramp` and `--move` are three things; do one at a time."),
        (["--move", "nope"], "Deployment `remit` has no version `nope`; `remit deploy` lists those that there are."),
    ],
)
def test_deploy_refuses_with_a_sentence(console: Console, args: list[str], sentence: str) -> None:
    """Nothing is changed by what can't be done."""
    assert console.remit("deploy", *args, code=1).err.startswith(f"remit: {sentence}")


def test_deploy_knows_other_deployments_and_none(dev: DevEngine) -> None:
    """Unversioned workers, a deployment that no worker belongs to, and a name that Temporal doesn't take."""
    unversioned = Console(ROOT, {**dev.console.env, "REMIT_DEPLOYMENT": "none"})
    assert "These workers are unversioned (`REMIT_DEPLOYMENT=none`)" in unversioned.remit("deploy", code=1).err
    other = Console(ROOT, {**dev.console.env, "REMIT_DEPLOYMENT": "other"})
    assert "Deployment `other` has no versions: no versioned worker has polled yet." in other.remit("deploy", code=1).err
    elsewhere = Console(ROOT, {**dev.console.env, "REMIT_BUILD_ID": "other"})
    assert elsewhere.remit("deploy", "--move", build_id(Settings()), code=1).err == (
        "remit: The code here is version `other`, of which no worker has polled. Move runs with the code that they move to.\n"
    )
    odd = Console(ROOT, {**dev.console.env, "REMIT_TASK_QUEUE": "a.b"})
    assert "`a.b` can't name a Worker Deployment" in odd.remit("deploy", code=1).err


def test_dev_takes_over_the_runs_that_other_code_began(tmp_path: Path) -> None:
    """`remit dev` with new code is current at once, and a parked run goes on with it."""
    home = tmp_path / "home"
    first = DevEngine(home, build="one")
    try:
        inputs = json.dumps({"ticket_id": "T-1002"})
        first.console.remit(
            "run", "billing-resolution", "--id", "parked", "--inputs", inputs, "--script", f"{SCRIPT}#one_approval"
        )
    finally:
        assert first.stop() == 0
    second = DevEngine(home, build="two")
    try:
        assert "Run parked, which other code began, goes on with today's." in second.log.read_text()
        versions = second.console.remit("deploy", "--json").json["versions"]
        assert [(v["build_id"], v["open_runs"]) for v in versions] == [("two", 1), ("one", 0)]
        second.console.sh("until remit inbox | grep -q parked; do sleep 0.1; done; remit approve parked --as ana")
    finally:
        assert second.stop() == 0


def test_a_run_and_its_export_are_replayed(dev: DevEngine, console: Console, tmp_path: Path) -> None:
    """The run, the JSON that Temporal's own CLI exports of it, and all that a query finds."""
    inputs = json.dumps({"ticket_id": "T-1001"})
    console.remit(
        "run", "support-triage", "--id", "replayed", "--inputs", inputs, "--script", f"{SCRIPT}#auto_refund", "--wait"
    )
    assert console.remit("replay", "replayed").out.startswith("ok       replayed (")
    file = tmp_path / "export.json"
    file.write_text(console.sh("temporal workflow show --workflow-id replayed --output json").out)
    assert "1 replayed, 0 differ." in console.remit("replay", str(file)).out
    found = console.remit("replay", "--query", "WorkflowId = 'replayed'", "--json").json
    assert (found["replayed"], found["differ"], found["runs"][0]["workflow_id"]) == (1, 0, "replayed")


def test_replay_refuses_with_a_sentence(dev: DevEngine, console: Console, tmp_path: Path) -> None:
    """What isn't there, isn't a history, or isn't said."""

    def said(*args: str) -> str:
        return console.remit("replay", *args, code=1).err

    assert said() == "remit: Say what is replayed: a run, a file, or `--query QUERY`.\n"
    assert said("nobody") == "remit: There is no run `nobody`; `remit runs` lists them.\n"
    assert said("--query", "WorkflowId = 'nobody'") == "remit: The query finds no runs, so nothing was replayed.\n"
    assert "remit: The Temporal server refused: invalid query" in said("--query", "what?")
    assert "missing.json` can't be read: No such file or directory." in said(str(tmp_path / "missing.json"))
