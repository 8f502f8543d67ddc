"""What the tests of OpenAI's Responses share: answers, their items, and a check of bodies against OpenAI's description."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter

from activities.providers.openai import OpenAIProvider
from activities.providers.openai_doors import direct
from tests.wire.server import KEY

__all__ = ["CITY", "USAGE", "answer", "at_openai", "call", "check", "message", "reasoning"]

CITY = '{"city": "Oslo"}'
USAGE: Mapping[str, object] = {
    "input_tokens": 120,
    "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 32},
    "output_tokens": 30,
    "output_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 150,
}

DESCRIPTION = Path(__file__).parent / "data/openai/responses.json"
INPUT_ITEMS = ("EasyInputMessage", "FunctionToolCall", "FunctionCallOutputItemParam", "ReasoningItem", "OutputMessage")
PARTS = (
    "InputTextContent",
    "OutputTextContent",
    "SummaryTextContent",
    "FunctionTool",
    "Reasoning",
    "PromptCacheBreakpointConfig",
)
# What OpenAI refuses beyond its description: reasoning with plain content, as its threads tell.
NEVER = {"ReasoningItem": "content"}


def answer(*output: object, status: object = "completed", usage: object = USAGE, **more: object) -> dict[str, object]:
    """An answer of `POST /responses`; `usage` may be `absent`."""
    body: dict[str, object] = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "gpt-6-luna",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "output": list(output),
        **more,
    }
    return body if usage == "absent" else {**body, "usage": usage}


def message(*texts: str, item_id: str = "msg_1", refusal: str = "", **more: object) -> dict[str, object]:
    content: list[object] = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []} for text in texts]
    if refusal:
        content.append({"type": "refusal", "refusal": refusal})
    return {"type": "message", "id": item_id, "role": "assistant", "status": "completed", "content": content, **more}


def call(name: object = "weather", arguments: object = CITY, call_id: object = "call_a", **more: object) -> dict[str, object]:
    base = {"type": "function_call", "id": f"fc_{call_id}", "status": "completed"}
    return {**base, "call_id": call_id, "name": name, "arguments": arguments, **more}


def reasoning(item_id: str = "rs_1", content: str | None = "gAAA-1", **more: object) -> dict[str, object]:
    return {"type": "reasoning", "id": item_id, "summary": [], "encrypted_content": content, "status": None, **more}


def at_openai(url: str, dialect: str = "responses") -> OpenAIProvider:
    """A provider that speaks to the server at `url` as it does to OpenAI's own."""
    return OpenAIProvider(door=replace(direct(KEY, f"{url}/v1"), dialect=dialect))


def check(body: bytes) -> None:
    """Whether OpenAI would take `body`, by its description and by its SDK.

    Raises:
        AssertionError: it wouldn't; says where.
        pydantic.ValidationError: the SDK wouldn't.
    """
    found = cast("list[ValidationError]", [*_validator().iter_errors(json.loads(body))])  # pyright: ignore[reportUnknownMemberType]
    assert [f"{error.json_path}: {error.message}"[:300] for error in found] == []
    _params().validate_python(json.loads(body))


@cache
def _params() -> TypeAdapter[Any]:
    return TypeAdapter(ResponseCreateParamsNonStreaming)


@cache
def _validator() -> Draft202012Validator:
    schemas = cast("dict[str, dict[str, Any]]", json.loads(DESCRIPTION.read_text(encoding="utf-8"))["components"]["schemas"])
    for name in (*INPUT_ITEMS, *PARTS):
        schemas[name]["additionalProperties"] = False  # OpenAI answers 400 to a name that it doesn't know
    for name, field in NEVER.items():
        del schemas[name]["properties"][field]
    schemas["CreateResponse"]["unevaluatedProperties"] = False
    # Of the items and tools that OpenAI knows, those that we send.
    schemas["InputItem"] = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in INPUT_ITEMS]}
    schemas["Tool"] = {"$ref": "#/components/schemas/FunctionTool"}
    return Draft202012Validator({"$ref": "#/components/schemas/CreateResponse", "components": {"schemas": schemas}})
