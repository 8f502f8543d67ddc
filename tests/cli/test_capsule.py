"""`remit capsule`, `remit verify` and `remit replay FILE`, and what each of them refuses."""

import gzip
import json
from pathlib import Path

import pytest

from policies.capability import new_key, public_of
from tests.cli.test_cli import SCRIPTS, name
from tests.console import Console


@pytest.fixture(scope="module")
def file(dev: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The capsule of a run that has closed, taken right after that."""
    from tests.console import DevEngine

    assert isinstance(dev, DevEngine)
    run_id, path = name(), tmp_path_factory.mktemp("capsule") / "run.capsule.gz"
    inputs, script = '{"ticket_id": "T-1011"}', f"{SCRIPTS}#t-1011"
    dev.console.remit("run", "support-triage", "--id", run_id, "--inputs", inputs, "--script", script, "--wait")
    found = dev.console.remit("capsule", run_id, "-o", str(path))
    assert f"{path}: run {run_id}, sealed as #" in found.out and "could still be used." in found.out
    return path


def test_a_capsule_is_taken_along(console: Console, file: Path) -> None:
    """As gzipped JSON, or as plain JSON for whoever reads it with other programs; both verify, alone and in their chain."""
    content = json.loads(gzip.decompress(file.read_bytes()))
    root, plain, roots = content["root"]["root"], file.with_name("run.json"), file.with_name("roots.jsonl")
    taken = console.remit("capsule", root["run_id"], "-o", str(plain), "--json").json
    assert (taken["seq"], taken["key"], taken["file"]) == (root["seq"], content["root"]["key_id"], str(plain))
    assert json.loads(plain.read_text()) == content
    console.remit("roots", "-o", str(roots))
    for each in (file, plain):
        found = console.remit("verify", str(each), "--roots", str(roots), "--key", taken["key"])
        assert found.out.rstrip().endswith("\nverified"), found.out
    report = console.remit("verify", str(file), "--json").json
    assert (report["verified"], report["failed"], report["seq"]) == (True, "", root["seq"])
    chain = console.remit("verify", str(roots))
    assert chain.out.rstrip().endswith("\nverified") and "compare it with what the owner says" in chain.out


def test_a_missing_run_shows(console: Console, file: Path) -> None:
    """In a chain of roots with one line less."""
    roots = file.with_name("gap.jsonl")
    console.remit("roots", "-o", str(roots))
    lines = roots.read_text().splitlines()
    roots.write_text("\n".join([*lines[:-1], lines[-1].replace('"seq":', '"seq": 1')]))
    found = console.remit("verify", str(roots), code=1)
    assert "does not hold: Root " in found.out


def test_a_capsule_is_replayed(console: Console, file: Path) -> None:
    """Its histories, like any other file's."""
    found = console.remit("replay", str(file))
    assert found.out.endswith("1 replayed, 0 differ.\n")


def test_what_was_changed_is_named(console: Console, file: Path) -> None:
    """The first thing that doesn't hold, with 1; and what is no capsule, with 2."""
    changed = file.with_name("changed.json")
    content = json.loads(gzip.decompress(file.read_bytes()))
    content["trace"][-1]["summary"] = "Nothing happened."
    changed.write_text(json.dumps(content))
    found = console.remit("verify", str(changed), code=1)
    assert "does not hold: The trace's lines aren't those that were sealed." in found.out
    other = public_of(new_key()).hex()
    found = console.remit("verify", str(file), "--key", other, code=1)
    assert "does not hold: Root " in found.out and "is signed by another key" in found.out
    content["contents"]["\x1b[31mred"] = 1
    changed.write_text(json.dumps(content))
    found = console.remit("verify", str(changed), code=1)
    assert "\x1b" not in found.out and "\N{REPLACEMENT CHARACTER}[31mred" in found.out
    for text, sentence in (
        ("hello", "It isn't a capsule: neither JSON nor gzipped JSON"),
        ('{"events": []}', "It isn't a capsule: its `format` isn't `remit.capsule/1`."),
    ):
        changed.write_text(text)
        assert sentence in console.remit("verify", str(changed), code=2).out


def test_what_cannot_be_done_is_one_sentence(console: Console, file: Path) -> None:
    """A run that isn't sealed, a file that isn't there, a key that is none, roots that are none."""
    missing = console.remit("capsule", "nothing", code=1)
    assert (
        missing.err == "remit: `nothing` isn't sealed: a run is, soon after it has closed; `remit show` says how it stands.\n"
    )
    assert "can't be read: No such file or directory." in console.remit("verify", str(file) + "x", code=1).err
    assert "`--key` takes a public key of 64 hex digits" in console.remit("verify", str(file), "--key", "ana", code=1).err
    bad = file.with_name("bad.jsonl")
    bad.write_text("{}\n")
    assert (
        "It is neither a capsule nor a chain of roots." in console.remit("verify", str(file), "--roots", str(bad), code=1).err
    )


def test_a_capsule_in_which_something_is_found_is_refused(console: Console, file: Path) -> None:
    """By rules that came later: the rule and the place are named, the value isn't, and no file is written."""
    root = json.loads(gzip.decompress(file.read_bytes()))["root"]["root"]
    rules, target = file.with_name("rules.toml"), file.with_name("refused.json")
    rules.write_text("ticket = 'T-1011'\n")
    strict = Console(console.cwd, {**console.env, "REMIT_REDACTION": str(rules)})
    found = strict.remit("capsule", root["run_id"], "-o", str(target), code=1)
    assert found.err.startswith(
        "remit: The capsule is refused: the rule `ticket` finds something at `/trace/0/inputs/ticket_id`"
    )
    assert "T-1011" not in found.err and not target.exists()
