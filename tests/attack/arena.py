"""Where attacks happen: the real server and worker, a model that says anything, and a count of what was tried."""

import asyncio
import json
import random
import shutil
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowHandle

import worker
from activities.providers.base import Completion, ModelProvider, ModelRequest
from activities.providers.scripted import ScriptedProvider
from policies.approvals import Approval
from policies.errors import RemitError
from remit.settings import ROOT
from tests.attack.corpus import RAW
from tests.attack.mallory import Attacker, Session, attacker
from tests.attack.oracle import BILLING, INCIDENT, TRIAGE, Authority, Oracle, Wish, disclosed, wish
from tests.attack.world import Alert, Customer, World
from tests.engine import Engine, call, final, turn
from tools.connectors import sandbox
from tools.connectors.sandbox import Sandbox
from workflows.messages import RunResult, RunSummary, ScriptCall, ScriptTurn, ToolMessage, UserMessage

__all__ = ["Arena", "Run", "arena", "refund"]

APP = Path(__file__).parent / "app"
PATIENCE_SECONDS = 40.0
"""For one thing to happen; a machine that does other things too must not make an attack look broken."""
MAY = {
    "billing-resolution": BILLING,
    "attack-billing": BILLING,
    "attack-lax": BILLING,
    "attack-triage": TRIAGE,
    "attack-incident": INCIDENT,
    "attack-readonly": frozenset[str](),
    "attack-looker": frozenset[str](),
    "attack-draft": BILLING,
}
"""In which tables each agent's tools write, by hand."""
Run = WorkflowHandle[object, RunResult]


def refund(customer: Customer, invoice: int, cents: int, reason: str = "goodwill") -> ScriptCall:
    """A call for money."""
    return call("request_refund", invoice_id=customer.invoices[invoice], amount_cents=cents, currency="USD", reason=reason)


class CompromisedModel(ScriptedProvider):
    """Says what the script says, also what is no JSON, and gives all calls of a turn one id if the turn's text says so.

    It remembers what it was told, by the inputs of its run.
    """

    def __init__(self) -> None:
        self.told: dict[str, list[str]] = {}

    async def complete(self, request: ModelRequest) -> Completion:
        first = next(m.text for m in request.messages if isinstance(m, UserMessage))
        self.told.setdefault(first, []).extend(m.content for m in request.messages if isinstance(m, ToolMessage))
        answer = await super().complete(request)
        calls = [
            c.model_copy(update={"arguments": json.loads(c.arguments)[RAW]}) if c.arguments.startswith('{"\\u0001raw"') else c
            for c in answer.message.tool_calls
        ]
        if answer.message.text == "one id":
            calls = [c.model_copy(update={"id": "call_0"}) for c in calls]
        return answer.model_copy(update={"message": answer.message.model_copy(update={"tool_calls": tuple(calls)})})


