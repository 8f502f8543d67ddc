"""Answers of the Messages API, read leniently from their JSON: what makes sense is kept. No SDK is imported here."""

import json
import math
from dataclasses import dataclass, field
from typing import cast

from pydantic import JsonValue

from activities.providers import _http
from activities.providers.anthropic_body import PROVIDER, Built
from activities.providers.base import Completion, ModelRequest, ProviderError
from policies.canonical import sha256
from workflows.messages import AssistantMessage, ProviderState, StopReason, TokenUsage, ToolRequest

__all__ = ["AnswerIsError", "read"]

_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that each type of error has when the server says it in the headers too. Source: the vendor's page "Errors"."""

_STOPS: dict[str, StopReason] = {
    "max_tokens": "length",
    "length": "length",  # gateways that translate from Chat Completions forget this one
    "refusal": "refusal",
    "content_filter": "content_filter",
    "pause_turn": "pause",
    "model_context_window_exceeded": "context_exceeded",
}
_WHOLE: frozenset[StopReason] = frozenset({"end", "tool_calls"})
_THINKING = ("thinking", "redacted_thinking")
_MOST = 2**53
_FAR_ABOVE = 4
"""An answer of so many times the limit is a wrong number; some servers ignore the limit, so it may be exceeded."""


@dataclass
class _Content:
    """Content blocks, taken apart.

    Attributes:
        items: the blocks in their order: thinking as it came, text by its length, a call by its index.
        other: the items with blocks of types that we don't know, for an answer that must go back as it is.
    """

    text: str = ""
    calls: list[ToolRequest] = field(default_factory=list[ToolRequest])
    items: list[JsonValue] = field(default_factory=list[JsonValue])
    other: list[JsonValue] = field(default_factory=list[JsonValue])

    def take(self, block: JsonValue, path: str) -> None:
        """Read one block.

        Raises:
            ProviderError: it is of a type that we know, in a shape that we don't.
        """
        if isinstance(block, str):
            block = {"type": "text", "text": block}
        if not isinstance(block, dict):
            return
        match block.get("type"):
            case "text":
                text = "" if block.get("text") is None else block["text"]
                if not isinstance(text, str):
                    raise _unreadable(f"`{path}.text` is {_kind(text)}")
                self.text += text
                self._add({"text": len(text)})
            case "tool_use":
                self.calls.append(_call(block))
                self._add({"call": len(self.calls) - 1})
            case str(kind) if kind in _THINKING:
                self._add(block)
            case str():
                self.other.append(block)
            case _:
                pass

    def state(self, request: ModelRequest, bound: str, stop: StopReason) -> ProviderState | None:
        """What must go back with the text and the calls; None where they say all."""
        if stop not in _WHOLE and stop != "pause":
            return None  # a block that was cut off has no valid signature
        items = self.other if stop == "pause" else _without_end(self.items)
        if not any("type" in item for item in items if isinstance(item, dict)):
            return None
        return ProviderState(provider=PROVIDER, model=request.model, items=(bound, *items))

    def _add(self, item: JsonValue) -> None:
        self.items.append(item)
        self.other.append(item)


def read(raw: bytes, built: Built, request: ModelRequest, dialect: str) -> Completion:
    """The answer in `raw`, the body of a 200.

    Raises:
        ProviderError: it is no answer; the sentence says what was wrong.
    """
    answer = _parsed(raw)
    if answer.get("type") == "error" or isinstance(answer.get("error"), dict):
        raise AnswerIsError(answer)
    blocks = answer.get("content")
    if isinstance(blocks, str):
        blocks = [blocks]
    if not isinstance(blocks, list):
        raise _unreadable(f"`content` is {_kind(blocks)}")
    content = _Content()
    for index, block in enumerate(blocks):
        content.take(block, f"content[{index}]")
    usage, written = _usage(answer.get("usage"), built.body, content, request)
    stop = _stop(answer.get("stop_reason"), content, written, request)
    model = answer.get("model")
    return Completion(
        message=AssistantMessage(
            text=content.text, tool_calls=tuple(content.calls), state=content.state(request, built.bound, stop)
        ),
        usage=usage,
        model=model if isinstance(model, str) and model else request.model,
        request_digest=sha256(built.body),
        stop=stop,
        dialect=dialect,
    )


class AnswerIsError(Exception):
    """A 200 that holds an error of the vendor's.

    Attributes:
        body: as it was parsed.
        status: what the status should have been.
    """

    def __init__(self, body: dict[str, JsonValue]) -> None:
        super().__init__()
        self.body = body
        match body.get("error"):
            case {"code": int(code)} if 400 <= code < 600:
                self.status = code
            case {"type": str(kind)}:
                self.status = _STATUSES.get(kind, 500)
            case _:
                self.status = 500


