"""Metrics of a worker for Prometheus: one endpoint, with those of Temporal's SDK, ours, and OpenTelemetry's for generative AI.

What runs count is counted by workflow code (`workflows/counts.py`), what activities take and leave here, and what stands in
the ledger by `remit/gauges.py`. No label holds the name of a run, of a person, or what a model made up.
"""

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import product
from typing import Any

from temporalio import activity
from temporalio.common import MetricMeter
from temporalio.exceptions import ApplicationError
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.tiers import VENDORS
from policies.errors import InvalidInput, MissingKey
from remit.spans import code_of
from workflows.counts import APPROVALS, FALLBACKS, RETRIES, UNKNOWN, WAITS, code
from workflows.counts import NAMES as COUNTED
from workflows.fleet_messages import Applied, DrillReport
from workflows.messages import AGENT_RUN, Capsule, ExecuteTool, KillState, ModelTurn, ReadTool, ToolOutcome
from workflows.records import RunEnd

__all__ = ["ACTIVITY_NAMES", "BUCKETS", "Measures", "begin", "runtime"]

STARTED, REFUSED, CLOSED = "remit_runs_started", "remit_runs_refused", "remit_runs_closed"
RUN_SECONDS = "remit_run_duration_seconds"
MODEL_SECONDS, TOKENS = "gen_ai_client_operation_duration_seconds", "gen_ai_client_token_usage"
TOOL_SECONDS = "gen_ai_execute_tool_duration_seconds"
EPOCH_LAG, DRILLS = "remit_kill_epoch_lag_seconds", "remit_kill_drills"
REFUSALS_OF_US = ("auth", "unknown_model", "quota", MissingKey.code)
"""Why a provider may refuse a deployment: what the alert `RemitProviderRefusesUs` looks at."""
ACTIVITY_NAMES = {
    STARTED: "Runs that were admitted.",
    REFUSED: "Runs that were not admitted, by the reason.",
    CLOSED: "Runs that closed, by how they ended and whether they did without people (`unattended`).",
    RUN_SECONDS: "Seconds from a run's start to its end, with all waits.",
    MODEL_SECONDS: "Seconds that an attempt of a model call took, with waiting for the provider's turn.",
    TOKENS: "Tokens of a model call.",
    TOOL_SECONDS: "Seconds that an attempt of a tool call took.",
    EPOCH_LAG: "Seconds from a kill to its taking hold: `ledger`, no write starts any more; `run`, a run of its scope knows.",
    DRILLS: "Drills of the off switch that a schedule played through.",
}
# Those of OpenTelemetry's conventions for generative AI, and for what waits for people up to a week.
_SHORT = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_LONG = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 86400.0, 3 * 86400.0, 7 * 86400.0)
BUCKETS: Mapping[str, tuple[float, ...]] = {
    MODEL_SECONDS: _SHORT,
    TOOL_SECONDS: _SHORT,
    TOKENS: tuple(float(4**n) for n in range(14)),
    RUN_SECONDS: _LONG,
    "remit_approval_wait_seconds": _LONG,
    EPOCH_LAG: (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0),
}


def begin(meter: MetricMeter, agents: Iterable[str], namespace: str, task_queue: str) -> None:
    """Show what hasn't happened yet as 0: a counter whose first value is 1 has no increase that a rule could see."""
    known = {"namespace": namespace, "task_queue": task_queue, "workflow_type": AGENT_RUN}
    ended = meter.create_counter(APPROVALS, COUNTED[APPROVALS])
    fallbacks = meter.create_counter(FALLBACKS, COUNTED[FALLBACKS])
    retries = meter.create_counter(RETRIES, COUNTED[RETRIES])
    waits = meter.create_counter(WAITS, COUNTED[WAITS])
    for agent in agents:
        fallbacks.add(0, {**known, "agent": agent})
        retries.add(0, {**known, "agent": agent})
        for provider, reason in product(VENDORS, REFUSALS_OF_US):
            waits.add(0, {**known, "agent": agent, "provider": provider, "reason": reason})
        ended.add(0, {**known, "agent": agent, "outcome": "expired"})
    drills = meter.create_counter(DRILLS, ACTIVITY_NAMES[DRILLS])
    for outcome in ("passed", "failed"):
        drills.add(0, {"outcome": outcome})


def runtime(address: str) -> Runtime:
    """Temporal's runtime with a Prometheus endpoint at `address`, `HOST:PORT`; a port alone is on loopback.

    Raises:
        InvalidInput: nothing can listen there.
    """
    bind = address if ":" in address else f"127.0.0.1:{address}"
    config = PrometheusConfig(
        bind_address=bind,
        counters_total_suffix=True,
        unit_suffix=True,
        durations_as_seconds=True,
        histogram_bucket_overrides={name: list(limits) for name, limits in BUCKETS.items()},
    )
    try:
        return Runtime(telemetry=TelemetryConfig(metrics=config, attach_service_name=False))
    except ValueError as e:
        if "in use" in str(e):
            why = "that address is taken; each worker of a host needs one of its own"
        else:
            why = "give an address such as `127.0.0.1:9464`, or a port"
        raise InvalidInput(f"`REMIT_METRICS` can't be `{address}`: {why}.") from None


