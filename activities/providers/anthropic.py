"""Messages of Anthropic behind the port in `base.py`."""

import asyncio
import hashlib
import json
import re
from itertools import groupby
from operator import itemgetter

import anthropic
from anthropic.types import Message as Answer
from anthropic.types import TextBlock, ToolUseBlock
from anthropic.types import Usage as AnswerUsage
from pydantic import ValidationError

from activities.providers import _http
from activities.providers.base import Completion, ModelRequest, ToolOffer
from policies.canonical import sha256
from workflows.messages import AssistantMessage, Message, StopReason, TokenUsage, ToolMessage, ToolRequest, UserMessage

__all__ = ["AnthropicProvider", "body_of"]

_KEY = "ANTHROPIC_API_KEY"
_VENDOR = "https://api.anthropic.com"
_STOPS: dict[str, StopReason] = {
    "max_tokens": "length",
    "refusal": "refusal",
    "pause_turn": "pause",
    "model_context_window_exceeded": "context_exceeded",
}
_CALL_ID = re.compile(r"[A-Za-z0-9_-]+")


class AnthropicProvider:
    """Reaches models over `POST {base_url}/v1/messages`. Close it with `aclose`.

    Args:
        base_url: another server's, without `/v1`. None is Anthropic itself, whatever the environment says.

    Raises:
        MissingKey: `api_key` can't be sent.
    """

    name = "anthropic"

    def __init__(self, api_key: str, base_url: str | None = None) -> None:
        self._client = anthropic.AsyncAnthropic(
            api_key=_http.checked_key(api_key, _KEY),
            base_url=base_url or _VENDOR,
            max_retries=0,
            # The SDK would trace each call a second time, beside the span of the activity.
            open_telemetry=False,
        )

    async def complete(self, request: ModelRequest) -> Completion:
        body = body_of(request)
        answer = await self._post(body, request.timeout_s)
        try:
            return _read(answer, body, request)
        except (AttributeError, IndexError, TypeError, ValidationError):  # the SDK doesn't check what it parses
            raise _http.bad_response() from None

    async def aclose(self) -> None:
        await self._client.close()

    async def _post(self, body: bytes, timeout_s: float) -> object:
        # `from None` throughout: the SDK's errors hold the request, and Temporal writes causes into history.
        try:
            # The SDK's timeout is per read, so a server that dribbles could hold the call for ever.
            async with asyncio.timeout(timeout_s):
                return await self._client.post(
                    "/v1/messages",
                    content=body,
                    cast_to=Answer,
                    # A followed redirect would take transcript and key to a host that nobody configured.
                    options={"headers": _http.JSON_HEADERS, "timeout": timeout_s, "follow_redirects": False},
                )
        except (anthropic.APITimeoutError, TimeoutError):
            raise _http.timed_out(timeout_s) from None
        except anthropic.APIConnectionError:
            raise _http.unreachable() from None
        except anthropic.APIStatusError as error:
            raise _http.refused(error.status_code, error.response.headers, error.body, key=_KEY) from None
        except (anthropic.APIError, ValueError):
            raise _http.bad_response() from None


def body_of(request: ModelRequest) -> bytes:
    """The exact body of the request."""
    head: dict[str, object] = {"model": request.model, "max_tokens": request.max_output_tokens}
    if request.system:
        head["system"] = request.system
    if request.tools:
        head["tools"] = [_tool(offer) for offer in request.tools]
    # The API wants all results of a turn in one user message, and refuses a message without content.
    spoken = ((_role(message), blocks) for message in request.messages if (blocks := _blocks(message)))
    messages = [
        b'{"role":"%b","content":[%b]}' % (role, b",".join(blocks for _, blocks in group))
        for role, group in groupby(spoken, key=itemgetter(0))
    ]
    return b'%b,"messages":[%b]}' % (json.dumps(head).encode()[:-1], b",".join(messages))


def _tool(offer: ToolOffer) -> dict[str, object]:
    return {"name": offer.name, "description": offer.description, "input_schema": offer.parameters}


def _role(message: Message) -> bytes:
    return b"assistant" if isinstance(message, AssistantMessage) else b"user"


@_http.remembered
def _blocks(message: Message) -> bytes:
    """The content blocks of a message, separated by commas."""
    match message:
        case UserMessage():
            blocks = _text(message.text)
        case ToolMessage():
            result = {"type": "tool_result", "tool_use_id": _call_id(message.call_id), "content": message.content}
            blocks = [json.dumps(result)]
        case AssistantMessage():
            blocks = _text(message.text) + [_past_call(call) for call in message.tool_calls]
    return ",".join(blocks).encode()


def _text(text: str) -> list[str]:
    return [json.dumps({"type": "text", "text": text})] if text.strip() else []  # a blank text block is refused


def _past_call(call: ToolRequest) -> str:
    head = json.dumps({"type": "tool_use", "id": _call_id(call.id), "name": _http.wire_name(call.name)})
    # The object goes in as the model wrote it: parsing and dumping it again would change its numbers.
    return f'{head[:-1]},"input":{_http.as_json_object(call.arguments)}}}'


def _call_id(call_id: str) -> str:
    """`call_id`, or a digest of it when another provider, in an earlier turn, chose one that this API refuses."""
    return call_id if _CALL_ID.fullmatch(call_id) else "id_" + hashlib.sha256(call_id.encode()).hexdigest()[:32]


def _read(answer: object, body: bytes, request: ModelRequest) -> Completion:
    if not isinstance(answer, Answer):  # HTML comes back as a `str`
        raise _http.bad_response()
    text = "".join(block.text for block in answer.content if isinstance(block, TextBlock))
    calls = [
        ToolRequest(id=block.id, name=block.name, arguments=json.dumps(block.input))
        for block in answer.content
        if isinstance(block, ToolUseBlock)
    ]
    if calls and answer.stop_reason == "max_tokens" and isinstance(answer.content[-1], ToolUseBlock):
        # The API closes a call that was cut off, so it could pass validation and be carried out; open it again.
        calls[-1] = calls[-1].model_copy(update={"arguments": calls[-1].arguments[:-1]})
    message = AssistantMessage(text=text, tool_calls=tuple(calls))
    return Completion(
        message=message,
        usage=_usage(answer.usage),
        model=answer.model or request.model,
        request_digest=sha256(body),
        stop=_STOPS.get(answer.stop_reason or "", "tool_calls" if calls else "end"),
    )


def _usage(usage: AnswerUsage) -> TokenUsage:
    cached = usage.cache_read_input_tokens or 0
    return TokenUsage(
        input_tokens=usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0),
        output_tokens=usage.output_tokens,
        cached_input_tokens=cached,
    )
