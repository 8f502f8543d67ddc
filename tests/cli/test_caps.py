"""`remit caps` by subprocess, on a ledger of the test's own of each kind."""

from collections.abc import Generator
from pathlib import Path

import pytest

from activities.ledger import switches, usage
from activities.ledger.rows import Charge
from activities.ledger.store import Ledger
from policies.caps import Caps, ScopedCaps
from remit.settings import ROOT
from tests.console import Console
from tests.postgres import PostgresServer

SAID = """\
[fleet]
runs_per_minute = 30
on_cap = "refuse"

[agents.billing-resolution]
tool_calls_per_day = 3
moved_cents_per_day = { USD = 500000 }
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.database()
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Generator[Ledger]:
    """A ledger in which `billing-resolution` has made three calls."""
    found = Ledger(url)
    found.migrate()
    for n in range(3):
        wanted = Charge(key=f"k{n}", kind="tool", run_id="r", agent="billing-resolution")
        with found.begin() as connection:
            switches.lock(connection)
            usage.charge(connection, wanted, [ScopedCaps(scope="agent:billing-resolution", caps=Caps())])
    yield found
    found.close()


@pytest.fixture
def console(ledger: Ledger, url: str, tmp_path: Path) -> Console:
    file = tmp_path / "caps.toml"
    file.write_text(SAID)
    return Console(ROOT, {"REMIT_HOME": str(tmp_path / "home"), "REMIT_LEDGER_URL": url, "REMIT_CAPS": str(file)})


def test_caps_are_listed_with_what_is_used_and_left(console: Console) -> None:
    """As a table and as JSON, the fleet's last; what is used up says when there is room again."""
    rows = console.remit("caps", "--json").json
    assert [(r["scope"], r["cap"], r["limit"], r["used"], r["left"], r["on_cap"]) for r in rows] == [
        ("agent:billing-resolution", "tool_calls_per_day", 3, 3, 0, "wait"),
        ("agent:billing-resolution", "moved_cents_per_day.USD", 500_000, 0, 500_000, "wait"),
        ("fleet", "runs_per_minute", 30, 0, 30, "refuse"),
    ]
    assert [r["room_at"] is None for r in rows] == [False, True, True]
    lines = console.remit("caps").out.splitlines()
    assert lines[0].split("  ")[0] == "Whose"
    assert [line.split()[0] for line in lines[1:]] == ["agent:billing-resolution", "agent:billing-resolution", "fleet"]
    assert lines[1].split()[1:5] == ["tool_calls_per_day", "3", "3", "0"]
    assert [line.split()[-2:] for line in lines[2:]] == [["now", "wait"], ["now", "refuse"]]


def test_caps_of_one_agent_are_listed_with_the_fleets(console: Console) -> None:
    """An agent without any has the fleet's; one that doesn't exist is refused with one sentence."""
    assert [r["scope"] for r in console.remit("caps", "--agent", "support-triage", "--json").json] == ["fleet"]
    refused = console.remit("caps", "--agent", "nobody", code=1)
    assert refused.err == "remit: There is no agent `nobody`; `remit agents` lists them.\n"


def test_without_caps_there_is_nothing_to_list(console: Console) -> None:
    """Said in a sentence; as JSON it is an empty list."""
    bare = Console(console.cwd, {**console.env, "REMIT_CAPS": ""})
    assert bare.remit("caps").out.startswith("No caps are set; `[caps]`")
    assert bare.remit("caps", "--json").json == []


def test_a_file_of_caps_that_is_not_there_is_one_sentence(console: Console, tmp_path: Path) -> None:
    """Not a traceback, and not taken for a fleet without caps."""
    gone = Console(console.cwd, {**console.env, "REMIT_CAPS": str(tmp_path / "gone.toml")})
    refused = gone.remit("caps", code=1)
    assert refused.err == f"remit: `REMIT_CAPS` names `{tmp_path / 'gone.toml'}`, which can't be read; see docs/caps.md.\n"
