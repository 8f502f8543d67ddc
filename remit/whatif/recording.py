"""A recorded run, read from its histories by a replay: what its model said, what its tools gave, what people decided."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.worker import ExecuteWorkflowInput

from policies.approvals import Approval
from policies.canonical import digest
from policies.errors import InvalidInput, ToolRefusal
from policies.identity import Directory
from remit.history import Watch, watched
from tools.catalog import Catalog
from workflows.agent_run import AgentRun
from workflows.messages import (
    CallModel,
    Capsule,
    ExecuteTool,
    Message,
    ModelTurn,
    ReadFacts,
    ReadTool,
    RecordedFacts,
    RunSummary,
    StartInput,
    ToolOutcome,
)
from workflows.state import RunState, parse_message

__all__ = ["Call", "Recording", "call_of", "read"]

Call = str
"""What makes two calls the same: the tool and its parsed arguments, as a digest."""


@dataclass
class Recording:
    """What a run was given from outside, in the order in which it came.

    Attributes:
        people: those who weren't known at admission, and decided.
        turns: what the model answered, with how it was asked.
        facts, reads, writes: by call, oldest first.
        facts_on: by resource, the last ones.
        approvals: by call, oldest first.
    """

    start: StartInput
    capsule: Capsule
    summary: RunSummary
    messages: tuple[Message, ...]
    people: Directory = field(default_factory=Directory)
    turns: list[tuple[CallModel, ModelTurn]] = field(default_factory=list[tuple[CallModel, ModelTurn]])
    facts: dict[Call, list[RecordedFacts]] = field(default_factory=dict[Call, list[RecordedFacts]])
    facts_on: dict[str, RecordedFacts] = field(default_factory=dict[str, RecordedFacts])
    reads: dict[Call, list[ToolOutcome]] = field(default_factory=dict[Call, list[ToolOutcome]])
    writes: dict[Call, list[ToolOutcome]] = field(default_factory=dict[Call, list[ToolOutcome]])
    approvals: dict[Call, list[Approval]] = field(default_factory=dict[Call, list[Approval]])

    @property
    def steps(self) -> int:
        """How many steps its model decided on."""
        return max((call.step for call, _ in self.turns), default=-1) + 1


def call_of(catalog: Catalog, tool: str, arguments: str | Mapping[str, object]) -> Call:
    """The call of `tool` with `arguments`, whichever way they are written down."""
    text = arguments if isinstance(arguments, str) else json.dumps(dict(arguments))
    try:
        values: object = catalog.get(tool).parse(text).model_dump(mode="json")
    except ToolRefusal:
        values = text
    return digest([tool, values])


@dataclass
class _Noted:
    given: object
    result: object = None


class _Notes(Watch):
    """Notes what a replayed run asks of the world, and what it got."""

    def __init__(self) -> None:
        self.noted: list[_Noted] = []
        self.run: AgentRun | None = None
        self.start: StartInput | None = None

    def began(self, input: ExecuteWorkflowInput) -> None:
        self.run = workflow.instance()
        if self.start is None:
            continued = workflow.info().continued_run_id is not None
            with suppress(InvalidInput):  # which the run itself fails with
                self.start = RunState.of(input.args, continued=continued).start

    def asked(self, name: str, arg: object, *, local: bool) -> object:
        self.noted.append(_Noted(arg))
        return self.noted[-1]

    def answered(self, note: _Noted, result: object) -> None:
        note.result = result


async def read(histories: Sequence[WorkflowHistory], converter: DataConverter, catalog: Catalog) -> Recording:
    """The run whose histories these are, oldest first. Install `catalog` before.

    Raises:
        InvalidInput: today's code doesn't lead to them, or the run was never admitted.
    """
    notes = _Notes()
    for history in histories:
        if why := await watched(history, converter, notes):
            raise InvalidInput(f"Today's code can't read the run, so it can't be run again: {why}.")
    run, start = notes.run, notes.start
    if run is None:
        raise InvalidInput("No worker ever took the run up, so there is nothing to run again.")
    summary = run.status() if start else None
    if start is None or summary is None or not summary.policy_version:
        raise InvalidInput("The run was never admitted, so there is nothing to run again.")
    if summary.segments:
        raise InvalidInput("The run is so long that a part of its conversation lies in storage; such a run can't be run again.")
    found = Recording(start=start, capsule=run.capsule(), summary=summary, messages=tuple(_messages(run)))
    for noted in notes.noted:
        _keep(found, noted.given, noted.result, catalog)
    for approval in summary.approvals:
        call = call_of(catalog, approval.request.tool.partition("@")[0], approval.request.arguments)
        found.approvals.setdefault(call, []).append(approval)
    return found


def _messages(run: AgentRun) -> list[Message]:
    found: list[Message] = []
    while page := run.transcript(len(found)).messages:
        found += [parse_message(text) for text in page]
    return found


def _keep(found: Recording, given: object, result: object, catalog: Catalog) -> None:
    match given, result:
        case CallModel(), ModelTurn():
            found.turns.append((given, result))
        case ReadFacts(), RecordedFacts():
            # The capability that was minted with them has ended, and is for the run alone.
            facts = result.model_copy(update={"minted": None})
            found.facts.setdefault(call_of(catalog, given.tool, given.arguments), []).append(facts)
            spec = catalog.get(given.tool)
            found.facts_on[str(spec.resource(spec.parse(given.arguments)))] = facts
        case ReadTool(), ToolOutcome():
            if result.status != "paused":
                found.reads.setdefault(call_of(catalog, given.tool, given.arguments), []).append(result)
        case ExecuteTool(), ToolOutcome():
            if result.status not in ("paused", "killed"):
                found.writes.setdefault(call_of(catalog, given.tool, given.arguments), []).append(result)
        case _, Directory():
            found.people = found.people.joined(result)
        case _:
            pass
