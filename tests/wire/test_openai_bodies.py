"""What is sent to OpenAI's Responses API. Every body here is checked against OpenAI's own description, and by its SDK."""

import json
from typing import Any

import pytest

from activities.providers import openai_forms
from activities.providers.base import ModelRequest, ToolOffer
from tests.wire.responses_forms import at_openai, check, reasoning
from tests.wire.server import WEATHER, CannedServer, ask
from workflows.messages import AssistantMessage, Message, ProviderState, ToolMessage, ToolRequest, UserMessage

CALL = ToolRequest(id="call_a", name="weather", arguments='{"city": "Oslo"}')
RESULT = ToolMessage(call_id="call_a", name="weather", content='{"sky":"sun"}')
QUESTION = UserMessage(text="hi")


def sent(request: ModelRequest, dialect: str = "responses") -> dict[str, Any]:
    body = openai_forms.body_of(request, dialect)
    check(body)
    return json.loads(body)


def kept(*items: dict[str, Any], model: str = "gpt-6-luna", provider: str = "openai") -> ProviderState:
    return ProviderState(provider=provider, model=model, items=items)


def test_the_body_has_an_item_for_each_message_and_call() -> None:
    """System prompt, tools and transcript are sent as Responses knows them, and nothing is stored."""
    transcript = (
        QUESTION,
        AssistantMessage(text="I look.", tool_calls=(CALL,)),
        RESULT,
        AssistantMessage(text="Sun."),
        UserMessage(text="thanks"),
    )
    body = sent(ask("gpt-5.4-mini", *transcript))
    strict = {**WEATHER.parameters, "additionalProperties": False}
    assert body == {
        "model": "gpt-5.4-mini",
        "tools": [
            {
                "type": "function",
                "name": "weather",
                "description": "The weather of a city.",
                "parameters": strict,
                "strict": True,
            }
        ],
        "instructions": "Be brief.",
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "max_output_tokens": 4096,
        "input": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "I look."},
            {"type": "function_call", "call_id": "call_a", "name": "weather", "arguments": '{"city": "Oslo"}'},
            {"type": "function_call_output", "call_id": "call_a", "output": '{"sky":"sun"}'},
            {"role": "assistant", "content": "Sun."},
            {"role": "user", "content": "thanks"},
        ],
    }


def test_empty_parts_are_left_out() -> None:
    """A request without tools or system prompt sends neither, as one for a summary."""
    body = sent(ModelRequest(model="gpt-6-luna", system="", tools=(), messages=(QUESTION,)))
    assert body.keys() == {"model", "store", "include", "max_output_tokens", "input"}


def test_effort_and_cache_key_are_sent_where_there_are_any() -> None:
    """The effort of a route and the key that runs of an agent share go along."""
    body = sent(ask("gpt-5.4-mini").model_copy(update={"effort": "xhigh", "cache_key": "k" * 32}))
    assert (body["reasoning"], body["prompt_cache_key"]) == ({"effort": "xhigh"}, "k" * 32)


@pytest.mark.parametrize(
    ("model", "marked"),
    [
        ("gpt-5.6", True),
        ("gpt-5.6-sol", True),
        ("gpt-6-luna", True),
        ("gpt-6.1-sol", True),
        ("gpt-6.1-sol-2026-10-02", True),
        ("gpt-10", True),
        ("openai/gpt-6-luna", True),
        ("gpt-5.4-mini", False),
        ("gpt-5", False),
        ("gpt-4.1", False),
        ("gpt-oss-120b", False),
        ("o3", False),
        ("my-gpt-6-deployment", False),
    ],
)
def test_the_system_prompt_is_marked_where_the_model_takes_marks(model: str, marked: bool) -> None:
    """From GPT-5.6 on the system prompt ends with a cache mark, which `instructions` can't have; for others it stays there."""
    body = sent(ask(model).model_copy(update={"cache_key": "k" * 32}))
    assert ("instructions" in body) is not marked
    if marked:
        text = {"type": "input_text", "text": "Be brief.", "prompt_cache_breakpoint": {"mode": "explicit"}}
        assert body["input"][0] == {"role": "developer", "content": [text]}
    assert "prompt_cache_options" not in body


def test_without_a_cache_key_nothing_is_marked() -> None:
    """A request whose beginning nobody shares pays for no cache write of it."""
    assert sent(ask("gpt-6-luna"))["instructions"] == "Be brief."


