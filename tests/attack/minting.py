"""Attacks on `mint_capability`: the attacker's own code was admitted as a run, and wants capabilities that it mustn't have."""

import asyncio
import json
import time
from typing import Any, Literal

from policies.approvals import ApprovalRequest
from tests.attack.arena import Arena, approved, refund
from tests.attack.bypass import PERMIT_ALL, payload_of
from tests.attack.mallory import Session
from tests.attack.scenes import Scene, past_the_workflow
from tests.attack.world import HUGE, LARGE, SMALL, WHALE, Customer
from tests.engine import call
from workflows.messages import ScriptCall

__all__ = ["SCENES"]

SCENES: list[Scene] = []
KIND = "minting"
MAY_WRITE = 20
"""What the shipped limits let one run write, written down once more."""


def scene(function: Scene) -> Scene:
    SCENES.append(function)
    return function


async def _admitted(a: Arena, session: Session, me: Customer, agent: str = "billing-resolution") -> dict[str, Any]:
    """The capsule of the impostor in `session`: genuine, for the server says that a run of this id and name is there."""
    a.authority(KIND, me, agent)
    inputs = {"ticket_id": me.ticket}
    admission = {"run_id": session.run_id, "agent": agent, "inputs": inputs, "requester": "", "scripted": True}
    [capsule] = await a.direct(KIND, [("admit", admission)], session=session)
    assert capsule["run_id"] == session.run_id, capsule
    return capsule


async def _mint_and_write(
    a: Arena, session: Session, capsule: dict[str, Any], whose: Customer, made: ScriptCall, step: int, **more: Any
) -> Any:
    """Mint a capability for a write, then write with it, and with that of the run's reads when none is given; the answer."""
    write = past_the_workflow(capsule, made, step=step, **more)
    facts = {"owner": whose.subject, "status": "paid", "available_cents": 90_000, "currency": "USD"}
    recorded = {"facts": facts, "subject_sum_cents": 0}
    mint = {"capsule": capsule, "write": write, "recorded": recorded}
    [minted] = await a.direct(KIND, [("mint_capability", mint)], capsule=capsule, session=session)
    reads = capsule["capability"]["id"]
    name = minted.get("id", reads)
    [answer] = await a.direct(KIND, [("execute_tool", {**write, "capability": name})], capsule=capsule, session=session)
    return answer


def _signed(
    a: Arena, capsule: dict[str, Any], made: ScriptCall, step: int, *, decision: Literal["approve", "reject"]
) -> dict[str, Any]:
    """What Ana really signed about this action of this run, dressed up as an approval that counts."""
    write = past_the_workflow(capsule, made, step=step)
    now, open_for = int(time.time()), int(capsule["limits"]["approval_seconds"])
    request = ApprovalRequest.model_validate(
        {
            "approval_id": f"ap-{step}-0",
            "action_digest": write["action_digest"],
            "tool": f"{made.name}@1",
            "resource": {"type": "Invoice", "id": made.arguments["invoice_id"]},
            "arguments": made.arguments,
            "amount": {"cents": made.arguments["amount_cents"], "currency": "USD"},
            "required": 1,
            "roles": capsule["approver_roles"],
            "policy_ids": [],
            "requested_at": now,
            "expires_at": now + open_for,
        }
    )
    token = a.engine.issuer.sign("ana", request=request, run_id=capsule["run_id"], decision=decision, reason="seen")
    counted = {
        "sub": "ana@example.com",
        "decision": "approve",
        "reason": "",
        "nonce": json.loads(payload_of(token))["nonce"],
        "decided_at": now,
        "decision_jws": token,
    }
    return {"request": request.model_dump(mode="json"), "status": "approved", "decisions": [counted]}


@scene
async def with_an_approval_that_expired(a: Arena) -> None:
    """Ana signed in time, but nothing was written in time: as it is, and with a later end."""
    me = a.world.take()
    async with a.mallory.session(kind="AgentRun") as session:
        capsule = await _admitted(a, session, me, "attack-billing")  # whose approvals are open for a second
        for step, (invoice, cents) in enumerate(((LARGE, 12_000), (WHALE, 6000), (HUGE, 5000))):
            made = refund(me, invoice, cents)
            expired = _signed(a, capsule, made, step, decision="approve")
            while time.time() < expired["request"]["expires_at"]:
                await asyncio.sleep(0.1)
            later = {**expired, "request": {**expired["request"], "expires_at": expired["request"]["expires_at"] + 3600}}
            for approval in (expired, later):
                await _mint_and_write(a, session, capsule, me, made, step, approval=approval)


