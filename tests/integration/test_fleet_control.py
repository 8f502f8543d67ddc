"""FleetControl: what it is told is carried out once and in order, through junk, floods, crashes, and histories without end."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from activities.ledger import switches
from activities.ledger.store import Ledger, existing
from policies.control import ControlClaims, sign_control
from policies.errors import ControlRefused, KillSwitchEngaged, NotFound, RemitError
from policies.switches import FLEET, Scope
from remit.connection import CONVERTER
from remit.embedded import TemporalServer, WorkerProcess, free_port, temporal_binary
from remit.fleet import Fleet, audience
from tests.engine import Engine, call, final, turn
from workflows.fleet_messages import FLEET_CONTROL, Switched, control_queue, fleet_id

REFUND = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
AGENT = Scope.parse("agent:billing-resolution")
SMALL = 200
"""Events after which a history of the flood's server is full."""


@pytest.fixture
def fleet(engine: Engine) -> Fleet:
    return Fleet(engine.client, engine.settings.task_queue)


def control(engine: Engine) -> WorkflowHandle[object, object]:
    """FleetControl as anybody on the namespace reaches it."""
    return engine.client.get_workflow_handle(fleet_id(engine.settings.task_queue))


def current(ledger: Ledger) -> list[str]:
    with ledger.reading() as connection:
        return [s.scope for s in switches.current(connection)]


def actions(ledger: Ledger) -> list[tuple[str, str, str]]:
    with ledger.reading() as connection:
        return [(x.action, x.scope, x.by) for x in switches.logged(connection)]


def signed(engine: Engine, who: str, switched: Switched, **changed: object) -> str:
    """A release of `switched`, signed by `who`."""
    _, key = engine.issuer.key(who)
    now = int(time.time())
    claims: dict[str, object] = {
        "command": "unkill",
        "scope": switched.scope,
        "epoch": switched.epoch,
        "audience": audience(engine.client, engine.settings),
        "reason": "It was a false alarm.",
        "nonce": "n" * 12,
        "iat": now,
        "exp": now + 60,
        **changed,
    }
    return sign_control(ControlClaims.model_validate(claims), key)


# ---- killing and telling --------------------------------------------------------------------------------------------


async def test_a_run_that_is_told_writes_no_row_of_its_own(engine: Engine, fleet: Fleet) -> None:
    """It looks the switch up in the ledger, and closes with its reason, who set it, and its scope."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    await engine.pending(run.id)
    switched = await fleet.kill(AGENT, "wrong prices", by="ana")
    assert (await engine.remit.result(run.id)).outcome == "killed"
    kill = (await engine.remit.status(run.id)).kill
    assert (kill.reason, kill.by, kill.scope) == ("wrong prices", "ana", str(AGENT))
    assert (current(engine.ledger), kill.acknowledged_at) == ([str(AGENT)], switched.at // 1000)
    report = await fleet.report(switched)
    assert (report.found, report.told, report.reserved_after) == (1, 1, 0)


async def test_a_run_that_is_lied_to_about_a_switch_stops_all_the_same(engine: Engine) -> None:
    """Whoever may signal a run may kill it; without a switch in the ledger, it writes a row of its own before it says so."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    summary = await engine.pending(run.id)
    await run.signal("kill", {"reason": "so they say", "scope": "fleet", "epoch": 7})
    assert (await engine.remit.result(run.id)).outcome == "killed"
    assert current(engine.ledger) == [f"run:{summary.run_id}"]
    with pytest.raises(KillSwitchEngaged):
        engine.reserve(summary)


async def test_runs_of_another_queue_are_not_told(engine: Engine, fleet: Fleet, tmp_path: Path) -> None:
    """Two deployments may share a namespace: a fleet is what works on one task queue and one ledger."""
    async with Engine(engine.client, engine.home, overrides={"ledger_url": f"sqlite:///{tmp_path / 'other.db'}"}) as other:
        run = await other.start([REFUND, final()], ticket="T-1002")
        await other.pending(run.id)
        switched = await fleet.kill(FLEET, "stop")
        await fleet.report(switched)
        assert (await other.remit.status(run.id)).status == "waiting_for_approval"