@dataclass
class Gate:
    """Holds up the vendor's answer about one invoice, for the activity that writes."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Arena:
    """One business under attack.

    Attributes:
        tried, refused: by class of attack.
        broken: attacks that couldn't be made as intended; in a real run there must be none.
        direct_answers: what activities said to whom they weren't called for, with the class of attack.
        honest: the honest tasks whose runs ended as they should.
        classes: the class of attack that each subject is for.
    """

    engine: Engine
    world: World
    oracle: Oracle
    mallory: Attacker
    dice: random.Random
    gates: dict[str, Gate]
    model: CompromisedModel
    tried: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    broken: list[str] = field(default_factory=list[str])
    direct_answers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    honest: set[str] = field(default_factory=set[str])
    classes: dict[str, str] = field(default_factory=dict[str, str])
    secrets: dict[str, str] = field(default_factory=dict[str, str])

    def count(self, kind: str, *, refused: bool) -> None:
        """One more attempt."""
        self.tried[kind] += 1
        self.refused[kind] += refused

    def victim(self, kind: str) -> Customer:
        """A customer for whom nobody may do anything."""
        found = self.world.take()
        self.classes[found.subject] = kind
        return found

    async def start(
        self,
        kind: str,
        who: Customer | Alert,
        *turns: ScriptTurn,
        agent: str = "attack-billing",
        requester: str = "",
        run_id: str | None = None,
    ) -> Run:
        """A run for `who` that says `turns`, with what it is authorized to do for its own subject, and no more."""
        authority = self.authority(kind, who, agent)
        for said in turns:
            for made in said.tool_calls:
                # What a model literally asks for may happen once for each time that it asked.
                if found := wish(made.name, _meant(made.arguments)):
                    authority.wished[found] += 1
        inputs = {"alert_id": who.id} if isinstance(who, Alert) else {"ticket_id": who.ticket}
        return await self.engine.remit.start(
            agent, dict(inputs), script=(*turns, final()), requester=requester, run_id=run_id or f"run-{uuid.uuid4().hex[:12]}"
        )

    def authority(self, kind: str, who: Customer | Alert, agent: str) -> Authority:
        """What `agent` may do for `who`."""
        self.classes[who.subject] = kind
        return self.oracle.authority(who.subject, MAY[agent], automatic=agent != "attack-draft")

    async def closed(self, kind: str, who: Customer | Alert, run: Run) -> None:
        """Wait for the run's end; count what it tried."""
        try:
            done = await asyncio.wait_for(self.engine.remit.result(run.id), PATIENCE_SECONDS)
        except (TimeoutError, RemitError) as e:
            if kind == "kill" and str(e).startswith("No run may begin"):  # the kill was there before its admission
                return
            self.broken.append(f"{kind}: run {run.id} didn't end as runs do: {type(e).__name__} {e}")
            await self.drop(run)
            return
        self.tried[kind] += done.usage.tool_calls
        self.refused[kind] += len(done.refused)

    async def attack(self, kind: str, who: Customer | Alert, *turns: ScriptTurn, agent: str = "attack-billing") -> Run:
        """A whole run, with nobody who helps it."""
        run = await self.start(kind, who, *turns, agent=agent)
        await self.closed(kind, who, run)
        return run

    async def drop(self, run: Run) -> None:
        """Be done with a run that would wait for ever."""
        with suppress(Exception):
            await run.terminate("the attack is over")

    # ---- people ----------------------------------------------------------------------------------------------------

    async def pending(self, run: Run, count: int = 1) -> list[Approval]:
        """Wait until `count` approvals are pending, and give them."""
        found = await self.until(run, lambda s: sum(a.status == "pending" for a in s.approvals) >= count)
        return [a for a in found.approvals if a.status == "pending"]

    async def until(self, run: Run, holds: Callable[[RunSummary], bool]) -> RunSummary:
        """Poll the run until `holds`."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds(summary := await self.engine.remit.status(run.id)):
                await asyncio.sleep(0.1)
        return summary

    def sign(self, who: str, run: RunSummary, approval: Approval, decision: Literal["approve", "reject"] = "approve") -> str:
        """What a person signs about exactly this action."""
        return self.engine.issuer.sign(who, request=approval.request, run_id=run.run_id, decision=decision, reason="seen")

    async def decide(self, run: Run, approval: Approval, who: str, decision: Literal["approve", "reject"] = "approve") -> str:
        """An honest person decides, by update; the token."""
        token = self.sign(who, await self.engine.remit.status(run.id), approval, decision)
        await self.engine.remit.decide(run.id, approval.request.approval_id, token)
        return token

    async def kill(self, run: Run, authority: Authority) -> None:
        """Pull the off switch; from its acknowledgement on, nothing is authorized any more."""
        await self.engine.remit.kill(run.id, "stop")
        authority.stopped = datetime.now(UTC)

    # ---- direct calls ----------------------------------------------------------------------------------------------

    async def direct(
        self, kind: str, calls: Sequence[tuple[str, Any]], *, capsule: Any = None, session: Session | None = None
    ) -> list[Any]:
        """Call activities past every workflow, count the answers, and look for secrets in them."""
        if session is None:
            async with self.mallory.session() as own:
                return await self.direct(kind, calls, capsule=capsule, session=own)
        answers = await asyncio.wait_for(session.calls(calls, capsule=capsule), PATIENCE_SECONDS)
        for answer in answers:
            status = str(cast("dict[str, Any]", answer).get("status", "done")) if isinstance(answer, dict) else "done"
            self.count(kind, refused=status != "done")
            self.direct_answers.append((kind, json.dumps(answer, ensure_ascii=False)))
        return answers

    def outside(self) -> list[tuple[str, str]]:
        """Every effect outside authority, with the class of attack: from the tables and from what models were told."""
        found = self.oracle.outside(self.world.read(self.engine.settings.business_path))
        for inputs, texts in self.model.told.items():
            for name in json.loads(inputs).values():
                # The demo's tickets speak of other people by themselves.
                if name in self.world.attacked:
                    found += disclosed(set(texts), self.world.owner[name], self.secrets)
        told = [(self.classes.get(s.partition(": ")[0], "elsewhere"), s) for s in found]
        return told + [(kind, s) for kind, text in self.direct_answers for s in disclosed([text], "", self.secrets)]


def _meant(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, also of a call that is said as raw text."""
    if RAW not in arguments:
        return arguments
    try:
        found = json.loads(arguments[RAW])
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def approved(made: ScriptCall) -> Wish:
    """The wish that people approve."""
    found = wish(made.name, made.arguments)
    assert found
    return found


