"""OpenAI's Responses over real HTTP with its real SDK: what crosses, in which order, and what comes back."""

import asyncio
import json

import pytest

from activities.providers import openai_doors
from activities.providers.openai import OpenAIProvider
from activities.providers.responses import ResponsesProvider
from activities.providers.responses_body import body_of
from policies.errors import MissingKey
from policies.routing import Effort
from tests.wire.responses_forms import MODEL, Connect, answer, call, check, failure, reasoning, text
from tests.wire.server import KEY, WEATHER, CannedServer, ask
from workflows.messages import AssistantMessage, Message, ProviderState, TokenUsage, ToolMessage, ToolRequest, UserMessage

HANG_GUARD_S = 10
QUESTION = UserMessage(text="Where does it rain?")


def result(call_id: str, sky: str = "sun") -> ToolMessage:
    return ToolMessage(call_id=call_id, name="weather", content=f'{{"sky":"{sky}"}}')


async def test_a_text_answer_comes_back_with_its_usage(aimock: str, responses: Connect) -> None:
    """Text and token counts are those that the server gave."""
    completion = await responses(aimock).complete(ask("text"))
    assert completion.message.text == "It is sunny."
    assert completion.usage == TokenUsage(input_tokens=120, output_tokens=30)
    assert (completion.stop, completion.dialect) == ("end", "responses")


async def test_parallel_calls_and_their_results_make_a_second_turn(aimock: str, responses: Connect) -> None:
    """Two calls of one turn come back in order, and their results sent together lead to the next answer."""
    provider = responses(aimock)
    first = await provider.complete(ask("two-calls", QUESTION))
    assert first.message.text == "I look at both."
    assert first.stop == "tool_calls"
    assert [json.loads(c.arguments)["city"] for c in first.message.tool_calls] == ["Oslo", "Bergen"]
    one, other = first.message.tool_calls
    second = await provider.complete(ask("two-calls", QUESTION, first.message, result(one.id), result(other.id, "rain")))
    assert second.message.text == "Rain in Bergen."


@pytest.mark.parametrize(
    ("model", "code", "retryable"),
    [("limited", "rate_limited", True), ("broken", "overloaded", True), ("unknown", "unknown_model", False)],
)
async def test_refusals_of_the_server_keep_their_kind(
    aimock: str, responses: Connect, model: str, code: str, retryable: bool
) -> None:
    """A limit, an outage and an unknown model are told apart, and only what may pass is repeated."""
    error = await failure(responses(aimock), model)
    assert (error.code, error.retryable) == (code, retryable)


async def test_the_body_has_what_openai_wants(server: CannedServer, responses: Connect) -> None:
    """Nothing is stored, reasoning comes encrypted, tools are strict, and the shared prefix ends with a mark."""
    server.answer(answer(text("ok")))
    request = ask(MODEL, UserMessage(text="hi")).model_copy(update={"effort": "low", "cache_key": "k" * 80})
    await responses(server.url).complete(request)
    assert server.heads[-1].startswith(b"POST /v1/responses ")
    assert f"Bearer {KEY}".encode() in server.heads[-1]
    check(server.bodies[-1])
    assert server.sent == {
        "model": MODEL,
        "store": False,
        "tools": [
            {
                "type": "function",
                "name": "weather",
                "description": "The weather of a city.",
                "parameters": {**WEATHER.parameters, "additionalProperties": False},
                "strict": True,
            }
        ],
        "parallel_tool_calls": True,
        "prompt_cache_key": "k" * 64,
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low"},
        "input": [
            {
                "type": "message",
                "role": "developer",
                "content": [{"type": "input_text", "text": "Be brief.", "prompt_cache_breakpoint": {"mode": "explicit"}}],
            },
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        ],
        "max_output_tokens": 4096,
    }