async def test_a_report_says_what_came_of_writes_in_flight(engine: Engine, fleet: Fleet) -> None:
    """What was reserved or sent when the switch was set is followed to its end, or said to be open."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    summary = await engine.pending(run.id)
    sent, reserved = engine.reserve(summary), engine.reserve(summary)
    scope = [f"run:{summary.run_id}"]
    assert engine.ledger.sent(sent.idempotency_key, 1, scope)
    switched = await fleet.kill(FLEET, "stop")
    assert {*switched.in_flight} == {sent.idempotency_key, reserved.idempotency_key}
    assert not engine.ledger.sent(reserved.idempotency_key, 1, [*scope, "fleet"])
    engine.ledger.settle(sent.idempotency_key, "done", "{}")
    report = await fleet.report(switched)
    assert {e.key: e.outcome for e in report.effects} == {sent.idempotency_key: "done", reserved.idempotency_key: "refused"}


# ---- letting go -----------------------------------------------------------------------------------------------------


async def test_one_person_with_a_role_releases_an_agent(engine: Engine, fleet: Fleet) -> None:
    """The signed release deletes the row, is logged with who and why, and new runs begin; what was killed stays closed."""
    switched = await fleet.kill(AGENT, "stop", by="bo")
    released = await fleet.unkill(AGENT, signed(engine, "ana", switched))
    assert (released.status, released.by, current(engine.ledger)) == ("released", "ana@example.com", [])
    assert released.epoch > switched.epoch
    assert actions(engine.ledger) == [("kill", str(AGENT), "bo"), ("unkill", str(AGENT), "ana@example.com")]
    run = await engine.start([final()])
    assert (await engine.remit.result(run.id)).outcome == "completed"


async def test_the_fleet_takes_two_different_people(engine: Engine, fleet: Fleet) -> None:
    """One signature is recorded and releases nothing, given twice neither; a second person's does."""
    switched = await fleet.kill(FLEET, "stop")
    first = await fleet.unkill(FLEET, signed(engine, "ana", switched))
    assert (first.status, first.waits_for, current(engine.ledger)) == ("pending", 1, ["fleet"])
    with pytest.raises(ControlRefused, match="has signed already; somebody else must"):
        await fleet.unkill(FLEET, signed(engine, "ana", switched))
    assert (await fleet.unkill(FLEET, signed(engine, "bo", switched))).status == "released"
    assert current(engine.ledger) == []


async def test_a_signature_for_an_earlier_switch_counts_for_nothing(engine: Engine, fleet: Fleet) -> None:
    """Neither one release nor a first person's word carries over to a switch that is set later."""
    old = await fleet.kill(FLEET, "first")
    await fleet.unkill(FLEET, signed(engine, "ana", old))
    await fleet.unkill(FLEET, signed(engine, "bo", old))
    new = await fleet.kill(FLEET, "second")
    with pytest.raises(ControlRefused, match="for another switch"):
        await fleet.unkill(FLEET, signed(engine, "cleo", old))
    assert (await fleet.unkill(FLEET, signed(engine, "bo", new))).status == "pending"
    assert current(engine.ledger) == ["fleet"]


@pytest.mark.parametrize(
    ("who", "changed", "reason"),
    [
        ("sam", {}, "no_role"),
        ("ana", {"audience": "default/others"}, "other_audience"),
        ("ana", {"scope": "fleet"}, "other_switch"),
        ("ana", {"iat": 1, "exp": 2}, "signature_expired"),
    ],
)
async def test_what_proves_nothing_releases_nothing(
    engine: Engine, fleet: Fleet, who: str, changed: dict[str, object], reason: str
) -> None:
    """A person without a role, a signature for other workers or another switch, one that is over: the switch stays."""
    switched = await fleet.kill(AGENT, "stop")
    with pytest.raises(ControlRefused) as caught:
        await fleet.unkill(AGENT, signed(engine, who, switched, **changed))
    assert (caught.value.reason, current(engine.ledger)) == (reason, [str(AGENT)])


