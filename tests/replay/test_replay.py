"""Stored histories of real runs replay with today's code; a change that breaks one needs `workflow.patched`."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from remit import __version__
from remit.connection import CONVERTER
from remit.demo import tickets
from remit.sandbox import runner
from workflows.agent_run import AgentRun
from workflows.fleet_control import FleetControl
from workflows.kill_drill import KillDrill
from workflows.trace_keeper import TraceKeeper

HISTORIES = Path(__file__).parent / "histories"
STORED = sorted(path.relative_to(HISTORIES).with_suffix("").as_posix() for path in HISTORIES.glob("*/*.json"))
"""As `RELEASE/SCENARIO`: every release's are replayed, for runs that it began are continued by today's code."""


def replayer() -> Replayer:
    """A replayer set up as the worker is."""
    workflows = [AgentRun, FleetControl, KillDrill, TraceKeeper]
    return Replayer(workflows=workflows, workflow_runner=runner(), data_converter=CONVERTER)


def text(name: str) -> str:
    return (HISTORIES / f"{name}.json").read_text()


def test_every_scenario_of_the_demo_has_a_stored_history() -> None:
    """One recorded by this release, with `python -m tests.replay.record`."""
    assert {f"{__version__}/{t.scenario}" for t in tickets() if t.scenario} <= set(STORED)


@pytest.mark.parametrize("name", STORED)
async def test_a_stored_history_replays(name: str) -> None:
    """The code issues the same commands as when the run was recorded."""
    await replayer().replay_workflow(WorkflowHistory.from_json(name, text(name)))


@pytest.mark.parametrize("activity", ["admit", "call_model", "execute_tool"])
async def test_a_changed_history_is_detected(activity: str) -> None:
    """Code that asked for another activity than the recorded one wouldn't pass unnoticed."""
    changed = text(f"{__version__}/auto_refund").replace(f'"name": "{activity}"', '"name": "another"')
    assert changed != text(f"{__version__}/auto_refund")
    with pytest.raises(NondeterminismError):
        await replayer().replay_workflow(WorkflowHistory.from_json("changed", changed))


async def test_an_approval_that_was_tampered_with_is_detected() -> None:
    """The signature is verified on replay too: with another token, the refund of the history has nothing to stand on."""
    history: dict[str, Any] = json.loads(text(f"{__version__}/one_approval"))
    [accepted] = [e for e in history["events"] if "workflowExecutionUpdateAcceptedEventAttributes" in e]
    [payload] = accepted["workflowExecutionUpdateAcceptedEventAttributes"]["acceptedRequest"]["input"]["args"]["payloads"]
    decision: dict[str, str] = json.loads(base64.b64decode(payload["data"]))
    changed = decision | {"decision_jws": decision["decision_jws"][:-8]}
    payload["data"] = base64.b64encode(json.dumps(changed).encode()).decode()
    with pytest.raises(NondeterminismError):
        await replayer().replay_workflow(WorkflowHistory.from_json("changed", json.dumps(history)))


@pytest.mark.parametrize("name", STORED)
def test_a_stored_history_names_no_machine(name: str) -> None:
    """Nothing of where it was recorded is kept."""
    assert '"stackTrace"' not in text(name)
    assert set(re.findall(r'"identity": "(.*)"', text(name))) <= {"recorder", "temporal-scheduler-default-drill"}
    assert not re.search(r"\d@", text(name))
