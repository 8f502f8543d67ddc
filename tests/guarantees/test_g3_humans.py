"""G3: a write over a threshold runs only after as many different people as the policy says approved exactly these arguments.

What single signatures are worth is tested in `tests/unit/test_approvals.py`, what strangers may send in
`tests/integration/test_strangers.py`, the tiers and the plain decisions in `tests/integration/test_run.py`.
"""

import base64
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.capabilities import Capabilities
from activities.ledger.store import Ledger
from activities.results import StoredResults
from activities.runs import Runs
from activities.storage import FolderStorage, storage_at
from activities.tool import ToolActivities
from policies.approvals import Approval, decision_payload
from policies.errors import ApprovalRefused
from remit.keyring import RootKeys
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn, uncapped
from tools.billing import Billing
from tools.builtin import CATALOG
from tools.connectors import sandbox
from tools.connectors.sandbox import Sandbox
from workflows.messages import Capsule, ExecuteTool, RunSummary, ToolOutcome

TWO_PEOPLE = [turn(call("request_refund", invoice_id="in_1006", amount_cents=74000, reason="duplicate")), final()]
ONE_PERSON = [turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate")), final()]


def refunded(engine: Engine) -> list[tuple[str, int]]:
    """Invoice and cents of each refund that really happened."""
    return sorted((str(r["invoice_id"]), int(r["amount_cents"])) for r in engine.rows("refunds"))


def states(run: RunSummary) -> list[tuple[str, str]]:
    return [(a.request.approval_id, a.status) for a in run.approvals]


# ---- an edit is a new action ------------------------------------------------------------------------------------------


async def test_an_edited_refund_is_approved_anew_by_somebody_else(engine: Engine) -> None:
    """Earlier approvals don't count for it, its editor may not approve it, and exactly the edited amount is refunded."""
    run = await engine.start(TWO_PEOPLE, ticket="T-1003")
    await engine.pending(run.id)
    await engine.decide(run.id, "ana")
    ended = await engine.edit(run.id, "bo", amount_cents=30000, reason="Half was used.")
    assert ended.status == "cancelled"
    parked = await engine.until(run.id, lambda s: len(s.approvals) == 2)
    first, second = parked.approvals
    assert states(parked) == [("ap-0-0", "cancelled"), ("ap-0-0-1", "pending")]
    assert (second.request.required, second.request.arguments["amount_cents"], second.approvers) == (1, 30000, ())
    assert (second.request.edited_by, second.request.edit_of) == (("bo@example.com",), "ap-0-0")
    assert second.request.action_digest != first.request.action_digest
    with pytest.raises(ApprovalRefused, match="`bo@example.com` edited this action and may not approve it; ") as refused:
        await engine.decide(run.id, "bo")
    assert (refused.value.reason, refunded(engine)) == ("own_edit", [])
    await engine.decide(run.id, "ana")
    done = await engine.closed(run.id)
    assert (states(done), refunded(engine)) == ([("ap-0-0", "cancelled"), ("ap-0-0-1", "consumed")], [("in_1006", 30000)])
    [effect] = engine.effects()
    assert (effect.approvers, effect.idempotency_key) == ("ana@example.com", done.calls[0].idempotency_key)
    assert str(done.calls[0].amount) == "$300.00"


async def test_the_model_learns_that_a_person_changed_its_arguments(engine: Engine) -> None:
    """The tool's result says who, why, and what was really done."""
    run = await engine.start(TWO_PEOPLE, ticket="T-1003")
    await engine.pending(run.id)
    await engine.edit(run.id, "bo", amount_cents=4900, reason="Half was used.")
    await engine.closed(run.id)
    [told] = await engine.answers(run.id)
    assert told["result"]["amount_cents"] == 4900
    assert told["edited_by_people"] == {
        "by": ["bo@example.com"],
        "arguments": {"invoice_id": "in_1006", "amount_cents": 4900, "currency": "USD", "reason": "duplicate"},
        "reason": "Half was used.",
    }


async def test_an_edit_into_the_automatic_tier_needs_nobody_else(engine: Engine) -> None:
    """$740 made $49 is a small refund: it happens once, without an approval."""
    run = await engine.start(TWO_PEOPLE, ticket="T-1003")
    await engine.pending(run.id)
    await engine.edit(run.id, "ana", amount_cents=4900)
    done = await engine.closed(run.id)
    assert (states(done), refunded(engine)) == ([("ap-0-0", "cancelled")], [("in_1006", 4900)])
    assert [e.approvers for e in engine.effects()] == [""]


async def test_an_edit_is_bound_to_the_customer_and_the_rules_too(engine: Engine) -> None:
    """Nobody edits their way to another customer's invoice, or past what was paid."""
    run = await engine.start([*ONE_PERSON[:1], *ONE_PERSON], ticket="T-1002")
    await engine.pending(run.id)
    await engine.edit(run.id, "ana", invoice_id="in_1006")
    parked = await engine.until(run.id, lambda s: len(s.approvals) == 2)
    assert parked.approvals[1].status == "pending"
    await engine.edit(run.id, "ana", amount_cents=12001)
    await engine.closed(run.id)
    answers = await engine.answers(run.id)
    assert [a["error"]["code"] for a in answers] == ["not_subject", "not_refundable"]
    assert [a["edited_by_people"]["by"] for a in answers] == [["ana@example.com"]] * 2
    assert (refunded(engine), engine.effects()) == ([], [])


async def test_an_edit_can_ask_for_more_people(engine: Engine) -> None:
    """Raised into a higher tier, the action needs what that tier needs."""
    small = turn(call("request_refund", invoice_id="in_1006", amount_cents=30000, reason="duplicate"))
    run = await engine.start([small, final()], ticket="T-1003")
    await engine.pending(run.id)
    await engine.edit(run.id, "ana", amount_cents=74000)
    parked = await engine.until(run.id, lambda s: len(s.approvals) == 2)
    assert [a.request.required for a in parked.approvals] == [1, 2]


async def test_who_edited_may_edit_again_or_reject(engine: Engine) -> None:
    """They may correct themselves; the same arguments as in the beginning are another action by then."""
    run = await engine.start(TWO_PEOPLE, ticket="T-1003")
    await engine.pending(run.id)
    await engine.edit(run.id, "ana", amount_cents=60000)
    await engine.until(run.id, lambda s: len(s.approvals) == 2)
    await engine.edit(run.id, "ana", amount_cents=74000)
    parked = await engine.until(run.id, lambda s: len(s.approvals) == 3)
    first, _, third = parked.approvals
    assert first.request.arguments == third.request.arguments
    assert first.request.action_digest != third.request.action_digest
    await engine.decide(run.id, "ana", "reject", approval_id="ap-0-0-2", reason="On second thought, no.")
    done = await engine.closed(run.id)
    assert [a.status for a in done.approvals] == ["cancelled", "cancelled", "rejected"]
    assert refunded(engine) == []


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"amount_cents": "lots"}, "invalid_edit", "The edited arguments can't be used: `request_refund`: `amount_cents` "),
        ({"amount_cents": -1}, "invalid_edit", "The edited arguments can't be used: `request_refund`: `amount_cents` "),
        ({"to": "me"}, "invalid_edit", "The edited arguments can't be used: `request_refund`: `to` "),
        ({}, "nothing_changed", "The edit changes nothing; "),
    ],
)
async def test_an_edit_that_cannot_be_used_changes_nothing(
    engine: Engine, changes: dict[str, Any], reason: str, message: str
) -> None:
    """By update the caller hears why, and by signal too it is recorded; the approval goes on waiting as it was."""
    run = await engine.start(ONE_PERSON, ticket="T-1002")
    before = (await engine.pending(run.id)).approvals
    token = await engine.token(run.id, "ana", "edit", changes=changes)
    with pytest.raises(ApprovalRefused) as refused:
        await engine.remit.decide(run.id, *token)
    assert (refused.value.reason, refused.value.message.startswith(message)) == (reason, True)
    await run.signal("decide", decision_payload(*token))
    after = await engine.until(run.id, lambda s: s.refused_total == 2)
    assert (after.approvals, [r.reason for r in after.refused]) == (before, [reason, reason])
    await engine.decide(run.id, "ana")
    await engine.closed(run.id)
    assert refunded(engine) == [("in_1004", 12000)]


