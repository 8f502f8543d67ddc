"""`remit schedule` at a terminal: what it says, how it ends, and what it refuses."""

import re
import uuid

import pytest
from typer.testing import CliRunner

from policies.errors import InvalidInput
from remit.cli import app
from tests.console import Console

BILLING = ["--agent", "billing-resolution", "--inputs", '{"ticket_id": "T-1001"}']
YEARLY = ["--cron", "0 0 1 1 *"]


def name() -> str:
    return f"weekly-{uuid.uuid4().hex[:8]}"


def test_a_schedule_from_its_making_to_its_end(console: Console) -> None:
    """Make one, look at it, pause it, start one by hand, let it go on, delete it."""
    it = name()
    zone = ["--time-zone", "Europe/Vienna", "--overlap", "buffer-one", "--catch-up", "2h", "--as", "sam"]
    script = ["--script", "demo/scripts.json#auto_refund", "--reason", "The weekly look."]
    made = console.remit("schedule", "create", it, *BILLING, "--cron", "0 7 * * 1", *zone, *script).out
    assert re.fullmatch(
        rf"{it} is scheduled: billing-resolution, 0 7 \* \* 1 Europe/Vienna; next at \d{{4}}-\d\d-\d\d 0[56]:00:00Z\.\n", made
    )
    shown = console.remit("schedule", "show", it).out.splitlines()
    assert shown[0] == f"{it}: billing-resolution, 0 7 * * 1 Europe/Vienna, made by sam@example.com."
    assert shown[1:3] == ["Inputs: ticket_id=T-1001", "Note: The weekly look."]
    assert shown[3].startswith("Next: ") and shown[3].count("00:00Z") == 3
    assert shown[4] == "Overlap buffer-one, up to 7200 s late; 0 started, 0 skipped as one was open, 0 missed."
    assert console.remit("schedule", "pause", it, "--reason", "Holidays.").out == f"{it} is paused; what it started goes on.\n"
    out = console.remit("schedule", "show", it).out
    assert "Note: Holidays.\nPaused: nothing starts.\n" in out
    started = console.remit("schedule", "trigger", it).out
    assert (run := re.fullmatch(rf"Started ({it}-\S+)\.\n", started))
    assert "billing-resolution" in console.remit("show", run[1]).out
    assert run[1] in console.remit("schedule", "show", it).out
    assert console.remit("schedule", "resume", it, "--reason", "Back.").out.startswith(f"{it} goes on; next at ")
    look = f"remit schedule list | grep {it} | grep -q Back"
    console.sh(f"for i in $(seq 100); do {look} && exit 0; sleep 0.1; done; exit 1")
    assert console.remit("schedule", "delete", it).out == f"{it} is deleted; what it started goes on.\n"
    assert console.remit("schedule", "show", it, code=1).err == (
        f"remit: There is no schedule `{it}`; `remit schedule list` lists them.\n"
    )


def test_a_drill_by_the_clock(console: Console) -> None:
    """What it measured stands in `remit schedule show`."""
    it = name()
    assert f"{it} is scheduled: kill drill, 0 7 * * 1 UTC; next at " in (
        console.remit("schedule", "create", it, "--drill", "--cron", "0 7 * * 1").out
    )
    console.remit("schedule", "trigger", it)
    look = f"remit schedule show {it} | grep -Eq 'in force within [0-9]+ ms .*open runs told; 0 writes in flight'"
    console.sh(f"for i in $(seq 100); do {look} && exit 0; sleep 0.1; done; exit 1")
    (action,) = console.remit("schedule", "show", it, "--json").json["actions"]
    assert (action["status"], action["drill"]["found"]) == ("completed", action["drill"]["told"])
    assert "took effect after " in console.remit("switches", "--all").out
    console.remit("schedule", "delete", it)


