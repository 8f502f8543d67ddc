"""The exact requests that models were sent, built again from a replay of the run's histories."""

from collections.abc import Sequence

from temporalio import workflow
from temporalio.client import WorkflowHistory

from activities.model import request_of
from activities.providers import scripted
from activities.providers.base import ModelRequest, ToolOffer
from policies.canonical import sha256
from policies.models import Effect
from policies.routing import ModelChoice
from remit.connection import CONVERTER
from remit.history import Watch, watched
from remit.proof.reading import activities, asked_for
from workflows.agent_run import AgentRun
from workflows.messages import CallModel, Capsule, Message, ModelTurn
from workflows.state import parse_message
from workflows.window import shown

__all__ = ["Asked", "answered", "is_digest_of"]

Tools = Sequence[tuple[Effect, ToolOffer]]


class Asked:
    """A model call as the run asked for it: `messages` are those that it was to show."""

    def __init__(self, call: CallModel, messages: Sequence[Message]) -> None:
        self.call = call
        self.messages = messages

    def request(self, capsule: Capsule, choice: ModelChoice, tools: Tools) -> ModelRequest:
        return request_of(self.call, capsule, choice, tools, self.messages)


class _Transcripts(Watch):
    """Notes at each model call what the transcript was."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: list[Asked | None] = []

    def asked(self, name: str, arg: object, *, local: bool) -> object:
        if isinstance(arg, CallModel):
            self._note(arg)
        return None

    def _note(self, call: CallModel) -> None:
        run = workflow.instance()
        assert isinstance(run, AgentRun)
        while len(self.texts) < call.cursor:
            page = run.transcript(len(self.texts)).messages
            if not page:
                break  # in storage, and its history is gone
            self.texts += page
        whole = len(self.texts) >= call.cursor
        messages = shown(call.window, call.cursor, lambda i: parse_message(self.texts[i])) if whole else None
        self.calls.append(Asked(call, messages) if messages is not None else None)


async def answered(histories: Sequence[WorkflowHistory]) -> tuple[list[tuple[Asked | None, ModelTurn]], str]:
    """The answered model calls of a run, and why today's code doesn't lead to them, if it doesn't.

    A call whose transcript is gone is None.
    """
    found: list[tuple[Asked | None, ModelTurn]] = []
    seen = _Transcripts()
    for history in histories:
        before = len(seen.calls)
        if failure := await watched(history, CONVERTER, seen):
            return found, failure
        calls = dict(zip(asked_for(history, "call_model"), seen.calls[before:], strict=True))
        answers = [done for done in activities(history) if done.name == "call_model"]
        found += [(calls[done.event_id], ModelTurn.model_validate(done.result)) for done in answers]
    return found, ""


def is_digest_of(request: ModelRequest, turn: ModelTurn) -> bool:
    """Whether the call that `turn` answered was exactly `request`."""
    return turn.request_digest in {sha256(body) for body in _bodies(request, turn.provider, turn.dialect)}


def _bodies(request: ModelRequest, provider: str, dialect: str) -> list[bytes]:
    """What the provider's server was sent; without a dialect, in each form that older versions of Remit sent."""
    if provider == "scripted":
        return [scripted.body_of(request)]
    if provider == "anthropic":
        from activities.providers import anthropic_body

        return [anthropic_body.body_of(request, dialect)]
    if provider == "google":
        from activities.providers import google_body

        return [google_body.body_of(request)]
    from activities.providers import openai_forms

    forms = [dialect] if dialect else ["max_completion_tokens", "max_tokens"]
    return [openai_forms.body_of(request, form) for form in forms]
