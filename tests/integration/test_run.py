"""Whole runs over the real server: what is allowed, what waits for people, what is refused."""

from tests.engine import Engine, call, final, turn


async def test_a_small_refund_needs_nobody(engine: Engine) -> None:
    """Under $50 the refund happens once, under the key that the ledger recorded."""
    done = await engine.run([turn(call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate")), final()])
    assert done.status == "completed"
    assert [(r["invoice_id"], r["amount_cents"]) for r in engine.rows("refunds")] == [("in_1002", 4900)]
    assert [(e.state, e.idempotency_key) for e in engine.effects()] == [("done", engine.rows("refunds")[0]["idempotency_key"])]
