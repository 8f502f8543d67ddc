"""Autonomy modes over the real server, under a bundle whose Cedar permits every write outright: the mode alone holds."""

import io
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from rich.console import Console
from temporalio.client import WorkflowHandle

import worker
from activities.ledger import breaker, proposals
from activities.ledger.rows import ProposalRecord
from activities.providers.base import Completion, ModelProvider, ModelRequest
from activities.providers.scripted import ScriptedProvider
from policies.autonomy import BY_DRAFT
from policies.errors import ApprovalRefused
from policies.models import AutonomyMode
from remit import render
from remit.approvals import Today
from remit.apps import assemble
from remit.embedded import TemporalServer
from tests.builders import ANA
from tests.engine import Engine, call, final, turn
from workflows.messages import RunResult, RunSummary
from workflows.turn import Turn

PERMIT = '@id("all") permit (principal, action, resource);\n'
SMALL = call("request_refund", invoice_id="in_1002", amount_cents=100, reason="duplicate")
REPLY = call("draft_reply", ticket_id="T-1001", text="We are looking into it.")
Run = WorkflowHandle[object, RunResult]


@pytest.fixture
def permissive(library: Path) -> Path:
    """The library, with a bundle that permits everything to anybody, so that only the agent's mode stands in between."""
    policy = library / "policies" / "bundles" / "refunds_v7" / "policy.cedar"
    policy.write_text(PERMIT)
    return library


def put_in(library: Path, mode: str) -> None:
    """Give `billing-resolution` this mode."""
    agent = library / "agents" / "billing-resolution" / "agent.toml"
    assert 'mode = "live"' in agent.read_text()
    agent.write_text(agent.read_text().replace('mode = "live"', f'mode = "{mode}"'))


def kept(engine: Engine, run_id: str) -> list[ProposalRecord]:
    """What the ledger says that people made of the run's proposals."""
    with engine.ledger.reading() as connection:
        return proposals.of_run(connection, run_id)


def fates(engine: Engine, run: RunSummary) -> list[tuple[str, str]]:
    return sorted((p.decision, p.by) for p in kept(engine, run.run_id))


async def keeping(engine: Engine, run: Run) -> int:
    """How many events of the run's history are about keeping proposals."""
    found = 0
    async for event in engine.remit.handle(run.id).fetch_history_events():
        found += b"record_proposal" in event.SerializeToString()
    return found


def printed(*parts: object) -> str:
    out = Console(file=io.StringIO(), width=200)
    out.print(*parts)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


# ---- live -----------------------------------------------------------------------------------------------------------


async def test_a_live_agent_does_what_its_policy_permits(permissive: Path, engine: Engine) -> None:
    """Nobody is asked and nothing is kept of proposals, for there are none."""
    run = await engine.start([turn(SMALL, REPLY), final()])
    done = await engine.closed(run.id)
    assert ([c.status for c in done.calls], done.approvals, done.mode) == (["done", "done"], (), "live")
    assert (kept(engine, done.run_id), await keeping(engine, run)) == ([], 0)


async def test_what_a_live_agent_must_ask_for_is_no_proposal(engine: Engine) -> None:
    """An approval that the policy asks for says nothing about drafts, and costs no event more than before."""
    large = call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate")
    run = await engine.start([turn(large), final()], ticket="T-1002")
    assert not (await engine.pending(run.id)).approvals[0].request.proposal
    await engine.decide(run.id, "ana")
    done = await engine.closed(run.id)
    assert (kept(engine, done.run_id), await keeping(engine, run)) == ([], 0)


# ---- draft ----------------------------------------------------------------------------------------------------------


