"""The servers through which Claude is reached: Anthropic's own, a compatible one, and those of three clouds.

A door is a client of the SDK with credentials of its own. The body is ours in all of them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Protocol
from urllib.parse import quote

import anthropic
from anthropic.lib.bedrock import AsyncAnthropicBedrockMantle
from anthropic.lib.vertex import AsyncAnthropicVertex

from activities.providers import _http
from policies.errors import MissingKey

__all__ = ["Client", "Door", "DoorName", "direct", "opened"]

DoorName = Literal["bedrock", "vertex", "google_cloud", "foundry"]

_KEY = "ANTHROPIC_API_KEY"
_VENDOR = "https://api.anthropic.com"
_GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS"
_VERTEX_VERSION = "2026-10-21"
"""The API's version in bodies for Vertex, ours and not the SDK's: an old body must be built again byte for byte."""


class Client(Protocol):
    """What we use of the SDK's clients."""

    async def post(self, path: str, *, cast_to: type[bytes], content: bytes, options: anthropic.RequestOptions) -> bytes:
        """Send `content` and return the body of the answer."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Door:
    """A way to a server.

    Attributes:
        client: has the credentials and the base URL.
        dialect: the form of the body there, see `Dialect`.
        key: the variable to check when the server refuses the credentials.
        path: where a model is asked.
    """

    client: Client
    dialect: str
    key: str
    path: Callable[[str], str] = lambda model: "/v1/messages"


def direct(api_key: str, base_url: str | None) -> Door:
    """Anthropic's own API, or a server that speaks the same.

    Raises:
        MissingKey: `api_key` can't be sent.
        InvalidInput: `base_url` isn't the URL of a server.
    """
    client = anthropic.AsyncAnthropic(
        api_key=_http.checked_key(api_key, _KEY),
        base_url=_http.checked_url(base_url, "ANTHROPIC_BASE_URL") if base_url else _VENDOR,
        max_retries=0,
        # The SDK would trace each call a second time, beside the span of the activity.
        open_telemetry=False,
    )
    # Of compatible servers, many know a mark on a block, and few the newer fields.
    return Door(client, "gateway+last" if base_url else "anthropic+auto+strict", _KEY)


def opened(name: DoorName) -> Door:
    """The door of this name, from the SDK's own environment variables.

    Raises:
        MissingKey: a variable or a package that it needs is missing.
    """
    return {"bedrock": _bedrock, "vertex": _vertex, "google_cloud": _google_cloud, "foundry": _foundry}[name]()


def _bedrock() -> Door:
    if not (_set("AWS_REGION") or _set("AWS_DEFAULT_REGION") or _set("ANTHROPIC_BEDROCK_MANTLE_BASE_URL")):
        raise MissingKey("Claude on Bedrock needs `AWS_REGION`; set it to the region whose models you use.")
    bearers = [variable for variable in ("AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_AWS_API_KEY") if _set(variable)]
    key = bearers[0] if bearers else "AWS_ACCESS_KEY_ID"
    if not bearers:
        _needs("boto3", "bedrock")
    client = AsyncAnthropicBedrockMantle(max_retries=0, open_telemetry=False)
    return Door(client, "bedrock+last+strict", key)


def _vertex() -> Door:
    project = _set("ANTHROPIC_VERTEX_PROJECT_ID") or _set("GOOGLE_CLOUD_PROJECT")
    region = _set("CLOUD_ML_REGION")
    if not project or not region:
        raise MissingKey(
            "Claude on Vertex AI needs `ANTHROPIC_VERTEX_PROJECT_ID` and `CLOUD_ML_REGION`; set them to the project and to "
            "a region such as `global`."
        )
    _needs("google.auth", "vertex")
    client = AsyncAnthropicVertex(project_id=project, region=region, max_retries=0, open_telemetry=False)
    models = f"/projects/{quote(project, safe='')}/locations/{quote(region, safe='')}/publishers/anthropic/models"

    def path(model: str) -> str:
        return f"{models}/{quote(model, safe='@')}:rawPredict"

    # An organization has to allow strict tools there by a policy, so they aren't asked for.
    return Door(client, f"vertex/{_VERTEX_VERSION}+last", _GOOGLE, path)


def _google_cloud() -> Door:
    if not _set("ANTHROPIC_GOOGLE_CLOUD_BASE_URL"):
        if not _set("ANTHROPIC_GOOGLE_CLOUD_WORKSPACE_ID"):
            raise MissingKey(
                "Claude on Google Cloud needs `ANTHROPIC_GOOGLE_CLOUD_WORKSPACE_ID`; set it to the workspace's id."
            )
        if not (_set("ANTHROPIC_GOOGLE_CLOUD_PROJECT") or _set("GOOGLE_CLOUD_PROJECT")):
            raise MissingKey("Claude on Google Cloud needs `ANTHROPIC_GOOGLE_CLOUD_PROJECT`; set it to the project.")
    _needs("google.auth", "vertex")
    client = anthropic.AsyncAnthropicGoogleCloud(max_retries=0, open_telemetry=False)
    return Door(client, "google_cloud+auto+strict", _GOOGLE)


def _foundry() -> Door:
    base_url, resource = _set("ANTHROPIC_FOUNDRY_BASE_URL"), _set("ANTHROPIC_FOUNDRY_RESOURCE")
    if not (base_url or resource):
        raise MissingKey("Claude in Foundry needs `ANTHROPIC_FOUNDRY_RESOURCE`; set it to the name of the Azure resource.")
    variable = "ANTHROPIC_FOUNDRY_API_KEY"
    client = anthropic.AsyncAnthropicFoundry(
        api_key=_http.checked_key(_set(variable), variable),
        base_url=base_url or f"https://{resource}.services.ai.azure.com/anthropic/",
        max_retries=0,
        open_telemetry=False,
    )
    return Door(client, "foundry+last", variable)


def _set(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _needs(package: str, extra: str) -> None:
    try:
        found = find_spec(package)
    except ModuleNotFoundError:  # of the package that should hold it
        found = None
    if not found:
        raise MissingKey(f"This door needs the package `{package}`; install it with `pip install 'remit[{extra}]'`.")
