"""Makes the histories that `test_replay.py` replays: `python -m tests.replay.record`. Only real runs, never written by hand.

Each release has a folder of its own, which is left alone once it is released. Record again only when a scenario is added. A
history that today's code can't replay is what the test is there to find: then
the code needs `workflow.patched`, not the history a new recording.
"""

import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from activities.ledger import breaker, records, roots, usage
from activities.ledger.rows import Charge, Intent, RunRecord
from activities.releases import Releases
from policies.control import ControlClaims, sign_control
from policies.models import Money, ResourceRef
from policies.switches import FLEET, Scope
from remit import __version__
from remit.apps import assemble
from remit.demo import DEMO, Ticket, tickets
from remit.embedded import TemporalServer, WorkerProcess, free_port
from remit.fleet import Fleet, audience
from remit.proof.keeping import begin
from remit.schedules import Action, Plan, Schedules
from remit.scripts import read_script
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tools.connectors import sandbox
from workflows.fleet_messages import PlayDrill, fleet_id
from workflows.keeper_messages import KeeperState, keeper_id
from workflows.messages import RunResult, RunSummary, ScriptTurn
from workflows.rollout_messages import JudgeRollout, RolloutPause, RolloutStart

HISTORIES = Path(__file__).parent / "histories" / __version__
Run = WorkflowHandle[object, RunResult]


async def _nobody(engine: Engine, run: Run) -> None:
    """No person has anything to do."""


async def _one(engine: Engine, run: Run) -> None:
    await engine.pending(run.id)
    await engine.decide(run.id, "ana", reason="Checked both payments.")


async def _two(engine: Engine, run: Run) -> None:
    await _one(engine, run)
    await engine.decide(run.id, "bo", reason="Checked both payments too.")


async def _reject(engine: Engine, run: Run) -> None:
    await engine.pending(run.id)
    await engine.decide(run.id, "bo", "reject", reason="An annual plan is refunded within 30 days only.")


async def _kill(engine: Engine, run: Run) -> None:
    await engine.pending(run.id)
    await run.signal("decide", {"approver": "mallory"})
    await engine.remit.kill(run.id, "The customer called.", by="ana")


PEOPLE: dict[str, Callable[[Engine, Run], Awaitable[None]]] = {
    "one_approval": _one,
    "two_approvals": _two,
    "rejected": _reject,
    "run_killed": _kill,
}


@asynccontextmanager
async def _crashing(engine: Engine, address: str) -> AsyncGenerator[None]:
    """Workers in processes of their own, the first of which dies between the refund and its record."""
    sandbox.arm(engine.settings.business_path, "refund", "in_1011", "crash_after_commit")
    env = {"REMIT_TASK_QUEUE": engine.settings.task_queue, "REMIT_DEPLOYMENT": "none"}
    first = WorkerProcess(engine.home, address, "first", env)
    second = None
    try:
        while first.running:
            await asyncio.sleep(0.05)
        second = WorkerProcess(engine.home, address, "second", env)
        yield
    finally:
        first.stop()
        if second:
            second.stop()


async def _scenario(client: Client, address: str, home: Path, ticket: Ticket) -> None:
    script = read_script(f"{DEMO / 'scripts.json'}#{ticket.script}")
    crash = ticket.scenario == "worker_killed_once_only"
    async with Engine(client, home, working=not crash) as engine:
        run = await engine.start(script, ticket=ticket.ticket_id, agent=ticket.agent, requester="sam@example.com")
        if crash:
            async with _crashing(engine, address):
                await run.result()
        else:
            await PEOPLE.get(ticket.scenario, _nobody)(engine, run)
            await run.result()
        await _store(ticket.scenario, run)


async def _refused_start(client: Client, home: Path) -> None:
    async with Engine(client, home) as engine:
        run = await client.start_workflow("AgentRun", {"agent": 7}, id="refused-start", task_queue=engine.settings.task_queue)
        try:
            await run.result()
        except WorkflowFailureError:
            await _store("refused_start", run)