async def test_older_models_get_no_marks(server: CannedServer, responses: Connect) -> None:
    """A model before `gpt-5.6` gets its prompt as `instructions`; one that doesn't reason isn't asked for reasoning."""
    server.answer(answer(text("ok")))
    for model, included in (("gpt-5.4-mini", True), ("gpt-4.1", False), ("ft:gpt-4.1-mini:shop", False)):
        await responses(server.url).complete(ask(model))
        check(server.bodies[-1])
        assert server.sent["instructions"] == "Be brief."
        assert ("include" in server.sent) is included
        assert b"prompt_cache_breakpoint" not in server.bodies[-1]
    assert server.sent["tools"][0]["strict"] is False  # fine-tuned models take fewer keywords


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_every_effort_is_one_that_openai_describes(effort: Effort) -> None:
    """Each effort that a tier can name makes a body that OpenAI knows."""
    check(body_of(ask(MODEL).model_copy(update={"effort": effort})))


def test_the_smallest_limit_is_sixteen() -> None:
    """OpenAI refuses a limit below 16, so a smaller one is raised."""
    assert json.loads(body_of(ask(MODEL).model_copy(update={"max_output_tokens": 5})))["max_output_tokens"] == 16


async def test_a_run_of_three_turns_keeps_reasoning_where_it_was(server: CannedServer, responses: Connect) -> None:
    """Reasoning, words with their phase, and parallel calls go back in the order and with the ids in which they came."""
    opening = [
        reasoning("rs_1"),
        text("I look at both.", "msg_1", phase="commentary"),
        call("call_a"),
        reasoning("rs_2"),
        call("call_b", '{"city": "Bergen"}'),
    ]
    middle = [reasoning("rs_3"), call("call_c", '{"city": "Voss"}')]
    server.begin(answer(*opening), answer(*middle), answer(text("Rain.", "msg_3", phase="final_answer")))
    provider = responses(server.url)
    transcript: list[Message] = [QUESTION]
    for ids in (("call_a", "call_b"), ("call_c",)):
        completion = await provider.complete(ask(MODEL, *transcript))
        assert completion.stop == "tool_calls"
        transcript += [completion.message, *map(result, ids)]
    last = await provider.complete(ask(MODEL, *transcript))
    assert (last.message.text, last.stop) == ("Rain.", "end")
    for body in server.bodies:
        check(body)

    def sent(item: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in item.items() if not (item["type"] == "function_call" and name == "status")}

    def output(name: str) -> dict[str, object]:
        return {"type": "function_call_output", "call_id": name, "output": '{"sky":"sun"}'}

    assert server.sent["input"][2:] == [
        *map(sent, opening),
        output("call_a"),
        output("call_b"),
        *map(sent, middle),
        output("call_c"),
    ]


def kept(*items: dict[str, object], model: str = MODEL) -> ProviderState:
    return ProviderState.model_validate({"provider": "openai", "model": model, "items": items})


def items_of(*messages: Message, model: str = MODEL) -> list[dict[str, object]]:
    body = body_of(ask(model, QUESTION, *messages, system=""))
    check(body)
    return json.loads(body)["input"][1:]


def test_another_model_gets_words_and_calls_alone() -> None:
    """What belongs to one model isn't sent to another: neither its reasoning nor the ids that hang on it."""
    state = kept(reasoning(), {"text": 3, "id": "msg_1", "phase": "commentary"}, {"call": 0, "id": "fc_1"})
    said = AssistantMessage(text="Sun", tool_calls=(ToolRequest(id="c1", name="weather", arguments="{}"),), state=state)
    assert items_of(said, result("c1"), model="gpt-6.1-sol")[:2] == [
        {"type": "message", "role": "assistant", "content": "Sun"},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
    ]


def test_reasoning_that_nothing_follows_stays_away() -> None:
    """OpenAI refuses reasoning without what came after it, so neither is sent alone, nor an id that hangs on it."""
    state = kept({"text": 3, "id": "msg_1"}, reasoning())
    assert items_of(AssistantMessage(text="Sun", state=state)) == [{"type": "message", "role": "assistant", "content": "Sun"}]


