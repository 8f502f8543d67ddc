"""The command line by subprocess: what each command says, and the code that it ends with."""

import json
import shutil
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from remit.settings import ROOT
from tests.console import Console, DevEngine

SCRIPTS = "demo/scripts.json"


def name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


def park(console: Console, run_id: str, agent: str, ticket: str, script: str, who: str = "sam") -> None:
    """Start a run and wait until it waits for people."""
    inputs = json.dumps({"ticket_id": ticket})
    console.remit("run", agent, "--id", run_id, "--as", who, "--inputs", inputs, "--script", script)
    console.sh(
        f"for i in $(seq 100); do remit show {run_id} --json | grep -q waiting_for_approval && exit 0; sleep 0.1; done; exit 1"
    )


def park_note(console: Console) -> str:
    """A run that waits for a support lead to let a customer see a note, as approval `ap-0-0`; any number of times."""
    run_id = name()
    park(console, run_id, "support-triage", "T-1011", "tests/cli/scripts.json#note")
    return run_id


def park_refund(console: Console, ticket: str, script: str, who: str = "sam") -> str:
    """A run that waits for people to approve a refund, as approval `ap-3-0`; the ticket's invoice can be refunded once."""
    run_id = name()
    park(console, run_id, "billing-resolution", ticket, f"{SCRIPTS}#{script}", who)
    return run_id


def test_a_run_goes_from_request_to_refund(console: Console) -> None:
    """Run, inbox and approve lead a person through a refund."""
    run_id = park_refund(console, "T-1002", "one_approval")
    waiting = console.remit("inbox", "--json").json
    mine = [a for a in waiting if a["workflow_id"] == run_id]
    assert [(a["request"]["required"], a["status"]) for a in mine] == [(1, "pending")]
    assert run_id in console.remit("inbox").out
    assert console.remit("approve", run_id, "--as", "ana", "--reason", "Fine.").out == "ap-3-0 is approved.\n"


def test_wait_prints_the_result(console: Console) -> None:
    """`--wait --json` prints the closed run's result."""
    result = console.remit(
        "run", "support-triage", "--inputs", '{"ticket_id": "T-1011"}', "--script", f"{SCRIPTS}#t-1011", "--wait", "--json"
    ).json
    assert result["outcome"] == "completed"
    assert result["workflow_id"].startswith("support-triage-")


def test_many_runs_from_a_file(console: Console, tmp_path: Path) -> None:
    """Each line of `--inputs-file` is a run."""
    file = tmp_path / "inputs.jsonl"
    file.write_text('{"ticket_id": "T-1011"}\n\n{"ticket_id": "T-1012"}\n')
    rows = console.remit("run", "support-triage", "--inputs-file", str(file), "--script", f"{SCRIPTS}#t-1011", "--json").json
    assert len(rows) == 2


def test_a_rejection_needs_a_reason(console: Console) -> None:
    """`reject` without `--reason` is wrong usage."""
    assert console.remit("reject", "x", "--as", "ana", code=2).err


def test_two_people_approve_and_one_can_not_twice(console: Console) -> None:
    """The second vote of the same person is refused with a sentence, another person's counts."""
    run_id = park_refund(console, "T-1003", "two_approvals")
    assert console.remit("approve", run_id, "--as", "ana").out == "ap-3-0 is pending; 1 of 2 approvals.\n"
    again = console.remit("approve", run_id, "ap-3-0", "--as", "ana", code=1)
    assert again.err == "remit: `ana@example.com` has already decided; somebody else must.\n"
    assert console.remit("approve", run_id, "--as", "bo").out == "ap-3-0 is approved.\n"
    late = console.remit("approve", run_id, "ap-3-0", "--as", "bo", code=1)
    assert late.err.startswith("remit: Approval `ap-3-0` is already ")


def test_the_requester_and_the_wrong_role_are_refused(console: Console) -> None:
    """Who asked can't approve, and neither can somebody without the role."""
    run_id = park_refund(console, "T-1004", "rejected", who="bo")
    own = console.remit("approve", run_id, "--as", "bo", code=1)
    assert own.err == "remit: `bo@example.com` asked for this run and may not decide on it.\n"
    wrong = console.remit("approve", run_id, "--as", "cleo", code=1)
    assert "has none of the roles that may decide here: refund-approver" in wrong.err
    console.remit("reject", run_id, "--as", "ana", "--reason", "Offer a credit note.")


