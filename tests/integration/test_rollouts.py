"""Rollouts through the real engine: arms, gates, signatures, people's cases, pinned runs, and histories without end."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from activities.ledger import outcomes, records, rollouts
from activities.ledger.rows import RunRecord
from activities.library import Library
from activities.releases import Releases
from activities.rollouts import RolloutActivities
from policies.control import ControlClaims, sign_control
from policies.errors import ControlRefused, InvalidInput
from policies.rollout import Arm, Rollout, position
from policies.switches import Scope
from remit.connection import CONVERTER
from remit.directory import LiveDirectory
from remit.embedded import TemporalServer, temporal_binary
from remit.fleet import Fleet, audience
from tests.engine import Engine, call, final, turn
from tools.builtin import CATALOG
from tools.connectors.corpus import Corpora
from workflows.fleet_messages import ApplyRollouts, Order
from workflows.rollout_messages import (
    JudgeRollout,
    RecordOutcome,
    RolledOut,
    RolloutAbort,
    RolloutPause,
    RolloutPromote,
    RolloutStart,
)

AGENT = "billing-resolution"
TICKETS = {f"T-10{n:02}": f"Customer:cus_1{n:02}" for n in range(1, 11)}
REFUND = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
GATES = """
[gates]
indicators = ["escalation", "csat"]
checkpoints = [100, 200]
minimum_runs = 20
minimum_values = 20
"""
SAMPLE = 100


@pytest.fixture
def beside(library: Path) -> Path:
    """The folder of a candidate with a prompt of its own, and gates that a test can meet."""
    folder = library / "agents" / AGENT / "candidate"
    folder.mkdir()
    (folder / "prompt.md").write_text("The candidate's prompt.")
    limits = library / "policies" / "bundles" / "refunds_v7" / "limits.toml"
    limits.write_text(limits.read_text() + GATES)
    return folder


@pytest.fixture
async def engine(server: TemporalServer, home: Path, beside: Path) -> AsyncGenerator[Engine]:
    async with Engine(await server.ready(), home) as found:
        yield found


@pytest.fixture
def fleet(engine: Engine) -> Fleet:
    return Fleet(engine.client, engine.settings.task_queue)


@pytest.fixture
def releases(library: Path) -> Releases:
    found = Library([library], CATALOG)
    return Releases(found, Corpora(*found.corpora))


def kept(engine: Engine) -> Rollout | None:
    with engine.ledger.reading() as connection:
        return rollouts.found(connection, AGENT)


def claims(engine: Engine, command: str, **changed: object) -> ControlClaims:
    now, found = int(time.time()), kept(engine)
    return ControlClaims.model_validate(
        {
            "command": command,
            "scope": f"agent:{AGENT}",
            "epoch": found.epoch if found else 0,
            "audience": audience(engine.client, engine.settings),
            "reason": "It is better.",
            "nonce": secrets.token_hex(8),
            "iat": now,
            "exp": now + 60,
            **changed,
        }
    )


def signed(engine: Engine, who: str, command: str, **changed: object) -> str:
    _, key = engine.issuer.key(who)
    return sign_control(claims(engine, command, **changed), key)


async def start(engine: Engine, fleet: Fleet, releases: Releases, *, people: bool = False, who: str = "ana") -> RolledOut:
    candidate = releases.candidate(AGENT, people=people)
    assert candidate
    token = signed(engine, who, "rollout_start", release=releases.definition(candidate), people=people)
    return await fleet.roll_out(RolloutStart(agent=AGENT, control_jws=token))


async def promote(engine: Engine, fleet: Fleet, *, who: str = "ana", **changed: object) -> RolledOut:
    return await fleet.roll_out(RolloutPromote(agent=AGENT, control_jws=signed(engine, who, "rollout_promote", **changed)))


def at(engine: Engine, stage: int) -> Rollout:
    """The rollout at `stage`, with a salt under which some of the tickets' customers are in and some are out."""
    found = kept(engine)
    assert found
    salt = next(
        salt
        for salt in map(str, range(1000))
        if 3 <= sum(position(salt, subject) < stage / 100 for subject in TICKETS.values()) <= 7
    )
    with engine.ledger.begin() as connection:
        return rollouts.save(connection, found.model_copy(update={"stage": stage, "salt": salt}), "promote")