def test_two_turns_and_two_runs_begin_alike() -> None:
    """A later turn's body begins with the whole of the one before, and another run's with the same tools and system prompt."""
    request = ask("gpt-6-luna", QUESTION).model_copy(update={"cache_key": "k" * 32})
    first = openai_forms.body_of(request, "responses")
    said = AssistantMessage(tool_calls=(CALL,), state=kept({"reasoning": reasoning()}, {"call": "fc_1"}))
    second = openai_forms.body_of(request.model_copy(update={"messages": (QUESTION, said, RESULT)}), "responses")
    assert second.startswith(first.removesuffix(b"]}"))
    other = openai_forms.body_of(request.model_copy(update={"messages": (UserMessage(text="ho"),)}), "responses")
    mark = b'"prompt_cache_breakpoint": {"mode": "explicit"}}]},'
    assert first.partition(mark)[0] == other.partition(mark)[0] != first


def test_a_limit_below_what_the_api_takes_is_raised() -> None:
    """The API takes no limit of fewer than 16 tokens."""
    assert sent(ask("gpt-6-luna").model_copy(update={"max_output_tokens": 5}))["max_output_tokens"] == 16


def test_a_tool_that_strict_mode_cant_hold_is_offered_with_its_full_schema() -> None:
    """A map with keys of the model's own has no strict form, so that tool alone isn't strict."""
    open_ended: dict[str, object] = {
        "type": "object",
        "properties": {"tags": {"type": "object"}},
        "additionalProperties": False,
    }
    offer = ToolOffer(name="label", description="Labels.", parameters=open_ended)
    tools = sent(ask("gpt-6-luna").model_copy(update={"tools": (WEATHER, offer)}))["tools"]
    assert [tool["strict"] for tool in tools] == [True, False]
    assert tools[1]["parameters"] == open_ended


@pytest.mark.parametrize(
    ("dialect", "missing"),
    [
        ("responses no-include", {"include"}),
        ("responses no-key", {"prompt_cache_key"}),
        ("responses no-include no-key no-marks no-reasoning no-strict", {"include", "prompt_cache_key"}),
    ],
)
def test_a_dialect_leaves_out_what_its_server_doesnt_take(dialect: str, missing: set[str]) -> None:
    """Each `no-…` of a dialect takes one feature out of the body."""
    request = ask("gpt-6-luna").model_copy(update={"cache_key": "k"})
    assert sent(request).keys() - sent(request, dialect).keys() == missing
    body = sent(request, "responses no-marks no-strict")
    assert body["instructions"] == "Be brief." and body["tools"][0]["strict"] is False
    assert body["tools"][0]["parameters"] == WEATHER.parameters


def test_reasoning_comes_back_in_front_of_what_it_preceded() -> None:
    """Reasoning items, texts and calls of an answer are sent in the order in which they came, with ids and phases."""
    state = kept(
        {"reasoning": reasoning("rs_1", status="completed")},
        {"message": {"id": "msg_1", "phase": "commentary"}, "letters": 7},
        {"call": "fc_1"},
        {"reasoning": reasoning("rs_2", status="completed")},
        {"message": {"id": "msg_2"}, "letters": 4},
        {"call": ""},
    )
    second = ToolRequest(id="call_b", name="weather", arguments="{}")
    answer = AssistantMessage(text="I look.\n\nWait", tool_calls=(CALL, second), state=state)
    results = (RESULT, ToolMessage(call_id="call_b", name="weather", content="{}"))
    items = sent(ask("gpt-6-luna", QUESTION, answer, *results))["input"][1:-2]
    assert [item["type"] for item in items] == [
        "reasoning",
        "message",
        "function_call",
        "reasoning",
        "message",
        "function_call",
    ]
    assert items[0] == reasoning("rs_1", status="completed")
    content: dict[str, Any] = {"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}
    assert items[1] == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "id": "msg_1",
        "phase": "commentary",
        "content": [content],
    }
    assert (items[2]["id"], items[2]["call_id"], items[5].get("id")) == ("fc_1", "call_a", None)
    assert items[4]["content"][0]["text"] == "Wait"


