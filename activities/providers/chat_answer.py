"""Reads the answer of Chat Completions: what was said, what it cost and why it stopped. Lenient, and without OpenAI's SDK."""

from collections.abc import Mapping
from typing import cast

from pydantic import JsonValue

from activities.providers import _http
from activities.providers._lenient import arguments_of, count, kind, mapped, parsed, text_of
from activities.providers.base import Completion, ModelRequest
from activities.providers.chat_body import CALL_FIELDS, MESSAGE_FIELDS, NAME
from policies.canonical import sha256
from workflows.messages import AssistantMessage, ProviderState, StopReason, TokenUsage, ToolRequest

__all__ = ["read"]

# What servers say besides OpenAI's own words: Mistral, Zhipu, DeepSeek, vLLM, SGLang, OpenRouter, and gateways to others.
_STOPS: dict[str, StopReason] = {
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
    "safety": "content_filter",
    "refusal": "refusal",
    "model_context_window_exceeded": "context_exceeded",
}
_BROKEN_OFF = frozenset({"error", "abort", "network_error", "insufficient_system_resource"})
_FAR_ABOVE = 4
"""Times the limit of output tokens; a count beyond that is a mistake of the server's."""


def read(
    raw: bytes,
    body: bytes,
    request: ModelRequest,
    *,
    dialect: str,
    key: str,
    secret: str = "",
    headers: Mapping[str, str] | None = None,
) -> Completion:
    """What `raw`, the body of a 200, says.

    Args:
        body: what was sent, in the form `dialect`; tokens that weren't counted are estimated from it.
        key: name of the variable that holds the key `secret`.
        headers: of the answer.

    Raises:
        ProviderError: it can't be read (`bad_response`), or it holds an error, which counts as that HTTP status.
    """
    found = parsed(raw)
    if not isinstance(found, dict):
        raise _http.bad_response()
    answer = cast("dict[str, object]", found)
    choice = _choice(answer)
    for holder in (answer, choice):
        if error := holder.get("error"):
            raise _http.refused(_status(holder, error), headers or {}, {"error": error}, key=key, secret=secret)
    finish = _finish(choice)
    if finish in _BROKEN_OFF:
        raise _http.refused(502, headers or {}, {"error": {"code": finish}}, key=key, secret=secret)
    if not choice:
        raise _http.bad_response("it has no `choices`" if answer.keys() & {"id", "object", "usage", "model"} else "")
    said = _said(choice)
    text, refusal = _text_and_refusal(said)
    calls = tuple(_call(value) for value in _calls(said))
    message = AssistantMessage(text=text or refusal, tool_calls=calls, state=_state(said, request.model))
    usage, written = _usage(mapped(answer.get("usage")), body, message, request)
    stop: StopReason = _STOPS.get(finish, "tool_calls" if calls else "end")
    if refusal:
        stop = "refusal"
    elif stop in ("end", "tool_calls") and written >= request.max_output_tokens:
        stop = "length"  # whatever the server says: vLLM calls what it cut off `tool_calls`
    return Completion(
        message=message,
        usage=usage,
        model=text_of(answer.get("model")).encode("utf-8", "replace").decode() or request.model,
        request_digest=sha256(body),
        stop=stop,
        dialect=dialect,
    )


def _choice(answer: dict[str, object]) -> dict[str, object]:
    choices = answer.get("choices")
    if choices is None or choices == []:
        return {}
    if not isinstance(choices, list):
        raise _http.bad_response(f"`choices` is {kind(choices)}")
    first = cast("list[object]", choices)[0]
    if not isinstance(first, dict):
        raise _http.bad_response(f"`choices[0]` is {kind(first)}")
    return cast("dict[str, object]", first)


def _said(choice: dict[str, object]) -> dict[str, object]:
    said = choice.get("message", choice.get("delta"))
    if not isinstance(said, dict):
        problem = f"`choices[0].message` is {kind(said)}" if said is not None else "`choices[0]` has no `message`"
        raise _http.bad_response(problem)
    return cast("dict[str, object]", said)


def _text_and_refusal(said: dict[str, object]) -> tuple[str, str]:
    content, refusal = said.get("content"), said.get("refusal")
    refused = refusal if isinstance(refusal, str) else ""
    if content is None or isinstance(content, str):
        return content or "", refused if refused.strip() else ""
    listed = cast("list[object]", content) if isinstance(content, list) else [content]
    texts: list[str] = []
    for part in listed:
        fields = {"text": part} if isinstance(part, str) else mapped(part)
        if not fields:
            raise _http.bad_response(f"`choices[0].message.content` {'has' if listed is content else 'is'} {kind(part)}")
        if fields.get("type") == "refusal":
            refused += text_of(fields.get("refusal"))
        elif fields.get("type", "text") in ("text", "output_text"):
            texts.append(text_of(fields.get("text")))
    return "".join(texts), refused if refused.strip() else ""


