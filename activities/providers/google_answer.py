"""Reads the answer of `generateContent`: what was said, what it cost and why it stopped. Lenient, and without Google's SDK."""

import json
import math
import re
from collections.abc import Sequence
from typing import cast

from pydantic import JsonValue

from activities.providers import _http
from activities.providers.base import Completion, ModelRequest, ProviderError
from activities.providers.google_body import DIALECT, NAME
from activities.providers.google_errors import refused
from policies.canonical import sha256
from workflows.messages import AssistantMessage, ProviderState, StopReason, TokenUsage, ToolRequest

__all__ = ["read", "unreadable"]

# Source of the names: `google.genai.types.FinishReason` and `BlockedReason`.
_WHOLE = frozenset({"STOP", "FUNCTION_CALL", "FINISH_REASON_UNSPECIFIED", ""})
_WITHHELD = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "ESCALATION",
        "MODEL_ARMOR",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)
_NO_CALL = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"})
_REASON = re.compile(r"[A-Z][A-Z_]{0,63}")
_CALLED = re.compile(r"(?:default_api\.|call:)?([A-Za-z_][\w.-]*)\s*[({]")
_ABSURD = 2**53
_FAR_ABOVE = 4
"""Times the limit of output tokens; a count beyond that is a mistake of the server's."""


class _Read:
    """The parts of an answer, in the order in which Google gave them."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: list[ToolRequest] = []
        self.items: list[dict[str, JsonValue]] = []

    def take(self, part: dict[str, object]) -> None:
        signature = part.get("thoughtSignature")
        signed: dict[str, JsonValue] = {"thoughtSignature": signature} if isinstance(signature, str) and signature else {}
        if part.get("thought") is True:
            if signed:
                self.items.append({"thought": _text(part.get("text")), **signed})
        elif "functionCall" in part:
            call = _call(part["functionCall"])
            named: dict[str, JsonValue] = {"id": call.id} if call.id else {}
            self.items.append({"call": len(self.calls), **named, **signed})
            self.calls.append(call)
        elif "text" in part:
            text = _text(part["text"])
            self.items.append({"text": len(text), **signed})
            self.text += text

    def state(self, model: str, token: str = "") -> ProviderState | None:
        """What must come back with the answer; None when it is text and calls alone."""
        items = [*self.items]
        if token:
            items.append({"continuationToken": token})
        told = any(item.keys() & {"thoughtSignature", "id", "continuationToken"} for item in items)
        return ProviderState(provider=NAME, model=model, items=tuple(items)) if told else None


def read(raw: str, body: bytes, request: ModelRequest, *, key: str) -> Completion:
    """What `raw`, the body of a 200, says.

    Args:
        body: what was sent, to estimate tokens that weren't counted.
        key: name of the variable that holds the key, or says where the credentials are.

    Raises:
        ProviderError: it can't be read (`bad_response`), or says that the call was refused.
    """
    answer = _parsed(raw)
    if isinstance(answer.get("error"), dict):  # a gateway's 200 with the error of the server behind it
        raise refused(_status(answer), {}, answer, key=key)
    candidates = answer.get("candidates")
    found = cast("list[object]", candidates)[0] if isinstance(candidates, list) and candidates else None
    feedback = _object(answer.get("promptFeedback"))
    if found is None and (blocked := _reason(feedback.get("blockReason"))):
        return _completion(
            answer, AssistantMessage(text=f"Google refused the conversation: `{blocked}`."), "content_filter", body, request
        )
    if not isinstance(found, dict):
        raise unreadable("it has no `candidates`" if found is None else "`candidates[0]` isn't an object")
    candidate = cast("dict[str, object]", found)
    reason = _reason(candidate.get("finishReason"))
    if reason == "PUP_LIMITED_DISABLED":
        message = f"Google limited or disabled this account for breaking its use policy; see its console, and check `{key}`."
        raise ProviderError("auth", message, retryable=False)
    if reason == "MISSING_THOUGHT_SIGNATURE":
        message = "Google missed a thought signature in the conversation; report this, with the model's name."
        raise ProviderError("bad_request", message, retryable=False)
    said = _Read()
    for part in _parts(candidate.get("content")):
        said.take(part)
    if reason in _NO_CALL and (reason == "MALFORMED_FUNCTION_CALL" or not said.calls):
        return _completion(answer, _malformed(said.text, candidate, request), "tool_calls", body, request)
    token = _text(candidate.get("continuationToken"))
    stop = _stop(reason, bool(said.calls), bool(token))
    if stop == "content_filter" and not (said.text or said.calls):
        message = AssistantMessage(text=f"Google withheld the answer: `{reason}`.")
        return _completion(answer, message, stop, body, request)
    message = AssistantMessage(
        text=said.text,
        tool_calls=tuple(said.calls),
        state=said.state(request.model, token if stop == "pause" else ""),
    )
    return _completion(answer, message, stop, body, request)


def _stop(reason: str, calls: bool, token: bool) -> StopReason:
    if reason in _WHOLE or reason in _NO_CALL:
        return "tool_calls" if calls else "end"
    if reason == "MAX_TOKENS":
        return "length"
    if reason == "CONTINUATION":
        # Calls of an answer that isn't over may be half of what they will be, so it isn't continued but asked for again.
        return "pause" if token and not calls else "length"
    if reason in _WITHHELD:
        return "content_filter"
    raise unreadable(f"the model stopped by `{reason}`")


def _completion(
    answer: dict[str, object], message: AssistantMessage, stop: StopReason, body: bytes, request: ModelRequest
) -> Completion:
    usage = _usage(_object(answer.get("usageMetadata")), body, message, request)
    if stop in ("end", "tool_calls") and usage.output_tokens >= request.max_output_tokens:
        stop = "length"  # whatever the server says
    return Completion(
        message=message,
        usage=usage,
        model=_text(answer.get("modelVersion")) or request.model,
        request_digest=sha256(body),
        stop=stop,
        dialect=DIALECT,
    )


def _malformed(text: str, candidate: dict[str, object], request: ModelRequest) -> AssistantMessage:
    """A call that can't be read, as Google quotes it: the workflow answers it like any other, and the model tries again."""
    quoted = _text(candidate.get("finishMessage")).partition("Malformed function call:")
    words = (quoted[2] or quoted[0]).strip() or "(no call that can be read)"
    names = {offer.name for offer in request.tools}
    called = [name.split(".")[-1] for name in _CALLED.findall(words)]
    name = next((name for name in called if name in names), called[-1] if called else "")
    # A leading `!` keeps it from being read as arguments, whatever the model wrote.
    return AssistantMessage(text=text, tool_calls=(ToolRequest(id="", name=name, arguments=f"!{words}"),))