def test_sign_prints_what_can_be_pasted(console: Console) -> None:
    """`sign` prints one JSON object, which Temporal's own CLI delivers as the signal `decide`."""
    run_id = park_note(console)
    payload = console.remit("sign", run_id, "ap-0-0", "--as", "ana", "--reject", "--reason", "No.").out
    assert set(json.loads(payload)) == {"approval_id", "decision_jws"}
    console.run(["temporal", "workflow", "signal", "-w", run_id, "--name", "decide", "--input", payload.strip()])
    told = f"remit show {run_id} | grep -q 'ana@example.com: reject'"
    console.sh(f"for i in $(seq 100); do {told} && exit 0; sleep 0.1; done; exit 1")


def test_kill_returns_when_it_is_acknowledged(console: Console) -> None:
    """After `kill` the run is closed as killed, and a second kill has nothing to stop."""
    run_id = park_note(console)
    assert "is killed; acknowledged" in console.remit("kill", run_id, "--reason", "Enough.").out
    console.run(["temporal", "workflow", "result", "-w", run_id])
    shown = console.remit("show", run_id, "--json").json
    assert (shown["status"], shown["kill"]["reason"]) == ("killed", "Enough.")
    again = console.remit("kill", run_id, "--reason", "Enough.", code=1)
    assert again.err == f"remit: Run `{run_id}` is killed already; there is nothing to stop.\n"


@pytest.mark.parametrize("command", ["agents", "tools", "runs", "inbox"])
def test_lists_as_json(console: Console, command: str) -> None:
    """Each command that lists prints a JSON array with `--json`, and something readable without."""
    assert isinstance(console.remit(command, "--json").json, list)
    assert console.remit(command).out.strip()


