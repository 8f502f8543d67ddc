"""Schedules on the real server: what they start is governed as any other run, and a drill on one really is a drill."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from temporalio.client import Schedule, ScheduleActionStartWorkflow, ScheduleSpec, WorkflowFailureError
from temporalio.worker import Worker

from activities.drills import DrillActivities
from activities.ledger import switches
from policies.errors import InvalidInput, NotFound, Unavailable
from remit.codec import Unreadable
from remit.embedded import TemporalServer
from remit.sandbox import runner
from remit.schedules import Action, Plan, Schedules, ScheduleView
from tests.engine import Engine, call, final, turn
from workflows.fleet_messages import KILL_DRILL, DrillReport, PlayDrill
from workflows.kill_drill import KillDrill
from workflows.messages import ScriptTurn, StartInput

REFUND = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
NEW_YEAR = "0 0 1 1 *"
"""When nothing is due while a test runs."""


@pytest.fixture
def schedules(engine: Engine) -> Schedules:
    return Schedules(engine.client, engine.settings.task_queue)


def name() -> str:
    """Schedules of all tests share one namespace."""
    return f"schedule-{uuid.uuid4().hex[:8]}"


def plan(engine: Engine, turns: Sequence[ScriptTurn] = (final(),), ticket: str = "T-1002", **changed: object) -> Plan:
    """Runs of the billing agent at New Year, that Sam asked for."""
    start = StartInput(
        agent="billing-resolution", inputs={"ticket_id": ticket}, requester="sam@example.com", script=tuple(turns)
    )
    usual: dict[str, object] = {"queue": engine.settings.task_queue, "start": start, "cron": NEW_YEAR, "by": "sam@example.com"}
    return Plan.model_validate(usual | changed)


def drill(engine: Engine) -> Plan:
    wanted = PlayDrill(reason="Weekly.", by="ana@example.com")
    return Plan(queue=engine.settings.task_queue, drill=wanted, cron=NEW_YEAR, by="ana@example.com")


async def until(schedules: Schedules, which: str, holds: Callable[[ScheduleView], bool]) -> ScheduleView:
    end = time.monotonic() + 60
    while not holds(found := await schedules.show(which)):
        assert time.monotonic() < end, found
        await asyncio.sleep(0.1)
    return found


async def listed(schedules: Schedules) -> list[str]:
    """What is listed, once there is anything: the list lags."""
    end = time.monotonic() + 30
    while True:
        with suppress(Unreadable):
            if found := [row.name async for row in schedules.list()]:
                return found
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


@asynccontextmanager
async def made(schedules: Schedules, wanted: Plan, **options: object) -> AsyncGenerator[str]:
    """A schedule for the time of a test."""
    which = name()
    await schedules.create(which, wanted, **options)  # type: ignore[arg-type]
    try:
        yield which
    finally:
        await schedules.delete(which)


async def test_a_scheduled_run_is_started_as_any_other(engine: Engine, schedules: Schedules) -> None:
    """The same input, place in the queue, line in the UI and requester as a run that somebody starts; the time is in its id."""
    async with made(schedules, plan(engine)) as which:
        action = await schedules.trigger(which)
        assert isinstance(action, Action)
        assert action.workflow_id.startswith(f"{which}-20")
        by_clock = await engine.closed(action.workflow_id)
        other = await engine.start([final()], ticket="T-1002", requester="sam@example.com")
        by_hand = await engine.closed(other.id)
        own = {"run_id", "workflow_id", "admitted_at", "closed_at", "usage", "capability"}
        assert by_clock.model_dump(exclude=own) == by_hand.model_dump(exclude=own)
        first, second = [await engine.remit.describe(w) for w in (action.workflow_id, other.id)]
        assert (first.task_queue, await first.static_summary()) == (second.task_queue, await second.static_summary())
        assert await first.static_details() == await second.static_details()
        assert first.raw_info.priority == second.raw_info.priority
        (shown,) = (await schedules.show(which)).actions
        assert (shown.workflow_id, shown.status) == (action.workflow_id, "completed")


async def test_who_asked_for_the_schedule_approves_nothing_in_its_runs(engine: Engine, schedules: Schedules) -> None:
    """A run that waits for people does so, and somebody else than its requester decides."""
    async with made(schedules, plan(engine, [REFUND, final()])) as which:
        action = await schedules.trigger(which)
        assert isinstance(action, Action)
        waiting = await engine.pending(action.workflow_id)
        assert waiting.requester == "sam@example.com"
        assert (await schedules.show(which)).actions[0].status == "waiting_for_approval"
        await engine.decide(action.workflow_id, "ana")
        assert (await engine.closed(action.workflow_id)).status == "completed"


async def test_an_interval_starts_one_run_after_the_other(engine: Engine, schedules: Schedules) -> None:
    """Each with an id of its own, and none once it is paused."""
    each = plan(engine, cron="", every_seconds=1)
    async with made(schedules, each, overlap="allow-all") as which:
        found = await until(schedules, which, lambda s: s.started >= 3)
        await schedules.pause(which, "Enough.")
        assert len({a.workflow_id for a in found.actions}) == len(found.actions) >= 3
        paused = await schedules.show(which)
        assert (paused.paused, paused.note, paused.next_at) == (True, "Enough.", ())
        started = paused.started
        assert isinstance(await schedules.trigger(which), Action)
        assert (await schedules.show(which)).started == started + 1


async def test_an_open_run_keeps_the_next_from_starting(engine: Engine, schedules: Schedules) -> None:
    """By default one is skipped; nothing piles up behind a run that waits for people."""
    async with made(schedules, plan(engine, [REFUND, final()])) as which:
        action = await schedules.trigger(which)
        assert isinstance(action, Action)
        await engine.pending(action.workflow_id)
        assert await schedules.trigger(which) == "skipped"
        assert (await schedules.show(which)).skipped == 1
        await engine.remit.kill(action.workflow_id, "Tidy.")


async def test_a_drill_on_a_schedule_is_a_drill(engine: Engine, schedules: Schedules) -> None:
    """A gate has read its switch, open runs were told, the log has it with its figure, and nothing was stopped."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    await engine.pending(run.id)
    async with made(schedules, drill(engine)) as which:
        assert isinstance(await schedules.trigger(which), Action)
        found = await until(schedules, which, lambda s: s.actions[0].status == "completed")
        measured = found.actions[0].drill
        assert measured is not None
        assert (measured.found, measured.told, measured.in_flight) == (1, 1, 0)
        assert measured.gate_ms is not None and measured.effect_ms >= measured.gate_ms
    with engine.ledger.reading() as connection:
        log = switches.logged(connection)
        assert switches.current(connection) == []
    assert [(x.action, x.scope, x.by) for x in log] == [
        ("drill", "drill:fleet", "ana@example.com"),
        ("drilled", "drill:fleet", "ana@example.com"),
    ]
    assert log[-1].reason == f"took effect after {measured.effect_ms} ms"
    assert (await engine.remit.status(run.id)).status == "waiting_for_approval"
    await engine.remit.kill(run.id, "Tidy.")


