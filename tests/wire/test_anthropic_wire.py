"""What Messages is sent: order, results, effort, cache marks and strict tools, all of it checked against the SDK's types."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from activities.providers.anthropic import body_of
from activities.providers.anthropic_doors import direct
from activities.providers.base import ModelRequest, ToolOffer
from policies.routing import Effort
from tests.wire.anthropic_api import (
    DIRECT,
    MODEL,
    NOTE,
    TASK,
    answer,
    asked,
    cached_marks,
    checked,
    complete,
    connected,
    next_turn,
    text,
)
from tests.wire.server import WEATHER, CannedServer, Provider, ask
from workflows.messages import AssistantMessage, ToolMessage, ToolRequest, UserMessage

Connect = Callable[..., Provider]
MARK = {"type": "ephemeral"}
CALLS = (
    ToolRequest(id="call_a", name="weather", arguments='{"city": "Oslo", "share": 0.10}'),
    ToolRequest(id="call_b", name="weather", arguments='{"city": "Bergen"}'),
)


def results(*ids: str) -> list[ToolMessage]:
    return [ToolMessage(call_id=call_id, name="weather", content=f'{{"of":"{call_id}"}}') for call_id in ids]


async def test_the_results_of_a_turn_share_one_user_message(server: CannedServer, connect: Connect) -> None:
    """System prompt, tools and transcript are sent with alternating roles, and arguments as the model wrote them."""
    server.answer(answer(text("ok"), stop="end_turn"))
    transcript = (
        UserMessage(text="hi"),
        AssistantMessage(text="Looking.", tool_calls=CALLS),
        *results("call_a", "call_b"),
        UserMessage(text="And?"),
    )
    completion = await connect("anthropic", server.url).complete(ask("m", *transcript))
    assert completion.message == AssistantMessage(text="ok")
    assert b'"share": 0.10}' in server.bodies[0]
    assert checked(server.bodies[0]) == {
        "model": "m",
        "max_tokens": 4096,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": MARK}],
        "tools": [{"name": "weather", "description": "The weather of a city.", "input_schema": WEATHER.parameters}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Oslo", "share": 0.1}},
                    {"type": "tool_use", "id": "call_b", "name": "weather", "input": {"city": "Bergen"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_a", "content": '{"of":"call_a"}'},
                    {"type": "tool_result", "tool_use_id": "call_b", "content": '{"of":"call_b"}'},
                    {"type": "text", "text": "And?", "cache_control": MARK},
                ],
            },
        ],
    }


def test_results_come_first_in_the_order_of_the_calls() -> None:
    """Results that are out of order, and after a word of a person, are sent as the API wants them."""
    b, a = results("call_b", "call_a")
    request = asked(TASK, AssistantMessage(tool_calls=CALLS), UserMessage(text="Wait."), b, a)
    content = checked(body_of(request, DIRECT))["messages"][-1]["content"]
    assert [block.get("tool_use_id", "text") for block in content] == ["call_a", "call_b", "text"]


async def test_an_empty_answer_of_the_model_is_left_out(server: CannedServer, connect: Connect) -> None:
    """A turn in which the model said nothing isn't sent back, for the API refuses a message without content."""
    server.answer(answer(text("ok"), stop="end_turn"))
    transcript = (UserMessage(text="hi"), AssistantMessage(text=" \n"), UserMessage(text="Please answer."))
    await connect("anthropic", server.url).complete(ask("m", *transcript))
    (message,) = checked(server.bodies[0])["messages"]
    assert [block["text"] for block in message["content"]] == ["hi", "Please answer."]


async def test_ids_of_another_provider_are_made_acceptable(server: CannedServer, connect: Connect) -> None:
    """A call id that the API would refuse is replaced alike in the call and in its result."""
    server.answer(answer(text("ok"), stop="end_turn"))
    call = ToolRequest(id="functions.weather:0", name="weather", arguments="{}")
    result = ToolMessage(call_id=call.id, name="weather", content="{}")
    await connect("anthropic", server.url).complete(
        ask("m", UserMessage(text="hi"), AssistantMessage(tool_calls=(call,)), result)
    )
    _, said, answered = checked(server.bodies[0])["messages"]
    assert said["content"][0]["id"] == answered["content"][0]["tool_use_id"]
    assert said["content"][0]["id"].startswith("id_")


@pytest.mark.parametrize(
    ("model", "effort", "sent"),
    [
        (MODEL, None, {}),
        (MODEL, "low", {"output_config": {"effort": "low"}}),
        (MODEL, "max", {"output_config": {"effort": "max"}}),
        (MODEL, "minimal", {"output_config": {"effort": "low"}}),
        (MODEL, "none", {"thinking": {"type": "disabled"}}),
        ("anthropic.claude-haiku-5-5", "none", {"thinking": {"type": "disabled"}}),
        ("claude-sonnet-5-5", "none", {"thinking": {"type": "between_tools"}}),
        ("claude-opus-5-5", "none", {"output_config": {"effort": "low"}}),
        ("claude-fable-5-1", "none", {"output_config": {"effort": "low"}}),
    ],
)
def test_effort_is_sent_as_the_model_takes_it(model: str, effort: Effort | None, sent: dict[str, object]) -> None:
    """Each level goes out as it is; not thinking as each model does it, or as little as one may that always thinks."""
    body = checked(body_of(asked(model=model, effort=effort), DIRECT))
    assert {name: body[name] for name in ("thinking", "output_config") if name in body} == sent
    assert not body.keys() & {"temperature", "top_p", "top_k", "tool_choice"}


