"""The anomaly breaker at work: it looks by itself, keeps the numbers, steps agents down or stops them; people put them back."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from activities.ledger import breaker
from activities.ledger.rows import TripRecord
from policies.control import ControlClaims, sign_control
from policies.errors import ControlRefused, PolicyInvalid
from remit.embedded import TemporalServer
from remit.fleet import Fleet, audience
from tests.builders import ANA
from tests.engine import Engine, call, final, turn
from workflows.fleet_messages import fleet_id

AGENT = "billing-resolution"
REFUND = turn(call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"))


def rule(library: Path, text: str) -> None:
    """Give the agent's bundle one rule, instead of those that it has."""
    path = library / "policies" / "bundles" / "refunds_v7" / "limits.toml"
    others = path.read_text().partition("\n[[breaker]]")[0]
    path.write_text(f"{others}\n[[breaker]]\n{text}\n")


@pytest.fixture
async def watched(library: Path, server: TemporalServer, home: Path) -> AsyncGenerator[Engine]:
    """An engine whose breaker looks each second; it begins to look once `Fleet.begin` was called."""
    del library
    async with Engine(await server.ready(), home, overrides={"breaker_seconds": 1}, working=False) as found:
        yield found


async def trips(engine: Engine, count: int = 1) -> list[TripRecord]:
    """The trips, once there are so many."""
    for _ in range(300):
        with engine.ledger.reading() as connection:
            found = breaker.recorded(connection)
        if len(found) >= count:
            return list(found)
        await asyncio.sleep(0.1)
    raise AssertionError("it didn't trip")


def put_back(engine: Engine, who: str, **changed: object) -> str:
    _, key = engine.issuer.key(who)
    now = int(time.time())
    with engine.ledger.reading() as connection:
        lowered = breaker.override(connection, AGENT)
    claims: dict[str, object] = {
        "command": "put_back",
        "scope": f"agent:{AGENT}",
        "epoch": lowered.epoch if lowered else 0,
        "audience": audience(engine.client, engine.settings),
        "reason": "They were all due.",
        "nonce": "n" * 12,
        "iat": now,
        "exp": now + 60,
        **changed,
    }
    return sign_control(ControlClaims.model_validate(claims), key)


async def test_too_much_money_steps_the_agent_down(watched: Engine, library: Path) -> None:
    """The trip has the numbers that caused it; the next run is admitted as a draft; a person puts the agent back."""
    rule(library, 'measure = "moved_cents"\nwindow_minutes = 60\nlimit = 4000\naction = "step_down"')
    await watched.work()
    fleet = Fleet(watched.client, watched.settings.task_queue)
    await fleet.begin()
    assert (await watched.run([REFUND, final()])).mode == "live"
    [trip] = await trips(watched)
    assert (trip.agent, trip.action, trip.mode_before, trip.mode_after) == (AGENT, "step_down", "live", "draft")
    assert (trip.value, json.loads(trip.figures)["moved_cents"], json.loads(trip.rule)["limit"]) == (4900, 4900, 4000)
    assert (await watched.run([final()])).mode == "draft"
    control = await fleet.control()
    assert list(control.tripped) == [f"{AGENT}/moved_cents/60m/step_down"]

    for wrong in ({"scope": "agent:another"}, {"epoch": 99}, {"command": "unkill"}):
        with pytest.raises(ControlRefused, match="for another agent|not for `put_back`"):
            await fleet.put_back(AGENT, put_back(watched, ANA, **wrong))
    with pytest.raises(ControlRefused, match="has no role"):
        await fleet.put_back(AGENT, put_back(watched, "sam@example.com"))
    found = await fleet.put_back(AGENT, put_back(watched, ANA))
    assert (found.status, found.mode) == ("put_back", "draft")
    assert (await watched.run([final()])).mode == "live"
    [settled] = await trips(watched)
    assert (settled.put_back_by, settled.put_back_reason) == (ANA, "They were all due.")
    again = await fleet.put_back(AGENT, put_back(watched, ANA))
    assert again.status == "unchanged"