async def refused(_: PlayDrill) -> DrillReport:
    raise Unavailable("No worker answers for the fleet.")


async def test_a_drill_that_failed_says_so(server: TemporalServer) -> None:
    """A kill that isn't acknowledged would have stopped nothing: the drill ends as failed, with the sentence of the command."""
    client, queue = await server.ready(), f"remit-{uuid.uuid4().hex[:8]}"
    activity = DrillActivities(refused).play_drill
    async with Worker(
        client, task_queue=f"{queue}-control", workflows=[KillDrill], activities=[activity], workflow_runner=runner()
    ):
        schedules = Schedules(client, queue)
        async with made(schedules, Plan(queue=queue, drill=PlayDrill(reason="Weekly."), cron=NEW_YEAR)) as which:
            await schedules.trigger(which)
            found = await until(schedules, which, lambda s: s.actions[0].status != "running")
            assert found.actions[0].said == "No worker answers for the fleet."
            assert (found.actions[0].status, found.actions[0].drill) == ("failed", None)
        junk = await client.start_workflow(KILL_DRILL, {"reason": ""}, id=name(), task_queue=f"{queue}-control")
        with pytest.raises(WorkflowFailureError) as caught:
            await junk.result()
        assert str(caught.value.__cause__).endswith(
            "The input of `KillDrill` can't be used: `reason` String should have at least 1 character."
        )


