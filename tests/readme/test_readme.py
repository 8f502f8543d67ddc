"""The README's own code, executed: what it shows is what happens."""

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest

from remit.settings import ROOT
from tests.console import Console, DevEngine
from tools.builtin import CATALOG
from tools.catalog import Catalog
from tools.connectors.sandbox import Sandbox, rows
from tools.spec import ToolContext
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
    """Run, inbox, approve, show and runs, as the README shows them."""
    dev = DevEngine(tmp_path / ".remit")
    try:
        lines = block("session").splitlines()
        # A person types slower than a run parks.
        parked = "for i in $(seq 100); do remit inbox | grep -q first && break; sleep 0.1; done"
        out = dev.console.sh("\n".join([lines[0], parked, *lines[1:]])).out
    finally:
        dev.stop()
    assert "ap-3-0 is approved." in out
    assert "Double charge, seen on the bank statement." in out


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


def test_change_a_threshold(copy: Path) -> None:
    """A copied bundle with another number passes the check, and decides by it."""
    console = Console(copy, {"PYTHONPATH": str(copy)})
    script = block("threshold").replace("remit ", f"{sys.executable} -m remit.cli ")
    assert "The bundle is in order." in console.sh(script).out
    assert ">= 2000 " in (copy / "policies/bundles/refunds_v8/policy.cedar").read_text()
    assert 'policy = "refunds_v8"' in (copy / "agents/billing-resolution/agent.toml").read_text()


async def test_add_a_tool(tmp_path: Path) -> None:
    """The thirty lines are a tool: it registers, its rules refuse, and it writes once per key."""
    code = block("tool")
    assert len(code.splitlines()) <= 45
    file = tmp_path / "callbacks.py"
    file.write_text(code)
    found = importlib.util.spec_from_file_location("readme_callbacks", file)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules["readme_callbacks"] = module
    found.loader.exec_module(module)
    spec = (CATALOG + Catalog.of(module)).get("request_callback")
    sandbox = Sandbox.create(
        tmp_path / "b.db", {"customers": [{"customer_id": "cus_1", "name": "A", "email": "a@example.com", "plan": "pro"}]}
    )
    context = ToolContext(subject="Customer:cus_1", connectors={Support: sandbox}, idempotency_key="k")
    args = spec.parse('{"customer_id": "cus_1", "phone": "+15550100200"}')
    assert [await spec.run(args, context), await spec.run(args, context)] == [await spec.run(args, context)] * 2
    assert len(rows(tmp_path / "b.db", "account_notes")) == 1
    facts = await spec.facts(args, context) if spec.facts else None
    assert facts
    assert facts.owner == "Customer:cus_1"
    assert spec.rules
    with pytest.raises(Exception, match="Premium numbers aren't called back"):
        spec.rules(spec.parse('{"customer_id": "cus_1", "phone": "+19005550100"}'), facts)


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
    named = set(re.findall(r"`?remit ([a-z]+)", block("session") + "\n" + "\n".join(re.findall(r"`(remit [^`]+)`", README))))
    assert known
    assert named <= known
