"""Reads an answer of OpenAI's Responses API: what was said, what it cost and why it stopped. Lenient, and without its SDK."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from pydantic import JsonValue

from activities.providers import _http
from activities.providers._lenient import arguments_of, count, kind, listed, mapped, parsed, text_of
from activities.providers.base import Completion, ModelRequest, ProviderError
from activities.providers.openai_schemas import without_nulls
from activities.providers.responses_body import BETWEEN, NAME, features_of
from policies.canonical import sha256
from workflows.messages import AssistantMessage, ProviderState, StopReason, TokenUsage, ToolRequest

__all__ = ["read"]

_FAR_ABOVE = 4
"""Times the limit of output tokens; a count beyond that is a mistake of the server's."""
# The codes of `ResponseError` in OpenAI's SDK. What isn't here is a refusal of the request.
_STATUSES = {"server_error": 500, "vector_store_timeout": 500, "rate_limit_exceeded": 429}
_POLICIES = frozenset(
    {"invalid_prompt", "bio_policy", "cyber_policy", "misalignment_policy_violation", "image_content_policy_violation"}
)


@dataclass
class _Read:
    """What the items of an answer say.

    Attributes:
        kept: for the next request, in order: reasoning as it came, and for each text and call what it had besides.
        lost: whether there was reasoning that can't be sent back.
        cut: whether an item isn't whole.
    """

    texts: list[str] = field(default_factory=list[str])
    refusals: list[str] = field(default_factory=list[str])
    calls: list[ToolRequest] = field(default_factory=list[ToolRequest])
    kept: list[dict[str, JsonValue]] = field(default_factory=list[dict[str, JsonValue]])
    lost: bool = False
    cut: bool = False


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
        ProviderError: it can't be read (`bad_response`), or it holds an error, which counts as a refusal.
    """
    found = parsed(raw)
    if not isinstance(found, dict):
        raise _http.bad_response()
    answer = mapped(cast("object", found))
    status = text_of(answer.get("status"))
    if (error := answer.get("error")) or status == "failed":
        raise _failed(error, headers or {}, key=key, secret=secret)
    output = answer.get("output")
    if not isinstance(output, list):
        missing = "it has no `output`" if output is None else f"`output` is {kind(output)}"
        raise _http.bad_response(missing if answer.keys() & {"object", "status", "output"} else "")
    if status in ("queued", "in_progress", "cancelled"):
        raise _http.bad_response(f"it is `{status}`")
    said = _items(listed(cast("object", output)), request, strict="strict" in features_of(dialect))
    message = AssistantMessage(
        text="".join([BETWEEN.join(said.texts), *said.refusals]),
        tool_calls=tuple(said.calls),
        state=_state(said, request.model),
    )
    usage, counted = _usage(mapped(answer.get("usage")), body, message, request)
    return Completion(
        message=message,
        usage=usage,
        model=text_of(answer.get("model")).encode("utf-8", "replace").decode() or request.model,
        request_digest=sha256(body),
        stop=_stop(answer, said, cut=status == "incomplete" or said.cut or counted >= request.max_output_tokens),
        dialect=dialect,
    )


def _items(output: list[object], request: ModelRequest, *, strict: bool) -> _Read:
    """What the items of the answer say; items of types that weren't asked for are skipped."""
    said = _Read()
    schemas = {offer.name: offer.parameters for offer in request.tools} if strict else {}
    for value in output:
        item = mapped(value)
        match item.get("type"):
            case "message":
                said.cut |= item.get("status") == "incomplete"
                _read_message(item, said)
            case "function_call":
                said.cut |= item.get("status") == "incomplete"
                name, arguments = text_of(item.get("name")), arguments_of(item.get("arguments"))
                if name in schemas:
                    arguments = without_nulls(arguments, schemas[name])
                call_id = text_of(item.get("call_id")) or text_of(item.get("id"))
                said.calls.append(ToolRequest(id=call_id, name=name, arguments=arguments))
                said.kept.append({"call": text_of(item.get("id"))})
            case "reasoning" if item.get("encrypted_content") and item.get("id"):
                # Without both, it says nothing to a server that stored nothing. The API takes no `content` back, and no null.
                fields = {name: item[name] for name in ("id", "encrypted_content")}
                summary = listed(item.get("summary"))
                said.kept.append({"reasoning": cast("JsonValue", {"type": "reasoning", **fields, "summary": summary})})
            case "reasoning":
                said.lost = True
            case _:
                pass
    return said


