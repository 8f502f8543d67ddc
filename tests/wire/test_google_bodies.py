"""What Google is sent."""

import json
from itertools import pairwise
from typing import Any

import pytest
from pydantic import JsonValue

from activities.providers.base import ModelRequest, ToolOffer
from activities.providers.google_body import GO_ON, SKIPPED, body_of
from activities.providers.openai import body_of as openai_body
from policies.routing import Effort
from remit.apps import assemble
from remit.settings import ROOT, Standalone
from tests.wire.google_forms import check
from tests.wire.server import ask
from workflows.messages import AssistantMessage, Message, ProviderState, ToolMessage, ToolRequest, UserMessage

MODEL = "gemini-3.8-flash"
HI = UserMessage(text="hi")
CALLS = (
    ToolRequest(id="ours_1", name="weather", arguments='{"city": "Oslo", "share": 0.10}'),
    ToolRequest(id="ours_2", name="weather", arguments='{"city": "Bergen"}'),
)
RESULTS = (
    ToolMessage(call_id="ours_1", name="weather", content='{"sky":"sun", "share": 0.10}'),
    ToolMessage(call_id="ours_2", name="weather", content='{"sky":"rain"}'),
)


def state(*items: JsonValue, model: str = MODEL) -> ProviderState:
    return ProviderState(provider="google", model=model, items=items)


def sent(*messages: Message, model: str = MODEL, **more: Any) -> dict[str, Any]:
    body = body_of(ask(model, *messages).model_copy(update=more))
    check(body)
    return json.loads(body)


def parts(body: dict[str, Any], at: int = -1) -> list[dict[str, Any]]:
    return body["contents"][at]["parts"]


def test_system_prompt_tools_and_transcript_have_their_places() -> None:
    """Roles alternate, the results of a turn share one content, and arguments and results go out as they were written."""
    spoken = (HI, AssistantMessage(text="Looking.", tool_calls=CALLS), *RESULTS, UserMessage(text="And?"))
    body = sent(*spoken, model="gemini-2.5-flash")
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "weather",
                        "description": "The weather of a city.",
                        "parametersJsonSchema": {
                            "type": "object",
                            "properties": {"city": {"type": "string"}},
                            "required": ["city"],
                        },
                    }
                ]
            }
        ],
        "generationConfig": {"maxOutputTokens": 4096},
        "contents": [
            {"role": "user", "parts": [{"text": "hi"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "Looking."},
                    {"functionCall": {"name": "weather", "args": {"city": "Oslo", "share": 0.1}}},
                    {"functionCall": {"name": "weather", "args": {"city": "Bergen"}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "weather", "response": {"sky": "sun", "share": 0.1}}},
                    {"functionResponse": {"name": "weather", "response": {"sky": "rain"}}},
                    {"text": "And?"},
                ],
            },
        ],
    }
    raw = body_of(ask("gemini-2.5-flash", *spoken))
    assert raw.count(b'"share": 0.10}') == 2


def test_what_gemini_gave_comes_back_at_its_place() -> None:
    """Signatures and ids of a turn are sent with the very parts that had them, under the ids that Gemini gave."""
    said = AssistantMessage(
        text="First. Then.",
        tool_calls=CALLS,
        state=state(
            {"thought": "hm", "thoughtSignature": "VEg="},
            {"text": 6, "thoughtSignature": "VDE="},
            {"text": 6},
            {"call": 0, "id": "g1", "thoughtSignature": "QzE="},
            {"call": 1, "id": "g2"},
        ),
    )
    body = sent(HI, said, *RESULTS)
    assert parts(body, 1) == [
        {"text": "hm", "thought": True, "thoughtSignature": "VEg="},
        {"text": "First.", "thoughtSignature": "VDE="},
        {"text": " Then."},
        {
            "functionCall": {"id": "g1", "name": "weather", "args": {"city": "Oslo", "share": 0.1}},
            "thoughtSignature": "QzE=",
        },
        {"functionCall": {"id": "g2", "name": "weather", "args": {"city": "Bergen"}}},
    ]
    assert [part["functionResponse"]["id"] for part in parts(body)] == ["g1", "g2"]


@pytest.mark.parametrize("model", ["gemini-3.8-flash", "gemini-4-argon", "gemini-flash-latest"])
@pytest.mark.parametrize("of", [None, ("google", "gemini-2.5-flash"), ("openai", MODEL)])
def test_calls_of_another_model_are_marked_as_unsigned(model: str, of: tuple[str, str] | None) -> None:
    """Nothing of another model's is sent; the first call of its turn says that there is no signature to check."""
    beside = ProviderState(provider=of[0], model=of[1], items=({"call": 0, "thoughtSignature": "QzE="},)) if of else None
    body = sent(HI, AssistantMessage(tool_calls=CALLS, state=beside), *RESULTS, model=model)
    assert [part.get("thoughtSignature") for part in parts(body, 1)] == [SKIPPED, None]
    assert not any("id" in part["functionResponse"] for part in parts(body))


