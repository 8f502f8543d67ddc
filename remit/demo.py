"""`remit demo`: a queue of tickets, three agents, people who decide, a crash and a kill; then what really happened."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import JsonValue, TypeAdapter
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from activities.ledger.store import Ledger
from policies.errors import ApprovalRefused, InvalidInput, RemitError, Unavailable
from policies.models import Frozen
from remit import render
from remit.client import Remit, RunRow
from remit.connection import converter
from remit.dev import prepare
from remit.embedded import TemporalServer, WorkerProcess
from remit.evidence import Evidence, Witness, prove
from remit.issuer import DevIssuer
from remit.scripts import read_script
from remit.settings import ROOT, Standalone
from tools.connectors import sandbox
from workflows.messages import RunSummary
from workflows.view import usd

__all__ = ["DEMO", "Ticket", "play", "tickets"]

DEMO = ROOT / "demo"
REFRESH_SECONDS = 0.2
LONGEST_SECONDS = 150
REQUESTER = "sam@example.com"
CRASH_INVOICE = "in_1011"
REASON = "Annual plan, 7 months old and used until September; offer a credit note for the remaining months."


class Ticket(Frozen):
    """One line of `demo/tickets.jsonl`."""

    ticket_id: str
    agent: str
    customer_id: str
    subject: str
    body: str
    inputs: dict[str, JsonValue]
    script: str
    scenario: str = ""
    note: str = ""


def tickets() -> list[Ticket]:
    lines = (DEMO / "tickets.jsonl").read_text(encoding="utf-8").splitlines()
    return [TypeAdapter(Ticket).validate_json(line) for line in lines if line]


async def play(*, keep: bool, as_json: bool) -> int:
    """Run the demo in a fresh folder, untouched by what is set or kept elsewhere; 0 if every scenario holds, 1 if one doesn't.

    Raises:
        Unavailable: the engine didn't start, or the queue wasn't done in time.
    """
    with TemporaryDirectory(prefix="remit-", ignore_cleanup_errors=True) as folder:
        demo = _Demo(Path(folder), render.console(stderr=as_json))
        try:
            await demo.start()
            summaries = await demo.work(live=not as_json)
            evidence = demo.evidence(summaries)
            if as_json:
                render.print_json(_report(demo, summaries, evidence))
            else:
                _tell(demo, summaries, evidence)
            if keep:
                sys.stdout.flush()  # whoever reads the JSON through a pipe needn't wait for Ctrl-C
                await demo.stay()
            return 0 if all(e.holds for e in evidence.values()) else 1
        finally:
            demo.stop()


class _Demo:
    """The engine and the people of one demonstration."""

    def __init__(self, home: Path, out: Console) -> None:
        self.settings = Standalone(home=home)
        self.out = out
        self.tickets = tickets()
        self.witness = Witness()
        self.issuer = DevIssuer(home, env="dev")
        self._told: set[str] = set()
        self._people_at_work: dict[str, asyncio.Task[None]] = {}
        self._worker: WorkerProcess | None = None
        self._server: TemporalServer | None = None

    @property
    def server(self) -> TemporalServer:
        assert self._server
        return self._server

    async def start(self) -> None:
        """Start the server and a worker, and arm the crash."""
        self._started = time.monotonic()
        self._lock = prepare(self.settings)
        sandbox.arm(self.settings.business_path, "refund", CRASH_INVOICE, "crash_after_commit")
        self._server = TemporalServer(self.settings.home)
        self._spawn()
        self.out.print(
            "[bold]Remit demo[/]: the real Temporal server, a worker, and a [bold]scripted model[/] "
            "(its answers and costs are simulated)."
        )
        self.remit = Remit(await self.server.ready(data_converter=converter(self.settings)))
        (self.settings.home / "dev.json").write_text(
            json.dumps({"address": self.server.address, "ui": self.server.ui, "pid": os.getpid()})
        )

    def _spawn(self) -> None:
        # Nothing of the caller's environment may reach the demo's worker: no key, no other ledger.
        foreign = [k for k in os.environ if k.startswith(("REMIT_", "TEMPORAL_", "OPENAI_", "ANTHROPIC_"))]
        self._worker = WorkerProcess(self.settings.home, self.server.address, without=foreign)

    def stop(self) -> None:
        for process in (self._worker, self._server):
            if process:
                process.stop()

    async def work(self, *, live: bool) -> dict[str, RunSummary]:
        """Put the whole queue in, let people decide, and wait until every run has closed."""
        for ticket in self.tickets:
            await self.remit.start(
                ticket.agent,
                ticket.inputs,
                run_id=_workflow_id(ticket),
                requester=REQUESTER,
                script=read_script(f"{DEMO / 'scripts.json'}#{ticket.script}"),
            )
        screen = Live(console=self.out, auto_refresh=False, transient=True) if live and self.out.is_terminal else None
        end = time.monotonic() + LONGEST_SECONDS
        with screen or contextlib.nullcontext():
            while True:
                self._watch_worker()
                rows = {r.workflow_id: r async for r in self.remit.list()}
                self._people(rows)
                for task in self._people_at_work.values():
                    if task.done():
                        task.result()  # what went wrong with one of the people must not look like patience
                if screen:
                    screen.update(self._table(rows), refresh=True)
                elif live:
                    self._news(rows)
                if len(rows) == len(self.tickets) and all(r.closed_at for r in rows.values()):
                    break
                if time.monotonic() > end:
                    raise Unavailable(
                        f"The demo's queue wasn't done after {LONGEST_SECONDS} s; the worker said: {self._words()}"
                    )
                await asyncio.sleep(REFRESH_SECONDS)
        await asyncio.gather(*self._people_at_work.values())
        return {t.ticket_id: await self.remit.status(_workflow_id(t)) for t in self.tickets}

    def _news(self, rows: Mapping[str, RunRow]) -> None:
        """Where there is no terminal to draw on, a line for each run that closed."""
        for ticket in self.tickets:
            row = rows.get(_workflow_id(ticket))
            if row and row.closed_at and ticket.ticket_id not in self._told:
                self._told.add(ticket.ticket_id)
                self.out.print(f"{ticket.ticket_id}  {ticket.agent}  {row.status}", markup=False)

    def _words(self) -> str:
        return self._worker.last_words() if self._worker else "nothing"

    def _watch_worker(self) -> None:
        if self._worker and not self._worker.running:
            self.witness.worker_exits.append(self._worker.exit_code or 0)
            if self._worker.exit_code != -signal.SIGKILL:
                raise Unavailable(f"The demo's worker ended: {self._words()}")
            self._spawn()

    def _people(self, rows: Mapping[str, RunRow]) -> None:
        """Let the people of the demo look at runs that wait for them, each at their own pace."""
        for ticket in self.tickets:
            row = rows.get(_workflow_id(ticket))
            if row and row.awaiting_approval and row.workflow_id not in self._people_at_work:
                self._people_at_work[row.workflow_id] = asyncio.create_task(self._look_at(ticket, row.workflow_id))

    async def _look_at(self, ticket: Ticket, workflow_id: str) -> None:
        while True:
            try:
                return await self._handle(ticket, workflow_id)
            except Unavailable:
                # The worker is down just now: this is the demo's crash.
                await asyncio.sleep(REFRESH_SECONDS)
            except InvalidInput:
                if (await self.remit.describe(workflow_id)).close_time is None:
                    raise
                return None  # what was decided when the worker died had counted, though nobody was told

    async def _handle(self, ticket: Ticket, workflow_id: str) -> None:
        self.witness.parked.setdefault(ticket.scenario, self._refunds(ticket))
        match ticket.scenario:
            case "rejected":
                await self._decide(workflow_id, "ana@example.com", approve=False, reason=REASON)
            case "two_approvals":
                await self._decide(workflow_id, "ana@example.com", reason="Matches the outage report.")
                with contextlib.suppress(ApprovalRefused):
                    await self._decide(workflow_id, "ana@example.com", reason="And once more.", again=True)
                    self.witness.same_person_counted = True
                if self.witness.after_first is None:  # not once more, when the worker's crash makes people look again
                    self.witness.after_first = self._refunds(ticket)
                await self._decide(workflow_id, "bo@example.com", reason="Agreed.")
            case "run_killed":
                summary, approval = await self.remit.approval(workflow_id, None)
                state = await self.remit.kill(workflow_id, "The customer's account is under review.", "ana@example.com")
                self.witness.killed_at = state.acknowledged_at
                token = self.issuer.sign("ana", request=approval.request, run_id=summary.run_id, decision="approve", reason="")
                with contextlib.suppress(RemitError):
                    # Too late: an approval after the kill must not bring the refund back.
                    await self.remit.decide(workflow_id, approval.request.approval_id, token)
            case _:
                # Not the pending one: an answer that was lost with the worker may have been counted all the same.
                approval = (await self.remit.status(workflow_id)).approvals[-1]
                who = next(p for p in self.issuer.ensure().people if set(p.roles) & set(approval.request.roles))
                await self._decide(workflow_id, who.sub, reason="Looked at it.")

    async def _decide(self, workflow_id: str, who: str, *, approve: bool = True, reason: str = "", again: bool = False) -> None:
        """Sign as `who` and send it; nothing if they decided before (an answer that was lost), unless `again`."""
        summary = await self.remit.status(workflow_id)
        approval = summary.approvals[-1]
        if not again and any(d.sub == who for d in approval.decisions):
            return
        token = self.issuer.sign(
            who,
            request=approval.request,
            run_id=summary.run_id,
            decision="approve" if approve else "reject",
            reason=reason,
        )
        await self.remit.decide(workflow_id, approval.request.approval_id, token)

    def _refunds(self, ticket: Ticket) -> int:
        rows = sandbox.rows(self.settings.business_path, "refunds")
        return sum(1 for r in rows if r["customer_id"] == ticket.customer_id)

    def evidence(self, summaries: Mapping[str, RunSummary]) -> dict[str, Evidence]:
        tables = {name: sandbox.rows(self.settings.business_path, name) for name in sandbox.TABLES}
        ledger = Ledger(self.settings.ledger)
        try:
            self.effects = {e.idempotency_key: e for e in ledger.effects()}
        finally:
            ledger.close()
        by_scenario = {t.scenario: (t, summaries[t.ticket_id]) for t in self.tickets if t.scenario}
        return prove(
            {name: (t.customer_id, t.ticket_id, s) for name, (t, s) in by_scenario.items()},
            tables,
            self.effects,
            self.witness,
            CRASH_INVOICE,
        )

    def refunds(self) -> list[dict[str, str | int]]:
        """The sandbox's refunds, each with the run whose key it carries."""
        return [
            {
                "invoice_id": r["invoice_id"],
                "customer_id": r["customer_id"],
                "amount_cents": r["amount_cents"],
                "idempotency_key": r["idempotency_key"],
                "run_id": self.effects[str(r["idempotency_key"])].run_id if r["idempotency_key"] in self.effects else "",
            }
            for r in sandbox.rows(self.settings.business_path, "refunds")
        ]

    def _table(self, rows: Mapping[str, RunRow]):
        def cells(ticket: Ticket) -> tuple[str, ...]:
            row = rows.get(_workflow_id(ticket))
            return (
                ticket.ticket_id,
                ticket.agent,
                escape(ticket.subject[:48]),
                render.status(row.status) if row else "",
                escape(ticket.scenario.replace("_", " ")),
            )

        return render.table("", ("Ticket", "Agent", "Subject", "Status", "Scenario"), [cells(t) for t in self.tickets])

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def url(self, summary: RunSummary) -> str:
        return f"{self.server.ui}/namespaces/default/workflows/{summary.workflow_id}/{summary.run_id}/timeline"

    async def stay(self) -> None:
        """Keep everything up until Ctrl-C."""
        self.out.print(
            f"""
Everything stays up until Ctrl-C. In another terminal, from this folder:

  export REMIT_HOME={self.settings.home}
  remit runs
  remit show {_workflow_id(self.tickets[2])}
  remit trace {_workflow_id(self.tickets[2])}
  remit run billing-resolution --inputs '{{"ticket_id": "T-1004"}}' --script {DEMO / "scripts.json"}#rejected
  remit inbox
  remit report --html report.html
  remit backtest --policy refunds_v7 --agent billing-resolution
  remit fork billing-resolution-T-1004 --at 3
  remit feedback export
  temporal workflow list --address {self.server.address}
""",
            markup=False,
        )
        stop = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 1)
            if not self.server.running:
                raise InvalidInput(f"The Temporal server ended: {self.server.last_words()}")


