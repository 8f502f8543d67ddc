"""Messages of Anthropic behind the port in `base.py`, through each of the doors."""

import asyncio
from collections.abc import Mapping
from typing import cast

import anthropic
from pydantic import JsonValue, ValidationError

from activities.providers import _http
from activities.providers.anthropic_answer import AnswerIsError, read
from activities.providers.anthropic_body import PROVIDER, Dialect, body_of, built
from activities.providers.anthropic_doors import Door, DoorName, direct, opened
from activities.providers.anthropic_errors import error_of, no_credentials, said
from activities.providers.base import Completion, ModelRequest

__all__ = ["AnthropicProvider", "DoorName", "body_of"]

_REFUSES: dict[str, tuple[tuple[str, ...], str]] = {
    "strict": (
        ("strict", "grammar", "schema is too complex", "schemas contains too many", "input_schema", "structured output"),
        "",
    ),
    "auto": (("cache_control",), "last"),
    "last": (("cache_control",), ""),
}
"""Features that an answer doesn't depend on, what a refusal of each says, and what takes its place. The documentation has no
such list: this one is from public bug reports."""


class AnthropicProvider:
    """Reaches Claude over the Messages API. Close it with `aclose`.

    Args:
        api_key: not used with a door, which has credentials of its own.
        base_url: another server's, without `/v1`. None is Anthropic itself, whatever the environment says.
        door: a cloud that serves Claude, set up by the SDK's own environment variables, or one that is set up already.

    Raises:
        MissingKey: `api_key` can't be sent, or the door lacks a variable or a package.
        InvalidInput: `base_url` isn't the URL of a server.
    """

    name = PROVIDER

    def __init__(self, api_key: str = "", base_url: str | None = None, door: DoorName | Door | None = None) -> None:
        if isinstance(door, Door):
            self._door = door
        else:
            self._door = opened(door) if door else direct(api_key, base_url)
        # By model: what one refuses, another of the same server may take.
        self._dialects: dict[str, Dialect] = {}

    async def complete(self, request: ModelRequest) -> Completion:
        try:
            # The SDK's timeout is per read, so a server that dribbles could hold the call for ever.
            async with asyncio.timeout(request.timeout_s):
                return await self._complete(request)
        except TimeoutError:
            raise _http.timed_out(request.timeout_s) from None

    async def aclose(self) -> None:
        await self._door.client.close()

    async def _complete(self, request: ModelRequest) -> Completion:
        while True:
            dialect = self._dialects.get(request.model) or Dialect.named(self._door.dialect)
            sent = built(request, dialect.name)
            try:
                raw = await self._post(sent.body, request)
                return read(raw, sent, request, dialect.name)
            except _Refused as refusal:
                without = _refused_feature(dialect, refusal)
                if without is None:
                    raise error_of(refusal.status, refusal.headers, refusal.body, self._door.key) from None
                self._dialects[request.model] = without
            except AnswerIsError as error:
                raise error_of(error.status, {}, error.body, self._door.key) from None
            except (ValidationError, RecursionError):
                raise _http.bad_response() from None

    async def _post(self, body: bytes, request: ModelRequest) -> bytes:
        # `from None` throughout: the SDK's errors hold the request, and Temporal writes causes into history.
        try:
            return await self._door.client.post(
                self._door.path(request.model),
                content=body,
                cast_to=bytes,
                # A followed redirect would take transcript and key to a host that nobody configured.
                options={"headers": _http.JSON_HEADERS, "timeout": request.timeout_s, "follow_redirects": False},
            )
        except anthropic.APITimeoutError:
            raise _http.timed_out(request.timeout_s) from None
        except anthropic.APIConnectionError:
            raise _http.unreachable() from None
        except anthropic.APIStatusError as error:
            raise _Refused(error.status_code, error.response.headers, cast("JsonValue", error.body)) from None
        except TimeoutError:
            raise
        except Exception as error:  # the clouds' own libraries, which sign or fetch a token: no tree of errors holds them all
            raise no_credentials(error, self._door.key) from None


class _Refused(Exception):
    """A status other than 2xx."""

    def __init__(self, status: int, headers: Mapping[str, str], body: JsonValue) -> None:
        super().__init__()
        self.status = status
        self.headers = headers
        self.body = body


def _refused_feature(dialect: Dialect, refusal: _Refused) -> Dialect | None:
    """`dialect` without what the server refuses; None when it isn't that."""
    words = said(refusal.body)
    for feature, (signs, instead) in _REFUSES.items():
        if refusal.status in (400, 422) and feature in dialect.features and any(sign in words for sign in signs):
            return dialect.without(feature, instead)
    return None
