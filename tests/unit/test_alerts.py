"""The alert rules, judged by promtool; each has a page in docs/runbooks, and the pages' commands exist."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from remit.cli import app
from remit.gauges import GAUGE_NAMES
from remit.metrics import ACTIVITY_NAMES, BUCKETS
from remit.settings import ROOT
from tests.prometheus import DEPLOY, binary
from workflows.counts import NAMES as COUNTED

RUNBOOKS = ROOT / "docs" / "runbooks"
RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
CASES = ("alerts_test.yml", "alerts_days_test.yml")
WANTED = {
    "RemitRefundDuplicated",
    "RemitAgentLoops",
    "RemitAgentTooCautious",
    "RemitBudgetBurst",
    "RemitEffectIndeterminate",
    "RemitApprovalBacklog",
    "RemitKillDrillFailed",
}


def promtool(*arguments: str, folder: Path = DEPLOY) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary("promtool"), *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml"), *(("test", "rules", name) for name in CASES)],
)
def test_prometheus_takes_what_ships(arguments: tuple[str, ...]) -> None:
    """The rules, the configuration, and when each alert fires and when not, as Prometheus' own tool sees it."""
    ran = promtool(*arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_alert_is_tried() -> None:
    """There is a case in which it fires and one in which it doesn't, for each alert that was asked for, and all others."""
    names = {rule["alert"] for rule in RULES}
    assert names >= WANTED
    fires: dict[str, set[bool]] = {name: set() for name in names}
    for case in (case for name in CASES for case in yaml.safe_load((DEPLOY / name).read_text())["tests"]):
        for tried in case["alert_rule_test"]:
            fires[tried["alertname"]].add(bool(tried["exp_alerts"]))
            # Where some agents are in trouble, the others of the case are those for which it mustn't fire.
            agents = {m[1] for s in case["input_series"] if (m := re.search(r'agent="(\w+)"', s["series"]))}
            if 0 < len(tried["exp_alerts"]) < len(agents):
                fires[tried["alertname"]].add(False)
    assert fires == {name: {True, False} for name in names}


def test_a_rule_that_is_changed_is_noticed(tmp_path: Path) -> None:
    """A threshold that moves fails the cases: they aren't only there to be read."""
    shutil.copytree(DEPLOY, tmp_path / "d")
    rules = tmp_path / "d" / "alerts.yml"
    rules.write_text(rules.read_text().replace("max(remit_effects_duplicated) > 0", "max(remit_effects_duplicated) > 1"))
    ran = promtool("test", "rules", "alerts_test.yml", folder=tmp_path / "d")
    assert ran.returncode != 0
    assert "RemitRefundDuplicated" in ran.stdout + ran.stderr


def test_each_alert_has_its_page() -> None:
    """The page that an alert links to exists and names it; and there is no page that no alert, or drill, leads to."""
    pages = {rule["annotations"]["runbook_url"] for rule in RULES}
    for rule in RULES:
        page = ROOT / rule["annotations"]["runbook_url"]
        assert f"`{rule['alert']}`" in page.read_text(), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
    assert {f"docs/runbooks/{p.name}" for p in RUNBOOKS.glob("*.md")} == {*pages, "docs/runbooks/kill-drill.md"}


def test_the_documentation_lists_every_metric_and_alert() -> None:
    """Its tables name what is exported, with its labels' names where they are ours, and each alert; and nothing else."""
    text = (ROOT / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `((?:remit|gen_ai)_\w+)` \| (\w+) \|", text, re.MULTILINE)
    kinds = {
        **dict.fromkeys({**COUNTED, **ACTIVITY_NAMES}, "counter"),
        **dict.fromkeys(GAUGE_NAMES, "gauge"),
        **dict.fromkeys(BUCKETS, "histogram"),
    }
    assert dict(rows) == kinds
    assert {*re.findall(r"`(Remit\w+)`", text)} == {rule["alert"] for rule in RULES}


def commands() -> list[str]:
    """Each `remit` command of the runbooks: of their blocks, and between backticks."""
    found: list[str] = []
    for page in sorted(RUNBOOKS.glob("*.md")):
        text = page.read_text()
        found += re.findall(r"^ {4,}(remit .+)$", text, re.MULTILINE) + re.findall(r"`(remit [^`]+)`", text)
    return sorted({*found})


def unknown(command: str) -> str:
    """What of a command line the command line interface doesn't know; nothing when it knows all of it."""
    words = shlex.split(command, comments=True)[1:]
    here = typer.main.get_command(app)
    while words and (inner := getattr(here, "commands", {}).get(words[0])):
        here = inner
        words.pop(0)
    options = {name: p for p in here.params if p.param_type_name == "option" for name in (*p.opts, *p.secondary_opts)}
    room = sum(p.param_type_name == "argument" for p in here.params)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            room -= 1
            if room < 0:
                return word
        elif word not in options:
            return word
        elif not getattr(options[word], "is_flag", False) and words:
            words.pop(0)
    return ""


def test_each_command_of_the_runbooks_exists() -> None:
    """Their words lead to a command, which knows the options, and takes as many arguments."""
    found = commands()
    assert len(found) > 30
    assert {command: said for command in found if (said := unknown(command))} == {}


@pytest.mark.parametrize("command", ["remit stop RUN", "remit kill --all", "remit runs x", "remit effects resolve K J"])
def test_a_command_that_does_not_exist_is_noticed(command: str) -> None:
    """A page that tells of a command, an option or an argument that there isn't would be found."""
    assert unknown(command)
