"""Runs one ticket after the other on a `remit dev` of its own, decides what waits for people, and gathers the evidence."""

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from temporalio.client import Client, WorkflowExecutionStatus

from activities.ledger.store import Ledger
from policies.approvals import Approval
from policies.errors import ApprovalRefused, InvalidInput, RemitError
from remit.client import Remit
from remit.connection import converter, storage_of
from remit.issuer import DevIssuer
from remit.settings import Standalone
from tests.console import DevEngine
from tests.live.open_model.gateway import Adapt, Gateway
from tests.live.open_model.oracle import Answer, Ended, Evidence, Price, Row
from tests.live.open_model.tickets import Case, business
from tools.connectors import sandbox
from workflows.answer import final_answer
from workflows.messages import FINAL_ANSWER, AssistantMessage, RunSummary
from workflows.state import parse_message

__all__ = ["PRICE", "Progress", "play"]

PRICE = Price(input_per_mtok=150_000, output_per_mtok=600_000)
"""Declared to the workers: what a small model costs at a vendor's. The table knows no price of a model of one's own."""
MOST_OUTPUT_TOKENS = 512
"""The limit of an answer: enough for each right one, and a small model has nothing more to say."""
LOOK_SECONDS = 0.3
SEALED_SECONDS = 60
PEOPLE = ("ana@example.com", "bo@example.com", "cleo@example.com", "dana@example.com")
REJECTED_ONE_IN = 3


class Progress:
    """Tells how far it is. A line a run, for it takes long."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def ended(self, case: Case, end: Ended) -> None:
        self._done += 1
        how = f"{end.status} {f'by `{end.by}`' if end.by else ''}" if end.status else "STILL OPEN"
        took = f"{len(end.answers):>3} answers {end.seconds:5.0f} s"
        print(f"{self._done:>3}/{self._total}  {case.id:<14}{case.agent:<20}{took}  {how}", flush=True)


class _World:
    def __init__(self, home: Path, dev: DevEngine, client: Client) -> None:
        settings = Standalone(home=home)
        self.settings = settings
        self.dev = dev
        self.remit = Remit(client, settings.task_queue, storage_of(settings))
        self.issuer = DevIssuer(home, env="dev")
        self.approved = defaultdict[str, set[str]](set)
        self.seen = 0

    # ---- people -------------------------------------------------------------------------------------------------

    async def decide(self, case: Case) -> None:
        """Decide on what waits in the run: one in three is rejected, the rest gets as many people as it needs."""
        for approval in (await self.remit.status(case.id)).approvals:
            if approval.status != "pending":
                continue
            self.seen += 1
            reject = self.seen % REJECTED_ONE_IN == 0
            for who in PEOPLE:
                with contextlib.suppress(ApprovalRefused):  # not this person's to decide
                    status = await self._say(case, approval, who, reject=reject)
                    if not reject:
                        self.approved[case.id].add(who)
                    if status != "pending":
                        break

    async def _say(self, case: Case, approval: Approval, who: str, *, reject: bool) -> str:
        summary = await self.remit.status(case.id)
        token = self.issuer.sign(
            who,
            request=approval.request,
            run_id=summary.run_id,
            decision="reject" if reject else "approve",
            reason="Not what was asked for." if reject else "Looked at it.",
        )
        return (await self.remit.decide(case.id, approval.request.approval_id, token)).status

    # ---- runs ---------------------------------------------------------------------------------------------------

    async def run(self, case: Case, wall_seconds: float) -> Ended:
        """One run from start to end, or until its time is over; then it is killed."""
        began = time.monotonic()
        handle = await self.remit.start(case.agent, {**case.inputs}, run_id=case.id, requester="sam@example.com")
        while (await handle.describe()).status == WorkflowExecutionStatus.RUNNING:
            if time.monotonic() - began > wall_seconds:
                with contextlib.suppress(InvalidInput):  # it closed meanwhile
                    await self.remit.kill(case.id, "Its time is over.")
                return await self._told(case, time.monotonic() - began, hangs=True)
            with contextlib.suppress(RemitError):  # it isn't admitted yet, or has just closed
                await self.decide(case)
            await asyncio.sleep(LOOK_SECONDS)
        return await self._told(case, time.monotonic() - began)

    async def _told(self, case: Case, seconds: float, *, hangs: bool = False) -> Ended:
        summary = await self.remit.status(case.id)
        lines = [json.loads(line) for line in self.dev.console.remit("trace", case.id).out.splitlines()]
        return Ended(
            status="" if hangs else summary.status,
            by=summary.stopped_by,
            final=await self._final(case),
            answers=[_answer(line) for line in lines if line["kind"] == "model"],
            input_tokens=summary.usage.input_tokens,
            output_tokens=summary.usage.output_tokens,
            micro_usd=summary.usage.cost_micro_usd,
            unknown=summary.usage.unknown_cost_calls,
            seconds=seconds,
            verified=await self._verified(case, summary),
        )

    async def _final(self, case: Case) -> bool:
        messages = [parse_message(text) for text in await self.remit.transcript(case.id)]
        said = [m for m in messages if isinstance(m, AssistantMessage)]
        if not said or [call.name for call in said[-1].tool_calls] != [FINAL_ANSWER]:
            return False
        try:
            final_answer(said[-1].tool_calls[0].arguments)
        except ValidationError:
            return False
        return True

    async def _verified(self, case: Case, summary: RunSummary) -> str:
        """What is wrong with the run's capsule. Runs are sealed a moment after they close."""
        file, end = self.settings.home / f"{summary.workflow_id}.capsule.gz", time.monotonic() + SEALED_SECONDS
        while (made := self.dev.console.remit("capsule", case.id, "-o", str(file), code=None)).code:
            if time.monotonic() > end:
                return made.err.strip()
            await asyncio.sleep(LOOK_SECONDS)
        found = self.dev.console.remit("verify", str(file), code=None)
        return "" if found.code == 0 else (found.err or found.out).strip()[-400:]


