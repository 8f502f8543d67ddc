"""`remit backtest`, `remit fork` and `remit feedback export` as they are typed, on a ledger with the rows of real runs."""

import asyncio
import json
from pathlib import Path

import pytest

from activities.ledger.decisions import keep
from activities.ledger.store import Ledger
from remit.settings import ROOT
from tests.backtestbench import looser
from tests.console import Console
from tests.histories import rows, stored

SINCE = ("--since", "2026-01-01")


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Console:
    """A terminal with a ledger that keeps what four runs decided."""
    home = tmp_path_factory.mktemp("whatif")
    url = f"sqlite:///{home / 'ledger.db'}"
    ledger = Ledger(url)
    ledger.migrate()
    with ledger.begin() as connection:
        keep(connection, asyncio.run(rows("auto_refund", "rejected", "edited", "prompt_injection")))
    ledger.close()
    return Console(ROOT, {"REMIT_HOME": str(home), "REMIT_LEDGER_URL": url})


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in a folder of its own that asks nobody below $300."""
    made = looser(tmp_path_factory.mktemp("bundles"))
    text = (made / "policy.cedar").read_text()
    (made / "policy.cedar").write_text(text.replace(">= 20000", ">= 30000"))
    return made


def test_the_policy_that_decided_passes(console: Console) -> None:
    """Nothing changes, so no limit is crossed."""
    found = console.remit("backtest", "--policy", "refunds_v7", *SINCE, "--json").json
    assert (found["drifted"], found["crossed"], found["not_judged"], found["against_people"]) == (0, [], 0, [])
    assert (found["not_asked"], found["superseded"]) == (2, 2)
    assert all(change["was"] == change["now"] for change in found["changes"])


def test_what_people_rejected_comes_first_and_fails(console: Console, policy: Path) -> None:
    """With the run, the amount, who rejected it and why; a limit lets it pass."""
    refused = console.remit("backtest", "--policy", str(policy), *SINCE, code=1)
    first, _, second, *rest = refused.out.splitlines()
    assert first == "People rejected these; the new policy would have let them through by itself"
    assert "request_refund@1" in second and "$210.00" in second and "bo@example.com" in second
    assert "An annual plan is refunded within 30 days only." in second
    assert "Limit crossed: --max-rejected-allowed is 0, and it is 1." in rest
    passed = console.remit("backtest", "--policy", str(policy), *SINCE, "--max-rejected-allowed", "1", "--json").json
    assert (passed["rejected_allowed"], passed["cents"]["let_through"], passed["saved_approvals"]) == (1, {"USD": 21_000}, 1)
    money = ("--max-rejected-allowed", "1", "--max-let-through", "20999")
    crossed = console.remit("backtest", "--policy", str(policy), *SINCE, *money, "--json", code=1).json["crossed"]
    assert crossed == ["--max-let-through is 20,999, and it is 21,000"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--policy", "refunds_v99"), "There is no policy bundle `refunds_v99`; put it under `policies/bundles/refunds_v99/`."),
        (("--policy", "BROKEN"), "Bundle `broken`: `policy.cedar` doesn't parse: "),
        (("--policy", "refunds_v7", "--agent", "nobody"), "There is no agent `nobody`; `remit agents` lists them."),
        (
            ("--policy", "refunds_v7", "--agent", "support-triage"),
            "Nothing was recorded of `support-triage` since 2026-01-01, so there is nothing to judge.",
        ),
        (
            ("--policy", "refunds_v7", "--since", "soon"),
            "`--since soon` isn't a period; say `7d`, `12h`, `30m`, `4w`, or a UTC",
        ),
    ],
)
def test_what_cannot_be_asked_ends_with_two(console: Console, tmp_path: Path, given: tuple[str, ...], sentence: str) -> None:
    """And one sentence, so that CI tells it from a policy that fails."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "policy.cedar").write_text("permit everything")
    (broken / "limits.toml").write_text("")
    argv = [str(broken) if each == "BROKEN" else each for each in given]
    found = console.remit("backtest", *SINCE, *argv, code=2)
    assert found.err.startswith(f"remit: {sentence}") and found.err.count("\n") == 1 and found.out == ""


def test_feedback_is_one_example_a_line(console: Console, tmp_path: Path) -> None:
    """To stdout or a file; nothing to export is a sentence, and leaves no file."""
    lines = [json.loads(line) for line in console.remit("feedback", "export", *SINCE).out.splitlines()]
    assert [(line["label"], line["proposed_by"]) for line in lines] == [
        ("rejected", "agent"),
        ("edited", "agent"),
        ("approved", "person"),
    ]
    file = tmp_path / "set.jsonl"
    assert console.remit("feedback", "export", *SINCE, "-o", str(file)).err == f"3 examples written to {file}.\n"
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [line["id"] for line in lines]
    none = tmp_path / "none.jsonl"
    refused = console.remit("feedback", "export", "--agent", "support-triage", "-o", str(none), code=1)
    assert refused.err == "remit: People decided on nothing of `support-triage` since 30d, so there is nothing to export.\n"
    assert not none.exists()


def test_a_fork_says_where_it_diverges(console: Console, policy: Path, tmp_path: Path) -> None:
    """Side by side; with `--fail-on-divergence` it ends with 1. Nothing is written where the command's files would be."""
    nowhere = Console(console.cwd, {**console.env, "REMIT_HOME": str(tmp_path / "home"), "TEMPORAL_ADDRESS": "127.0.0.1:9"})
    changed = ("fork", str(stored("rejected")), "--at", "3", "--policy", str(policy), "--fail-on-divergence")
    found = nowhere.remit(*changed, code=1)
    assert "It diverges at step 3, call 0, in its approvals." in found.out
    assert "request_refund" in found.out and "$210.00 (never really)" in found.out
    assert "- simulated: `request_refund` on `Invoice:in_1007` of $210.00" in found.out
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--at", "9"), "The run has the steps 0 to 5; `--at 9` is none of them."),
        (
            ("--at", "1", "--prompt", "README.md"),
            "The run's model was a script, which reads no prompt; say which model should, with `--model`.",
        ),
        (
            ("--at", "1", "--model", "gpt-5"),
            "No model can be reached: set `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` or `GEMINI_API_KEY`.",
        ),
        (("--at", "1", "--prompt", "gone.md", "--model", "openai:m"), "The prompt `gone.md` can't be read as text."),
    ],
)
def test_a_fork_that_cannot_be_made_is_one_sentence(console: Console, given: tuple[str, ...], sentence: str) -> None:
    """No traceback."""
    assert console.remit("fork", str(stored("rejected")), *given, code=1).err == f"remit: {sentence}\n"
