"""Helpers that the HTTP providers share: keys, failures, past tool calls as vendors accept them. No SDK in here."""

import json
import re
from collections.abc import Callable
from typing import NoReturn
from urllib.parse import urlsplit
from weakref import finalize

from activities.providers._refusals import is_refused_field, refused
from activities.providers.base import ProviderError
from policies.errors import InvalidInput, MissingKey
from workflows.messages import AssistantMessage, Message, TokenUsage

__all__ = [
    "JSON_HEADERS",
    "as_json_object",
    "bad_response",
    "checked_key",
    "checked_url",
    "estimated_usage",
    "is_refused_field",
    "refused",
    "remembered",
    "timed_out",
    "unreachable",
    "wire_name",
]

JSON_HEADERS = {"content-type": "application/json"}

_UNSAFE_NAME = re.compile(r"[^A-Za-z0-9_-]")


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


def checked_url(url: str, variable: str) -> str:
    """`url` without surrounding white space.

    Raises:
        InvalidInput: it isn't the HTTP(S) URL of a server. `variable` is named.
    """
    stripped = url.strip()
    try:
        parts = urlsplit(stripped)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that don't close
        sound = False
    # `urlsplit` drops newlines and tabs in silence, HTTP clients don't.
    if not sound or not stripped.isprintable() or " " in stripped:
        raise InvalidInput(f"`{variable}` must be the URL of a server, for example `http://localhost:8000/v1`.")
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


def timed_out(seconds: float) -> ProviderError:
    return ProviderError("timeout", f"The provider gave no answer within {seconds:g} s; try again later.", retryable=True)


def unreachable() -> ProviderError:
    message = "The provider can't be reached, or broke the connection off; check the network and the base URL."
    return ProviderError("connection", message, retryable=True)


def bad_response(what: str = "") -> ProviderError:
    """The failure of a 200 that is no answer; `what` is wrong with it, as in `` `choices[0].message` is a number ``."""
    problem = f"with an answer that can't be read: {what}" if what else "with something that is no model answer"
    message = f"The provider answered 200 {problem}; check that the base URL is an API's, not a page's."
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