class _Activity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, measures: "Measures") -> None:
        super().__init__(next)
        self._measures = measures

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        begun = time.monotonic()
        try:
            result = await super().execute_activity(input)
        except Exception as e:
            self._measures.failed(input.args, e, time.monotonic() - begun)
            raise
        self._measures.ended(input.args, result, time.monotonic() - begun)
        return result


class Measures(Interceptor):
    """Counts and times what activities do."""

    def __init__(self, meter: MetricMeter) -> None:
        self._started = meter.create_counter(STARTED, ACTIVITY_NAMES[STARTED])
        self._refused = meter.create_counter(REFUSED, ACTIVITY_NAMES[REFUSED])
        self._closed = meter.create_counter(CLOSED, ACTIVITY_NAMES[CLOSED])
        self._run = meter.create_histogram_float(RUN_SECONDS, ACTIVITY_NAMES[RUN_SECONDS])
        self._model = meter.create_histogram_float(MODEL_SECONDS, ACTIVITY_NAMES[MODEL_SECONDS])
        self._tokens = meter.create_histogram_float(TOKENS, ACTIVITY_NAMES[TOKENS])
        self._tool = meter.create_histogram_float(TOOL_SECONDS, ACTIVITY_NAMES[TOOL_SECONDS])
        self._lag = meter.create_histogram_float(EPOCH_LAG, ACTIVITY_NAMES[EPOCH_LAG])
        self._drills = meter.create_counter(DRILLS, ACTIVITY_NAMES[DRILLS])

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Activity(next, self)

    def ended(self, args: Any, result: object, seconds: float) -> None:
        """Count an activity that ended with `result`."""
        info = activity.info()
        match result:
            case ModelTurn() as turn:
                labels = {
                    "gen_ai_operation_name": "chat",
                    "gen_ai_provider_name": turn.provider,
                    "gen_ai_request_model": turn.model,
                }
                self._model.record(seconds, {**labels, "error_type": ""})
                self._tokens.record(float(turn.usage.input_tokens), {**labels, "gen_ai_token_type": "input"})
                self._tokens.record(float(turn.usage.output_tokens), {**labels, "gen_ai_token_type": "output"})
            case ToolOutcome() as outcome:
                self._tool.record(
                    seconds, {**_tool(args), "error_type": "" if outcome.status == "done" else code(outcome.reason)}
                )
            case Capsule() as capsule:
                self._started.add(1, {"agent": capsule.agent.name})
            case True if args and isinstance(args[0], RunEnd):
                end = args[0]
                alone = "no" if end.tally.asked or end.outcome == "escalated" else "yes"
                self._closed.add(1, {"agent": end.agent, "outcome": end.outcome, "unattended": alone})
                self._run.record(float(end.closed_at - end.started_at), {"agent": end.agent, "outcome": end.outcome})
            case KillState(engaged=True, acknowledged_at=int(at)) if info.activity_type == "confirm_kill":
                self._lag.record(max(0.0, time.time() - at), {"stage": "run"})
            case Applied() as applied if any(o.status == "engaged" for o in applied.outcomes):
                self._lag.record(_since(info.scheduled_time), {"stage": "ledger"})
            case DrillReport():
                self._drills.add(1, {"outcome": "passed"})
            case _:
                pass

    def failed(self, args: Any, error: Exception, seconds: float) -> None:
        """Count an attempt of an activity that failed."""
        kind = activity.info().activity_type
        if kind == "call_model":
            labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": UNKNOWN, "gen_ai_request_model": UNKNOWN}
            self._model.record(seconds, {**labels, "error_type": code_of(error)})
        elif kind == "admit" and isinstance(error, ApplicationError) and error.non_retryable:
            self._refused.add(1, {"reason": code_of(error)})
        elif kind == "play_drill":
            self._drills.add(1, {"outcome": "failed"})
        elif kind in ("read_tool", "execute_tool"):
            self._tool.record(seconds, {**_tool(args), "error_type": code_of(error)})


def _tool(args: Any) -> dict[str, str]:
    match list(args):
        case [ReadTool() | ExecuteTool() as call]:
            return {"gen_ai_tool_name": call.tool, "gen_ai_tool_type": "function"}
        case _:
            return {"gen_ai_tool_name": UNKNOWN, "gen_ai_tool_type": "function"}


def _since(then: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - then).total_seconds())
