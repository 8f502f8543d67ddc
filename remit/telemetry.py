"""Logs and traces of a process: structlog as JSON on stderr, OpenTelemetry over OTLP when an endpoint is set."""

import logging
import sys
import traceback
import uuid
from collections.abc import Mapping
from typing import Any, Protocol, cast

import structlog
import temporalio.client
import temporalio.worker
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from pydantic import TypeAdapter
from structlog.typing import EventDict, ExcInfo, WrappedLogger
from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.contrib.opentelemetry import OpenTelemetryPlugin, ReplaySafeTracerProvider, create_tracer_provider
from temporalio.converter import PayloadConverter
from temporalio.exceptions import ApplicationError
from temporalio.plugin import SimplePlugin
from temporalio.service import RPCError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    HandleQueryInput,
    HandleSignalInput,
    HandleUpdateInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)
from temporalio.workflow import NondeterminismError

from remit import __version__, spans
from remit.codec import KeyAwaited, Unreadable
from remit.settings import Settings
from workflows.messages import CallModel, ExecuteTool, ReadTool

__all__ = ["Steps", "flush", "logs", "traces"]

TRACE_HEADER = "_tracer-data"
MAX_CHAIN = 10
IMPERSONAL = (RPCError, OSError, NondeterminismError, KeyAwaited, Unreadable)
"""Exceptions whose words are about servers, files, code and keys, never about what runs work on."""


def _run_context(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add the run and the trace that a line belongs to."""
    if activity.in_activity():
        info = activity.info()
        event.update(
            workflow_id=info.workflow_id, run_id=info.workflow_run_id, attempt=info.attempt, activity=info.activity_type
        )
    event.update(_span())
    return event


def _span() -> dict[str, str]:
    """The ids of the current span; none when there is no span."""
    span = trace.get_current_span().get_span_context()
    return {"trace_id": format(span.trace_id, "032x"), "span_id": format(span.span_id, "016x")} if span.is_valid else {}


class _Step(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        match input.args:
            case [CallModel(step=step)]:
                found: dict[str, object] = {"step": step}
            case [ExecuteTool(step=step, tool=tool)]:
                found = {"step": step, "tool": tool}
            case [ReadTool(tool=tool)]:
                found = {"tool": tool}
            case _:
                found = {}
        # Never taken back: an activity is a task with a context of its own, in which Temporal says last that it has failed.
        structlog.contextvars.bind_contextvars(**found, **_span())
        return await super().execute_activity(input)


class Steps(temporalio.worker.Interceptor):
    """Has each log line of an activity say which step of its run, and which tool, it is about."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Step(next)


def _temporal_context(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Take over the context that Temporal's own loggers attach to their records."""
    record = event.get("_record")
    for name in ("temporal_workflow", "temporal_activity"):
        if isinstance(details := getattr(record, name, None), dict):
            found = cast("dict[str, object]", details)
            event.update({k: found[k] for k in ("workflow_id", "run_id", "attempt", "activity_type") if k in found})
    return event


def _where(exc_info: ExcInfo) -> str:
    """A traceback without the words of its exceptions, which may quote customers: history has those, and can be encrypted."""
    parts: list[str] = []
    error: BaseException | None = exc_info[1]
    while error is not None and len(parts) < MAX_CHAIN:
        said = f": {error}" if isinstance(error, IMPERSONAL) else ""
        if isinstance(error, ApplicationError) and error.type:
            said = f": {error.type}"
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{type(error).__module__}.{type(error).__qualname__}{said}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nwhich came of this:\n\n".join(parts)


def logs(level: str) -> None:
    """Send every log line of this process, Temporal's included, to stderr as one JSON object."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.contextvars.merge_contextvars,
        _run_context,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=[]), _temporal_context],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(_where),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    # Their debug lines hold what activities return, and requests with what models and vendors are told.
    vendors = ("openai", "anthropic", "google", "google_genai", "botocore", "stripe")
    for name in ("temporalio", *vendors, "urllib3", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
    for chatty in (
        "alembic",
        "azure",
        "presidio-analyzer",
        "httpx2",
    ):  # httpx2 writes a line for each request, which the run's span shows already
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _Headers(Protocol):
    headers: Mapping[str, Payload]


def _drop_junk(input: _Headers) -> None:
    """Take away a trace header that isn't one: the tracer would raise on it, and the run's task fail again and again."""
    if TRACE_HEADER not in input.headers:
        return
    try:
        carrier = PayloadConverter.default.from_payload(input.headers[TRACE_HEADER])
        TypeAdapter(dict[str, str]).validate_python(carrier, strict=True)
    except Exception:  # whatever a stranger's bytes provoke in the decoders
        input.headers = {name: value for name, value in input.headers.items() if name != TRACE_HEADER}


class _GuardedWorkflow(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        _drop_junk(input)
        return await super().execute_workflow(input)

    async def handle_signal(self, input: HandleSignalInput) -> None:
        _drop_junk(input)
        await super().handle_signal(input)

    async def handle_query(self, input: HandleQueryInput) -> Any:
        _drop_junk(input)
        return await super().handle_query(input)

    def handle_update_validator(self, input: HandleUpdateInput) -> None:
        _drop_junk(input)
        super().handle_update_validator(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        _drop_junk(input)
        return await super().handle_update_handler(input)


class _Guard(temporalio.client.Interceptor, temporalio.worker.Interceptor):
    """Stands before the tracer. It is a client's interceptor too, for only those come in the order of the plugins."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        del input
        return _GuardedWorkflow


def traces(settings: Settings) -> list[SimplePlugin]:
    """The client plugins that trace this process; none when no OTLP endpoint is set."""
    if not settings.otlp_endpoint:
        return []
    provider = create_tracer_provider(resource=_resource(settings))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return [SimplePlugin("remit.telemetry", interceptors=[_Guard()]), OpenTelemetryPlugin(), spans.plugin()]


def _resource(settings: Settings) -> Resource:
    """Who sends the spans; what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say goes before what is said here."""
    ours = {
        "service.name": "remit",
        "service.version": __version__,
        "service.instance.id": str(uuid.uuid4()),
        "deployment.environment.name": settings.env,
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())


def flush() -> None:
    """Send what is still to be sent; call it last, for the process ends without running exit handlers."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, ReplaySafeTracerProvider):
        provider.shutdown()
