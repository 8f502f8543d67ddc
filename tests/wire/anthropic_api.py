"""What the tests of Messages share: answers of the API, requests, and a check of bodies against the SDK's own types."""

# Bodies are JSON of anybody's.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from pydantic import TypeAdapter

from activities.providers.anthropic import AnthropicProvider
from activities.providers.anthropic_doors import direct
from activities.providers.base import Completion, ModelRequest, ToolOffer
from tests.wire.server import KEY, CannedServer
from workflows.messages import AssistantMessage, Message, ToolMessage, UserMessage

__all__ = [
    "DIRECT",
    "MODEL",
    "NOTE",
    "TASK",
    "USAGE",
    "answer",
    "asked",
    "cached_marks",
    "checked",
    "complete",
    "next_turn",
    "text",
    "think",
    "use",
]

DIRECT = "anthropic+auto+strict"
"""The dialect of Anthropic's own API."""
MODEL = "claude-haiku-5-5"
USAGE: dict[str, object] = {"input_tokens": 100, "output_tokens": 20}
TASK = UserMessage(text="Ticket T-1011 came in.")
NOTE = ToolOffer(
    name="add_account_note",
    description="Write a note.",
    parameters={
        "type": "object",
        "properties": {"customer_id": {"type": "string"}, "text": {"type": "string", "maxLength": 2000}},
        "required": ["customer_id", "text"],
        "additionalProperties": False,
    },
)
_PARAMS = TypeAdapter[object](MessageCreateParamsNonStreaming)


def answer(*content: object, stop: str | None = "tool_use", usage: object = USAGE, **more: object) -> dict[str, object]:
    """A 200 of the API. `usage=None` leaves it out."""
    fields: dict[str, object] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [*content],
        "stop_reason": stop,
        "stop_sequence": None,
    }
    return fields | ({} if usage is None else {"usage": usage}) | more


def text(words: object) -> dict[str, object]:
    return {"type": "text", "text": words}


def use(name: object, given: object, call_id: object = "toolu_a") -> dict[str, object]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def think(words: str = "hm", signature: str = "c2ln") -> dict[str, object]:
    return {"type": "thinking", "thinking": words, "signature": signature}


def asked(*messages: Message, **more: Any) -> ModelRequest:
    fields: dict[str, Any] = {"model": MODEL, "system": "Be brief.", "tools": (NOTE,), "messages": messages or (TASK,)}
    return ModelRequest(**fields | more)


def next_turn(request: ModelRequest, said: AssistantMessage, **more: Any) -> ModelRequest:
    """The request after `said`, with a result for each of its calls."""
    results = tuple(ToolMessage(call_id=call.id, name=call.name, content='{"ok":true}') for call in said.tool_calls)
    return request.model_copy(update={"messages": (*request.messages, said, *results), **more})


@asynccontextmanager
async def connected(server: CannedServer, dialect: str = DIRECT) -> AsyncGenerator[AnthropicProvider]:
    """The provider as it is at Anthropic's own API, connected to `server`."""
    provider = AnthropicProvider(door=replace(direct(KEY, server.url), dialect=dialect))
    try:
        yield provider
    finally:
        await provider.aclose()


async def complete(server: CannedServer, request: ModelRequest, dialect: str = DIRECT) -> Completion:
    async with connected(server, dialect) as provider:
        return await provider.complete(request)


def checked(body: bytes) -> dict[str, Any]:
    """`body`, parsed, after the SDK's own types took it without a field too many."""
    given = json.loads(body)
    assert _unfolded(_PARAMS.validate_python(given, extra="forbid")) == given
    return given


def cached_marks(value: Any) -> int:
    """How many cache marks a body has."""
    if isinstance(value, dict):
        return ("cache_control" in value) + sum(map(cached_marks, value.values()))
    return sum(map(cached_marks, value)) if isinstance(value, list) else 0


def _unfolded(value: Any) -> Any:
    """`value` with its lazy iterators read, which is what validates them."""
    if isinstance(value, dict):
        return {key: _unfolded(inner) for key, inner in value.items()}
    return value if value is None or isinstance(value, str | int | float) else [_unfolded(inner) for inner in value]
