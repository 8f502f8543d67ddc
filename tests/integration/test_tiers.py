"""Tiers with a server of their own, in whole runs over real HTTP: who is asked, with which key, at which price."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr

from activities.ledger import records
from remit.client import RunFailed
from remit.embedded import TemporalServer
from remit.settings import ROOT
from tests.engine import Engine
from tests.integration.test_fallback import PATIENCE_SECONDS, end, said
from tests.wire.server import CannedServer
from tools import registry
from tools.builtin import CATALOG
from workflows.messages import Capsule, RunSummary

STRONG = """
[[route]]
anthropic = "claude-sonnet-5-5"
"""


class Setup:
    """An app with one agent whose first tier is at `own`, and a worker with a key for Anthropic, at `vendor`."""

    def __init__(self, engine: Engine, own: CannedServer, vendor: CannedServer) -> None:
        self.engine = engine
        self.own = own
        self.vendor = vendor

    async def run(self) -> RunSummary:
        handle = await self.engine.remit.start("house-triage", {"ticket_id": "T-1001"})
        return await asyncio.wait_for(self.engine.closed(handle.id), PATIENCE_SECONDS)


def agent_at(url: str, folder: Path) -> Path:
    """An app like the shipped support agent, with a model of the house for the first look."""
    shipped = (ROOT / "agents" / "support-triage" / "agent.toml").read_text()
    head, tail = shipped.split("[[route]]")[0], shipped[shipped.index("[limits]") :]
    route = f"""
[[route]]
provider = "openai"
model = "house-model"
base_url = "{url}/v1"
key_variable = "HOUSE_LLM_KEY"
price = {{ input_per_mtok = 1_000_000, output_per_mtok = 2_000_000, cache_read_per_mtok = 250_000 }}
max_output_tokens = 2_000
{STRONG}
"""
    place = folder / "agents" / "house-triage"
    place.mkdir(parents=True)
    (place / "agent.toml").write_text(head.replace("support-triage", "house-triage") + route + tail)
    shutil.copy(ROOT / "agents" / "support-triage" / "prompt.md", place / "prompt.md")
    bundle = folder / "policies" / "bundles" / "house_v1"
    shutil.copytree(ROOT / "policies" / "bundles" / "support_v1", bundle)
    for file in (bundle / "policy.cedar", place / "agent.toml"):
        file.write_text(file.read_text().replace("support-triage", "house-triage").replace("support_v1", "house_v1"))
    return folder


@pytest.fixture
async def setup(server: TemporalServer, home: Path, tmp_path: Path) -> AsyncGenerator[Setup]:
    async with AsyncExitStack() as closing:
        own, vendor = [await closing.enter_async_context(CannedServer()) for _ in range(2)]
        own.answer(end("openai"))
        vendor.answer(end("anthropic"))
        overrides = {
            "app": agent_at(own.url, tmp_path / "house"),
            "anthropic_base_url": vendor.url,
            "anthropic_api_key": SecretStr("vendor-key"),
        }
        engine = await closing.enter_async_context(Engine(await server.ready(), home, overrides=overrides))
        yield Setup(engine, own, vendor)
    registry.install(CATALOG)


async def test_a_tier_s_own_server_is_asked_with_its_own_key(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look goes to the house's model, at its declared price; the vendor whose key the worker has hears nothing."""
    monkeypatch.setenv("HOUSE_LLM_KEY", "house-key")
    setup.own.begin(said("openai", "get_ticket", ticket_id="T-1001"))
    summary = await setup.run()
    assert (summary.status, summary.model, summary.usage.model_calls) == ("completed", "house-model", 2)
    assert summary.usage.cost_micro_usd == 2 * (1200 * 1 + 80 * 2)
    assert all(b"authorization: bearer house-key" in head.lower() for head in setup.own.heads)
    assert setup.vendor.bodies == []


async def test_the_capsule_pins_the_server_and_never_its_key(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which server, under which variable's key, and the limit of answers are fixed at admission."""
    monkeypatch.setenv("HOUSE_LLM_KEY", "house-key")
    handle = await setup.engine.remit.start("house-triage", {"ticket_id": "T-1001"})
    await setup.engine.closed(handle.id)
    capsule = await handle.query("capsule", result_type=Capsule)
    own, strong = capsule.route.models
    assert (own.endpoint, own.key_variable, own.max_output_tokens) == (f"openai {setup.own.url}/v1", "HOUSE_LLM_KEY", 2_000)
    assert (strong.endpoint, strong.max_output_tokens) == ("anthropic", 16_000)
    assert "house-key" not in capsule.model_dump_json()


async def test_a_run_is_not_admitted_without_the_key_of_a_tier_s_server(setup: Setup) -> None:
    """One sentence names the variable, before anything is asked."""
    with pytest.raises(RunFailed, match="wants a key, and `HOUSE_LLM_KEY` isn't set for this worker; set it"):
        await setup.run()
    assert setup.own.bodies == []


async def test_what_a_cache_saved_is_recorded_at_the_model_s_own_price(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """800 of 1,200 tokens came from the server's cache, at a quarter of their price."""
    monkeypatch.setenv("HOUSE_LLM_KEY", "house-key")
    answer = end("openai")
    answer["usage"]["prompt_tokens_details"] = {"cached_tokens": 800}
    setup.own.answer(answer)
    summary = await setup.run()
    assert summary.usage.cost_micro_usd == 400 + 800 // 4 + 80 * 2
    with setup.engine.ledger.reading() as connection:
        [record] = records.of_agent(connection, "house-triage", 0)
    assert (record.input_tokens, record.cached_input_tokens, record.cache_saved_micro_usd) == (1_200, 800, 600)
