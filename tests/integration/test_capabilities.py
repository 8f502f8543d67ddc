"""Authority of whole runs: what was minted for them, what history holds of it, and who can't do without."""

import asyncio
import json
import secrets
import time
import uuid
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.capabilities import Capabilities
from activities.ledger.store import Capability
from policies.approvals import action_digest
from policies.capability import Grant, sign
from policies.errors import ToolRefusal, Unavailable
from policies.models import Money
from remit.embedded import TemporalServer
from tests.engine import Engine, call, final, turn
from tools.builtin import CATALOG
from workflows.action import action_of
from workflows.messages import Capsule, ToolOutcome

SMALL = turn(call("request_refund", invoice_id="in_1002", amount_cents=2500, reason="duplicate"))
READ = turn(call("get_invoice", invoice_id="in_1002"))
OTHER = turn(call("request_refund", invoice_id="in_1001", amount_cents=2600, reason="duplicate"))  # over $50 with SMALL


async def test_each_write_rests_on_a_capability_of_its_own(engine: Engine) -> None:
    """One for the run's reads, one for each write, minted after its approval; the ledger says which effect used which."""
    run = await engine.start([READ, SMALL, OTHER, final()])
    await engine.pending(run.id)
    assert [c.kind for c in engine.ledger.capabilities()] == ["run", "write"]  # none yet for what waits
    await engine.decide(run.id, "ana")
    done = await engine.closed(run.id)
    assert [c.status for c in done.calls] == ["done", "done", "done"]
    reads, small, other = engine.ledger.capabilities(done.run_id)
    assert (reads.kind, reads.idempotency_key, reads.ceiling_cents) == ("run", "", 0)
    assert [(c.resource, c.ceiling_cents, c.currency) for c in (small, other)] == [
        ("Invoice:in_1002", 2500, "USD"),
        ("Invoice:in_1001", 2600, "USD"),
    ]
    assert {(e.capability, e.idempotency_key) for e in engine.effects()} == {(c.id, c.idempotency_key) for c in (small, other)}


async def test_history_holds_no_token_and_no_key(engine: Engine) -> None:
    """Nobody who reads a run's history finds anything to use: no token, no private key."""
    run = await engine.start([READ, SMALL, OTHER, final()])
    await engine.decide((await engine.pending(run.id)).workflow_id, "ana")
    await engine.closed(run.id)
    exported = await run.fetch_history()
    found = exported.to_json() + "".join(
        payload.decode("utf-8", "replace") for event in exported.events for payload in [event.SerializeToString()]
    )
    secret_values = [c.token for c in engine.ledger.capabilities()]
    secret_values += [k["private"] for k in json.loads(engine.settings.root_keys_path.read_text())]
    secret_values += [json.loads(p.read_text())["d"] for p in (engine.home / "keys").glob("*.json")]
    assert len(secret_values) >= 8
    assert engine.ledger.capabilities()[0].id in found
    assert [s for s in secret_values if s in found] == []


async def test_a_capability_for_reads_is_minted_anew_before_it_ends(server: TemporalServer, home: Path) -> None:
    """A run may go on for days; what it holds at any time ends within minutes."""
    async with Engine(await server.ready(), home, overrides={"capability_seconds": 30}) as engine:
        done = await engine.run([READ, READ, final()])
        assert [c.status for c in done.calls] == ["done", "done"]
        # At admission, and before each turn that calls tools: less than a minute is left.
        assert [c.kind for c in engine.ledger.capabilities(done.run_id)] == ["run"] * 3


async def test_a_run_whose_capability_was_revoked_reads_and_writes_nothing(engine: Engine) -> None:
    """Its next write is refused, for the facts that it would be judged by may not be read."""
    run = await engine.start([SMALL, OTHER, READ, SMALL, final()])
    parked = await engine.pending(run.id)
    engine.ledger.revoke(engine.ledger.capabilities(parked.run_id)[0].id, "ana@example.com", "stop this")
    await asyncio.sleep(1.1)  # a worker may take a read for permitted a second longer
    await engine.decide(run.id, "ana", "reject", reason="no")
    done = await engine.closed(run.id)
    assert [(c.status, c.reason) for c in done.calls][2:] == [("refused", "capability_revoked"), ("refused", "unavailable")]
    assert len(engine.rows("refunds")) == 1


