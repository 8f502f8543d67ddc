"""The body of a Responses request, byte-stable. Without OpenAI's SDK: `remit verify` works where there is none."""

import json
import re
from collections.abc import Iterator
from typing import Literal, cast

from activities.providers import _http
from activities.providers.base import ModelRequest, ToolOffer
from activities.providers.schemas import strict
from workflows.messages import AssistantMessage, Message, ProviderState, ToolMessage, UserMessage

__all__ = ["BETWEEN", "DIALECTS", "NAME", "Dialect", "body_of", "limit_of", "strict_schema"]

Dialect = Literal["responses", "responses unmarked"]

NAME = "openai"
DIALECTS: tuple[Dialect, ...] = ("responses", "responses unmarked")
"""The forms of the body: as OpenAI itself takes it, and without the cache marks, which other clouds may not know."""
BETWEEN = "\n\n"
"""Stands between the messages of one answer, which `AssistantMessage` has as one text."""

_SMALLEST_LIMIT = 16
_LONGEST_CALL_ID = 64
_LONGEST_CACHE_KEY = 64
_VERSION = re.compile(r"gpt-(\d+)(?:\.(\d+))?(?![\d.])")
_MARKED_FROM = (5, 6)
# They answer 400 to a request for encrypted reasoning, for they don't reason.
_NO_REASONING = re.compile(r"(?:ft:)?(?:gpt-[34]|chatgpt-|gpt-[\w.]+-chat)")
_MARK = {"mode": "explicit"}


def body_of(request: ModelRequest, dialect: str = "responses") -> bytes:
    """The exact body of the request.

    Args:
        dialect: one of `DIALECTS`.
    """
    marked = dialect == "responses" and _takes_marks(request.model)
    head: dict[str, object] = {"model": request.model, "store": False}
    if request.tools:
        head["tools"] = [_tool(offer, request.model) for offer in request.tools]
        head["parallel_tool_calls"] = True
    if request.system and not marked:
        head["instructions"] = request.system
    if request.cache_key:
        head["prompt_cache_key"] = request.cache_key[:_LONGEST_CACHE_KEY]
    if not _NO_REASONING.match(request.model):
        head["include"] = ["reasoning.encrypted_content"]  # nothing is stored, so it must come back with the next request
    if request.effort:
        head["reasoning"] = {"effort": request.effort}
    items = [_prefix(request.system)] if request.system and marked else []
    for message in request.messages:
        own = isinstance(message, AssistantMessage) and message.state and message.state.is_of(NAME, request.model)
        if found := (_own if own else _plain)(message):
            items.append(found)
    # The limit differs when an answer was cut off, so it stands behind what all turns share.
    return b'%b,"input":[%b],"max_output_tokens":%d}' % (
        json.dumps(head).encode()[:-1],
        b",".join(items),
        limit_of(request),
    )


def limit_of(request: ModelRequest) -> int:
    """The limit of output tokens that is sent; OpenAI refuses one below 16."""
    return max(_SMALLEST_LIMIT, request.max_output_tokens)


def strict_schema(offer: ToolOffer, model: str) -> dict[str, object] | None:
    """The schema under which the model must write the arguments; None when it only should."""
    return None if model.startswith("ft:") else strict(offer.parameters)  # fine-tuned models take fewer keywords


def _tool(offer: ToolOffer, model: str) -> dict[str, object]:
    reduced = strict_schema(offer, model)
    return {
        "type": "function",
        "name": offer.name,
        "description": offer.description,
        "parameters": offer.parameters if reduced is None else reduced,
        "strict": reduced is not None,
    }


def _takes_marks(model: str) -> bool:
    """Whether the model takes cache marks: `gpt-5.6` and later, by OpenAI's own names."""
    found = _VERSION.match(model)
    return found is not None and (int(found[1]), int(found[2] or 0)) >= _MARKED_FROM


