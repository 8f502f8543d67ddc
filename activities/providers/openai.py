"""Chat Completions of OpenAI, and of any server that speaks the same, behind the port in `base.py`."""

import asyncio

import httpx2
import openai

from activities.providers import _http, chat_answer
from activities.providers.base import Completion, ModelRequest, ProviderError
from activities.providers.chat_body import Dialect, body_of, dialect_of, limit_field, other_dialect

__all__ = ["OpenAIProvider", "body_of", "limit_field"]

_KEY = "OPENAI_API_KEY"
_VENDOR = "https://api.openai.com/v1"


class OpenAIProvider:
    """Reaches models over `POST {base_url}/chat/completions`. Close it with `aclose`.

    Args:
        base_url: another server's, up to and including its `/v1`. None is OpenAI itself, whatever the environment says.
        key_variable: the name of the variable that holds the key, for messages.

    Raises:
        MissingKey: `api_key` can't be sent.
        InvalidInput: `base_url` isn't the URL of a server.
    """

    name = "openai"

    def __init__(self, api_key: str, base_url: str | None = None, key_variable: str = _KEY) -> None:
        base_url = _http.checked_url(base_url, "OPENAI_BASE_URL") if base_url else _VENDOR
        self._dialect: Dialect = dialect_of(base_url)
        self._key = key_variable
        self._secret = _http.checked_key(api_key, key_variable)
        self._client = openai.AsyncOpenAI(
            api_key=self._secret,
            base_url=base_url,
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(),
        )

    async def complete(self, request: ModelRequest) -> Completion:
        dialect: Dialect = self._dialect
        try:
            return await self._ask(request, dialect)
        except _OtherName as refusal:
            dialect = other_dialect(dialect)
            try:
                completion = await self._ask(request, dialect)
            except _OtherName:
                raise refusal.error from None
        self._dialect = dialect
        return completion

    async def aclose(self) -> None:
        await self._client.close()

    async def _ask(self, request: ModelRequest, dialect: Dialect) -> Completion:
        """The answer to the request in this form.

        Raises:
            _OtherName: the server wants the limit of output tokens under its other name.
        """
        body = body_of(request, dialect)
        raw = await self._post(body, request.timeout_s, dialect)
        return chat_answer.read(raw, body, request, dialect=dialect, key=self._key, secret=self._secret)

    async def _post(self, body: bytes, timeout_s: float, dialect: Dialect) -> bytes:
        # `from None` throughout: the SDK's errors hold the request, and Temporal writes causes into history.
        try:
            # The SDK's timeout is per read, so a server that dribbles could hold the call for ever; and over aiohttp a broken
            # connection looks like one.
            async with asyncio.timeout(timeout_s):
                response = await self._client.post(
                    "/chat/completions",
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
            status, found = error.status_code, chat_answer.parsed(error.response.content)
            refusal = _http.refused(status, error.response.headers, found, key=self._key, secret=self._secret)
            if _http.is_refused_field(status, found, dialect.rpartition(" ")[2]):
                raise _OtherName(refusal) from None
            raise refusal from None
        except (openai.APIError, ValueError):
            raise _http.bad_response() from None


class _OtherName(Exception):
    """The limit of output tokens was refused under the name that it was sent as."""

    def __init__(self, error: ProviderError) -> None:
        super().__init__()
        self.error = error
