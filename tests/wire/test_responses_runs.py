"""Whole conversations over OpenAI's Responses: over turns, with reasoning in its place, against a server of others."""

import json
from collections.abc import AsyncIterator, Callable

import pytest

from activities.providers.base import ProviderError
from activities.providers.openai import OpenAIProvider
from tests.wire.responses_forms import answer, at_openai, call, check, message, reasoning
from tests.wire.server import CannedServer, ask
from workflows.messages import Message, TokenUsage, ToolMessage, UserMessage

MODEL = "gpt-6-luna"
QUESTION = UserMessage(text="Where does it rain?")
Connect = Callable[[str], OpenAIProvider]


@pytest.fixture
async def openai() -> AsyncIterator[Connect]:
    """Makes a provider that speaks to a URL as to OpenAI itself, and closes it after the test."""
    made: list[OpenAIProvider] = []

    def make(url: str) -> OpenAIProvider:
        made.append(at_openai(url))
        return made[-1]

    yield make
    for provider in made:
        await provider.aclose()


def result(call_id: str, sky: str = "sun") -> ToolMessage:
    return ToolMessage(call_id=call_id, name="weather", content=f'{{"sky":"{sky}"}}')


async def test_a_text_answer_comes_back_with_its_usage(aimock: str, openai: Connect) -> None:
    """Text and token counts are those that the server gave."""
    completion = await openai(aimock).complete(ask("text"))
    assert completion.message.text == "It is sunny."
    assert completion.usage == TokenUsage(input_tokens=120, output_tokens=30)
    assert (completion.stop, completion.dialect) == ("end", "responses")


async def test_parallel_calls_and_their_results_make_a_second_turn(aimock: str, openai: Connect) -> None:
    """Two calls of one turn come back in order, and their results sent together lead to the next answer."""
    provider = openai(aimock)
    first = await provider.complete(ask("two-calls", QUESTION))
    assert (first.message.text, first.stop) == ("I look at both.", "tool_calls")
    assert [json.loads(c.arguments)["city"] for c in first.message.tool_calls] == ["Oslo", "Bergen"]
    one, other = first.message.tool_calls
    second = await provider.complete(ask("two-calls", QUESTION, first.message, result(one.id), result(other.id, "rain")))
    assert second.message.text == "Rain in Bergen."


async def test_a_call_cut_off_by_the_limit_is_not_whole(aimock: str, openai: Connect) -> None:
    """A turn that ran into `max_output_tokens` says so, with the call as far as it was read."""
    completion = await openai(aimock).complete(ask("cut-off"))
    assert (completion.stop, len(completion.message.tool_calls)) == ("length", 1)


@pytest.mark.parametrize(
    ("model", "code", "retryable"),
    [("limited", "rate_limited", True), ("broken", "overloaded", True), ("unknown", "unknown_model", False)],
)
async def test_refusals_of_the_server_keep_their_kind(
    aimock: str, openai: Connect, model: str, code: str, retryable: bool
) -> None:
    """A limit, an outage and an unknown model are told apart, and only what may pass is asked for again."""
    with pytest.raises(ProviderError) as caught:
        await openai(aimock).complete(ask(model))
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


async def test_three_turns_keep_everything_where_it_was(server: CannedServer, openai: Connect) -> None:
    """Reasoning, words with their phase, and parallel calls go back in the order and with the ids in which they came."""
    opening = [
        reasoning("rs_1"),
        message("I look at both.", item_id="msg_1", phase="commentary"),
        call(call_id="call_a"),
        reasoning("rs_2"),
        message("And there.", item_id="msg_2", phase="commentary"),
        call(call_id="call_b"),
    ]
    middle = [reasoning("rs_3"), call(call_id="call_c")]
    server.begin(answer(*opening), answer(*middle), answer(message("Rain.", phase="final_answer")))
    provider = openai(server.url)
    transcript: list[Message] = [QUESTION]
    for ids in (("call_a", "call_b"), ("call_c",)):
        completion = await provider.complete(ask(MODEL, *transcript))
        assert completion.stop == "tool_calls"
        transcript += [completion.message, *map(result, ids)]
    assert (await provider.complete(ask(MODEL, *transcript))).message.text == "Rain."
    for body in server.bodies:
        check(body)

    def sent(item: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in item.items() if value is not None}  # the `status` of reasoning

    def output(name: str) -> dict[str, object]:
        return {"type": "function_call_output", "call_id": name, "output": '{"sky":"sun"}'}

    assert server.sent["input"][1:] == [
        *map(sent, opening),
        output("call_a"),
        output("call_b"),
        *map(sent, middle),
        output("call_c"),
    ]


async def test_two_messages_of_one_answer_do_not_run_together(server: CannedServer, openai: Connect) -> None:
    """An answer of two messages is two paragraphs for people, and two items again for OpenAI."""
    first, second = message("I looked.", phase="commentary"), message("Sun.", item_id="msg_2", phase="final_answer")
    server.begin(answer(first, second), answer(message("ok")))
    provider = openai(server.url)
    found = await provider.complete(ask(MODEL, QUESTION))
    assert found.message.text == "I looked.\n\nSun."
    await provider.complete(ask(MODEL, QUESTION, found.message, UserMessage(text="Sure?")))
    assert server.sent["input"][1:3] == [first, second]


async def test_ids_stay_away_with_reasoning_that_cannot_come_back(server: CannedServer, openai: Connect) -> None:
    """OpenAI refuses an item by its id when the reasoning before it is missing, so it goes as one without an id."""
    said = [reasoning("rs_1", content=None), message("I look.", phase="commentary"), reasoning("rs_2"), call(call_id="call_a")]
    server.begin(answer(*said), answer(message("ok")))
    provider = openai(server.url)
    found = await provider.complete(ask(MODEL, QUESTION))
    await provider.complete(ask(MODEL, QUESTION, found.message, result("call_a")))
    check(server.bodies[-1])
    words, kept, called = server.sent["input"][1:4]
    assert words == {"role": "assistant", "content": "I look.", "phase": "commentary"}
    assert (kept["type"], kept["id"]) == ("reasoning", "rs_2")
    assert (called["type"], "id" in called) == ("function_call", False)


@pytest.mark.parametrize(("code", "expected"), [(503, "overloaded"), ("429", "rate_limited"), (401, "auth")])
async def test_an_error_of_a_gateway_counts_as_its_status(
    server: CannedServer, openai: Connect, code: object, expected: str
) -> None:
    """A gateway that answers 200 with the status of the server behind it is taken at that status."""
    server.answer({"error": {"code": code, "message": "from behind"}})
    with pytest.raises(ProviderError) as caught:
        await openai(server.url).complete(ask(MODEL))
    assert (caught.value.code, caught.value.retryable) == (expected, expected != "auth")
