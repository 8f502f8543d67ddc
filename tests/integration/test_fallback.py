"""When a provider is down, the next one of the route answers: over real HTTP, with the vendors' own SDKs."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import SecretStr
from rich.console import Console
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import prices
from activities.gates import Gate
from activities.ledger.store import Ledger
from activities.model import Lost, ModelActivities
from activities.runs import Runs
from activities.storage import FolderStorage
from policies.routing import ModelChoice, Price, Route
from remit.client import RunFailed
from remit.embedded import TemporalServer
from remit.render import show
from tests.builders import capsule
from tests.engine import Engine, uncapped
from tests.wire.server import CannedServer, ProviderName, provider_at
from tools.builtin import CATALOG
from workflows import options
from workflows.messages import AssistantMessage, CallModel, Capsule, ModelTurn, RunSummary, TokenUsage

PATIENCE_SECONDS = 60
OTHER: dict[ProviderName, ProviderName] = {"openai": "anthropic", "anthropic": "openai"}
MODELS: dict[ProviderName, str] = {"openai": "gpt-6-luna", "anthropic": "claude-haiku-5-5"}
USAGE = TokenUsage(input_tokens=1200, output_tokens=80)


def said(vendor: str, tool: str, **arguments: object) -> dict[str, Any]:
    """One tool call, as `vendor` writes it."""
    if vendor == "openai":
        call = {
            "id": f"call_{tool}|a.b",  # an id that the other vendor would refuse
            "type": "function",
            "function": {"name": tool, "arguments": json.dumps(arguments)},
        }
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        usage = {"prompt_tokens": 1200, "completion_tokens": 80, "total_tokens": 1280}
        choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "tool_use", "id": f"toolu_{tool}", "name": tool, "input": arguments}],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 1200, "output_tokens": 80},
    }


def end(vendor: str) -> dict[str, Any]:
    return said(vendor, "final_answer", outcome="no_action", summary=f"{vendor} answered.")


class Vendors:
    """Two vendors on HTTP and an engine that has a key for both, `first` before the other."""

    def __init__(self, closing: AsyncExitStack, client: Client, home: Path) -> None:
        self._closing, self._client, self._home = closing, client, home
        self.servers: dict[ProviderName, CannedServer] = {}

    async def serve(self) -> None:
        for name in MODELS:
            server = await self._closing.enter_async_context(CannedServer())
            self.servers[name] = server
            server.answer(end(name))

    async def engine(self, first: ProviderName = "openai", **overrides: object) -> Engine:
        urls = {
            "openai_base_url": f"{self.servers['openai'].url}/v1",
            "anthropic_base_url": self.servers["anthropic"].url,
            "openai_api_key": SecretStr("k"),
            "anthropic_api_key": SecretStr("k"),
            "provider": first,
        }
        return await self._closing.enter_async_context(Engine(self._client, self._home, overrides=urls | overrides))

    async def down(self, name: ProviderName, how: str) -> None:
        server = self.servers[name]
        if how == "refused":
            await server.__aexit__()
        elif how == "429":
            server.answer({"error": {"message": "slow down"}}, 429, {"retry-after": "200"})
        else:
            server.answer({"error": {"message": "oops"}}, 500)


@pytest.fixture
async def vendors(server: TemporalServer, home: Path) -> AsyncGenerator[Vendors]:
    async with AsyncExitStack() as closing:
        found = Vendors(closing, await server.ready(), home)
        await found.serve()
        yield found


async def run(engine: Engine) -> RunSummary:
    handle = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
    return await asyncio.wait_for(engine.closed(handle.id), PATIENCE_SECONDS)


@pytest.mark.parametrize("how", ["refused", "500", "429"])
async def test_the_next_provider_answers_when_one_is_down(vendors: Vendors, how: str) -> None:
    """A run ends well though connections are refused, or all answers are 500 or 429, and pays the price of who answered."""
    await vendors.down("openai", how)
    dear = Price(input_per_mtok=90_000_000, output_per_mtok=90_000_000)
    first = ModelChoice(provider="openai", model=MODELS["openai"], price=dear)
    engine = await vendors.engine(
        model=first.model, price_input_per_mtok=dear.input_per_mtok, price_output_per_mtok=dear.output_per_mtok
    )
    summary = await run(engine)
    assert (summary.status, summary.summary) == ("completed", "anthropic answered.")
    assert (summary.model, summary.fallbacks) == (MODELS["anthropic"], 1)
    code = {"refused": "connection", "500": "overloaded", "429": "rate_limited"}[how]
    assert summary.fell_back_from == f"openai: {code}"
    cost, _ = prices.cost(ModelChoice(provider="anthropic", model=MODELS["anthropic"]), USAGE)
    assert summary.usage.cost_micro_usd == cost < prices.cost(first, USAGE)[0]
    # Three attempts asked the first one: what it refused isn't billed, what broke off may be.
    assert summary.usage.unknown_cost_calls == {"refused": 3, "500": 0, "429": 0}[how]
    assert ("3 model calls of unknown cost" in shown(summary)) == (how == "refused")
    assert f"1 answer from a fallback (openai: {code})" in shown(summary)


def shown(summary: RunSummary) -> str:
    console = Console(width=200)
    with console.capture() as caught:
        for part in show(summary):
            console.print(part)
    return caught.get()


@pytest.mark.parametrize("first", ["openai", "anthropic"])
async def test_a_conversation_goes_on_at_the_other_provider(vendors: Vendors, first: ProviderName) -> None:
    """What one vendor began, the other ends: it sees the tool call and its result under one id that it accepts."""
    other = OTHER[first]
    await vendors.down(first, "500")
    vendors.servers[first].begin(said(first, "get_ticket", ticket_id="T-1001"))
    summary = await run(await vendors.engine(first))
    assert (summary.status, summary.model, summary.usage.model_calls) == ("completed", MODELS[other], 2)
    assert [c.tool for c in summary.calls] == ["get_ticket"]
    assert len(vendors.servers[other].bodies) == 1
    asked, got = vendors.servers[other].sent["messages"][-2:]
    if other == "anthropic":
        assert asked["content"][0]["id"] == got["content"][0]["tool_use_id"]
        assert asked["content"][0]["id"].replace("_", "").replace("-", "").isalnum()
        assert "T-1001" in got["content"][0]["content"]
    else:
        assert asked["tool_calls"][0]["id"] == got["tool_call_id"]
        assert "T-1001" in got["content"]


async def test_the_next_run_does_not_ask_a_provider_that_is_down(vendors: Vendors) -> None:
    """What one run learned spares the others of the worker the wait, until one call looks again."""
    await vendors.down("openai", "500")
    engine = await vendors.engine()
    await run(engine)
    asked = len(vendors.servers["openai"].bodies)
    summary = await run(engine)
    assert (summary.status, summary.fell_back_from) == ("completed", "openai: down")
    assert len(vendors.servers["openai"].bodies) == asked == 3


async def test_a_refused_key_is_no_outage(vendors: Vendors) -> None:
    """After a 401 the run waits, with the variable to check; the transcript goes to no other vendor."""
    vendors.servers["openai"].answer({"error": {"message": "bad key", "code": "invalid_api_key"}}, 401)
    engine = await vendors.engine()
    handle = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
    waits = (await engine.until(handle.id, lambda s: s.waiting is not None)).waiting
    assert waits
    assert waits.message == "The provider refused the key (401 `invalid_api_key`); check `OPENAI_API_KEY`."
    assert vendors.servers["anthropic"].bodies == []
    vendors.servers["openai"].answer(end("openai"))
    assert await engine.remit.resume(handle.id, "The key is renewed.")
    assert (await engine.closed(handle.id)).status == "completed"


async def test_an_account_without_credit_falls_back_at_once(vendors: Vendors) -> None:
    """`insufficient_quota` doesn't pass by itself: one call is enough to go to the other vendor."""
    vendors.servers["openai"].answer({"error": {"message": "No credit.", "code": "insufficient_quota"}}, 429)
    summary = await run(await vendors.engine())
    assert (summary.status, summary.fell_back_from) == ("completed", "openai: quota")
    assert len(vendors.servers["openai"].bodies) == 1


