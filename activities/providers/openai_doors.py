"""The ways to OpenAI's models: OpenAI itself, servers that speak like it, Azure and Amazon Bedrock."""

import os
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from urllib.parse import urlsplit

import openai
from openai.lib.azure import AsyncAzureOpenAI
from openai.providers.bedrock import bedrock as bedrock_provider

from activities.providers import _http
from activities.providers.openai import OpenAIProvider
from activities.providers.responses import ResponsesProvider
from policies.errors import MissingKey

__all__ = ["azure", "bedrock", "server", "vendor"]

VENDOR = "https://api.openai.com/v1"
_KEY = "OPENAI_API_KEY"
_AZURE_KEY = "AZURE_OPENAI_API_KEY"
_ENTRA = "AZURE_CLIENT_ID"
_BEDROCK_KEY = "AWS_BEARER_TOKEN_BEDROCK"
_AZURE_SCOPE = "https://ai.azure.com/.default"
# What resources take at dated versions of the API.
_AZURE_DATED_SCOPE = "https://cognitiveservices.azure.com/.default"

Tokens = Callable[[], Awaitable[str]]


def server(api_key: str, base_url: str | None = None) -> OpenAIProvider | ResponsesProvider:
    """The server at `base_url`: OpenAI itself by its Responses API, any other by Chat Completions.

    Args:
        base_url: up to and including its `/v1`; None is OpenAI itself, whatever the environment says.

    Raises:
        MissingKey: `api_key` can't be sent.
    """
    host = urlsplit(base_url or VENDOR).hostname or ""
    # `eu.api.openai.com` and others keep the data in a region.
    return vendor(api_key, base_url) if f".{host}".endswith(".api.openai.com") else OpenAIProvider(api_key, base_url)


def vendor(api_key: str, base_url: str | None = None) -> ResponsesProvider:
    """OpenAI's own API, or a server that takes exactly what it takes.

    Raises:
        MissingKey: `api_key` can't be sent.
    """
    secret = _http.checked_key(api_key, _KEY)
    client = openai.AsyncOpenAI(
        api_key=secret, base_url=base_url or VENDOR, max_retries=0, http_client=openai.DefaultAioHttpClient()
    )
    return ResponsesProvider(client, key=_KEY, secret=secret)


def azure(endpoint: str, api_key: str = "", api_version: str = "", tokens: Tokens | None = None) -> ResponsesProvider:
    """OpenAI's models on Azure. A model's name there is that of its deployment.

    Args:
        endpoint: of the resource, as `https://NAME.openai.azure.com`.
        api_key: of the resource; empty for a token of Entra ID.
        api_version: a dated version of the API; empty for version 1, which has no dates.
        tokens: gives Entra ID's tokens; by default the credentials that `azure-identity` finds in this process's environment.

    Raises:
        MissingKey: there is no endpoint, or no credential that can be used.
    """
    if not endpoint:
        raise MissingKey("`REMIT_OPENAI_DOOR` is `azure`; set `AZURE_OPENAI_ENDPOINT` to your resource's address.")
    root = endpoint.rstrip("/").removesuffix("/openai/v1").removesuffix("/openai")
    secret = _http.checked_key(api_key, _AZURE_KEY) if api_key else ""
    entra = None if secret or tokens else _Entra(_AZURE_DATED_SCOPE if api_version else _AZURE_SCOPE)
    found = tokens or entra
    http = openai.DefaultAioHttpClient()
    if api_version:
        client: openai.AsyncOpenAI = AsyncAzureOpenAI(
            azure_endpoint=root,
            api_version=api_version,
            api_key=secret or None,
            azure_ad_token_provider=found,
            max_retries=0,
            http_client=http,
        )
    else:
        client = openai.AsyncOpenAI(
            api_key=secret or found or "", base_url=f"{root}/openai/v1", max_retries=0, http_client=http
        )
    key = _AZURE_KEY if secret else _ENTRA
    close = entra.close if entra else None
    return ResponsesProvider(client, key=key, secret=secret, dialect="responses unmarked", close=close)


def bedrock() -> ResponsesProvider:
    """OpenAI's models on Amazon Bedrock, with its API key or AWS's credentials, in the region that AWS's variables name.

    Raises:
        MissingKey: there is no region, or no package that signs with AWS's credentials.
    """
    key = os.environ.get(_BEDROCK_KEY, "")
    secret = _http.checked_key(key, _BEDROCK_KEY) if key else ""
    if not secret and find_spec("botocore") is None:
        raise MissingKey(
            f"`{_BEDROCK_KEY}` isn't set, and AWS's SDK, which signs without it, isn't installed; install it with "
            "`pip install 'remit[bedrock]'`."
        )
    try:
        # AWS recommends `runtime`; an address in `AWS_BEDROCK_BASE_URL` says by itself which of the two it is.
        endpoint = None if os.environ.get("AWS_BEDROCK_BASE_URL", "").strip() else "runtime"
        provider = bedrock_provider(endpoint=endpoint, api_key=secret or None)
        client = openai.AsyncOpenAI(provider=provider, max_retries=0, http_client=openai.DefaultAioHttpClient())
    except openai.OpenAIError:
        raise MissingKey(
            "`REMIT_OPENAI_DOOR` is `bedrock`, and AWS's settings can't be used; set `AWS_REGION` to a region such as "
            "`us-east-1`, and check `AWS_PROFILE` and `AWS_BEDROCK_BASE_URL`."
        ) from None
    return ResponsesProvider(client, key=_BEDROCK_KEY if secret else "AWS_PROFILE", secret=secret, dialect="responses unmarked")


class _Entra:
    """Entra ID's tokens for the identity of this process.

    Raises:
        MissingKey: the package that fetches them isn't there.
    """

    def __init__(self, scope: str) -> None:
        try:
            from azure.core.exceptions import AzureError
            from azure.identity.aio import DefaultAzureCredential, get_bearer_token_provider
        except ModuleNotFoundError:
            raise MissingKey(
                f"`{_AZURE_KEY}` isn't set, and `azure-identity`, which gives Entra ID's tokens without it, isn't installed; "
                "install it with `pip install 'remit[azure]'`."
            ) from None
        self._failure = AzureError
        self._credential = DefaultAzureCredential()
        self._token = get_bearer_token_provider(self._credential, scope)

    async def __call__(self) -> str:
        try:
            return await self._token()
        except self._failure:  # its text names accounts and addresses
            raise openai.OpenAIError("Entra ID gave no token.") from None

    async def close(self) -> None:
        await self._credential.close()
