"""The ten checks of `make live`, on models of ours: one that does all that is asked, and some that don't."""

import json
from collections.abc import Callable

import pytest

from activities.providers.base import Completion, ModelRequest, ProviderError
from policies.routing import ModelChoice, Price
from tests.live.checks import CEILING_MICRO_USD, CHECKS, CUT_OFF_AT, NOBODYS_MODEL, Session, run
from tests.live.targets import KEYS, compatible, shipped
from workflows.messages import (
    FINAL_ANSWER,
    AssistantMessage,
    ProviderState,
    StopReason,
    TokenUsage,
    ToolMessage,
    ToolRequest,
    UserMessage,
)

GOOD = ModelChoice(provider="openai", model="good", price=Price(input_per_mtok=1_000_000, output_per_mtok=2_000_000))
STATE = ProviderState(provider="openai", model="good", items=({"type": "reasoning", "id": "rs_1"},))


class GoodModel:
    """A provider whose model does all that it is asked.

    Attributes:
        asked: the requests, in order.
    """

    name = "openai"

    def __init__(self, *, key: str = "right", tokens: int = 10) -> None:
        self.asked: list[ModelRequest] = []
        self._key = key
        self._tokens = tokens

    async def complete(self, request: ModelRequest) -> Completion:
        self.asked.append(request)
        if self._key != "right":
            raise ProviderError("auth", "The key is refused.", retryable=False)
        if request.model == NOBODYS_MODEL:
            raise ProviderError("unknown_model", "There is no such model.", retryable=False)
        message, stop = self.says(request)
        seen = sum(earlier.system == request.system and len(request.system) > 4000 for earlier in self.asked)
        usage = TokenUsage(input_tokens=self._tokens, output_tokens=5, cached_input_tokens=8 if seen > 1 else 0)
        return Completion(message=message, usage=usage, model=request.model, request_digest="sha256:0", stop=stop)

    def says(self, request: ModelRequest) -> tuple[AssistantMessage, StopReason]:
        """The answer, and why it ends."""
        last = request.messages[-1]
        if request.max_output_tokens == CUT_OFF_AT:
            return AssistantMessage(text="one two three"), "length"
        if isinstance(last, ToolMessage) or not request.tools:
            return AssistantMessage(text="ready"), "end"
        if request.tools[0].name == FINAL_ANSWER:
            return _calls(ToolRequest(id="", name=FINAL_ANSWER, arguments='{"outcome": "no_action", "summary": "Thanks."}'))
        assert isinstance(last, UserMessage)
        customers = [name for name in ("cus_101", "cus_102") if name in last.text]
        return _calls(*(_balance(name) for name in customers), state=STATE if "Think" in last.text else None)


def _balance(customer: str) -> ToolRequest:
    return ToolRequest(id="", name="read_balance", arguments=json.dumps({"customer_id": customer}))


def _calls(*calls: ToolRequest, state: ProviderState | None = None) -> tuple[AssistantMessage, StopReason]:
    return AssistantMessage(tool_calls=calls, state=state), "tool_calls"


class Silent(GoodModel):
    """Says nothing and calls nothing."""

    def says(self, request: ModelRequest) -> tuple[AssistantMessage, StopReason]:
        return AssistantMessage(), "end"


class Careless(GoodModel):
    """Takes every key and answers to every name, and makes one call at a time."""

    async def complete(self, request: ModelRequest) -> Completion:
        self._key = "right"
        return await super().complete(request.model_copy(update={"model": "any"}))

    def says(self, request: ModelRequest) -> tuple[AssistantMessage, StopReason]:
        message, stop = super().says(request)
        return message.model_copy(update={"tool_calls": message.tool_calls[:1]}), stop


def session(made: Callable[..., GoodModel] = GoodModel, *, vendor: bool = True, tokens: int = 10) -> Session:
    return Session(made(tokens=tokens), made(key="wrong"), GOOD, vendor=vendor)


async def test_a_model_that_works_passes_all_ten() -> None:
    """Each of the ten checks is passed, and what the answers took is counted and priced."""
    asked = session()
    found = await run(asked)
    assert [(each.name, each.ok) for each in found] == [(name, True) for name in CHECKS]
    assert len(CHECKS) == 10
    assert asked.calls == sum(each.calls for each in found) == 12
    assert asked.micro_usd == sum(each.micro_usd or 0 for each in found) == 12 * (10 + 2 * 5)


async def test_notes_say_what_was_seen() -> None:
    """What no vendor promises is a note: caching that was seen, and state that went back."""
    notes = {each.name: each.note for each in await run(session())}
    assert notes["caching"] == "8 tokens read from it"
    assert notes["second turn with state"] == "1 items of the vendor's went back"
    assert notes["unknown model"] == "`unknown_model`"
    assert notes["wrong key"] == "`auth`"


async def test_a_model_that_says_nothing_fails() -> None:
    """An answer without text and calls fails every check that wants some, with what was there instead."""
    found = {each.name: each for each in await run(session(Silent))}
    failed = [name for name, each in found.items() if not each.ok]
    assert failed == [
        "plain text",
        "one tool call",
        "two parallel calls",
        "a refused result",
        "final_answer",
        "cut off",
        "second turn with state",
    ]
    assert found["cut off"].note == 'stopped with `end`, not `length`: ""'


async def test_a_compatible_server_may_be_careless() -> None:
    """A server of one's own that looks at no key and no name, and makes one call at a time, passes with a note."""
    notes = {each.name: each.note for each in await run(session(Careless, vendor=False)) if each.ok}
    assert notes["unknown model"] == notes["wrong key"] == "this server doesn't look at it"
    assert notes["two parallel calls"] == "one call at a time, not two in one turn"


async def test_a_vendor_may_not_be_careless() -> None:
    """At the vendor itself the same answers fail."""
    failed = {each.name for each in await run(session(Careless)) if not each.ok}
    assert failed == {"unknown model", "wrong key", "two parallel calls"}


async def test_no_more_than_a_cent_is_spent() -> None:
    """Once the answers cost a cent, nothing more is asked."""
    asked = session(tokens=CEILING_MICRO_USD)
    found = await run(asked)
    assert [each.ok for each in found] == [True, *[False] * 9]
    assert found[-1].note == "not asked: the checks before it cost a cent already"
    assert asked.calls == 1


def test_no_key_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider without a key is skipped."""
    for variable in (name for names in KEYS.values() for name in names):
        monkeypatch.delenv(variable, raising=False)
    assert [shipped(name) for name in KEYS] == [None, None, None]


@pytest.mark.parametrize("name", KEYS)
async def test_a_key_asks_the_shipped_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key, the cheap model that the built-in agents are shipped with is asked, through the provider's own module."""
    monkeypatch.setenv(KEYS[name][0], "sk-test")
    target = shipped(name)
    assert target
    assert target.choice.provider == name
    assert target.choice.model
    async with target.session() as found:
        assert found.provider.name == found.wrong_key.name == name
        assert found.provider is not found.wrong_key


async def test_a_base_url_is_asked_instead() -> None:
    """`BASE_URL` names a server that speaks Chat Completions; without a key it is sent `none`."""
    target = compatible("http://127.0.0.1:9/v1", "mine", "")
    assert target.key.get_secret_value() == "none"
    async with target.session() as found:
        failed = {each.name: each.note for each in await run(found) if not each.ok}
    assert len(failed) == 10
    assert all(note.startswith(("connection: ", "refused as `connection`: ")) for note in failed.values())