async def test_a_run_that_fails_for_its_model_says_what_may_have_been_billed(
    vendors: Vendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that can't be read were paid for, perhaps: each is a call of unknown cost, though the run got none."""
    monkeypatch.setitem(options.MODEL, "retry_policy", RetryPolicy(maximum_attempts=2))  # six take half a minute
    vendors.servers["openai"].answer({"choices": []})
    engine = await vendors.engine(fallback="off")
    handle = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
    with pytest.raises(RunFailed):
        await asyncio.wait_for(engine.remit.result(handle.id), PATIENCE_SECONDS)
    assert len(vendors.servers["openai"].bodies) == 2
    assert (await engine.remit.status(handle.id)).usage.unknown_cost_calls == 2


def test_an_attempt_that_died_counts_though_it_told_nothing() -> None:
    """The second of four attempts said that two calls may have been billed; the third is gone, and the fourth asks now."""
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, attempt=4, heartbeat_details=[2, 2, ["openai: timeout"]])
    assert environment.run(lambda: Lost().calls) == 3
    environment.info = replace(environment.info, attempt=1, heartbeat_details=[])
    assert environment.run(lambda: Lost().calls) == 0


async def test_fallback_can_be_switched_off(vendors: Vendors) -> None:
    """With `REMIT_FALLBACK=off` the capsule pins one provider, and has the form that it had before there were fallbacks."""
    engine = await vendors.engine(fallback="off")
    handle = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
    await engine.closed(handle.id)
    pinned = await handle.query("capsule", result_type=Capsule)
    assert pinned.route.fallbacks == ()
    assert set(pinned.route.model_dump()) == {"models"}