def _read_message(item: dict[str, object], said: _Read) -> None:
    content = item.get("content")
    parts = [content] if isinstance(content, str) else listed(content)
    texts: list[str] = []
    for part in parts:
        fields = {"type": "output_text", "text": part} if isinstance(part, str) else mapped(part)
        if fields.get("type") == "refusal":
            said.refusals.append(text_of(fields.get("refusal")))
        elif fields.get("type") in ("output_text", "text"):
            texts.append(text_of(fields.get("text")))
    text = "".join(texts)
    if text:
        said.texts.append(text)
        kept = {name: text_of(item[name]) for name in ("id", "phase") if item.get(name)}
        said.kept.append({"message": cast("JsonValue", kept), "letters": len(text)})


def _state(said: _Read, model: str) -> ProviderState | None:
    """What must come back with the answer; None when it is text and calls alone, and when it is a refusal."""
    items, lost = said.kept, said.lost
    while items and "reasoning" in items[-1]:
        items, lost = items[:-1], True  # the API refuses reasoning that nothing follows
    if said.refusals or not any("reasoning" in item or "phase" in mapped(item.get("message")) for item in items):
        return None
    if lost:
        items = [_without_id(item) for item in items]
    return ProviderState(provider=NAME, model=model, items=tuple(items))


def _without_id(item: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What was kept of a text or a call, without the id by which the API would look for reasoning that isn't there."""
    if "call" in item:
        return {"call": ""}
    if "message" in item:
        fields = mapped(item["message"])
        return {**item, "message": cast("JsonValue", {name: fields[name] for name in fields if name != "id"})}
    return item


def _stop(answer: dict[str, object], said: _Read, *, cut: bool) -> StopReason:
    reason = mapped(answer.get("incomplete_details")).get("reason")
    if reason == "content_filter":
        return "content_filter"
    if any(refusal.strip() for refusal in said.refusals):
        return "refusal"
    if cut:
        return "length"
    return "tool_calls" if said.calls else "end"


def _usage(counts: dict[str, object], body: bytes, message: AssistantMessage, request: ModelRequest) -> tuple[TokenUsage, int]:
    """Tokens, and how many of them the server says that it wrote; a count that can't be true is replaced by an estimate."""
    estimate = _http.estimated_usage(body, message)
    inputs, outputs = mapped(counts.get("input_tokens_details")), mapped(counts.get("output_tokens_details"))
    was_read = count(counts, "input_tokens") or estimate.input_tokens
    counted = written = count(counts, "output_tokens")
    if written > request.max_output_tokens * _FAR_ABOVE + 1024:
        counted = written = 0
    written = written or estimate.output_tokens
    cached = min(count(inputs, "cached_tokens"), was_read)
    usage = TokenUsage(
        input_tokens=was_read,
        output_tokens=written,
        cached_input_tokens=cached,
        cache_write_tokens=min(count(inputs, "cache_write_tokens"), was_read - cached),
        reasoning_tokens=min(count(outputs, "reasoning_tokens"), written),
    )
    return usage, counted


def _failed(error: object, headers: Mapping[str, str], *, key: str, secret: str) -> ProviderError:
    """The failure that an answer tells of: the model was asked, and its vendor broke off."""
    fields = mapped(error)
    code = text_of(fields.get("code"))
    if code in _POLICIES:
        message = f"The provider broke the answer off (`{code}`); its content filter doesn't let the conversation through."
        return ProviderError("content_filter", message, retryable=False)
    number = count({"code": code}, "code")  # a gateway gives the status of the server behind it
    status = number if 400 <= number < 600 else _STATUSES.get(code, 500 if not code else 400)
    return _http.refused(status, headers, {"error": fields}, key=key, secret=secret)
