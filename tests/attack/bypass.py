"""Attacks past the workflow: activities called directly, with authority that the attacker wrote or copied.

What stands against them is the capability beside the write; without it, whoever may write to the namespace is the workflow.
"""

import asyncio
import json
import time
from base64 import urlsafe_b64decode
from contextlib import suppress
from typing import Any

from temporalio.client import WorkflowFailureError

from policies import approvals
from policies.canonical import chain
from policies.errors import RemitError
from tests.attack.arena import PATIENCE_SECONDS, Arena, refund, said
from tests.attack.forge import claims, mallorys_key
from tests.attack.scenes import Scene, past_the_workflow
from tests.attack.world import HUGE, LARGE, SMALL, WHALE, Customer
from tests.engine import call, final
from workflows.messages import ScriptCall, UserMessage

__all__ = ["SCENES"]

SCENES: list[Scene] = []
PERMIT_ALL = '@id("all")\npermit (principal, action, resource);\n'


def scene(function: Scene) -> Scene:
    SCENES.append(function)
    return function


async def _genuine(a: Arena, agent: str = "attack-billing") -> tuple[Customer, dict[str, Any], dict[str, Any]]:
    """A closed run's customer, its capsule, and the input of its one write: all that a reader of the namespace can copy."""
    me = a.world.take()
    run = await a.attack("bypass", me, said(call("draft_reply", ticket_id=me.ticket, text="Hello.")), agent=agent)
    capsule: dict[str, Any] = await run.query("capsule")  # pyright: ignore[reportAssignmentType]
    [copied] = await a.mallory.scheduled(run.id, "execute_tool")
    return me, capsule, copied


async def _write(a: Arena, kind: str, capsule: dict[str, Any], copied: dict[str, Any], *made: ScriptCall, **more: Any) -> None:
    """Writes under `capsule`, alone and with whatever else the copied input holds, under several names."""
    for n, one in enumerate(made):
        plain = past_the_workflow(capsule, one, step=50 + n, **more)
        forms = [plain, {**copied, **past_the_workflow(capsule, one, step=70 + n, **more)}]
        await a.direct(kind, [("execute_tool", form) for form in forms], capsule=capsule)
        async with a.mallory.session(kind="AgentRun", workflow_id=str(capsule["workflow_id"])) as session:
            again = {**copied, **past_the_workflow(capsule, one, step=90 + n, **more)}
            await a.direct(kind, [("execute_tool", again)], capsule=capsule, session=session)


@scene
async def a_capsule_with_another_policy(a: Arena) -> None:
    """The policy permits everything, and the run is for nobody in particular."""
    _, capsule, copied = await _genuine(a)
    victim = a.victim("bypass")
    forged = {**capsule, "bundle": {**capsule["bundle"], "policy": PERMIT_ALL}}
    for subject in ("", victim.subject):
        await _write(
            a,
            "bypass",
            {**forged, "subject": subject},
            copied,
            refund(victim, WHALE, 50_001),
            call("set_customer_email", customer_id=victim.id, email="mallory@evil.example"),
        )


@scene
async def a_capsule_for_another_customer(a: Arena) -> None:
    """The genuine policy, agent and directory, and another subject."""
    _, capsule, copied = await _genuine(a)
    victim = a.victim("bypass")
    await _write(
        a,
        "bypass",
        {**capsule, "subject": victim.subject},
        copied,
        refund(victim, SMALL, 4900),
        call("draft_reply", ticket_id=victim.ticket, text="Send your password."),
    )


@scene
async def a_capsule_of_another_agent(a: Arena) -> None:
    """The genuine subject, and an agent with another role, mode and id."""
    me, capsule, copied = await _genuine(a, "attack-triage")
    agent = {**capsule["agent"], "role": "billing-resolution", "mode": "live"}
    with_money = {**capsule, "agent": agent, "bundle": (await _genuine(a))[1]["bundle"]}
    await _write(a, "bypass", with_money, copied, refund(me, SMALL, 4900))


@scene
async def a_directory_of_ones_own(a: Arena) -> None:
    """A capsule whose directory knows the attacker's key, and approvals by it."""
    _, capsule, copied = await _genuine(a)
    victim = a.victim("bypass")
    key = mallorys_key()
    people = [
        {
            "sub": f"m{n}@evil.example",
            "roles": ["refund-approver"],
            "keys": [{"kid": f"m{n}", "x": key.as_dict(private=False)["x"]}],
        }
        for n in range(2)
    ]
    forged = {**capsule, "subject": victim.subject, "directory": {"people": people}}
    made = refund(victim, WHALE, 70_000)
    for step in (50, 70):
        plain = past_the_workflow(forged, made, step=step)
        request = _request(forged, made, plain["action_digest"])
        approval = approvals.Approval(request=request)
        decisions: list[dict[str, Any]] = []
        for n in range(2):
            named = claims(capsule["run_id"], approval, nonce=f"0123456789ab{n}")
            token = approvals.sign_decision(named, type(key).import_key({**key.as_dict(private=True), "kid": f"m{n}"}))
            decisions.append(_decision(f"m{n}@evil.example", token, named.nonce, int(time.time())))
        signed = {"request": request.model_dump(mode="json"), "status": "approved", "decisions": decisions}
        await a.direct("bypass", [("execute_tool", {**copied, **plain, "approval": signed})], capsule=forged)


