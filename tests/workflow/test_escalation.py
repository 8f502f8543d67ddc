"""Nobody decides: others are asked too, before the approval expires, on a server that skips the hours in between."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from joserfc.jwk import OKPKey
from temporalio.testing import WorkflowEnvironment

from policies.approvals import Approval, DecisionClaims, Verb, sign_decision
from policies.errors import ApprovalRefused
from tests.engine import Engine, call, final, turn
from tests.replay.test_replay import replayer
from tests.workflow.conftest import SetLimits, skipping_server
from workflows.messages import Decided

HOUR = 60 * 60
REFUND = [turn(call("request_refund", invoice_id="in_1006", amount_cents=74000, reason="duplicate")), final()]


@dataclass(frozen=True)
class Office:
    """An engine whose hours pass at will, and people who sign by its clock."""

    engine: Engine
    environment: WorkflowEnvironment

    async def start(self) -> str:
        run = await self.engine.start(REFUND, ticket="T-1003")
        await self.engine.pending(run.id)
        return run.id

    async def later(self, seconds: int) -> None:
        await self.environment.sleep(timedelta(seconds=seconds))

    async def approval(self, run_id: str) -> Approval:
        return (await self.engine.remit.status(run_id)).approvals[0]

    async def decide(self, run_id: str, who: str, decision: Verb = "approve", *, signed_before: int = 0) -> Decided:
        """`who` decides now, with a signature that they gave `signed_before` seconds ago."""
        summary, approval = await self.engine.remit.approval(run_id, None)
        now = int((await self.environment.get_current_time()).timestamp()) - signed_before
        key = OKPKey.import_key(json.loads((self.engine.home / "keys" / f"{who}@example.com.json").read_text()))
        claims = DecisionClaims(
            act=approval.request.action_digest,
            run=summary.run_id,
            approval_id=approval.request.approval_id,
            decision=decision,
            nonce=f"{who}-{now}-{decision}",
            iat=now,
            exp=now + 900,
        )
        return await self.engine.remit.decide(run_id, approval.request.approval_id, sign_decision(claims, key))


@pytest.fixture
async def office(library: Path, home: Path) -> AsyncGenerator[Office]:
    async with skipping_server() as environment, Engine(environment.client, home, operated=False) as engine:
        yield Office(engine, environment)


async def test_after_eight_hours_the_next_group_may_decide(office: Office) -> None:
    """Not before; who was asked first still may, and the write counts both."""
    run_id = await office.start()
    await office.decide(run_id, "ana")
    with pytest.raises(ApprovalRefused, match="`dana@example.com` has none of the roles that may decide here"):
        await office.decide(run_id, "dana")
    await office.later(8 * HOUR + 1)
    parked = await office.engine.until(run_id, lambda s: s.approvals[0].escalated_at is not None)
    approval = parked.approvals[0]
    assert approval.request.roles == ("refund-approver", "finance-lead")
    assert (approval.escalated_at or 0) - approval.request.requested_at in (8 * HOUR, 8 * HOUR + 1)
    assert (await office.decide(run_id, "dana")).status == "approved"
    done = await office.engine.closed(run_id)
    assert (done.status, done.approvals[0].approvers) == ("completed", ("ana@example.com", "dana@example.com"))
    assert [r["amount_cents"] for r in office.engine.rows("refunds")] == [74000]
    await replayer().replay_workflow(await office.engine.remit.handle(run_id).fetch_history())


async def test_a_signature_from_before_the_escalation_does_not_count_after_it(office: Office) -> None:
    """Nobody signs in stock for the hour in which they will be asked."""
    run_id = await office.start()
    await office.later(8 * HOUR + 5)
    await office.engine.until(run_id, lambda s: s.approvals[0].escalated_at is not None)
    with pytest.raises(ApprovalRefused, match="has none of the roles that may decide here: refund-approver."):
        await office.decide(run_id, "dana", signed_before=60)
    assert (await office.approval(run_id)).decisions == ()


async def test_an_approval_that_was_escalated_in_vain_is_denied(office: Office) -> None:
    """After a day it expires all the same, however many were asked."""
    run = await office.engine.start(REFUND, ticket="T-1003")
    await office.engine.pending(run.id)
    await run.result()
    done = await office.engine.remit.status(run.id)
    assert (done.approvals[0].status, done.approvals[0].escalated_at is not None) == ("expired", True)
    assert await office.engine.errors(run.id) == [("approval_expired", "Nobody approved this in time.")]
    description = await run.describe()
    assert description.close_time
    assert timedelta(days=1) <= description.close_time - description.start_time < timedelta(days=1, minutes=10)
    assert office.engine.rows("refunds") == []


async def test_the_next_group_may_reject(office: Office) -> None:
    """A rejection of theirs decides, as anybody's."""
    run_id = await office.start()
    await office.later(8 * HOUR + 1)
    await office.engine.until(run_id, lambda s: s.approvals[0].escalated_at is not None)
    assert (await office.decide(run_id, "dana", "reject")).status == "rejected"


async def test_an_escalation_takes_as_many_steps_as_the_bundle_says(
    library: Path, set_limits: SetLimits, office: Office
) -> None:
    """Each adds its group, in its time."""
    set_limits(after_seconds=HOUR)
    limits = library / "policies" / "bundles" / "refunds_v7" / "limits.toml"
    limits.write_text(limits.read_text() + '\n[[approvals.escalation]]\nafter_seconds = 7200\nroles = ["support-lead"]\n')
    run_id = await office.start()
    await office.later(HOUR + 1)
    one = await office.engine.until(run_id, lambda s: len(s.approvals[0].request.roles) == 2)
    await office.later(HOUR)
    two = await office.engine.until(run_id, lambda s: len(s.approvals[0].request.roles) == 3)
    assert [one.approvals[0].request.roles[-1], two.approvals[0].request.roles[-1]] == ["finance-lead", "support-lead"]
    await office.decide(run_id, "dana")
    assert (await office.decide(run_id, "cleo")).status == "approved"
