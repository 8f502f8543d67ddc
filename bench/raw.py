"""The limit: a loop of two activities a step on plain Temporal, written by hand, that keeps deltas. No governance at all.

The model call sends only what is new, with `previous_response_id`, through a quicker HTTP client than the SDKs have.
"""

import asyncio
import json
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    import aiohttp

    from bench.serving import model_url, serve
    from bench.task import PROMPT, TOOL, TOOL_DESCRIPTION, TOOL_SCHEMA, tool_result

__all__ = ["WORKFLOWS", "RawAgent", "RawGated"]

TIMEOUT = timedelta(seconds=60)
TOOLS = [{"type": "function", "name": TOOL, "description": TOOL_DESCRIPTION, "parameters": TOOL_SCHEMA}]
_session: list[aiohttp.ClientSession] = []


@activity.defn
async def raw_model(previous: str | None, item: dict[str, Any]) -> dict[str, Any]:
    """The model's answer to what is new."""
    if not _session:
        _session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)))
    body = {"model": "fake", "instructions": PROMPT, "input": [item], "tools": TOOLS}
    if previous:
        body["previous_response_id"] = previous
    async with _session[0].post(f"{model_url()}/responses", json=body) as answer:
        answer.raise_for_status()
        found = json.loads(await answer.read())
    turn = {"id": found["id"], "text": found["output"][0]["content"][0]["text"]}
    for call in found["output"][1:]:
        turn["call"] = {"id": call["call_id"], "arguments": call["arguments"]}
    return turn


@activity.defn
async def raw_tool(arguments: str) -> dict[str, Any]:
    """The tool's result."""
    return tool_result(json.loads(arguments)["step"])


async def _model(previous: str | None, item: dict[str, Any]) -> dict[str, Any]:
    return await workflow.execute_activity(raw_model, args=[previous, item], start_to_close_timeout=TIMEOUT)


async def _rows(arguments: str) -> dict[str, Any]:
    return await workflow.execute_activity(raw_tool, arguments, start_to_close_timeout=TIMEOUT)


async def _tool(turn: dict[str, Any]) -> dict[str, Any]:
    """The item that answers the turn's call."""
    rows = await _rows(turn["call"]["arguments"])
    return {"type": "function_call_output", "call_id": turn["call"]["id"], "output": json.dumps(rows)}


@workflow.defn
class RawAgent:
    @workflow.run
    async def run(self, text: str) -> str:
        turn = await _model(None, {"role": "user", "content": text})
        while "call" in turn:
            turn = await _model(turn["id"], await _tool(turn))
        return str(turn["text"])


@workflow.defn
class RawGated:
    """The same loop, with an approval before each tool call, and a kill that doesn't wait for the model."""

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
        turn = await _model(None, {"role": "user", "content": text})
        asked = 0
        while "call" in turn:
            asked += 1
            await workflow.wait_condition(lambda asked=asked: self._approved >= asked)
            turn = await _model(turn["id"], await _tool(turn))
        return str(turn["text"])

    @workflow.signal
    def approve(self) -> None:
        self._approved += 1

    @workflow.signal
    def kill(self) -> None:
        self._killed = True


WORKFLOWS = (RawAgent, RawGated)

if __name__ == "__main__":
    import bench.raw  # the workflows of the module by its name: as `__main__` the sandbox would import it a second time

    serve(bench.raw.WORKFLOWS, [bench.raw.raw_model, bench.raw.raw_tool])
