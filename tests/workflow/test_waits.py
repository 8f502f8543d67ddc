"""Waiting for people and for the end of a run's time, on a server that skips it."""


from tests.engine import Engine, call, final, turn

REFUND = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))


async def test_an_approval_that_nobody_gives_expires(skipping: Engine) -> None:
    """After a day the model gets `approval_expired` and goes on; nothing was refunded."""
    run = await skipping.start([REFUND, final("escalated", "Nobody was there.")], ticket="T-1002")
    await skipping.pending(run.id)
    done = await skipping.closed(run.id)
    assert await skipping.errors(run.id) == [("approval_expired", "Nobody approved this in time.")]
    assert (done.status, [a.status for a in done.approvals], skipping.rows("refunds")) == ("escalated", ["expired"], [])