def _parsed(raw: bytes) -> dict[str, JsonValue]:
    try:
        # JSON has no NaN; as text it fails the tool's own validation, and the rest of the answer isn't lost.
        answer = json.loads(raw, parse_constant=str)
    except (ValueError, RecursionError):
        raise _unreadable("it isn't JSON") from None
    if not isinstance(answer, dict):
        raise _unreadable(f"it is {_kind(answer)}")
    return cast("dict[str, JsonValue]", answer)


def _call(block: dict[str, JsonValue]) -> ToolRequest:
    call_id, name = block.get("id"), block.get("name")
    return ToolRequest(
        id="" if call_id is None else str(call_id),
        name=name if isinstance(name, str) else "",
        arguments=_arguments(block.get("input")),
    )


def _arguments(given: JsonValue) -> str:
    """JSON text: an object, unless the model's own text can't be read as one."""
    if given is None:
        return "{}"
    if not isinstance(given, str):
        return json.dumps(given)
    try:
        inner = json.loads(given)
    except (ValueError, RecursionError):
        return given
    return inner if isinstance(inner, str) else given  # some servers encode it twice


def _without_end(items: list[JsonValue]) -> list[JsonValue]:
    """`items` up to the last text or call: the API refuses an answer that ends with thinking."""
    last = max((i for i, item in enumerate(items) if isinstance(item, dict) and "type" not in item), default=-1)
    return items[: last + 1]


def _stop(given: object, content: _Content, written: int | None, request: ModelRequest) -> StopReason:
    """Why the model stopped. An answer that used up its limit was cut off, whatever the server calls it."""
    stop = _STOPS.get(given) if isinstance(given, str) else None
    if stop is None and written is not None and written >= request.max_output_tokens:
        return "length"
    return stop or ("tool_calls" if content.calls else "end")


def _usage(given: object, body: bytes, content: _Content, request: ModelRequest) -> tuple[TokenUsage, int | None]:
    """What was used, and how much of the output the server reported. What makes no sense is estimated, for it was billed."""
    fields = cast("dict[str, object]", given) if isinstance(given, dict) else {}
    estimate = _http.estimated_usage(body, AssistantMessage(text=content.text, tool_calls=tuple(content.calls)))
    cached = _count(fields.get("cache_read_input_tokens")) or 0
    written_to_cache = _count(fields.get("cache_creation_input_tokens")) or _sum(fields.get("cache_creation"))
    read_anew = _count(fields.get("input_tokens"))
    total = (read_anew or 0) + cached + written_to_cache
    if total == 0 or total > _MOST or (read_anew is None and not cached):
        cached, written_to_cache, total = 0, 0, estimate.input_tokens
    output = _count(fields.get("output_tokens"))
    if output is None or output > _FAR_ABOVE * request.max_output_tokens or (not output and (content.items or content.text)):
        output = None
    spent = estimate.output_tokens + _thought(content) if output is None else output
    details = fields.get("output_tokens_details")
    thought = _count(cast("dict[str, object]", details).get("thinking_tokens")) if isinstance(details, dict) else None
    usage = TokenUsage(
        input_tokens=total,
        output_tokens=spent,
        cached_input_tokens=cached,
        cache_write_tokens=written_to_cache,
        reasoning_tokens=min(thought or 0, spent),
    )
    return usage, output


def _count(given: object) -> int | None:
    """A number of tokens; None for what can't be one."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        return None
    return int(given) if 0 <= given <= _MOST else None


def _sum(given: object) -> int:
    """All tokens of `cache_creation`, which has a number for each lifetime."""
    counts = cast("dict[str, object]", given).values() if isinstance(given, dict) else ()
    return sum(_count(count) or 0 for count in counts)


def _thought(content: _Content) -> int:
    """Tokens of the thinking that can be read, at four characters each."""
    texts = [item.get("thinking") for item in content.items if isinstance(item, dict)]
    return sum(-(-len(text) // 4) for text in texts if isinstance(text, str))


def _unreadable(what: str) -> ProviderError:
    message = (
        f"The provider answered 200 with something that is no model answer: {what}. "
        "Check that the base URL is an API's, not a page's."
    )
    return ProviderError("bad_response", message, retryable=True)


def _kind(value: object) -> str:
    match value:
        case None:
            return "missing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"
