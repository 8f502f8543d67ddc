"""The model providers that a process reaches, as its settings say."""

from contextlib import AsyncExitStack

from activities.providers.base import ModelProvider
from activities.providers.scripted import ScriptedProvider
from remit.settings import Settings

__all__ = ["providers"]


def providers(settings: Settings, closing: AsyncExitStack) -> dict[str, ModelProvider]:
    """The providers that there are keys for, closed with `closing`.

    Each SDK takes tens of megabytes, so only those that have a key are loaded.
    """
    found: dict[str, ModelProvider] = {"scripted": ScriptedProvider()}
    if settings.openai_api_key or settings.openai_base_url:
        from activities.providers.openai import OpenAIProvider

        key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
        openai = OpenAIProvider(api_key=key, base_url=settings.openai_base_url)
        closing.push_async_callback(openai.aclose)
        found["openai"] = openai
    if settings.anthropic_api_key or settings.anthropic_base_url or settings.anthropic_door:
        from activities.providers.anthropic import AnthropicProvider

        key = settings.anthropic_api_key.get_secret_value() if settings.anthropic_api_key else "none"
        anthropic = AnthropicProvider(api_key=key, base_url=settings.anthropic_base_url, door=settings.anthropic_door)
        closing.push_async_callback(anthropic.aclose)
        found["anthropic"] = anthropic
    return found
