"""Approvers are looked up again beside the write: whoever was suspended or demoted since has approved nothing."""

import json
from dataclasses import replace

import pytest
from temporalio.testing import ActivityEnvironment

from activities.capabilities import Capabilities
from activities.ledger import people
from activities.results import StoredResults
from activities.runs import Runs
from activities.storage import storage_at
from activities.tool import ToolActivities
from policies.errors import Unavailable
from policies.identity import Directory
from remit.connection import CONVERTER
from remit.keyring import RootKeys
from tests.engine import Engine, call, final, turn, uncapped
from tools.billing import Billing
from tools.builtin import CATALOG
from tools.connectors.sandbox import Sandbox
from workflows.messages import Capsule, ExecuteTool, ToolOutcome

REFUND = [turn(call("request_refund", invoice_id="in_1006", amount_cents=74_000, reason="service_issue")), final()]


async def waiting(engine: Engine) -> str:
    """A run for two people, the first of whom has approved."""
    handle = await engine.start(REFUND, ticket="T-1003")
    await engine.pending(handle.id)
    await engine.decide(handle.id, "ana")
    return handle.id


def suspend(engine: Engine, sub: str) -> None:
    assert people.set_standing(engine.ledger, sub, suspended=True, reason="left", by="a test")


async def test_a_suspended_approver_has_approved_nothing(engine: Engine) -> None:
    """Suspended after the signature: the write is refused and the model told; restored, the next one is done."""
    run = await waiting(engine)
    suspend(engine, "ana@example.com")
    await engine.decide(run, "bo")
    done = await engine.closed(run)
    assert [(c.status, c.reason) for c in done.calls] == [("refused", "approver_suspended")]
    assert engine.rows("refunds") == []
    people.set_standing(engine.ledger, "ana@example.com", suspended=False, reason="back", by="a test")
    run = await waiting(engine)
    await engine.decide(run, "bo")
    assert [c.status for c in (await engine.closed(run)).calls] == ["done"]


async def test_a_suspended_editor_has_edited_nothing(engine: Engine) -> None:
    """Whoever edited it proposed it: suspended since, the write is refused, though somebody else approved."""
    run = await engine.start(REFUND, ticket="T-1003")
    await engine.pending(run.id)
    await engine.edit(run.id, "bo", amount_cents=30_000)
    await engine.until(run.id, lambda s: len(s.approvals) == 2)
    suspend(engine, "bo@example.com")
    await engine.decide(run.id, "ana", approval_id="ap-0-0-1")
    done = await engine.closed(run.id)
    assert [(c.status, c.reason) for c in done.calls] == [("refused", "editor_suspended")]
    assert engine.rows("refunds") == []


async def test_a_demoted_approver_has_approved_nothing(engine: Engine) -> None:
    """The role is gone from the directory since the run pinned it."""
    run = await waiting(engine)
    file = engine.home / "directory.json"
    directory = json.loads(file.read_text())
    for person in directory["people"]:
        if person["sub"] == "ana@example.com":
            person["roles"] = ["support-lead"]
    file.write_text(json.dumps(directory))
    await engine.decide(run, "bo")
    done = await engine.closed(run)
    assert [(c.status, c.reason) for c in done.calls] == [("refused", "wrong_role")]
    assert engine.rows("refunds") == []


async def test_a_write_without_approval_asks_nobody(engine: Engine) -> None:
    """With everybody suspended, what needs no approval goes on."""
    for sub in ("ana@example.com", "bo@example.com", "cleo@example.com", "sam@example.com"):
        suspend(engine, sub)
    cheap = [turn(call("request_refund", invoice_id="in_1001", amount_cents=4900, reason="duplicate")), final()]
    assert [c.status for c in (await engine.run(cheap)).calls] == ["done"]


def unreachable() -> Directory:
    raise Unavailable("The issuer can't be reached; try again later.")


@pytest.mark.parametrize("directory", [Directory, unreachable])
async def test_the_retry_of_a_done_write_gets_its_result(engine: Engine, directory: object) -> None:
    """An attempt whose answer was lost is repeated when the approvers are gone, or nobody can be asked: done is done."""
    run = await waiting(engine)
    await engine.decide(run, "bo")
    await engine.closed(run)
    (effect,) = engine.effects()
    given = await executed(engine, run)
    capsule = await engine.remit.handle(run).query("capsule", result_type=Capsule)
    runs = Runs(storage_at(engine.settings.storage_place))
    runs.admitted(capsule)
    business = Sandbox(engine.settings.business_path)
    keys = RootKeys(engine.settings.root_keys_path, env="dev")
    capabilities = Capabilities(engine.ledger, keys, f"{engine.client.namespace}/{engine.settings.task_queue}", 600)
    kept = StoredResults(storage_at(engine.settings.storage_place))
    meter = uncapped(engine.ledger)
    tool = ToolActivities(runs, engine.ledger, capabilities, CATALOG, {Billing: business}, directory, kept, meter)  # type: ignore[arg-type]
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_id=run)
    again: ToolOutcome = await environment.run(tool.execute_tool, given)
    await business.aclose()
    assert (again.status, again.content) == ("done", effect.outcome)
    assert len(engine.rows("refunds")) == 1


async def executed(engine: Engine, run: str) -> ExecuteTool:
    """What `execute_tool` was given in the run."""
    async for event in engine.remit.handle(run).fetch_history_events():
        scheduled = event.activity_task_scheduled_event_attributes
        if scheduled.activity_type.name == "execute_tool":
            (found,) = await CONVERTER.decode([*scheduled.input.payloads], [ExecuteTool])
            return found
    raise AssertionError(run)