async def test_each_write_of_a_draft_agent_is_a_proposal(permissive: Path, engine: Engine) -> None:
    """Though the policy permits it, nothing happens until one person accepts it; then it does, and that is kept: one event."""
    put_in(permissive, "draft")
    run = await engine.start([turn(SMALL), final()])
    parked = await engine.pending(run.id)
    [asked] = [a.request for a in parked.approvals]
    assert (asked.required, asked.policy_ids, asked.proposal) == (1, (BY_DRAFT,), True)
    assert asked.roles == ("refund-approver",)
    assert (engine.rows("refunds"), engine.effects()) == ([], [])
    await engine.decide(run.id, "ana")
    done = await engine.closed(run.id)
    assert ([c.status for c in done.calls], [a.status for a in done.approvals]) == (["done"], ["consumed"])
    assert [r["amount_cents"] for r in engine.rows("refunds")] == [100]
    [row] = kept(engine, done.run_id)
    assert (row.decision, row.by, row.agent, row.tool) == ("approved", ANA, "billing-resolution", "request_refund@1")
    assert (row.action_digest, row.workflow_id) == (asked.action_digest, run.id)
    assert asked.requested_at * 1000 == row.put_at <= row.decided_at
    assert await keeping(engine, run) == 1


async def test_a_draft_agent_reads_by_itself(permissive: Path, engine: Engine) -> None:
    """Only what changes something is proposed."""
    put_in(permissive, "draft")
    done = await engine.run([turn(call("get_invoice", invoice_id="in_1002")), final()])
    assert ([c.status for c in done.calls], done.approvals) == (["done"], ())


@pytest.mark.parametrize("who", ["cleo", "sam"])
async def test_only_approvers_accept_a_proposal(permissive: Path, engine: Engine, who: str) -> None:
    """The roles of the bundle decide who accepts, as with every approval."""
    put_in(permissive, "draft")
    run = await engine.start([turn(SMALL), final()])
    await engine.pending(run.id)
    with pytest.raises(ApprovalRefused, match="has none of the roles that may decide here: refund-approver."):
        await engine.decide(run.id, who)
    assert engine.effects() == []


async def test_a_rejected_proposal_goes_back_to_the_model(permissive: Path, engine: Engine) -> None:
    """With the reason; it counts as decided and not accepted."""
    put_in(permissive, "draft")
    run = await engine.start([turn(SMALL), final()])
    await engine.pending(run.id)
    await engine.decide(run.id, "ana", "reject", reason="It was paid once only.")
    done = await engine.closed(run.id)
    assert await engine.errors(run.id) == [("rejected", f"{ANA} rejected this: It was paid once only.")]
    assert (fates(engine, done), engine.effects()) == ([("rejected", ANA)], [])


async def test_an_edited_proposal_was_not_accepted_as_it_was(permissive: Path, engine: Engine) -> None:
    """Who edits decides on the agent's proposal; the new action is theirs, needs somebody else, and isn't counted again."""
    put_in(permissive, "draft")
    run = await engine.start([turn(SMALL), final()])
    await engine.pending(run.id)
    await engine.edit(run.id, "ana", amount_cents=50)
    after = await engine.until(run.id, lambda s: len(s.approvals) == 2)
    assert after.approvals[1].request.edited_by == (ANA,)
    await engine.decide(run.id, "bo")
    done = await engine.closed(run.id)
    assert [r["amount_cents"] for r in engine.rows("refunds")] == [50]
    assert fates(engine, done) == [("edited", ANA)]


async def test_a_proposal_that_nobody_decides_expires(permissive: Path, engine: Engine) -> None:
    """It is kept as that, and says nothing about the agent."""
    put_in(permissive, "draft")
    limits = permissive / "policies" / "bundles" / "refunds_v7" / "limits.toml"
    text = limits.read_text().partition("[[approvals.escalation]]")[0]
    limits.write_text(text.replace("approval_seconds = 86400", "approval_seconds = 1"))
    done = await engine.run([turn(SMALL), final()])
    assert [code for code, _ in await engine.errors(done.workflow_id)] == ["approval_expired"]
    assert (fates(engine, done), engine.effects()) == ([("expired", "")], [])


async def test_a_kill_decides_nothing(permissive: Path, engine: Engine) -> None:
    """A proposal that waited when the run was stopped was neither accepted nor rejected."""
    put_in(permissive, "draft")
    run = await engine.start([turn(SMALL), final()])
    await engine.pending(run.id)
    await engine.remit.kill(run.id, "enough")
    done = await engine.closed(run.id)
    assert (done.status, fates(engine, done), engine.effects()) == ("killed", [], [])


