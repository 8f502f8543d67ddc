"""What the tests of OpenAI's Responses share: answers, and a check of bodies against OpenAI's description and SDK."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator, ValidationError
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter

from activities.providers.base import ProviderError
from activities.providers.responses import ResponsesProvider
from tests.wire.server import ask

__all__ = ["MODEL", "Connect", "answer", "call", "check", "failure", "reasoning", "text"]

MODEL = "gpt-6-luna"
Connect = Callable[..., ResponsesProvider]

DESCRIPTION = Path(__file__).parent / "data/openai/responses.json"


def answer(*items: object, status: str = "completed", **fields: object) -> dict[str, object]:
    usage = {
        "input_tokens": 120,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 30,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 150,
    }
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-6-luna-2026-09-01", "status": status}
    return {**head, "error": None, "incomplete_details": None, "output": [*items], "usage": usage, **fields}


def text(words: str, name: str = "msg_1", **fields: object) -> dict[str, object]:
    content = [{"type": "output_text", "text": words, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": name, "role": "assistant", "status": "completed", "content": content, **fields}


def reasoning(name: str = "rs_1", encrypted: str | None = "gAAA=") -> dict[str, object]:
    summary = [{"type": "summary_text", "text": "Look at the sky."}]
    return {"type": "reasoning", "id": name, "summary": summary, "encrypted_content": encrypted}


def call(name: str = "call_a", arguments: object = '{"city": "Oslo"}', **fields: object) -> dict[str, object]:
    head = {"type": "function_call", "id": f"fc_{name}", "call_id": name, "name": "weather", "status": "completed"}
    return {**head, "arguments": arguments, **fields}


async def failure(provider: ResponsesProvider, model: str = MODEL, timeout_s: float = 20.0) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.complete(ask(model, timeout_s=timeout_s))
    return caught.value


def check(body: bytes) -> None:
    """Whether OpenAI would know each field of `body`, at its place and of its type.

    Raises:
        AssertionError: it wouldn't; says where.
        pydantic.ValidationError: the SDK's types don't have it.
    """
    found = cast("list[ValidationError]", [*_validator().iter_errors(json.loads(body))])  # pyright: ignore[reportUnknownMemberType]
    assert [f"{error.json_path}: {error.message}"[:400] for error in found] == []
    _params().validate_json(body)


@cache
def _params() -> TypeAdapter[Any]:
    return TypeAdapter(ResponseCreateParamsNonStreaming)


@cache
def _validator() -> Draft202012Validator:
    document = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    schemas = cast("dict[str, dict[str, Any]]", document["components"]["schemas"])
    extended = {"CreateModelResponseProperties", "ModelResponseProperties", "ResponseProperties"}
    for name, schema in schemas.items():
        if "properties" in schema and "additionalProperties" not in schema and name not in extended:
            schema["additionalProperties"] = False  # OpenAI answers 400 to a name that it doesn't know
    whole = schemas["CreateResponse"]
    whole["unevaluatedProperties"] = False
    fixed = json.loads(json.dumps(schemas).replace('"oneOf"', '"anyOf"'))  # its branches overlap; `type` tells them apart
    return Draft202012Validator({"$ref": "#/components/schemas/CreateResponse", "components": {"schemas": fixed}})