async def _continued(client: Client, home: Path) -> None:
    """The last segment of a run that continued as new, with the state of the ones before as its input."""
    refund = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
    async with Engine(client, home, overrides={"history_events": 80}) as engine:
        reads = [turn(call("search_kb", query=f"zzz{n}")) for n in range(9)]
        run = await engine.start([*reads, refund, final()], ticket="T-1002")
        await _one(engine, run)
        await run.result()
        await _store("continued", engine.remit.handle(run.id))


async def _waiting(client: Client, home: Path) -> None:
    """Both histories of a run that was flooded while it waited for people; the second one has the approval."""
    both = turn(
        call("request_refund", invoice_id="in_1006", amount_cents=74000, reason="service_issue"),
        call("draft_reply", ticket_id="T-1003", text="We are looking into it."),
    )
    async with Engine(client, home, overrides={"history_events": 80}) as engine:
        run = await engine.start([both, final()], ticket="T-1003")
        await engine.pending(run.id)
        await engine.decide(run.id, "ana")
        for n in range(12):
            await engine.remit.handle(run.id).signal("junk", n)
        while (await engine.remit.handle(run.id).describe()).run_id == run.first_execution_run_id:
            await asyncio.sleep(0.05)
        await engine.decide(run.id, "bo")
        await run.result()
        await _store("left_open", client.get_workflow_handle(run.id, run_id=run.first_execution_run_id))
        await _store("reopened", engine.remit.handle(run.id))


async def _edited(client: Client, home: Path) -> None:
    """An approval that ends with an edit, and the edited action approved by somebody else."""
    refund = turn(call("request_refund", invoice_id="in_1006", amount_cents=74000, reason="duplicate"))
    async with Engine(client, home) as engine:
        run = await engine.start([refund, final()], ticket="T-1003", requester="sam@example.com")
        await engine.pending(run.id)
        await engine.edit(run.id, "bo", amount_cents=30000)
        await engine.until(run.id, lambda s: len(s.approvals) == 2)
        await engine.decide(run.id, "ana")
        await run.result()
        await _store("edited", run)


async def _drafted(client: Client, home: Path) -> None:
    """Two proposals of an agent that only drafts, one accepted and one rejected."""
    drafter = _made(_made(_made(home / "app") / "agents") / "drafter")
    for file in (ROOT / "agents" / "billing-resolution").iterdir():
        text = (
            file.read_text().replace("billing-resolution@service", "drafter@service").replace('mode = "live"', 'mode = "draft"')
        )
        (drafter / file.name).write_text(text.replace('name = "billing-resolution"', 'name = "drafter"'))
    both = turn(
        call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"),
        call("draft_reply", ticket_id="T-1001", text="We are looking into it."),
    )
    async with Engine(client, home, overrides={"app": home / "app"}) as engine:
        run = await engine.start([both, final()], agent="drafter")
        first, second = [a.request.approval_id for a in (await engine.pending(run.id, 2)).approvals]
        await engine.decide(run.id, "ana", approval_id=first)
        await engine.decide(run.id, "bo", "reject", approval_id=second, reason="Too short.")
        await run.result()
        await _store("drafted", run)


async def _stopped_early(client: Client, home: Path) -> None:
    """A model that pauses, talks instead of ending, gives a wrong final answer, and is cut off at last."""
    look = turn(call("get_invoice", invoice_id="in_1002"))
    turns = [
        ScriptTurn(text="Let me think.", stop="pause"),
        look,
        turn(text="Done!"),
        turn(call("final_answer", outcome="great", summary="Done.")),
        ScriptTurn(text="The customer asks for", stop="length"),
        final(),
    ]
    async with Engine(client, home) as engine:
        run = await engine.start(turns)
        await run.result()
        await _store("model_stops", run)


