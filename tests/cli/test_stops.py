"""The off switches at a terminal: what `kill`, `unkill`, `switches`, `pause`, `resume` and `control` say, and how they end."""

import re
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cli.test_cli import park_note
from tests.console import Console, DevEngine


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Generator[Console]:
    """A `remit dev` of these tests' own, for they stop everything."""
    found = DevEngine(tmp_path_factory.mktemp("stops") / ".remit")
    yield found.console
    found.stop()


def rows(console: Console) -> list[str]:
    return [row["scope"] for row in console.remit("switches", "--json").json]


def test_a_fleet_is_stopped_and_let_go_by_two(own: Console) -> None:
    """Kill, a second person, and what the log says of it all."""
    run_id = park_note(own)
    lines = own.remit("kill", "--fleet", "--reason", "Wrong prices.", "--as", "ana").out.splitlines()
    assert re.fullmatch(
        r"The whole fleet is killed; acknowledged .*Z, epoch \d+\. No write of it can start any more\.", lines[0]
    )
    assert lines[1:] == [
        "1 of 1 open runs told.",
        "0 writes were in flight.",
        "0 writes were reserved after it, as the ledger counts.",
    ]
    look = f'remit show {run_id} --json | grep -q \'"status": "killed"\''
    own.sh(f"for i in $(seq 100); do {look} && exit 0; sleep 0.1; done; exit 1")
    assert "Wrong prices." in own.remit("switches").out
    refused = own.remit(
        "run", "support-triage", "--inputs", '{"ticket_id": "T-1011"}', "--script", "demo/scripts.json#t-1011", code=1
    )
    assert (
        refused.err
        == "remit: No run may begin: a kill switch was set on the whole fleet by ana, as `remit switches` says: Wrong prices.\n"
    )
    first = own.remit("unkill", "--fleet", "--as", "ana", "--reason", "They are right.", code=1)
    assert (
        first.out == "ana@example.com has signed; the whole fleet stays stopped until one more person signs, within an hour.\n"
    )
    again = own.remit("unkill", "--fleet", "--as", "ana", "--reason", "They are right.", code=1)
    assert again.err == "remit: `ana@example.com` has signed already; somebody else must.\n"
    assert rows(own) == ["fleet"]
    assert own.remit("unkill", "--fleet", "--as", "bo", "--reason", "So they are.").out.startswith(
        "The whole fleet may go on, says bo@example.com; epoch "
    )
    assert own.remit("switches").out == "No switches.\n"
    log = own.remit("switches", "--all", "--json").json["log"]
    assert [(x["action"], x["by"]) for x in log] == [
        ("kill", "ana"),
        ("ask", "ana@example.com"),
        ("unkill", "bo@example.com"),
    ]


def test_tools_and_risks_leave_runs_open(own: Console) -> None:
    """A switch on a tool or on all writes says that the runs go on."""
    out = own.remit("kill", "--risk", "writes", "--reason", "Books are closed.").out
    assert out.startswith("All writes are killed; acknowledged ")
    assert "Runs go on; their calls in its scope are refused.\n" in out
    assert rows(own) == ["risk:low"]
    own.remit("unkill", "--risk", "writes", "--as", "ana", "--reason", "Open again.")


def test_a_drill_stops_nothing(own: Console) -> None:
    """It says how long it took, leaves the run as it was, and is in the log with its figure."""
    run_id = park_note(own)
    found = own.remit("kill", "--fleet", "--drill", "--reason", "Weekly.", "--json").json
    assert (found["scope"], found["drill"], found["told"]) == ("drill:fleet", True, 1)
    assert "it would have taken effect within " in own.remit("kill", "--fleet", "--drill", "--reason", "Weekly.").out
    assert (rows(own), own.remit("show", run_id, "--json").json["status"]) == ([], "waiting_for_approval")
    assert "took effect after " in own.remit("switches", "--all").out
    own.remit("kill", run_id, "--reason", "Tidy.")


def test_a_run_is_parked_and_goes_on(own: Console) -> None:
    """Pause and resume by name; what isn't paused can't be resumed."""
    run_id = park_note(own)
    assert own.remit("pause", run_id, "--reason", "A look.").out.startswith(f"{run_id} is paused, epoch ")
    assert "A look." in own.remit("show", run_id).out
    assert own.remit("resume", run_id, "--reason", "Fine.").out.startswith(f"{run_id} is resumed, epoch ")
    again = own.remit("resume", run_id, "--reason", "Fine.", code=1)
    assert again.err == f"remit: {run_id} isn't paused; nothing was changed.\n"
    out = own.remit("control").out
    assert "1 pause, " in out
    assert "0 wait" in out
    own.remit("kill", run_id, "--reason", "Tidy.")


ONE = "Name one thing: a RUN, or one of `--agent`, `--tool`, `--risk`, `--subject` and `--fleet`."


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["kill", "--reason", "x"], ONE),
        (["kill", "--fleet", "--agent", "a", "--reason", "x"], ONE),
        (["kill", "--fleet", "--reason", " "], "`--reason` is empty; say why it is stopped."),
        (["kill", "--risk", "huge", "--reason", "x"], "`huge` is no risk; it is one of low, medium, high, critical."),
        (
            ["kill", "--agent", "", "--reason", "x"],
            "`agent:` is no scope; give `run:ID`, `agent:NAME`, `tool:NAME`, `risk:LEVEL`, `subject:REF` or `fleet`.",
        ),
        (
            ["unkill", "--agent", "a", "--as", "ana", "--reason", "x"],
            "There is no kill switch on agent `a`; `remit switches` lists those there are.",
        ),
        (["pause", "nothing", "--reason", "x"], "There is no run `nothing`; `remit runs` lists them."),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(own: Console, args: list[str], sentence: str) -> None:
    """One sentence on stderr, and 1."""
    assert own.remit(*args, code=1).err == f"remit: {sentence}\n"


def test_a_person_without_a_role_releases_nothing(own: Console) -> None:
    """Sam may ask for runs, and decide nothing."""
    own.remit("kill", "--agent", "incident-assistant", "--reason", "x")
    refused = own.remit("unkill", "--agent", "incident-assistant", "--as", "sam", "--reason", "x", code=1)
    assert refused.err == "remit: `sam@example.com` has no role, and so may not sign for this.\n"
    own.remit("unkill", "--agent", "incident-assistant", "--as", "ana", "--reason", "x")


def test_without_a_fleet_there_is_nothing_to_show(own: Console, tmp_path: Path) -> None:
    """`control` of workers that never were."""
    own.env["REMIT_TASK_QUEUE"] = "nobody"
    try:
        answer = own.remit("control", code=1)
    finally:
        del own.env["REMIT_TASK_QUEUE"]
    assert answer.err == "remit: There is no `FleetControl` yet; the first command to the fleet starts it.\n"
