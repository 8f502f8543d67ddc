"""Whole runs on OpenAI's models through its Responses API, over real HTTP with its SDK."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr

from activities import prices
from activities.providers.base import ToolOffer
from policies.models import Effect
from policies.routing import ModelChoice
from remit.embedded import TemporalServer
from remit.proof.prompts import answered, is_digest_of
from remit.proof.reading import capsule_of
from tests.engine import Engine
from tests.guarantees.proving import CATALOG, Run, checked, left_by
from tests.wire.responses_forms import answer, call, check, message, reasoning
from tests.wire.server import CannedServer
from workflows.messages import RunSummary, TokenUsage

PATIENCE_SECONDS = 60
READ = '{"ticket_id": "T-1001"}'
END = answer(reasoning("rs_9"), call("final_answer", '{"outcome": "no_action", "summary": "Nothing to do."}', "call_z"))
REFUSED = {"error": {"message": "Encrypted content is not supported with this model.", "param": "include", "code": None}}


@pytest.fixture
async def model() -> AsyncGenerator[CannedServer]:
    async with CannedServer() as server:
        server.answer(END)
        yield server


async def run(server: TemporalServer, home: Path, model: CannedServer) -> tuple[RunSummary, Run]:
    """A closed run, and what it left behind."""
    async with AsyncExitStack() as closing:
        overrides = {"openai_base_url": f"{model.url}/v1", "openai_api_key": SecretStr("k"), "openai_api": "responses"}
        client = await server.ready()
        engine = await closing.enter_async_context(Engine(client, home, overrides=overrides))
        handle = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        summary = await asyncio.wait_for(engine.closed(handle.id), PATIENCE_SECONDS)
        return summary, await left_by(engine, handle.id)


async def digests(left: Run) -> list[bool]:
    """For each model call, whether the request built again from history is the one that was sent."""
    calls, failure = await answered(left.histories)
    pinned = capsule_of(left.histories)
    assert not failure and pinned
    specs = [CATALOG.get(tool.name) for tool in pinned.tools]
    offers: list[tuple[Effect, ToolOffer]] = [
        (s.effect, ToolOffer(name=s.name, description=s.description, parameters=s.schema)) for s in specs
    ]
    return [
        asked is not None and is_digest_of(asked.request(pinned, pinned.route.choose(1), offers), turn) for asked, turn in calls
    ]


async def test_reasoning_survives_history(server: TemporalServer, home: Path, model: CannedServer) -> None:
    """Two turns' reasoning is back in its place in the third, each request can be built again, and each token is priced."""
    first = answer(reasoning("rs_1"), message("I read it.", phase="commentary"), call("get_ticket", READ, "call_a"))
    second = answer(reasoning("rs_2"), call("get_ticket", READ, "call_a"))
    model.begin(first, second)
    summary, left = await run(server, home, model)
    assert (summary.status, summary.summary, summary.model) == ("completed", "Nothing to do.", "gpt-6-luna")
    for body in model.bodies:
        check(body)
    items = json.loads(model.bodies[-1])["input"]
    kinds = [item.get("type", item.get("role")) for item in items]
    turn = ["function_call", "function_call_output"]
    assert kinds == ["user", "reasoning", "message", *turn, "reasoning", *turn]
    assert [item["encrypted_content"] for item in items if item.get("type") == "reasoning"] == ["gAAA-1", "gAAA-1"]
    assert len({item["call_id"] for item in items if item.get("type") == "function_call"}) == 2
    assert await digests(left) == [True] * 3
    used = TokenUsage(input_tokens=120, output_tokens=30, cached_input_tokens=64, cache_write_tokens=32, reasoning_tokens=20)
    each, _ = prices.cost(ModelChoice(provider="openai", model="gpt-6-luna"), used)
    assert summary.usage.cost_micro_usd == 3 * each


async def test_a_capsule_holds_no_reasoning_and_verifies(server: TemporalServer, home: Path, model: CannedServer) -> None:
    """Encrypted reasoning is taken out of a capsule, which verifies all the same."""
    model.begin(answer(reasoning("rs_1", content="gAAA-secret"), call("get_ticket", READ)))
    _, left = await run(server, home, model)
    capsule = await left.capsule()
    assert "gAAA-secret" not in capsule.model_dump_json()
    assert capsule.contents.redaction.counts["provider_state"] >= 1
    report = await checked(capsule)
    assert (report.failed, report.exceptions) == ("", ())


async def test_a_part_that_the_server_refuses_is_known_to_the_proof(
    server: TemporalServer, home: Path, model: CannedServer
) -> None:
    """A request that went out in another form is built again in that form, and costs one refused call in all."""
    model.begin((400, REFUSED), answer(call("get_ticket", READ)))
    summary, left = await run(server, home, model)
    assert summary.status == "completed"
    assert ["include" in json.loads(body) for body in model.bodies] == [True, False, False]
    assert await digests(left) == [True] * 2
