"""Whole runs on a compatible server's model, over real HTTP, with answers as such servers really give them."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr

from remit.embedded import TemporalServer
from tests.engine import Engine
from tests.wire.chat_forms import answer, call
from tests.wire.server import CannedServer
from workflows.messages import RunSummary

PATIENCE_SECONDS = 60
READ = {"ticket_id": "T-1001"}
END = answer({"tool_calls": [call("final_answer", {"outcome": "no_action", "summary": "Nothing to do."})]}, "tool_calls")
SIGNED: dict[str, object] = {"extra_content": {"google": {"thought_signature": "c2ln"}}}


@pytest.fixture
async def model() -> AsyncGenerator[CannedServer]:
    async with CannedServer() as server:
        server.answer(END)
        yield server


async def run(server: TemporalServer, home: Path, model: CannedServer) -> RunSummary:
    async with AsyncExitStack() as closing:
        found = {"openai_base_url": f"{model.url}/v1\n", "openai_api_key": SecretStr("k"), "model": "m"}
        prices = {"price_input_per_mtok": 1_000_000, "price_output_per_mtok": 1_000_000}
        client = await server.ready()
        engine = await closing.enter_async_context(Engine(client, home, overrides={**found, **prices}))
        handle = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        return await asyncio.wait_for(engine.closed(handle.id), PATIENCE_SECONDS)


async def test_what_servers_want_back_comes_back_in_each_turn(server: TemporalServer, home: Path, model: CannedServer) -> None:
    """Signatures and reasoning of two turns are at their places in the third, though the ids, which were one, are ours."""
    said = {"reasoning_content": "Read it first.", "tool_calls": [{**call("get_ticket", READ, "call_0"), **SIGNED}]}
    model.begin(answer(said), answer(said))
    summary = await run(server, home, model)
    assert (summary.status, summary.summary) == ("completed", "Nothing to do.")
    turns = [message for message in json.loads(model.bodies[-1])["messages"] if message["role"] == "assistant"]
    assert [turn["reasoning_content"] for turn in turns] == ["Read it first."] * 2
    assert [turn["tool_calls"][0]["extra_content"] for turn in turns] == [SIGNED["extra_content"]] * 2
    assert len({turn["tool_calls"][0]["id"] for turn in turns}) == 2


async def test_a_call_without_a_name_is_told_to_the_model(server: TemporalServer, home: Path, model: CannedServer) -> None:
    """A call that makes no sense costs one turn, not the run."""
    model.begin(answer({"tool_calls": [{"id": "x", "type": "function"}]}))
    summary = await run(server, home, model)
    assert (summary.status, len(model.bodies)) == ("completed", 2)
    assert json.loads(model.bodies[-1])["messages"][-1]["role"] == "tool"


async def test_a_call_of_an_answer_that_was_cut_off_is_not_made(
    server: TemporalServer, home: Path, model: CannedServer
) -> None:
    """Arguments that a parser closed look whole: the answer is asked for again, with twice the room."""
    usage = {"prompt_tokens": 100, "completion_tokens": 4096, "total_tokens": 4196}
    model.begin(answer({"tool_calls": [call("get_ticket", READ)]}, "tool_calls", usage))
    summary = await run(server, home, model)
    assert summary.status == "completed"
    first, second = [json.loads(body) for body in model.bodies]
    assert second["messages"] == first["messages"]
    assert second["max_tokens"] == 2 * first["max_tokens"]


async def test_a_refusal_goes_to_people(server: TemporalServer, home: Path, model: CannedServer) -> None:
    """A run that the model refuses is no success: it ends as escalated, with the model's words."""
    model.answer(answer({"refusal": "I'm sorry, I can't help with that."}))
    summary = await run(server, home, model)
    assert (summary.status, summary.stopped_by, summary.summary) == (
        "escalated",
        "refusal",
        "I'm sorry, I can't help with that.",
    )


async def test_half_an_emoji_ends_no_run(server: TemporalServer, home: Path, model: CannedServer) -> None:
    """Half of a surrogate pair in a summary is stored as U+FFFD."""
    end = {"outcome": "no_action", "summary": "Done \ud83d."}
    model.answer(answer({"tool_calls": [call("final_answer", json.dumps(end))]}))
    summary = await run(server, home, model)
    assert (summary.status, summary.summary) == ("completed", "Done \ufffd.")


async def test_a_number_that_no_database_holds_ends_no_run(server: TemporalServer, home: Path, model: CannedServer) -> None:
    """A count of 2^64 tokens is estimated instead, and the run is recorded."""
    model.answer({**END, "usage": {"prompt_tokens": 2**64 - 1, "completion_tokens": 2**64 - 1}})
    summary = await run(server, home, model)
    assert summary.status == "completed"
    assert 0 < summary.usage.input_tokens < 100_000
