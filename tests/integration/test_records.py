"""What the ledger keeps of a run once it has ended."""

import pytest
from temporalio.client import WorkflowFailureError

from activities.ledger import records
from activities.ledger.rows import RunRecord
from policies.switches import subject_tag
from tests.builders import ANA
from tests.engine import Engine, call, final, turn
from workflows.messages import TokenUsage

REFUND = call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate")


async def record_of(engine: Engine, workflow_id: str) -> RunRecord:
    with engine.ledger.reading() as connection:
        [found] = [r for r in records.of_agent(connection, "billing-resolution", 0) if r.workflow_id == workflow_id]
    return found


async def test_a_run_leaves_its_figures(engine: Engine) -> None:
    """What was refused, by whom, what was asked, moved and paid: once, when the run has ended."""
    script = [
        turn(call("search_kb", query="refund"), call("search_kb", query="refund")),
        turn(call("get_ticket", ticket=1), call("get_ticket", ticket_id="T-1001")),
        turn(REFUND),
        final(),
    ]
    run = await engine.start(script, ticket="T-1002")
    await engine.pending(run.id)
    await engine.decide(run.id, ANA)
    closed = await engine.closed(run.id)
    found = await record_of(engine, run.id)
    assert (found.run_id, found.outcome, found.mode) == (closed.run_id, "completed", "live")
    assert (found.arm, found.release, found.subject_tag) == ("agent", closed.release, subject_tag(closed.subject))
    assert (found.model_calls, found.tool_calls, found.cost_micro_usd) == (5, 5, closed.usage.cost_micro_usd)
    assert (found.repeated, found.invalid, found.denied, found.errors) == (1, 1, 1, 0)
    assert (found.asked, found.approved, found.rejected, found.edited, found.moved_cents) == (1, 1, 0, 0, 12000)
    assert found.first_response_ms is not None
    assert 0 <= found.first_response_ms <= found.closed_at - found.started_at


async def test_people_and_kills_are_in_the_record(engine: Engine) -> None:
    """A rejection is no error of the agent's, and a killed run leaves its record too."""
    run = await engine.start([turn(REFUND), turn(REFUND), final()], ticket="T-1002")
    await engine.pending(run.id)
    await engine.decide(run.id, ANA, "reject", reason="No.")
    await engine.pending(run.id)
    await engine.remit.kill(run.id, "enough")
    await engine.closed(run.id)
    found = await record_of(engine, run.id)
    assert (found.outcome, found.asked, found.rejected, found.approved) == ("killed", 2, 1, 0)
    assert (found.errors, found.moved_cents, found.first_response_ms) == (0, 0, None)


async def test_what_prompt_caches_held_is_in_the_record(engine: Engine) -> None:
    """Of all model calls of the run, for the report's hit rate."""
    usage = TokenUsage(input_tokens=1_000, cached_input_tokens=400, cache_write_tokens=100, output_tokens=10)
    script = [turn(call("get_ticket", ticket_id="T-1001")), final()]
    run = await engine.start([each.model_copy(update={"usage": usage}) for each in script])
    await engine.closed(run.id)
    found = await record_of(engine, run.id)
    assert (found.input_tokens, found.cached_input_tokens, found.cache_write_tokens) == (2_000, 800, 200)


async def test_a_run_is_recorded_once(engine: Engine) -> None:
    """A worker that dies after it wrote the row writes it again, and nothing changes."""
    run = await engine.start([final()])
    await engine.closed(run.id)
    found = await record_of(engine, run.id)
    with engine.ledger.begin() as connection:
        assert not records.keep(connection, found.model_copy(update={"outcome": "failed"}))
    assert await record_of(engine, run.id) == found


async def test_a_run_that_was_never_admitted_leaves_no_record(engine: Engine) -> None:
    """Nothing was pinned, so there is nothing to compare."""
    run = await engine.start([final()], ticket="no ticket")
    with pytest.raises(WorkflowFailureError):
        await run.result()
    with engine.ledger.reading() as connection:
        assert not records.of_agent(connection, "billing-resolution", 0)