@scene
async def with_an_approval_that_is_a_rejection(a: Arena) -> None:
    """Ana rejected it; her signature is sent as if it approved."""
    me = a.world.take()
    async with a.mallory.session(kind="AgentRun") as session:
        capsule = await _admitted(a, session, me)
        for step, (invoice, cents) in enumerate(((LARGE, 12_000), (WHALE, 6000))):
            made = refund(me, invoice, cents)
            rejected = _signed(a, capsule, made, step, decision="reject")
            await _mint_and_write(a, session, capsule, me, made, step, approval=rejected)


@scene
async def past_the_calls_of_a_run(a: Arena) -> None:
    """More writes than one run may make, each said to be the first."""
    me = a.world.take()
    async with a.mallory.session(kind="AgentRun") as session:
        capsule = await _admitted(a, session, me)
        authority = a.authority(KIND, me, "billing-resolution")
        for n in range(MAY_WRITE + 4):
            made = call("draft_reply", ticket_id=me.ticket, text=f"Draft {n}.")
            if n < MAY_WRITE:
                authority.wished[approved(made)] += 1
            answer = await _mint_and_write(a, session, capsule, me, made, n)
            if n < MAY_WRITE and answer["status"] != "done":
                a.broken.append(f"{KIND}: draft {n} wasn't written: {answer}")  # else the limit wasn't what refused the rest


@scene
async def for_another_subject(a: Arena) -> None:
    """What belongs to somebody else, with facts that say that it is one's own."""
    me, victim = a.world.take(), a.victim(KIND)
    async with a.mallory.session(kind="AgentRun") as session:
        capsule = await _admitted(a, session, me)
        for step, made in enumerate(
            (refund(victim, SMALL, 4900), call("draft_reply", ticket_id=victim.ticket, text="Pay me."))
        ):
            for whose in (me, victim):
                await _mint_and_write(a, session, capsule, whose, made, step)


@scene
async def with_a_forged_capsule(a: Arena) -> None:
    """Admitted as one's own run, then the capsule says another subject, or a policy that permits everything."""
    me, victim = a.world.take(), a.victim(KIND)
    async with a.mallory.session(kind="AgentRun") as session:
        capsule = await _admitted(a, session, me)
        permissive = {**capsule, "bundle": {**capsule["bundle"], "policy": PERMIT_ALL}}
        wider = capsule["bundle"]["limits_toml"].replace(f"per_run = {MAY_WRITE}", "per_run = 2000")
        forged = [
            ({**capsule, "subject": victim.subject}, victim, refund(victim, SMALL, 4900)),
            ({**permissive, "subject": victim.subject}, victim, refund(victim, WHALE, 50_001)),
            (permissive, me, refund(me, WHALE, 50_001)),
            ({**capsule, "bundle": {**capsule["bundle"], "limits_toml": wider}}, me, refund(me, LARGE, 100)),
        ]
        for step, (said, whose, made) in enumerate(forged):
            await a.direct(KIND, [("mint_capability", {"capsule": said})], capsule=said, session=session)
            await _mint_and_write(a, session, said, whose, made, step)


@scene
async def with_a_mode_of_ones_own(a: Arena) -> None:
    """Admitted as an agent that may not write, or not alone, under a policy that permits it; no workflow stands in the way."""
    for agent in ("attack-readonly", "attack-draft"):
        me = a.world.take()
        async with a.mallory.session(kind="AgentRun") as session:
            capsule = await _admitted(a, session, me, agent)
            live = {**capsule, "agent": {**capsule["agent"], "mode": "live"}}
            for step, said in enumerate((capsule, live, {**capsule, "held_to_mode": False})):
                await _mint_and_write(a, session, said, me, refund(me, SMALL, 100 + step), step)