async def _waited(client: Client, home: Path) -> None:
    """A run that waits for its provider, asks once more when it is told to, waits on, and is killed."""
    url = f"http://127.0.0.1:{free_port()}/v1"
    found = {"openai_base_url": url, "openai_api_key": SecretStr("k"), "model": "m"}
    prices = {"price_input_per_mtok": 1_000_000, "price_output_per_mtok": 1_000_000}
    async with Engine(client, home, overrides=found | prices) as engine:
        run = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
        await engine.until(run.id, lambda s: s.waiting is not None)
        await engine.remit.resume(run.id, "It is back.")
        await engine.until(run.id, lambda s: s.waiting is not None and s.waiting.tries == 2)
        await engine.remit.kill(run.id, "It wasn't.")
        await run.result()
        await _store("waited_for_provider", run)


async def _fleet(client: Client, home: Path) -> None:
    """What `FleetControl` is told, junk included, and a run that is parked, goes on and is then stopped by a switch."""
    refund = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
    async with Engine(client, home) as engine:
        fleet, agent = Fleet(client, engine.settings.task_queue), Scope.parse("agent:billing-resolution")
        control = client.get_workflow_handle(fleet_id(engine.settings.task_queue))
        await fleet.pause(agent, "A look at the prompts.", by="ana")
        run = await engine.start([refund, final()], ticket="T-1002")
        await engine.until(run.id, lambda s: s.status == "paused")
        await fleet.report(await fleet.resume(agent, "They are fine.", by="ana"))
        await engine.pending(run.id)
        drill = await fleet.kill(FLEET, "Weekly.", drill=True)
        await fleet.report(drill)
        await fleet.drilled(Scope.parse(drill.scope), 40)
        await control.signal("kill", {"scope": "galaxy"})
        await control.signal("kill", {"scope": "tool:draft_reply", "reason": "By signal."})
        await fleet.report(await fleet.kill(agent, "Wrong prices.", by="ana"))
        await run.result()
        await _store("told_of_a_switch", run)
        await _store("fleet_control", control)


async def _drill(client: Client, home: Path) -> None:
    """A drill as a schedule starts it."""
    async with Engine(client, home) as engine:
        schedules = Schedules(client, engine.settings.task_queue)
        wanted = PlayDrill(reason="Weekly.", by="ana@example.com")
        await schedules.create("drill", Plan(queue=engine.settings.task_queue, drill=wanted, cron="0 0 1 1 *"))
        action = await schedules.trigger("drill")
        assert isinstance(action, Action)
        drill: WorkflowHandle[object, object] = client.get_workflow_handle(action.workflow_id)
        await drill.result()
        await _store("kill_drill", drill)


