"""Typed stubs of the activities: all that workflow code may call. A test compares each with its implementation."""

from temporalio import workflow

from policies.identity import Directory
from workflows import options
from workflows.messages import (
    Admission,
    CallModel,
    Capsule,
    ExecuteTool,
    KillState,
    ModelTurn,
    ReadFacts,
    ReadPeople,
    ReadTool,
    RecordedFacts,
    ToolOutcome,
    WriteKill,
)

__all__ = ["admit", "call_model", "execute_tool", "read_facts", "read_people", "read_tool", "write_kill"]


async def admit(arg: Admission, *, summary: str) -> Capsule:
    return await workflow.execute_activity("admit", arg, result_type=Capsule, summary=summary, **options.ADMIT)


async def call_model(arg: CallModel, *, summary: str) -> ModelTurn:
    return await workflow.execute_activity("call_model", arg, result_type=ModelTurn, summary=summary, **options.MODEL)


async def read_facts(arg: ReadFacts, *, summary: str) -> RecordedFacts:
    return await workflow.execute_local_activity("read_facts", arg, result_type=RecordedFacts, summary=summary, **options.READ)


async def read_people(arg: ReadPeople, *, summary: str) -> Directory:
    return await workflow.execute_activity("read_people", arg, result_type=Directory, summary=summary, **options.ADMIT)


async def read_tool(arg: ReadTool, *, fast: bool, attempts: int, summary: str) -> ToolOutcome:
    if fast:
        return await workflow.execute_local_activity("read_tool", arg, result_type=ToolOutcome, summary=summary, **options.READ)
    return await workflow.execute_activity(
        "read_tool", arg, result_type=ToolOutcome, summary=summary, **options.slow_read(attempts)
    )


async def execute_tool(arg: ExecuteTool, *, attempts: int, summary: str) -> ToolOutcome:
    return await workflow.execute_activity(
        "execute_tool", arg, result_type=ToolOutcome, summary=summary, **options.write(attempts)
    )


async def write_kill(arg: WriteKill, *, summary: str) -> KillState:
    return await workflow.execute_activity("write_kill", arg, result_type=KillState, summary=summary, **options.KILL)
