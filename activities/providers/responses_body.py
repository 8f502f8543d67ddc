"""The body of a request to OpenAI's Responses API, byte-stable. Without OpenAI's SDK: `remit verify` works where there is none.

A dialect is the word `responses`, followed by `no-…` for each feature that the server doesn't take.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Literal, cast

from pydantic import JsonValue

from activities.providers import _http
from activities.providers.base import ModelRequest, ToolOffer
from activities.providers.openai_schemas import strict_schema
from workflows.messages import AssistantMessage, Message, ProviderState, ToolMessage, ToolRequest, UserMessage

__all__ = ["BETWEEN", "FEATURES", "GO_ON", "NAME", "Feature", "body_of", "dialect_of", "features_of"]

Feature = Literal["include", "key", "marks", "reasoning", "strict"]

NAME = "openai"
FORM = "responses"
FEATURES: tuple[Feature, ...] = ("include", "key", "marks", "reasoning", "strict")
"""What a server may not take: `include` (its reasoning comes back encrypted), `key` (`prompt_cache_key`), `marks` (an explicit
cache mark after the system prompt), `reasoning` (that of earlier answers), `strict` (tools whose arguments are held to their
schema)."""
BETWEEN = "\n\n"
"""Stands between two messages of one answer, where they are one text."""
GO_ON = "Go on where you stopped."
"""Said where an answer would come last."""

_FEWEST_TOKENS = 16
"""The smallest limit of output tokens that the API takes."""
_FAMILY = re.compile(r"(?:^|[/.])gpt-(\d+)(?:\.(\d+))?(?![\d.])")
_FIRST_WITH_MARKS = (5, 6)
_NO_REASONING = re.compile(r"(ft:)?(gpt-3|gpt-4|chatgpt-)")
"""Models that refuse to be asked for their reasoning."""


def dialect_of(features: Iterable[Feature]) -> str:
    """The dialect with these features."""
    taken = set(features)
    return " ".join([FORM, *(f"no-{feature}" for feature in FEATURES if feature not in taken)])


def features_of(dialect: str) -> frozenset[Feature]:
    """The features that `dialect` has."""
    missing = dialect.split()
    return frozenset(feature for feature in FEATURES if f"no-{feature}" not in missing)


def body_of(request: ModelRequest, dialect: str) -> bytes:
    """The exact body of the request. What all requests of an agent share comes first."""
    features = features_of(dialect)
    marked = "marks" in features and bool(request.cache_key and request.system) and _takes_marks(request.model)
    head: dict[str, object] = {"model": request.model}
    if request.tools:
        head["tools"] = [_tool(offer, strict="strict" in features) for offer in request.tools]
    if request.system and not marked:
        head["instructions"] = request.system
    head["store"] = False
    if "include" in features and not _NO_REASONING.match(request.model):
        head["include"] = ["reasoning.encrypted_content"]
    if request.effort:
        head["reasoning"] = {
            "effort": "low" if request.effort == "minimal" else request.effort
        }  # OpenAI has no `minimal` any more
    if request.cache_key and "key" in features:
        head["prompt_cache_key"] = request.cache_key
    head["max_output_tokens"] = max(request.max_output_tokens, _FEWEST_TOKENS)
    return b'%b,"input":[%b]}' % (json.dumps(head).encode()[:-1], b",".join(_input(request, features, marked=marked)))


def _input(request: ModelRequest, features: frozenset[Feature], *, marked: bool) -> Iterator[bytes]:
    if marked:
        # The API looks only at marks for a prefix that it knows, and sets one of its own at the end: without this one, no
        # run would find what another has written. `instructions` can't be marked.
        text = {"type": "input_text", "text": request.system, "prompt_cache_breakpoint": {"mode": "explicit"}}
        yield json.dumps({"role": "developer", "content": [text]}).encode()
    spoken = False
    for message in request.messages:
        own = "reasoning" in features and _is_own(message, request.model)
        if items := (_own if own else _plain)(message):
            yield items
            spoken = isinstance(message, AssistantMessage)
    if spoken:
        yield json.dumps({"role": "user", "content": GO_ON}).encode()


def _takes_marks(model: str) -> bool:
    """Whether OpenAI's SDK says of this model that it takes explicit marks."""
    found = _FAMILY.search(model)
    return bool(found) and (int(found[1]), int(found[2] or 0)) >= _FIRST_WITH_MARKS


def _is_own(message: Message, model: str) -> bool:
    state = message.state if isinstance(message, AssistantMessage) else None
    return state is not None and state.is_of(NAME, model)


def _tool(offer: ToolOffer, *, strict: bool) -> dict[str, object]:
    reduced = strict_schema(offer.parameters) if strict else None
    return {
        "type": "function",
        "name": offer.name,
        "description": offer.description,
        "parameters": offer.parameters if reduced is None else reduced,
        # Left out, it would count as true.
        "strict": reduced is not None,
    }


@_http.remembered
def _plain(message: Message) -> bytes:
    """The items of a message, separated by commas."""
    return _joined(_items(message))


@_http.remembered
def _own(message: Message) -> bytes:
    """The items of an answer of the same model's, in the order and with the ids that it gave."""
    assert isinstance(message, AssistantMessage)
    return _joined(_given(message, message.state) or _items(message))


def _joined(items: Iterable[object]) -> bytes:
    return b",".join(json.dumps(item).encode() for item in items)


def _items(message: Message) -> list[dict[str, object]]:
    match message:
        case UserMessage():
            return [{"role": "user", "content": message.text}]
        case ToolMessage():
            return [{"type": "function_call_output", "call_id": message.call_id, "output": message.content}]
        case AssistantMessage():
            said: list[dict[str, object]] = [{"role": "assistant", "content": message.text}] if message.text else []
            return said + [_call(call) for call in message.tool_calls]


def _call(call: ToolRequest) -> dict[str, object]:
    name, arguments = _http.wire_name(call.name), _http.as_json_object(call.arguments)
    return {"type": "function_call", "call_id": call.id, "name": name, "arguments": arguments}


def _given(message: AssistantMessage, state: ProviderState | None) -> list[dict[str, object]]:
    """The items as they came, from what `responses_answer` kept of them; none where text or calls are others by now."""
    found: list[dict[str, object]] = []
    calls, at = list(message.tool_calls), 0
    whole = 0
    for kept in state.items if state else ():
        match kept:
            case {"reasoning": dict() as item}:
                found.append(cast("dict[str, object]", item))
            case {"message": dict() as item, "letters": int() as letters}:
                found.append(_said(item, message.text[at : at + letters]))
                whole = at + letters
                at = whole + len(BETWEEN)
            case {"call": str() as item_id} if calls:
                found.append({**_call(calls.pop(0)), **({"id": item_id, "status": "completed"} if item_id else {})})
            case _:
                return []
    return found if whole == len(message.text) and not calls else []


def _said(item: dict[str, JsonValue], text: str) -> dict[str, object]:
    if "id" not in item:
        return {"role": "assistant", "content": text, **item}
    content: dict[str, object] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "role": "assistant", "status": "completed", **item, "content": [content]}
