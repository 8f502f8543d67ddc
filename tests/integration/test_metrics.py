"""Metrics of a worker, scraped by a real Prometheus; the dashboard and the alerts name nothing that isn't exported."""

import json
import re
import uuid
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client

from activities.ledger.store import Ledger
from policies.switches import Scope
from remit.client import Remit
from remit.embedded import Process, TemporalServer, WorkerProcess, free_port
from remit.fleet import Fleet
from remit.gauges import GAUGE_NAMES
from remit.issuer import DevIssuer
from remit.metrics import ACTIVITY_NAMES
from remit.settings import ROOT, Settings
from tests.engine import call, final, turn
from tests.prometheus import DEPLOY, Prometheus
from tools.connectors import sandbox
from workflows.counts import NAMES as COUNTED
from workflows.fleet_messages import KILL_DRILL, DrillReport, PlayDrill, control_queue

HOSTILE = 'made_up_"}by_a_model'
REFUND = turn(call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"))


@dataclass(frozen=True)
class Watched:
    """A worker with metrics, what it did, and the Prometheus that scrapes it."""

    prometheus: Prometheus
    runs: tuple[str, ...]
    address: str


async def _live(client: Client, home: Path, queue: str) -> tuple[str, ...]:
    """What operators want to see: a refund, refusals, an approval, a kill, a drill."""
    remit, fleet, issuer = Remit(client, queue), Fleet(client, queue), DevIssuer(home, env="dev")
    turns = (
        turn(call("get_ticket", ticket_id="T-1001")),
        turn(call("get_ticket", ticket_id="not a ticket"), call(HOSTILE, x="y")),
        turn(call("search_kb", query="refund")),
        turn(call("search_kb", query="refund")),
        REFUND,
        final(),
    )
    agent, ticket = "billing-resolution", {"ticket_id": "T-1001"}
    done = await remit.start(agent, ticket, script=turns)
    assert (await remit.result(done.id)).outcome == "completed"
    asks = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
    approved = await remit.start(agent, {"ticket_id": "T-1002"}, script=(asks, final()))
    waits = await remit.start(agent, {"ticket_id": "T-1002"}, script=(asks, final()))
    summary, approval = await _pending(remit, approved.id)
    token = issuer.sign("ana", request=approval.request, run_id=summary.run_id, decision="approve", reason="")
    await remit.decide(approved.id, approval.request.approval_id, token)
    assert (await remit.result(approved.id)).outcome == "completed"
    await _pending(remit, waits.id)
    report: DrillReport = await client.execute_workflow(
        KILL_DRILL, PlayDrill(reason="Weekly."), id=f"drill-{queue}", task_queue=control_queue(queue), result_type=DrillReport
    )
    assert report.effect_ms >= 0
    await fleet.kill(Scope.parse(f"agent:{agent}"), "wrong prices", by="ana")
    assert (await remit.result(waits.id)).outcome == "killed"
    return done.id, approved.id, waits.id


async def _pending(remit: Remit, workflow_id: str) -> Any:
    import asyncio

    for _ in range(600):
        summary = await remit.status(workflow_id)
        if any(a.status == "pending" for a in summary.approvals):
            return summary, summary.approvals[0]
        await asyncio.sleep(0.05)
    raise AssertionError(summary)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(server: TemporalServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Watched]:
    """A worker process that has worked, and Prometheus, which has scraped all of it."""
    folder = tmp_path_factory.mktemp("metrics")
    home = folder / "home"
    home.mkdir()
    sandbox.create(home / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
    client = await server.ready()
    queue, port = f"metrics-{uuid.uuid4().hex[:8]}", free_port()
    worker = WorkerProcess(home, server.address, env={"REMIT_TASK_QUEUE": queue, "REMIT_METRICS": str(port)})
    prometheus = Prometheus(folder, f"127.0.0.1:{port}")
    try:
        runs = await _live(client, home, queue)
        prometheus.until("sum(remit_runs_closed_total)", 3)
        yield Watched(prometheus, runs, f"127.0.0.1:{port}")
    finally:
        prometheus.stop()
        worker.stop()


def test_x(watched: Watched) -> None:
    import urllib.request
    print(urllib.request.urlopen(f"http://{watched.address}/metrics").read().decode())
    print(watched.prometheus.rules())
    assert 0
