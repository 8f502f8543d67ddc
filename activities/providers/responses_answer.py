"""Reads the answer of `/responses`: what was said, what it cost and why it stopped. Lenient, and without OpenAI's SDK."""

import json
import math
from typing import NoReturn, cast

from pydantic import JsonValue

from activities.providers import _http
from activities.providers._refusals import refused
from activities.providers.base import Completion, ModelRequest, ProviderError
from activities.providers.responses_body import BETWEEN, NAME, limit_of, strict_schema
from activities.providers.schemas import stripped
from policies.canonical import sha256
from workflows.messages import AssistantMessage, ProviderState, StopReason, TokenUsage, ToolRequest

__all__ = ["parsed", "read"]

# The HTTP statuses that the codes of a failed response stand for. Source: `openai.types.responses.ResponseError`.
_STATUSES = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "server_error": 500,
    "vector_store_timeout": 500,
}
_FILTERED = frozenset({"invalid_prompt", "bio_policy", "misalignment_policy_violation", "image_content_policy_violation"})
_UNFINISHED = frozenset({"queued", "in_progress"})
_ABSURD = 2**53
_FAR_ABOVE = 4
"""Times the limit of output tokens; a count beyond that is a mistake of the server's."""


class _Read:
    """The items of an answer, in the order in which OpenAI gave them.

    Attributes:
        items: what must come back, texts by their length and calls by their index.
    """

    def __init__(self, request: ModelRequest) -> None:
        self._schemas = {o.name: o.parameters for o in request.tools if strict_schema(o, request.model)}
        self.text = ""
        self.refusal = False
        self.calls: list[ToolRequest] = []
        self.items: list[dict[str, JsonValue]] = []
        self._lost = False

    def take(self, item: dict[str, object]) -> None:
        match item.get("type"):
            case "reasoning":
                self._reasoning(item)
            case "function_call":
                self._call(item)
            case "message":
                self._message(item)
            case _:
                # A tool of OpenAI's own, which was never offered, or a kind that is newer than this code.
                self._lost = True

    def state(self, model: str) -> ProviderState | None:
        """What must come back with the answer; None when it is text and calls alone."""
        items = list(self.items)
        while items and items[-1].get("type") == "reasoning":
            items.pop()  # OpenAI refuses reasoning that nothing follows
            self._lost = True
        if self._lost:  # and an id whose reasoning is missing
            items = [i if i.get("type") == "reasoning" else {k: v for k, v in i.items() if k != "id"} for i in items]
        told = any(item.get("type") == "reasoning" or "phase" in item for item in items)
        return ProviderState(provider=NAME, model=model, items=tuple(items)) if told else None

    def _reasoning(self, item: dict[str, object]) -> None:
        encrypted, name = item.get("encrypted_content"), item.get("id")
        if not (encrypted and isinstance(encrypted, str) and name and isinstance(name, str)):
            self._lost = True  # nothing is stored at OpenAI's, so it would be looked for in vain
            return
        given = item.get("summary")
        summary = cast("list[JsonValue]", given) if isinstance(given, list) else []
        self.items.append({"type": "reasoning", "id": name, "summary": summary, "encrypted_content": encrypted})

    def _call(self, item: dict[str, object]) -> None:
        name = _text(item.get("name"))
        arguments = _arguments(item.get("arguments"))
        if name in self._schemas:
            arguments = stripped(arguments, self._schemas[name])
        self.items.append({"call": len(self.calls), **_named(item)})
        self.calls.append(ToolRequest(id=_text(item.get("call_id")), name=name, arguments=arguments))

    def _message(self, item: dict[str, object]) -> None:
        content = item.get("content")
        parts = cast("list[object]", content) if isinstance(content, list) else [content]
        said = ""
        for part in parts:
            fields = {"type": "output_text", "text": part} if isinstance(part, str) else _object(part)
            if fields.get("type") == "refusal":
                self.refusal = True
                said += _text(fields.get("refusal"))
            elif fields.get("type") in ("output_text", "text"):
                said += _text(fields.get("text"))
        if not said:
            self._lost = True
            return
        phase = item.get("phase")
        told: dict[str, JsonValue] = {"phase": phase} if phase in ("commentary", "final_answer") else {}
        self.items.append({"text": len(said), **_named(item), **told})
        self.text += (BETWEEN if self.text else "") + said