async def test_the_capsule_pins_the_fallbacks(vendors: Vendors) -> None:
    """Which models may answer is fixed at admission, each tier with its own."""
    engine = await vendors.engine()
    handle = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
    await engine.closed(handle.id)
    route = (await handle.query("capsule", result_type=Capsule)).route
    assert [(c.provider, c.model) for c in route.choices(1)] == [*MODELS.items()]
    assert [(c.provider, c.model) for c in route.choices(2)] == [("openai", "gpt-6.1-sol"), ("anthropic", "claude-sonnet-5-5")]


# ---- one attempt of the activity ------------------------------------------------------------------------------------------


class Attempt:
    """`call_model` against two vendors, one attempt at a time."""

    def __init__(self, vendors: Vendors) -> None:
        price = Price(input_per_mtok=1, output_per_mtok=1)
        choices = [ModelChoice(provider=name, model=name, price=price) for name in MODELS]
        self.capsule = capsule(route=Route(models=(choices[0],), fallbacks=((choices[1],),)))
        self.providers = {name: provider_at(name, server.url) for name, server in vendors.servers.items()}
        self.seconds = 180
        self.gates = {name: Gate(name, concurrency=1, patience_s=0.05) for name in MODELS}

    async def at(self, attempt: int, without: Literal["", "openai", "anthropic"] = "") -> ModelTurn:
        runs = Runs(FolderStorage(Path("no-such-folder")))
        runs.admitted(self.capsule)
        reached = {name: provider for name, provider in self.providers.items() if name != without}
        model = ModelActivities(runs, reached, CATALOG, self.gates, uncapped(Ledger("sqlite:///no-such-folder.db")))
        environment = ActivityEnvironment()
        limit = timedelta(seconds=self.seconds)
        environment.info = replace(environment.info, attempt=attempt, start_to_close_timeout=limit)
        return await environment.run(
            model.call_model, CallModel(cursor=0, transcript="", capsule=self.capsule.digest, tier=1, step=0)
        )

    async def failure(self, attempt: int, without: Literal["", "openai", "anthropic"] = "") -> ApplicationError:
        with pytest.raises(ApplicationError) as caught:
            await self.at(attempt, without)
        return caught.value


@pytest.fixture
async def attempt(vendors: Vendors) -> AsyncGenerator[Attempt]:
    found = Attempt(vendors)
    yield found
    for provider in found.providers.values():
        await provider.aclose()


async def test_a_single_failure_is_tried_again_where_it_happened(vendors: Vendors, attempt: Attempt) -> None:
    """One 500 isn't an outage: the first two attempts fail, retryable, and only the third goes elsewhere."""
    await vendors.down("openai", "500")
    for n in (1, 2):
        error = await attempt.failure(n)
        assert (error.type, error.non_retryable) == ("overloaded", False)
        assert vendors.servers["anthropic"].bodies == []
    answer = await attempt.at(3)
    assert (answer.provider, answer.fallback_from) == ("anthropic", "openai: overloaded")


