"""Editing, rechecking and looking at what waits, by subprocess."""

from tests.cli.test_cli import park_note, park_refund
from tests.console import Console


def test_an_edit_is_judged_anew(console: Console) -> None:
    """`edit` says that it ended the approval; `show` and `inbox` say what was changed and what waits now."""
    run_id = park_note(console)
    said = console.remit("edit", run_id, "--as", "ana", "--set", "text=Your export runs.", "--reason", "Kinder.").out
    assert said == f"ap-0-0 is cancelled; the edited action is judged anew: `remit show {run_id}` says how.\n"
    console.sh(f"for i in $(seq 100); do remit inbox | grep {run_id} | grep -q ap-0-0-1 && exit 0; sleep 0.1; done; exit 1")
    assert "add_account_note@1 (edited by ana@example.com)" in console.remit("inbox").out
    assert 'ana@example.com: edit text="Your export runs." Kinder.' in console.remit("show", run_id).out
    own = console.remit("approve", run_id, "--as", "ana", code=1)
    assert own.err == "remit: `ana@example.com` edited this action and may not approve it; somebody else must.\n"
    assert console.remit("approve", run_id, "--as", "cleo").out == "ap-0-0-1 is approved.\n"


def test_an_edit_says_what_is_wrong_with_it(console: Console) -> None:
    """A missing reason or change is wrong usage or a sentence, and nothing is sent."""
    run_id = park_note(console)
    console.remit("edit", run_id, "--as", "ana", "--set", "text=x", code=2)
    console.remit("edit", run_id, "--as", "ana", "--reason", "x", code=2)
    assert "`--reason` is empty" in console.remit("edit", run_id, "--as", "ana", "--set", "text=x", "--reason", " ", code=1).err
    bad = console.remit("edit", run_id, "--as", "ana", "--set", "colour=red", "--reason", "x", code=1)
    assert bad.err.startswith("remit: The edited arguments can't be used: `add_account_note`: `colour` ")
    undecided = console.remit("sign", run_id, "ap-0-0", "--as", "ana", code=1)
    assert undecided.err == "remit: Say what is decided: `--approve`, `--reject`, or an edit with `--set NAME=VALUE`.\n"
    signed = console.remit("sign", run_id, "ap-0-0", "--as", "ana", "--set", "text=Hello.").out.strip()
    console.run(["temporal", "workflow", "signal", "-w", run_id, "--name", "decide", "--input", signed])
    console.sh(f"for i in $(seq 100); do remit show {run_id} | grep -q ap-0-0-1 && exit 0; sleep 0.1; done; exit 1")


def test_the_inbox_shows_what_was_refused(console: Console) -> None:
    """How often, the last reason and its time; in JSON too."""
    run_id = park_note(console)
    console.run(["temporal", "workflow", "signal", "-w", run_id, "--name", "decide", "--input", '{"approver": "ana"}'])
    console.sh(f"for i in $(seq 100); do remit inbox | grep -q '{run_id}: 1 decisions' && exit 0; sleep 0.1; done; exit 1")
    [line] = [x for x in console.remit("inbox").out.splitlines() if x.startswith(f"{run_id}: 1 decisions")]
    assert ", malformed: The payload can't be used" in line
    [mine] = [a for a in console.remit("inbox", "--json").json if a["workflow_id"] == run_id]
    assert (mine["last_refused"]["reason"], mine["policy_changed"]) == ("malformed", False)


def test_recheck_says_that_nothing_changed(console: Console) -> None:
    """Also with `--check`, which only findings make fail."""
    run_id = park_note(console)
    assert "Today's policies would treat all " in console.remit("approvals", "recheck", "--check").out
    found = console.remit("approvals", "recheck", "--json").json
    assert (found["checked"] >= 1, found["otherwise"]) == (True, [])
    assert run_id in console.remit("approvals").out


def test_a_terminated_run_waits_for_nobody(console: Console) -> None:
    """Temporal ended it past Remit: `show` says so, and no list of waiting runs has it."""
    run_id = park_refund(console, "T-1004", "rejected")
    console.run(["temporal", "workflow", "terminate", "-w", run_id])
    shown = console.remit("show", run_id, "--json").json
    assert (shown["status"], shown["stopped_by"], shown["approvals"][0]["status"]) == ("failed", "terminated", "cancelled")
    seen = f"for i in $(seq 100); do remit runs --status terminated | grep -q {run_id} && exit 0; sleep 0.1; done; exit 1"
    console.sh(seen)
    assert run_id not in console.remit("runs", "--status", "waiting_for_approval").out


def test_a_status_that_does_not_exist_is_refused(console: Console) -> None:
    """The sentence lists those that do."""
    assert console.remit("runs", "--status", "bogus", code=1).err == (
        "remit: There is no status `bogus`; a run is one of admitted, running, waiting_for_approval, waiting_for_provider, "
        "paused, completed, escalated, stopped, killed, failed, assigned, terminated, timed_out.\n"
    )
