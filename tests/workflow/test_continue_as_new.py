"""Runs that outgrow one history: they go on as a new segment, and nobody notices but Temporal."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from policies.errors import KillSwitchEngaged
from remit.connection import CONVERTER
from remit.embedded import temporal_binary
from tests.engine import Engine, call, final, turn
from workflows.messages import AssistantMessage

READS = [turn(call("search_kb", query=f"zzz{n}")) for n in range(14)]
REFUND = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))


@pytest.fixture
async def rolling(home: Path) -> AsyncGenerator[Engine]:
    """An engine on a server that suggests to continue as new after forty events."""
    suggest = ["--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=40"]
    environment = await WorkflowEnvironment.start_local(  # pyright: ignore[reportUnknownMemberType]
        dev_server_existing_path=temporal_binary(), dev_server_extra_args=suggest, data_converter=CONVERTER
    )
    async with environment, Engine(environment.client, home) as found:
        yield found


async def test_a_long_run_is_one_run_to_everybody(rolling: Engine) -> None:
    """Id, transcript, budgets, approvals and place in the queue carry over; the refund happens once, under the first id."""
    run = await rolling.start([*READS, REFUND, final()], ticket="T-1002")
    parked = await rolling.pending(run.id)
    assert parked.run_id == run.first_execution_run_id != (await run.describe()).run_id
    assert (parked.usage.tool_calls, len(parked.calls)) == (15, 14)
    await rolling.decide(run.id, "ana")
    result = await run.result()
    said = [m for m in await rolling.messages(run.id) if isinstance(m, AssistantMessage)]
    assert (result.outcome, result.run_id, len(said)) == ("completed", run.first_execution_run_id, 16)
    assert [e.run_id for e in rolling.effects()] == [run.first_execution_run_id]
    first = await anext(rolling.remit.handle(run.id).fetch_history_events())
    assert first.workflow_execution_started_event_attributes.priority.fairness_key == "billing-resolution"
    assert len(rolling.rows("refunds")) == 1


async def test_a_budget_holds_over_all_segments(rolling: Engine) -> None:
    """Twenty calls are twenty calls, however many segments they take."""
    run = await rolling.start([turn(call("search_kb", query=f"zzz{n}")) for n in range(25)])
    result = await run.result()
    assert (result.outcome, result.stopped_by, result.usage.tool_calls) == ("stopped", "tool_calls", 20)
    assert (await run.describe()).run_id != run.first_execution_run_id


async def test_a_kill_in_a_later_segment_covers_the_run(rolling: Engine) -> None:
    """The kill row bears the id of the first segment, as every reservation of the run does."""
    run = await rolling.start([*READS, REFUND, final()], ticket="T-1002")
    summary = await rolling.pending(run.id)
    await rolling.remit.kill(run.id, "stop")
    assert (await run.result()).outcome == "killed"
    with pytest.raises(KillSwitchEngaged):
        rolling.reserve(summary)