BAD: dict[str, tuple[list[str], int, str]] = {
    "unknown agent": (
        ["run", "nobody", "--inputs", "{}"],
        1,
        "remit: There is no agent `nobody`; known agents: billing-resolution, ",
    ),
    "unknown field": (
        ["run", "support-triage", "--inputs", '{"ticket": "T-1"}'],
        1,
        "remit: Agent `support-triage` has no input `ticket`; it takes `ticket_id`.",
    ),
    "missing field": (
        ["run", "support-triage", "--inputs", "{}"],
        1,
        "remit: Agent `support-triage`: the input `ticket_id` is missing; ",
    ),
    "no such ticket": (
        ["run", "support-triage", "--inputs", '{"ticket_id": "T-999999"}', "--script", f"{SCRIPTS}#t-1011"],
        1,
        "remit: There is no ticket `T-999999`.",
    ),
    "no key": (
        ["run", "support-triage", "--inputs", '{"ticket_id": "T-1011"}'],
        1,
        "remit: No model can be reached: set `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` or `GEMINI_API_KEY` for the worker, or ",
    ),
    "malformed JSON": (
        ["run", "support-triage", "--inputs", "{"],
        1,
        "remit: `--inputs` must be one JSON object, for example ",
    ),
    "not an object": (
        ["run", "support-triage", "--inputs", "[]"],
        1,
        "remit: `--inputs` must be one JSON object, for example ",
    ),
    "no inputs": (
        ["run", "support-triage"],
        1,
        "remit: Give the inputs with either `--inputs JSON` or `--inputs-file FILE.jsonl`.",
    ),
    "no such file": (["run", "support-triage", "--inputs-file", "nowhere.jsonl"], 1, "remit: `nowhere.jsonl` can't be read: "),
    "no such script": (
        ["run", "support-triage", "--inputs", "{}", "--script", f"{SCRIPTS}#none"],
        1,
        f"remit: `{SCRIPTS}` has no script `none`; it has: ",
    ),
    "script form": (["run", "support-triage", "--inputs", "{}", "--script", "x"], 1, "remit: `--script` takes `FILE#NAME`"),
    "bad id": (
        ["run", "support-triage", "--inputs", "{}", "--id", " "],
        1,
        "remit: A run id takes 1 to 200 letters, digits and ",
    ),
    "unknown person": (
        ["run", "support-triage", "--inputs", "{}", "--as", "zoe"],
        1,
        "remit: `zoe` is not in the directory; known: `ana@example.com`, ",
    ),
    "unknown run": (["show", "nothing"], 1, "remit: There is no run `nothing`; `remit runs` lists them."),
    "kill unknown run": (["kill", "nothing", "--reason", "x"], 1, "remit: There is no run `nothing`; `remit runs` lists them."),
    "empty reason": (["kill", "nothing", "--reason", " "], 1, "remit: `--reason` is empty; say why the run is killed."),
    "approve unknown run": (
        ["approve", "nothing", "--as", "ana"],
        1,
        "remit: There is no run `nothing`; `remit runs` lists them.",
    ),
    "quote in a filter": (["runs", "--agent", "x' OR '1"], 1, "remit: Quotes and backslashes can't stand in a filter."),
    "unknown command": (["fly"], 2, "Usage: remit "),
    "no bundle": (
        ["policy", "check", "nowhere"],
        1,
        "remit: Bundle `nowhere`: `policy.cedar` and `limits.toml` must both be there",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_not_be_done_gets_one_sentence(console: Console, case: str) -> None:
    """Every failure that a user can cause is one sentence on stderr and a non-zero exit; stdout stays empty."""
    args, code, says = BAD[case]
    answer = console.remit(*args, code=code)
    assert answer.err.startswith(says)
    assert answer.out == ""
    assert code == 2 or answer.err.count("\n") == 1


def test_a_run_id_is_used_once(console: Console) -> None:
    """A second run under an open or completed run's id is refused, and the first isn't touched."""
    run_id = name()
    args = (
        "run",
        "support-triage",
        "--id",
        run_id,
        "--inputs",
        '{"ticket_id": "T-1011"}',
        "--script",
        f"{SCRIPTS}#t-1011",
        "--wait",
    )
    console.remit(*args)
    assert console.remit(*args, code=1).err.startswith(f"remit: A run `{run_id}` exists already; choose another `--id`")


def test_a_refused_admission_can_be_put_right(console: Console) -> None:
    """A run that failed at admission doesn't use up its id."""
    run_id = name()
    bad = ("run", "support-triage", "--id", run_id, "--inputs", '{"ticket_id": "T-999999"}', "--script", f"{SCRIPTS}#t-1011")
    console.remit(*bad, code=1)
    good = ("run", "support-triage", "--id", run_id, "--inputs", '{"ticket_id": "T-1011"}', "--script", f"{SCRIPTS}#t-1011")
    console.remit(*good)


def test_an_unknown_approval_names_those_that_exist(console: Console) -> None:
    """Approving what doesn't exist says what does."""
    run_id = park_note(console)
    answer = console.remit("approve", run_id, "ap-9-9", "--as", "ana", code=1)
    assert answer.err == f"remit: Run `{run_id}` has no approval `ap-9-9`; it has: ap-0-0.\n"
    console.remit("kill", run_id, "--reason", "Done with it.")


def test_no_server_is_one_sentence(tmp_path: Path) -> None:
    """Without a server, each command that needs one says where it looked and what to do."""
    console = Console(ROOT, {"REMIT_HOME": str(tmp_path), "TEMPORAL_ADDRESS": "127.0.0.1:9"})
    expected = "remit: No Temporal server answers at `127.0.0.1:9`; start one with `remit dev`, or set `TEMPORAL_ADDRESS`.\n"
    for args in (["runs"], ["inbox"], ["show", "x"], ["kill", "x", "--reason", "y"], ["run", "a", "--inputs", "{}"]):
        assert console.remit(*args, code=1).err == expected


def test_a_bad_setting_is_one_sentence(tmp_path: Path) -> None:
    """A setting that can't be used is named."""
    console = Console(ROOT, {"REMIT_HOME": str(tmp_path), "REMIT_ENV": "prod"})
    assert console.remit("runs", code=1).err.startswith(
        "remit: `REMIT_ENV` can't be used: Input should be 'dev' or 'production'."
    )


def test_production_has_no_dev_issuer(dev: DevEngine) -> None:
    """With REMIT_ENV=production nobody signs for somebody else."""
    console = Console(ROOT, {**dev.console.env, "REMIT_ENV": "production"})
    answer = console.remit("approve", "x", "--as", "ana", code=1)
    assert answer.err == "remit: The dev issuer signs as anybody, so it is off with `REMIT_ENV=production`.\n"


def test_a_second_dev_in_the_same_folder_is_refused(dev: DevEngine) -> None:
    """`remit dev` doesn't run twice on the same files."""
    assert dev.console.remit("dev", code=1).err.startswith("remit: `remit dev` runs already in ")


def test_dev_starts_a_dead_worker_again(tmp_path: Path) -> None:
    """The worker of `remit dev` is replaced when it dies, and SIGTERM ends everything with 0."""
    own = DevEngine(tmp_path / ".remit")
    try:
        pid = own.console.run(["pgrep", "-P", str(own.pid), "-f", "worker.py"]).out.split()[0]
        own.console.run(["kill", "-9", pid])
        own.console.remit(
            "run", "support-triage", "--inputs", '{"ticket_id": "T-1011"}', "--script", f"{SCRIPTS}#t-1011", "--wait"
        )
    finally:
        code = own.stop()
    assert code == 0
    assert own.console.run(["pgrep", "-f", str(tmp_path)], code=None).out == ""


def test_every_command_ends_with_its_own_code(console: Console) -> None:
    """Forty clients in a row end with the code that they mean, though the SDK's threads abort one exit in four."""

    def code(index: int) -> int:
        return console.remit(*(["runs"] if index % 2 else ["show", "nothing"]), code=None).code

    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(code, range(40)))
    assert codes == [1, 0] * 20


# ---- apps -----------------------------------------------------------------------------------------------------------

DESK = str(ROOT / "tests" / "apps" / "desk")


@pytest.mark.parametrize("args", [["--app", DESK, "tools", "--json"], ["tools", "--json", "--app", DESK]])
def test_an_app_is_named_before_or_after_the_command(tmp_path: Path, args: list[str]) -> None:
    """Either way its tools are listed among the built-in ones."""
    console = Console(tmp_path, {})
    assert {"close_case", "request_refund"} <= {tool["name"] for tool in console.remit(*args).json}


def test_an_app_is_named_by_the_environment(tmp_path: Path) -> None:
    """`REMIT_APP`, relative to where one is, does what `--app` does."""
    console = Console(ROOT, {"REMIT_APP": "tests/apps/desk"})
    assert "desk-closer" in [agent["name"] for agent in console.remit("agents", "--json").json]
    assert console.remit("policy", "check").out == "All bundles and agents are in order.\n"
    assert "close_case" not in Console(tmp_path, {"REMIT_APP": ""}).remit("tools").out


@pytest.mark.parametrize("command", ["agents", "tools", "policy check", "dev"])
def test_a_broken_app_is_refused_by_each_command(tmp_path: Path, command: str) -> None:
    """One sentence with the file, no traceback, exit code 1; `remit dev` doesn't even start a server."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "crm.py").write_text("import no_such_package\n")
    answer = Console(tmp_path, {}).remit(*command.split(), "--app", str(tmp_path), code=1)
    assert answer.err == "remit: `tools/crm.py` can't be imported: ModuleNotFoundError: No module named 'no_such_package'.\n"
    assert answer.out == ""


def test_a_worker_refuses_a_broken_app(tmp_path: Path) -> None:
    """An agent that names an unknown tool stops the worker before it takes work."""
    app = shutil.copytree(DESK, tmp_path / "desk")
    file = app / "agents" / "desk-closer" / "agent.toml"
    file.write_text(file.read_text().replace('"close_case"', '"open_case"'))
    answer = Console(tmp_path, {"REMIT_APP": str(app)}).run([sys.executable, str(ROOT / "worker.py")], code=2)
    assert answer.err == "remit worker: Agent `desk-closer`: there is no tool `open_case`; `remit tools` lists them.\n"


def test_a_reader_that_stops_is_no_failure(console: Console) -> None:
    """`remit … | head` ends with 0: the command did what it says."""
    assert console.run(["bash", "-c", "remit tools --json | true; echo ${PIPESTATUS[0]}"]).out == "0\n"


def test_what_is_piped_is_not_folded(console: Console) -> None:
    """Names stay whole, so that what is listed can be searched."""
    narrow = Console(console.cwd, {k: v for k, v in console.env.items() if k.startswith(("REMIT_", "TEMPORAL_"))})
    del narrow.env["COLUMNS"]
    assert "billing-resolution " in narrow.remit("agents").out


def test_one_bad_line_hides_no_run(console: Console, tmp_path: Path) -> None:
    """A file with one bad line names every run that was started, and fails."""
    file = tmp_path / "inputs.jsonl"
    file.write_text('{"ticket_id": "T-1011"}\n{"ticket_id": "T-999999"}\n')
    rows = console.remit(
        "run", "support-triage", "--inputs-file", str(file), "--script", f"{SCRIPTS}#t-1011", "--json", code=1
    ).json
    assert [r.get("summary", "") for r in rows] == ["", "There is no ticket `T-999999`."]


def test_dev_says_why_it_can_not_start(tmp_path: Path, dev: DevEngine) -> None:
    """A folder that can't be made, a ledger that can't be opened and a port that is taken are one sentence each."""
    (tmp_path / "file").write_text("")
    where = Console(ROOT, {"REMIT_HOME": str(tmp_path / "file" / "x")})
    assert "can't be written: Not a directory; set `REMIT_HOME`" in where.remit("dev", code=1).err
    ledger = Console(ROOT, {"REMIT_HOME": str(tmp_path / "a"), "REMIT_LEDGER_URL": "sqlite://"})
    assert ledger.remit("dev", code=1).err.startswith("remit: `REMIT_LEDGER_URL` ")
    port = dev.console.env["TEMPORAL_ADDRESS"].rpartition(":")[2]
    taken = Console(ROOT, {"REMIT_HOME": str(tmp_path / "b")})
    assert taken.remit("dev", "--port", port, code=1).err == (
        f"remit: Port {port} is taken; choose another one, or none to have a free one found.\n"
    )