@pytest.mark.parametrize(("who", "reason"), [("sam", "own_request"), ("cleo", "wrong_role")])
async def test_only_who_may_decide_may_edit(engine: Engine, who: str, reason: str) -> None:
    """The requester can't shrink their own refund below the threshold, and neither can somebody without the role."""
    run = await engine.start(ONE_PERSON, ticket="T-1002", requester="sam@example.com")
    await engine.pending(run.id)
    with pytest.raises(ApprovalRefused) as refused:
        await engine.edit(run.id, who, amount_cents=4900)
    assert (refused.value.reason, refunded(engine)) == (reason, [])


async def test_an_action_is_edited_ten_times_at_most(engine: Engine) -> None:
    """Then somebody must decide."""
    run = await engine.start(TWO_PEOPLE, ticket="T-1003")
    for n in range(10):
        await engine.until(run.id, lambda s, n=n: len(s.approvals) == n + 1)
        await engine.edit(run.id, "ana", amount_cents=73000 + n)
    await engine.until(run.id, lambda s: len(s.approvals) == 11)
    with pytest.raises(ApprovalRefused, match="This action was edited 10 times; approve or reject it."):
        await engine.edit(run.id, "ana", amount_cents=60000)


# ---- beside the write, nothing is taken from the workflow's word ------------------------------------------------------


@dataclass(frozen=True)
class BesideTheWrite:
    """The write of an edited run, to be carried out again over another business and ledger, as it was or tampered with."""

    call: ExecuteTool
    tools: ToolActivities
    business: Path
    workflow_id: str

    async def perform(self, **changes: object) -> ToolOutcome:
        changed = ExecuteTool.model_validate({**self.call.model_dump(), **changes})
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, workflow_id=self.workflow_id)
        return await environment.run(self.tools.execute_tool, changed)

    def edit(self, **changes: object) -> Approval:
        """The edit's approval, changed."""
        return Approval.model_validate({**self.call.edits[0].model_dump(), **changes})


