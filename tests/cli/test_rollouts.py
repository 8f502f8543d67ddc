"""Rollouts and outcomes at a terminal: what `rollout` and `outcome` say, and how they end."""

import json
from collections.abc import Generator

import pytest

from policies.rollout import position
from remit.settings import ROOT
from tests.console import Console, DevEngine

NAME = "support-triage"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Generator[Console]:
    """A `remit dev` of these tests' own, for they take an agent's work away."""
    found = DevEngine(tmp_path_factory.mktemp("rollouts") / ".remit")
    yield found.console
    found.stop()


def case_of_people(console: Console) -> str:
    """A run on a ticket whose customer the rollout leaves to people, from start to end."""
    salt = console.remit("rollout", "show", NAME, "--json").json["rollout"]["salt"]
    tickets = json.loads((ROOT / "demo/business.json").read_text(encoding="utf-8"))["tickets"]
    # The salt is drawn at each start. A fixed ticket would be the candidate's once in a hundred runs of this test.
    ticket = next(t["ticket_id"] for t in tickets if position(salt, f"Customer:{t['customer_id']}") >= 0.01)
    inputs = json.dumps({"ticket_id": ticket})
    args = ("run", NAME, "--inputs", inputs, "--script", "demo/scripts.json#t-1011", "--wait", "--json")
    return str(console.remit(*args).json["workflow_id"])


def test_a_rollout_against_people_from_start_to_end(own: Console) -> None:
    """Start, a case of people's, what became of it, the look at both arms, a refused promotion, pause, go on, abort."""
    begun = own.remit("rollout", "start", NAME, "--people", "--as", "ana", "--reason", "It does as we do.").out
    assert begun == f"The rollout of {NAME} is running at 1 %, says ana@example.com; people do the rest.\n"
    run_id = case_of_people(own)
    assert own.remit("show", run_id, "--json").json["arm"] == "human"
    assert "arm human, the candidate at 1 %" in own.remit("show", run_id).out
    listed = f"for i in $(seq 100); do remit runs --status assigned | grep -q {run_id} && exit 0; sleep 0.1; done; exit 1"
    own.sh(listed)
    said = own.remit("outcome", run_id, "--csat", "4", "--no-reopened", "--cost", "4.50", "--first-response", "90").out
    assert said == f"Recorded for {run_id}, arm human.\n"
    shown = own.remit("rollout", "show", NAME).out
    assert f"{NAME}: running at 1 %, since " in shown
    assert "Last change by ana@example.com: It does as we do." in shown
    assert "4.00 of 5 (1)" in shown
    assert "$4.5000" in shown
    assert "90 s" in shown
    assert "Not judged yet." in shown
    found = own.remit("rollout", "show", NAME, "--json").json
    assert (found["rollout"]["stage"], found["baseline"]["runs"], found["candidate"]["runs"]) == (1, 1, 0)
    refused = own.remit("rollout", "promote", NAME, "--as", "ana", "--reason", "Now.", code=1).err
    assert refused.startswith(f"remit: `{NAME}` stays at 1 %, which hasn't been judged yet. ")
    paused = own.remit("rollout", "pause", NAME, "--reason", "A look.").out
    assert paused == f"The rollout of {NAME} is paused; new runs go to people.\n"
    going = own.remit("rollout", "start", NAME, "--people", "--as", "cleo", "--reason", "Fine.").out
    assert going == f"The rollout of {NAME} is running at 1 %, says cleo@example.com; people do the rest.\n"
    assert f"Rollout of {NAME}: running at 1 %." in own.remit("control").out
    aborted = own.remit("rollout", "abort", NAME, "--reason", "Enough.", "--as", "bo").out
    assert aborted == f"The rollout of {NAME} is aborted; new runs go to people.\n"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            ("rollout", "start", "billing-resolution", "--as", "ana", "--reason", "x"),
            "There is no candidate in `agents/billing-resolution/candidate/`; put an `agent.toml` or a `prompt.md` there with "
            "what is to change, or roll out the agent itself with `--people`.",
        ),
        (
            ("rollout", "start", "billing-resolution", "--people", "--as", "dana", "--reason", "x"),
            "`dana@example.com` may not sign for this; it takes refund-approver.",
        ),
        (
            ("rollout", "start", "billing-resolution", "--people", "--reason", "x"),
            "Say who decides with `--as`; the dev issuer signs as anybody.",
        ),
        (
            ("rollout", "start", "nobody", "--people", "--as", "ana", "--reason", "x"),
            "There is no agent `nobody`; known agents: billing-resolution, incident-assistant, support-triage.",
        ),
        (
            ("rollout", "promote", "incident-assistant", "--as", "bo", "--reason", "x"),
            "Agent `incident-assistant` was never rolled out; `remit rollout start` begins it.",
        ),
        (
            ("rollout", "show", "incident-assistant"),
            "Agent `incident-assistant` was never rolled out; `remit rollout start` begins it.",
        ),
        (("rollout", "abort", NAME, "--reason", " "), "`--reason` is empty; say why."),
        (("outcome", "nothing", "--csat", "4"), "The ledger has no closed run `nothing`; `remit runs` lists them."),
        (
            ("outcome", "nothing"),
            "Say what became of it: `--csat`, `--reopened`, `--refunded`, `--escalated`, or their opposites.",
        ),
        (
            ("outcome", "nothing", "--csat", "9"),
            "The outcome can't be used: `csat` Input should be less than or equal to 5.",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(own: Console, args: tuple[str, ...], sentence: str) -> None:
    """Each ends with 1 and changes nothing."""
    assert own.remit(*args, code=1).err == f"remit: {sentence}\n"