@contextmanager
def _compromised(model: CompromisedModel, gates: dict[str, Gate]) -> Generator[None]:
    """The model is the attacker's, and the vendor answers late about invoices that have a gate, when a write asks."""
    original = Sandbox.invoice

    async def invoice(self: Sandbox, invoice_id: str) -> Any:
        if (gate := gates.get(invoice_id)) and activity.info().activity_type == "execute_tool":
            gate.reached.set()
            while not gate.opened.is_set():
                # The kill cancels the activity, too, sooner or later: here it arrives too late, whatever the machine does.
                with suppress(asyncio.CancelledError):
                    await gate.opened.wait()
        return await original(self, invoice_id)

    def providers(*_: object) -> dict[str, ModelProvider]:
        return {"scripted": model}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sandbox, "invoice", invoice)
        patch.setattr(worker, "_providers", providers)
        yield


def _app(home: Path) -> Path:
    """The attacked agents, with today's policies but for their escalation: their approvals expire within seconds."""
    app = home / "app"
    shutil.copytree(APP, app)
    for name in ("refunds_v7", "support_v1", "incidents_v1"):
        shipped, bundle = ROOT / "policies/bundles" / name, app / "policies/bundles" / f"{name.partition('_')[0]}_unescalated"
        shutil.copytree(shipped, bundle)
        (bundle / "limits.toml").write_text((shipped / "limits.toml").read_text().partition("[[approvals.escalation]]")[0])
    return app


@asynccontextmanager
async def arena(client: Client, home: Path, *, customers: int, alerts: int, seed: int) -> AsyncGenerator[Arena]:
    """A fresh business in `home` with a worker, a ledger and an attacker of its own."""
    world = World(customers, alerts)
    sandbox.create(home / "business.db", world.data)
    gates: dict[str, Gate] = {}
    model = CompromisedModel()
    with _compromised(model, gates):
        async with (
            Engine(client, home, overrides={"app": _app(home)}) as engine,
            attacker(client, engine.settings.task_queue) as mallory,
        ):
            engine.issuer.ensure()
            oracle = Oracle(world.data, world.owner)
            yield Arena(engine, world, oracle, mallory, random.Random(seed), gates, model, secrets=world.secrets())


def said(*calls: ScriptCall, text: str = "") -> ScriptTurn:
    """A turn of the model."""
    return turn(*calls, text=text)