def read(raw: bytes, body: bytes, request: ModelRequest, *, dialect: str, key: str, secret: str = "") -> Completion:
    """What `raw`, the body of a 200, says.

    Args:
        body: what was sent, to estimate tokens that weren't counted.
        key: name of the variable that holds the key.
        secret: the key itself, which no error may quote.

    Raises:
        ProviderError: it can't be read (`bad_response`), or says that the call failed.
    """
    answer = parsed(raw)
    if not isinstance(answer, dict):
        _unreadable("it isn't JSON" if answer is None else "it isn't a JSON object")
    fields = cast("dict[str, object]", answer)
    status = _text(fields.get("status"))
    if fields.get("error") or status == "failed":
        raise _failure(fields, key, secret)
    if status == "cancelled":
        raise ProviderError("overloaded", "The provider cancelled the answer; try again later.", retryable=True)
    if status in _UNFINISHED:
        _unreadable(f"its `status` is `{status}`, so it isn't there yet")
    output = fields.get("output")
    if isinstance(output, dict):
        output = [cast("object", output)]
    if not isinstance(output, list):
        _unreadable("it has no `output`" if output is None else f"`output` is {_kind(output)}")
    said = _Read(request)
    for item in cast("list[object]", output):
        said.take(_object(item))
    message = AssistantMessage(text=said.text, tool_calls=tuple(said.calls), state=said.state(request.model))
    usage, counted = _usage(_object(fields.get("usage")), body, message, request)
    stop = _stop(status, _object(fields.get("incomplete_details")).get("reason"), said)
    if stop in ("end", "tool_calls") and counted >= limit_of(request):
        stop = "length"  # whatever the server says
    if stop == "content_filter" and not (message.text or message.tool_calls):
        message = AssistantMessage(text="The provider withheld the answer: `content_filter`.")
    return Completion(
        message=message,
        usage=usage,
        model=_text(fields.get("model")) or request.model,
        request_digest=sha256(body),
        stop=stop,
        dialect=dialect,
    )


def parsed(raw: bytes) -> object:
    """The JSON value that `raw` holds; None when it holds none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _stop(status: str, reason: object, said: _Read) -> StopReason:
    if status == "incomplete":
        # Of an answer that isn't whole no call may be made, whatever cut it off.
        return "content_filter" if reason == "content_filter" else "length"
    if said.refusal:
        return "refusal"
    return "tool_calls" if said.calls else "end"


def _failure(answer: dict[str, object], key: str, secret: str) -> ProviderError:
    """A failure that came with a 200: OpenAI's own, or a gateway's with the error of the server behind it."""
    code = _text(_object(answer.get("error")).get("code"))
    if code in _FILTERED:
        message = f"The provider refused to process the conversation (`{code}`); its rules don't let it through."
        return ProviderError("content_filter", message, retryable=False)
    number = _count({"": code}, "")
    status = number if 400 <= number < 600 else _STATUSES.get(code, 400 if code else 500)
    return refused(status, {}, answer, key=key, secret=secret)


def _usage(counts: dict[str, object], body: bytes, message: AssistantMessage, request: ModelRequest) -> tuple[TokenUsage, int]:
    """Tokens, and how many of them the server says that it wrote; a count that can't be true is replaced by an estimate."""
    estimate = _http.estimated_usage(body, message)
    read = _count(counts, "input_tokens") or estimate.input_tokens
    written = counted = _count(counts, "output_tokens")
    inputs, outputs = _object(counts.get("input_tokens_details")), _object(counts.get("output_tokens_details"))
    reasoning = _count(outputs, "reasoning_tokens")
    if written > limit_of(request) * _FAR_ABOVE + 1024 or (not written and estimate.output_tokens):
        written, counted, reasoning = estimate.output_tokens, 0, 0
    cached = min(_count(inputs, "cached_tokens"), read)
    usage = TokenUsage(
        input_tokens=read,
        output_tokens=written,
        cached_input_tokens=cached,
        cache_write_tokens=min(_count(inputs, "cache_write_tokens"), read - cached),
        reasoning_tokens=min(reasoning, written),
    )
    return usage, counted


def _count(counts: dict[str, object], name: str) -> int:
    """A number of tokens; 0 when there is none that can be true."""
    value = counts.get(name)
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        return 0
    return int(number) if math.isfinite(number) and 0 < number < _ABSURD else 0


def _arguments(value: object) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        return "{}"
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        inner = json.loads(value)
        if isinstance(inner, str) and isinstance(json.loads(inner), dict):
            return inner  # encoded twice
    except (ValueError, RecursionError):
        pass
    return value


def _named(item: dict[str, object]) -> dict[str, JsonValue]:
    name = item.get("id")
    return {"id": name} if name and isinstance(name, str) else {}


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case _:
            return "an object"


def _unreadable(what: str) -> NoReturn:
    raise _http.bad_response(what)