@pytest.mark.parametrize(
    "answer",
    [
        AssistantMessage(
            text="Sun.", state=kept({"reasoning": reasoning()}, {"message": {"id": "m"}, "letters": 4}, model="o3")
        ),
        AssistantMessage(
            text="Sun.",
            state=kept({"reasoning": reasoning()}, {"message": {"id": "m"}, "letters": 4}, provider="anthropic"),
        ),
        AssistantMessage(text="Snow.", state=kept({"reasoning": reasoning()}, {"message": {"id": "m"}, "letters": 4})),
        AssistantMessage(text="Sun.", state=kept({"reasoning": reasoning()}, {"call": "fc_1"})),
        AssistantMessage(text="Sun.", state=kept({"reasoning_content": "hm"})),
    ],
    ids=["other-model", "other-provider", "other-text", "other-calls", "other-form"],
)
def test_reasoning_that_isnt_of_this_answer_stays_at_home(answer: AssistantMessage) -> None:
    """State of another model, vendor or API isn't sent, nor state that doesn't fit text and calls any more."""
    body = sent(ask("gpt-6-luna", QUESTION, answer, UserMessage(text="Sure?")))
    assert body["input"][1] == {"role": "assistant", "content": answer.text}
    assert "rs_1" not in json.dumps(body)


def test_a_text_without_an_id_is_sent_as_a_message_of_its_own() -> None:
    """Where reasoning is missing, texts keep their place and phase, and calls come without the ids that hang on it."""
    state = kept({"message": {"phase": "commentary"}, "letters": 4}, {"call": ""})
    answer = AssistantMessage(text="Sun.", tool_calls=(CALL,), state=state)
    items = sent(ask("gpt-6-luna", QUESTION, answer, RESULT))["input"][1:3]
    assert items[0] == {"role": "assistant", "content": "Sun.", "phase": "commentary"}
    assert items[1].keys() == {"type", "call_id", "name", "arguments"}


@pytest.mark.parametrize(
    ("model", "asked"), [("gpt-4.1-mini", False), ("ft:gpt-4o:shop", False), ("gpt-5.4-mini", True), ("o3", True)]
)
def test_a_model_that_doesnt_reason_isnt_asked_for_its_reasoning(model: str, asked: bool) -> None:
    """Older models refuse to be asked for encrypted reasoning."""
    assert ("include" in sent(ask(model))) is asked


def test_what_one_message_is_sent_as_depends_on_the_model_asked() -> None:
    """An answer with reasoning goes without it to another model, also when it went with it just before."""
    answer = AssistantMessage(text="Sun.", state=kept({"reasoning": reasoning()}, {"message": {"id": "m"}, "letters": 4}))
    for model, types in (
        ("gpt-6-luna", ["reasoning", "message"]),
        ("gpt-6.1-sol", [None]),
        ("gpt-6-luna", ["reasoning", "message"]),
    ):
        items = json.loads(openai_forms.body_of(ask(model, QUESTION, answer), "responses"))["input"][1:-1]
        assert [item.get("type") for item in items] == types


@pytest.mark.parametrize(
    "last", [AssistantMessage(text="I was"), AssistantMessage(tool_calls=(CALL,))], ids=["text", "call-without-result"]
)
def test_a_conversation_ends_with_something_to_answer(last: Message) -> None:
    """An answer that came last, of a model that paused, is followed by a word to go on."""
    assert sent(ask("gpt-6-luna", QUESTION, last))["input"][-1] == {"role": "user", "content": "Go on where you stopped."}


def test_what_another_model_made_up_is_sent_in_a_form_that_is_taken() -> None:
    """Names with other letters, and arguments that are no object, are put into the form that the API takes."""
    made_up = ToolRequest(id="x", name="get weather!", arguments="Oslo")
    items = sent(ask("gpt-6-luna", QUESTION, AssistantMessage(tool_calls=(made_up,))))["input"]
    assert (items[1]["name"], items[1]["arguments"]) == ("get_weather_", '{"_raw": "Oslo"}')


async def test_openais_own_host_is_asked_by_responses(server: CannedServer) -> None:
    """The body that is checked above is the one that goes out, to `/v1/responses`, with the key in the head only."""
    server.answer({"output": [], "object": "response", "status": "completed"})
    request = ask("gpt-6-luna").model_copy(update={"cache_key": "k"})
    provider = at_openai(server.url)
    completion = await provider.complete(request)
    await provider.aclose()
    assert server.bodies == [openai_forms.body_of(request, "responses")]
    assert server.heads[0].startswith(b"POST /v1/responses HTTP/1.1")
    assert completion.dialect == "responses"
