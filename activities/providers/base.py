"""The port that every model provider implements. No SDK in here."""

from collections.abc import Sequence
from typing import Protocol

from policies.models import Frozen
from workflows.messages import AssistantMessage, Message, ScriptTurn, TokenUsage

__all__ = ["Completion", "ModelProvider", "ModelRequest", "ProviderError", "ToolOffer"]


class ToolOffer(Frozen):
    """A tool as it is shown to the model; `parameters` is its JSON Schema."""

    name: str
    description: str
    parameters: dict[str, object]


class ModelRequest(Frozen):
    """One model call.

    Attributes:
        messages: what the model is shown of the transcript, oldest first; the first is always a user message.
        turn: how many turns the run has had; None when this is none of them, but a summary of them.
        timeout_s: seconds until the call is given up.
        script: the run's script, for the `scripted` provider only.
    """

    model: str
    system: str
    tools: tuple[ToolOffer, ...]
    messages: Sequence[Message]
    turn: int | None = 0
    max_output_tokens: int = 4096
    timeout_s: float = 120.0
    script: tuple[ScriptTurn, ...] | None = None


class Completion(Frozen):
    """The model's answer. `request_digest` is `sha256:<hex>` of the exact body that was sent."""

    message: AssistantMessage
    usage: TokenUsage
    model: str
    request_digest: str


class ProviderError(Exception):
    """A model call failed.

    Attributes:
        code: stable: `rate_limited`, `overloaded`, `timeout`, `connection`, `auth`, `bad_request`, `bad_response` or
            `script_exhausted`.
        retryable: whether the same call may succeed later.
        retry_after_s: the server's wish, in seconds, or None.
    """

    def __init__(self, code: str, message: str, *, retryable: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class ModelProvider(Protocol):
    """A way to reach models.

    `complete` raises `ProviderError` for every failure of the call, and lets `asyncio.CancelledError` through after the
    HTTP request was closed.
    """

    name: str

    async def complete(self, request: ModelRequest) -> Completion: ...
