"""Google's Gemini models, by the Gemini API or by Vertex AI, behind the port in `base.py`."""

import asyncio
import json
import math
from dataclasses import dataclass
from urllib.parse import quote

import httpx2
from google.auth import exceptions as auth_errors
from google.genai import Client, errors
from google.genai.types import HttpOptions

from activities.providers import _http
from activities.providers.base import Completion, ModelRequest, ProviderError
from activities.providers.google_answer import read, unreadable
from activities.providers.google_body import NAME, body_of
from activities.providers.google_errors import refused

__all__ = ["GoogleProvider", "Vertex", "body_of"]

_KEY = "GEMINI_API_KEY"
_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
_UNSIGNED_IN = (
    "Google Cloud gave no token for the call; set `GOOGLE_APPLICATION_CREDENTIALS` to a service account's file, "
    "or run `gcloud auth application-default login`."
)
_VENDOR = "https://generativelanguage.googleapis.com"
# The SDK's own defaults follow `GOOGLE_GENAI_API_VERSION`. v1beta has all that v1 has, and the names that end in `-latest`.
_VERSION = "v1beta"
_VERTEX_VERSION = "v1beta1"


@dataclass(frozen=True)
class Vertex:
    """Vertex AI as the way to the models, with the application default credentials of this process.

    Attributes:
        project: the Google Cloud project that is billed.
        location: a region, `us`, `eu` or `global`.
    """

    project: str
    location: str = "global"


class GoogleProvider:
    """Reaches models over `POST {base_url}/…/models/{model}:generateContent`. Close it with `aclose`.

    Args:
        api_key: of the Gemini API; not used with `vertex`.
        base_url: another server's, without `/v1beta`. None is Google itself.
        vertex: Vertex AI instead of the Gemini API.

    Raises:
        MissingKey: `api_key` can't be sent.
    """

    name = NAME

    def __init__(self, api_key: str = "", base_url: str | None = None, vertex: Vertex | None = None) -> None:
        self._vertex = vertex
        self._key = _CREDENTIALS if vertex else _KEY
        # A client of our own: the SDK's follows redirects, which would take the transcript to a host that nobody configured.
        self._http = httpx2.AsyncClient(event_hooks={"response": [self._check]})
        options = HttpOptions(
            base_url=base_url or (None if vertex else _VENDOR),
            api_version=_VERTEX_VERSION if vertex else _VERSION,
            httpx_async_client=self._http,
        )
        if vertex:
            self._client = Client(enterprise=True, project=vertex.project, location=vertex.location, http_options=options)
        else:
            self._client = Client(enterprise=False, api_key=_http.checked_key(api_key, _KEY), http_options=options)

    async def complete(self, request: ModelRequest) -> Completion:
        body = body_of(request)
        answer = await self._post(request.model, body, request.timeout_s)
        return read(answer, body, request, key=self._key)

    async def aclose(self) -> None:
        self._client.close()
        await self._http.aclose()

    async def _post(self, model: str, body: bytes, timeout_s: float) -> str:
        # `from None` throughout: the SDK's errors hold the request, and Temporal writes causes into history.
        try:
            # HTTP clients time each read, so a server that dribbles could hold the call for ever.
            async with asyncio.timeout(timeout_s):
                # The SDK has no public way to send a body as it is: `async_request` of the same object takes a dictionary, and
                # would serialise it again. It still gives the address, the key or the token, and no retries at this level.
                api = self._client._api_client  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                options = HttpOptions(timeout=math.ceil(timeout_s * 1000))
                request = api._build_request("post", self._path(model), {}, options)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                request.data = body
                answer = await api._async_request_once(request)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        except (TimeoutError, httpx2.TimeoutException):
            raise _http.timed_out(timeout_s) from None
        except (httpx2.TransportError, auth_errors.TransportError):
            raise _http.unreachable() from None
        except auth_errors.GoogleAuthError as error:
            if getattr(error, "retryable", False):
                raise _http.unreachable() from None
            raise ProviderError("auth", _UNSIGNED_IN, retryable=False) from None
        except (errors.APIError, ValueError):
            raise unreadable("the SDK can't take it") from None
        return str(answer.response_stream[0])

    def _path(self, model: str) -> str:
        """Where the model is, for the SDK, which puts version and project before it."""
        named = quote(model, safe="/-._~:@")
        if "/" in model:  # `tunedModels/…`, `projects/…/endpoints/…`, `publishers/…/models/…`
            return f"{named}:generateContent"
        return f"publishers/google/models/{named}:generateContent" if self._vertex else f"models/{named}:generateContent"

    async def _check(self, response: httpx2.Response) -> None:
        """Read a refusal before the SDK does, which fails on one that is no UTF-8 and forgets its status."""
        if response.status_code == 200:
            return
        raw = await response.aread()
        try:
            body: object = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        raise refused(response.status_code, response.headers, body, key=self._key) from None