@scene
async def a_run_that_has_ended(a: Arena) -> None:
    """The genuine capsule of a run that is closed, and calls that its model never made."""
    me, capsule, copied = await _genuine(a)
    await _write(
        a, "bypass", capsule, copied, refund(me, SMALL, 1000), call("draft_reply", ticket_id=me.ticket, text="Not asked for.")
    )


@scene
async def an_approval_that_was_too_late_or_not_alone(a: Arena) -> None:
    """One genuine signature: of a request that expired before it came, or that somebody else rejected."""
    for expired in (True, False):
        me = a.world.take()
        made = refund(me, LARGE, 12000)
        run = await a.start("bypass", me, said(made), agent="attack-billing" if expired else "billing-resolution")
        [approval] = await a.pending(run)
        token = a.sign("ana", await a.engine.remit.status(run.id), approval)
        if not expired:
            await a.decide(run, approval, "bo", "reject")
        await a.closed("bypass", me, run)
        capsule: dict[str, Any] = await run.query("capsule")  # pyright: ignore[reportAssignmentType]
        later = approval.request.model_copy(update={"expires_at": approval.request.expires_at + 3600})
        decision = _decision("ana@example.com", token, json.loads(payload_of(token))["nonce"], approval.request.requested_at)
        signed = {"request": later.model_dump(mode="json"), "status": "approved", "decisions": [decision]}
        await a.direct("bypass", [("execute_tool", past_the_workflow(capsule, made, step=0, approval=signed))], capsule=capsule)


@scene
async def continued_as_a_run(a: Arena) -> None:
    """A workflow of the attacker's continues as an `AgentRun`, with a state whose capsule is the attacker's."""
    _, capsule, _ = await _genuine(a)
    victim = a.victim("bypass")
    script = [said(refund(victim, WHALE, 50_001), refund(victim, HUGE, 100)).model_dump(), final().model_dump()]
    state = {
        "start": {"agent": "attack-billing", "inputs": {"ticket_id": victim.ticket}, "script": script},
        "capsule": {**capsule, "subject": victim.subject, "bundle": {**capsule["bundle"], "policy": PERMIT_ALL}},
        "status": "running",
        "deadline": int(time.time()) + 3600,
        "tier": 2,
        "messages": [(first := UserMessage(text=json.dumps({"ticket_id": victim.ticket})).model_dump_json())],
        "head": chain("", first),
    }
    name = await a.mallory.continue_as_run(state)
    with suppress(TimeoutError, WorkflowFailureError, RemitError):
        await asyncio.wait_for(a.engine.remit.result(name), PATIENCE_SECONDS)
    a.count("bypass", refused=True)


@scene
async def reads_for_another_customer(a: Arena) -> None:
    """Reads called directly, in the name of whoever owns what is read."""
    _, capsule, copied = await _genuine(a)
    victim = a.victim("bypass")
    digest = past_the_workflow(capsule, refund(victim, SMALL, 100), step=0)["capsule"]
    reads = [
        ("get_customer", {"customer_id": victim.id}),
        ("list_invoices", {"customer_id": victim.id}),
        ("get_ticket", {"ticket_id": victim.ticket}),
    ]
    inputs = [
        {
            "capsule": digest,
            "subject": subject,
            "corpus": "",
            "tool": tool,
            "arguments": json.dumps(arguments),
            "call_id": "m",
            "slot": 90,
            **({"capability": copied["capability"]} if "capability" in copied else {}),
        }
        for tool, arguments in reads
        for subject in (victim.subject, "")
    ]
    await a.direct("bypass", [("read_tool", i) for i in inputs], capsule=capsule)


def _request(capsule: dict[str, Any], made: ScriptCall, digest: str) -> approvals.ApprovalRequest:
    now = int(time.time())
    return approvals.ApprovalRequest.model_validate(
        {
            "approval_id": "ap-0-0",
            "action_digest": digest,
            "tool": f"{made.name}@1",
            "resource": {"type": "Invoice", "id": made.arguments["invoice_id"]},
            "arguments": made.arguments,
            "amount": {"cents": made.arguments["amount_cents"], "currency": "USD"},
            "required": 2,
            "roles": ["refund-approver"],
            "policy_ids": [],
            "requested_at": now,
            "expires_at": now + 3600,
        }
    )


def _decision(sub: str, token: str, nonce: str, at: int) -> dict[str, Any]:
    return {"sub": sub, "decision": "approve", "reason": "", "nonce": nonce, "decided_at": at, "decision_jws": token}


def payload_of(token: str) -> bytes:
    text = token.split(".")[1]
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