async def test_a_suspended_person_releases_nothing(engine: Engine, fleet: Fleet) -> None:
    """The directory is asked as it is now."""
    from activities.ledger import people

    switched = await fleet.kill(AGENT, "stop")
    people.set_standing(engine.ledger, "ana@example.com", suspended=True, reason="left", by="bo")
    with pytest.raises(ControlRefused) as caught:
        await fleet.unkill(AGENT, signed(engine, "ana", switched))
    assert (caught.value.reason, current(engine.ledger)) == ("unknown_key", [str(AGENT)])


# ---- parking --------------------------------------------------------------------------------------------------------


async def test_a_paused_run_waits_before_its_write_and_then_makes_it(engine: Engine, fleet: Fleet) -> None:
    """People approve while the agent is paused; the refund is made after `resume`, once, and never before."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    await engine.pending(run.id)
    paused = await fleet.pause(AGENT, "a look at the prompts", by="ana")
    await engine.until(run.id, lambda s: bool(s.pauses))
    await engine.decide(run.id, "ana")
    summary = await engine.until(run.id, lambda s: s.status == "paused")
    assert [(p.scope, p.reason, p.epoch) for p in summary.pauses] == [(str(AGENT), "a look at the prompts", paused.epoch)]
    assert engine.effects() == []
    await fleet.resume(AGENT, "fine", by="ana")
    assert (await engine.remit.result(run.id)).outcome == "completed"
    assert [e.state for e in engine.effects()] == ["done"]


async def test_a_run_that_begins_under_a_pause_parks_too(engine: Engine, fleet: Fleet) -> None:
    """Nobody told it: it was admitted so. It goes on with the others."""
    await fleet.pause(FLEET, "maintenance")
    run = await engine.start([final()])
    assert (await engine.until(run.id, lambda s: s.status == "paused")).usage.model_calls == 0
    await fleet.resume(FLEET, "done")
    assert (await engine.remit.result(run.id)).outcome == "completed"


async def test_the_gate_holds_a_run_that_was_not_told(engine: Engine) -> None:
    """A pause in the ledger alone stops a write; the run parks, and makes it when it is told that the pause is over."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    await engine.pending(run.id)
    with engine.ledger.begin() as connection:
        epoch = switches.pause(connection, str(AGENT), "quietly", "").epoch
    await engine.decide(run.id, "ana")
    await engine.until(run.id, lambda s: s.status == "paused")
    assert engine.effects() == []
    with engine.ledger.begin() as connection:
        ended = switches.resume(connection, str(AGENT), "over", "")
    await run.signal("resume", {"scope": str(AGENT), "reason": "over", "epoch": ended})
    assert (await engine.remit.result(run.id)).outcome == "completed"
    assert (epoch, [e.state for e in engine.effects()]) == (1, ["done"])


async def test_an_end_that_is_heard_of_before_its_pause_counts(engine: Engine) -> None:
    """Signals may cross: a pause whose end the run has heard of already holds nothing."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    await engine.pending(run.id)
    await run.signal("resume", {"scope": "fleet", "reason": "over", "epoch": 5})
    await run.signal("pause", {"scope": "fleet", "reason": "late", "epoch": 4})
    await engine.decide(run.id, "ana")
    assert (await engine.remit.result(run.id)).outcome == "completed"


async def test_a_paused_run_can_be_killed(engine: Engine, fleet: Fleet) -> None:
    """A pause doesn't shelter anybody from a switch."""
    await fleet.pause(FLEET, "maintenance")
    run = await engine.start([final()])
    await engine.until(run.id, lambda s: s.status == "paused")
    await fleet.kill(FLEET, "enough")
    assert (await engine.remit.result(run.id)).outcome == "killed"


# ---- the drill ------------------------------------------------------------------------------------------------------


