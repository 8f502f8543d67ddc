"""Pydantic AI on Temporal, by its `TemporalDurability`."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, UsageLimits
    from pydantic_ai.durable_exec.temporal import PydanticAIPlugin, PydanticAIWorkflow, TemporalDurability
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    from bench.serving import model_url, serve
    from bench.task import PROMPT, tool_result

__all__ = ["WORKFLOWS", "PydanticAgent", "PydanticGated", "plugins"]

MODEL = OpenAIChatModel("fake", provider=OpenAIProvider(base_url=model_url(), api_key="none"))
NO_LIMITS = UsageLimits(request_limit=None)


def _durable() -> TemporalDurability:
    return TemporalDurability(activity_config={"start_to_close_timeout": timedelta(seconds=60)})


def lookup(step: int) -> dict[str, object]:
    """Look up one step of the task and return its rows."""
    return tool_result(step)


free = Agent(MODEL, name="bench", instructions=PROMPT, capabilities=[_durable()])
free.tool_plain(lookup)
gated = Agent(MODEL, name="gated", instructions=PROMPT, output_type=[str, DeferredToolRequests], capabilities=[_durable()])
gated.tool_plain(requires_approval=True)(lookup)


@workflow.defn
class PydanticAgent(PydanticAIWorkflow):
    __pydantic_ai_agents__ = (free,)

    @workflow.run
    async def run(self, text: str) -> str:
        return (await free.run(text, usage_limits=NO_LIMITS)).output


@workflow.defn
class PydanticGated(PydanticAIWorkflow):
    """The SDK's own approvals, and a kill that doesn't wait for the model."""

    __pydantic_ai_agents__ = (gated,)

    def __init__(self) -> None:
        self._approved = 0
        self._killed = False

    @workflow.run
    async def run(self, text: str) -> str:
        work = asyncio.create_task(self._work(text))
        await workflow.wait_condition(lambda: self._killed or work.done())
        if self._killed:
            work.cancel()
            raise ApplicationError("killed", non_retryable=True)
        return work.result()

    async def _work(self, text: str) -> str:
        result = await gated.run(text, usage_limits=NO_LIMITS)
        asked = 0
        while isinstance(result.output, DeferredToolRequests):
            asked += 1
            await workflow.wait_condition(lambda asked=asked: self._approved >= asked)
            given = DeferredToolResults(approvals={call.tool_call_id: True for call in result.output.approvals})
            result = await gated.run(message_history=result.all_messages(), deferred_tool_results=given, usage_limits=NO_LIMITS)
        return result.output

    @workflow.signal
    def approve(self) -> None:
        self._approved += 1

    @workflow.signal
    def kill(self) -> None:
        self._killed = True


WORKFLOWS = (PydanticAgent, PydanticGated)


def plugins() -> list[PydanticAIPlugin]:
    return [PydanticAIPlugin()]


if __name__ == "__main__":
    import bench.peers.pydantic_ai as module

    serve(module.WORKFLOWS, plugins=module.plugins())
