"""Logs and traces of a process: structlog as JSON on stderr, OpenTelemetry over OTLP when an endpoint is set."""

import logging
import sys
from typing import cast

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from structlog.typing import EventDict, WrappedLogger
from temporalio import activity
from temporalio.contrib.opentelemetry import OpenTelemetryPlugin, ReplaySafeTracerProvider, create_tracer_provider

from remit import __version__
from remit.settings import Settings

__all__ = ["flush", "logs", "traces"]


def _run_context(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add the run and the trace that a line belongs to."""
    if activity.in_activity():
        info = activity.info()
        event.update(
            workflow_id=info.workflow_id, run_id=info.workflow_run_id, attempt=info.attempt, activity=info.activity_type
        )
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = format(span.trace_id, "032x")
    return event


def _temporal_context(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Take over the context that Temporal's own loggers attach to their records."""
    record = event.get("_record")
    for name in ("temporal_workflow", "temporal_activity"):
        if isinstance(details := getattr(record, name, None), dict):
            found = cast("dict[str, object]", details)
            event.update({k: found[k] for k in ("workflow_id", "run_id", "attempt", "activity_type") if k in found})
    return event


def logs(level: str) -> None:
    """Send every log line of this process, Temporal's included, to stderr as one JSON object."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
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
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def traces(settings: Settings) -> list[OpenTelemetryPlugin]:
    """The client plugins that trace this process; none when no OTLP endpoint is set."""
    if not settings.otlp_endpoint:
        return []
    provider = create_tracer_provider(resource=Resource.create({"service.name": "remit", "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return [OpenTelemetryPlugin(add_temporal_spans=True)]


def flush() -> None:
    """Send what is still to be sent; call it last, for the process ends without running exit handlers."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, ReplaySafeTracerProvider):
        provider.shutdown()
