"""Chat Completions of OpenAI, and of any server that speaks the same, behind the port in `base.py`."""

import asyncio
import json
from typing import Literal
from urllib.parse import urlsplit

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion
from pydantic import ValidationError

from activities.providers import _http
from activities.providers.base import Completion, ModelRequest, ToolOffer
from policies.canonical import sha256
from workflows.messages import AssistantMessage, Message, StopReason, TokenUsage, ToolMessage, ToolRequest, UserMessage

__all__ = ["OpenAIProvider", "body_of", "limit_field"]

_KEY = "OPENAI_API_KEY"
_VENDOR = "https://api.openai.com/v1"
_STOPS: dict[str, StopReason] = {"length": "length", "content_filter": "content_filter"}


class OpenAIProvider:
    """Reaches models over `POST {base_url}/chat/completions`. Close it with `aclose`.

    Args:
        base_url: another server's, up to and including its `/v1`. None is OpenAI itself, whatever the environment says.

    Raises:
        MissingKey: `api_key` can't be sent.
    """

    name = "openai"

    def __init__(self, api_key: str, base_url: str | None = None) -> None:
        base_url = base_url or _VENDOR
        self._limit = limit_field(base_url)
        self._client = openai.AsyncOpenAI(
            api_key=_http.checked_key(api_key, _KEY),
            base_url=base_url,
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(),
        )

    async def complete(self, request: ModelRequest) -> Completion:
        body = body_of(request, self._limit)
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
            # The SDK's timeout is per read, so a server that dribbles could hold the call for ever; and over aiohttp a broken
            # connection looks like one.
            async with asyncio.timeout(timeout_s):
                return await self._client.post(
                    "/chat/completions",
                    content=body,
                    cast_to=ChatCompletion,
                    # A followed redirect would take the transcript to a host that nobody configured.
                    options={"headers": _http.JSON_HEADERS, "timeout": None, "follow_redirects": False},
                )
        except TimeoutError:
            raise _http.timed_out(timeout_s) from None
        except openai.APIConnectionError:
            raise _http.unreachable() from None
        except openai.APIStatusError as error:
            raise _http.refused(error.status_code, error.response.headers, error.body, key=_KEY) from None
        except (openai.APIError, ValueError):
            raise _http.bad_response() from None


def body_of(request: ModelRequest, limit: str) -> bytes:
    """The exact body of the request; `limit` as `limit_field` says."""
    head: dict[str, object] = {"model": request.model, limit: request.max_output_tokens}
    if request.tools:
        head["tools"] = [_tool(offer) for offer in request.tools]
    messages = [_rendered(message) for message in request.messages]
    if request.system:
        messages.insert(0, json.dumps({"role": "system", "content": request.system}).encode())
    return b'%b,"messages":[%b]}' % (json.dumps(head).encode()[:-1], b",".join(messages))


def limit_field(base_url: str) -> Literal["max_completion_tokens", "max_tokens"]:
    """The name under which the server at `base_url` takes the limit of output tokens."""
    # OpenAI's newer models refuse `max_tokens`, and many compatible servers ignore or refuse what replaced it.
    host = urlsplit(base_url).hostname or ""
    return "max_completion_tokens" if f".{host}".endswith(".api.openai.com") else "max_tokens"


def _tool(offer: ToolOffer) -> dict[str, object]:
    function = {"name": offer.name, "description": offer.description, "parameters": offer.parameters}
    return {"type": "function", "function": function}


@_http.remembered
def _rendered(message: Message) -> bytes:
    match message:
        case UserMessage():
            wire: dict[str, object] = {"role": "user", "content": message.text}
        case ToolMessage():
            wire = {"role": "tool", "tool_call_id": message.call_id, "content": message.content}
        case AssistantMessage(tool_calls=()):
            wire = {"role": "assistant", "content": message.text}
        case AssistantMessage():
            wire = {
                "role": "assistant",
                "content": message.text or None,
                "tool_calls": [_past_call(call) for call in message.tool_calls],
            }
    return json.dumps(wire).encode()


def _past_call(call: ToolRequest) -> dict[str, object]:
    function = {"name": _http.wire_name(call.name), "arguments": _http.as_json_object(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _read(answer: object, body: bytes, request: ModelRequest) -> Completion:
    if not isinstance(answer, ChatCompletion):  # HTML comes back as a `str`
        raise _http.bad_response()
    said = answer.choices[0].message
    calls: list[ToolRequest] = []
    for index, call in enumerate(said.tool_calls or ()):
        if call.type == "custom":
            continue  # never offered
        # Some servers send no id, or one id for all, and `""` where a tool takes no arguments.
        taken = {other.id for other in calls}
        call_id = call.id if call.id and call.id not in taken else f"call_{request.turn}_{index}"
        calls.append(ToolRequest(id=call_id, name=call.function.name, arguments=call.function.arguments or "{}"))
    message = AssistantMessage(text=said.content or said.refusal or "", tool_calls=tuple(calls))
    # A server that reports no usage must not be free: budgets would never bite.
    usage = _usage(answer.usage) if answer.usage else _http.estimated_usage(body, message)
    return Completion(
        message=message,
        usage=usage,
        model=answer.model or request.model,
        request_digest=sha256(body),
        stop=_STOPS.get(answer.choices[0].finish_reason, "tool_calls" if calls else "end"),
    )


def _usage(usage: CompletionUsage) -> TokenUsage:
    details = usage.prompt_tokens_details
    return TokenUsage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_input_tokens=(details.cached_tokens if details else None) or 0,
    )
