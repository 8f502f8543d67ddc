"""The models that `make live` asks: those that the built-in agents are shipped with, or one of a compatible server."""

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from policies.errors import MissingKey
from policies.routing import ModelChoice
from remit.apps import assemble
from remit.providers import providers
from remit.settings import Settings, Standalone
from tests.live.checks import Session

__all__ = ["KEYS", "Target", "compatible", "shipped"]

AGENT = "support-triage"
"""The agent whose cheap model is asked; all built-in ones are shipped with the same."""
KEYS = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "google": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
}
"""Where each provider's key is looked for."""
WRONG_KEY = "sk-remit-live-this-key-is-wrong"


@dataclass(frozen=True)
class Target:
    """A model that can be asked.

    Attributes:
        vendor: whether it is reached at its vendor's own API.
    """

    name: str
    choice: ModelChoice
    key: SecretStr
    base_url: str = ""
    vendor: bool = True

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session]:
        """A session with it, and a provider with a wrong key beside it.

        Raises:
            MissingKey: the SDK of this provider isn't installed.
        """
        async with AsyncExitStack() as closing:
            right = providers(self._settings(self.key), closing)
            wrong = providers(self._settings(SecretStr(WRONG_KEY)), closing)
            provider = self.choice.provider
            if provider not in right:
                raise MissingKey(f"There is no provider `{provider}`; is its SDK installed?")
            yield Session(right[provider], wrong[provider], self.choice, vendor=self.vendor)

    def _settings(self, key: SecretStr) -> Settings:
        fields = {"provider": self.choice.provider, f"{self.choice.provider}_api_key": key}
        if self.base_url:
            fields[f"{self.choice.provider}_base_url"] = self.base_url
        return Standalone().model_copy(update=fields)


def shipped(name: str, model: str = "") -> Target | None:
    """The cheap model of the built-in agents at the provider `name`, or `model` there; None without a key."""
    key = next((os.environ[variable] for variable in KEYS[name] if os.environ.get(variable)), "")
    if not key:
        return None
    choice = assemble(Standalone()).library.agent(AGENT).models(name)[0]
    if model:
        choice = ModelChoice(provider=name, model=model)
    return Target(name, choice, SecretStr(key))


def compatible(base_url: str, model: str, key: str) -> Target:
    """`model` of a server that speaks Chat Completions at `base_url`, priced as the `REMIT_PRICE_…` variables say."""
    choice = ModelChoice(provider="openai", model=model, price=Settings().declared_price)
    return Target(base_url, choice, SecretStr(key or "none"), base_url, vendor=False)