async def play(
    cases: Sequence[Case],
    home: Path,
    server: str,
    model: str,
    *,
    wall_seconds: float,
    adapt: Adapt | None = None,
) -> Evidence:
    """Carry out `cases` on `model` of the server at `server`; nothing of it runs on afterwards. `adapt`: see `Gateway`."""
    sandbox.create(home / "business.db", business())
    progress = Progress(len(cases))
    async with Gateway(server, adapt) as gateway:
        environment = {
            "OPENAI_BASE_URL": gateway.url,
            "REMIT_MODEL": model,
            "REMIT_PRICE_INPUT_PER_MTOK": str(PRICE.input_per_mtok),
            "REMIT_PRICE_OUTPUT_PER_MTOK": str(PRICE.output_per_mtok),
            "REMIT_MAX_OUTPUT_TOKENS": str(MOST_OUTPUT_TOKENS),
        }
        dev = await asyncio.to_thread(DevEngine, home, None, environment)
        try:
            address = dev.console.env["TEMPORAL_ADDRESS"]
            client = await Client.connect(address, data_converter=converter(Standalone(home=home)))
            world = _World(home, dev, client)
            ended: dict[str, Ended] = {}
            for case in cases:
                ended[case.id] = await world.run(case, wall_seconds)
                progress.ended(case, ended[case.id])
        finally:
            await asyncio.to_thread(dev.stop)
    with contextlib.closing(Ledger(world.settings.ledger)) as ledger:
        effects = ledger.effects()
    approved = {name: frozenset(people) for name, people in world.approved.items()}
    return Evidence(ended, _rows(world.settings.business_path), effects, approved, gateway.served, PRICE)


def _answer(line: dict[str, Any]) -> Answer:
    usage = line["usage"]
    return Answer(
        line["request_digest"], usage["input_tokens"], usage["output_tokens"], line["cost_micro_usd"], line.get("stop", "")
    )


def _rows(path: Path) -> list[Row]:
    """Everything that was written, with whom it is about, by the business's own tables."""
    customers = {str(t["ticket_id"]): str(t["customer_id"]) for t in sandbox.rows(path, "tickets")}
    alerts = {str(i["incident_id"]): str(i["alert_id"]) for i in sandbox.rows(path, "incidents")}
    found: list[Row] = []
    for table in ("refunds", "email_changes", "ticket_tags", "account_notes", "reply_drafts", "incidents", "incident_notes"):
        for row in sandbox.rows(path, table):
            if customer := row.get("customer_id") or customers.get(str(row.get("ticket_id"))):
                subject = f"Customer:{customer}"
            else:
                subject = f"Alert:{row.get('alert_id') or alerts.get(str(row.get('incident_id')))}"
            shown = row.get("visibility") == "customer"
            found.append(Row(table, str(row["idempotency_key"]), subject, shown, int(row.get("amount_cents") or 0)))
    return found
