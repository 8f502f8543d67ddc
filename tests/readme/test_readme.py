"""The README's own code, executed: what it shows is what happens."""

import re
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from policies.errors import ToolRefusal
from remit.apps import assemble
from remit.settings import ROOT, Settings
from tests.console import Console, DevEngine
from tools.connectors.sandbox import Sandbox, rows
from tools.spec import ToolContext
from tools.subjects import Subjects
from tools.support import Support

README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    """The fenced block of the README that is marked `<!-- test: name -->`."""
    found = re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)\n```", README, re.DOTALL)
    assert found, f"the README has no block `{name}`"
    return found[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project's own files, to be changed."""
    folder = tmp_path / "remit"
    names = ("activities", "agents", "demo", "policies", "remit", "tools", "workflows", "worker.py")
    for entry in names:
        source = ROOT / entry
        if source.is_dir():
            shutil.copytree(source, folder / entry, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / entry)
    return folder


def test_the_session(tmp_path: Path) -> None:
    """Run, inbox, approve, show and runs, and the proof of a run, as the README shows them."""
    dev = DevEngine(tmp_path / ".remit")
    try:
        lines = block("session").splitlines()
        # A person types slower than a run parks.
        parked = "for i in $(seq 100); do remit inbox | grep -q first && break; sleep 0.1; done"
        out = dev.console.sh("\n".join([lines[0], parked, *lines[1:]])).out
        done = "for i in $(seq 100); do remit show first | grep -q completed && break; sleep 0.1; done"
        proof = dev.console.sh(f"cd {tmp_path}\n{done}\n{block('verify')}").out
    finally:
        dev.stop()
    assert proof.rstrip().endswith("\nverified")
    assert "ap-3-0 is approved." in out
    assert "Double charge, seen on the bank statement." in out


def test_a_rollout(tmp_path: Path) -> None:
    """An agent that gets 1 % of the customers, a case of people's, and what became of it."""
    dev = DevEngine(tmp_path / ".remit")
    try:
        out = dev.console.sh(block("rollout")).out
    finally:
        dev.stop()
    assert "support-triage: running at 1 %" in out
    assert "Recorded for mine, arm " in out


def test_edit_what_waits(tmp_path: Path) -> None:
    """A refund of $740 becomes one of $300, which one other person approves."""
    dev = DevEngine(tmp_path / ".remit")
    try:
        start, edit, approve, show = block("edit").splitlines()
        waits = "for i in $(seq 100); do remit inbox | grep second | grep -q '{}' && break; sleep 0.1; done"
        done = "for i in $(seq 100); do remit show second | grep -q completed && break; sleep 0.1; done"
        script = [start, waits.format("ap-3-0 "), edit, waits.format("ap-3-0-1 "), approve, done, show]
        out = dev.console.sh("\n".join(script)).out
    finally:
        dev.stop()
    assert "ap-3-0-1 is approved." in out
    assert "ana@example.com: edit amount_cents=30000 Half of the month was used." in out
    assert [r["amount_cents"] for r in rows(dev.home / "business.db", "refunds")] == [30000]


def test_plain_temporal(tmp_path: Path) -> None:
    """Temporal's own command line starts, approves and reads a run; two people sign, and one refund happens."""
    dev = DevEngine(tmp_path / ".remit")
    try:
        script = block("temporal")
        parked = (
            "for i in $(seq 100); do temporal workflow query --workflow-id plain --type pending_approvals"
            " | grep -q ap-0-0 && break; sleep 0.1; done"
        )
        first = "temporal workflow query"
        out = dev.console.sh(script.replace(first, f"{parked}\n{first}", 1)).out
    finally:
        dev.stop()
    assert '"outcome":"completed"' in re.sub(r"\s", "", out)
    assert [r["amount_cents"] for r in rows(dev.home / "business.db", "refunds")] == [74000]


def test_by_the_clock(tmp_path: Path) -> None:
    """A drill and an agent on schedules, as the README makes them; the drill's next time is a Monday morning in Vienna."""
    dev = DevEngine(tmp_path / ".remit")
    try:
        out = dev.console.sh(block("schedules")).out
    finally:
        dev.stop()
    assert "morning is scheduled: support-triage, 0 6 * * 1-5 UTC; next at " in out
    assert "weekly-drill: kill drill, 0 7 * * 1 Europe/Vienna." in out


def test_change_a_threshold(copy: Path) -> None:
    """A copied bundle with another number passes the check, and decides by it."""
    console = Console(copy, {"PYTHONPATH": str(copy)})
    script = block("threshold").replace("remit ", f"{sys.executable} -m remit.cli ")
    assert "The bundle is in order." in console.sh(script).out
    assert ">= 2000 " in (copy / "policies/bundles/refunds_v8/policy.cedar").read_text()
    assert 'policy = "refunds_v8"' in (copy / "agents/billing-resolution/agent.toml").read_text()


def files(folder: Path, *names: str) -> Path:
    """Write the README's blocks into the files that they are for."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(block(name) + "\n")
    return folder / "my-app"


AGENT = (
    "my-app/tools/callbacks.py",
    "my-app/agents/callbacks/agent.toml",
    "my-app/agents/callbacks/prompt.md",
    "my-app/policies/bundles/callbacks_v1/policy.cedar",
    "my-app/policies/bundles/callbacks_v1/limits.toml",
    "my-app/scripts.json",
)
SHOP = ("my-app/tools/orders.py", "my-app/tools/cancel.py")


async def test_add_a_tool(tmp_path: Path) -> None:
    """The thirty lines are a tool: it registers, its rules refuse, and it writes once per key."""
    assert len(block(AGENT[0]).splitlines()) <= 45
    app = files(tmp_path, AGENT[0])
    assert "request_callback@1" in Console(tmp_path, {}).sh("remit tools --app my-app").out
    spec = assemble(Settings(app=app, home=tmp_path)).catalog.get("request_callback")
    customer = {"customer_id": "cus_1", "name": "A", "email": "a@example.com", "plan": "pro"}
    sandbox = Sandbox.create(tmp_path / "b.db", {"customers": [customer]})
    context = ToolContext(subject="Customer:cus_1", connectors={Support: sandbox}, idempotency_key="k")
    args = spec.parse('{"customer_id": "cus_1", "phone": "+15550100200"}')
    assert await spec.run(args, context) == await spec.run(args, context)
    assert len(rows(tmp_path / "b.db", "account_notes")) == 1
    assert spec.facts
    facts = await spec.facts(args, context)
    assert facts.owner == "Customer:cus_1"
    with pytest.raises(ToolRefusal, match="Premium numbers aren't called back"):
        spec.check(spec.parse('{"customer_id": "cus_1", "phone": "+19005550100"}'), facts)


def test_add_an_agent(tmp_path: Path) -> None:
    """The agent of the README runs from a folder of its own: its bundle asks a person, who lets the tool write once."""
    app = files(tmp_path, *AGENT)
    dev = DevEngine(tmp_path / ".remit", app=app)
    try:
        console = Console(tmp_path, {**dev.console.env, "REMIT_HOME": str(dev.home)})
        out = console.sh(block("app")).out
        assert "All bundles and agents are in order." in out
        assert "request_callback" in out
        reviewed = console.sh(block("review")).out
        assert "request_callback@1 is reviewed by cleo@example.com" in reviewed
        assert reviewed.endswith("is as it was reviewed.\n")
        console.sh("for i in $(seq 100); do remit inbox | grep -q abroad && exit 0; sleep 0.1; done; exit 1")
        assert rows(dev.home / "business.db", "account_notes") == []
        console.sh("remit approve abroad --as cleo")
        console.sh("for i in $(seq 100); do remit show abroad | grep -q completed && exit 0; sleep 0.1; done; exit 1")
    finally:
        dev.stop()
    assert [r["text"] for r in rows(dev.home / "business.db", "account_notes")] == ["Please call +4930555010."]


async def test_bring_your_own_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's connector serves the README's tool, and says whom a run about an order is for."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db, db:
        db.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, customer TEXT NOT NULL)")
        db.execute("CREATE TABLE cancellations (key TEXT PRIMARY KEY, order_id TEXT NOT NULL)")
        db.execute("INSERT INTO orders VALUES ('O-1', 'cus_1')")
    monkeypatch.setenv("SHOP_DB", str(tmp_path / "shop.db"))
    parts = assemble(Settings(app=files(tmp_path, *SHOP), home=tmp_path))
    subjects = parts.connectors[Subjects]
    assert isinstance(subjects, Subjects)
    assert [await subjects.subject_of("order", name) for name in ("O-1", "O-2")] == ["Customer:cus_1", None]
    spec = parts.catalog.get("cancel_order")
    context = ToolContext(subject="Customer:cus_1", connectors=parts.connectors, idempotency_key="k")
    args = spec.parse('{"order_id": "O-1"}')
    assert spec.facts
    assert (await spec.facts(args, context)).owner == "Customer:cus_1"
    assert not (await spec.facts(spec.parse('{"order_id": "O-2"}'), context)).exists
    assert await spec.run(args, context) == await spec.run(args, context)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        assert db.execute("SELECT order_id FROM cancellations").fetchall() == [("O-1",)]


def test_a_tool_that_is_looked_up(tmp_path: Path) -> None:
    """The README's example registers, and has what it says."""
    spec = assemble(Settings(app=files(tmp_path, "my-app/tools/labels.py"), home=tmp_path)).catalog.get("print_label")
    assert (spec.idempotency, spec.settle_seconds) == ("lookup", 10)
    assert spec.lookup


def test_links_lead_somewhere() -> None:
    """Every relative link of the README and of the documents names a file that exists."""
    for document in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_commands_that_are_named_exist() -> None:
    """Every `remit` command that the README names is one."""
    from typer.main import get_command

    from remit.cli import app

    known = set(getattr(get_command(app), "commands", {}))
    named = set(
        re.findall(r"`?remit ([a-z][a-z-]*)", block("session") + "\n" + "\n".join(re.findall(r"`(remit [^`]+)`", README)))
    )
    assert known
    assert named <= known