def test_a_name_that_is_taken(console: Console) -> None:
    """Nothing is overwritten."""
    it = name()
    console.remit("schedule", "create", it, "--drill", "--every", "6h", "--paused")
    again = console.remit("schedule", "create", it, *BILLING, *YEARLY, code=1)
    assert (
        again.err == f"remit: There is a schedule `{it}` in this namespace already; choose another name, or delete it first.\n"
    )
    assert "kill drill, every 6h" in console.remit("schedule", "show", it).out
    console.remit("schedule", "delete", it)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["create", "x", *YEARLY], "Say what is to run: `--agent AGENT --inputs JSON`, or `--drill`."),
        (["create", "x", *BILLING, "--drill", *YEARLY], "Say what is to run: `--agent AGENT --inputs JSON`, or `--drill`."),
        (["create", "x", "--drill", "--inputs", "{}", *YEARLY], "A drill takes no `--inputs` and no `--script`."),
        (["create", "x", "--drill"], "Say when: either `--cron CRON` or `--every 6h`."),
        (["create", "x", "--drill", *YEARLY, "--every", "6h"], "Say when: either `--cron CRON` or `--every 6h`."),
        (
            ["create", "x", "--drill", "--every", "sometimes"],
            "`--every` takes a number with `s`, `m` or `h`, for example `10m`; a day at most.",
        ),
        (
            ["create", "x", "--drill", "--every", "6h", "--time-zone", "Europe/Vienna"],
            "`--time-zone` says how `--cron` is read; an interval has none.",
        ),
        (
            ["create", "x", "--drill", *YEARLY, "--catch-up", "5s"],
            "`--catch-up` is at least 10s: the server's clock isn't finer.",
        ),
        (
            ["create", "x", "--agent", "nobody", *YEARLY],
            "There is no agent `nobody`; known agents: billing-resolution, incident-assistant, support-triage.",
        ),
        (
            ["create", "x", "--agent", "billing-resolution", *YEARLY],
            "Agent `billing-resolution`: the input `ticket_id` is missing; it takes `ticket_id`.",
        ),
        (
            ["create", "x", *BILLING[:3], "[]", *YEARLY],
            '`--inputs` must be one JSON object, for example `{"ticket_id": "T-1001"}`.',
        ),
        (["pause", "nothing", "--reason", " "], "`--reason` takes 1 to 500 characters that say why."),
    ],
)
def test_what_cannot_be_done_is_said_before_a_server_is_asked(args: list[str], sentence: str) -> None:
    """One sentence, and no schedule."""
    refused = CliRunner().invoke(app, ["schedule", *args]).exception
    assert isinstance(refused, InvalidInput)
    assert refused.message == sentence


def test_what_there_is_not_is_said_in_a_sentence(console: Console) -> None:
    """By every command that takes a name; and a name that can't be one is refused."""
    for command in (["show"], ["trigger"], ["delete"], ["pause", "--reason", "x"]):
        said = console.remit("schedule", *command, "nothing", code=1).err
        assert said == "remit: There is no schedule `nothing`; `remit schedule list` lists them.\n"
    said = console.remit("schedule", "create", "a b", "--drill", *YEARLY, code=1).err
    assert said == (
        "remit: A schedule's name takes 1 to 200 letters, digits and `. _ : / @ -`, and starts with a letter or digit.\n"
    )


def test_no_policy_terminates_a_run(console: Console) -> None:
    """Termination goes past Remit, so it isn't among the choices."""
    refused = console.remit("schedule", "create", "x", "--drill", *YEARLY, "--overlap", "terminate-other", code=2).err
    assert "'terminate-other' is not one of 'skip', 'buffer-one', 'buffer-all', 'cancel-other', 'allow-all'" in refused


def test_without_a_server_it_says_so(console: Console) -> None:
    """As every other command."""
    here = Console(console.cwd, {"TEMPORAL_ADDRESS": "127.0.0.1:1"})
    said = here.remit("schedule", "list", code=1).err
    assert (
        said == "remit: No Temporal server answers at `127.0.0.1:1`; start one with `remit dev`, or set `TEMPORAL_ADDRESS`.\n"
    )