async def test_where_the_policy_asks_for_two_people_a_proposal_needs_both(library: Path, engine: Engine) -> None:
    """The mode adds to the policy, and takes nothing from it."""
    put_in(library, "draft")
    large = call("request_refund", invoice_id="in_1006", amount_cents=74000, reason="service_issue")
    run = await engine.start([turn(large), final()], ticket="T-1003")
    [asked] = [a.request for a in (await engine.pending(run.id)).approvals]
    assert (asked.required, asked.proposal) == (2, True)
    assert (await engine.decide(run.id, "ana")).status == "pending"
    await engine.decide(run.id, "bo")
    done = await engine.closed(run.id)
    assert (len(engine.rows("refunds")), fates(engine, done)) == (1, [("approved", "ana@example.com,bo@example.com")])


async def test_what_the_policy_denies_nobody_is_asked_about(permissive: Path, engine: Engine) -> None:
    """A denial stays one: people can't accept what the policy forbids."""
    put_in(permissive, "draft")
    policy = permissive / "policies" / "bundles" / "refunds_v7" / "policy.cedar"
    policy.write_text(PERMIT + '@id("none") forbid (principal, action == Remit::Action::"request_refund", resource);\n')
    done = await engine.run([turn(SMALL), final()])
    assert await engine.errors(done.workflow_id) == [("denied", "Policy: forbidden by none.")]
    assert (done.approvals, kept(engine, done.run_id)) == ((), [])


async def test_people_see_that_it_is_a_proposal(permissive: Path, engine: Engine) -> None:
    """In the inbox and where the run is shown; and today's policy, which would let it pass, isn't taken to ask for nobody."""
    put_in(permissive, "draft")
    run = await engine.start([turn(SMALL), final()])
    parked = await engine.pending(run.id)
    [waiting] = parked.approvals
    assert "request_refund@1 (a draft agent's proposal)" in printed(render.approvals([(run.id, waiting)]))
    shown = printed(*render.show(parked))
    assert "request_refund@1 Invoice:in_1002 (a draft agent's proposal)" in shown
    assert "billing-resolution, mode draft" in shown
    (permissive / "policies" / "bundles" / "refunds_v7" / "policy.cedar").write_text(f"// Changed.\n{PERMIT}")
    assert Today(assemble(engine.settings, permissive)).otherwise(parked, waiting) is None


@pytest.fixture
async def rolling(server: TemporalServer, home: Path) -> AsyncGenerator[Engine]:
    """An engine whose runs go on in a new history after about five turns."""
    async with Engine(await server.ready(), home, overrides={"history_events": 80}) as found:
        yield found


async def test_proposals_are_kept_across_histories(permissive: Path, rolling: Engine) -> None:
    """Of two, one is decided before the run goes on in a new history and one after; both are in the ledger, once each."""
    put_in(permissive, "draft")
    run = await rolling.start([turn(SMALL, REPLY), final()])
    first, second = [a.request.approval_id for a in (await rolling.pending(run.id, 2)).approvals]
    await rolling.decide(run.id, "ana", approval_id=first)
    handle = rolling.remit.handle(run.id)
    for n in range(40):
        await handle.signal("junk", n)
    await rolling.until(run.id, lambda s: s.refused_total == 40)
    assert (await run.describe()).run_id != run.first_execution_run_id
    await rolling.decide(run.id, "bo", "reject", approval_id=second, reason="Not so.")
    done = await rolling.closed(run.id)
    assert fates(rolling, done) == [("approved", ANA), ("rejected", "bo@example.com")]
    assert (len(rolling.rows("refunds")), rolling.rows("reply_drafts")) == (1, [])


