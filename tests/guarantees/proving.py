"""A real run with everything in it that a capsule can hold, its capsule, and ways to change one."""

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHistory
from temporalio.exceptions import ApplicationError

from activities.ledger import rollouts
from activities.ledger.rows import Capability
from policies.capability import new_key
from policies.errors import ApprovalRefused
from policies.rollout import Release
from remit import __version__
from remit.apps import assemble
from remit.connection import CONVERTER
from remit.deployment import build_id
from remit.history import segments
from remit.keyring import RootKeys
from remit.proof.build import build
from remit.proof.capsule import CapsuleFile, Contents, Packed, digests_of, with_tokens, written
from remit.proof.packing import decoded, pack, seal
from remit.proof.reading import capsule_of, history_of
from remit.proof.redaction import Redactor
from remit.proof.sealing import Root, head
from remit.proof.verify import Report, verify
from remit.settings import ROOT, Standalone
from tests.engine import Engine, call, final, turn
from tools import registry
from tools.catalog import Catalog
from tools.connectors import sandbox

KEY = new_key()
CATALOG = assemble(Standalone()).catalog
CODE = build_id(Standalone())
HISTORIES = ROOT / "tests" / "replay" / "histories" / __version__
LATER = 2**40
"""When every capability has expired."""

SCRIPT = (
    turn(call("get_ticket", ticket_id="T-1003"), call("search_kb", query="duplicate charges")),
    turn(
        call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"),  # another customer's
        call("request_refund", invoice_id="in_1006", amount_cents="all", reason="duplicate"),
    ),
    turn(call("request_refund", invoice_id="in_1006", amount_cents=74000, reason="duplicate"), text="In full."),
    turn(call("request_refund", invoice_id="in_1005", amount_cents=30000, reason="service_issue")),
    turn(call("draft_reply", ticket_id="T-1003", text="Dear Eleni, it is on its way.")),
    turn(call("get_customer", customer_id="cus_103")),  # whose e-mail address is redacted
    final(),
)


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    workflow_id: str
    histories: list[WorkflowHistory]
    capabilities: list[Capability]
    release: Release | None
    root_keys: dict[int, str]

    async def capsule(self) -> CapsuleFile:
        """Its capsule, sealed as the first of its namespace, with all tokens."""
        registry.install(CATALOG)
        trace = await build(self.histories, CONVERTER)
        packed = pack(
            self.histories,
            trace.dicts(),
            catalog=CATALOG,
            capabilities=self.capabilities,
            release=self.release,
            root_keys=self.root_keys,
            redactor=Redactor(KEY),
        )
        made = seal(packed, _root(packed, trace.run.run_id, self.workflow_id), KEY)
        return with_tokens(made, {c.id: c.token for c in self.capabilities}, LATER)