async def test_a_drill_stops_nothing_and_is_written_down(engine: Engine, fleet: Fleet) -> None:
    """It sets a switch that the gate can read, tells the runs, and ends with what was measured; the run goes on."""
    run = await engine.start([REFUND, final()], ticket="T-1002")
    await engine.pending(run.id)
    switched = await fleet.kill(FLEET, "weekly", drill=True)
    assert (switched.scope, current(engine.ledger)) == ("drill:fleet", ["drill:fleet"])
    assert switched.gate_ms is not None
    report = await fleet.report(switched)
    assert (report.found, report.told) == (1, 1)
    await fleet.drilled(Scope.parse(switched.scope), 42, by="ana")
    with engine.ledger.reading() as connection:
        lines = switches.logged(connection)
    assert [(x.action, json.loads(x.detail).get("effect_ms")) for x in lines] == [("drill", None), ("drilled", 42)]
    await engine.decide(run.id, "ana")
    done = await engine.closed(run.id)
    assert (done.status, done.refused_total, [e.state for e in engine.effects()]) == ("completed", 0, ["done"])


# ---- floods, junk, crashes ------------------------------------------------------------------------------------------


async def test_junk_changes_nothing_and_is_counted(engine: Engine, fleet: Fleet) -> None:
    """Unknown names, wrong shapes, too many inputs, odd scopes: each is refused, and the next command works."""
    await fleet.kill(Scope.parse("tool:request_refund"), "stop")
    junk: list[tuple[str, list[object]]] = [
        ("unheard_of", [{"scope": "fleet", "reason": "x"}]),
        ("kill", [{"scope": "galaxy", "reason": "x"}]),
        ("kill", [{"scope": "drill:fleet", "reason": "x"}]),
        ("kill", [{"scope": "fleet"}]),
        ("kill", [{"scope": "fleet", "reason": ""}]),
        ("kill", ["fleet", "x"]),
        ("kill", []),
        ("kill", [b"\xff\xfe"]),
        ("kill", [{"scope": "agent:" + "x" * 300, "reason": "x"}]),
        ("pause", [{"scope": "tool:request_refund", "reason": "x"}]),
        ("unkill", [{"scope": "tool:request_refund", "control_jws": "a.b.c"}]),
    ]
    for name, args in junk:
        await control(engine).signal(name, args=args)
    await fleet.kill(Scope.parse("tool:draft_reply"), "stop")
    assert current(engine.ledger) == ["tool:request_refund", "tool:draft_reply"]
    found = await fleet.control()
    assert (found.refused_total, found.accepted) == (len(junk) - 1, {"kill": 2, "unkill": 1})
    for name, args in junk[:-1]:
        with pytest.raises(Exception):  # noqa: B017, PT011  (the server's or ours; what counts is that nothing changed)
            await control(engine).execute_update(name, args=args)  # pyright: ignore[reportUnknownMemberType]
    assert current(engine.ledger) == ["tool:request_refund", "tool:draft_reply"]