async def test_no_write_is_reserved_once_the_run_s_authority_was_revoked(engine: Engine) -> None:
    """A write for which a capability was minted before is refused by the transaction that would reserve it."""
    run = await engine.start([SMALL, OTHER, final()])
    parked = await engine.pending(run.id)
    reads, write = engine.ledger.capabilities(parked.run_id)
    again = engine.reserve(parked, write.id)
    assert again.state == "reserved"
    engine.ledger.revoke(reads.id, "ana@example.com", "stop this")
    with pytest.raises(ToolRefusal, match="was revoked"):
        engine.reserve(parked, write.id)
    await engine.decide(run.id, "ana")
    done = await engine.closed(run.id)
    assert [(c.status, c.reason) for c in done.calls] == [("done", ""), ("refused", "capability_revoked")]


async def test_the_ledger_counts_the_writes_of_a_run(library: Path, engine: Engine) -> None:
    """The bundle's ceiling holds beside the write, whatever the workflow has counted."""
    limits = library / "policies/bundles/refunds_v7/limits.toml"
    limits.write_text(limits.read_text().replace("per_run = 20", "per_run = 1"))
    reply = turn(call("draft_reply", ticket_id="T-1001", text="Done."))
    done = await engine.run([SMALL, reply, final()])
    assert [(c.status, c.reason) for c in done.calls] == [("done", ""), ("refused", "too_many_writes")]
    assert engine.rows("reply_drafts") == []


@pytest.mark.parametrize(("late", "status", "reason", "refunds"), [(1, "done", "", 1), (99, "refused", "unavailable", 0)])
async def test_a_check_that_took_too_long_is_no_refusal(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, late: int, status: str, reason: str, refunds: int
) -> None:
    """The next attempt checks again; only after the last one is the write refused, and then nothing was written."""
    check, left = Capabilities.check_write, [None] * late

    def slow(self: Capabilities, *given: Any) -> None:
        if left:
            left.pop()
            raise Unavailable("The capability couldn't be checked in time.")
        check(self, *given)

    monkeypatch.setattr(Capabilities, "check_write", slow)
    done = await engine.run([SMALL, final()])
    assert [(c.status, c.reason) for c in done.calls] == [(status, reason)]
    assert len(engine.rows("refunds")) == refunds
    assert [e.state for e in engine.effects()] == ["done"] * refunds


# ---- others who may run workflows in the namespace ----------------------------------------------------------------------


@workflow.defn(name="AgentRun", sandboxed=False)
class Impostor:
    """What somebody with access to the namespace can run: it calls our activities and answers for itself."""

    @workflow.run
    async def run(self, capsule: dict[str, Any], calls: list[tuple[str, dict[str, Any]]]) -> list[Any]:
        self._capsule = capsule
        found: list[Any] = []
        for name, given in calls:
            try:
                found.append(
                    await workflow.execute_activity(
                        name,
                        given,
                        task_queue=str(workflow.memo_value("queue", type_hint=str)),
                        start_to_close_timeout=timedelta(seconds=20),
                    )
                )
            except Exception as e:
                found.append(str(e.__cause__))
        return found

    @workflow.query
    def capsule(self) -> dict[str, Any]:
        return self._capsule


async def impostor(engine: Engine, capsule: Capsule, calls: Sequence[tuple[str, dict[str, Any]]], name: str) -> list[Any]:
    queue = f"impostor-{uuid.uuid4().hex[:8]}"
    async with Worker(engine.client, task_queue=queue, workflows=[Impostor], workflow_runner=UnsandboxedWorkflowRunner()):
        return await engine.client.execute_workflow(
            "AgentRun",
            args=[capsule.model_dump(mode="json"), [list(c) for c in calls]],
            id=name,
            task_queue=queue,
            memo={"queue": engine.settings.task_queue},
            result_type=list,
        )


