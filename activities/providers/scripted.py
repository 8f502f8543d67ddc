"""A model that says what the run's script says, for demos and tests. No network."""

import json

from activities.providers import _http
from activities.providers.base import Completion, ModelRequest, ProviderError
from policies.canonical import sha256
from workflows.messages import CLASSIFY, FINAL_ANSWER, AssistantMessage, ScriptCall, ScriptTurn, ToolRequest

__all__ = ["ScriptedProvider", "body_of"]


class ScriptedProvider:
    """Answers the n-th turn of a run, counted from 0, with the n-th turn of its script; a summary with a fixed sentence,
    and a classification with that of the turn that comes after it.

    A retried call gets the same turn again. A last turn that only says something ends the run: its text becomes the summary
    of a `final_answer`.
    """

    name = "scripted"

    async def complete(self, request: ModelRequest) -> Completion:
        n = request.turn
        turn = ScriptTurn(text="Scripted summary of the earlier steps.") if n is None else _turn(request, n)
        if [tool.name for tool in request.tools] == [CLASSIFY]:
            given = (ScriptCall(name=CLASSIFY, arguments=turn.classify),) if turn.classify is not None else ()
            turn = ScriptTurn(text="Scripted, and not classified.", tool_calls=given)
        calls = tuple(
            ToolRequest(id=f"call_{n}_{i}", name=call.name, arguments=json.dumps(call.arguments, sort_keys=True))
            for i, call in enumerate(turn.tool_calls)
        )
        message = AssistantMessage(text=turn.text, tool_calls=calls)
        body = body_of(request)
        usage = turn.usage or _http.estimated_usage(body, message)
        return Completion(
            message=message,
            usage=usage.model_copy(update={"simulated": True}),
            model=request.model,
            request_digest=sha256(body),
            stop=turn.stop or ("tool_calls" if calls else "end"),
        )


def body_of(request: ModelRequest) -> bytes:
    """What stands for the body of a request here."""
    return request.model_dump_json(exclude={"script", "timeout_s", "turn", "cache_key"}).encode()


def _turn(request: ModelRequest, n: int) -> ScriptTurn:
    script = request.script
    if script is None:
        raise _exhausted(
            "The run has no script for the `scripted` provider; start it with `script`, or route it to a real model."
        )
    if n >= len(script):
        raise _exhausted(
            f"The script ended after {len(script)} turns; let its last turn call `final_answer`, or add turn {n + 1}."
        )
    turn = script[n]
    ends = n == len(script) - 1 and turn.text.strip() and not turn.tool_calls and not turn.stop
    if ends and any(offer.name == FINAL_ANSWER for offer in request.tools):
        answer = ScriptCall(name=FINAL_ANSWER, arguments={"outcome": "resolved", "summary": turn.text[:4000]})
        return turn.model_copy(update={"text": "", "tool_calls": (answer,)})
    return turn


def _exhausted(message: str) -> ProviderError:
    return ProviderError("script_exhausted", message, retryable=False)
