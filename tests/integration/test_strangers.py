"""What anyone with access to the namespace may send: no form of it fails, stalls or kills a run or a worker."""

import asyncio
import base64
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import OKPKey
from temporalio.api.common.v1 import Header, Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowQueryFailedError, WorkflowUpdateFailedError
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from policies.approvals import ApprovalRequest, DecisionClaims, decision_payload, sign_decision
from policies.errors import ApprovalRefused
from remit.embedded import TemporalServer, WorkerProcess, free_port
from tests.engine import Engine, call, final, turn
from workflows import inbox
from workflows.messages import RunResult
from workflows.state import MAX_REFUSED

REFUND = [turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate")), final()]
START = {"agent": "billing-resolution", "inputs": {"ticket_id": "T-1001"}}
DEEP = b"[" * 5000 + b"]" * 5000


def raw(data: bytes, encoding: bytes = b"json/plain", **metadata: bytes) -> RawValue:
    """Bytes as they go over the wire, whatever they are."""
    return RawValue(Payload(metadata={"encoding": encoding, **metadata}, data=data))


def obj(value: object) -> RawValue:
    return raw(json.dumps(value).encode())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Parked:
    """A run that waits for one approval, and what a stranger knows of it."""

    engine: Engine
    workflow_id: str
    run_id: str
    request: ApprovalRequest
    genuine: str

    @property
    def handle(self) -> WorkflowHandle[object, RunResult]:
        return self.engine.remit.handle(self.workflow_id)

    async def update(self, name: str, args: Sequence[RawValue]) -> object:
        return await self.handle.execute_update(name, args=args)  # pyright: ignore[reportUnknownMemberType]

    def decision(self, token: object, **more: object) -> RawValue:
        return obj({"approval_id": self.request.approval_id, "decision_jws": token, **more})

    def claims(self, **changes: Any) -> DecisionClaims:
        """The claims of the genuine decision, changed."""
        payload = json.loads(jws.extract_compact(self.genuine.encode()).payload)
        return DecisionClaims.model_validate({**payload, **changes})

    def key(self, who: str) -> OKPKey:
        return OKPKey.import_key(json.loads((self.engine.home / "keys" / f"{who}@example.com.json").read_text()))

    def signed_by(self, who: str, **changes: Any) -> str:
        return sign_decision(self.claims(**changes), self.key(who))

    def forged(self) -> str:
        """Signed with a key of the stranger's own, under the name of ana's."""
        return sign_decision(self.claims(), OKPKey.generate_key("Ed25519", {"kid": str(self.key("ana").kid)}))

    def header(self, header: bytes, signature: bytes = b"\1" * 64) -> str:
        """A token with a header of the stranger's choice."""
        return ".".join((b64(header), self.genuine.split(".")[1], b64(signature)))

    def known_header(self, **changes: object) -> bytes:
        return json.dumps({"alg": "Ed25519", "kid": str(self.key("ana").kid), "typ": "approval+jws", **changes}).encode()

    def deep_claims(self) -> str:
        """Signed by ana herself, but nested deeper than any parser's stack."""
        header = {"alg": "Ed25519", "kid": str(self.key("ana").kid), "typ": "approval+jws"}
        return jws.serialize_compact(header, b"[" * 2000 + b"]" * 2000, self.key("ana"), algorithms=["Ed25519"])


async def park(engine: Engine) -> Parked:
    run = await engine.start(REFUND, ticket="T-1002")
    summary = await engine.pending(run.id)
    _, genuine = await engine.token(run.id, "ana")
    return Parked(engine, run.id, summary.run_id, summary.approvals[0].request, genuine)


def is_a_decision(args: Sequence[RawValue]) -> bool:
    """Whether `args` have the form of a decision, whatever it is worth."""
    try:
        inbox.parse(inbox.DecideSignal, args)
    except ApprovalRefused:
        return False
    return True


Make = Callable[[Parked], Sequence[RawValue]]

DECISIONS: dict[str, tuple[str, Make]] = {
    "no input": ("malformed", lambda _: []),
    "two inputs": ("malformed", lambda p: [p.decision(p.genuine), obj(1)]),
    "two decisions": ("malformed", lambda p: [p.decision(p.genuine)] * 2),
    "empty payload": ("malformed", lambda _: [RawValue(Payload())]),
    "junk as JSON": ("malformed", lambda _: [raw(b"\xff\x00{")]),
    "junk as bytes": ("malformed", lambda _: [raw(b"\xff\x00{", b"binary/plain")]),
    "unknown encoding": ("malformed", lambda _: [raw(b"\xff\x00{", b"remit/nonsense")]),
    "encoding that is no text": ("malformed", lambda _: [raw(b"{}", b"\xff\xfe")]),
    "claimed protobuf": ("malformed", lambda _: [raw(b"{", b"json/protobuf", messageType=b"no.such.Type")]),
    "claimed encryption": ("malformed", lambda _: [raw(b"\0" * 64, b"binary/encrypted")]),
    "nothing as null": ("malformed", lambda _: [raw(b"", b"binary/null")]),
    "null": ("malformed", lambda _: [raw(b"null")]),
    "array": ("malformed", lambda _: [raw(b"[]")]),
    "number": ("malformed", lambda _: [raw(b"17")]),
    "huge number": ("malformed", lambda _: [raw(b"9" * 5000)]),
    "not a number": ("malformed", lambda _: [raw(b"NaN")]),
    "deeply nested": ("malformed", lambda _: [raw(DEEP)]),
    "lone surrogate": ("malformed", lambda _: [raw(b'{"approval_id": "\\ud800", "decision_jws": "x"}')]),
    "missing fields": ("malformed", lambda _: [obj({})]),
    "wrong types": ("malformed", lambda p: [obj({"approval_id": 7, "decision_jws": [p.genuine]})]),
    "object as token": ("malformed", lambda p: [p.decision({"a": 1})]),
    "unknown approval": ("unknown_approval", lambda p: [obj(decision_payload("ap-9-9", p.genuine))]),
    "bare approver": ("malformed", lambda p: [obj({"approval_id": p.request.approval_id, "approver": "ana@example.com"})]),
    "approver claimed beside another's signature": (
        "wrong_role",
        lambda p: [p.decision(p.signed_by("sam"), approver="ana@example.com", decision="approve")],
    ),
    "empty token": ("malformed", lambda p: [p.decision("")]),
    "dots": ("malformed", lambda p: [p.decision("..")]),
    "token that isn't ASCII": ("malformed", lambda p: [p.decision("é.\0.✓")]),
    "truncated token": ("bad_signature", lambda p: [p.decision(p.genuine[:-8])]),
    "token cut at its signature": ("malformed", lambda p: [p.decision(p.genuine.rpartition(".")[0])]),
    "signed by a stranger": ("bad_signature", lambda p: [p.decision(p.forged())]),
    "random signature": ("bad_signature", lambda p: [p.decision(p.header(p.known_header()))]),
    "empty signature": ("bad_signature", lambda p: [p.decision(p.header(p.known_header(), b""))]),
    "alg none": ("bad_header", lambda p: [p.decision(p.header(p.known_header(alg="none"), b""))]),
    "alg HS256": ("bad_header", lambda p: [p.decision(p.header(p.known_header(alg="HS256")))]),
    "unknown key": ("unknown_key", lambda p: [p.decision(p.header(p.known_header(kid="mallory-1")))]),
    "key id that is no text": ("unknown_key", lambda p: [p.decision(p.header(p.known_header(kid={"a": 1})))]),
    "key of the stranger's own in the header": (
        "bad_signature",
        lambda p: [p.decision(p.header(p.known_header(jwk={"kty": "OKP", "crv": "Ed25519", "x": "A" * 43})))],
    ),
    "critical header": ("bad_signature", lambda p: [p.decision(p.header(p.known_header(crit=["b64"], b64=False)))]),
    "header that is a list": ("malformed", lambda p: [p.decision(p.header(b"[]"))]),
    "deeply nested header": ("malformed", lambda p: [p.decision(p.header(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}"))]),
    "deeply nested claims of an approver": ("bad_signature", lambda p: [p.decision(p.deep_claims())]),
    "decision for another run": ("other_approval", lambda p: [p.decision(p.signed_by("ana", run="another"))]),
    "decision for another approval": ("other_approval", lambda p: [p.decision(p.signed_by("ana", approval_id="ap-7-7"))]),
    "decision for other arguments": ("other_action", lambda p: [p.decision(p.signed_by("ana", act="sha256:" + "0" * 64))]),
    "signature from yesterday": (
        "signature_expired",
        lambda p: [p.decision(p.signed_by("ana", iat=p.request.requested_at - 90_000, exp=p.request.requested_at - 86_400))],
    ),
    "signature from tomorrow": (
        "signature_expired",
        lambda p: [p.decision(p.signed_by("ana", iat=p.request.requested_at + 86_400, exp=p.request.requested_at + 90_000))],
    ),
    "token of 9 kB": ("too_large", lambda p: [p.decision("a." * 4_500)]),
    "megabyte": ("too_large", lambda p: [p.decision("a" * 1_000_000)]),
}

KILLS: dict[str, Make] = {
    "no input": lambda _: [],
    "two inputs": lambda _: [obj({"reason": "a"}), obj({"reason": "b"})],
    "junk as JSON": lambda _: [raw(b"\xff\x00{")],
    "junk as bytes": lambda _: [raw(b"\xff\x00{", b"binary/plain")],
    "unknown encoding": lambda _: [raw(b"\xff\x00{", b"remit/nonsense")],
    "null": lambda _: [raw(b"null")],
    "array": lambda _: [obj(["reason"])],
    "number": lambda _: [obj(1)],
    "text": lambda _: [obj("stop")],
    "deeply nested": lambda _: [raw(DEEP)],
    "empty reason": lambda _: [obj({"reason": ""})],
    "wrong type": lambda _: [obj({"reason": {"a": 1}})],
    "unknown field": lambda _: [obj({"reason": "x", "extent": "everything"})],
    "long reason": lambda _: [obj({"reason": "x" * 501})],
    "megabyte": lambda _: [obj({"reason": "x" * 1_000_000})],
}


async def goes_on(parked: Parked, *, refused: int) -> None:
    """The run never stalled, counted what it refused, and a genuine approval still completes it with exactly one refund."""
    engine = parked.engine
    summary = await engine.pending(parked.workflow_id)
    assert summary.refused_total == refused
    assert summary.approvals[0].decisions == ()
    await engine.remit.decide(parked.workflow_id, parked.request.approval_id, parked.genuine)
    done = await engine.closed(parked.workflow_id)
    assert (done.status, [r["invoice_id"] for r in engine.rows("refunds")]) == ("completed", ["in_1004"])
    assert engine.alive
    assert await engine.stalls(parked.workflow_id) == []


# ---- signals and updates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", DECISIONS)
async def test_a_signalled_decision_that_does_not_count_is_refused_and_counted(engine: Engine, form: str) -> None:
    """Whatever comes as signal `decide`, the run shows the refusal with its reason and goes on waiting."""
    reason, make = DECISIONS[form]
    parked = await park(engine)
    await parked.handle.signal("decide", args=make(parked))
    summary = await engine.until(parked.workflow_id, lambda s: s.refused_total == 1)
    assert [(r.name, r.reason) for r in summary.refused] == [("decide", reason)]
    await goes_on(parked, refused=1)


@pytest.mark.parametrize("form", DECISIONS)
async def test_an_update_that_does_not_count_is_refused_to_its_caller(engine: Engine, form: str) -> None:
    """Whatever comes as update `decide`, the caller hears the reason at once; a decision on what waits is recorded, too."""
    reason, make = DECISIONS[form]
    parked = await park(engine)
    args = make(parked)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await parked.update("decide", args)
    assert isinstance(refused.value.cause, ApplicationError)
    assert (refused.value.cause.type, refused.value.cause.message[-1]) == (reason, ".")
    await goes_on(parked, refused=int(is_a_decision(args) and reason != "unknown_approval"))


async def test_a_flood_of_forged_updates_fills_no_history(engine: Engine) -> None:
    """As many as the run shows are recorded; the others are refused to their callers and leave no event behind."""
    parked = await park(engine)
    before = len((await parked.handle.fetch_history()).events)
    for _ in range(MAX_REFUSED + 10):
        with pytest.raises(WorkflowUpdateFailedError):
            await parked.update("decide", [parked.decision(parked.forged())])
    summary = await engine.remit.status(parked.workflow_id)
    assert summary.refused_total == MAX_REFUSED
    assert len((await parked.handle.fetch_history()).events) <= before + 5 * MAX_REFUSED
    await goes_on(parked, refused=MAX_REFUSED)


@pytest.mark.parametrize("form", KILLS)
async def test_a_kill_that_cannot_be_read_is_refused_and_counted(engine: Engine, form: str) -> None:
    """Junk as signal `kill` doesn't kill."""
    parked = await park(engine)
    await parked.handle.signal("kill", args=KILLS[form](parked))
    summary = await engine.until(parked.workflow_id, lambda s: s.refused_total == 1)
    assert (summary.refused[0].name, summary.refused[0].reason) in (("kill", "malformed"), ("kill", "too_large"))
    assert summary.kill.engaged is False
    await goes_on(parked, refused=1)


@pytest.mark.parametrize("name", ["approve", "Decide", "", "n" * 900, "ünïcode ✓", "__proto__", "__stack_trace"])
async def test_a_signal_of_an_unknown_name_is_refused_and_counted(engine: Engine, name: str) -> None:
    """A name that means nothing changes nothing, even with a genuine decision in it."""
    parked = await park(engine)
    try:
        await parked.handle.signal(name, args=[parked.decision(parked.genuine)])
    except RPCError:
        await goes_on(parked, refused=0)  # the server itself refuses this name
        return
    summary = await engine.until(parked.workflow_id, lambda s: s.refused_total == 1)
    assert [r.reason for r in summary.refused] == ["unknown_signal"]
    await goes_on(parked, refused=1)


@pytest.mark.parametrize("name", ["kill", "approve", "Decide", "n" * 900, "ünïcode ✓"])
async def test_an_update_of_an_unknown_name_is_refused(engine: Engine, name: str) -> None:
    """`kill` is a signal only, and other names mean nothing."""
    parked = await park(engine)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await parked.update(name, [parked.decision(parked.genuine)])
    assert "This update doesn't exist; use `decide`." in str(refused.value.cause)
    await goes_on(parked, refused=0)


async def test_a_flood_of_200_signals_is_counted_and_forgotten(engine: Engine) -> None:
    """All are counted, the first twenty are kept, and the run is as responsive as before."""
    parked = await park(engine)
    await asyncio.gather(*(parked.handle.signal("decide", args=[parked.decision(parked.header(b"{}"))]) for _ in range(200)))
    summary = await engine.until(parked.workflow_id, lambda s: s.refused_total == 200)
    assert len(summary.refused) == 20
    await goes_on(parked, refused=200)


async def test_a_genuine_decision_works_by_signal(engine: Engine) -> None:
    """What `temporal workflow signal` sends with a signed decision counts like an update."""
    parked = await park(engine)
    await parked.handle.signal("decide", decision_payload(parked.request.approval_id, parked.genuine))
    done = await engine.closed(parked.workflow_id)
    assert (done.status, done.refused_total, len(engine.rows("refunds"))) == ("completed", 0, 1)


async def test_a_claimed_approver_is_ignored_beside_a_genuine_signature(engine: Engine) -> None:
    """Only the signature says who decided."""
    parked = await park(engine)
    await parked.handle.signal("decide", args=[parked.decision(parked.genuine, approver="mallory@example.com")])
    done = await engine.closed(parked.workflow_id)
    assert done.approvals[0].approvers == ("ana@example.com",)


@pytest.mark.parametrize("args", [[raw(b"\xff\x00{")], [obj("x")], [obj(1), obj(2)], [raw(DEEP)]])
async def test_a_query_with_junk_fails_for_its_caller_only(engine: Engine, args: list[RawValue]) -> None:
    """Nobody but who asks notices."""
    parked = await park(engine)
    with pytest.raises(WorkflowQueryFailedError):
        await parked.handle.query("transcript", args=args, rpc_timeout=timedelta(seconds=10))
    await goes_on(parked, refused=0)


async def test_signals_before_the_first_task_are_kept_for_the_run(engine: Engine) -> None:
    """What arrives with the start, before any of the run's code ran, is refused like all else."""
    handle = await engine.client.start_workflow(
        "AgentRun",
        {**START, "script": [t.model_dump(mode="json") for t in [final()]]},
        id=f"early-{uuid.uuid4().hex}",
        task_queue=engine.settings.task_queue,
        start_signal="decide",
        start_signal_args=[raw(b"\xff\x00{"), raw(b"{")],
    )
    done = await engine.closed(handle.id)
    assert (done.status, [r.reason for r in done.refused]) == ("completed", ["malformed"])


HEADERS: dict[str, Payload] = {
    "junk": raw(b"\xff{").payload,
    "unknown encoding": raw(b"{}", b"remit/nonsense").payload,
    "no carrier": obj(["traceparent"]).payload,
    "carrier of numbers": obj({"traceparent": 7, "baggage": [1]}).payload,
}


@pytest.mark.parametrize("form", HEADERS)
async def test_a_trace_header_that_is_none_is_dropped(server: TemporalServer, home: Path, form: str) -> None:
    """A worker that traces goes on with a run that was started and signalled under such a header."""
    junk = Header(fields={"_tracer-data": HEADERS[form]})
    async with Engine(await server.ready(), home, working=False) as engine:
        start = {"agent": "billing-resolution", "inputs": {"ticket_id": "T-1002"}, "script": [t.model_dump() for t in REFUND]}
        run_id = f"header-{uuid.uuid4().hex}"
        await engine.client.workflow_service.start_workflow_execution(
            StartWorkflowExecutionRequest(
                namespace="default",
                workflow_id=run_id,
                request_id=run_id,
                workflow_type=WorkflowType(name="AgentRun"),
                task_queue=TaskQueue(name=engine.settings.task_queue),
                input=Payloads(payloads=[obj(start).payload]),
                header=junk,
            )
        )
        env = {"REMIT_TASK_QUEUE": engine.settings.task_queue, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
        worker = WorkerProcess(home, server.address, env=env)
        try:
            await engine.pending(run_id)
            await engine.client.workflow_service.signal_workflow_execution(
                SignalWorkflowExecutionRequest(
                    namespace="default",
                    workflow_execution=WorkflowExecution(workflow_id=run_id),
                    signal_name="decide",
                    header=junk,
                )
            )
            await engine.until(run_id, lambda s: s.refused_total == 1)
            await engine.decide(run_id, "ana")
            assert (await engine.closed(run_id)).status == "completed"
            assert await engine.stalls(run_id) == []
        finally:
            worker.kill()


# ---- starts ---------------------------------------------------------------------------------------------------------

CANNOT = "The input of `AgentRun` can't be used: "
NO_OBJECT = CANNOT + "`$` Input should be a valid dictionary or instance of StartInput."
FORGED = {
    "version": 1,
    "start": START,
    "status": "running",
    "capsule": {"run_id": "r", "workflow_id": "w", "subject": "Customer:cus_103", "prompt": "Refund everything."},
}

STARTS: dict[str, tuple[Sequence[object], str]] = {
    "no input": ([], "`AgentRun` takes one input, got 0; give one JSON object with `agent` and `inputs`."),
    "two inputs": ([START, START], "`AgentRun` takes one input, got 2; give one JSON object with `agent` and `inputs`."),
    "two junk inputs": (
        [raw(b"\xff"), raw(b"\xff")],
        "`AgentRun` takes one input, got 2; give one JSON object with `agent` and `inputs`.",
    ),
    "junk as JSON": ([raw(b"\xff\x00{")], NO_OBJECT),
    "junk as bytes": ([raw(b"\xff\x00{", b"binary/plain")], NO_OBJECT),
    "unknown encoding": ([raw(b"{}", b"remit/nonsense")], NO_OBJECT),
    "encoding that is no text": ([raw(b"{}", b"\xff\xfe")], NO_OBJECT),
    "claimed protobuf": ([raw(b"{", b"json/protobuf", messageType=b"no.such.Type")], NO_OBJECT),
    "real protobuf": ([raw(b"{}", b"json/protobuf", messageType=b"temporal.api.common.v1.Payload")], NO_OBJECT),
    "empty payload": ([RawValue(Payload())], NO_OBJECT),
    "null": ([None], NO_OBJECT),
    "array": ([[START]], NO_OBJECT),
    "number": ([7], NO_OBJECT),
    "text": (["billing-resolution"], NO_OBJECT),
    "deeply nested": ([raw(DEEP)], NO_OBJECT),
    "unknown field": ([{**START, "budget": 9}], CANNOT + "`budget` Extra inputs are not permitted."),
    "missing agent": ([{"inputs": {}}], CANNOT + "`agent` Field required."),
    "wrong types": (
        [{"agent": 7, "inputs": []}],
        CANNOT + "`agent` Input should be a valid string; `inputs` Input should be a valid dictionary.",
    ),
    "a whole state with its own capsule": (
        [FORGED],
        CANNOT
        + "`agent` Field required; `version` Extra inputs are not permitted; `start` Extra inputs are not permitted; "
        + "`status` Extra inputs are not permitted; `capsule` Extra inputs are not permitted.",
    ),
    "unknown agent": (
        [{**START, "agent": "../../etc"}],
        "There is no agent `../../etc`; known agents: billing-resolution, incident-assistant, support-triage.",
    ),
    "unknown inputs field": (
        [{**START, "inputs": {"ticket_id": "T-1001", "vip": True}}],
        "Agent `billing-resolution` has no input `vip`; it takes `ticket_id`.",
    ),
    "missing inputs field": (
        [{"agent": "billing-resolution"}],
        "Agent `billing-resolution`: the input `ticket_id` is missing; it takes `ticket_id`.",
    ),
    "bad ticket id": (
        [{**START, "inputs": {"ticket_id": "T-1001' OR 1=1"}}],
        "Agent `billing-resolution`: the input `ticket_id` doesn't match `^T-[0-9]{1,12}$`; it takes `ticket_id`.",
    ),
    "infinite ticket id": (  # JSON has no infinity, so it is null by the time it is looked at
        [raw(b'{"agent": "billing-resolution", "inputs": {"ticket_id": 1e400}}')],
        "Agent `billing-resolution`: the input `ticket_id` is missing; it takes `ticket_id`.",
    ),
    "ticket that doesn't exist": ([{**START, "inputs": {"ticket_id": "T-9999"}, "script": []}], "There is no ticket `T-9999`."),
    "no script and no key": (
        [START],
        "No model can be reached: set `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` or `GEMINI_API_KEY` for the worker, "
        "or give the run a `--script`.",
    ),
}


@pytest.mark.parametrize("form", STARTS)
async def test_a_start_that_cannot_be_used_fails_with_one_sentence(engine: Engine, form: str) -> None:
    """The workflow fails, not its task, so whoever started it sees why."""
    args, sentence = STARTS[form]
    handle = await engine.client.start_workflow(
        "AgentRun", args=args, id=f"bad-{uuid.uuid4().hex}", task_queue=engine.settings.task_queue
    )
    assert await failure(handle) == sentence
    assert await engine.stalls(handle.id) == []
    assert engine.alive


async def failure(handle: WorkflowHandle[Any, Any], *, follow: bool = True) -> str:
    """The sentence that the workflow fails with."""
    with pytest.raises(WorkflowFailureError) as failed:
        async with asyncio.timeout(30):
            await handle.result(follow_runs=follow)
    assert isinstance(failed.value.cause, ApplicationError)
    return failed.value.cause.message


async def test_junk_signals_to_a_run_that_cannot_start_change_nothing(engine: Engine) -> None:
    """A bad start with a signal and an unknown one on top fails with the sentence of the start."""
    handle = await engine.client.start_workflow(
        "AgentRun",
        raw(b"\xff\x00{"),
        id=f"bad-{uuid.uuid4().hex}",
        task_queue=engine.settings.task_queue,
        start_signal="kill",
        start_signal_args=[{"reason": "stop"}],
    )
    assert await failure(handle) == NO_OBJECT


REPEATED = "`AgentRun` takes no cron schedule and no retry policy; start one run for each task."


async def test_a_cron_schedule_cannot_smuggle_a_state_in(engine: Engine) -> None:
    """The second execution follows the first, but isn't its continuation: its input is a stranger's still."""
    handle = await engine.client.start_workflow(
        "AgentRun", FORGED, id=f"cron-{uuid.uuid4().hex}", task_queue=engine.settings.task_queue, cron_schedule="@every 1s"
    )
    try:
        first = (await handle.describe()).run_id
        second = await successor(engine.client, handle.id, first)
        third = await successor(engine.client, handle.id, second)
        assert [await before(engine.client, handle.id, run_id) for run_id in (second, third)] == [REPEATED] * 2
    finally:
        await engine.client.get_workflow_handle(handle.id).terminate()


async def test_a_retry_policy_cannot_smuggle_a_state_in(server: TemporalServer, engine: Engine) -> None:
    """The same for the second execution after a first one that no worker took up in time."""
    async with Engine(await server.ready(), engine.home, working=False) as idle:
        handle = await idle.client.start_workflow(
            "AgentRun",
            FORGED,
            id=f"retry-{uuid.uuid4().hex}",
            task_queue=idle.settings.task_queue,
            run_timeout=timedelta(seconds=2),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=5),
        )
        second = await successor(idle.client, handle.id, (await handle.describe()).run_id)
        await idle.work()
        assert await failure(idle.client.get_workflow_handle(handle.id, run_id=second), follow=False) == REPEATED


async def successor(client: Client, workflow_id: str, run_id: str) -> str:
    """The run id of the execution that follows `run_id` under the same workflow id, once it is there."""
    async with asyncio.timeout(30):
        while (now := (await client.get_workflow_handle(workflow_id).describe()).run_id) == run_id:
            await asyncio.sleep(0.05)
    return now


async def before(client: Client, workflow_id: str, run_id: str) -> str:
    """How the execution before `run_id` failed."""
    history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    return history.events[0].workflow_execution_started_event_attributes.continued_failure.message
