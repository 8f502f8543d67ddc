"""What stands in for the activities of a run that is run again: the record answers, and nothing is ever performed.

No connector, no ledger and no vendor is known here. Only the model may be asked anew, where the record has no answer of it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.model import ModelActivities
from activities.runs import Runs
from policies.identity import Directory
from remit.whatif.recording import Call, Recording, call_of
from tools.catalog import Catalog
from tools.spec import Arguments, ToolSpec
from workflows.fleet_messages import ConfirmKill
from workflows.messages import (
    Admission,
    Archive,
    CallModel,
    Capsule,
    ExecuteTool,
    KillState,
    MintCapability,
    Minted,
    ModelTurn,
    ReadFacts,
    ReadPeople,
    ReadTool,
    RecordedFacts,
    Segment,
    ToolOutcome,
    WriteKill,
)
from workflows.records import ProposalEnd, RunEnd

__all__ = ["MINTED", "NOT_RECORDED", "SIMULATED", "StandIn"]

NOT_RECORDED = "not_recorded"
SIMULATED = {"simulated": "This write isn't in the record; it was not performed, and is taken to have succeeded."}
MINTED = Minted(id="fork", expires_at=2**40)
"""A capability that opens nothing: no tool is carried out here."""
T = TypeVar("T")


@dataclass
class StandIn:
    """The activities of one run that is run again.

    Attributes:
        capsule: what the fork is pinned to.
        since: the step from which on the model's answers may differ from the recorded ones.
        same_model: whether prompt and model are the recorded ones, so that its answer to the same transcript stands.
        asked: steps at which the model was asked, for the record had no answer to what it is shown.
        notes: what came otherwise than by the record.
    """

    recording: Recording
    capsule: Capsule
    since: int
    same_model: bool
    model: ModelActivities
    runs: Runs
    catalog: Catalog
    asked: list[int] = field(default_factory=list[int])
    notes: list[str] = field(default_factory=list[str])
    _used: Counter[tuple[str, Call]] = field(default_factory=Counter[tuple[str, Call]])
    _simulated: Counter[str] = field(default_factory=Counter[str])

    @property
    def all(self) -> list[object]:
        """Every activity that the workflow may ask for."""
        return [
            self.admit,
            self.mint_capability,
            self.read_people,
            self.call_model,
            self.read_facts,
            self.read_tool,
            self.execute_tool,
            self.give_up,
            self.archive,
            self.record_proposal,
            self.record_run,
            self.write_kill,
            self.confirm_kill,
        ]

    @activity.defn(name="admit")
    async def admit(self, admission: Admission) -> Capsule:
        """What the recorded run was pinned to, with what is tried in its place."""
        self.runs.admitted(self.capsule)
        return self.capsule

    @activity.defn(name="call_model")
    async def call_model(self, call: CallModel) -> ModelTurn:
        """The recorded answer where it still is one; else the model's, which is asked."""
        if answer := self._answered(call):
            return answer
        self.asked.append(call.step)
        try:
            return await self.model.call_model(call)
        except ApplicationError as e:
            if not e.non_retryable:
                raise
            # Somebody looks on: a fork doesn't wait for a provider, as a run would.
            raise ApplicationError(e.message, *e.details[:1], type=e.type, non_retryable=True) from None

    def _answered(self, call: CallModel) -> ModelTurn | None:
        """The recorded answer to `call`: before the fork's step in any case, after it only to the very same question."""
        for given, answer in self.recording.turns:
            slot, wanted = [(c.step, c.tier, c.summarise is None, c.room, c.classify) for c in (given, call)]
            if slot != wanted:
                continue
            same = self.same_model and (given.transcript, given.window) == (call.transcript, call.window)
            if call.step < self.since or same:
                return answer
        return None

    @activity.defn(name="read_facts")
    async def read_facts(self, call: ReadFacts) -> RecordedFacts:
        """The recorded facts of this call, or else the last ones of its resource; sums count what the fork wrote besides."""
        spec, args = self._parsed(call.tool, call.arguments)
        facts = self._next("facts", self.recording.facts, call_of(self.catalog, call.tool, call.arguments))
        if facts is None:
            resource = str(spec.resource(args))
            facts = self.recording.facts_on.get(resource)
            if facts is None:
                self._note(f"{NOT_RECORDED}: nothing is recorded of `{resource}`, so `{call.tool}` on it isn't judged.")
                raise ApplicationError(f"Nothing is recorded of `{resource}`.", type=NOT_RECORDED, non_retryable=True)
            self._note(f"`{call.tool}` on `{resource}` has other arguments than the recorded call; it is judged by its facts.")
        more = self._simulated[call.tool]
        return facts.model_copy(update={"subject_sum_cents": facts.subject_sum_cents + more}) if more else facts

    @activity.defn(name="read_tool")
    async def read_tool(self, call: ReadTool) -> ToolOutcome:
        """The recorded result of this read; one that isn't recorded is refused."""
        outcome = self._next("read", self.recording.reads, call_of(self.catalog, call.tool, call.arguments))
        if outcome is None:
            self._note(
                f"{NOT_RECORDED}: `{call.tool}` {call.arguments[:200]} wasn't read in the recorded run, and isn't read now."
            )
            message = f"The result of `{call.tool}` with these arguments isn't in the record that this run is made from."
            return ToolOutcome(status="refused", reason=NOT_RECORDED, content=message)
        return outcome

    @activity.defn(name="execute_tool")
    async def execute_tool(self, call: ExecuteTool) -> ToolOutcome:
        """The recorded outcome of this write; another one is taken to succeed. Nothing is performed."""
        outcome = self._next("write", self.recording.writes, call_of(self.catalog, call.tool, call.arguments))
        if outcome is not None:
            return outcome
        spec, args = self._parsed(call.tool, call.arguments)
        amount = spec.amount(args)
        self._simulated[call.tool] += amount.cents if amount else 0
        of = f" of {amount}" if amount else ""
        self._note(f"simulated: `{call.tool}` on `{spec.resource(args)}`{of}, which the recorded run didn't carry out so.")
        return ToolOutcome(status="done", content=json.dumps(SIMULATED))

    @activity.defn(name="give_up")
    async def give_up(self, call: ExecuteTool) -> ToolOutcome:
        return ToolOutcome(status="refused", reason="not_sent", content="It wasn't carried out.")

    @activity.defn(name="mint_capability")
    async def mint_capability(self, call: MintCapability) -> Minted:
        return MINTED

    @activity.defn(name="read_people")
    async def read_people(self, wanted: ReadPeople) -> Directory:
        return Directory()

    @activity.defn(name="archive")
    async def archive(self, wanted: Archive) -> Segment:
        raise ApplicationError("The run is too long to be run again.", type="too_long", non_retryable=True)

    @activity.defn(name="record_proposal")
    async def record_proposal(self, end: ProposalEnd) -> bool:
        return True

    @activity.defn(name="record_run")
    async def record_run(self, end: RunEnd) -> bool:
        return True

    @activity.defn(name="write_kill")
    async def write_kill(self, kill: WriteKill) -> KillState:
        return KillState(engaged=True, reason=kill.reason, by=kill.by)

    @activity.defn(name="confirm_kill")
    async def confirm_kill(self, run: ConfirmKill) -> KillState:
        return KillState()

    def _parsed(self, tool: str, arguments: str) -> tuple[ToolSpec, Arguments]:
        spec = self.catalog.get(tool)
        return spec, spec.parse(arguments)

    def _next(self, kind: str, recorded: Mapping[Call, Sequence[T]], call: Call) -> T | None:
        """What the record gives the next time that `call` is made: the n-th time the n-th, and then the last again."""
        found = recorded.get(call, ())
        n = self._used[kind, call]
        self._used[kind, call] += 1
        return found[min(n, len(found) - 1)] if found else None

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
