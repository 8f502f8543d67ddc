"""The ledger's PostgreSQL is away for a while: nothing that a run wants is lost by it."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from policies.approvals import decision_payload
from remit.embedded import TemporalServer
from tests.engine import Engine, call, final, turn
from tests.postgres import PostgresServer

LARGE = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
DRAFT = turn(call("draft_reply", ticket_id="T-1002", text="We can't refund this."))
AWAY_SECONDS = 5
"""Longer than all attempts of a read or of a write take, when each fails at once."""


@pytest.fixture
async def engine(server: TemporalServer, home: Path, postgres: PostgresServer) -> AsyncGenerator[Engine]:
    """An engine with its ledger on PostgreSQL."""
    async with Engine(await server.ready(), home, overrides={"ledger_url": postgres.database()}) as found:
        yield found


@pytest.mark.parametrize(("verb", "table"), [("reject", "reply_drafts"), ("approve", "refunds")])
async def test_a_database_that_is_started_again_costs_no_write(
    engine: Engine, postgres: PostgresServer, verb: str, table: str
) -> None:
    """What comes next, facts to read or a write that was approved, waits for the ledger and happens once."""
    run = await engine.start([LARGE, DRAFT, final()], ticket="T-1002")
    await engine.pending(run.id)
    approval_id, token = await engine.token(run.id, "ana", "reject" if verb == "reject" else "approve")
    await asyncio.to_thread(postgres.halt)
    await run.signal("decide", decision_payload(approval_id, token))
    await asyncio.sleep(AWAY_SECONDS)
    postgres.start()
    done = await engine.closed(run.id)
    assert done.status == "completed"
    assert len(engine.rows(table)) == 1
    assert len(engine.rows("reply_drafts")) == 1