@pytest.fixture
async def beside(engine: Engine, tmp_path: Path) -> AsyncGenerator[BesideTheWrite]:
    run = await engine.start(TWO_PEOPLE, ticket="T-1003")
    await engine.pending(run.id)
    await engine.edit(run.id, "bo", amount_cents=30000)
    await engine.until(run.id, lambda s: len(s.approvals) == 2)
    await engine.decide(run.id, "ana", approval_id="ap-0-0-1")
    await engine.closed(run.id)
    capsule = await run.query("capsule", result_type=Capsule)
    history = json.loads((await run.fetch_history()).to_json())
    [data] = [
        scheduled["input"]["payloads"][0]["data"]
        for event in history["events"]
        if (scheduled := event.get("activityTaskScheduledEventAttributes"))
        and scheduled["activityType"]["name"] == "execute_tool"
    ]
    business = tmp_path / "other.db"
    shop = Sandbox.create(business, json.loads((ROOT / "demo" / "business.json").read_text()))
    ledger = Ledger(f"sqlite:///{tmp_path / 'other-ledger.db'}")
    ledger.migrate()
    for kept in engine.ledger.capabilities():
        ledger.keep(kept)
    keys = RootKeys(engine.settings.root_keys_path, env="dev")
    capabilities = Capabilities(ledger, keys, f"{engine.client.namespace}/{engine.settings.task_queue}", 600)
    runs = Runs(storage_at(engine.settings.storage_place))
    runs.admitted(capsule)
    given = ExecuteTool.model_validate_json(base64.b64decode(data))
    results = StoredResults(FolderStorage(tmp_path / "other-storage"))
    meter = uncapped(ledger)
    activities = ToolActivities(runs, ledger, capabilities, CATALOG, {Billing: shop}, engine.issuer.ensure, results, meter)
    yield BesideTheWrite(given, activities, business, run.id)
    ledger.close()


async def test_an_untouched_write_of_an_edited_action_happens(beside: BesideTheWrite) -> None:
    """The comparison for those below: as the run sent it, it is carried out."""
    outcome = await beside.perform()
    assert outcome.status == "done", outcome
    assert [r["amount_cents"] for r in sandbox.rows(beside.business, "refunds")] == [30000]


def without_edits(given: BesideTheWrite) -> tuple[Approval, ...]:
    return ()


def without_decision(given: BesideTheWrite) -> tuple[Approval, ...]:
    return (given.edit(decisions=()),)


def with_a_broken_signature(given: BesideTheWrite) -> tuple[Approval, ...]:
    genuine = given.call.edits[0].decisions[0]
    return (given.edit(decisions=(genuine.model_copy(update={"decision_jws": genuine.decision_jws[:-4]}),)),)


def with_the_approval_as_edit(given: BesideTheWrite) -> tuple[Approval, ...]:
    """Ana's genuine approval, relabelled."""
    assert given.call.approval
    approved = given.call.approval.decisions[0].model_copy(update={"decision": "edit"})
    return (given.edit(decisions=(approved,)),)


@pytest.mark.parametrize(
    ("tampered", "reason"),
    [
        (without_edits, "action_changed"),
        (without_decision, "action_changed"),
        (with_a_broken_signature, "bad_signature"),
        (with_the_approval_as_edit, "other_approval"),
    ],
)
async def test_an_edit_cannot_be_hidden_from_the_tool(
    beside: BesideTheWrite, tampered: Callable[[BesideTheWrite], tuple[Approval, ...]], reason: str
) -> None:
    """Whoever approved signed that it was edited and by whom: without the edit's own proof, nothing is carried out."""
    outcome = await beside.perform(edits=tampered(beside))
    assert (outcome.status, outcome.reason) == ("refused", reason)
    assert sandbox.rows(beside.business, "refunds") == []


async def test_a_tool_refuses_other_arguments_than_those_of_the_edit(beside: BesideTheWrite) -> None:
    """Neither the model's arguments nor any others run under an edit."""
    for amount in (74000, 30001):
        arguments = json.dumps({**json.loads(beside.call.arguments), "amount_cents": amount})
        outcome = await beside.perform(arguments=arguments)
        assert (outcome.status, outcome.reason) == ("refused", "action_changed")
    assert sandbox.rows(beside.business, "refunds") == []


@pytest.mark.parametrize(("requested", "expires"), [(-30_000, -30_000), (0, 3600), (-60, 0)])
async def test_a_tool_refuses_an_approval_whose_times_its_limits_do_not_give(
    beside: BesideTheWrite, requested: int, expires: int
) -> None:
    """Who claims to have asked before the run was admitted would have escalated early; who moves the expiry, approved late."""
    approval = beside.call.approval
    assert approval
    request = approval.request.model_copy(
        update={
            "requested_at": approval.request.requested_at + requested,
            "expires_at": approval.request.expires_at + expires,
        }
    )
    outcome = await beside.perform(approval=approval.model_copy(update={"request": request}))
    assert (outcome.status, outcome.reason) == ("refused", "action_changed")
    assert sandbox.rows(beside.business, "refunds") == []
