"""One chaos run from start to end: everybody at once, then patience, then the evidence."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from remit.apps import assemble
from remit.connection import CONVERTER
from remit.settings import ROOT
from tests.chaos.oracle import Ended, Evidence, Findings, Written, judge
from tests.chaos.people import AWAY, People
from tests.chaos.plan import Plan
from tests.chaos.world import World, standing
from tests.postgres import PostgresServer
from tools import registry
from tools.connectors import sandbox
from worker import runner
from workflows.agent_run import AgentRun
from workflows.messages import AGENT_RUN

__all__ = ["Report", "play"]

IDENTITY = {
    "refunds": ("invoice_id", "amount_cents"),
    "email_changes": ("customer_id", "email"),
    "ticket_tags": ("ticket_id", "tag"),
    "account_notes": ("customer_id", "text", "visibility"),
    "reply_drafts": ("ticket_id", "text"),
    "incidents": ("alert_id", "title"),
    "incident_notes": ("incident_id", "text"),
}
"""The sandbox's tables of what was done, and what tells one row from another there."""


@dataclass(frozen=True)
class Report:
    """What came of a plan."""

    plan: Plan
    world: World
    people: People
    findings: Findings
    replayed: int
    replay_failures: list[str]

    @property
    def failures(self) -> list[str]:
        return [*self.findings.failures, *(f"replay: {f}" for f in self.replay_failures)]

    def line(self) -> str:
        """The last line, as JSON."""
        found, world = self.findings, self.world
        return json.dumps(
            {
                "seed": self.plan.seed,
                "worker_kills": world.kills,
                "server_restarts": world.server_restarts,
                "effects_expected": found.expected,
                "lost": len(found.lost),
                "doubled": len(found.doubled),
                "unintended": len(found.unintended),
                "replayed": self.replayed,
                "replay_failures": len(self.replay_failures),
                "runs": len(self.plan.jobs),
                "open": len(found.open),
                "ended_otherwise": len(found.misended),
                "disagreements": len(found.disagree),
                "indeterminate": found.indeterminate,
                "database_restarts": world.database_restarts,
                "pauses": world.freezes,
                "worker_faults": len(world.faults),
                "decisions": self.people.decisions,
                "junk": self.people.junk,
                "kills_acknowledged": len(self.people.acknowledged),
                "waiting_at_most": self.people.waiting_at_most,
            }
        )


async def play(plan: Plan, home: Path, postgres: PostgresServer) -> Report:
    """Carry out `plan`; nothing of it is left but the files in `home`."""
    async with standing(plan, home, postgres) as world:
        people = People(world)
        minding = asyncio.create_task(people.mind())
        try:
            async with asyncio.timeout(plan.form.seconds * 5 + plan.form.patience), asyncio.TaskGroup() as everybody:
                everybody.create_task(people.start_all())
                everybody.create_task(world.strike_all(people.flood))
            await asyncio.wait_for(asyncio.shield(minding), plan.form.patience)
        except TimeoutError:
            pass  # what is open is a finding
        finally:
            minding.cancel()
        evidence = await gather(world, people)
        findings = judge(plan.jobs, evidence)
        findings.unintended += people.counted
        registry.install(assemble(world.settings, ROOT).catalog)
        replayed, failures = await replay(world)
        return Report(plan, world, people, findings, replayed, failures)


async def gather(world: World, people: People) -> Evidence:
    written: list[Written] = []
    for table, columns in IDENTITY.items():
        for row in sandbox.rows(world.settings.business_path, table):
            at = datetime.fromisoformat(str(row["created_at"])).timestamp()
            written.append(Written((table, *(str(row[c]) for c in columns)), str(row["idempotency_key"]), at))
    with closing(sqlite3.connect(world.depot)) as db:
        parcels = db.execute("SELECT order_id, key FROM parcels").fetchall()
    written += [Written(("parcels", order), key) for order, key in parcels]
    ended = {name: await _ended(world, name) for name in sorted(people.closed)}
    return Evidence(written, ended, world.ledger.effects())


async def _ended(world: World, name: str) -> Ended:
    """The run's own account of itself."""
    while True:
        try:
            summary = await world.remit.status(name)
            break
        except AWAY:
            await asyncio.sleep(0.2)
    writes = {c.idempotency_key: c.status for c in summary.calls if c.idempotency_key}
    return Ended(summary.status, summary.stopped_by, writes, summary.kill.acknowledged_at)


async def replay(world: World) -> tuple[int, list[str]]:
    """How many histories there are, and which of them today's code doesn't replay, and why."""
    count = 0

    async def histories() -> AsyncGenerator[WorkflowHistory]:
        nonlocal count
        async for found in world.client.list_workflows(f"WorkflowType = '{AGENT_RUN}'"):
            count += 1
            yield await world.client.get_workflow_handle(found.id, run_id=found.run_id).fetch_history()

    replayer = Replayer(workflows=[AgentRun], workflow_runner=runner(), data_converter=CONVERTER)
    results = await replayer.replay_workflows(histories(), raise_on_replay_failure=False)
    return count, [f"{name}: {error}" for name, error in results.replay_failures.items()]
