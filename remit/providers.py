"""The model providers that a process reaches, as its settings say."""

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from activities.providers.base import ModelProvider
from activities.providers.scripted import ScriptedProvider
from activities.servers import key_of
from policies.errors import MissingKey
from policies.routing import ModelChoice
from remit.settings import Settings

if TYPE_CHECKING:
    from activities.providers.google import GoogleProvider

__all__ = ["providers", "servers"]


def providers(settings: Settings, closing: AsyncExitStack) -> dict[str, ModelProvider]:
    """The providers that there are keys for, closed with `closing`.

    Each SDK takes tens of megabytes, so only those that have a key are loaded.
    """
    found: dict[str, ModelProvider] = {"scripted": ScriptedProvider()}
    if settings.openai_api_key or settings.openai_base_url or settings.openai_door:
        from activities.providers.openai import OpenAIProvider

        key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
        openai = OpenAIProvider(key, settings.openai_base_url, door=settings.openai_door, api=settings.openai_api)
        closing.push_async_callback(openai.aclose)
        found["openai"] = openai
    if settings.anthropic_api_key or settings.anthropic_base_url or settings.anthropic_door:
        from activities.providers.anthropic import AnthropicProvider

        key = settings.anthropic_api_key.get_secret_value() if settings.anthropic_api_key else "none"
        anthropic = AnthropicProvider(api_key=key, base_url=settings.anthropic_base_url, door=settings.anthropic_door)
        closing.push_async_callback(anthropic.aclose)
        found["anthropic"] = anthropic
    at_google = settings.google_api_key or settings.google_base_url or settings.google_door == "vertex"
    if at_google and (google := _google(settings)):
        closing.push_async_callback(google.aclose)
        found["google"] = google
    return found


def servers(closing: AsyncExitStack) -> Callable[[ModelChoice], ModelProvider]:
    """How to reach a server that a tier names by itself; each is closed with `closing`."""

    def opened(choice: ModelChoice) -> ModelProvider:
        key = key_of(choice, os.environ)
        if choice.provider == "openai":
            from activities.providers.openai import OpenAIProvider

            openai = OpenAIProvider(key, choice.base_url, key_variable=choice.key_variable or "OPENAI_API_KEY")
            closing.push_async_callback(openai.aclose)
            return openai
        if choice.provider == "anthropic":
            from activities.providers.anthropic import AnthropicProvider

            anthropic = AnthropicProvider(api_key=key, base_url=choice.base_url)
            closing.push_async_callback(anthropic.aclose)
            return anthropic
        google = _google_at(key, choice.base_url)
        closing.push_async_callback(google.aclose)
        return google

    return opened


def _google_at(key: str, base_url: str) -> "GoogleProvider":
    """Google's API at another server.

    Raises:
        MissingKey: its SDK, which is an extra, isn't there.
    """
    try:
        from activities.providers.google import GoogleProvider
    except ModuleNotFoundError:
        raise MissingKey("Google's SDK isn't installed; install it with `pip install 'remit[google]'`.") from None
    return GoogleProvider(key, base_url)


def _google(settings: Settings) -> "GoogleProvider | None":
    """Google's models; None where its SDK, which is an extra, isn't there and isn't asked for either.

    Raises:
        MissingKey: it is asked for and isn't there, or Vertex AI is to be used for no project.
    """
    try:
        from activities.providers.google import GoogleProvider, Vertex
    except ModuleNotFoundError:
        if settings.model_provider != "google":  # a `GOOGLE_API_KEY` may be there for something else
            return None
        raise MissingKey("Google's SDK isn't installed; install it with `pip install 'remit[google]'`.") from None
    if settings.google_door == "vertex":
        if not settings.google_project:
            raise MissingKey("`REMIT_GOOGLE_DOOR` is `vertex`; set `GOOGLE_CLOUD_PROJECT` to the project that pays for it.")
        return GoogleProvider(vertex=Vertex(settings.google_project, settings.google_location))
    key = settings.google_api_key.get_secret_value() if settings.google_api_key else "none"
    return GoogleProvider(key, settings.google_base_url)
