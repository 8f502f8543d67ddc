"""The spans of a run, by OpenTelemetry's conventions for generative AI: `invoke_agent`, and in it `chat` and `execute_tool`.

Only activities have spans of their own, for one that workflow code made would cost each step again on replay. Nothing of what
people or models wrote is in an attribute.
"""

import contextlib
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import temporalio.client
import temporalio.worker
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.plugin import SimplePlugin
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from workflows.messages import (
    AGENT_RUN,
    REMIT_AGENT,
    REMIT_STATUS,
    CallModel,
    Capsule,
    ExecuteTool,
    ModelTurn,
    ReadTool,
    ToolOutcome,
)

__all__ = ["code_of", "plugin"]

_CODE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TRACER = "remit"


class _Workflow(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        """One `invoke_agent` for each history of a run; a later one is linked with the one before, and in its trace."""
        info = workflow.info()
        if info.workflow_type != AGENT_RUN:
            return await super().execute_workflow(input)
        before = trace.get_current_span().get_span_context()
        span = trace.get_tracer(_TRACER).start_span(
            "invoke_agent",
            kind=SpanKind.INTERNAL,
            links=[Link(before)] if info.continued_run_id and before.is_valid else [],
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.conversation.id": info.workflow_id,
                "remit.run_id": info.first_execution_run_id,
            },
        )
        # Not a context manager: a worker that drops the run from its cache must not end the run's span.
        with trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            try:
                result = await super().execute_workflow(input)
            except workflow.ContinueAsNewError:
                _end(span)
                raise
            except Exception as e:
                if workflow.is_failure_exception(e):
                    span.set_status(Status(StatusCode.ERROR))
                    _end(span, error=code_of(e))
                raise
        _end(span)
        return result


def _end(span: Span, error: str = "") -> None:
    known = workflow.info().typed_search_attributes
    if agent := known.get(REMIT_AGENT):
        span.update_name(f"invoke_agent {agent}")
        span.set_attribute("gen_ai.agent.name", agent)
    if status := known.get(REMIT_STATUS):
        span.set_attribute("remit.status", status)
    with contextlib.suppress(ApplicationError):  # it was never admitted
        if isinstance(capsule := getattr(workflow.instance(), "capsule", _none)(), Capsule):
            first = capsule.route.choose(1)
            span.set_attributes(
                {
                    "gen_ai.agent.id": capsule.agent.id,
                    "gen_ai.agent.version": capsule.release,
                    "gen_ai.provider.name": first.provider,
                    "gen_ai.request.model": first.model,
                    "remit.mode": capsule.agent.mode,
                    "remit.policy_version": capsule.bundle.version,
                }
            )
    if error:
        span.set_attribute("error.type", error)
    span.end()


def _none() -> None:
    return None


class _Activity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        if info.workflow_type != AGENT_RUN:
            return await super().execute_activity(input)
        match input.args:
            case [ReadTool() | ExecuteTool() as call]:
                with _span(f"execute_tool {call.tool}", SpanKind.INTERNAL, **_tool(call)) as span:
                    outcome = await super().execute_activity(input)
                    if isinstance(outcome, ToolOutcome):
                        span.set_attributes(ended := _ended(call, outcome))
                        if "error.type" in ended:
                            span.set_status(Status(StatusCode.ERROR))
                    return outcome
            case _ if info.activity_type == "call_model":
                with _span("chat", SpanKind.CLIENT, **_asked(input.args)) as span:
                    turn = await super().execute_activity(input)
                    if isinstance(turn, ModelTurn):
                        span.update_name(f"chat {turn.model}")
                        span.set_attributes(_chat(turn))
                    return turn
            case _:
                with _span(info.activity_type, SpanKind.INTERNAL):
                    return await super().execute_activity(input)


@contextmanager
def _span(name: str, kind: SpanKind, **attributes: AttributeValue) -> Generator[Span]:
    """A span of the activity that is running. An error's code is kept, and never its words."""
    info = activity.info()
    shared: dict[str, AttributeValue] = {"gen_ai.conversation.id": info.workflow_id or "", "remit.attempt": info.attempt}
    with trace.get_tracer(_TRACER).start_as_current_span(
        name, kind=kind, attributes={**shared, **attributes}, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except Exception as e:
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", code_of(e))
            raise


def code_of(error: Exception) -> str:
    """The stable code of an error, or the name of its class; never its words."""
    said = error.type if isinstance(error, ApplicationError) else None
    return said if said and _CODE.fullmatch(said) else type(error).__name__


def _tool(call: ReadTool | ExecuteTool) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.tool,
        "gen_ai.tool.call.id": call.call_id,
        "gen_ai.tool.type": "function",
        "remit.effect": "write" if isinstance(call, ExecuteTool) else "read",
        "remit.verdict": "allow",  # what policy denied is no activity
    }
    if isinstance(call, ExecuteTool):
        found |= {
            "remit.step": call.step,
            "remit.call_index": call.index,
            "remit.action_digest": call.action_digest,
            "remit.idempotency_key": call.idempotency_key,
            "remit.capability_id": call.capability,
            "remit.edits": len(call.edits),
        }
        if call.approval:
            request = call.approval.request
            found |= {
                "remit.verdict": "require_approval",
                "remit.policy_ids": request.policy_ids,
                "remit.approvals_required": request.required,
                "remit.approval_id": request.approval_id,
            }
            if call.approval.decisions:
                last = max(d.decided_at for d in call.approval.decisions)
                found["remit.approval_wait_seconds"] = max(0, last - request.requested_at)
    return found


def _ended(call: ReadTool | ExecuteTool, outcome: ToolOutcome) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {"remit.status": outcome.status}
    if outcome.reason:
        found["remit.reason"] = outcome.reason
    if isinstance(call, ExecuteTool) and outcome.status in ("done", "indeterminate"):
        found["remit.effect_state"] = outcome.status
    if outcome.status in ("refused", "killed", "indeterminate"):
        found["error.type"] = outcome.reason or outcome.status
    return found


def _asked(args: Sequence[object]) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {"gen_ai.operation.name": "chat"}
    if args and isinstance(call := args[0], CallModel):
        found |= {"remit.step": call.step, "remit.model_tier": call.tier}
    return found


def _chat(turn: ModelTurn) -> dict[str, str | int]:
    return {
        "gen_ai.provider.name": turn.provider,
        "gen_ai.request.model": turn.model,
        "gen_ai.usage.input_tokens": turn.usage.input_tokens,
        "gen_ai.usage.output_tokens": turn.usage.output_tokens,
        "remit.cost_micro_usd": turn.cost_micro_usd,
        **({"remit.fallback_from": turn.fallback_from} if turn.fallback_from else {}),
    }


class _Spans(temporalio.client.Interceptor, temporalio.worker.Interceptor):
    """Stands behind the interceptor that carries the context over. A client's too: only those come in the plugins' order."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        del input
        return _Workflow

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Activity(next)


def plugin() -> SimplePlugin:
    """Comes after `OpenTelemetryPlugin`, which carries a run's trace from client to workflow to activities."""
    return SimplePlugin("remit.spans", interceptors=[cast("temporalio.worker.Interceptor", _Spans())])