async def test_a_rule_may_stop_the_agent(watched: Engine, library: Path) -> None:
    """It sets the off switch of the agent, as a person would, and says why."""
    rule(library, 'measure = "repeated_rate"\nwindow_minutes = 60\nlimit = 0.2\nminimum = 2\naction = "kill"')
    await watched.work()
    await Fleet(watched.client, watched.settings.task_queue).begin()
    same = [turn(call("search_kb", query="refund")) for _ in range(2)]
    await watched.run([*same, final()])
    [trip] = await trips(watched)
    assert trip.value == 0.5
    while (switch := watched.ledger.switched([f"agent:{AGENT}"])[0]) is None:
        await asyncio.sleep(0.1)
    assert (switch.set_by, switch.reason) == ("breaker", "repeated_rate was 0.5 within 60 min, above 0.2")


async def test_a_warning_changes_nothing(watched: Engine, library: Path) -> None:
    """It is kept, once, and the agent goes on as before."""
    rule(library, 'measure = "moved_cents"\nwindow_minutes = 60\nlimit = 0\naction = "warn"')
    await watched.work()
    fleet = Fleet(watched.client, watched.settings.task_queue)
    await fleet.begin()
    await watched.run([REFUND, final()])
    [trip] = await trips(watched)
    assert (trip.action, trip.mode_after) == ("warn", "live")
    looked = (await fleet.control()).looked_at
    while (await fleet.control()).looked_at <= looked + 1000:
        await asyncio.sleep(0.1)
    assert len(await trips(watched)) == 1
    assert (await watched.run([final()])).mode == "live"


async def test_nobody_else_can_say_that_a_rule_tripped(watched: Engine) -> None:
    """The numbers in a trip are the breaker's own."""
    await watched.work()
    fleet = Fleet(watched.client, watched.settings.task_queue)
    await fleet.begin()
    handle = watched.client.get_workflow_handle(fleet_id(watched.settings.task_queue))
    await handle.signal("trip", {"reading": {}, "at": 0})
    while not (control := await fleet.control()).refused_total:
        await asyncio.sleep(0.05)
    assert (control.refused[0].name, control.refused[0].reason) == ("trip", "unknown_command")


def test_a_rule_that_cannot_be_used_is_refused(library: Path) -> None:
    """A bundle with a measure that doesn't exist, or the same rule twice, says so."""
    from activities.library import Library
    from tools.builtin import CATALOG

    rule(library, 'measure = "mood"\nwindow_minutes = 60\nlimit = 1\naction = "warn"')
    with pytest.raises(PolicyInvalid, match=r"`breaker\.0\.measure`"):
        Library([library], CATALOG).bundle("refunds_v7").limits()
    twice = 'measure = "error_rate"\nwindow_minutes = 60\nlimit = 1\naction = "warn"'
    rule(library, f"{twice}\n[[breaker]]\n{twice}")
    with pytest.raises(PolicyInvalid, match="two rules of the breaker"):
        Library([library], CATALOG).bundle("refunds_v7").limits()


async def test_an_open_run_is_held_to_the_step_down(watched: Engine) -> None:
    """Its next write is judged by the lower mode, beside the side effect: a draft needs a person, a reader writes nothing."""
    await watched.work()
    large = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
    reply = turn(call("draft_reply", ticket_id="T-1002", text="Done."))
    run = await watched.start([large, reply, reply, final()], ticket="T-1002")
    assert (await watched.pending(run.id)).mode == "live"
    with watched.ledger.begin() as connection:
        breaker.step_down(connection, AGENT, "draft", "too much", "breaker")
    await watched.decide(run.id, ANA, "reject", reason="No.")
    waiting = await watched.until(run.id, lambda s: len(s.approvals) == 2)
    assert waiting.approvals[1].request.proposal
    with watched.ledger.begin() as connection:
        breaker.step_down(connection, AGENT, "read_only", "still too much", "breaker")
    await watched.decide(run.id, ANA)
    await watched.closed(run.id)
    assert [code for code, _ in await watched.errors(run.id)] == ["rejected", "mode_read_only", "mode_read_only"]
    assert not watched.ledger.effects(run.id, "done")
