"""An app's agent, tool, connector and bundle in whole runs: what binds the built-in ones binds them, with no change here."""

import shutil
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from pathlib import Path

import pytest
from temporalio.client import WorkflowHandle
from temporalio.worker import Replayer

from remit.client import RunFailed
from remit.connection import CONVERTER
from remit.embedded import TemporalServer
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tools import registry
from tools.builtin import CATALOG
from worker import runner
from workflows.agent_run import AgentRun
from workflows.messages import RunResult, ScriptCall, ScriptTurn


def close(case: str, credit: int = 0) -> ScriptCall:
    """A scripted wish to close a case."""
    return call("close_case", case_id=case, outcome="goodwill" if credit else "solved", credit_cents=credit)


@pytest.fixture
def app(tmp_path: Path) -> Generator[Path]:
    """The app `desk` in a folder of its own, with two customers' cases."""
    folder = tmp_path / "desk"
    shutil.copytree(ROOT / "tests" / "apps" / "desk", folder)
    with closing(sqlite3.connect(folder / "desk.db")) as db, db:
        db.execute("CREATE TABLE cases (id TEXT PRIMARY KEY, customer TEXT NOT NULL)")
        db.execute("CREATE TABLE closed (key TEXT PRIMARY KEY, id TEXT NOT NULL, credit_cents INTEGER NOT NULL)")
        db.execute("INSERT INTO cases VALUES ('C-1', 'cus_101'), ('C-2', 'cus_102')")
    yield folder
    registry.install(CATALOG)


@pytest.fixture
async def engine(server: TemporalServer, home: Path, app: Path) -> AsyncGenerator[Engine]:
    """A worker with the app."""
    client = await server.ready()
    async with Engine(client, home, overrides={"app": app}) as found:
        yield found


async def start(
    engine: Engine, *turns: ScriptTurn, agent: str = "desk-closer", case: str = "C-1"
) -> WorkflowHandle[object, RunResult]:
    return await engine.remit.start(agent, {"case_id": case}, script=turns)


def closed(app: Path) -> list[tuple[str, int]]:
    """Cases that were closed, and the credit that was given: what really happened."""
    with closing(sqlite3.connect(app / "desk.db")) as db:
        return db.execute("SELECT id, credit_cents FROM closed ORDER BY rowid").fetchall()


async def test_an_apps_write_runs_once_through_the_ledger(engine: Engine, app: Path) -> None:
    """Admitted for the case's customer, judged by the app's bundle, reserved, performed by the app's connector, recorded."""
    run = await start(engine, turn(call("get_customer", customer_id="cus_101"), close("C-1")), final())
    done = await engine.closed(run.id)
    assert (done.status, done.subject) == ("completed", "Customer:cus_101")
    assert closed(app) == [("C-1", 0)]
    [effect] = engine.effects()
    assert (effect.state, effect.tool, effect.agent) == ("done", "close_case@1", "desk-closer")
    read, written = await engine.answers(run.id)
    assert read["name"] == "Maren Holt"
    assert written == {"case_id": "C-1", "customer": "Maren Holt"}


async def test_another_customers_case_is_refused(engine: Engine, app: Path) -> None:
    """The subject binding asks the app's connector, not the model."""
    run = await start(engine, turn(close("C-2")), turn(close("C-9")), final("escalated"))
    await engine.closed(run.id)
    assert await engine.errors(run.id) == [
        ("not_subject", "`C-2` isn't what this run is for."),
        ("not_found", "`C-9` doesn't exist."),
    ]
    assert (closed(app), engine.effects()) == ([], [])


async def test_the_apps_own_policy_asks_people(engine: Engine, app: Path) -> None:
    """A credit waits for a person with the role that the app's bundle names; a bigger one is denied whoever asks."""
    run = await start(engine, turn(close("C-1", 6000)), turn(close("C-1", 1000)), final())
    parked = await engine.pending(run.id)
    [approval] = parked.approvals
    assert (approval.request.tool, approval.request.policy_ids, approval.request.required) == ("close_case@1", ("credit",), 1)
    assert closed(app) == []
    await engine.decide(run.id, "cleo")
    done = await engine.closed(run.id)
    assert (done.status, done.approvals[0].status) == ("completed", "consumed")
    assert closed(app) == [("C-1", 1000)]
    assert [code for code, _ in await engine.errors(run.id)] == ["denied"]


async def test_a_kill_stops_an_apps_write(engine: Engine, app: Path) -> None:
    """After the kill was acknowledged, an approval changes nothing."""
    run = await start(engine, turn(close("C-1", 1000)), final())
    await engine.pending(run.id)
    await engine.remit.kill(run.id, "wrong case", "ana")
    assert (await engine.closed(run.id)).status == "killed"
    assert (closed(app), engine.effects()) == ([], [])


async def test_the_apps_limits_end_a_run(engine: Engine, app: Path) -> None:
    """The app's bundle allows 6 tool calls; a batch of 7 isn't started."""
    run = await start(engine, turn(*(close("C-1") for _ in range(7))), final())
    done = await engine.closed(run.id)
    assert (done.status, done.stopped_by) == ("stopped", "tool_calls")
    assert closed(app) == []


async def test_built_in_agents_run_beside_an_app(engine: Engine) -> None:
    """With an app, `billing-resolution` refunds as it does without one."""
    refund = call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate")
    assert (await engine.run([turn(refund), final()])).status == "completed"
    assert [r["amount_cents"] for r in engine.rows("refunds")] == [4900]


async def test_a_run_of_an_app_replays(engine: Engine) -> None:
    """With the same app installed, workflow code issues the same commands."""
    run = await start(engine, turn(close("C-1")), turn(close("C-2")), final())
    await engine.closed(run.id)
    history = await engine.remit.handle(run.id).fetch_history()
    replayer = Replayer(workflows=[AgentRun], workflow_runner=runner(), data_converter=CONVERTER)
    await replayer.replay_workflow(history)


async def test_a_case_that_doesnt_exist_starts_no_run(engine: Engine) -> None:
    """The app's connector doesn't know the case, so there is nobody whom the run could be for."""
    run = await start(engine, final(), case="C-9")
    with pytest.raises(RunFailed, match="There is no case `C-9`."):
        await engine.closed(run.id)


async def test_rules_that_fail_refuse(engine: Engine, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in an app's business rules refuses the call; the workflow task doesn't fail for ever."""

    def broken(*_: object) -> None:
        raise KeyError("region")

    spec = registry.current().get("close_case")
    monkeypatch.setitem(vars(spec), "rules", broken)
    run = await start(engine, turn(close("C-1")), final("escalated"))
    await engine.closed(run.id)
    assert await engine.errors(run.id) == [("rules_failed", "The business rules of `close_case` failed: KeyError.")]
    assert await engine.stalls(run.id) == []
    assert closed(app) == []
