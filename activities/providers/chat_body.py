"""The body of a Chat Completions request, byte-stable. Without OpenAI's SDK: `remit verify` works where there is none."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Literal, cast
from urllib.parse import urlsplit

from activities.providers import _http
from activities.providers.base import ModelRequest, ToolOffer
from workflows.messages import AssistantMessage, Message, ProviderState, ToolMessage, ToolRequest, UserMessage

__all__ = [
    "CALL_FIELDS",
    "DIALECTS",
    "GO_ON",
    "MESSAGE_FIELDS",
    "MOST",
    "NAME",
    "TEXT",
    "Dialect",
    "body_of",
    "dialect_of",
    "is_openais",
    "limit_field",
    "other_dialect",
]

Dialect = Literal["chat max_tokens", "chat max_completion_tokens"]
TEXT = "text"
MOST = "most="

NAME = "openai"
DIALECTS: tuple[Dialect, ...] = ("chat max_tokens", "chat max_completion_tokens")
"""The forms of the body, by the name under which a server takes the limit of output tokens.

More words may follow: `text` for a server that wants text also beside tool calls, where others take null; `most=N` for one
whose context had room for no more than N tokens of output.
"""
GO_ON = "Go on where you stopped."
"""Said where an answer would come last: many servers go on with none, or refuse it."""

_LONG = 256
_NULL, _EMPTY = b'"content": null', b'"content": ""'

MESSAGE_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks", "extra_content")
"""What servers give beside tool calls and want back: DeepSeek, vLLM, OpenRouter, LiteLLM, Gemini, in this order."""
CALL_FIELDS = ("extra_content", "provider_specific_fields", "thought_signature")
"""What servers give with a tool call and want back: Gemini and LiteLLM sign calls so."""


def body_of(request: ModelRequest, dialect: str) -> bytes:
    """The exact body of the request.

    Args:
        dialect: one of `DIALECTS` and what may follow it; or only the limit's name, which gives the body that older versions of
            Remit sent.
    """
    words = dialect.split()
    form = words[0] == "chat"
    limit = words[1] if form else words[0]
    most = min([request.max_output_tokens, *(int(w.removeprefix(MOST)) for w in words if w.startswith(MOST))])
    head: dict[str, object] = {"model": request.model, limit: most}
    if request.effort:
        # `minimal` was one model's; OpenAI's description doesn't have it any more.
        head["reasoning_effort"] = "low" if request.effort == "minimal" else request.effort
    if request.tools:
        head["tools"] = [_tool(offer, light=form) for offer in request.tools]
        if form:
            head["tool_choice"] = "auto"  # what vendors take it for; llama-cpp-python's server shows no tools without it
    messages = list(_conversation(request) if form else map(_plain, request.messages))
    if TEXT in words:
        messages = [message.replace(_NULL, _EMPTY, 1) for message in messages]
    if request.system:
        messages.insert(0, json.dumps({"role": "system", "content": request.system}).encode())
    return b'%b,"messages":[%b]}' % (json.dumps(head).encode()[:-1], b",".join(messages))


def dialect_of(base_url: str) -> Dialect:
    """The form of the body with which to begin at the server at `base_url`."""
    return "chat max_completion_tokens" if limit_field(base_url) == "max_completion_tokens" else "chat max_tokens"


def limit_field(base_url: str) -> Literal["max_completion_tokens", "max_tokens"]:
    """The name under which the server at `base_url` takes the limit of output tokens, as far as its host tells."""
    # OpenAI's newer models refuse `max_tokens`, and many compatible servers ignore or refuse what replaced it.
    return "max_completion_tokens" if is_openais(base_url) else "max_tokens"


def is_openais(base_url: str) -> bool:
    """Whether the server at `base_url` is OpenAI's own, in any of its regions."""
    return f".{urlsplit(base_url).hostname or ''}".endswith(".api.openai.com")


def other_dialect(dialect: Dialect) -> Dialect:
    """The form with the other name of the limit."""
    first, second = DIALECTS
    return second if dialect == first else first


def _conversation(request: ModelRequest) -> Iterator[bytes]:
    """The messages, with no two of a user's in a row, no empty answer, and no answer at the end: templates refuse those."""
    spoken = [message for message in request.messages if not _is_empty(message)]
    for is_user, group in groupby(spoken, key=lambda message: isinstance(message, UserMessage)):
        messages = list(group)
        if is_user and len(messages) > 1:
            text = "\n\n".join(message.text for message in messages if isinstance(message, UserMessage))
            yield json.dumps({"role": "user", "content": text}).encode()
            continue
        for message in messages:
            yield (_own if _is_own(message, request.model) else _plain)(message)
    if spoken and isinstance(spoken[-1], AssistantMessage):
        yield json.dumps({"role": "user", "content": GO_ON}).encode()


def _is_empty(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and not (message.text or message.tool_calls)


def _is_own(message: Message, model: str) -> bool:
    state = message.state if isinstance(message, AssistantMessage) else None
    return state is not None and state.is_of(NAME, model)


def _tool(offer: ToolOffer, *, light: bool) -> dict[str, object]:
    parameters = _light(offer.parameters) if light else offer.parameters
    function = {"name": offer.name, "description": offer.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _light(value: object) -> object:
    """A schema without long limits of length, which are said in words instead; the whole one stays ours.

    Servers that make a grammar of a schema (llama.cpp) refuse thousands of repetitions, or end their process.
    """
    if isinstance(value, list):
        return [_light(each) for each in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    found = {name: _light(each) for name, each in cast("dict[str, object]", value).items()}
    most = found.get("maxLength")
    if isinstance(most, int) and most > _LONG:
        del found["maxLength"]
        found["description"] = f"{found.get('description', '')} At most {most} characters.".strip()
    return found


@_http.remembered
def _plain(message: Message) -> bytes:
    return json.dumps(_wire(message)).encode()


@_http.remembered
def _own(message: Message) -> bytes:
    """An answer of the same model's, with what its server gave beside it."""
    assert isinstance(message, AssistantMessage)
    wire = _wire(message)
    calls = cast("list[dict[str, object]]", wire.get("tool_calls", []))
    for item in _items(message.state):
        at = item.get("call")
        if at is None:
            wire |= {name: item[name] for name in MESSAGE_FIELDS if name in item}
        elif isinstance(at, int) and 0 <= at < len(calls):
            calls[at] |= {name: item[name] for name in CALL_FIELDS if name in item}
    return json.dumps(wire).encode()


def _wire(message: Message) -> dict[str, object]:
    match message:
        case UserMessage():
            return {"role": "user", "content": message.text}
        case ToolMessage():
            return {"role": "tool", "tool_call_id": message.call_id, "content": message.content}
        case AssistantMessage(tool_calls=()):
            return {"role": "assistant", "content": message.text}
        case AssistantMessage():
            calls = [_past_call(call) for call in message.tool_calls]
            return {"role": "assistant", "content": message.text or None, "tool_calls": calls}


def _past_call(call: ToolRequest) -> dict[str, object]:
    function = {"name": _http.wire_name(call.name), "arguments": _http.as_json_object(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _items(state: ProviderState | None) -> list[dict[str, object]]:
    return [cast("dict[str, object]", item) for item in (state.items if state else ()) if isinstance(item, dict)]
