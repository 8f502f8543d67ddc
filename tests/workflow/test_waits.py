"""Waiting for people and for the end of a run's time, on a server that skips it."""

from datetime import timedelta

import pytest
from temporalio.client import WorkflowHandle

from tests.engine import Engine, call, final, turn
from tests.workflow.conftest import SetLimits
from workflows.messages import RunResult, RunSummary

ONE = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
TWO = turn(call("request_refund", invoice_id="in_1006", amount_cents=74000, reason="duplicate"))
BOTH = turn(
    call("request_refund", invoice_id="in_1003", amount_cents=12000, reason="duplicate"),
    call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"),
)
EXPIRED = ("approval_expired", "Nobody approved this in time.")
DAY = 24 * 60 * 60
Run = WorkflowHandle[object, RunResult]


async def end(engine: Engine, run: Run) -> RunSummary:
    """Let time pass until the run closes: it does for the handle that started it, and for no other."""
    await run.result()
    return await engine.remit.status(run.id)


async def open_for(run: Run) -> timedelta:
    """How long the run was open, in its own time."""
    description = await run.describe()
    assert description.close_time
    return description.close_time - description.start_time


async def test_an_approval_that_nobody_gives_expires(skipping: Engine) -> None:
    """After a day the model gets `approval_expired` and goes on; nothing was refunded."""
    run = await skipping.start([ONE, final("escalated", "Nobody was there.")], ticket="T-1002")
    await skipping.pending(run.id)
    done = await end(skipping, run)
    assert await skipping.errors(run.id) == [EXPIRED]
    assert (done.status, [a.status for a in done.approvals], skipping.rows("refunds")) == ("escalated", ["expired"], [])
    assert timedelta(seconds=DAY) <= await open_for(run) < timedelta(seconds=DAY + 600)


async def test_one_of_two_approvals_is_not_enough_when_the_time_is_over(skipping: Engine) -> None:
    """The first person's approval expires with the request."""
    run = await skipping.start([TWO, final()], ticket="T-1003")
    await skipping.pending(run.id)
    await skipping.decide(run.id, "ana")
    done = await end(skipping, run)
    assert await skipping.errors(run.id) == [EXPIRED]
    assert (done.approvals[0].status, done.approvals[0].approvers) == ("expired", ("ana@example.com",))
    assert (skipping.rows("refunds"), skipping.effects()) == ([], [])


async def test_approvals_of_one_turn_expire_independently(skipping: Engine) -> None:
    """What was approved in time happens, though its sibling expires."""
    run = await skipping.start([BOTH, final()], ticket="T-1002")
    parked = await skipping.pending(run.id, 2)
    await skipping.decide(run.id, "ana", approval_id=parked.approvals[0].request.approval_id)
    done = await end(skipping, run)
    assert [a.status for a in done.approvals] == ["consumed", "expired"]
    assert [r["invoice_id"] for r in skipping.rows("refunds")] == ["in_1003"]


async def test_the_bundle_says_how_long_an_approval_waits(set_limits: SetLimits, skipping: Engine) -> None:
    """Two minutes, if `limits.toml` says so."""
    set_limits(approval_seconds=120, after_seconds=60)
    run = await skipping.start([ONE, final()], ticket="T-1002")
    done = await end(skipping, run)
    assert done.approvals[0].request.expires_at - done.approvals[0].request.requested_at == 120
    assert await open_for(run) < timedelta(seconds=600)


async def test_the_wall_time_ends_a_run_that_waits(set_limits: SetLimits, skipping: Engine) -> None:
    """Waiting for people counts: the run is stopped, and what it asked for is cancelled."""
    set_limits(wall_seconds=3600)
    run = await skipping.start([ONE, final()], ticket="T-1002")
    await skipping.pending(run.id)
    done = await end(skipping, run)
    assert (done.status, done.stopped_by, done.summary) == ("stopped", "wall_seconds", "The run was open for 3600 s.")
    assert ([a.status for a in done.approvals], skipping.rows("refunds")) == (["cancelled"], [])


async def test_the_wall_time_counts_over_all_waits(set_limits: SetLimits, skipping: Engine) -> None:
    """A model that asks again after each expiry doesn't get more time in all."""
    set_limits(wall_seconds=3600, approval_seconds=1500, after_seconds=600)
    turns = [turn(call("request_refund", invoice_id="in_1004", amount_cents=12000 - n, reason="duplicate")) for n in range(4)]
    done = await end(skipping, await skipping.start([*turns, final()], ticket="T-1002"))
    assert (done.stopped_by, [a.status for a in done.approvals]) == ("wall_seconds", ["expired", "expired", "cancelled"])


@pytest.mark.parametrize(("on_limit", "status"), [("stop", "stopped"), ("escalate", "escalated")])
async def test_the_bundle_says_what_becomes_of_a_run_over_its_limit(
    set_limits: SetLimits, skipping: Engine, on_limit: str, status: str
) -> None:
    """`on_limit` chooses between a stop and a person; the name of the limit shows either way."""
    set_limits(wall_seconds=3600, on_limit=on_limit)
    done = await end(skipping, await skipping.start([ONE, final()], ticket="T-1002"))
    assert (done.status, done.stopped_by) == (status, "wall_seconds")


@pytest.mark.parametrize(
    ("limit", "value"), [("tool_calls", 1), ("model_calls", 1), ("tokens", 1), ("cost_micro_usd", 1), ("identical_calls", 1)]
)
async def test_every_limit_of_the_bundle_ends_a_run(set_limits: SetLimits, skipping: Engine, limit: str, value: int) -> None:
    """The run is stopped after the first turn, by the name of the limit."""
    set_limits(**{limit: value})
    look = turn(call("get_invoice", invoice_id="in_1002"))
    done = await end(skipping, await skipping.start([look, look, final()]))
    assert (done.status, done.stopped_by, len(done.calls)) == ("stopped", limit, 1)


async def test_a_kill_ends_the_wait_for_people(skipping: Engine) -> None:
    """No timer keeps a killed run open."""
    run = await skipping.start([ONE, final()], ticket="T-1002")
    await skipping.pending(run.id)
    await run.signal("kill", {"reason": "stop"})
    assert (await end(skipping, run)).status == "killed"
    assert await open_for(run) < timedelta(seconds=600)
