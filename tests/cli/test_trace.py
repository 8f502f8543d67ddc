"""`remit trace`, `remit roots`, `remit trace-keys`: live, from a file, from the sink, and what can't be had."""

import json
import time
from pathlib import Path
from typing import Any

from remit.proof.sealing import SignedRoot, gaps
from remit.settings import ROOT
from tests.cli.test_cli import SCRIPTS, name, park_note
from tests.console import Console

UNKNOWN = "remit: There is no run `nothing`; `remit runs` lists them.\n"


def closed(console: Console) -> str:
    """A run that has closed."""
    run_id = name()
    inputs, script = '{"ticket_id": "T-1011"}', f"{SCRIPTS}#t-1011"
    console.remit("run", "support-triage", "--id", run_id, "--inputs", inputs, "--script", script, "--wait")
    return run_id


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def sealed(console: Console, run_id: str) -> int:
    """Wait until the worker has sealed the run, and say under which number."""
    for _ in range(100):
        shown = console.remit("show", run_id).out
        if "sealed as #" in shown:
            return int(shown.partition("sealed as #")[2].split()[0])
        time.sleep(0.2)
    raise AssertionError("it isn't sealed")


def test_a_trace_outlives_its_history(console: Console, tmp_path: Path) -> None:
    """The same lines, from the live history first, then from the sink; a capsule's and a history's file have them too."""
    run_id, file = closed(console), tmp_path / "trace.jsonl"
    live = console.remit("trace", run_id)
    assert live.err == ""
    found = lines(live.out)
    assert [line["seq"] for line in found] == list(range(len(found)))
    assert (found[0]["kind"], found[0]["workflow_id"], found[-1]["kind"]) == ("run", run_id, "outcome")
    assert console.remit("trace", run_id, "--json").json == found
    assert console.remit("trace", run_id, "-o", str(file)).out == ""
    assert file.read_text() == live.out
    exported = console.sh(f"temporal workflow show -w {run_id} --output json").out
    (tmp_path / f"{run_id}.json").write_text(exported)
    assert lines(console.remit("trace", str(tmp_path / f"{run_id}.json")).out) == found

    number = sealed(console, run_id)
    [capsule] = (Path(console.env["REMIT_HOME"]) / "traces" / run_id).glob("*.capsule.gz")
    assert lines(console.remit("trace", str(capsule)).out) == found  # nothing in it had to be redacted
    # The server takes half a minute to delete a history. One that never had it doesn't have it either.
    elsewhere = Console(ROOT, {**console.env, "TEMPORAL_NAMESPACE": "elsewhere"})
    kept = elsewhere.remit("trace", run_id)
    assert kept.out == live.out
    why = f"There is no run `{run_id}`; `remit runs` lists them."
    assert kept.err == f"remit: As it was sealed, redacted, as #{number}. {why}\n"
    assert elsewhere.remit("trace", found[0]["run_id"]).out == live.out

    answer = console.remit("roots")
    roots = [SignedRoot.model_validate(root) for root in lines(answer.out)]
    assert gaps(roots) == ""
    assert roots[number - 1].root.workflow_id == run_id
    assert console.remit("roots", "--json").json[: len(roots)] == lines(answer.out)
    [key] = console.remit("trace-keys", "--json").json
    assert {root.key_id for root in roots} == {key["id"]}
    assert console.remit("trace-keys", "rotate", "--if-none").out == f"Trace key {key['id']} signs already.\n"


def test_an_open_run_has_no_outcome_yet(console: Console) -> None:
    """Its lines so far are printed, and one sentence says that there will be more."""
    run_id = park_note(console)
    answer = console.remit("trace", run_id)
    assert lines(answer.out)[-1]["kind"] != "outcome"
    assert answer.err == "remit: The run is still open: its trace has no `outcome` line yet.\n"
    console.remit("kill", run_id, "--reason", "The test is over.")


def test_what_has_no_trace_is_one_sentence(console: Console, tmp_path: Path) -> None:
    """An unknown run, and a file that holds something else."""
    assert console.remit("trace", "nothing", code=1).err == UNKNOWN
    junk = tmp_path / "junk.json"
    junk.write_text("[]")
    assert console.remit("trace", str(junk), code=1).err == (
        f"remit: `{junk}` isn't a history: export one with `temporal workflow show --output json`, or in the UI.\n"
    )


def test_a_namespace_without_a_ledger_or_a_key(tmp_path: Path) -> None:
    """Where nothing was sealed, each command says so; in production nothing makes the first key but `rotate`."""
    alone = Console(ROOT, {"REMIT_HOME": str(tmp_path)})
    assert alone.remit("roots", code=1).err.startswith("remit: There is no ledger at ")
    assert alone.remit("trace-keys").out == "No trace keys yet; a worker makes the first one, or `remit trace-keys rotate`.\n"
    made = alone.remit("trace-keys", "rotate").out.split()[2]
    second = alone.remit("trace-keys", "rotate").out.split()[2]
    found = alone.remit("trace-keys", "--json").json
    assert [(key["id"], key["signs"]) for key in found] == [(made, False), (second, True)]
    assert (tmp_path / "trace-keys.json").stat().st_mode & 0o077 == 0
