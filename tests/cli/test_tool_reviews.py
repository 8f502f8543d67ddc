"""`remit tools review`, `approve` and `withdraw` by subprocess, with an app of the test's own; no server is needed."""

import shutil
from pathlib import Path

import pytest

from activities.ledger.store import Ledger
from remit.settings import ROOT
from tests.console import Console

WHY = ("--reason", "Read its code and its tests.")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A copy of the app `desk`, whose live agent closes cases."""
    folder = tmp_path / "desk"
    shutil.copytree(ROOT / "tests" / "apps" / "desk", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def console(tmp_path: Path, app: Path) -> Console:
    """A terminal with that app and a home of its own, in which there is no ledger yet."""
    return Console(ROOT, {"REMIT_HOME": str(tmp_path / "home"), "REMIT_APP": str(app), "COLUMNS": "300"})


def test_a_checkout_without_a_ledger_knows_what_ships(tmp_path: Path, app: Path, console: Console) -> None:
    """The built-in tools are reviewed by their release, an app's by nobody: `--check` says so without a server or a ledger."""
    found = console.remit("tools", "review", "--check", code=1)
    assert found.err == "remit: `desk-closer` is live, and its tool `close_case` is never reviewed.\n"
    agent = app / "agents" / "desk-closer" / "agent.toml"
    agent.write_text(agent.read_text().replace('mode = "live"', 'mode = "draft"'))
    said = "Every tool with which an agent in `live` mode writes is as it was reviewed.\n"
    assert console.remit("tools", "review", "--check").out == said
    shown = console.remit("tools", "review").out
    assert "request_refund@1  reviewed by the release (" in shown
    assert "close_case@1  NEVER REVIEWED" in shown
    assert "amount_cents integer above 0 to 1000000" in shown
    assert "There is no ledger at" in shown
    assert not (tmp_path / "home").exists()


def test_a_review_is_signed_shown_and_ended_by_a_change(tmp_path: Path, app: Path, console: Console) -> None:
    """Approved, it is as reviewed; changed, `review`, `--check` and `agents` say what is different; withdrawn, who did it."""
    assert "There is no ledger at" in console.remit("tools", "approve", "close_case", "--as", "ana", *WHY, code=1).err
    ledger = Ledger(f"sqlite:///{tmp_path / 'home' / 'ledger.db'}")
    ledger.migrate()
    ledger.close()
    assert (
        "close_case@1 is reviewed by ana@example.com"
        in console.remit("tools", "approve", "close_case", "--as", "ana", *WHY).out
    )
    assert console.remit("tools", "review", "--check", "--json").json == {"ok": True, "unreviewed": []}
    file = app / "tools" / "billing.py"
    file.write_text(file.read_text().replace("Field(ge=0)", "Field(ge=0, le=900)"))
    found = console.remit("tools", "review", "--check", code=1)
    assert found.err == (
        "remit: `desk-closer` is live, and its tool `close_case` is changed since its review: arguments, code.\n"
    )
    row = next(r for r in console.remit("tools", "review", "--json").json if r["name"] == "close_case")
    assert (row["review"]["state"], row["review"]["by"], row["tests"]) == ("changed", "ana@example.com", [])
    assert row["arguments"]["properties"]["credit_cents"]["maximum"] == 900
    said = "desk-closer isn't offered close_case: changed since its review"
    assert said in console.remit("agents").out
    assert "remit kill --tool close_case" in console.remit("tools", "withdraw", "close_case", "--as", "bo", *WHY).out
    out = console.remit("tools", "review").out
    assert "its review was WITHDRAWN by bo@example.com" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("close_case", "--as", "sam", *WHY), "`sam@example.com` may not review tools; that takes a role."),
        (("get_ticket", "--as", "ana", *WHY), "`get_ticket` reads; only tools that write are reviewed."),
        (("no_tool", "--as", "ana", *WHY), "There is no tool `no_tool`; `remit tools` lists them."),
        (("close_case", "--as", "ana", "--reason", " "), "`--reason` takes 1 to 500 characters that say why."),
        (("close_case", *WHY), "Say who decides with `--as`"),
    ],
)
def test_what_can_t_be_reviewed_is_refused(console: Console, arguments: tuple[str, ...], sentence: str) -> None:
    """Each in one sentence."""
    assert sentence in console.remit("tools", "approve", *arguments, code=1).err


def test_the_roles_that_review_can_be_set(console: Console) -> None:
    """`REMIT_REVIEW_ROLES` names them."""
    console.env["REMIT_REVIEW_ROLES"] = "tool-owner, security"
    found = console.remit("tools", "approve", "close_case", "--as", "ana", *WHY, code=1)
    assert found.err == "remit: `ana@example.com` may not review tools; that takes tool-owner or security.\n"