async def test_when_all_are_down_the_sentence_names_both(vendors: Vendors, attempt: Attempt) -> None:
    """The first provider's failure is what the run waits for, and it says why the fallback was no help."""
    await vendors.down("openai", "500")
    vendors.servers["anthropic"].answer({"error": {"type": "authentication_error"}}, 401)
    error = await attempt.failure(3)
    assert (error.type, error.non_retryable, error.details[1].waits) == ("overloaded", True, True)
    assert error.message == (
        "The provider refused the call (500); try again later. `anthropic` didn't help: The provider refused the key "
        "(401 `authentication_error`); check `ANTHROPIC_API_KEY`."
    )


async def test_a_provider_that_is_down_is_still_the_last_resort(vendors: Vendors, attempt: Attempt) -> None:
    """If the fallback fails too, the first is asked before the attempt is given up: it may be back."""
    await vendors.down("openai", "500")
    for n in (1, 2, 3):
        await asyncio.gather(attempt.at(n), return_exceptions=True)
    assert not attempt.gates["openai"].usable()
    await vendors.down("anthropic", "500")
    vendors.servers["openai"].answer(end("openai"))
    assert (await attempt.at(1)).provider == "openai"
    assert attempt.gates["openai"].usable()


async def test_a_long_pause_is_a_reason_to_go_elsewhere_at_once(vendors: Vendors, attempt: Attempt) -> None:
    """A 429 that asks for more than a call may wait sends this call and the next ones to the fallback, until it is over."""
    await vendors.down("openai", "429")
    assert (await attempt.at(1)).fallback_from == "openai: rate_limited"
    assert (await attempt.at(1)).fallback_from == "openai: down"
    assert len(vendors.servers["openai"].bodies) == 1


async def test_a_429_without_a_fallback_is_told_when_to_come_back(vendors: Vendors, attempt: Attempt) -> None:
    """The vendor's wish is how long the run waits; a second run isn't sent there meanwhile, and waits as long."""
    await vendors.down("openai", "429")
    first, second = [await attempt.failure(1, without="anthropic") for _ in range(2)]
    assert (first.type, second.type) == ("rate_limited", "provider_busy")
    assert (first.details[1].waits, first.details[1].after_s) == (True, 200)
    assert second.details[1].waits
    assert 100 < second.details[1].after_s <= 200
    assert len(vendors.servers["openai"].bodies) == 1


async def test_an_account_without_credit_is_asked_once(vendors: Vendors, attempt: Attempt) -> None:
    """Without a fallback the run waits at once: trying again within seconds is no use."""
    vendors.servers["openai"].answer({"error": {"message": "No credit.", "code": "insufficient_quota"}}, 429)
    error = await attempt.failure(1, without="anthropic")
    assert (error.type, error.non_retryable, error.details[1].waits) == ("quota", True, True)


async def test_a_worker_without_the_first_key_says_so(attempt: Attempt) -> None:
    """A missing key is a mistake of the setup, and no outage that another vendor should cover up."""
    error = await attempt.failure(1, without="openai")
    assert (error.message, error.details[1].waits) == ("This worker has no key for `openai`.", True)


async def test_our_own_limit_is_no_outage(vendors: Vendors, attempt: Attempt) -> None:
    """A call that gets no turn within this worker's limits is asked again later, and doesn't go to another vendor."""
    async with attempt.gates["openai"].turn("somebody"):
        error = await attempt.failure(1)
    assert (error.type, error.non_retryable) == ("provider_busy", False)
    assert error.message == "This worker's limits for `openai` left no turn within 0.05 s."
    assert all(server.bodies == [] for server in vendors.servers.values())


async def test_an_attempt_without_time_asks_nobody(vendors: Vendors, attempt: Attempt) -> None:
    """A call that could only be cut off by its own timeout isn't sent: it would be paid for, and thrown away."""
    attempt.seconds = 9
    error = await attempt.failure(1)
    assert (error.type, error.message) == ("provider_busy", "This attempt has no time left to ask a provider.")
    assert all(server.bodies == [] for server in vendors.servers.values())


async def test_an_answer_that_was_read_is_the_transcripts(attempt: Attempt) -> None:
    """Without an outage the first provider answers, and no fallback is noted."""
    answer = await attempt.at(1)
    assert isinstance(answer.message, AssistantMessage)
    assert (answer.provider, answer.fallback_from) == ("openai", "")
