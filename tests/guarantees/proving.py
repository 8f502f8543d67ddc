"""A real run with everything in it that a capsule can hold, and its capsule, sealed as the keeper does."""

import json
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client, WorkflowHistory

from activities.ledger import rollouts
from activities.ledger.rows import Capability
from policies.errors import ApprovalRefused
from policies.rollout import Release
from remit.history import segments
from remit.keyring import RootKeys
from remit.proof.capsule import decoded
from remit.proof.reading import capsule_of
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tools.connectors import sandbox


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    workflow_id: str
    histories: list[WorkflowHistory]
    capabilities: list[Capability]
    release: Release | None
    root_keys: dict[int, str]


SCRIPT = (
    turn(call("get_ticket", ticket_id="T-1003"), call("search_kb", query="duplicate charges")),
    turn(
        call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"),  # another customer's
        call("request_refund", invoice_id="in_1006", amount_cents="all", reason="duplicate"),
        call("get_customer", customer_id="cus_103"),
    ),
    turn(call("request_refund", invoice_id="in_1006", amount_cents=74000, reason="duplicate"), text="In full."),
    turn(call("request_refund", invoice_id="in_1005", amount_cents=30000, reason="service_issue")),
    turn(call("draft_reply", ticket_id="T-1003", text="Dear Eleni, it is on its way.")),
    final(),
)


async def rich_run(client: Client, home: Path) -> Run:
    """A run with reads, refusals, an edit, one approval, two approvals, junk and a decision that counts for nothing."""
    sandbox.create(home / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
    async with Engine(client, home) as engine:
        run = await engine.start(SCRIPT, ticket="T-1003", requester="sam@example.com", run_id="rich")
        await engine.pending(run.id)
        await run.signal("junk", {"approver": "mallory"})
        try:
            await engine.decide(run.id, "cleo")
        except ApprovalRefused:
            pass
        await engine.edit(run.id, "bo", amount_cents=30000)
        await engine.until(run.id, lambda s: len(s.approvals) == 2)
        await engine.decide(run.id, "ana", reason="Checked both payments.")
        await engine.until(run.id, lambda s: len(s.approvals) == 3)
        await engine.decide(run.id, "ana")
        await engine.decide(run.id, "bo")
        await run.result()
        return await left_by(engine, run.id)


async def left_by(engine: Engine, workflow_id: str) -> Run:
    """What the closed run left in Temporal and in the ledger."""
    histories = [await decoded(h, engine.client.data_converter) for h in await segments(engine.client, workflow_id)]
    pinned = capsule_of(histories)
    assert pinned
    with engine.ledger.reading() as connection:
        seen = rollouts.releases_of(connection, pinned.agent.name)
    return Run(
        workflow_id=workflow_id,
        histories=histories,
        capabilities=engine.ledger.capabilities(pinned.run_id),
        release=next((Release.model_validate_json(s.contents) for s in seen if s.digest == pinned.release), None),
        root_keys={k.id: k.public for k in RootKeys(engine.settings.root_keys_path, env="dev").list()},
    )
