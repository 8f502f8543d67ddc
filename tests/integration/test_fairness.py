"""One agent's flood doesn't starve another: work waits by agent, and a kill waits behind nobody."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from statistics import median

import pytest
from temporalio import common
from temporalio.api.common.v1 import Priority
from temporalio.client import WorkflowHandle

from activities.ledger.store import Ledger
from activities.library import Library
from policies.errors import AgentInvalid
from remit.embedded import TemporalServer
from remit.settings import Settings
from tests.engine import Engine, call, final, turn
from tools.builtin import CATALOG
from worker import working
from workflows.messages import RunResult
from workflows.options import MAX_KEY_BYTES, share

FLOOD = 60
PATIENCE_SECONDS = 120
Run = WorkflowHandle[object, RunResult]


@pytest.fixture
async def narrow(server: TemporalServer, home: Path) -> AsyncGenerator[Engine]:
    """An engine whose worker, once it starts, does two activities at a time."""
    async with Engine(await server.ready(), home, overrides={"activity_slots": 2}, working=False) as found:
        yield found


async def scheduled(run: Run) -> dict[str, Priority]:
    """The place in the queue that each activity of the run was given, by name."""
    found: dict[str, Priority] = {}
    async for event in run.fetch_history_events():
        wanted = event.activity_task_scheduled_event_attributes
        if wanted.activity_type.name:
            found[wanted.activity_type.name] = wanted.priority
    return found


async def waits(run: Run) -> list[tuple[float, float]]:
    """When each activity of the run was scheduled, and when it started (Unix seconds, by the server's clock)."""
    asked: dict[int, float] = {}
    found: list[tuple[float, float]] = []
    async for event in run.fetch_history_events():
        at = event.event_time.ToMicroseconds() / 1e6
        if event.HasField("activity_task_scheduled_event_attributes"):
            asked[event.event_id] = at
        elif event.HasField("activity_task_started_event_attributes"):
            found.append((asked[event.activity_task_started_event_attributes.scheduled_event_id], at))
    return found


async def test_one_agents_flood_does_not_starve_another(narrow: Engine) -> None:
    """An activity of the other agent is overtaken by a few of the flood's, not by the 60 runs that were there before it."""
    script = [turn(call("search_kb", query=f"refund {n}")) for n in range(3)] + [final()]
    flood = [await narrow.start(script, run_id=f"flood-{narrow.settings.task_queue}-{n}") for n in range(FLOOD)]
    await narrow.work()
    await narrow.until(flood[0].id, lambda s: s.usage.model_calls > 0)  # the flood is under way
    other = await narrow.start(script, agent="support-triage")
    await asyncio.wait_for(other.result(), PATIENCE_SECONDS)
    crowd = [started for run in flood for _, started in await waits(run)]
    overtaken = [sum(asked < at < started for at in crowd) for asked, started in await waits(other)]
    assert max(crowd) > (await waits(other))[-1][1]  # the flood isn't over yet
    assert median(overtaken) < FLOOD // 4


async def test_a_plain_start_can_claim_no_place(engine: Engine) -> None:
    """What somebody without our client says of a run's priority doesn't reach its activities: they wait as their agent's."""
    run = await engine.client.start_workflow(
        "AgentRun",
        {"agent": "support-triage", "inputs": {"ticket_id": "T-1001"}, "script": [final().model_dump(mode="json")]},
        id=f"plain-{engine.settings.task_queue}",
        task_queue=engine.settings.task_queue,
        priority=common.Priority(priority_key=1, fairness_key="somebody-else", fairness_weight=1000),
        result_type=RunResult,
    )
    await run.result()
    wanted = Priority(priority_key=3, fairness_key="support-triage", fairness_weight=1)
    assert await scheduled(run) == {"admit": wanted, "call_model": wanted}


async def test_an_agents_file_gives_it_a_place(library: Path, server: TemporalServer, home: Path) -> None:
    """`priority` and `weight` of an `agent.toml` hold for all activities once the run is admitted, and are pinned with it."""
    path = library / "agents" / "support-triage" / "agent.toml"
    path.write_text(f"priority = 2\nweight = 10\n{path.read_text()}")
    async with Engine(await server.ready(), home) as engine:
        run = await engine.start([final()], agent="support-triage")
        await engine.closed(run.id)
        found = await scheduled(run)
    assert found["admit"] == Priority(priority_key=3, fairness_key="support-triage", fairness_weight=1)
    assert found["call_model"] == Priority(priority_key=2, fairness_key="support-triage", fairness_weight=10)


@pytest.mark.parametrize("line", ["priority = 6", "priority = 0", "weight = 0"])
async def test_a_place_that_does_not_exist_is_refused(library: Path, line: str, engine: Engine) -> None:
    """A priority beyond 1 to 5, or no weight at all, makes the agent's file one that can't be used."""
    path = library / "agents" / "support-triage" / "agent.toml"
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(AgentInvalid, match=rf"`agent.toml`: .*{line.split(maxsplit=1)[0]}"):
        Library([library], CATALOG).agent("support-triage")


async def test_a_kill_waits_behind_nobody(engine: Engine) -> None:
    """The row that stops writes is asked for with the first priority, before all other work of all agents."""
    run = await engine.start(
        [turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))], ticket="T-1002"
    )
    await engine.pending(run.id)
    await engine.remit.kill(run.id, "enough")
    assert (await scheduled(run))["write_kill"].priority_key == 1


def test_a_long_name_is_still_a_key_of_its_own() -> None:
    """Temporal takes keys of 64 bytes; two longer names that begin alike don't share one."""
    keys = [share("a" * 80 + end).fairness_key for end in "12"]
    assert keys[0] != keys[1]
    assert all(key and len(key.encode()) <= MAX_KEY_BYTES for key in keys)
    assert share("billing-resolution").fairness_key == "billing-resolution"


async def test_slots_and_cache_are_the_settings(server: TemporalServer, home: Path) -> None:
    """What an operator sets for a worker is what its engine gets."""
    given = {"activity_slots": 7, "workflow_slots": 8, "local_activity_slots": 9, "cached_runs": 10}
    settings = Settings(home=home).model_copy(update=given)
    ledger = Ledger(settings.ledger)
    ledger.migrate()
    async with working(await server.ready(), settings, ledger) as worker:
        found: dict[str, object] = {**worker.config()}
    ledger.close()
    names = ["max_concurrent_activities", "max_concurrent_workflow_tasks", "max_concurrent_local_activities"]
    assert [found[n] for n in [*names, "max_cached_workflows"]] == [7, 8, 9, 10]
