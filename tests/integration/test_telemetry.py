"""What a worker process tells the world: spans over OTLP, and logs as JSON. Both are received for real."""

import json
import threading
from collections.abc import Generator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from remit.client import Remit
from remit.embedded import TemporalServer, WorkerProcess
from tests.engine import call, final, turn


@dataclass(frozen=True)
class Received:
    """A span as a collector gets it."""

    name: str
    trace: bytes
    id: bytes
    parent: bytes
    links: tuple[bytes, ...]
    attributes: dict[str, str | int]


class Collector(ThreadingHTTPServer):
    """An OTLP/HTTP collector that keeps the spans it got."""

    spans: list[Received]


class _Receive(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Collector)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    values = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
                    links = tuple(link.span_id for link in span.links)
                    found = Received(span.name, span.trace_id, span.span_id, span.parent_span_id, links, values)
                    self.server.spans.append(found)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def collector() -> Generator[Collector]:
    """A collector on loopback."""
    found = Collector(("127.0.0.1", 0), _Receive)
    found.spans = []
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


async def test_spans_and_logs_of_a_run(server: TemporalServer, home: Path, collector: Collector) -> None:
    """One trace a run, over its histories and without content; SIGTERM ends the worker with 0; every log line is JSON."""
    client = await server.ready()
    queue = f"telemetry-{home.parent.name}"
    worker = WorkerProcess(
        home,
        server.address,
        env={
            "REMIT_TASK_QUEUE": queue,
            "REMIT_HISTORY_EVENTS": "80",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
            "REMIT_LOG_LEVEL": "DEBUG",
        },
    )
    try:
        remit = Remit(client, queue)
        script = (
            *(turn(call("search_kb", query=f"refund {n}")) for n in range(10)),
            turn(call("get_ticket", ticket_id="T-1001")),
            turn(call("draft_reply", ticket_id="T-1001", text="Dear customer")),
            turn(call("get_invoice", invoice_id="in_nobodys")),
            final(),
        )
        handle = await remit.start("billing-resolution", {"ticket_id": "T-1001"}, script=script)
        assert (await remit.result(handle.id)).outcome == "completed"
    finally:
        worker.stop()
    assert worker.exit_code == 0
    _check_spans(collector.spans, handle.id)
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert any(line["event"] == "working" for line in lines)
    assert all({"level", "logger", "timestamp"} <= set(line) for line in lines)


def _check_spans(spans: list[Received], workflow_id: str) -> None:
    histories = [s for s in spans if s.name == "invoke_agent billing-resolution"]
    assert len(histories) > 1
    assert histories[0].parent == b""
    assert [s.links for s in histories] == [(), *((s.id,) for s in histories[:-1])]
    ours = [s for s in spans if s.attributes.get("gen_ai.conversation.id") == workflow_id]
    assert {s.trace for s in ours} == {histories[0].trace}
    inner = [s for s in ours if s not in histories]
    assert {s.parent for s in inner} == {s.id for s in histories}
    assert sum(s.attributes.get("gen_ai.operation.name") == "chat" for s in inner) == 14
    [draft] = [s for s in inner if s.name == "execute_tool draft_reply"]
    assert draft.attributes["gen_ai.operation.name"] == "execute_tool"
    assert (draft.attributes["remit.effect"], draft.attributes["remit.status"]) == ("write", "done")
    said = json.dumps([s.attributes for s in ours])
    assert "Dear customer" not in said
    assert "in_nobodys" not in said
