"""A run whose model can't be reached waits, visibly and durably, on a server that skips time."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from rich.console import Console
from temporalio.api.sdk.v1 import WorkflowMetadata

from remit.embedded import free_port
from remit.render import show
from tests.engine import Engine
from tests.wire.server import CannedServer
from tests.workflow.conftest import SetLimits, time_skipping
from workflows.messages import ProviderWait, RunSummary

UNREACHABLE = "The provider can't be reached, or broke the connection off; check the network and the base URL."
REFUSALS = [
    (401, {"error": {"code": "invalid_api_key", "message": "no"}}, "auth"),
    (403, {"error": {"code": "forbidden", "message": "no"}}, "auth"),
    (404, {"error": {"code": "model_not_found", "message": "no"}}, "unknown_model"),
    (429, {"error": {"code": "insufficient_quota", "message": "no"}}, "quota"),
    (429, {"error": {"code": "rate_limit_exceeded", "message": "no"}}, "rate_limited"),
    (500, {"error": {"message": "no"}}, "overloaded"),
    (503, b"<html>", "overloaded"),
]


def chat(name: str, **arguments: object) -> dict[str, Any]:
    """A tool call as Chat Completions writes it."""
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    choice = {
        "index": 0,
        "finish_reason": "tool_calls",
        "message": {"role": "assistant", "content": None, "tool_calls": [call]},
    }
    usage = {"prompt_tokens": 1200, "completion_tokens": 80, "total_tokens": 1280}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


END = chat("final_answer", outcome="no_action", summary="Back again.")


@asynccontextmanager
async def engine_at(home: Path, url: str) -> AsyncGenerator[Engine]:
    """An engine whose only model is behind `url`."""
    found = {"openai_base_url": f"{url}/v1", "openai_api_key": SecretStr("k"), "model": "m"}
    prices = {"price_input_per_mtok": 1_000_000, "price_output_per_mtok": 1_000_000}
    async with time_skipping(home, **found, **prices) as engine:
        yield engine


async def waiting(engine: Engine, run_id: str, tries: int = 1) -> tuple[RunSummary, ProviderWait]:
    """The run, once it has tried in vain so often; time stands still meanwhile."""
    summary = await engine.until(run_id, lambda s: s.waiting is not None and s.waiting.tries >= tries)
    assert summary.waiting
    return summary, summary.waiting


async def details(engine: Engine, run_id: str) -> str:
    """What the Temporal UI shows of the run."""
    metadata = await engine.remit.handle(run_id).query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return metadata.current_details


def shown(summary: RunSummary) -> str:
    console = Console(width=300)
    with console.capture() as caught:
        for part in show(summary):
            console.print(part)
    return caught.get()


async def test_a_run_waits_for_a_provider_that_cannot_be_reached(home: Path, set_limits: SetLimits) -> None:
    """It says for whom, since when and why, in `show` and in the UI; its wall time ends the wait."""
    set_limits(wall_seconds=7200)
    async with engine_at(home, f"http://127.0.0.1:{free_port()}") as engine:
        run = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        summary, waits = await waiting(engine, run.id)
        assert (summary.status, waits.provider, waits.code, waits.message) == (
            "waiting_for_provider",
            "openai",
            "connection",
            UNREACHABLE,
        )
        assert waits.next_try - waits.since >= 15
        assert "waiting for provider" in shown(summary)
        assert UNREACHABLE in shown(summary)
        assert "**Waits for `openai`**" in await details(engine, run.id)
        await run.result()
        done = await engine.remit.status(run.id)
        assert (done.status, done.stopped_by) == ("stopped", "wall_seconds")
        assert done.usage.unknown_cost_calls >= 3


@pytest.mark.parametrize(("status", "body", "code"), REFUSALS, ids=[f"{r[0]}-{r[2]}" for r in REFUSALS])
async def test_each_refusal_that_is_not_the_runs_is_waited_for(home: Path, status: int, body: object, code: str) -> None:
    """A key, a model's name, an account or a vendor's health is the deployment's: the run goes on once that is right."""
    async with CannedServer() as server, engine_at(home, server.url) as engine:
        server.answer(body, status)
        run = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        _, waits = await waiting(engine, run.id)
        assert waits.code == code
        server.answer(END)
        assert await engine.remit.resume(run.id, "It is back.")
        done = await asyncio.wait_for(engine.closed(run.id), 60)
        assert (done.status, done.summary, done.waiting) == ("completed", "Back again.", None)
        assert done.retries >= 1
        assert done.last_retry == f"openai: {code}"


async def test_a_run_asks_again_by_itself(home: Path) -> None:
    """Nobody has to do anything once the provider is back: the timer is durable."""
    async with CannedServer() as server, engine_at(home, server.url) as engine:
        server.answer({"error": {"message": "no"}}, 503)
        run = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        await waiting(engine, run.id)
        server.answer(END)
        assert (await run.result()).outcome == "completed"


async def test_a_run_that_waits_can_be_killed(home: Path) -> None:
    """An off switch doesn't wait for a vendor."""
    async with engine_at(home, f"http://127.0.0.1:{free_port()}") as engine:
        run = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        await waiting(engine, run.id)
        await run.signal("kill", {"reason": "Enough."})
        assert (await run.result()).outcome == "killed"
        assert (await engine.remit.status(run.id)).waiting is None


@pytest.mark.parametrize("wish", ["410400", "9999999999999", "1e15", "-5", "inf", "nan", "soon"])
async def test_no_server_makes_a_run_wait_for_days(home: Path, wish: str) -> None:
    """Whatever `Retry-After` says, the next try comes within some minutes."""
    async with CannedServer() as server, engine_at(home, server.url) as engine:
        server.answer({"error": {"message": "no"}}, 429, {"retry-after": wish})
        run = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        _, waits = await waiting(engine, run.id)
        assert 0 < waits.next_try - waits.since <= 400


async def test_what_a_vendor_will_not_process_hands_over(home: Path) -> None:
    """A 400 of a content filter is no outage: the run is escalated by its code."""
    async with CannedServer() as server, engine_at(home, server.url) as engine:
        server.answer({"error": {"code": "content_filter", "message": "no"}}, 400)
        run = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        await run.result()
        done = await engine.remit.status(run.id)
        assert (done.status, done.stopped_by) == ("escalated", "content_filter")


async def test_a_conversation_that_the_vendor_finds_too_long_is_shortened(home: Path) -> None:
    """Results of tools are left out of what is sent, and the run goes on."""
    async with CannedServer() as server, engine_at(home, server.url) as engine:
        server.answer(END)
        long = {"error": {"code": "context_length_exceeded", "message": "no"}}
        server.begin(chat("get_ticket", ticket_id="T-1001"), (400, long))
        run = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        assert (await run.result()).outcome == "completed"
        first, second = [json.loads(body)["messages"] for body in server.bodies[1:]]
        assert "dropped" not in json.dumps(first)
        assert "dropped" in json.dumps(second)