def ticket(rollout: Rollout, *, inside: bool) -> str:
    """A ticket of a customer who is in the candidate's share, or isn't."""
    return next(t for t, subject in TICKETS.items() if (position(rollout.salt, subject) < rollout.stage / 100) is inside)


def ran(engine: Engine, arm: Arm, count: int, **changed: object) -> None:
    """Records of runs that have closed since the stage began."""
    now = int(time.time()) * 1000
    with engine.ledger.begin() as connection:
        for _ in range(count):
            name = secrets.token_hex(8)
            fields = {"run_id": name, "workflow_id": name, "agent": AGENT, "release": "r", "arm": arm, "mode": "live"}
            rest = {"policy_version": "p", "subject_tag": "", "outcome": "completed", "started_at": now, "closed_at": now}
            figures = {"cost_micro_usd": 1000, "first_response_ms": 1000}
            assert records.keep(connection, RunRecord.model_validate({**fields, **rest, **figures, **changed}))


def satisfied(engine: Engine, arm: Arm, csat: int) -> None:
    """Every customer of an arm says how satisfied they are."""
    with engine.ledger.begin() as connection:
        for run in records.of_agent(connection, AGENT, 0):
            if run.arm == arm:
                outcomes.record(connection, run.run_id, {"csat": csat}, "", secrets.token_hex(8))


async def record_of(engine: Engine, workflow_id: str) -> RunRecord:
    with engine.ledger.reading() as connection:
        found = outcomes.run_of(connection, workflow_id)
    assert found
    return found


# ---- arms -----------------------------------------------------------------------------------------------------------


async def test_an_agent_without_a_rollout_runs_as_ever(engine: Engine) -> None:
    """No arm, no candidate, whoever the customer is, though one lies in the folder; its release is in the ledger."""
    run = await engine.run([final()])
    assert (run.status, run.arm, run.stage) == ("completed", "", 0)
    assert (await record_of(engine, run.workflow_id)).arm == "agent"
    capsule = await engine.remit.handle(run.workflow_id).query("capsule")
    assert capsule["prompt"] != "The candidate's prompt."
    with engine.ledger.reading() as connection:
        [seen] = rollouts.releases_of(connection, AGENT)
    assert seen.digest == run.release


