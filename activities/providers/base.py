"""The port that every model provider implements. No SDK in here."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from policies.models import Frozen, Lean
from policies.routing import Effort
from workflows.messages import AssistantMessage, Message, ScriptTurn, StopReason, TokenUsage

__all__ = ["Completion", "ModelProvider", "ModelRequest", "ProviderError", "ToolOffer"]


class ToolOffer(Frozen):
    """A tool as it is shown to the model; `parameters` is its JSON Schema."""

    name: str
    description: str
    parameters: dict[str, object]


class ModelRequest(Lean):
    """One model call.

    Attributes:
        model: the name under which the server knows the model.
        messages: what the model is shown of the transcript, oldest first; the first is always a user message.
        turn: how many turns the run has had; None when this is none of them, but a summary of them.
        max_output_tokens: the most that the answer may take, reasoning included.
        effort: how much the model should reason; None leaves it to the vendor.
        cache_key: shared by all runs whose requests begin with the same prompt and tools at the same model, so that a vendor
            may send them to one cache; empty when there is nothing to share.
        timeout_s: seconds until the call is given up.
        script: the run's script, for the `scripted` provider only.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"effort", "cache_key"})

    model: str
    system: str
    tools: tuple[ToolOffer, ...]
    messages: Sequence[Message]
    turn: int | None = 0
    max_output_tokens: int = 4096
    effort: Effort | None = None
    cache_key: str = ""
    timeout_s: float = 120.0
    script: tuple[ScriptTurn, ...] | None = None


class Completion(Frozen):
    """The model's answer.

    Attributes:
        model: as the vendor names the one that answered.
        request_digest: `sha256:<hex>` of the exact body that was sent.
        stop: why the model stopped. Only `end` and `tool_calls` are whole answers: no tool call of another may be made.
        dialect: the form of the body, so that it can be built again from the same request; the provider module's own name
            for it.
    """

    message: AssistantMessage
    usage: TokenUsage
    model: str
    request_digest: str
    stop: StopReason
    dialect: str = ""


class ProviderError(Exception):
    """A model call failed.

    Attributes:
        code: stable, one of
            `rate_limited` (asked too often), `quota` (the account's money or allowance is used up), `overloaded` (the vendor's
            side is down or too busy), `timeout`, `connection`, `auth` (the key is refused), `unknown_model` (the vendor has no
            such model, or not for this account), `context_exceeded` (the conversation is too long for the model),
            `content_filter` (the vendor refuses to process what was sent), `bad_request` (any other refusal of the
            request), `bad_response` (an answer that can't be read), `script_exhausted`.
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