def _call(value: object) -> ToolRequest:
    call = _object(value)
    arguments = call.get("args")
    if arguments is None or arguments == "":
        written = "{}"
    else:  # a text holds the object: encoded twice
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolRequest(id=_text(call.get("id")), name=_text(call.get("name")), arguments=written)


def _parts(content: object) -> Sequence[dict[str, object]]:
    if isinstance(content, str):
        return ({"text": content},)
    parts = _object(content).get("parts")
    listed = cast("list[object]", parts) if isinstance(parts, list) else [parts]
    return [{"text": part} if isinstance(part, str) else _object(part) for part in listed]


def _usage(counts: dict[str, object], body: bytes, message: AssistantMessage, request: ModelRequest) -> TokenUsage:
    """Google counts thoughts beside the answer, and leaves a count of zero out."""
    estimate = _http.estimated_usage(body, message)
    thoughts = _count(counts, "thoughtsTokenCount")
    read = _count(counts, "promptTokenCount") + _count(counts, "toolUsePromptTokenCount")
    written = _count(counts, "candidatesTokenCount") + thoughts
    if not written:
        written = max(0, _count(counts, "totalTokenCount") - read) if read else 0
    if not 0 < read < _ABSURD:
        read = estimate.input_tokens
    if (not written and estimate.output_tokens) or written > request.max_output_tokens * _FAR_ABOVE + 1024:
        written, thoughts = estimate.output_tokens, 0
    return TokenUsage(
        input_tokens=read,
        output_tokens=written,
        cached_input_tokens=min(_count(counts, "cachedContentTokenCount"), read),
        reasoning_tokens=min(thoughts, written),
    )


def _count(counts: dict[str, object], name: str) -> int:
    """A number of tokens; 0 when it is absent, or none. Proto3 writes 64-bit numbers as text."""
    value = counts.get(name)
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        return 0
    return int(number) if math.isfinite(number) and 0 < number < _ABSURD else 0


def _parsed(raw: str) -> dict[str, object]:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        raise unreadable("it isn't JSON") from None
    if isinstance(answer, list) and answer:  # a stream of one
        answer = cast("list[object]", answer)[0]
    if not isinstance(answer, dict):
        raise unreadable("it isn't a JSON object")
    return cast("dict[str, object]", answer)


def _status(answer: dict[str, object]) -> int:
    code = _count(_object(answer.get("error")), "code")
    return code if 400 <= code < 600 else 502


def unreadable(what: str) -> ProviderError:
    """The failure of an answer that isn't one; `what` is wrong with it."""
    message = f"Google's answer can't be read: {what}. Check that the base URL is an API's, not a page's."
    return ProviderError("bad_response", message, retryable=True)


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _reason(value: object) -> str:
    """A name of Google's, or nothing; other words of the server's aren't quoted."""
    if value is None or value == "":
        return ""
    return value if isinstance(value, str) and _REASON.fullmatch(value) else "UNKNOWN"
