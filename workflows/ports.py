"""Typed stubs of the activities: all that workflow code may call. A test compares each with its implementation."""

from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable

from temporalio import workflow
from temporalio.common import Priority
from temporalio.exceptions import ActivityError, ApplicationError

from policies.identity import Directory
from workflows import options
from workflows.fleet_messages import (
    Applied,
    AppliedTrips,
    ApplyRollouts,
    ApplySwitches,
    ApplyTrips,
    ConfirmKill,
    DrillReport,
    Look,
    Looked,
    PlayDrill,
    ReportSwitch,
    SwitchReport,
    TellAll,
    ToldAll,
)
from workflows.keeper_messages import SealedRuns, SealRuns
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
from workflows.rollout_messages import AppliedRollouts

__all__ = [
    "admit",
    "apply_rollouts",
    "apply_switches",
    "apply_trips",
    "archive",
    "call_model",
    "confirm_kill",
    "execute_tool",
    "give_up",
    "look_at_agents",
    "mint_capability",
    "play_drill",
    "read_facts",
    "read_people",
    "read_tool",
    "record_proposal",
    "record_run",
    "report_switch",
    "seal_runs",
    "tell_runs",
    "write_kill",
]

T = TypeVar("T")


@runtime_checkable
class Shared(Protocol):
    """A workflow that says whose work its activities are."""

    @property
    def share(self) -> Priority: ...


async def admit(arg: Admission, *, summary: str) -> Capsule:
    return await workflow.execute_activity(
        "admit", arg, result_type=Capsule, summary=summary, priority=_share(), **options.ADMIT
    )


async def archive(arg: Archive, *, summary: str) -> Segment:
    return await workflow.execute_activity(
        "archive", arg, result_type=Segment, summary=summary, priority=_share(), **options.ARCHIVE
    )


async def call_model(arg: CallModel, *, summary: str) -> ModelTurn:
    return await workflow.execute_activity(
        "call_model", arg, result_type=ModelTurn, summary=summary, priority=_share(), **options.MODEL
    )


async def mint_capability(arg: MintCapability, *, summary: str) -> Minted:
    return await _local("mint_capability", arg, Minted, summary, options.MINT)


async def read_facts(arg: ReadFacts, *, summary: str) -> RecordedFacts:
    return await _local("read_facts", arg, RecordedFacts, summary, options.READ)


async def read_people(arg: ReadPeople, *, summary: str) -> Directory:
    return await workflow.execute_activity(
        "read_people", arg, result_type=Directory, summary=summary, priority=_share(), **options.ADMIT
    )


async def read_tool(arg: ReadTool, *, fast: bool, attempts: int, summary: str) -> ToolOutcome:
    if fast:
        return await _local("read_tool", arg, ToolOutcome, summary, options.READ)
    return await workflow.execute_activity(
        "read_tool", arg, result_type=ToolOutcome, summary=summary, priority=_share(), **options.slow_read(attempts)
    )


async def execute_tool(arg: ExecuteTool, *, attempts: int, summary: str) -> ToolOutcome:
    return await workflow.execute_activity(
        "execute_tool", arg, result_type=ToolOutcome, summary=summary, priority=_share(), **options.write(attempts)
    )


async def record_proposal(arg: ProposalEnd, *, summary: str) -> bool:
    return await _local("record_proposal", arg, bool, summary, options.RECORD)


async def record_run(arg: RunEnd, *, summary: str) -> bool:
    return await _local("record_run", arg, bool, summary, options.RECORD)


async def write_kill(arg: WriteKill, *, summary: str) -> KillState:
    # G4: an off switch waits behind nobody, its own agent's flood included.
    first = replace(_share(), priority_key=options.FIRST)
    return await workflow.execute_activity(
        "write_kill", arg, result_type=KillState, summary=summary, priority=first, **options.KILL
    )


async def give_up(arg: ExecuteTool, *, summary: str) -> ToolOutcome:
    return await workflow.execute_activity(
        "give_up", arg, result_type=ToolOutcome, summary=summary, priority=_share(), **options.GIVE_UP
    )


def _share() -> Priority:
    run: object = workflow.instance() if workflow.in_workflow() else None
    return run.share if isinstance(run, Shared) else Priority.default


async def confirm_kill(arg: ConfirmKill, *, summary: str) -> KillState:
    return await _local("confirm_kill", arg, KillState, summary, options.READ)


async def apply_switches(arg: ApplySwitches, *, summary: str) -> Applied:
    first = Priority(priority_key=options.FIRST)
    return await workflow.execute_activity(
        "apply_switches", arg, result_type=Applied, summary=summary, priority=first, **options.KILL
    )


async def look_at_agents(arg: Look, *, summary: str) -> Looked:
    return await workflow.execute_activity(
        "look_at_agents", arg, result_type=Looked, summary=summary, priority=_share(), **options.LOOK
    )


async def seal_runs(arg: SealRuns, *, summary: str) -> SealedRuns:
    return await workflow.execute_activity(
        "seal_runs", arg, result_type=SealedRuns, summary=summary, priority=_share(), **options.SEAL
    )


async def apply_trips(arg: ApplyTrips, *, summary: str) -> AppliedTrips:
    first = Priority(priority_key=options.FIRST)
    return await workflow.execute_activity(
        "apply_trips", arg, result_type=AppliedTrips, summary=summary, priority=first, **options.KILL
    )


async def apply_rollouts(arg: ApplyRollouts, *, summary: str) -> AppliedRollouts:
    return await workflow.execute_activity(
        "apply_rollouts", arg, result_type=AppliedRollouts, summary=summary, priority=_share(), **options.ROLLOUT
    )


async def tell_runs(arg: TellAll, *, summary: str) -> ToldAll:
    return await workflow.execute_activity(
        "tell_runs", arg, result_type=ToldAll, summary=summary, priority=_share(), **options.TELL
    )


async def report_switch(arg: ReportSwitch, *, summary: str) -> SwitchReport:
    return await workflow.execute_activity(
        "report_switch", arg, result_type=SwitchReport, summary=summary, priority=_share(), **options.REPORT
    )


async def play_drill(arg: PlayDrill, *, summary: str) -> DrillReport:
    return await workflow.execute_activity(
        "play_drill", arg, result_type=DrillReport, summary=summary, priority=_share(), **options.DRILL
    )


async def _local(name: str, arg: object, result: type[T], summary: str, how: options.LocalOptions) -> T:
    """A local activity that fails as the others do: its own error would come bare, without the `ActivityError` around it."""
    try:
        return await workflow.execute_local_activity(name, arg, result_type=result, summary=summary, **how)
    except ApplicationError as e:
        raise ActivityError(
            f"`{name}` failed",
            scheduled_event_id=0,
            started_event_id=0,
            identity="",
            activity_type=name,
            activity_id="",
            retry_state=None,
        ) from e