def test_the_prefix_is_the_same_bytes_over_the_turns_of_a_run_and_over_two_runs() -> None:
    """A request begins with all bytes of the one before, but for its end; and two runs share tools and system prompt."""
    first = asked(TASK)
    second = next_turn(first, AssistantMessage(text="Looking.", tool_calls=CALLS[:1]))
    third = next_turn(second, AssistantMessage(tool_calls=CALLS[1:]), max_output_tokens=32_000)
    bodies = [body_of(request, DIRECT) for request in (first, second, third)]
    for body, after in pairwise(bodies):
        messages, end = body.rsplit(b'],"max_tokens"', 1)
        assert after.startswith(messages)
        assert set(json.loads(b'{"max_tokens"' + end)) == {"max_tokens", "cache_control"}
    other = body_of(asked(UserMessage(text="Ticket T-2 came in.")), DIRECT)
    shared = bodies[0].partition(b'"messages":')[0]
    assert other.startswith(shared)
    assert b'"tools"' in shared and b'"system"' in shared


@pytest.mark.parametrize("dialect", [DIRECT, "gateway+last", "bedrock+last+strict"])
def test_a_body_never_has_more_than_four_marks(dialect: str) -> None:
    """However long a run gets, two marks are sent: at the end of what its agent's runs share, and at its own end."""
    request, body = asked(TASK), dict[str, Any]()
    for index in range(8):
        call = ToolRequest(id=f"toolu_{index}", name="add_account_note", arguments="{}")
        request = next_turn(request, AssistantMessage(text="Looking.", tool_calls=(call,)))
        body = checked(body_of(request, dialect))
        assert cached_marks(body) == 2
        assert body["system"][-1]["cache_control"] == MARK
    last = body["messages"][-1]["content"][-1]
    assert ("cache_control" in body, "cache_control" in last) == (dialect == DIRECT, dialect != DIRECT)


def test_without_a_system_prompt_the_last_tool_has_the_mark() -> None:
    """The stable prefix ends with the tools where there is no system prompt."""
    body = checked(body_of(asked(system=""), DIRECT))
    assert body["tools"][-1]["cache_control"] == MARK
    assert "system" not in body


def test_a_summary_is_not_cached() -> None:
    """What is asked once has no mark, for a cache entry would be paid for and never read."""
    assert cached_marks(checked(body_of(asked(turn=None), DIRECT))) == 0


def test_a_tool_is_strict_with_a_reduced_schema() -> None:
    """The model is held to the types and fields; what the grammar can't hold it to is in the description."""
    (tool,) = checked(body_of(asked(), DIRECT))["tools"]
    assert tool["strict"] is True
    assert tool["input_schema"] == {
        "type": "object",
        "properties": {
            "customer_id": {"type": "string"},
            "text": {"type": "string", "description": "Must hold: maxLength 2000."},
        },
        "required": ["customer_id", "text"],
        "additionalProperties": False,
    }


LOOSE: list[dict[str, object]] = [
    {"type": "object", "additionalProperties": True},
    {"type": "object", "properties": {"any": {}}},
    {"type": "object", "properties": {"pairs": {"type": "array"}}},
    {"type": "object", "properties": {"one": {"enum": [{}]}}},
    {"type": "object", "properties": {"self": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
    {"type": "object", "properties": {"gone": {"$ref": "#/$defs/gone"}}},
    {"type": "object", "properties": {"both": {"allOf": [{"type": "string"}, {"type": "string"}]}}},
]


@pytest.mark.parametrize(
    "parameters", LOOSE, ids=["any-field", "any-value", "any-item", "object-enum", "recursive", "dangling", "all-of"]
)
def test_a_schema_that_no_grammar_takes_is_sent_as_it_is(parameters: dict[str, object]) -> None:
    """A tool whose arguments can't be held to a grammar isn't strict, and the others are."""
    loose = ToolOffer(name="loose", description="Takes anything.", parameters=parameters)
    tools = checked(body_of(asked(tools=(loose, NOTE)), DIRECT))["tools"]
    assert (tools[0]["input_schema"], "strict" in tools[0], tools[1]["strict"]) == (parameters, False, True)


@pytest.mark.parametrize(
    ("field", "required", "strict"),
    [
        ({"type": "string"}, True, 20),
        ({"type": "string"}, False, 8),  # three each that may be left out, 24 in all
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, True, 5),  # three each of two types, 16 in all
    ],
)
def test_no_more_is_strict_than_the_vendor_takes(field: dict[str, object], required: bool, strict: int) -> None:
    """The first tools are strict, as many as one request may have; the rest are offered without."""
    names = ["a", "b", "c"]
    schema: dict[str, object] = {
        "type": "object",
        "properties": dict.fromkeys(names, field),
        "required": names if required else [],
    }
    tools = tuple(ToolOffer(name=f"t{index}", description="", parameters=schema) for index in range(25))
    sent = checked(body_of(asked(tools=tools), DIRECT))["tools"]
    assert [tool.get("strict", False) for tool in sent] == [True] * strict + [False] * (25 - strict)


def test_references_and_constraints_survive_the_reduction() -> None:
    """Definitions, enums, nested objects, formats and lists keep their shape in a strict schema."""
    line = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]}
    parameters: dict[str, object] = {
        "type": "object",
        "$defs": {"Line": line},
        "properties": {
            "lines": {"type": "array", "items": {"$ref": "#/$defs/Line", "description": "One."}, "minItems": 2},
            "kind": {"type": "string", "enum": ["a", "b"], "title": "Kind", "default": "a"},
        },
        "required": ["lines"],
    }
    (tool,) = checked(body_of(asked(tools=(ToolOffer(name="t", description="", parameters=parameters),)), DIRECT))["tools"]
    assert tool["input_schema"] == {
        "$defs": {"Line": line | {"additionalProperties": False}},
        "type": "object",
        "properties": {
            "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}, "description": "Must hold: minItems 2."},
            "kind": {"enum": ["a", "b"], "description": 'Must hold: default "a".'},
        },
        "required": ["lines"],
        "additionalProperties": False,
    }


