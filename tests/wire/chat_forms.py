"""What the tests of Chat Completions share: answers, calls, and a check of bodies against OpenAI's description."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator, ValidationError

from activities.providers.base import ModelRequest, ProviderError
from activities.providers.openai import OpenAIProvider
from tests.wire.server import CannedServer, ask

__all__ = ["READ", "USAGE", "Connect", "answer", "asked", "call", "check", "failure"]

Connect = Callable[..., OpenAIProvider]
READ = '{"ticket_id":"T-1011"}'
USAGE: Mapping[str, object] = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}

DESCRIPTION = Path(__file__).parent / "data/openai/chat-completions.json"
# What the messages of compatible servers have besides; checked only where a server gave it.
MESSAGE = "ChatCompletionRequestAssistantMessage"
CLOSED = ("CreateChatCompletionRequest", MESSAGE, "ChatCompletionMessageToolCall", "FunctionObject", "ChatCompletionTool")


def call(name: object = "weather", arguments: object = READ, call_id: object = "call_a") -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(
    message: object, finish: object = "stop", usage: object = USAGE, choice: Mapping[str, object] | None = None, **more: object
) -> dict[str, object]:
    if isinstance(message, dict):
        message = {"role": "assistant", "content": None, **cast("dict[str, object]", message)}
    choices = [{"index": 0, "finish_reason": finish, "message": message, **(choice or {})}]
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **more}
    return body if usage == "absent" else {**body, "usage": usage}


async def asked(server: CannedServer, connect: Connect, body: object, request: ModelRequest | None = None):
    """What becomes of `body` as the answer of a compatible server."""
    server.answer(body)
    return await connect("openai", server.url).complete(request or ask("m"))


async def failure(
    server: CannedServer, connect: Connect, body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> ProviderError:
    server.answer(body, status, headers)
    with pytest.raises(ProviderError) as caught:
        await connect("openai", server.url).complete(ask("m"))
    return caught.value


def check(body: bytes) -> None:
    """Whether OpenAI would take `body`.

    Raises:
        AssertionError: it wouldn't; says where.
    """
    found = cast("list[ValidationError]", [*_validator().iter_errors(json.loads(body))])  # pyright: ignore[reportUnknownMemberType]
    assert [f"{error.json_path}: {error.message}"[:300] for error in found] == []


@cache
def _validator() -> Draft202012Validator:
    schemas = cast("dict[str, dict[str, Any]]", json.loads(DESCRIPTION.read_text(encoding="utf-8"))["components"]["schemas"])
    for name in CLOSED:
        # OpenAI answers 400 to a name that it doesn't know.
        schemas[name]["unevaluatedProperties"] = False
    return Draft202012Validator(
        {"$ref": "#/components/schemas/CreateChatCompletionRequest", "components": {"schemas": schemas}}
    )