async def rich_run(client: Client, home: Path) -> Run:
    """A run with reads, refusals, a turn decided again, an edit, one approval, two approvals, junk and a refused decision."""
    sandbox.create(home / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
    async with Engine(client, home) as engine:
        run = await engine.start(SCRIPT, ticket="T-1003", requester="sam@example.com")
        await engine.pending(run.id)
        await run.signal("junk", {"approver": "mallory"})
        with suppress(ApprovalRefused):
            await engine.decide(run.id, "cleo")
        await engine.edit(run.id, "bo", amount_cents=30000)
        await engine.until(run.id, lambda s: len(s.approvals) == 2)
        await engine.decide(run.id, "ana", reason="Checked both payments.")
        await engine.until(run.id, lambda s: len(s.approvals) == 3)
        await engine.decide(run.id, "ana")
        await engine.decide(run.id, "bo")
        await run.result()
        return await left_by(engine, run.id)


async def killed_run(client: Client, home: Path) -> Run:
    """A run that is stopped while an action waits for people."""
    sandbox.create(home / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
    async with Engine(client, home) as engine:
        run = await engine.start(SCRIPT[2:], ticket="T-1003")
        await engine.pending(run.id)
        await engine.remit.kill(run.id, "The customer called.", by="ana")
        with suppress(ApplicationError):
            await run.result()
        return await left_by(engine, run.id)


async def private_run(client: Client, home: Path) -> Run:
    """A run with an e-mail address in the arguments of a write, and in what somebody signed for another one."""
    sandbox.create(home / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
    script = (
        turn(call("draft_reply", ticket_id="T-1002", text="We wrote to new@holt.example.")),
        turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate")),
        final(),
    )
    async with Engine(client, home) as engine:
        run = await engine.start(script, ticket="T-1002")
        await engine.pending(run.id)
        await engine.decide(run.id, "ana", reason="As new@holt.example says.")
        await run.result()
        return await left_by(engine, run.id)


async def sealed_away_run(client: Client, home: Path) -> Run:
    """A run whose payloads were encrypted, and so large that they lie in external storage."""
    sandbox.create(home / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
    script = (turn(call("get_ticket", ticket_id="T-1001"), text="Lorem ipsum. " * 12_000), final())
    async with Engine(client, home, overrides={"codec": True}) as engine:
        run = await engine.start(script)
        await run.result()
        return await left_by(engine, run.id)


def stored(*names: str) -> Run:
    """A run of `tests/replay/histories`, from before there were capabilities."""
    found = [history_of("x", json.loads((HISTORIES / f"{name}.json").read_text())) for name in names]
    pinned = capsule_of(found)
    name = pinned.workflow_id if pinned else names[0]
    return Run(name, [WorkflowHistory(name, h.events) for h in found], [], None, {})


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


def _root(packed: Packed, run_id: str, workflow_id: str) -> Root:
    return Root(
        namespace="default",
        seq=1,
        run_id=run_id,
        workflow_id=workflow_id,
        trace_head=packed.trace_head,
        lines=len(packed.trace),
        contents=packed.digests,
        previous="",
        sealed_at=1_800_000_000,
        reason="",
    )


def sealed_again(content: dict[str, Any]) -> CapsuleFile:
    """The capsule of this content, under the key that sealed it first: what somebody can do who holds that key."""
    contents, was = Contents.model_validate(content["contents"]), content["root"]["root"]
    trace = tuple(content["trace"])
    packed = Packed(trace=trace, contents=contents, trace_head=head(trace), digests=digests_of(contents))
    made = seal(packed, _root(packed, was["run_id"], was["workflow_id"]), KEY)
    return made.model_copy(update={"tokens": content["tokens"]})


def content_of(capsule: CapsuleFile) -> dict[str, Any]:
    """The capsule as JSON, to be changed."""
    return copy.deepcopy(capsule.model_dump(mode="json"))


async def checked(capsule: CapsuleFile | bytes, catalog: Catalog = CATALOG, code: str = CODE, **given: Any) -> Report:
    """What `remit verify` finds."""
    data = capsule if isinstance(capsule, bytes) else written(capsule, plain_json=True)
    return await verify(data, catalog, code=code, **given)


def flips(value: Any, path: str = "") -> Iterator[str]:
    """Change `value` in each place in turn, and put it right again: other values, names and items missing, items exchanged."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        for name in list(fields):
            at, was = f"{path}/{name}", fields[name]
            if not isinstance(was, (dict, list)):
                fields[name] = _other(was)
                yield f"{at} changed"
                fields[name] = was
            del fields[name]
            yield f"{at} removed"
            fields[name] = was
            yield from flips(was, at)
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        for index, was in enumerate(list(items)):
            at = f"{path}/{index}"
            if not isinstance(was, (dict, list)):
                items[index] = _other(was)
                yield f"{at} changed"
                items[index] = was
            del items[index]
            yield f"{at} dropped"
            items.insert(index, was)
            if index and items[index - 1] != was:
                items[index - 1], items[index] = was, items[index - 1]
                yield f"{at} exchanged"
                items[index - 1], items[index] = items[index], was
            yield from flips(was, at)


def _other(value: object) -> object:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case _:
            return "x"


def terminated(history: WorkflowHistory, asked: int, *, answered: bool) -> WorkflowHistory:
    """`history` as it would be if the run had been terminated right before, or after, the event `asked` was answered."""
    at = next(n for n, e in enumerate(history.events) if e.activity_task_completed_event_attributes.scheduled_event_id == asked)
    kept = history.events[: at + answered]
    end = HistoryEvent(
        event_id=kept[-1].event_id + 1,
        event_time=history.events[at].event_time,
        event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
    )
    end.workflow_execution_terminated_event_attributes.reason = "past Remit"
    return WorkflowHistory(history.workflow_id, [*kept, end])