async def _capped(client: Client, home: Path) -> None:
    """A run that finds no room under caps across runs when it begins, before it asks the model, reads, and writes."""
    file = home / "caps.toml"
    read = turn(call("get_invoice", invoice_id="in_1002"))
    refund = turn(call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"))

    async def cap(calls: int, tokens: int, on_cap: str = "wait") -> None:
        limits = f"tool_calls_per_day = {calls}\ntokens_per_day = {tokens}\non_cap = '{on_cap}'"
        file.write_text(f"[agents.billing-resolution]\n{limits}\n")
        await asyncio.sleep(1.2)  # the worker looks once a second

    file.write_text("")
    async with Engine(client, home, overrides={"caps": file}) as engine:

        async def held(calls: int) -> RunSummary:
            return await engine.until(run.id, lambda s: s.status == "paused" and len(s.calls) == calls)

        async def again() -> None:
            scope = "cap:agent:billing-resolution"
            await run.signal("resume", {"reason": "There is room.", "scope": scope})
            await engine.until(run.id, lambda s: all(p.scope != scope for p in s.pauses))

        await cap(1, 100_000)
        with engine.ledger.begin() as connection:
            for kind in ("tool", "model"):
                tokens = 60_000 if kind == "model" else 0
                taken = Charge(key=kind, kind=kind, run_id="other", agent="billing-resolution", tokens=tokens)
                usage.charge(connection, taken, ())
        run = await engine.start([read, refund, final()])
        await held(0)
        await cap(2, 60_001)
        await again()
        await held(0)
        await cap(1, 900_000)
        await again()
        await held(0)
        await cap(2, 900_000, "escalate")
        await again()
        parked = await held(1)
        await cap(3, 900_000)
        scope = Scope.parse(f"run:{parked.run_id}")
        await Fleet(client, engine.settings.task_queue).resume(scope, "There is room.", workflow_id=run.id)
        await run.result()
        await _store("capped", run)


async def _over_ceiling(client: Client, home: Path) -> None:
    """An agent whose outcomes cost too much: its run keeps to the cheaper model, and is refused what needs the other."""
    app = _made(home / "app")
    dear = _made(_made(app / "agents") / "dear")
    for file in (ROOT / "agents" / "billing-resolution").iterdir():
        text = file.read_text().replace("billing-resolution@service", "dear@service").replace("refunds_v7", "dear_v1")
        (dear / file.name).write_text(text.replace('name = "billing-resolution"', 'name = "dear"'))
    bundle = _made(_made(_made(app / "policies") / "bundles") / "dear_v1")
    for file in (ROOT / "policies" / "bundles" / "refunds_v7").iterdir():
        (bundle / file.name).write_text(file.read_text())
    with (bundle / "limits.toml").open("a") as limits:
        limits.write("\n[outcome]\nceiling_micro_usd = 400\nstop_percent = 100000\nminimum = 1\n")
    small, large = (
        turn(call("request_refund", invoice_id="in_1004", amount_cents=cents, reason="duplicate")) for cents in (1000, 8000)
    )
    async with Engine(client, home, overrides={"app": app}) as engine:
        at = int(time.time() * 1000)
        spent = {
            "started_at": at,
            "closed_at": at,
            "cost_micro_usd": 900,
            "outcome": "completed",
            "agent": "dear",
            "mode": "live",
        }
        names = dict.fromkeys(("run_id", "workflow_id", "release", "arm", "policy_version", "subject_tag"), "before")
        with engine.ledger.begin() as connection:
            assert records.keep(connection, RunRecord.model_validate({**names, **spent}))
        run = await engine.start([small, large, final("escalated")], agent="dear", ticket="T-1002")
        await run.result()
        await _store("over_ceiling", run)


async def _rolled_out(client: Client, home: Path) -> None:
    """An agent that shares its work with people: a case of theirs, what became of it, and what `FleetControl` was told."""
    async with Engine(client, home) as engine:
        fleet, name = Fleet(client, engine.settings.task_queue), "support-triage"
        parts = assemble(engine.settings)
        agent = Releases(parts.library, parts.corpora).stable(name)
        token = _signed(engine, "cleo", command="rollout_start", scope=f"agent:{name}", epoch=0, release=agent, people=True)
        await fleet.roll_out(RolloutStart(agent=name, control_jws=token))
        await fleet.roll_out(RolloutPause(agent=name, reason="Nobody is the agent's, so that this is a case of people's."))
        run = await engine.start([final()], agent=name)
        await run.result()
        await engine.remit.outcome(run.id, csat=4, reopened=False)
        await fleet.roll_out(JudgeRollout(agent=name))
        await _store("assigned_to_people", run)
        await _store("fleet_control_rollouts", client.get_workflow_handle(fleet_id(engine.settings.task_queue)))


def _signed(engine: Engine, who: str, **claims: object) -> str:
    """A command to the fleet, signed by `who`."""
    now, (_, key) = int(time.time()), engine.issuer.key(who)
    rest = {"audience": audience(engine.client, engine.settings), "reason": "As we do.", "nonce": "n" * 12}
    return sign_control(ControlClaims.model_validate({**claims, **rest, "iat": now, "exp": now + 60}), key)


async def _tripped(client: Client, home: Path) -> None:
    """The breaker trips over errors and over money, and a person puts the agent back."""
    async with Engine(client, home, overrides={"breaker_seconds": 1}) as engine:
        fleet, name = Fleet(client, engine.settings.task_queue), "billing-resolution"
        texts = ("workflow_id", "release", "arm", "mode", "policy_version", "subject_tag", "outcome")
        failing = {"run_id": "r1", "agent": name, "started_at": 0, "closed_at": 0, "tool_calls": 60, "errors": 60}
        intent = Intent(
            idempotency_key="k1",
            run_id="r1",
            workflow_id="w1",
            agent=name,
            tool="request_refund@1",
            resource=ResourceRef(type="Invoice", id="in_1"),
            subject="Customer:cus_1",
            amount=Money(cents=10_000_001, currency="USD"),
            action_digest="sha256:0",
            approvers=(),
            strategy="native_key",
        )
        engine.ledger.reserve(intent, ["fleet"], lambda _total, _mode: None)
        with engine.ledger.begin() as connection:
            records.keep(connection, RunRecord.model_validate({**dict.fromkeys(texts, ""), **failing}))
        await fleet.begin()
        while len((await fleet.control()).tripped) < 2:
            await asyncio.sleep(0.1)
        lowered = None
        while lowered is None:
            with engine.ledger.reading() as connection:
                lowered = breaker.override(connection, name)
        token = _signed(engine, "ana", command="put_back", scope=f"agent:{name}", epoch=lowered.epoch)
        await fleet.put_back(name, token)
        while (await fleet.control()).tripped:
            await asyncio.sleep(0.1)
        await _store("fleet_control_breaker", client.get_workflow_handle(fleet_id(engine.settings.task_queue)))


async def _store(name: str, run: WorkflowHandle[object, RunResult] | WorkflowHandle[object, object]) -> None:
    history = _impersonal(json.loads((await run.fetch_history()).to_json()))
    (HISTORIES / f"{name}.json").write_text(json.dumps(history, indent=1) + "\n")


def _impersonal(value: Any) -> Any:
    """A history without the names of the machine that it was recorded on: identities and sticky queues are `PID@HOST…`."""
    if isinstance(value, dict):
        return {k: _impersonal(v) for k, v in cast(dict[str, Any], value).items() if k != "stackTrace"}
    if isinstance(value, list):
        return [_impersonal(v) for v in cast(list[Any], value)]
    return "recorder" if isinstance(value, str) and re.match(r"\d+@", value) else value


async def _kept(client: Client, home: Path) -> None:
    """A keeper that seals a run, whose worker then stops and is followed by another."""
    async with Engine(client, home, overrides={"seal_seconds": 0.1}) as engine:
        queue = engine.settings.task_queue
        await engine.run([final()])
        await begin(client, queue)
        keeper: WorkflowHandle[object, object] = client.get_workflow_handle(keeper_id(queue))
        while True:
            with engine.ledger.reading() as connection:
                if roots.last(connection, client.namespace)[0]:
                    break
            await asyncio.sleep(0.1)
        await engine.rest()
        await engine.work()
        while (await keeper.query("keeper", result_type=KeeperState)).sealed < 1:
            await asyncio.sleep(0.1)
        await _store("trace_keeper", keeper)


async def record() -> None:
    HISTORIES.mkdir(parents=True, exist_ok=True)
    business = json.loads((DEMO / "business.json").read_text())
    with tempfile.TemporaryDirectory(prefix="remit-record-") as folder:

        def home(name: str) -> Path:
            path = Path(folder) / name
            sandbox.create(_made(path) / "business.db", business)
            return path

        server = TemporalServer(Path(folder) / "server", headless=True)
        try:
            client = await server.ready()
            for ticket in tickets():
                if ticket.scenario:
                    await _scenario(client, server.address, home(ticket.scenario), ticket)
                    print(ticket.scenario, flush=True)
            await _refused_start(client, home("refused_start"))
            await _edited(client, home("edited"))
            await _drafted(client, home("drafted"))
            await _stopped_early(client, home("stopped_early"))
            await _waited(client, home("waited"))
            await _continued(client, home("continued"))
            await _waiting(client, home("waiting"))
            await _fleet(client, home("fleet"))
            await _drill(client, home("drill"))
            await _capped(client, home("capped"))
            await _over_ceiling(client, home("over_ceiling"))
            await _rolled_out(client, home("rolled_out"))
            await _tripped(client, home("tripped"))
            await _kept(client, home("kept"))
        finally:
            server.stop()


def _made(path: Path) -> Path:
    path.mkdir()
    return path


if __name__ == "__main__":
    asyncio.run(record())
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)