REFUSALS = [
    ("tools.0.custom.strict: Extra inputs are not permitted", "anthropic+auto"),
    ("The compiled grammar is too large, which would cause performance issues.", "anthropic+auto"),
    ("Schemas contains too many parameters with union types", "anthropic+auto"),
    ("cache_control: Extra inputs are not permitted", "anthropic+last+strict"),
]


@pytest.mark.parametrize(("sentence", "dialect"), REFUSALS)
async def test_a_feature_that_a_server_refuses_is_left_out(server: CannedServer, sentence: str, dialect: str) -> None:
    """The same call is made without it, later calls leave it out at once, and the dialect builds the body again."""
    refused = {"type": "error", "error": {"type": "invalid_request_error", "message": sentence}}
    server.begin((400, refused))
    server.answer(answer(text("ok"), stop="end_turn"))
    async with connected(server) as provider:
        for _ in range(2):
            completion = await provider.complete(asked())
            assert completion.dialect == dialect
            assert server.bodies[-1] == body_of(asked(), completion.dialect)
    assert len(server.bodies) == 3


async def test_a_server_that_knows_no_marks_gets_none(server: CannedServer) -> None:
    """Marks are given up in two steps: first the automatic one, then those in blocks."""
    refused: dict[str, Any] = {"error": {"type": "invalid_request_error", "message": "unknown field `cache_control`"}}
    server.begin((400, refused), (422, refused))
    server.answer(answer(text("ok"), stop="end_turn"))
    completion = await complete(server, asked())
    assert (completion.dialect, cached_marks(server.sent)) == ("anthropic+strict", 0)


def test_a_body_from_before_dialects_is_built_as_it_was() -> None:
    """The empty dialect gives the bytes that older runs sent, so that their traces verify."""
    request: ModelRequest = next_turn(asked(), AssistantMessage(text="Looking.", tool_calls=CALLS[:1]))
    tool = {"name": NOTE.name, "description": NOTE.description, "input_schema": NOTE.parameters}
    head = json.dumps({"model": MODEL, "max_tokens": 4096, "system": "Be brief.", "tools": [tool]})
    said = json.dumps({"type": "text", "text": "Looking."})
    call = json.dumps({"type": "tool_use", "id": "call_a", "name": "weather"})[:-1] + f',"input":{CALLS[0].arguments}}}'
    result = json.dumps({"type": "tool_result", "tool_use_id": "call_a", "content": '{"ok":true}'})
    task = json.dumps({"type": "text", "text": TASK.text})
    messages = (
        f'{{"role":"user","content":[{task}]}},{{"role":"assistant","content":[{said},{call}]}},'
        f'{{"role":"user","content":[{result}]}}'
    )
    assert body_of(request, "") == f'{head[:-1]},"messages":[{messages}]}}'.encode()


async def test_without_a_base_url_the_door_is_anthropics_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dialect is the whole one, and the server is the vendor's, whatever the environment says."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://elsewhere.example")
    door = direct("k", None)
    assert door.dialect == DIRECT
    assert str(getattr(door.client, "base_url", "")) == "https://api.anthropic.com"
    await door.client.close()


def test_a_call_that_no_server_took_is_read_by_its_name() -> None:
    """Names and arguments that the API refuses are sent back in a form that it takes."""
    said = AssistantMessage(tool_calls=(ToolRequest(id="", name="", arguments="{not json"),))
    call = checked(body_of(next_turn(asked(), said), DIRECT))["messages"][1]["content"][0]
    assert (call["name"], call["input"]) == ("_", {"_raw": "{not json"})