def test_nothing_of_an_answer_is_lost_to_a_state_that_does_not_fit() -> None:
    """Words and calls that the state says nothing of, as another API's state, are sent all the same."""
    calls = tuple(ToolRequest(id=f"c{at}", name="weather", arguments="{}") for at in range(2))
    state = kept({"reasoning_content": "hm"}, {"call": 1, "extra_content": {}}, {"call": 7}, {"call": 1})
    found = items_of(AssistantMessage(text="Sun", tool_calls=calls, state=state), result("c0"), result("c1"))
    assert [item["type"] for item in found[:3]] == ["message", "function_call", "function_call"]
    assert {item["call_id"] for item in found[1:3]} == {"c0", "c1"}


def test_two_messages_of_one_answer_come_apart_again() -> None:
    """An answer of two messages is one text in the transcript, and two items with their phases on the wire."""
    state = kept({"text": 4, "id": "m1", "phase": "commentary"}, {"text": 5, "id": "m2", "phase": "final_answer"})
    found = items_of(AssistantMessage(text="One.\n\nTwo, and more.", state=state))
    assert [(i["id"], i["phase"]) for i in found] == [("m1", "commentary"), ("m2", "final_answer")]
    contents = [i["content"] for i in found]
    assert [content[0]["text"] for content in contents if isinstance(content, list)] == ["One.", "Two, and more."]


def test_an_empty_answer_and_unreadable_arguments_make_a_body_all_the_same() -> None:
    """An answer without words or calls is left out; arguments that are no JSON object are wrapped, and long ids cut."""
    cut = ToolRequest(id="c" * 70, name="we ather", arguments='{"city": ')
    found = items_of(AssistantMessage(), AssistantMessage(tool_calls=(cut,)), result("c" * 70))
    assert [item["type"] for item in found] == ["function_call", "function_call_output"]
    assert found[0]["call_id"] == found[1]["call_id"] == "c" * 64
    assert found[0]["name"] == "we_ather"
    assert json.loads(str(found[0]["arguments"])) == {"_raw": '{"city": '}


async def test_openai_itself_is_asked_by_responses_and_others_by_chat() -> None:
    """The host decides: OpenAI's own, in any region, gets Responses; whatever speaks like it gets Chat Completions."""
    for url in (None, "https://api.openai.com/v1", "https://eu.api.openai.com/v1"):
        provider = openai_doors.server(KEY, url)
        assert isinstance(provider, ResponsesProvider)
        await provider.aclose()
    for url in ("http://127.0.0.1:8000/v1", "https://api.openai.com.evil.test/v1", "https://notapi.openai.com/v1"):
        provider = openai_doors.server(KEY, url)
        assert isinstance(provider, OpenAIProvider)
        await provider.aclose()
    with pytest.raises(MissingKey, match=r"`OPENAI_API_KEY` is empty"):
        openai_doors.server(" ")


async def test_a_slow_server_is_given_up_and_its_connection_closed(server: CannedServer, responses: Connect) -> None:
    """A server that hangs or dribbles is left after the request's time, and sees the connection close."""
    for mode in ("hang", "dribble"):
        server.mode = mode
        server.closed.clear()
        error = await failure(responses(server.url), timeout_s=0.2)
        assert (error.code, error.retryable) == ("timeout", True)
        await asyncio.wait_for(server.closed.wait(), HANG_GUARD_S)


async def test_a_server_that_is_not_there_is_a_lost_connection(responses: Connect) -> None:
    """Nothing listens: the failure is `connection`, and may pass."""
    error = await failure(responses("http://127.0.0.1:9"))
    assert (error.code, error.retryable) == ("connection", True)


async def test_a_redirect_is_not_followed(server: CannedServer, responses: Connect) -> None:
    """The transcript goes to no host that nobody configured."""
    server.answer({}, 307, {"location": f"{server.url}/v1/elsewhere"})
    assert (await failure(responses(server.url))).retryable is False
    assert len(server.bodies) == 1