def test_a_call_that_gemini_left_unsigned_is_marked_too() -> None:
    """A turn of the model's own whose first call has no signature is sent with the mark, or Google would refuse it."""
    said = AssistantMessage(tool_calls=CALLS, state=state({"call": 0, "id": "g1"}, {"call": 1, "id": "g2"}))
    assert [part.get("thoughtSignature") for part in parts(sent(HI, said, *RESULTS), 1)] == [SKIPPED, None]


def test_models_before_gemini_3_get_no_mark() -> None:
    """Gemini 2.5 asks for no signatures, and would take the mark for a broken one."""
    body = sent(HI, AssistantMessage(tool_calls=CALLS), *RESULTS, model="gemini-2.5-pro")
    assert not any("thoughtSignature" in part for part in parts(body, 1))


@pytest.mark.parametrize("text", ["First. Then, and more.", "Fir", ""])
def test_a_text_that_was_changed_keeps_its_signatures(text: str) -> None:
    """A text of another length, as after redaction, is cut where the old one was, and nothing of it is lost or said twice."""
    said = AssistantMessage(text=text, state=state({"text": 6, "thoughtSignature": "VDE="}, {"text": 6}))
    found = parts(sent(HI, said, UserMessage(text="And?")), 1)
    assert "".join(part["text"] for part in found) == text
    assert found[0]["thoughtSignature"] == "VDE="


def test_an_answer_that_is_not_over_is_continued() -> None:
    """The last answers that Google will go on with are sent as its token, and not beside it."""
    first = AssistantMessage(text="One,", state=state({"text": 4}, {"continuationToken": "dDE="}))
    second = AssistantMessage(text="two,", state=state({"text": 4}, {"continuationToken": "dDI="}))
    assert sent(HI, first)["continuationToken"] == "dDE="
    body = sent(HI, first, second)
    assert body["continuationToken"] == "dDI="
    assert body["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]
    whole = sent(HI, first, second, AssistantMessage(text=" three."), UserMessage(text="And?"))
    assert "continuationToken" not in whole
    assert [part["text"] for part in parts(whole, 1)] == ["One,", "two,", " three."]


def test_an_answer_of_another_model_is_gone_on_with_in_words() -> None:
    """A pause of another model's, or one whose token is gone, ends with a request: Gemini refuses to end on its own turn."""
    first = AssistantMessage(text="One,", state=state({"text": 4}, {"continuationToken": "dDE="}))
    body = sent(HI, first, model="gemini-4-argon")
    assert "continuationToken" not in body
    assert [(content["role"], content["parts"][-1]["text"]) for content in body["contents"]] == [
        ("user", "hi"),
        ("model", "One,"),
        ("user", GO_ON),
    ]


@pytest.mark.parametrize(
    ("content", "response"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ("[1, 2]", {"output": [1, 2]}),
        ('"done"', {"output": "done"}),
        ("no JSON", {"output": "no JSON"}),
        ('{"x": NaN}', {"output": '{"x": NaN}'}),
        ("", {"output": ""}),
    ],
)
def test_a_result_is_always_an_object(content: str, response: object) -> None:
    """What a tool gave is sent as an object, for Google takes nothing else."""
    result = ToolMessage(call_id="ours_1", name="weather", content=content)
    body = sent(HI, AssistantMessage(tool_calls=CALLS[:1]), result)
    assert parts(body)[0]["functionResponse"]["response"] == response


@pytest.mark.parametrize("arguments", ['{"city": ', "", "[1]", '{"x": NaN}', "[" * 100_000, "!print(default_api.x())"])
def test_malformed_calls_of_an_earlier_turn_are_wrapped(arguments: str) -> None:
    """Arguments that are no JSON object are sent back as `{"_raw": …}`, under a name that Google accepts."""
    call = ToolRequest(id="", name="9 weather!", arguments=arguments)
    body = sent(HI, AssistantMessage(tool_calls=(call,)), ToolMessage(call_id="", name="9 weather!", content="{}"))
    assert parts(body, 1)[0]["functionCall"] == {"name": "_9_weather_", "args": {"_raw": arguments}}
    assert parts(body)[0]["functionResponse"]["name"] == "_9_weather_"


def test_answers_without_words_are_left_out() -> None:
    """A turn in which the model said nothing isn't sent back, for Google refuses a content without parts."""
    body = sent(HI, AssistantMessage(text=" \n"), UserMessage(text="Please answer."))
    assert body["contents"] == [{"role": "user", "parts": [{"text": "hi"}, {"text": "Please answer."}]}]


LEVELS: list[tuple[str, Effort, dict[str, object]]] = [
    ("gemini-3.8-flash", "none", {"thinkingLevel": "LOW"}),
    ("gemini-3.8-flash", "minimal", {"thinkingLevel": "LOW"}),
    ("gemini-3.8-flash", "medium", {"thinkingLevel": "MEDIUM"}),
    ("gemini-3.5-flash-lite", "minimal", {"thinkingLevel": "MINIMAL"}),
    ("gemini-3.1-pro-preview", "none", {"thinkingLevel": "LOW"}),
    ("gemini-4-argon", "max", {"thinkingLevel": "HIGH"}),
    ("gemini-4-argon", "none", {"thinkingLevel": "LOW"}),
    ("gemini-flash-latest", "minimal", {"thinkingLevel": "LOW"}),
    ("publishers/google/models/gemini-2.5-flash", "none", {"thinkingBudget": 0}),
    ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
    ("gemini-2.5-flash", "xhigh", {"thinkingBudget": 24_576}),
]


@pytest.mark.parametrize(("model", "effort", "thinking"), LEVELS)
def test_effort_becomes_what_the_model_knows(model: str, effort: Effort, thinking: object) -> None:
    """Each effort is a level that the model takes, or a budget for one that knows no levels; never both."""
    assert sent(HI, model=model, effort=effort)["generationConfig"] == {"maxOutputTokens": 4096, "thinkingConfig": thinking}


def test_schemas_lose_what_google_refuses() -> None:
    """Keywords that Google answers 400 to are left out or put in other words; fields that are called like them stay."""
    schema: dict[str, object] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "T",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "title": {"title": "Title", "type": "string", "maxLength": 9},
            "kind": {"const": "a", "default": "a"},
            "cents": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
            "share": {"type": "number", "exclusiveMinimum": 0},
            "day": {"format": "date", "type": "string", "description": "When."},
            "flag": {"const": True},
            "item": {"$ref": "#/$defs/Item", "title": "Item", "description": "It."},
            "any": {"anyOf": [{"type": "string", "examples": ["x"]}, {"type": "null"}]},
        },
        "required": ["title"],
        "$defs": {"Item": {"title": "Item", "type": "object", "properties": {"n": {"type": "integer"}}}},
    }
    offer = ToolOffer(name="t", description="d", parameters=schema)
    (declared,) = sent(HI, tools=(offer,))["tools"][0]["functionDeclarations"]
    assert declared["parametersJsonSchema"] == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "title": {"type": "string", "maxLength": 9},
            "kind": {"type": "string", "enum": ["a"], "default": "a"},
            "cents": {"type": "integer", "minimum": 1, "maximum": 9},
            "share": {"type": "number"},
            "day": {"type": "string", "description": "When. (format: date)"},
            "flag": {"type": "boolean"},
            "item": {"$ref": "#/$defs/Item", "description": "It."},
            "any": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["title"],
        "$defs": {"Item": {"type": "object", "properties": {"n": {"type": "integer"}}}},
    }


