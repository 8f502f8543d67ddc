"""The shortcut past the sandbox: it answers what the sandbox would, and workflow code stays inside."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from remit.connection import CONVERTER
from remit.sandbox import runner
from remit.shortcut import Sandbox
from workflows.agent_run import AgentRun

HISTORY = Path(__file__).parent.parent / "replay" / "histories" / "0.1.0" / "one_approval.json"


async def replayed(sandbox: SandboxedWorkflowRunner) -> None:
    replayer = Replayer(workflows=[AgentRun], workflow_runner=sandbox, data_converter=CONVERTER)
    await replayer.replay_workflow(WorkflowHistory.from_json("one_approval", HISTORY.read_text()))


async def test_the_shortcut_is_taken_with_this_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDK that keeps its instances elsewhere would still work, only slowly: this is where one notices."""
    made: list[WorkflowInstance] = []
    create = Sandbox.create_instance

    def watched(self: Sandbox, det: WorkflowInstanceDetails) -> WorkflowInstance:
        made.append(create(self, det))
        return made[-1]

    monkeypatch.setattr(Sandbox, "create_instance", watched)
    await replayed(runner())
    assert len(made) > 0
    assert {type(instance).__module__ for instance in made} == {"remit.shortcut"}


async def test_an_sdk_without_the_known_instance_is_asked_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of Remit depends on the shortcut."""
    monkeypatch.setattr("remit.shortcut._INSIDE", "somewhere else")
    await replayed(runner())


async def test_runs_share_the_code_of_their_workflow_but_not_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run has a module and a class of its own; what is compiled is compiled once."""
    found: list[type] = []
    create = Sandbox.create_instance

    def watched(self: Sandbox, det: WorkflowInstanceDetails) -> WorkflowInstance:
        instance = create(self, det)
        sandboxed: Any = getattr(instance, "_sandboxed")  # noqa: B009  (private)
        found.append(sandboxed.globals_and_locals["__temporal_workflow_class"])
        return instance

    monkeypatch.setattr(Sandbox, "create_instance", watched)
    await replayed(runner())
    first, *others = found
    assert others
    for other in others:
        assert other is not first
        assert vars(other)["run"].__code__ is vars(first)["run"].__code__


def test_the_restrictions_are_those_of_the_sdk() -> None:
    """The class changes none of them, and survives what plugins do to a runner."""
    assert Sandbox().restrictions == SandboxedWorkflowRunner().restrictions
    assert isinstance(dataclasses.replace(runner(), restrictions=Sandbox().restrictions), Sandbox)
