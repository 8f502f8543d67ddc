"""The bench's tool, four times: a read, a read that takes no time, a write, and a write that a person must approve."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from bench.task import tool_result
from policies.models import ResourceFacts
from tools.spec import Arguments, Connector, Result, ToolContext, tool
from tools.subjects import Subjects


class Step(Arguments):
    step: Annotated[int, Field(ge=0, description="Step number")]


class Row(Result):
    id: str
    name: str
    qty: int
    note: str


class Rows(Result):
    step: int
    status: str
    rows: tuple[Row, ...]


class Steps(Connector):
    @abstractmethod
    async def owner(self, step: int) -> str: ...

    @abstractmethod
    async def rows(self, step: int) -> Rows: ...

    @abstractmethod
    async def record(self, step: int, *, idempotency_key: str) -> Rows: ...


async def facts(args: Step, context: ToolContext) -> ResourceFacts:
    return ResourceFacts(owner=await context.use(Steps).owner(args.step))


@tool(effect="read", risk="low", scope="steps:read", resource=("Step", "step"), facts=facts)
async def lookup(args: Step, context: ToolContext) -> Rows:
    """Look up one step of the task and return its rows."""
    return await context.use(Steps).rows(args.step)


@tool(effect="read", risk="low", scope="steps:read", resource=("Step", "step"), facts=facts, fast=True)
async def lookup_local(args: Step, context: ToolContext) -> Rows:
    """Look up one step of the task and return its rows."""
    return await context.use(Steps).rows(args.step)


@tool(effect="write", risk="low", scope="steps:write", resource=("Step", "step"), facts=facts, idempotency="native_key")
async def record(args: Step, context: ToolContext) -> Rows:
    """Record one step of the task and return its rows."""
    return await context.use(Steps).record(args.step, idempotency_key=context.idempotency_key)


@tool(effect="write", risk="high", scope="steps:write", resource=("Step", "step"), facts=facts, idempotency="native_key")
async def sign_off(args: Step, context: ToolContext) -> Rows:
    """Record one step of the task, once a person has approved it, and return its rows."""
    return await context.use(Steps).record(args.step, idempotency_key=context.idempotency_key)


class OneAccount(Steps, Subjects):
    """All steps belong to the account that asks. It knows each key that it was given, as a vendor would."""

    def __init__(self) -> None:
        self._done: dict[str, Rows] = {}

    async def subject_of(self, kind: str, resource_id: str) -> str | None:
        return "Account:one"

    async def owner(self, step: int) -> str:
        return "Account:one"

    async def rows(self, step: int) -> Rows:
        return Rows.model_validate(tool_result(step))

    async def record(self, step: int, *, idempotency_key: str) -> Rows:
        if idempotency_key not in self._done:
            self._done[idempotency_key] = await self.rows(step)
        return self._done[idempotency_key]


def connectors() -> Mapping[type[Connector], Connector]:
    account = OneAccount()
    return {Steps: account, Subjects: account}
