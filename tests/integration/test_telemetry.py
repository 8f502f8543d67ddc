"""What a worker process tells the world: spans over OTLP, and logs as JSON. Both are received for real."""

import asyncio
import json
import threading
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from temporalio.client import WorkflowFailureError

from remit.client import Remit
from remit.embedded import TemporalServer, WorkerProcess
from remit.issuer import DevIssuer
from remit.settings import ROOT
from tests.engine import call, final, turn
from tools.connectors import sandbox
from workflows.messages import RunSummary

Value = str | int | tuple[str, ...]


@dataclass(frozen=True)
class Received:
    """A span as a collector gets it."""

    name: str
    trace: bytes
    id: bytes
    parent: bytes
    links: tuple[bytes, ...]
    attributes: dict[str, Value]
    resource: dict[str, Value]
    kind: str
    failed: bool


class Collector(ThreadingHTTPServer):
    """An OTLP/HTTP collector that keeps the spans it got."""

    spans: list[Received]


def _values(attributes: Iterable[KeyValue]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for a in attributes:
        if a.value.HasField("array_value"):
            found[a.key] = tuple(v.string_value for v in a.value.array_value.values)
        else:
            found[a.key] = a.value.int_value if a.value.HasField("int_value") else a.value.string_value
    return found


class _Receive(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Collector)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    found = Received(
                        name=span.name,
                        trace=span.trace_id,
                        id=span.span_id,
                        parent=span.parent_span_id,
                        links=tuple(link.span_id for link in span.links),
                        attributes=_values(span.attributes),
                        resource=_values(resource.resource.attributes),
                        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                        failed=span.status.code == Status.STATUS_CODE_ERROR,
                    )
                    self.server.spans.append(found)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@contextmanager
def receiving() -> Generator[Collector]:
    """A collector that listens while the block runs."""
    collector = Collector(("127.0.0.1", 0), _Receive)
    collector.spans = []
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()


@dataclass(frozen=True)
class Traced:
    """What came of one long run that two workers shared, and of one that failed: their spans and log lines."""

    run: RunSummary
    spans: list[Received]
    failed: list[Received]
    lines: list[dict[str, Any]]

    @property
    def histories(self) -> list[Received]:
        return [s for s in self.spans if s.attributes.get("gen_ai.operation.name") == "invoke_agent"]

    def of(self, operation: str) -> list[Received]:
        return [s for s in self.spans if s.attributes.get("gen_ai.operation.name") == operation]

    def one(self, name: str) -> Received:
        [found] = [s for s in self.spans if s.name == name]
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(server: TemporalServer, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """A run over several histories. Its first worker ends while it waits for people; a second one takes it to its end."""
    home = tmp_path_factory.mktemp("telemetry")
    sandbox.create(home / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
    client = await server.ready()
    queue = f"telemetry-{uuid.uuid4().hex[:8]}"
    collector = Collector(("127.0.0.1", 0), _Receive)
    collector.spans = []
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    env = {
        "REMIT_TASK_QUEUE": queue,
        "REMIT_HISTORY_EVENTS": "80",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_RESOURCE_ATTRIBUTES": "team=support",
        "REMIT_LOG_LEVEL": "DEBUG",
    }
    remit, issuer = Remit(client, queue), DevIssuer(home, env="dev")
    script = (
        *(turn(call("search_kb", query=f"refund {n}")) for n in range(10)),
        turn(call("get_ticket", ticket_id="T-1002")),
        turn(call("get_invoice", invoice_id="in_nobodys")),
        turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate")),
        turn(call("draft_reply", ticket_id="T-1002", text="Dear customer")),
        final(),
    )
    worker = WorkerProcess(home, server.address, "first", env=env)
    try:
        run = await remit.start("billing-resolution", {"ticket_id": "T-1002"}, script=script)
        while not (summary := await remit.status(run.id)).approvals:
            await asyncio.sleep(0.05)
        worker.stop()
        assert worker.exit_code == 0
        worker = WorkerProcess(home, server.address, "second", env=env)
        request = summary.approvals[0].request
        token = issuer.sign("ana", request=request, run_id=summary.run_id, decision="approve", reason="Seen.")
        await remit.decide(run.id, request.approval_id, token)
        assert (await remit.result(run.id)).outcome == "completed"
        summary = await remit.status(run.id)
        fails = await remit.start("billing-resolution", {"ticket_id": "T-1002"}, script=(turn(call("search_kb", query="x")),))
        with pytest.raises(WorkflowFailureError):
            await fails.result()
    finally:
        worker.stop()
        collector.shutdown()
        thread.join()
        collector.server_close()
    assert worker.exit_code == 0
    lines = [json.loads(line) for name in ("first", "second") for line in (home / f"{name}.log").read_text().splitlines()]
    of_run = {id: [s for s in collector.spans if s.attributes.get("gen_ai.conversation.id") == id] for id in (run.id, fails.id)}
    return Traced(summary, of_run[run.id], of_run[fails.id], lines)


def test_one_trace_a_run(traced: Traced) -> None:
    """Histories are linked, each with the one before, and all spans, of both workers, hang below them in one trace."""
    histories = traced.histories
    assert len(histories) > 1
    assert {s.name for s in histories} == {"invoke_agent billing-resolution"}
    assert histories[0].parent == b""
    assert [s.links for s in histories] == [(), *((s.id,) for s in histories[:-1])]
    assert {s.trace for s in traced.spans} == {histories[0].trace}
    inner = [s for s in traced.spans if s not in histories]
    assert {s.parent for s in inner} == {s.id for s in histories}
    assert len({s.resource["service.instance.id"] for s in traced.spans}) == 2
    resource = histories[0].resource
    assert (resource["service.name"], resource["team"], resource["deployment.environment.name"]) == ("remit", "support", "dev")


def test_spans_say_what_the_conventions_want(traced: Traced) -> None:
    """OpenTelemetry's attributes for generative AI, on agents, model calls and tools."""
    agent = traced.histories[-1].attributes
    assert agent["gen_ai.agent.name"] == "billing-resolution"
    assert agent["gen_ai.agent.id"] == "billing-resolution@service"
    assert str(agent["gen_ai.agent.version"]).startswith("sha256:")
    assert (agent["gen_ai.provider.name"], agent["gen_ai.request.model"]) == ("scripted", "scripted-small")
    chats = traced.of("chat")
    assert len(chats) == 16  # the strong model decides once more on the refund
    for chat in chats:
        assert chat.name == f"chat {chat.attributes['gen_ai.request.model']}"
        assert chat.kind == "client"
        said = chat.attributes
        assert said["gen_ai.agent.name"] == "billing-resolution"
        assert said["gen_ai.provider.name"] == "scripted"
        assert str(said["gen_ai.response.model"]).startswith("scripted")
        assert int(str(said["gen_ai.usage.input_tokens"])) > 0 < int(str(said["gen_ai.usage.output_tokens"]))
        assert int(str(said["remit.cost_micro_usd"])) > 0
    assert {c.attributes["remit.step"] for c in chats} == {*range(15)}
    tools = traced.of("execute_tool")
    assert {t.attributes["gen_ai.tool.type"] for t in tools} == {"function"}
    assert all(t.name == f"execute_tool {t.attributes['gen_ai.tool.name']}" and t.kind == "internal" for t in tools)
    assert {t.attributes["gen_ai.agent.name"] for t in tools} == {"billing-resolution"}


def test_spans_say_what_was_allowed_and_what_came_of_it(traced: Traced) -> None:
    """Verdict, policies, approvals, and the effect's state, on the span of each tool call."""
    [refund] = [s for s in traced.spans if s.name == "execute_tool request_refund"]
    said = refund.attributes
    approval = traced.run.approvals[0].request
    assert (said["remit.effect"], said["remit.verdict"], said["remit.status"]) == ("write", "require_approval", "done")
    assert (said["remit.approval_id"], said["remit.approvals_required"], said["remit.approvals"]) == (
        approval.approval_id,
        1,
        1,
    )
    assert said["remit.policy_ids"], "it names the policies that let it through"
    assert (said["remit.effect_state"], said["remit.effect_attempts"]) == ("done", 1)
    assert said["remit.action_digest"] == approval.action_digest
    assert (said["remit.policy_version"], said["remit.risk"], said["remit.mode"]) == (
        traced.run.policy_version,
        "high",
        "live",
    )
    assert int(str(said["remit.approval_wait_seconds"])) >= 0
    draft = traced.one("execute_tool draft_reply").attributes
    assert (draft["remit.verdict"], draft["remit.effect_state"], draft["remit.approvals"]) == ("allow", "done", 0)
    refused = traced.one("execute_tool get_invoice")
    assert refused.attributes["error.type"] == refused.attributes["remit.reason"] == "not_found"
    assert refused.failed


def test_spans_and_logs_hold_no_content(traced: Traced) -> None:
    """Nothing of what the customer, the model or a person wrote leaves with them, at the most talkative level either."""
    for said in (json.dumps([s.attributes for s in traced.spans]), json.dumps(traced.lines)):
        for content in ("Dear customer", "in_nobodys", "in_1004", "Seen.", "refund 3", "12000", "ana@example.com"):
            assert content not in said, content


def test_log_lines_lead_to_the_run_and_its_trace(traced: Traced) -> None:
    """Each line is one JSON object; that of an activity which failed names run, step, attempt, and its span."""
    assert [line["event"] for line in traced.lines].count("working") == 2
    assert all({"level", "logger", "timestamp", "event"} <= set(line) for line in traced.lines)
    [chat] = [s for s in traced.failed if s.name == "chat scripted-small" and s.failed]
    assert chat.attributes["error.type"] == "script_exhausted"
    [line] = [line for line in traced.lines if line.get("activity") == "call_model" and line["level"] == "warning"]
    assert (line["workflow_id"], line["step"], line["attempt"]) == (chat.attributes["gen_ai.conversation.id"], 1, 1)
    assert (line["trace_id"], line["span_id"]) == (chat.trace.hex(), chat.id.hex())
    assert line["run_id"]
