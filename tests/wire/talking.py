"""Conversations with the rules server, turn by turn, through the providers and with what shipped agents offer."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from activities.answers import presentable
from activities.library import Library
from activities.model import request_of
from activities.providers.anthropic import AnthropicProvider
from activities.providers.anthropic_doors import direct
from activities.providers.base import Completion, ModelProvider, ModelRequest, ToolOffer
from activities.providers.google import GoogleProvider
from activities.providers.openai import OpenAIProvider
from policies.models import Effect
from policies.routing import ModelChoice
from remit.settings import ROOT
from tests.builders import capsule
from tests.wire.anthropic_api import DIRECT
from tests.wire.responses_forms import at_openai
from tests.wire.rules.anthropic import MESSAGES
from tests.wire.rules.google import GENERATE
from tests.wire.rules.openai import CHAT, RESPONSES
from tests.wire.rules.server import RulesServer, Say
from tests.wire.server import KEY
from tools.builtin import CATALOG
from workflows.messages import AssistantMessage, CallModel, Capsule, Message, ToolMessage, UserMessage, Window
from workflows.window import shown

__all__ = ["AGENTS", "LOOK", "PATHS", "VENDORS", "Talk", "choices", "rules_server", "talking"]

AGENTS = ("billing-resolution", "support-triage", "incident-assistant")
VENDORS = ("openai", "anthropic", "google")
PATHS = {"openai": "/v1/responses", "anthropic": "/v1/messages", "google": "/v1beta/models/m:generateContent"}
LOOK = Say("Let me look.", (("get_ticket", {"ticket_id": "T-1011"}), ("search_kb", {"query": "export"})))


def rules_server() -> RulesServer:
    """A server with the rules of all vendors."""
    apis = {"/v1/responses": RESPONSES, "/v1/chat/completions": CHAT, "/v1/messages": MESSAGES}
    return RulesServer({**apis, "/v1beta/": GENERATE, "/v1/models/": GENERATE})


def choices(agent: str, vendor: str) -> tuple[ModelChoice, ...]:
    """The models of a shipped agent at `vendor`, cheap first."""
    return Library([ROOT], CATALOG).agent(agent).models(vendor)


def provider_of(vendor: str, url: str) -> OpenAIProvider | AnthropicProvider | GoogleProvider:
    """The vendor's provider, which takes the server at `url` for the vendor itself."""
    if vendor == "openai":
        return at_openai(url)
    if vendor == "anthropic":
        return AnthropicProvider(door=replace(direct(KEY, url), dialect=DIRECT))
    return GoogleProvider(KEY, url)


@dataclass
class Talk:
    """A run of a shipped agent as its vendors see it.

    Attributes:
        messages: the transcript.
    """

    agent: str
    server: RulesServer
    providers: Mapping[str, ModelProvider]
    messages: list[Message] = field(default_factory=lambda: [UserMessage(text='{"ticket_id": "T-1011"}')])
    window: Window | None = None
    step: int = 0

    def request(self, choice: ModelChoice) -> ModelRequest:
        """What `call_model` sends."""
        pinned = self.pinned
        tools: list[tuple[Effect, ToolOffer]] = [
            (spec.effect, ToolOffer(name=spec.name, description=spec.description, parameters=spec.schema))
            for spec in Library([ROOT], CATALOG).specs(Library([ROOT], CATALOG).agent(self.agent))
        ]
        call = CallModel(cursor=len(self.messages), transcript="x", capsule="y", tier=1, step=self.step, window=self.window)
        return request_of(call, pinned, choice, tools, shown(self.window, len(self.messages), self.messages.__getitem__))

    @property
    def pinned(self) -> Capsule:
        return capsule(prompt=Library([ROOT], CATALOG).agent(self.agent).prompt, model_protocol=1)

    async def turn(self, choice: ModelChoice, say: Say) -> Completion:
        """One answer of the model, and what came of its calls: a result for the first, a refusal for the others."""
        self.server.says = [say]
        request = self.request(choice)
        answer = await self.providers[choice.provider].complete(request)
        said = presentable(answer.message, request.messages, f"r{len(self.messages)}")
        self.messages.append(AssistantMessage.model_validate_json(said.model_dump_json()))  # as history gives it back
        for at, call in enumerate(said.tool_calls):
            refused = {"error": {"code": "denied", "message": "Policy.", "attempts_left": 3}}
            found: dict[str, Any] = refused if at else {"found": "x" * 400}
            self.messages.append(ToolMessage(call_id=call.id, name=call.name, content=json.dumps(found)))
        self.step += 1
        return answer


@asynccontextmanager
async def talking(agent: str = "support-triage") -> AsyncGenerator[Talk]:
    """A conversation with every vendor at hand."""
    async with rules_server() as server:
        providers = {vendor: provider_of(vendor, server.url) for vendor in VENDORS}
        try:
            yield Talk(agent, server, providers)
        finally:
            for provider in providers.values():
                await provider.aclose()