# ---- read_only ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "offered"), [("read_only", False), ("draft", True), ("live", True)])
async def test_only_a_read_only_agent_has_no_tools_that_write(
    permissive: Path, server: TemporalServer, home: Path, monkeypatch: pytest.MonkeyPatch, mode: str, offered: bool
) -> None:
    """What the model is offered, and what it is told of its mode."""
    asked: list[ModelRequest] = []

    class Listening(ScriptedProvider):
        async def complete(self, request: ModelRequest) -> Completion:
            asked.append(request)
            return await super().complete(request)

    def providers(*_: object) -> dict[str, ModelProvider]:
        return {"scripted": Listening()}

    monkeypatch.setattr(worker, "_providers", providers)
    put_in(permissive, mode)
    async with Engine(await server.ready(), home) as engine:
        await engine.run([final()])
    [request] = asked
    names = {t.name for t in request.tools}
    assert names >= {"get_invoice", "final_answer"}
    assert ({"request_refund", "draft_reply", "set_customer_email"} <= names) is offered
    assert not offered or "set_customer_email" in names
    assert (f"You are in {mode} mode" in request.system) is (mode != "live")


async def test_a_write_that_a_read_only_agent_makes_up_is_refused(permissive: Path, engine: Engine) -> None:
    """Though the policy permits it: nobody is asked, the business isn't either, and the model is told to recommend it."""
    put_in(permissive, "read_only")
    made_up = call("request_refund", invoice_id="in_404404", amount_cents=100, reason="duplicate")
    done = await engine.run([turn(SMALL, made_up), final()])
    told = "This agent is in `read_only` mode and changes nothing; recommend it in `final_answer` instead."
    assert await engine.errors(done.workflow_id) == [("mode_read_only", told)] * 2
    assert ([str(c.amount) for c in done.calls], done.approvals) == (["$1.00", "$1.00"], ())
    assert (engine.rows("refunds"), engine.effects()) == ([], [])


# ---- beside the write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "code"), [("read_only", "mode_read_only"), ("draft", "approval_required")])
async def test_a_workflow_that_forgets_the_mode_gets_no_capability(
    permissive: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, mode: str, code: str
) -> None:
    """G1: the worker derives the verdict again before it mints anything for a write."""
    put_in(permissive, mode)
    monkeypatch.setattr(Turn, "mode", "live")
    done = await engine.run([turn(SMALL), final()])
    assert [found for found, _ in await engine.errors(done.workflow_id)] == [code]
    assert (engine.rows("refunds"), engine.effects()) == ([], [])


def step_down(engine: Engine, mode: AutonomyMode) -> None:
    """From now on, the agent may do no more by itself than `mode`, as the anomaly breaker or a person wants it."""
    with engine.ledger.begin() as connection:
        breaker.step_down(connection, "billing-resolution", mode, "Too much.", "breaker")


async def test_a_live_agent_that_is_stepped_down_asks_for_its_next_write(permissive: Path, engine: Engine) -> None:
    """It was admitted as `live`, and is parked then: its next write becomes a proposal, and so does what comes after."""
    run = await engine.start([turn(call("search_kb", query="refund")), turn(SMALL), turn(REPLY), final()])
    await engine.remit.handle(run.id).signal("pause", {"reason": "A look."})
    assert (await engine.until(run.id, lambda s: s.status == "paused")).mode == "live"
    step_down(engine, "draft")
    await engine.remit.handle(run.id).signal("resume", {"reason": "Seen."})
    parked = await engine.pending(run.id)
    assert (parked.approvals[0].request.proposal, parked.mode, engine.effects()) == (True, "draft", [])
    await engine.decide(run.id, "ana")
    await engine.until(run.id, lambda s: len(s.approvals) == 2)
    assert (len(engine.rows("refunds")), engine.rows("reply_drafts")) == (1, [])
    await engine.decide(run.id, "bo", "reject", reason="Not needed.")
    done = await engine.closed(run.id)
    assert ([c.status for c in done.calls if c.idempotency_key], fates(engine, done)) == (
        ["done", "refused"],
        [("approved", ANA), ("rejected", "bo@example.com")],
    )


async def test_an_agent_that_is_stepped_down_to_reading_writes_nothing_more(permissive: Path, engine: Engine) -> None:
    """Not even what people had accepted before."""
    put_in(permissive, "draft")
    run = await engine.start([turn(SMALL), final()])
    await engine.pending(run.id)
    step_down(engine, "read_only")
    await engine.decide(run.id, "ana")
    done = await engine.closed(run.id)
    assert [code for code, _ in await engine.errors(run.id)] == ["mode_read_only"]
    assert (done.status, engine.rows("refunds"), engine.effects()) == ("completed", [], [])