def test_every_tool_that_ships_is_declared_as_google_describes_it() -> None:
    """The tools of the catalog fit Google's description, without a keyword that it refuses."""
    catalog = assemble(Standalone(), ROOT).catalog
    offers = tuple(ToolOffer(name=s.name, description=s.description, parameters=s.schema) for s in catalog.specs.values())
    text = json.dumps(sent(HI, tools=offers)["tools"])
    assert [word for word in ('"const"', '"exclusiveMinimum"', '"$schema"') if word in text] == []


def test_a_tool_without_arguments_declares_none() -> None:
    """Google wants the schema of a tool without arguments to be left out."""
    offer = ToolOffer(name="t", description="d", parameters={"type": "object", "properties": {}})
    assert sent(HI, tools=(offer,))["tools"] == [{"functionDeclarations": [{"name": "t", "description": "d"}]}]


def test_turns_of_a_run_share_their_beginning() -> None:
    """The body of a turn begins with all of the one before, up to the end of its transcript, so that Google can cache it."""
    spoken: list[Message] = [HI]
    bodies: list[bytes] = []
    for at in range(3):
        bodies.append(body_of(ask(MODEL, *spoken)))
        said = AssistantMessage(
            tool_calls=(CALLS[0].model_copy(update={"id": f"c{at}"}),),
            state=state({"call": 0, "id": f"g{at}", "thoughtSignature": "QzE="}),
        )
        spoken += [said, ToolMessage(call_id=f"c{at}", name="weather", content="{}")]
    for before, after in pairwise(bodies):
        assert after.startswith(before.removesuffix(b"]}"))


def test_the_same_request_gives_the_same_bytes() -> None:
    """A body depends on the request alone, however often its messages were sent before, and to which models."""
    said = AssistantMessage(text="Hm.", tool_calls=CALLS, state=state({"call": 0, "id": "g", "thoughtSignature": "QzE="}))
    spoken: tuple[Message, ...] = (HI, said, *RESULTS)
    first = body_of(ask(MODEL, *spoken))
    openai_body(ask("m", *spoken), "max_tokens")
    other = body_of(ask("gemini-4-argon", *spoken))
    anew = ModelRequest.model_validate_json(ask(MODEL, *spoken).model_dump_json())
    assert body_of(ask(MODEL, *spoken)) == first == body_of(anew) != other
