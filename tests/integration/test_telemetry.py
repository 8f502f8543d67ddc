"""What a worker process tells the world: spans over OTLP, and logs as JSON. Both are received for real."""

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from remit.client import Remit
from remit.embedded import TemporalServer, WorkerProcess
from tests.engine import call, final, turn


class Collector(ThreadingHTTPServer):
    """An OTLP/HTTP collector that keeps the names of the spans it got."""

    names: set[str]


class _Receive(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Collector)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.names |= {span.name for scope in resource.scope_spans for span in scope.spans}
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def collector() -> Generator[Collector]:
    """A collector on loopback."""
    found = Collector(("127.0.0.1", 0), _Receive)
    found.names = set()
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


async def test_spans_and_logs_of_a_run(server: TemporalServer, home: Path, collector: Collector) -> None:
    """A run's workflow and activities arrive as spans; SIGTERM ends the worker with 0; every log line is JSON."""
    client = await server.ready()
    queue = f"telemetry-{home.parent.name}"
    worker = WorkerProcess(
        home,
        server.address,
        env={
            "REMIT_TASK_QUEUE": queue,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
            "REMIT_LOG_LEVEL": "DEBUG",
        },
    )
    try:
        remit = Remit(client, queue)
        script = (
            turn(call("get_ticket", ticket_id="T-1001")),
            turn(call("draft_reply", ticket_id="T-1001", text="Hi")),
            final(),
        )
        handle = await remit.start("billing-resolution", {"ticket_id": "T-1001"}, script=script)
        assert (await remit.result(handle.id)).outcome == "completed"
    finally:
        worker.stop()
    assert worker.exit_code == 0
    assert {"RunWorkflow:AgentRun", "RunActivity:call_model", "RunActivity:execute_tool"} <= collector.names
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert any(line["event"] == "working" for line in lines)
    assert all({"level", "logger", "timestamp"} <= set(line) for line in lines)
