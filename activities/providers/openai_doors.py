"""The servers through which OpenAI's models are reached: OpenAI's own, a compatible one, Azure and Bedrock.

A door is a client of the SDK with credentials of its own. The body is ours in all of them.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

import openai
from openai.providers.bedrock import bedrock

from activities.providers import _http, chat_body
from activities.providers.base import ProviderError
from activities.providers.responses_body import FEATURES, Feature, dialect_of
from policies.errors import InvalidInput, MissingKey

__all__ = ["Api", "Door", "DoorName", "direct", "opened"]

DoorName = Literal["azure", "bedrock"]
Api = Literal["responses", "chat"]

_KEY = "OPENAI_API_KEY"
_VENDOR = "https://api.openai.com/v1"
_AZURE_KEY = "AZURE_OPENAI_API_KEY"
_AZURE_SCOPE = "https://ai.azure.com/.default"
_BEDROCK_KEY = "AWS_BEARER_TOKEN_BEDROCK"

# Nobody says that these servers take all that OpenAI's own takes.
_AT_COMPATIBLE: tuple[Feature, ...] = ("include", "reasoning")
_AT_AZURE: tuple[Feature, ...] = ("include", "key", "reasoning", "strict")
_AT_BEDROCK: tuple[Feature, ...] = ("include", "reasoning")


@dataclass(frozen=True)
class Door:
    """A way to a server.

    Attributes:
        client: has the credentials and the base URL.
        dialect: the form of the body with which to begin there: of `chat_body` or of `responses_body`.
        key: the variable to check when the server refuses the credentials.
        secret: the key, where it is one; it is quoted nowhere.
    """

    client: openai.AsyncOpenAI
    dialect: str
    key: str
    secret: str = field(default="", repr=False)
    closing: Callable[[], Awaitable[None]] | None = None

    async def aclose(self) -> None:
        await self.client.close()
        if self.closing:
            await self.closing()


def direct(api_key: str, base_url: str | None, api: Api | None = None, key_variable: str = _KEY) -> Door:
    """OpenAI's own API, or a server that speaks the same.

    Args:
        base_url: another server's, up to and including its `/v1`. None is OpenAI itself, whatever the environment says.
        api: by default Responses at OpenAI's own hosts, Chat Completions elsewhere.
        key_variable: the name of the variable that holds the key, for messages.

    Raises:
        MissingKey: `api_key` can't be sent.
        InvalidInput: `base_url` isn't the URL of a server.
    """
    url = _http.checked_url(base_url, "OPENAI_BASE_URL") if base_url else _VENDOR
    own = chat_body.is_openais(url)
    responses = dialect_of(FEATURES if own else _AT_COMPATIBLE)
    dialect = responses if (api or ("responses" if own else "chat")) == "responses" else chat_body.dialect_of(url)
    secret = _http.checked_key(api_key, key_variable)
    return Door(_client(api_key=secret, base_url=url), dialect, key_variable, secret)


def opened(name: DoorName, api: Api | None = None) -> Door:
    """The door of this name, from the SDKs' own environment variables; `api` by default Responses.

    Raises:
        MissingKey: a variable or a package that it needs is missing.
        InvalidInput: a variable can't be used.
    """
    return _azure(api) if name == "azure" else _bedrock(api)


def _azure(api: Api | None) -> Door:
    endpoint = _set("AZURE_OPENAI_ENDPOINT")
    if not endpoint:
        raise MissingKey(
            "OpenAI on Azure needs `AZURE_OPENAI_ENDPOINT`; set it to the resource's URL, as in "
            "`https://my-resource.openai.azure.com`."
        )
    base_url = _http.checked_url(endpoint, "AZURE_OPENAI_ENDPOINT").rstrip("/")
    if not base_url.endswith("/openai/v1"):
        base_url += "/openai/v1"
    dialect = dialect_of(_AT_AZURE) if api != "chat" else "chat max_completion_tokens"
    for variable in (_AZURE_KEY, "AZURE_OPENAI_AD_TOKEN"):
        if _set(variable):
            secret = _http.checked_key(_set(variable), variable)
            return Door(_client(api_key=secret, base_url=base_url), dialect, variable, secret)
    token, closing = _entra()
    return Door(_client(api_key=token, base_url=base_url), dialect, "AZURE_CLIENT_ID", closing=closing)


def _entra() -> tuple[Callable[[], Awaitable[str]], Callable[[], Awaitable[None]]]:
    """Gives tokens of Microsoft Entra ID, and closes what gives them.

    Raises:
        MissingKey: its package isn't there.
    """
    if not _is_there("azure.identity"):
        raise MissingKey(
            f"OpenAI on Azure has no `{_AZURE_KEY}`; set it, or install `pip install 'remit[azure]'` to sign in with "
            "Microsoft Entra ID."
        )
    from azure.core.exceptions import AzureError, ServiceRequestError, ServiceResponseError
    from azure.identity.aio import DefaultAzureCredential, get_bearer_token_provider

    credential = DefaultAzureCredential()
    provider = get_bearer_token_provider(credential, _AZURE_SCOPE)

    async def token() -> str:
        try:
            return await provider()
        except (ServiceRequestError, ServiceResponseError):
            raise _http.unreachable() from None
        except (AzureError, ValueError):  # their words name tenants and accounts
            text = f"Microsoft Entra ID gave no token for the call; check its variables, or set `{_AZURE_KEY}`."
            raise ProviderError("auth", text, retryable=False) from None

    return token, credential.close


def _bedrock(api: Api | None) -> Door:
    bearer, base_url = _set(_BEDROCK_KEY), _set("AWS_BEDROCK_BASE_URL")
    region = _set("AWS_REGION") or _set("AWS_DEFAULT_REGION")
    if not region and not (bearer and base_url):
        raise MissingKey("OpenAI on Bedrock needs `AWS_REGION`; set it to the region whose models you use.")
    if not bearer and not _is_there("botocore"):
        raise MissingKey(
            f"OpenAI on Bedrock has no `{_BEDROCK_KEY}`; set it, or install `pip install 'remit[bedrock]'` to sign with the "
            "credentials of AWS."
        )
    key = _BEDROCK_KEY if bearer else "AWS_ACCESS_KEY_ID"
    dialect = dialect_of(_AT_BEDROCK) if api != "chat" else "chat max_completion_tokens"
    try:
        url = _http.checked_url(base_url, "AWS_BEDROCK_BASE_URL") if base_url else None
        provider = bedrock(
            region=region or None,
            base_url=url,
            api_key=_http.checked_key(bearer, _BEDROCK_KEY) if bearer else None,
        )
        return Door(_client(provider=provider), dialect, key, bearer)
    except openai.OpenAIError as e:
        raise InvalidInput(f"OpenAI on Bedrock can't be set up: {e}") from None


def _client(**how: object) -> openai.AsyncOpenAI:
    """A client with these credentials, which retries nothing: Temporal does."""
    return openai.AsyncOpenAI(max_retries=0, http_client=openai.DefaultAioHttpClient(), **how)  # pyright: ignore[reportArgumentType]


def _set(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that should hold it
        return False