def _workflow_id(ticket: Ticket) -> str:
    return f"{ticket.agent}-{ticket.ticket_id}"


def _report(demo: _Demo, summaries: Mapping[str, RunSummary], evidence: Mapping[str, Evidence]) -> dict[str, object]:
    refunds = demo.refunds()
    return {
        "model": "scripted",
        "runs": [
            {
                "run_id": s.run_id,
                "workflow_id": s.workflow_id,
                "agent": s.agent,
                "ticket_id": ticket_id,
                "outcome": s.status,
                "stopped_by": s.stopped_by,
                "refund_cents": sum(int(r["amount_cents"]) for r in refunds if r["run_id"] == s.run_id),
                "approvals": [
                    {
                        "approval_id": a.request.approval_id,
                        "required": a.request.required,
                        "approvers": list(a.approvers),
                        "status": a.status,
                    }
                    for a in s.approvals
                ],
                "tool_calls": s.usage.tool_calls,
                "cost_usd": s.usage.cost_micro_usd / 1_000_000,
            }
            for ticket_id, s in summaries.items()
        ],
        "sandbox": {"refunds": refunds},
        "scenarios": {name: e.model_dump(mode="json") for name, e in evidence.items()},
    }


def _tell(demo: _Demo, summaries: Mapping[str, RunSummary], evidence: Mapping[str, Evidence]) -> None:
    out = demo.out
    by_ticket = {t.ticket_id: t for t in demo.tickets}
    refunds = demo.refunds()
    out.print(
        render.table(
            "",
            ("Ticket", "Agent", "Outcome", "Cost", "The case"),
            (
                (
                    ticket_id,
                    s.agent,
                    render.status(s.status) + (f" ({s.stopped_by})" if s.stopped_by else ""),
                    usd(s.usage.cost_micro_usd),
                    escape(textwrap.shorten(by_ticket[ticket_id].note or s.summary, 110, placeholder=" …")),
                )
                for ticket_id, s in summaries.items()
            ),
        )
    )
    agents: dict[str, list[RunSummary]] = {}
    for summary in summaries.values():
        agents.setdefault(summary.agent, []).append(summary)
    out.print()
    for name, found in agents.items():
        calls = [c for s in found for c in s.calls]
        refused = [c for c in calls if c.status == "refused"]
        moved = sum(int(r["amount_cents"]) for r in refunds if r["run_id"] in {s.run_id for s in found})
        reasons = sorted({c.reason for c in refused})
        out.print(
            f"[bold]{name}[/]: {len(found)} runs, {sum(s.status == 'completed' for s in found)} completed; "
            f"{len(calls)} tool calls, {len(refused)} refused ({', '.join(reasons) or 'none'}); "
            f"refunded ${moved / 100:,.2f}; model cost {usd(sum(s.usage.cost_micro_usd for s in found))} (simulated)"
        )
    out.print()
    out.print("[bold]Proved from the business's own tables[/]")
    out.print(
        render.table(
            "",
            ("", "Scenario", "Evidence"),
            (
                (
                    "[green]holds[/]" if e.holds else "[red]FAILS[/]",
                    name,
                    escape("; ".join(f"{k}: {v}" for k, v in e.evidence.items())),
                )
                for name, e in evidence.items()
            ),
        )
    )
    shown = summaries[demo.tickets[2].ticket_id]
    out.print()
    out.print(f"One run in the Temporal UI (with `remit demo --keep` it stays up): {demo.url(shown)}", markup=False)
    out.print(f"What it was, line by line, sealed and signed (with `--keep`): remit trace {shown.workflow_id}", markup=False)
    out.print(f"Done in {demo.seconds:.0f} s; {sum(e.holds for e in evidence.values())} of {len(evidence)} scenarios hold.")
