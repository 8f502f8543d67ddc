"""The OpenAI Agents SDK on Temporal (temporalio-openai-agents): the conversation lives in the workflow."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from openai import AsyncOpenAI
    from temporalio.openai_agents import ModelActivityParameters, OpenAIAgentsPlugin
    from temporalio.openai_agents.workflow import activity_as_tool

    from agents import Agent, OpenAIProvider, RunConfig, Runner
    from bench.serving import model_url, serve
    from bench.task import PROMPT, tool_result_json

__all__ = ["WORKFLOWS", "OpenAIAgent", "OpenAIGated", "plugins"]

TIMEOUT = timedelta(seconds=60)
TURNS = 100_000
QUIET = RunConfig(tracing_disabled=True)


@activity.defn
async def lookup(step: int) -> str:
    """Look up one step of the task and return its rows."""
    return tool_result_json(step)


def _agent(*, gated: bool = False) -> Agent:
    tool = activity_as_tool(lookup, start_to_close_timeout=TIMEOUT)
    tool.needs_approval = gated
    return Agent(name="bench", instructions=PROMPT, model="fake", tools=[tool])


@workflow.defn
class OpenAIAgent:
    @workflow.run
    async def run(self, text: str) -> str:
        return (await Runner.run(_agent(), text, max_turns=TURNS, run_config=QUIET)).final_output


@workflow.defn
class OpenAIGated:
    """The SDK's own approvals, and a kill that doesn't wait for the model."""

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
        agent = _agent(gated=True)
        result = await Runner.run(agent, text, max_turns=TURNS, run_config=QUIET)
        asked = 0
        while result.interruptions:
            asked += 1
            await workflow.wait_condition(lambda asked=asked: self._approved >= asked)
            state = result.to_state()
            for item in result.interruptions:
                state.approve(item)
            result = await Runner.run(agent, state, max_turns=TURNS, run_config=QUIET)
        return result.final_output

    @workflow.signal
    def approve(self) -> None:
        self._approved += 1

    @workflow.signal
    def kill(self) -> None:
        self._killed = True


WORKFLOWS = (OpenAIAgent, OpenAIGated)


def plugins() -> list[OpenAIAgentsPlugin]:
    client = AsyncOpenAI(base_url=model_url(), api_key="none")
    provider = OpenAIProvider(openai_client=client, use_responses=True)
    return [OpenAIAgentsPlugin(model_params=ModelActivityParameters(start_to_close_timeout=TIMEOUT), model_provider=provider)]


if __name__ == "__main__":
    import bench.peers.openai_agents as module

    serve(module.WORKFLOWS, [module.lookup], module.plugins())
