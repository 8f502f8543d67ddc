"""Metrics of a worker, scraped by a real Prometheus; the dashboard and the alerts name nothing that isn't exported."""

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
import yaml
from temporalio.client import Client, WorkflowFailureError

from activities.ledger.store import Ledger
from activities.ledger.tables import run_records
from policies.approvals import Approval
from policies.errors import InvalidInput
from policies.switches import Scope
from remit.client import Remit
from remit.embedded import TemporalServer, WorkerProcess, free_port
from remit.fleet import Fleet
from remit.gauges import GAUGE_NAMES, watching
from remit.issuer import DevIssuer
from remit.metrics import ACTIVITY_NAMES, BUCKETS, runtime
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tests.prometheus import DEPLOY, Prometheus
from tools.connectors import sandbox
from workflows.counts import NAMES as COUNTED
from workflows.fleet_messages import KILL_DRILL, DrillReport, PlayDrill, control_queue
from workflows.messages import RunSummary

AGENTS = ("billing-resolution", "incident-assistant", "support-triage")
HOSTILE = 'made_up_"}by_a_model'
ASKS = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
REFUND = turn(call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"))


@dataclass(frozen=True)
class Watched:
    """A worker with metrics, what it did, and the Prometheus that scrapes it."""

    prometheus: Prometheus
    runs: tuple[str, ...]
    address: str
    ledger: str


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
    agent = "billing-resolution"
    done = await remit.start(agent, {"ticket_id": "T-1001"}, script=turns)
    assert (await remit.result(done.id)).outcome == "completed"
    with pytest.raises(WorkflowFailureError):
        await (await remit.start("nobodys-agent", {"ticket_id": "T-1001"}, script=turns)).result()
    approved = await remit.start(agent, {"ticket_id": "T-1002"}, script=(ASKS, final()))
    waits = await remit.start(agent, {"ticket_id": "T-1002"}, script=(ASKS, final()))
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


async def _pending(remit: Remit, workflow_id: str) -> tuple[RunSummary, Approval]:
    for _ in range(600):
        summary = await remit.status(workflow_id)
        if any(a.status == "pending" for a in summary.approvals):
            return summary, summary.approvals[0]
        await asyncio.sleep(0.05)
    raise AssertionError(f"{workflow_id} asks nobody")


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
        yield Watched(prometheus, runs, f"127.0.0.1:{port}", f"sqlite:///{home / 'ledger.db'}")
    finally:
        prometheus.stop()
        worker.stop()


def _exported(names: Iterable[str]) -> set[str]:
    """What a metric is called where it is scraped."""
    found: set[str] = set()
    for name in names:
        if name in BUCKETS:
            found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
        else:
            found.add(name if name in GAUGE_NAMES else f"{name}_total")
    return found


def _named(expression: str) -> set[str]:
    """The metrics that a PromQL expression names."""
    return {*re.findall(r"\b(?:remit|gen_ai_client|gen_ai_execute|temporal)_[a-z0-9_]+(?=[{\[) ]|$)", expression, re.MULTILINE)}


def _panels() -> Iterator[dict[str, Any]]:
    yield from json.loads((DEPLOY / "grafana" / "remit.json").read_text())["panels"]


def _queries() -> dict[str, str]:
    """The dashboard's expressions as Grafana sends them, by panel and target."""
    found = {f"{p['title']} {t['refId']}": t["expr"] for p in _panels() for t in p.get("targets", ())}
    return {k: e.replace("$__rate_interval", "1m").replace("$agent", ".*") for k, e in found.items()}


def test_every_metric_is_exported_under_its_name(watched: Watched) -> None:
    """One scrape has all that the documentation lists, with Temporal's own metrics beside it."""
    names = watched.prometheus.names()
    assert _exported({**COUNTED, **ACTIVITY_NAMES, **GAUGE_NAMES}) == {n for n in names if n.startswith(("remit_", "gen_ai_"))}
    assert "temporal_activity_schedule_to_start_latency_seconds_bucket" in names


@pytest.mark.parametrize(
    ("series", "value"),
    [
        ("remit_runs_started_total", 3),
        ('remit_runs_closed_total{outcome="completed",unattended="yes"}', 1),
        ('remit_runs_closed_total{outcome="completed",unattended="no"}', 1),
        ('remit_runs_closed_total{outcome="killed"}', 1),
        ("remit_runs_refused_total", 1),
        ('remit_tool_calls_total{tool="search_kb",effect="read",status="done"}', 2),
        ('remit_tool_calls_total{tool="request_refund",effect="write",status="done"}', 2),
        ('remit_tool_calls_total{tool="get_ticket",status="refused"}', 1),
        ('remit_tool_calls_total{tool="unknown"}', 1),
        ('remit_validation_failures_total{reason="validation_failed"}', 1),
        ('remit_refusals_total{reason="unknown_tool"}', 1),
        ("remit_repeated_calls_total", 1),
        ('remit_verdicts_total{decision="allow",tool="request_refund"}', 1),
        ('remit_verdicts_total{decision="require_approval",tool="request_refund"}', 4),  # the strong model decides again
        ('remit_approvals_total{outcome="approved"}', 1),
        ('remit_approvals_total{outcome="expired",agent="support-triage"}', 0),
        ('remit_approval_wait_seconds_count{outcome="approved"}', 1),
        ('remit_kill_drills_total{outcome="passed"}', 1),
        ('remit_kill_epoch_lag_seconds_count{stage="ledger"}', 2),
        ('remit_kill_epoch_lag_seconds_count{stage="run"}', 1),
        ('gen_ai_client_operation_duration_seconds_count{gen_ai_provider_name="scripted",error_type=""}', 11),
        ('gen_ai_execute_tool_duration_seconds_count{gen_ai_tool_name="search_kb"}', 2),
    ],
)
def test_what_happened_is_counted(watched: Watched, series: str, value: float) -> None:
    """Each series says how often what it stands for happened, and was there before it happened if an alert looks at it."""
    assert watched.prometheus.query(series), f"there is no {series}"
    assert watched.prometheus.value(series) == value


def test_costs_and_tokens_are_those_of_the_ledger(watched: Watched) -> None:
    """What was counted on the way is what runs recorded at their end."""
    ledger = Ledger(watched.ledger)
    with ledger.reading() as connection:
        records = connection.execute(sa.select(run_records.c.tokens, run_records.c.cost_micro_usd)).all()
    ledger.close()
    assert len(records) == 3
    assert watched.prometheus.value("sum(gen_ai_client_token_usage_sum)") == sum(r.tokens for r in records) > 0
    assert watched.prometheus.value("sum(remit_model_cost_micro_usd_total)") == sum(r.cost_micro_usd for r in records) > 0


def test_labels_name_nobody(watched: Watched) -> None:
    """No run, no customer, no person, and nothing that a model made up is in a label."""
    labels = watched.prometheus.labels()
    said = json.dumps(sorted(labels))
    assert "request_refund" in labels
    for secret in (HOSTILE, "made_up", "cus_10", "in_100", "T-100", "example.com", "nobodys", "ana", *watched.runs):
        assert not any(secret in label for label in labels if label not in AGENTS), (secret, said)


def test_the_dashboard_asks_for_what_there_is(watched: Watched) -> None:
    """Prometheus answers each of its expressions, and each metric that they name is exported."""
    queries = _queries()
    assert len(queries) > 25
    exported = watched.prometheus.names()
    for panel, expression in queries.items():
        watched.prometheus.query(expression)
        assert _named(expression), panel
        assert _named(expression) <= exported, panel
    for panel in ("Open runs A", "Tool calls, by tool A", "Verdicts A", "Waiting for people A"):
        watched.prometheus.until(f"count({queries[panel]})")  # a rate takes two samples


def test_the_dashboard_has_a_place_for_each_panel() -> None:
    """Ids are unique, and no panel lies on another or beyond the grid, so that Grafana shows it as it is meant."""
    panels = [*_panels()]
    assert len({p["id"] for p in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        x, y, w, h = (panel["gridPos"][k] for k in "xywh")
        mine = {(i, j) for i in range(x, x + w) for j in range(y, y + h)}
        assert x + w <= 24, panel["title"]
        assert not mine & cells, panel["title"]
        cells |= mine


def test_the_alerts_look_at_what_there_is(watched: Watched) -> None:
    """Each rule is healthy in a running Prometheus, names metrics that are exported, and none fires after a quiet minute."""
    exported = watched.prometheus.names()
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    rules = found["groups"][0]["rules"]
    for rule in rules:
        assert _named(rule["expr"]), rule["alert"]
        assert _named(rule["expr"]) <= exported, rule["alert"]
        if rule["alert"] != "RemitKillDrillFailed":  # a busy machine may be too slow for a drill
            assert watched.prometheus.query(rule["expr"]) == [], rule["alert"]
    while "unknown" in watched.prometheus.rules().values():  # it hasn't looked yet
        time.sleep(0.2)
    assert watched.prometheus.rules() == {rule["alert"]: "ok" for rule in rules}


async def test_a_taken_address_is_said(server: TemporalServer, home: Path, watched: Watched) -> None:
    """A second worker of a host with the same `REMIT_METRICS` ends with one sentence."""
    worker = WorkerProcess(home, server.address, env={"REMIT_METRICS": watched.address})
    while worker.running:
        await asyncio.sleep(0.05)
    assert worker.exit_code == 2
    why = "that address is taken; each worker of a host needs one of its own"
    assert worker.last_words() == f"remit worker: `REMIT_METRICS` can't be `{watched.address}`: {why}."


@pytest.mark.parametrize("address", ["localhost:9464", "here", "99999", "0.0.0.0"])
def test_an_address_that_cannot_be_is_said(address: str) -> None:
    """What is no address and port ends the worker with the variable's name and an example."""
    with pytest.raises(InvalidInput) as e:
        runtime(address)
    assert str(e.value) == f"`REMIT_METRICS` can't be `{address}`: give an address such as `127.0.0.1:9464`, or a port."


async def test_the_gauges_show_what_stands_in_the_ledger(engine: Engine, tmp_path: Path) -> None:
    """Open writes, one that repeats another, switches, drills and runs that wait are read anew; and the alerts on them fire."""
    waits = await engine.start([ASKS], ticket="T-1002")
    run = await engine.pending(waits.id)
    first, second, third = (engine.reserve(run) for _ in range(3))
    engine.ledger.settle(first.idempotency_key, "done", "{}")
    engine.ledger.settle(second.idempotency_key, "indeterminate", "")
    engine.ledger.settle(third.idempotency_key, "failed", "not_refundable: no")
    fleet = Fleet(engine.client, engine.settings.task_queue)
    await fleet.begin()
    await fleet.drill(PlayDrill(reason="Weekly."))
    await fleet.kill(Scope.parse("tool:draft_reply"), "wrong words")
    port = free_port()
    measured = runtime(str(port))
    async with watching(measured.metric_meter, engine.client, engine.settings.task_queue, engine.ledger, seconds=0.1):
        prometheus = await asyncio.to_thread(Prometheus, tmp_path, f"127.0.0.1:{port}")
        try:
            await asyncio.to_thread(prometheus.until, "remit_runs_awaiting_approval")
            for series, value in {
                'remit_effects_open{state="indeterminate"}': 1,
                'remit_effects_open{state="sent"}': 0,
                "remit_effects_duplicated": 1,
                "remit_kill_epoch": 3,
                'remit_switches{kind="kill"}': 1,
                'remit_switches{kind="pause"}': 0,
                "remit_runs_open": 1,
                "remit_kill_drill_open_seconds": 0,
            }.items():
                found = await asyncio.to_thread(prometheus.query, series)
                assert [v for _, v in found] == [value], series
            assert await asyncio.to_thread(prometheus.value, 'remit_effects_open_age_seconds{state="indeterminate"}') > 0
            assert await asyncio.to_thread(prometheus.value, "remit_kill_drill_effect_seconds") > 0
            assert await asyncio.to_thread(prometheus.value, "time() - remit_kill_drill_last_timestamp_seconds") < 60
            await asyncio.to_thread(prometheus.until, 'count(ALERTS{alertstate="firing"})', 2)
            firing = await asyncio.to_thread(prometheus.query, 'ALERTS{alertstate="firing"}')
            # A busy machine may be too slow for a drill, and say so too.
            assert {labels["alertname"] for labels, _ in firing} >= {"RemitRefundDuplicated", "RemitEffectIndeterminate"}
        finally:
            await asyncio.to_thread(prometheus.stop)