async def write_of(engine: Engine, workflow_id: str) -> dict[str, Any]:
    """The input of `execute_tool` in the run's history."""
    async for event in engine.remit.handle(workflow_id).fetch_history_events():
        scheduled = event.activity_task_scheduled_event_attributes
        if scheduled.activity_type.name == "execute_tool":
            return json.loads(scheduled.input.payloads[0].data)
    raise AssertionError("no write")


async def test_a_worker_of_somebody_else_can_t_use_what_it_finds_in_history(engine: Engine) -> None:
    """A genuine run's capsule, call and capability id, sent by another workflow, under its own name or the run's."""
    run = await engine.start([SMALL, final()])
    await engine.closed(run.id)
    capsule = await run.query("capsule", result_type=Capsule)
    write = await write_of(engine, run.id)
    read = {"capsule": capsule.digest, "subject": capsule.subject, "corpus": capsule.corpus, "tool": "get_invoice"}
    read |= {
        "arguments": '{"invoice_id": "in_1002"}',
        "call_id": "x",
        "slot": 99,
        "capability": capsule.capability and capsule.capability.id,
    }
    facts = {k: read[k] for k in ("capsule", "subject", "corpus", "arguments", "capability")} | {"tool": "get_invoice"}
    again = {**write, "step": 7, "idempotency_key": "rk_other"}
    found = await impostor(
        engine,
        capsule,
        [("execute_tool", write), ("execute_tool", again), ("read_tool", read), ("read_facts", facts)],
        "impostor-1",
    )
    assert [ToolOutcome.model_validate(o).reason for o in found[:2]] == ["other_run", "other_run"]
    assert ToolOutcome.model_validate(found[2]).reason == "capability_refused"
    assert "No capability covers" in found[3]
    assert len(engine.rows("refunds")) == 1


async def test_a_forged_capsule_mints_nothing_and_writes_nothing(engine: Engine) -> None:
    """Wider limits, another subject, another policy: a capsule that no worker admitted counts for nothing."""
    run = await engine.start([SMALL, final()])
    await engine.closed(run.id)
    genuine = await run.query("capsule", result_type=Capsule)
    write = await write_of(engine, run.id)
    name = f"impostor-{secrets.token_hex(4)}"
    forged = genuine.model_copy(
        update={
            "workflow_id": name,
            "subject": "Customer:cus_102",
            "bundle": genuine.bundle.model_copy(update={"policy": '@id("all") permit (principal, action, resource);'}),
        }
    )
    forged = Capsule.model_validate_json(forged.model_dump_json())
    spec = CATALOG.get("request_refund")
    arguments = '{"invoice_id": "in_1004", "amount_cents": 12000, "currency": "USD", "reason": "duplicate"}'
    action = action_of(forged, spec, spec.parse(arguments), step=0, index=0)
    mine = {
        **write,
        "capsule": forged.digest,
        "arguments": arguments,
        "idempotency_key": action.idempotency_key,
        "action_digest": action_digest(action),
    }
    mint = {
        "capsule": forged.model_dump(mode="json"),
        "write": {**mine, "capability": ""},
        "recorded": {"facts": {"owner": forged.subject}},
    }
    reads = {"capsule": forged.model_dump(mode="json")}
    found = await impostor(
        engine,
        forged,
        [
            ("execute_tool", mine),
            ("execute_tool", {**mine, "capability": ""}),
            ("mint_capability", mint),
            ("mint_capability", reads),
        ],
        name,
    )
    assert [ToolOutcome.model_validate(o).reason for o in found[:2]] == ["capability_refused", "capability_missing"]
    assert ["No capability covers" in o for o in found[2:]] == [True, True]
    assert [r["invoice_id"] for r in engine.rows("refunds")] == ["in_1002"]


# ---- delegation ---------------------------------------------------------------------------------------------------------