def _calls(said: dict[str, object]) -> list[object]:
    calls = said.get("tool_calls")
    if calls is None:
        older = said.get("function_call")
        return [{"function": older}] if isinstance(older, dict) else []
    if isinstance(calls, dict):
        return [cast("object", calls)]
    if not isinstance(calls, list):
        raise _http.bad_response(f"`choices[0].message.tool_calls` is {kind(calls)}")
    return cast("list[object]", calls)


def _call(value: object) -> ToolRequest:
    """A call, whatever there is of it: one that makes no sense goes back to the model as such."""
    call = mapped(value)
    function = mapped(call.get("function")) or mapped(call.get("custom")) or call
    name = text_of(function.get("name"))
    arguments = function.get("arguments", function.get("input", function.get("parameters")))
    return ToolRequest(id=text_of(call.get("id")), name=name, arguments=arguments_of(arguments))


def _state(said: dict[str, object], model: str) -> ProviderState | None:
    """What must come back with the answer; None when it is text and calls alone."""
    items: list[dict[str, JsonValue]] = []
    calls = [mapped(call) for call in _calls(said)]
    # DeepSeek's reasoner refuses reasoning that comes back without a tool call; nobody needs it then.
    names = MESSAGE_FIELDS if calls else ("extra_content",)
    if kept := _kept(said, names):
        items.append(kept)
    for index, call in enumerate(calls):
        if kept := _kept(call, CALL_FIELDS):
            items.append({"call": index, **kept})
    return ProviderState(provider=NAME, model=model, items=tuple(items)) if items else None


def _kept(fields: dict[str, object], names: tuple[str, ...]) -> dict[str, JsonValue]:
    return {name: cast("JsonValue", fields[name]) for name in names if fields.get(name)}


def _finish(choice: dict[str, object]) -> str:
    reason = choice.get("finish_reason")
    return text_of(mapped(cast("object", reason)).get("type", reason)).lower()  # SGLang gives an object


def _usage(counts: dict[str, object], body: bytes, message: AssistantMessage, request: ModelRequest) -> tuple[TokenUsage, int]:
    """Tokens, and how many of them the server says that it wrote; a count that can't be true is replaced by an estimate."""
    estimate = _http.estimated_usage(body, message)
    read = count(counts, "prompt_tokens", "input_tokens")
    counted = count(counts, "completion_tokens", "output_tokens")
    total = count(counts, "total_tokens")
    inputs = mapped(counts.get("prompt_tokens_details")) or mapped(counts.get("input_tokens_details"))
    outputs = mapped(counts.get("completion_tokens_details")) or mapped(counts.get("output_tokens_details"))
    most = request.max_output_tokens * _FAR_ABOVE + 1024
    if not read:
        read = max(0, total - (counted or estimate.output_tokens)) or estimate.input_tokens
    # xAI and Gemini count reasoning in the total only.
    written = max(counted, total - read) if total - read <= most else counted
    reasoning = count(outputs, "reasoning_tokens")
    if written > most or (not written and estimate.output_tokens):
        written, counted, reasoning = estimate.output_tokens, 0, 0
    cached = count(inputs, "cached_tokens") or count(counts, "prompt_cache_hit_tokens", "cached_tokens")
    cached = min(cached, read)
    wrote = count(inputs, "cache_write_tokens", "cache_creation_tokens") or count(counts, "cache_creation_input_tokens")
    usage = TokenUsage(
        input_tokens=read,
        output_tokens=written,
        cached_input_tokens=cached,
        cache_write_tokens=min(wrote, read - cached),
        reasoning_tokens=min(reasoning, written),
    )
    return usage, counted


def _status(holder: dict[str, object], error: object) -> int:
    """The HTTP status that an error inside a 200 stands for."""
    fields = mapped(error)
    for value in (
        fields.get("code"),
        fields.get("status"),
        fields.get("status_code"),
        holder.get("code"),
        holder.get("status"),
    ):
        number = count({"": value}, "")
        if 400 <= number < 600:
            return number
    words = f"{text_of(fields.get('code'))} {text_of(fields.get('type'))}".lower()
    if "rate_limit" in words or "too_many_requests" in words:
        return 429
    return 400 if "invalid_request" in words else 502
