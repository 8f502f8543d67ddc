"""Whole runs on Google's models, over real HTTP with its SDK."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from activities import prices
from policies.routing import ModelChoice
from remit.embedded import TemporalServer
from tests.engine import Engine
from tests.wire.google_forms import check
from tests.wire.server import CannedServer
from workflows.messages import RunSummary, TokenUsage

PATIENCE_SECONDS = 60
CHEAP = "gemini-3.5-flash-lite"


def said(*parts: dict[str, Any], reason: str = "STOP", **more: object) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [*parts]}, "finishReason": reason, **more}
    usage = {"promptTokenCount": 1200, "candidatesTokenCount": 50, "thoughtsTokenCount": 30, "cachedContentTokenCount": 200}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": CHEAP}


def call(tool: str, **arguments: object) -> dict[str, Any]:
    return {"functionCall": {"id": "same", "name": tool, "args": arguments}, "thoughtSignature": "QzE="}


END = said(call("final_answer", outcome="no_action", summary="Nothing to do."))


@pytest.fixture
async def google() -> AsyncGenerator[CannedServer]:
    async with CannedServer() as server:
        server.answer(END)
        yield server


async def run(server: TemporalServer, home: Path, google: CannedServer) -> RunSummary:
    async with AsyncExitStack() as closing:
        client = await server.ready()
        key = SecretStr("k")
        overrides = {"google_api_key": key, "google_base_url": google.url}
        engine = await closing.enter_async_context(Engine(client, home, overrides=overrides))
        handle = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        return await asyncio.wait_for(engine.closed(handle.id), PATIENCE_SECONDS)


async def test_a_run_ends_well_and_is_priced_as_google_bills(server: TemporalServer, home: Path, google: CannedServer) -> None:
    """Two turns with signatures and one id for all calls end a run, and each token has Google's price."""
    google.begin(said({"text": "Let me see."}, call("get_ticket", ticket_id="T-1001")), said(call("list_invoices")))
    summary = await run(server, home, google)
    assert (summary.status, summary.summary, summary.model) == ("completed", "Nothing to do.", CHEAP)
    for body in google.bodies:
        check(body)
    contents = json.loads(google.bodies[-1])["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user", "model", "user"]
    for content in contents[1::2]:  # as Google gave them, though our ids are different
        assert content["parts"][-1]["functionCall"]["id"] == "same"
        assert content["parts"][-1]["thoughtSignature"] == "QzE="
    assert [content["parts"][0]["functionResponse"]["id"] for content in contents[2::2]] == ["same", "same"]
    used = TokenUsage(input_tokens=1200, output_tokens=80, cached_input_tokens=200, reasoning_tokens=30)
    each, _ = prices.cost(ModelChoice(provider="google", model=CHEAP), used)
    assert summary.usage.cost_micro_usd == 3 * each


async def test_a_call_that_google_cannot_read_is_tried_again(server: TemporalServer, home: Path, google: CannedServer) -> None:
    """`MALFORMED_FUNCTION_CALL` is told to the model as any call that can't be read, and the run goes on."""
    words = "Malformed function call: print(default_api.get_ticket(ticket_id='T-1001'"
    google.begin(said(reason="MALFORMED_FUNCTION_CALL", finishMessage=words))
    summary = await run(server, home, google)
    assert (summary.status, summary.summary) == ("completed", "Nothing to do.")
    told = json.loads(google.bodies[-1])["contents"][-1]["parts"][0]["functionResponse"]
    assert told["name"] == "get_ticket"
    assert "validation_failed" in json.dumps(told["response"])


async def test_a_withheld_answer_goes_to_people(server: TemporalServer, home: Path, google: CannedServer) -> None:
    """A safety block ends the run as escalated, with Google's name for it."""
    google.answer(said(reason="SAFETY"))
    summary = await run(server, home, google)
    assert (summary.status, summary.stopped_by) == ("escalated", "content_filter")
    assert summary.summary == "Google withheld the answer: `SAFETY`."
