"""OpenAI's Responses API, behind the port in `base.py`, through a client of any door."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx2
import openai

from activities.providers import _http
from activities.providers._refusals import refused
from activities.providers.base import Completion, ModelRequest, ProviderError
from activities.providers.responses_answer import parsed, read
from activities.providers.responses_body import NAME, Dialect, body_of

__all__ = ["ResponsesProvider"]


class ResponsesProvider:
    """Reaches models over `POST {client's base URL}/responses`. Close it with `aclose`.

    Args:
        client: with the credentials, and without retries of its own.
        key: name of the variable that holds the key, or what else to check when it is refused; for messages.
        secret: the key itself, so that no message quotes it.
        dialect: the form of the body that the door takes.
        close: closes what fetches the credentials.
    """

    name = NAME

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        *,
        key: str,
        secret: str = "",
        dialect: Dialect = "responses",
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._client = client
        self._key = key
        self._secret = secret
        self._dialect: Dialect = dialect
        self._close = close

    async def complete(self, request: ModelRequest) -> Completion:
        body = body_of(request, self._dialect)
        raw = await self._post(body, request.timeout_s)
        return read(raw, body, request, dialect=self._dialect, key=self._key, secret=self._secret)

    async def aclose(self) -> None:
        await self._client.close()
        if self._close:
            await self._close()

    async def _post(self, body: bytes, timeout_s: float) -> bytes:
        # `from None` throughout: the SDK's errors hold the request, and Temporal writes causes into history.
        try:
            # The SDK's timeout is per read, so a server that dribbles could hold the call for ever; and over aiohttp a broken
            # connection looks like one.
            async with asyncio.timeout(timeout_s):
                response = await self._client.post(
                    "/responses",
                    content=body,
                    cast_to=httpx2.Response,  # the SDK doesn't check what it parses, so we read the bytes ourselves
                    # A followed redirect would take the transcript to a host that nobody configured.
                    options={"headers": _http.JSON_HEADERS, "timeout": None, "follow_redirects": False},
                )
                return response.content
        except TimeoutError:
            raise _http.timed_out(timeout_s) from None
        except openai.APIConnectionError:
            raise _http.unreachable() from None
        except openai.APIStatusError as error:
            raw = error.response.content
            found = parsed(raw)
            body_said = raw.decode("utf-8", "replace") if found is None else found
            status, headers = error.status_code, error.response.headers
            raise refused(status, headers, body_said, key=self._key, secret=self._secret) from None
        except (openai.APIError, ValueError):
            raise _http.bad_response() from None
        except openai.OpenAIError:
            message = f"The credentials for the provider can't be fetched or used; check `{self._key}`."
            raise ProviderError("auth", message, retryable=False) from None
