"""What a run counts as it goes, for whoever watches the fleet: replay-safe, next to nothing when metrics are off.

Labels are names of ours, never a run's, a person's or a model's: what a model made up counts as `unknown`.
"""

import re

from temporalio import workflow
from temporalio.common import MetricAttributes

from tools import registry
from workflows.messages import ModelTurn, ProviderFailure, ToolOutcome
from workflows.records import INVALID
from workflows.turn import Call

__all__ = [
    "APPROVALS",
    "FALLBACKS",
    "NAMES",
    "RETRIES",
    "UNKNOWN",
    "answered",
    "code",
    "decided",
    "judged",
    "observed",
    "repeated",
    "waits",
]

UNKNOWN = "unknown"
VERDICTS, INVALIDS, CALLS, REFUSALS = "remit_verdicts", "remit_validation_failures", "remit_tool_calls", "remit_refusals"
REPEATED, COST, FALLBACKS = "remit_repeated_calls", "remit_model_cost_micro_usd", "remit_model_fallbacks"
WAITS, RETRIES, STOPS = "remit_provider_waits", "remit_model_retries", "remit_model_stops"
APPROVALS, WAIT = "remit_approvals", "remit_approval_wait_seconds"
NAMES = {
    VERDICTS: "Verdicts of the policy on proposed tool calls.",
    INVALIDS: "Tool calls that were not well formed: bad arguments, a tool that does not exist, not alone.",
    CALLS: "Tool calls as they ended.",
    REFUSALS: "Tool calls that were refused, by the code that the model was told.",
    REPEATED: "Tool calls with arguments that their run had tried before.",
    COST: "Cost of model calls, in micro-USD, as priced when they were made.",
    WAITS: "Times that a run began to wait, or waited on, because no model could be reached, by the reason.",
    RETRIES: "Model calls that were repeated, after a failure that may pass.",
    STOPS: "Answers of models, by why the model stopped.",
    FALLBACKS: "Model calls that another provider answered than the first of the route.",
    APPROVALS: "Approval requests that have ended, by how.",
    WAIT: "Seconds from an approval request to its end.",
}
_CODE = re.compile(r"[a-z][a-z0-9_]{0,39}")


def judged(agent: str, call: Call) -> None:
    """Count the verdict on a call, or that it wasn't well formed."""
    if call.verdict:
        _count(VERDICTS, {"agent": agent, "tool": _tool(call), "decision": call.verdict.decision})
    elif call.bound is None and call.refusal and call.refusal.reason in INVALID:
        _count(INVALIDS, {"agent": agent, "tool": _tool(call), "reason": call.refusal.reason})


def observed(agent: str, call: Call, outcome: ToolOutcome) -> None:
    """Count a call as it ended."""
    effect = call.bound.spec.effect if call.bound else UNKNOWN
    _count(CALLS, {"agent": agent, "tool": _tool(call), "effect": effect, "status": outcome.status})
    if outcome.status == "refused":
        _count(REFUSALS, {"agent": agent, "reason": code(outcome.reason)})


def repeated(agent: str) -> None:
    """Count a call that was made with the same arguments before."""
    _count(REPEATED, {"agent": agent})


def answered(agent: str, answer: ModelTurn) -> None:
    """Count what a model call cost, and whether another provider than the first one gave it."""
    labels = {"agent": agent, "provider": answer.provider, "model": answer.model}
    _count(COST, labels, answer.cost_micro_usd)
    if answer.fallback_from:
        _count(FALLBACKS, {"agent": agent})
    if answer.retried:
        _count(RETRIES, {"agent": agent}, len(answer.retried))
    if answer.stop:
        _count(STOPS, {"agent": agent, "stop": answer.stop})


def waits(agent: str, failure: ProviderFailure) -> None:
    """Count that a run waits for a provider, once for each try in vain."""
    _count(WAITS, {"agent": agent, "provider": failure.provider, "reason": code(failure.code)})


def decided(agent: str, outcome: str, seconds: int) -> None:
    """Count an approval that has ended: `approved`, `edited`, `rejected`, `expired` or `cancelled`, after so many seconds."""
    _count(APPROVALS, {"agent": agent, "outcome": outcome})
    wait = workflow.metric_meter().create_histogram_float(WAIT, NAMES[WAIT])
    wait.record(float(max(0, seconds)), {"agent": agent, "outcome": outcome})


def code(reason: str) -> str:
    """The reason as a label: a stable code, or `other`."""
    return reason if _CODE.fullmatch(reason) else "other"


def _count(name: str, labels: MetricAttributes, by: int = 1) -> None:
    workflow.metric_meter().create_counter(name, NAMES[name]).add(by, labels)


def _tool(call: Call) -> str:
    if call.bound:
        return call.bound.spec.name
    return call.request.name if call.request.name in registry.current().specs else UNKNOWN
