"""OpenAI's models, and those of servers that speak as OpenAI does, behind the port in `base.py`."""

import asyncio

import httpx2
import openai

from activities.providers import _http, openai_forms
from activities.providers._lenient import parsed
from activities.providers.base import Completion, ModelRequest, ProviderError
from activities.providers.chat_body import limit_field
from activities.providers.openai_doors import Api, Door, DoorName, direct, opened
from activities.providers.openai_forms import body_of

__all__ = ["OpenAIProvider", "body_of", "limit_field"]


class OpenAIProvider:
    """Reaches models over `POST {base_url}/responses` or `…/chat/completions`. Close it with `aclose`.

    Args:
        api_key: of OpenAI, or of the server at `base_url`; not used with `door`.
        base_url: another server's, up to and including its `/v1`. None is OpenAI itself, whatever the environment says.
        door: the way to a cloud, set up by its SDK's own environment variables; or one that is set up already.
        api: by default Responses at OpenAI's own hosts and at the clouds, Chat Completions elsewhere.
        key_variable: the name of the variable that holds the key, for messages.

    Raises:
        MissingKey: `api_key` can't be sent, or a variable or package of `door` is missing.
        InvalidInput: `base_url` isn't the URL of a server.
    """

    name = "openai"

    def __init__(
        self,
        api_key: str = "",
        base_url: str | None = None,
        door: Door | DoorName | None = None,
        api: Api | None = None,
        key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        if isinstance(door, Door):
            self._door = door
        else:
            self._door = opened(door, api) if door else direct(api_key, base_url, api, key_variable)
        self._learned: dict[str, str] = {}  # by model, the form that its server took

    async def complete(self, request: ModelRequest) -> Completion:
        dialect = self._learned.get(request.model, self._door.dialect)
        try:
            # The SDK's timeout is per read, so a server that dribbles could hold the call forever; and over aiohttp a broken
            # connection looks like one.
            async with asyncio.timeout(request.timeout_s):
                completion = await self._answer(request, dialect)
        except TimeoutError:
            raise _http.timed_out(request.timeout_s) from None
        if completion.dialect != dialect:
            self._learned[request.model] = openai_forms.lasting(completion.dialect)
        return completion

    async def aclose(self) -> None:
        await self._door.aclose()

    async def _answer(self, request: ModelRequest, dialect: str) -> Completion:
        """The answer to the request, in the first form that the server takes."""
        tried = {dialect}
        while True:
            body = body_of(request, dialect)
            try:
                raw = await self._post(body, dialect)
            except _Refused as refusal:
                other = openai_forms.other_form(dialect, refusal.status, refusal.body, body)
                if not other or other in tried:
                    raise refusal.error from None
                dialect = other
                tried.add(dialect)
            else:
                key, secret = self._door.key, self._door.secret
                return openai_forms.read(raw, body, request, dialect=dialect, key=key, secret=secret)

    async def _post(self, body: bytes, dialect: str) -> bytes:
        """The body of the answer.

        Raises:
            _Refused: the server answered with another status than 2xx.
        """
        # `from None` throughout: the SDK's errors hold the request, and Temporal writes causes into history.
        try:
            response = await self._door.client.post(
                openai_forms.path_of(dialect),
                content=body,
                cast_to=httpx2.Response,  # the SDK doesn't check what it parses, so we read the bytes ourselves
                # A followed redirect would take the transcript to a host that nobody configured.
                options={"headers": _http.JSON_HEADERS, "timeout": None, "follow_redirects": False},
            )
        except openai.APIConnectionError:
            raise _http.unreachable() from None
        except openai.APIStatusError as error:
            status, found = error.status_code, parsed(error.response.content)
            refusal = _http.refused(status, error.response.headers, found, key=self._door.key, secret=self._door.secret)
            raise _Refused(refusal, status, found) from None
        except (openai.APIError, ValueError):
            raise _http.bad_response() from None
        except openai.OpenAIError:  # the credentials of a cloud; its words may name accounts
            text = f"There are no credentials for the call; check `{self._door.key}`."
            raise ProviderError("auth", text, retryable=False) from None
        return response.content


class _Refused(Exception):
    """The server refused the call; perhaps it takes it in another form."""

    def __init__(self, error: ProviderError, status: int, body: object) -> None:
        super().__init__()
        self.error = error
        self.status = status
        self.body = body
