"""What the HTTP providers share: checked keys, refusals read as errors, past tool calls made presentable. No SDK in here."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NoReturn, cast
from weakref import finalize

from activities.providers.base import ProviderError
from policies.errors import MissingKey
from workflows.messages import AssistantMessage, Message, TokenUsage

__all__ = [
    "JSON_HEADERS",
    "as_json_object",
    "bad_response",
    "checked_key",
    "estimated_usage",
    "refused",
    "remembered",
    "timed_out",
    "unreachable",
    "wire_name",
]

JSON_HEADERS = {"content-type": "application/json"}


_CODES = {401: "auth", 403: "auth", 408: "timeout", 409: "overloaded", 429: "rate_limited"}
_ADVICE = {
    "auth": "check `{key}`",
    "bad_request": "check the model's name and the base URL",
    "overloaded": "try again later",
    "rate_limited": "try again later, or raise the limits of the account behind `{key}`",
    "timeout": "try again later",
}
_UNSAFE_NAME = re.compile(r"[^A-Za-z0-9_-]")
_REASON = re.compile(r"[a-z][a-z_]{0,63}")


def checked_key(key: str, variable: str) -> str:
    """`key` without surrounding white space.

    Raises:
        MissingKey: it is blank, or holds what no HTTP header can carry. `variable` is named, the key isn't shown.
    """
    # A key mounted as a file ends with a newline; sent as it is, it comes back as an endless "connection error".
    stripped = key.strip()
    if not stripped:
        raise MissingKey(
            f"`{variable}` is empty; set it to the provider's key, or to any word for a server that asks for none."
        )
    if not (stripped.isascii() and stripped.isprintable()):
        raise MissingKey(f"`{variable}` holds a character that an HTTP header can't carry; copy the key again.")
    return stripped


def remembered(render: Callable[[Message], bytes]) -> Callable[[Message], bytes]:
    """`render` with its results kept as long as their messages, so that a step costs what its new messages cost.

    A cache of a certain size would be worth nothing once the transcripts of all runs together are larger.
    """
    kept: dict[int, bytes] = {}  # by identity: hashing and comparing whole messages would cost what all of them cost

    def rendered(message: Message) -> bytes:
        key = id(message)
        found = kept.get(key)
        if found is None:
            found = kept[key] = render(message)
            finalize(message, kept.pop, key).atexit = False
        return found

    return rendered


def refused(status: int, headers: Mapping[str, str], body: object, *, key: str) -> ProviderError:
    """What an HTTP status other than 2xx means.

    Args:
        body: the parsed body; only an identifier in it is quoted, for vendors repeat keys and prompts in their messages.
        key: name of the variable that holds the key.
    """
    code = _CODES.get(status, "overloaded" if status >= 500 else "bad_request")
    wish = headers.get("x-should-retry")
    retryable = wish == "true" if wish in ("true", "false") else code not in ("auth", "bad_request")
    reason = _reason(body)
    what = "the key" if code == "auth" else "the call"
    message = f"The provider refused {what} ({status}{f' `{reason}`' if reason else ''}); {_ADVICE[code].format(key=key)}."
    return ProviderError(code, message, retryable=retryable, retry_after_s=_retry_after(headers))


def timed_out(seconds: float) -> ProviderError:
    return ProviderError("timeout", f"The provider gave no answer within {seconds:g} s; try again later.", retryable=True)


def unreachable() -> ProviderError:
    message = "The provider can't be reached, or broke the connection off; check the network and the base URL."
    return ProviderError("connection", message, retryable=True)


def bad_response() -> ProviderError:
    message = (
        "The provider answered 200 with something that is no model answer; check that the base URL is an API's, not a page's."
    )
    return ProviderError("bad_response", message, retryable=True)


def as_json_object(arguments: str) -> str:
    """The arguments of a past tool call as the text of a JSON object.

    Text that isn't one is wrapped as `{"_raw": …}`: servers reject the whole conversation for it, while the model needs to
    see what it wrote.
    """
    try:
        if isinstance(json.loads(arguments, parse_constant=_no_constant), dict):
            return arguments
    except (ValueError, RecursionError):
        pass
    return json.dumps({"_raw": arguments})


def wire_name(name: str) -> str:
    """A tool's name as vendors accept it; differs from `name` only when a model made one up."""
    return _UNSAFE_NAME.sub("_", name)[:64] or "_"


def estimated_usage(body: bytes, message: AssistantMessage, *, simulated: bool = False) -> TokenUsage:
    """Tokens guessed from the length of both texts, at four characters each."""
    written = len(message.text) + sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    return TokenUsage(input_tokens=-(-len(body) // 4), output_tokens=-(-written // 4), simulated=simulated)


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(constant)  # json.loads takes NaN and Infinity, JSON doesn't


def _reason(body: object) -> str:
    """The vendor's identifier of the error. Anthropic nests it under `error`; the OpenAI SDK has unwrapped that."""
    fields = cast("dict[str, object]", body) if isinstance(body, dict) else {}
    nested = fields.get("error")
    if isinstance(nested, dict):
        fields = cast("dict[str, object]", nested)
    for reason in (fields.get("code"), fields.get("type")):
        if isinstance(reason, str) and _REASON.fullmatch(reason):
            return reason
    return ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    for header, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[header]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        moment = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time())