def delegation(
    engine: Engine, who: str = "cleo", *, subject: str = "Customer:cus_101", cents: int = 3000, ttl: int = 600
) -> str:
    """What `remit delegate support-triage --tool request_refund` puts into the ledger."""
    person, key = engine.issuer.key(who)
    end = int(time.time()) + ttl
    grant = Grant(
        agent="support-triage@service",
        subject=subject,
        tools=("request_refund@1",),
        ceiling=Money(cents=cents, currency="USD"),
        expires_at=end,
        reason="a goodwill refund",
    )
    row = Capability(
        id=f"cap_{secrets.token_hex(8)}",
        kind="delegation",
        run_id="",
        agent="support-triage",
        tools="request_refund@1",
        subject=subject,
        ceiling_cents=cents,
        currency="USD",
        issuer=person.sub,
        key_id=str(key.kid),
        reason=grant.reason,
        token=sign(grant, urlsafe_b64decode(str(key.as_dict(private=True)["d"]) + "=")),
        minted_at=end * 1000,
        expires_at=end,
    )
    engine.ledger.keep(row)
    return row.id


async def triage(engine: Engine, *turns: Any) -> list[tuple[str, str]]:
    done = await engine.run([*turns, final()], agent="support-triage")
    return [(c.status, c.reason) for c in done.calls]


async def test_a_delegation_serves_one_run(engine: Engine) -> None:
    """The agent doesn't have the tool; a person hands it to its next run for this subject, and the one after has it no more."""
    assert await triage(engine, SMALL) == [("refused", "not_granted")]
    name = delegation(engine)
    assert await triage(engine, SMALL) == [("done", "")]
    assert await triage(engine, SMALL) == [("refused", "not_granted")]
    rows = {c.kind: c for c in engine.ledger.capabilities() if c.delegation}
    assert (rows["write"].delegation, rows["run"].issuer) == (name, "cleo@example.com")
    assert len(engine.rows("refunds")) == 1


async def test_a_delegation_has_a_ceiling_for_all_calls_together(engine: Engine) -> None:
    """$25 and $25 are more than the $30 that were handed over, though each is less."""
    delegation(engine)
    assert await triage(engine, SMALL, OTHER) == [("done", ""), ("refused", "delegation_used_up")]


async def test_a_delegation_that_doesn_t_hold_is_no_permission(engine: Engine) -> None:
    """For another subject, over, revoked, by somebody without the role, by the one who asks, or with a row that was changed."""
    delegation(engine, subject="Customer:cus_102")
    delegation(engine, ttl=-1)
    engine.ledger.revoke(delegation(engine), "ana@example.com", "a mistake")
    delegation(engine, "sam")
    delegation(engine, "bo")  # a refund approver, but none of this agent's
    assert await triage(engine, SMALL) == [("refused", "not_granted")]
    delegation(engine)
    run = await engine.start([SMALL, final()], agent="support-triage", requester="cleo@example.com")
    assert [(c.status, c.reason) for c in (await engine.closed(run.id)).calls] == [("refused", "not_granted")]
    assert engine.rows("refunds") == []


async def test_a_row_that_says_more_than_was_signed_is_refused(engine: Engine) -> None:
    """Whoever can write to the ledger still can't widen what a person signed."""
    name = delegation(engine, cents=100)
    found = engine.ledger.capability(name)
    assert found
    engine.ledger.keep(found.model_copy(update={"id": "cap_wider", "ceiling_cents": 100_000}))
    engine.ledger.revoke(name, "ana@example.com", "replaced")
    assert await triage(engine, SMALL) == [("refused", "capability_refused")]
    assert engine.rows("refunds") == []


async def test_a_delegation_that_is_taken_back_stops_the_next_write(engine: Engine) -> None:
    """Revoked while the run goes on: its next refund is refused beside the side effect."""
    name = delegation(engine, cents=10_000)
    visible = turn(call("add_account_note", customer_id="cus_101", text="We look into it.", visibility="customer"))
    run = await engine.start(
        [SMALL, visible, OTHER, final()],
        agent="support-triage",
    )
    await engine.pending(run.id)
    await asyncio.to_thread(engine.ledger.revoke, name, "cleo@example.com", "enough")
    await engine.decide(run.id, "cleo")
    done = await engine.closed(run.id)
    assert [(c.status, c.reason) for c in done.calls] == [("done", ""), ("done", ""), ("refused", "capability_revoked")]