def _prefix(system: str) -> bytes:
    """The system prompt, marked as the end of what all runs of an agent share: tools come before it.

    Without the mark, these models' cache matches only as far as the last message of an earlier request, so no two runs share.
    """
    content = {"type": "input_text", "text": system, "prompt_cache_breakpoint": _MARK}
    return _dumped({"type": "message", "role": "developer", "content": [content]})


@_http.remembered
def _plain(message: Message) -> bytes:
    """The items of a message without what belongs to one model; nothing for an empty answer."""
    match message:
        case UserMessage():
            content = [{"type": "input_text", "text": message.text}]
            return _dumped({"type": "message", "role": "user", "content": content})
        case ToolMessage():
            call_id = message.call_id[:_LONGEST_CALL_ID]
            return _dumped({"type": "function_call_output", "call_id": call_id, "output": message.content})
        case AssistantMessage():
            items = [_said(message.text, {})] if message.text else []
            items += [_call(message, at, {}) for at in range(len(message.tool_calls))]
            return b",".join(items)


@_http.remembered
def _own(message: Message) -> bytes:
    """The items of an answer as this model gave them, in their order, with its reasoning in front of what followed it."""
    assert isinstance(message, AssistantMessage)
    order = [*_order(message)]
    # OpenAI refuses an id whose reasoning is missing, and reasoning that nothing follows.
    items: list[bytes] = []
    waiting: list[bytes] = []
    whole = not order or order[-1][0] != "reasoning"
    for kind, at, item in order:
        kept = item if whole else {name: value for name, value in item.items() if name != "id"}
        if kind == "reasoning":
            waiting.append(_dumped(item))
            continue
        items += waiting
        waiting.clear()
        items.append(_call(message, at, kept) if kind == "call" else _said(cast("str", item["said"]), kept))
    return b",".join(items)


def _order(message: AssistantMessage) -> Iterator[tuple[str, int, dict[str, object]]]:
    """What the answer consists of: `reasoning`, `text` or `call` with the call's index, and what goes with it."""
    items = _items(message.state)
    lengths = [item["text"] for item in items if isinstance(item.get("text"), int)]
    if message.text and not lengths:
        yield "text", 0, {"said": message.text}
    rest = message.text
    sent: set[int] = set()
    for item in items:
        at = item.get("call")
        if item.get("type") == "reasoning":
            yield "reasoning", 0, item
        elif isinstance(length := item.get("text"), int):
            lengths.pop()
            said, rest = (rest[:length], rest[length:].removeprefix(BETWEEN)) if lengths else (rest, "")
            if said:
                yield "text", 0, {**item, "said": said}
        elif isinstance(at, int) and 0 <= at < len(message.tool_calls) and at not in sent:
            sent.add(at)
            yield "call", at, item
    for at in range(len(message.tool_calls)):
        if at not in sent:
            yield "call", at, {}


def _said(text: str, item: dict[str, object]) -> bytes:
    phase = {"phase": item["phase"]} if item.get("phase") in ("commentary", "final_answer") else {}
    if not isinstance(item.get("id"), str):
        return _dumped({"type": "message", "role": "assistant", "content": text, **phase})
    content: dict[str, object] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    head = {"type": "message", "id": item["id"], "role": "assistant", "status": "completed"}
    return _dumped({**head, "content": [content], **phase})


def _call(message: AssistantMessage, at: int, item: dict[str, object]) -> bytes:
    call = message.tool_calls[at]
    named = {"id": item["id"]} if isinstance(item.get("id"), str) else {}
    return _dumped(
        {
            "type": "function_call",
            **named,
            "call_id": call.id[:_LONGEST_CALL_ID],
            "name": _http.wire_name(call.name),
            "arguments": _http.as_json_object(call.arguments),
        }
    )


def _items(state: ProviderState | None) -> list[dict[str, object]]:
    return [cast("dict[str, object]", item) for item in (state.items if state else ()) if isinstance(item, dict)]


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()