async def test_it_takes_no_input(engine: Engine) -> None:
    """A state of a stranger's making isn't a history of ours."""
    queue = engine.settings.task_queue
    handle = await engine.client.start_workflow(
        FLEET_CONTROL, {"switches": []}, id=fleet_id(queue), task_queue=control_queue(queue)
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert "`FleetControl` takes no input." in str(caught.value.__cause__)
    assert (await Fleet(engine.client, queue).kill(AGENT, "stop")).status == "engaged"


async def test_the_same_command_again_is_the_same_command(engine: Engine, fleet: Fleet) -> None:
    """A switch that is set already keeps its epoch, its reason and who set it."""
    first = await fleet.kill(AGENT, "first", by="ana")
    again = await fleet.kill(AGENT, "second", by="bo")
    assert (again.epoch, again.reason, again.by, again.at) == (first.epoch, "first", "ana", first.at)
    with pytest.raises(NotFound):
        await Fleet(engine.client, "nobody-works-here").control()


@pytest.fixture
async def flooded(home: Path) -> AsyncGenerator[Engine]:
    """An engine on a server whose histories are full after two hundred events."""
    extra = ["--dynamic-config-value", f"limit.historyCount.suggestContinueAsNew={SMALL}"]
    environment = await WorkflowEnvironment.start_local(  # pyright: ignore[reportUnknownMemberType]
        dev_server_existing_path=temporal_binary(), dev_server_extra_args=extra, data_converter=CONVERTER
    )
    async with environment, Engine(environment.client, home) as found:
        yield found


@pytest.mark.timeout(600)
async def test_ten_thousand_signals_lose_nothing(flooded: Engine) -> None:
    """Signals, every tenth of them junk, with updates in between, over many histories: each is carried out, or counted."""
    total, wave, fleet = 10_000, 500, Fleet(flooded.client, flooded.settings.task_queue, seconds=60)
    await fleet.kill(Scope.parse("tool:first"), "stop")
    handle, gate = control(flooded), asyncio.Semaphore(50)

    async def send(number: int) -> None:
        payload: object = {"scope": f"tool:t{number}", "reason": "flood"} if number % 10 else {"scope": 5}
        async with gate:
            await handle.signal("kill", payload)

    async def ask(number: int) -> None:
        assert (await fleet.kill(Scope.parse(f"tool:u{number}"), "asked")).status == "engaged"

    # In waves, for the server lets no history end while signals come in without a gap.
    for first in range(0, total, wave):
        await asyncio.gather(ask(first // wave), *(send(number) for number in range(first, first + wave)))
        async with asyncio.timeout(60):
            while (found := await fleet.control()).accepted["kill"] + found.refused_total < first + wave + 2 + first // wave:
                await asyncio.sleep(0.1)
            while (await fleet.control()).waiting:
                await asyncio.sleep(0.1)
    found = await fleet.control()
    good = {f"tool:t{n}" for n in range(total) if n % 10}
    assert {*current(flooded.ledger)} == good | {f"tool:u{n}" for n in range(total // wave)} | {"tool:first"}
    assert (found.accepted["kill"], found.refused_total) == (len(good) + 21, total // 10)
    assert (found.switches_total, found.histories > 5) == (len(good) + 21, True)
    assert len(actions(flooded.ledger)) == len(good) + 21


@pytest.mark.timeout(300)
async def test_a_killed_worker_and_a_restarted_server_lose_nothing(tmp_path: Path) -> None:
    """Commands come in while both workers are killed with SIGKILL, and the server too: each is carried out once."""
    server_home, home, port = tmp_path / "server", tmp_path / "home", free_port()
    home.mkdir()
    server = TemporalServer(server_home, port=port, headless=True)
    client = await server.ready()
    workers = [WorkerProcess(home, server.address, f"worker-{n}") for n in range(2)]
    fleet = Fleet(client, seconds=120)
    try:
        asked: list[str] = []

        async def command(number: int) -> None:
            asked.append(f"tool:t{number}")
            while True:
                try:
                    await fleet.kill(Scope.parse(asked[number]), "stop")
                    return
                except RemitError:
                    await asyncio.sleep(0.2)

        for number in range(4):
            await command(number)
        workers[0].kill()
        await command(4)
        workers[0] = WorkerProcess(home, server.address, "worker-2")
        workers[1].kill()
        await _send(client, "tool:sent")
        server.kill()
        server = TemporalServer(server_home, port=port, headless=True)
        client = await server.ready()
        fleet = Fleet(client, seconds=120)
        await command(5)
        async with asyncio.timeout(60):
            while (await fleet.control()).waiting:
                await asyncio.sleep(0.1)
        with existing(f"sqlite:///{home / 'ledger.db'}") as ledger:
            assert {*current(ledger)} == {*asked, "tool:sent"}
            done = [scope for _, scope, _ in actions(ledger)]
        assert sorted(done) == sorted({*done})
    finally:
        for worker in workers:
            worker.stop()
        server.stop()


async def _send(client: Client, scope: str) -> None:
    """A command by signal, as from the Temporal CLI, while nobody works."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await client.get_workflow_handle(fleet_id("remit")).signal("kill", {"scope": scope, "reason": "stop"})
            except RPCError:
                await asyncio.sleep(0.2)