async def test_subjects_get_the_release_of_their_arm(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """The candidate's share runs under its prompt, the rest under the stable one, each recorded under its release."""
    begun = await start(engine, fleet, releases)
    assert begun.rollout and (begun.rollout.stage, begun.rollout.by) == (1, "ana@example.com")
    now = at(engine, 50)
    seen: dict[str, tuple[str, str]] = {}
    for inside in (True, False):
        run = await engine.run([final()], ticket=ticket(now, inside=inside))
        capsule = await engine.remit.handle(run.workflow_id).query("capsule")
        found = await record_of(engine, run.workflow_id)
        assert (found.release, found.arm) == (run.release, run.arm)
        seen[run.arm] = (str(capsule["prompt"]), run.release)
    assert {arm: prompt == "The candidate's prompt." for arm, (prompt, _) in seen.items()} == {
        "candidate": True,
        "stable": False,
    }
    assert seen["candidate"][1] != seen["stable"][1]


async def test_people_get_the_cases_that_the_agent_does_not(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """A run for one of them ends at once, without a model call or a capability, and leaves a record for the comparison."""
    await start(engine, fleet, releases, people=True)
    now = at(engine, 20)
    run = await engine.run([REFUND, final()], ticket=ticket(now, inside=False))
    assert (run.status, run.arm, run.usage.model_calls) == ("assigned", "human", 0)
    assert run.summary == "This case is for people: the rollout of the agent gives it 20 % of the subjects, and not this one."
    assert (engine.effects(), engine.ledger.capabilities(run.run_id)) == ([], [])
    found = await record_of(engine, run.workflow_id)
    assert (found.arm, found.outcome) == ("human", "assigned")
    other = await engine.run([final()], ticket=ticket(now, inside=True))
    assert (other.status, other.arm) == ("completed", "candidate")
    said = await engine.remit.outcome(run.workflow_id, csat=5, cost_usd=4.5, first_response_seconds=90, by="bo")
    assert (said.status, said.arm) == ("recorded", "human")
    with engine.ledger.reading() as connection:
        _, people = outcomes.figures(connection, now)
    assert (people.runs, people.csat, people.cost_micro_usd, people.first_response_ms) == (1, (5,), (4_500_000,), (90_000,))


async def test_an_open_run_keeps_its_release(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """A run of the candidate that waits for people ends as it began, though the rollout was aborted meanwhile."""
    await start(engine, fleet, releases)
    now = at(engine, 50)
    mine = next(t for t, s in TICKETS.items() if s == "Customer:cus_102")
    with engine.ledger.begin() as connection:
        salt = next(s for s in map(str, range(1000)) if position(s, "Customer:cus_102") < 0.5)
        rollouts.save(connection, now.model_copy(update={"salt": salt}), "promote")
    run = await engine.start([REFUND, final()], ticket=mine)
    before = await engine.pending(run.id)
    await fleet.roll_out(RolloutAbort(agent=AGENT, reason="Enough."))
    await engine.decide(run.id, "ana")
    after = await engine.closed(run.id)
    assert (after.status, after.arm, after.release) == ("completed", "candidate", before.release)
    assert [e.state for e in engine.effects()] == ["done"]
    assert (await engine.run([final()], ticket=mine)).arm == "stable"


# ---- signatures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "changed", "reason"),
    [
        ("sam", {}, "no_role"),
        ("dana", {}, "wrong_role"),
        ("ana", {"scope": "agent:support-triage"}, "other_agent"),
        ("ana", {"command": "unkill"}, "other_command"),
        ("ana", {"command": "rollout_promote"}, "other_command"),
        ("ana", {"audience": "default/others"}, "other_audience"),
        ("ana", {"release": "sha256:other"}, "other_release"),
        ("ana", {"epoch": 7}, "other_rollout"),
        ("ana", {"iat": 1, "exp": 2}, "signature_expired"),
    ],
)
async def test_what_proves_nothing_starts_nothing(
    engine: Engine, fleet: Fleet, releases: Releases, who: str, changed: dict[str, object], reason: str
) -> None:
    """Who has no role for it, what is signed for something else, or for another release than the worker has."""
    candidate = releases.candidate(AGENT, people=False)
    assert candidate
    given = {"command": "rollout_start", "release": releases.definition(candidate), **changed}
    _, key = engine.issuer.key(who)
    token = sign_control(claims(engine, **given), key)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ControlRefused) as caught:
        await fleet.roll_out(RolloutStart(agent=AGENT, control_jws=token))
    assert (caught.value.reason, kept(engine)) == (reason, None)


async def test_a_signature_for_a_rollout_releases_no_switch(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """What somebody signed for one command counts for no other, though scope and epoch fit."""
    switched = await fleet.kill(Scope.parse(f"agent:{AGENT}"), "stop")
    token = signed(engine, "ana", "rollout_promote", epoch=switched.epoch)
    with pytest.raises(ControlRefused) as caught:
        await fleet.unkill(Scope.parse(f"agent:{AGENT}"), token)
    assert caught.value.reason == "other_command"


async def test_a_promotion_counts_once(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """Given again, a signature that led from one stage to the next leads nowhere."""
    await start(engine, fleet, releases)
    passing(engine)
    token = signed(engine, "ana", "rollout_promote")
    assert (await fleet.roll_out(RolloutPromote(agent=AGENT, control_jws=token))).status == "promoted"
    passing(engine)
    with pytest.raises(ControlRefused) as caught:
        await fleet.roll_out(RolloutPromote(agent=AGENT, control_jws=token))
    assert caught.value.reason == "other_rollout"


# ---- gates ----------------------------------------------------------------------------------------------------------


def passing(engine: Engine) -> None:
    """As many runs of both arms as the gates ask for, alike."""
    for arm in ("candidate", "stable"):
        ran(engine, arm, SAMPLE)
        satisfied(engine, arm, 4)


async def test_a_promotion_is_refused_until_the_gates_passed(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """Without enough cases the candidate stays where it is, and the sentence says why; nobody's signature changes that."""
    await start(engine, fleet, releases)
    with pytest.raises(ControlRefused) as caught:
        await promote(engine, fleet)
    assert caught.value.reason == "gates"
    assert caught.value.message.startswith(f"`{AGENT}` stays at 1 %, which hasn't been judged yet. ")
    passing(engine)
    raised = await promote(engine, fleet)
    assert raised.rollout and (raised.rollout.stage, raised.rollout.judged, raised.rollout.passed) == (5, (), False)
    with pytest.raises(ControlRefused):
        await promote(engine, fleet)  # what happened at the stage before says nothing of this one


async def test_all_stages_lead_to_the_end(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """At 100 % the rollout is done: everybody gets the candidate, in no arm, and nothing more can be promoted."""
    await start(engine, fleet, releases)
    for stage in (5, 20, 50, 100):
        passing(engine)
        raised = await promote(engine, fleet)
        assert raised.rollout and raised.rollout.stage == stage
    assert raised.rollout.status == "done"
    assert raised.notes == (
        f"New runs take the candidate from its own folder; move it into `agents/{AGENT}/` before you prepare another.",
    )
    run = await engine.run([final()])
    capsule = await engine.remit.handle(run.workflow_id).query("capsule")
    assert (run.arm, capsule["prompt"]) == ("", "The candidate's prompt.")
    with pytest.raises(ControlRefused, match=f"The rollout of `{AGENT}` is done"):
        await promote(engine, fleet)
    with pytest.raises(ControlRefused, match="What was promoted last isn't in `agents/billing-resolution/` yet"):
        await start(engine, fleet, releases)


async def test_a_candidate_that_escalates_more_is_aborted(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """The gates need nobody for that: whoever looks finds it aborted, with the figures that did it."""
    await start(engine, fleet, releases)
    ran(engine, "candidate", SAMPLE, outcome="escalated")
    ran(engine, "stable", SAMPLE)
    with pytest.raises(ControlRefused) as caught:
        await promote(engine, fleet)
    assert caught.value.reason == "not_running"
    assert caught.value.message.startswith(f"The rollout of `{AGENT}` is aborted, by the gates: ")
    found = kept(engine)
    assert found and (found.status, found.weight) == ("aborted", 0)
    assert (await engine.run([final()])).arm == "stable"


async def test_dissatisfied_customers_pause_a_rollout(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """Two points of CSAT less: the outcome that shows it pauses the rollout, and its sender hears so."""
    await start(engine, fleet, releases)
    ran(engine, "candidate", SAMPLE)
    ran(engine, "stable", SAMPLE)
    satisfied(engine, "candidate", 2)
    satisfied(engine, "stable", 5)
    with engine.ledger.reading() as connection:
        one = next(r for r in records.of_agent(connection, AGENT, 0) if r.arm == "candidate")
    said = await fleet.roll_out(RecordOutcome(workflow_id=one.workflow_id, csat=2, by="ana"))
    assert said.rollout and (said.status, said.rollout.status, said.rollout.by) == ("recorded", "paused", "the gates")
    assert said.findings
    assert (await engine.run([final()])).arm == "stable"
    going = await start(engine, fleet, releases, who="bo")
    assert going.rollout and (going.status, going.rollout.stage, going.rollout.status) == ("resumed", 1, "running")
    assert going.rollout.judged == said.rollout.judged


async def test_a_look_shows_the_figures_of_both_arms(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """`remit rollout show`: where it stands, what the arms came to, what the gates found, as `remit control` knows it too."""
    await start(engine, fleet, releases)
    passing(engine)
    found = await fleet.roll_out(JudgeRollout(agent=AGENT))
    assert found.rollout and found.rollout.passed
    assert found.candidate and found.baseline
    assert (found.candidate.runs, found.baseline.runs, found.candidate.csat, found.candidate.cost_usd) == (
        SAMPLE,
        SAMPLE,
        4,
        0.001,
    )
    assert [r.model_dump(exclude={"epoch"}) for r in (await fleet.control()).rollouts] == [
        found.rollout.model_dump(exclude={"epoch"})
    ]
    again = await fleet.roll_out(JudgeRollout(agent=AGENT))
    assert again.rollout == found.rollout


async def test_an_order_that_is_carried_out_again_does_nothing(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """A worker that died after its commit does it all again: one promotion, one word on a case, and the same answers."""
    await start(engine, fleet, releases)
    passing(engine)
    run = await engine.run([final()])
    found = LiveDirectory(engine.settings, engine.ledger)
    worker = RolloutActivities(engine.ledger, releases, found, audience(engine.client, engine.settings))
    token = signed(engine, "ana", "rollout_promote")
    bodies = {
        "rollout_promote": RolloutPromote(agent=AGENT, control_jws=token),
        "outcome": RecordOutcome(workflow_id=run.workflow_id, csat=3),
        "rollout_pause": RolloutPause(agent=AGENT, reason="A look."),
    }
    orders = tuple(Order(id=f"order-{name}", name=name, body=body.model_dump_json()) for name, body in bodies.items())
    first, again = [await worker.apply_rollouts(ApplyRollouts(orders=orders)) for _ in range(2)]
    found.close()
    assert [a.status for a in first.outcomes] == ["promoted", "recorded", "paused"]
    assert [(a.status, a.rollout) for a in again.outcomes] == [(a.status, a.rollout) for a in first.outcomes]
    assert again.rollouts == first.rollouts
    with engine.ledger.reading() as connection:
        assert [x.action for x in rollouts.logged(connection)] == ["start", "judged", "promote", "pause"]


# ---- what lowers a share --------------------------------------------------------------------------------------------


async def test_anybody_may_pause_and_abort(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """New runs go to the baseline at once; a paused rollout goes on where it was, an aborted one begins anew."""
    await start(engine, fleet, releases)
    now = at(engine, 50)
    inside = ticket(now, inside=True)
    paused = await fleet.roll_out(RolloutPause(agent=AGENT, reason="A look.", by="sam"))
    assert paused.rollout and (paused.rollout.status, paused.rollout.by) == ("paused", "sam")
    assert (await engine.run([final()], ticket=inside)).arm == "stable"
    with pytest.raises(ControlRefused, match=f"The rollout of `{AGENT}` is paused at 50 %; nothing was changed."):
        await fleet.roll_out(RolloutPause(agent=AGENT, reason="Again."))
    await start(engine, fleet, releases)
    assert (await engine.run([final()], ticket=inside)).arm == "candidate"
    await fleet.roll_out(RolloutAbort(agent=AGENT, reason="Worse."))
    assert (await engine.run([final()], ticket=inside)).arm == "stable"
    with pytest.raises(ControlRefused, match="is aborted; nothing was changed."):
        await fleet.roll_out(RolloutAbort(agent=AGENT, reason="Again."))
    again = await start(engine, fleet, releases)
    assert again.rollout and (again.status, again.rollout.stage, again.rollout.salt == now.salt) == ("started", 1, False)


async def test_a_running_rollout_is_not_started_again(engine: Engine, fleet: Fleet, releases: Releases) -> None:
    """Its share would begin anew, and its comparison with it."""
    await start(engine, fleet, releases)
    with pytest.raises(ControlRefused, match=f"The rollout of `{AGENT}` is running at 1 % already."):
        await start(engine, fleet, releases)


async def test_a_candidate_that_changed_is_not_promoted(engine: Engine, fleet: Fleet, releases: Releases, beside: Path) -> None:
    """What passed the gates isn't what would be promoted."""
    await start(engine, fleet, releases)
    passing(engine)
    (beside / "prompt.md").write_text("Changed by hand.")
    with pytest.raises(ControlRefused, match="The candidate in its folder isn't what was started"):
        await promote(engine, fleet)


# ---- what became of cases -------------------------------------------------------------------------------------------


async def test_an_outcome_must_be_of_a_closed_run(engine: Engine, fleet: Fleet) -> None:
    """A run that doesn't exist has none; one of an agent has no cost but the ledger's; an odd number is no satisfaction."""
    with pytest.raises(ControlRefused, match="The ledger has no closed run `nothing`; `remit runs` lists them."):
        await engine.remit.outcome("nothing", csat=4)
    with pytest.raises(InvalidInput, match="`csat` Input should be less than or equal to 5"):
        await engine.remit.outcome("nothing", csat=7)
    with pytest.raises(InvalidInput, match="it says nothing of what became of the run"):
        await engine.remit.outcome("nothing")
    run = await engine.run([final()])
    with pytest.raises(ControlRefused, match="are known; they are said of people's"):
        await engine.remit.outcome(run.workflow_id, cost_usd=1.0)
    assert (await engine.remit.outcome(run.workflow_id, csat=4, reopened=False)).arm == "agent"


async def test_agents_that_were_never_rolled_out_have_nothing_to_show(engine: Engine, fleet: Fleet) -> None:
    """One sentence, which names the command that begins it."""
    sentence = "Agent `support-triage` was never rolled out; `remit rollout start` begins it."
    for command in (
        JudgeRollout(agent="support-triage"),
        RolloutPause(agent="support-triage", reason="x"),
        RolloutAbort(agent="support-triage", reason="x"),
    ):
        with pytest.raises(ControlRefused) as caught:
            await fleet.roll_out(command)
        assert caught.value.message == sentence


# ---- histories without end ------------------------------------------------------------------------------------------


@pytest.fixture
async def small(home: Path, beside: Path) -> AsyncGenerator[Engine]:
    """An engine on a server whose histories are full after two hundred events."""
    extra = ["--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=200"]
    environment = await WorkflowEnvironment.start_local(  # pyright: ignore[reportUnknownMemberType]
        dev_server_existing_path=temporal_binary(), dev_server_extra_args=extra, data_converter=CONVERTER
    )
    async with environment, Engine(environment.client, home) as found:
        yield found


@pytest.mark.timeout(300)
async def test_rollouts_outlive_the_histories_of_fleet_control(small: Engine, releases: Releases) -> None:
    """It goes on in new histories; where each rollout stands goes with it, and what is told there is carried out once."""
    fleet = Fleet(small.client, small.settings.task_queue, seconds=60)
    begun = await start(small, fleet, releases)
    run = await small.run([final()])
    for number in range(60):
        await fleet.roll_out(RecordOutcome(workflow_id=run.workflow_id, csat=1 + number % 5))
    async with asyncio.timeout(120):
        while (found := await fleet.control()).histories < 2:
            await fleet.roll_out(JudgeRollout(agent=AGENT))
    assert begun.rollout and found.rollouts[0].salt == begun.rollout.salt
    with small.ledger.reading() as connection:
        assert outcomes.said_of(connection, run.run_id).csat == 5
        assert [line.action for line in rollouts.logged(connection)] == ["start"]
    assert (await fleet.roll_out(RolloutAbort(agent=AGENT, reason="Enough."))).status == "aborted"
