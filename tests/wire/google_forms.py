"""What the tests of Google share: an answer, a failed call, and a check of bodies against Google's description and SDK."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from google.genai import types
from jsonschema import Draft202012Validator, ValidationError

from activities.providers.base import ProviderError
from activities.providers.google import GoogleProvider
from tests.wire.server import ask

__all__ = ["ANSWER", "MODEL", "Connect", "check", "failure"]

MODEL = "gemini-3.8-flash"
ANSWER: dict[str, object] = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5},
    "modelVersion": MODEL,
}
Connect = Callable[..., GoogleProvider]

DESCRIPTION = Path(__file__).parent / "data/google/generativelanguage-v1beta.json"
# Fields that are newer than the description.
ADDED: dict[str, dict[str, object]] = {
    "GenerateContentRequest": {"continuationToken": {"type": "string"}},
    "ThinkingConfig": {"thinkingLevel": {"enum": ["MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"]}},
}


async def failure(provider: GoogleProvider, model: str = MODEL, timeout_s: float = 20.0) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.complete(ask(model, timeout_s=timeout_s))
    return caught.value


def check(body: bytes) -> None:
    """Whether Google would know each field of `body`, at its place and of its type.

    Raises:
        AssertionError: it wouldn't; says where.
        pydantic.ValidationError: the SDK's types don't have it.
    """
    sent = json.loads(body)
    found = cast("list[ValidationError]", [*_validator().iter_errors(sent)])  # pyright: ignore[reportUnknownMemberType]
    problems = [f"{error.json_path}: {error.message}" for error in found]
    assert problems == []
    # In JSON, for the types take bytes as base64 there.
    for content in [*sent["contents"], sent.get("systemInstruction", {})]:
        types.Content.model_validate_json(json.dumps(content))
    for tool in sent.get("tools", []):
        types.Tool.model_validate_json(json.dumps(tool))
    types.GenerationConfig.model_validate_json(json.dumps(sent["generationConfig"]))
    if "continuationToken" in sent:
        types.GenerateContentConfig.model_validate_json(json.dumps({"continuationToken": sent["continuationToken"]}))


@cache
def _validator() -> Draft202012Validator:
    document = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    schemas = cast("dict[str, dict[str, Any]]", document["components"]["schemas"])
    for name, schema in schemas.items():
        if "properties" in schema:
            schema["properties"] |= ADDED.get(name, {})
            schema["additionalProperties"] = False  # Google answers 400 to a name that it doesn't know
    # The model is in the path.
    schemas["GenerateContentRequest"]["required"] = ["contents"]
    return Draft202012Validator({"$ref": "#/components/schemas/GenerateContentRequest", "components": {"schemas": schemas}})