async def test_a_name_is_taken_once(engine: Engine, schedules: Schedules) -> None:
    """Whoever made the first one keeps it."""
    async with made(schedules, plan(engine)) as which:
        with pytest.raises(InvalidInput, match=f"^There is a schedule `{which}` in this namespace already; choose another"):
            await schedules.create(which, drill(engine))
        assert (await schedules.show(which)).plan.what == "billing-resolution"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"cron": "0 7 * *"}, "^The schedule can't be made: "),
        ({"time_zone": "Mars/Olympus"}, "^The schedule can't be made: .*Mars/Olympus"),
    ],
)
async def test_a_time_that_is_none_is_refused(
    engine: Engine, schedules: Schedules, changed: dict[str, str], sentence: str
) -> None:
    """The server says what is wrong with it, and makes no schedule."""
    which = name()
    with pytest.raises(InvalidInput, match=sentence):
        await schedules.create(which, plan(engine).model_copy(update=changed))
    with pytest.raises(NotFound, match=f"^There is no schedule `{which}`"):
        await schedules.show(which)


async def test_schedules_of_others_are_left_alone(engine: Engine, schedules: Schedules) -> None:
    """Neither those of another fleet on the namespace, nor what isn't Remit's, are shown, triggered or deleted."""
    plain = name()
    action = ScheduleActionStartWorkflow("Other", id=plain, task_queue="other")
    handle = await engine.client.create_schedule(plain, Schedule(action, ScheduleSpec(cron_expressions=[NEW_YEAR])))
    other = Schedules(engine.client, "another-fleet")
    async with (
        made(other, drill(engine).model_copy(update={"queue": "another-fleet"})) as theirs,
        made(schedules, plan(engine)) as mine,
    ):
        for which in (plain, theirs):
            for refuse in (
                schedules.show(which),
                schedules.trigger(which),
                schedules.delete(which),
                schedules.pause(which, "x"),
            ):
                with pytest.raises(NotFound, match=f"^`{which}` isn't a schedule of these workers"):
                    await refuse
        assert await listed(schedules) == [mine]
    await handle.delete()


async def test_with_the_codec_a_schedule_holds_no_inputs_in_plaintext(server: TemporalServer, home: Path) -> None:
    """What its runs work on, and who asked for them, is encrypted in the schedule too; those with the key see it."""
    plain = await server.ready()
    async with Engine(plain, home, overrides={"codec": True}) as engine:
        schedules = Schedules(engine.client, engine.settings.task_queue)
        keyless = Schedules(plain, engine.settings.task_queue)
        async with made(schedules, plan(engine)) as which:
            with pytest.raises(Unreadable):
                await keyless.show(which)
            assert await listed(schedules) == [which]
            with pytest.raises(Unreadable):
                assert [row async for row in keyless.list()]
            async with made(keyless, drill(engine)) as own:
                assert await listed(keyless) == [own]
            raw = (await engine.client.get_schedule_handle(which).describe()).raw_description.SerializeToString()
            assert b"billing-resolution" in raw  # the fairness key of its runs
            for secret in (b"T-1002", b"sam@example.com", b"ticket_id"):
                assert secret not in raw
            start = (await schedules.show(which)).plan.start
            assert start is not None and start.inputs == {"ticket_id": "T-1002"}
            action = await schedules.trigger(which)
            assert isinstance(action, Action)
            assert (await engine.closed(action.workflow_id)).status == "completed"
