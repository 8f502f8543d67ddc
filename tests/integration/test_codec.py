"""Whole runs with the codec on: everything works as without, and nobody without the key reads anything of them."""

import asyncio
import re
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import cast

import pytest
from google.protobuf import json_format
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RawValue
from temporalio.worker import Replayer

from policies.approvals import decision_payload
from policies.errors import InvalidInput
from remit.client import Remit, RunFailed
from remit.codec import Unreadable
from remit.codec_keys import CodecKeyFile
from remit.connection import converter
from remit.embedded import TemporalServer, WorkerProcess
from remit.files import write_private
from remit.settings import Settings
from tests.engine import Engine, call, final, turn
from tools.connectors import sandbox
from worker import runner
from workflows.agent_run import AgentRun
from workflows.messages import ENCRYPTED, ENCRYPTION_KEY, RunResult

REFUND = turn(
    call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"),
    text="He says his quarter closing is near.",
)
TOUR = [turn(call("get_ticket", ticket_id="T-1002")), turn(call("list_invoices", customer_id="cus_102")), REFUND]
END = final(summary="Deepak Rao gets his money back.")
REASON = "Called deepak.rao on his mobile, he confirms."
# The customer and what he wrote, tools' arguments, who asked, who approved and why, the model's words, the prompt.
PERSONAL = (
    "Deepak",
    "raologistics",
    "cus_102",
    "T-1002",
    "in_1004",
    "12000,",  # without the comma, one id in some thousands has it by chance
    "SECOND mail",
    "sam@example.com",
    "ana@example.com",
    "on his mobile",
    "quarter closing",
    "money back",
    "You are the billing agent",
)


def settings_of(home: Path, **more: object) -> Settings:
    return Settings.model_validate({"home": home, "codec": True, **more})


@pytest.fixture
async def private(server: TemporalServer, home: Path) -> AsyncGenerator[Engine]:
    """An engine whose clients and worker encrypt."""
    settings = settings_of(home)
    client = await server.ready(data_converter=converter(settings))
    async with Engine(client, home, overrides={"codec": True}) as found:
        yield found


async def events_of(client: Client, workflow_id: str) -> bytes:
    """The history as whoever may read the namespace sees it: all bytes of all events."""
    found = b""
    async for event in client.get_workflow_handle(workflow_id).fetch_history_events():
        found += event.SerializeToString()
    return found


def payloads_in(value: object) -> Generator[Payload]:
    """The encrypted payloads in an exported history."""
    if isinstance(value, dict):
        found = cast("dict[str, object]", value)
        if {*found} == {"metadata", "data"} and ENCRYPTION_KEY in cast("dict[str, object]", found["metadata"]):
            yield json_format.ParseDict(found, Payload())
        for inner in found.values():
            yield from payloads_in(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from payloads_in(inner)


async def opened(engine: Engine, workflow_id: str) -> bytes:
    """What the key makes of the history: the words that are looked for do stand in it."""
    codec = engine.client.data_converter.payload_codec
    assert codec
    history = await engine.remit.handle(workflow_id).fetch_history()
    payloads = await codec.decode([*payloads_in(history.to_json_dict())])
    return b"".join(p.SerializeToString() for p in payloads)


async def shown(client: Client, workflow_id: str) -> bytes:
    """What lists and the page of a run show: ids, search attributes, memo, summary and details."""
    described = await client.get_workflow_handle(workflow_id).describe()
    return described.raw_description.SerializeToString()


def found_in(data: bytes) -> list[str]:
    return [word for word in PERSONAL if word.encode() in data]


def stored(engine: Engine) -> bytes:
    """All bytes of all values that were too large for history."""
    return b"".join(p.read_bytes() for p in sorted(Path(engine.settings.storage_place).rglob("*")) if p.is_file())


async def park(engine: Engine) -> WorkflowHandle[object, RunResult]:
    run = await engine.start([*TOUR, END], ticket="T-1002", requester="sam@example.com")
    await engine.pending(run.id)
    return run


async def test_a_run_works_and_nobody_reads_it(private: Engine, server: TemporalServer) -> None:
    """Approved and carried out once; history, summary, details and attributes hold nothing of anybody."""
    stranger = await server.ready()
    run = await park(private)
    await private.decide(run.id, "ana", reason=REASON)
    summary = await private.closed(run.id)
    assert (summary.status, summary.summary) == ("completed", "Deepak Rao gets his money back.")
    assert len(private.rows("refunds")) == 1
    assert "SECOND mail" in "".join(await private.remit.transcript(run.id))
    for data in (await events_of(stranger, run.id), await shown(stranger, run.id)):
        assert found_in(data) == []
    assert found_in(await opened(private, run.id)) == [*PERSONAL]


async def test_signals_edits_and_the_kill_are_encrypted(private: Engine, server: TemporalServer) -> None:
    """A decision by signal, an edit by update and a kill work, and their reasons and signatures can't be read."""
    stranger = await server.ready()
    run = await park(private)
    await private.edit(run.id, "ana", reason=REASON, amount_cents=11000)
    await private.pending(run.id)
    name, token = await private.token(run.id, "bo", "reject", reason="Deepak took the money back.")
    await run.signal("decide", decision_payload(name, token))
    assert [a.status for a in (await private.closed(run.id)).approvals][-1] == "rejected"
    data = await events_of(stranger, run.id)
    assert found_in(data) == []
    assert token.encode() not in data
    other = await private.start([REFUND], ticket="T-1002")
    await private.pending(other.id)
    state = await private.remit.kill(other.id, "Deepak is on the phone.", by="cleo@example.com")
    assert (state.reason, state.by) == ("Deepak is on the phone.", "cleo@example.com")
    data = await events_of(stranger, other.id) + await shown(stranger, other.id)
    assert found_in(data) == []
    assert b"on the phone" not in data


async def test_a_failure_is_encrypted(private: Engine, server: TemporalServer) -> None:
    """Who has the key reads why the run failed; nobody else does."""
    stranger = await server.ready()
    run = await private.start([final()], ticket="T-9876")
    with pytest.raises(RunFailed, match="T-9876"):
        await private.remit.result(run.id)
    data = await events_of(stranger, run.id)
    assert b"T-9876" not in data
    assert b"Encoded failure" in data
    with pytest.raises(RunFailed) as caught:
        await Remit(stranger).result(run.id)
    assert "T-9876" not in caught.value.message


async def test_a_worker_that_never_saw_the_run_carries_on(private: Engine) -> None:
    """It replays the encrypted history, and asks the run for its transcript through the codec."""
    run = await park(private)
    await private.rest()
    await private.work()
    await private.decide(run.id, "ana", reason=REASON)
    assert (await private.closed(run.id)).status == "completed"
    history = await private.remit.handle(run.id).fetch_history()
    with_key = Replayer(workflows=[AgentRun], workflow_runner=runner(), data_converter=private.client.data_converter)
    await with_key.replay_workflow(history)


async def test_it_is_switched_on_under_an_open_run(private: Engine, server: TemporalServer) -> None:
    """What the history holds already is read as it is, and what comes is encrypted."""
    await private.rest()
    async with Engine(await server.ready(), private.home, overrides={"task_queue": private.settings.task_queue}) as plain:
        run = await park(plain)
    before = await events_of(plain.client, run.id)
    await private.work()
    await private.decide(run.id, "ana", reason=REASON)
    assert (await private.closed(run.id)).status == "completed"
    after = (await events_of(plain.client, run.id))[len(before) :]
    assert (b"Deepak" in before, b"Deepak" in after, b"on his mobile" in after) == (True, False, False)


async def test_a_long_run_carries_its_state_over_encrypted(server: TemporalServer, home: Path, library: Path) -> None:
    """Continue-as-new: the second segment reads what the first handed on and put into storage, and nobody else can."""
    limits = library / "policies" / "bundles" / "refunds_v7" / "limits.toml"
    limits.write_text(re.sub(r"^tokens = .*$", "tokens = 20000000", limits.read_text(), flags=re.MULTILINE))
    client = await server.ready(data_converter=converter(settings_of(home)))
    async with Engine(client, home, overrides={"codec": True, "history_events": 80}) as engine:
        words = "He says his quarter closing is near. " * 1000
        reads = [turn(call("search_kb", query=f"zzz{n}"), text=f"{n}. {words}") for n in range(14)]
        run = await engine.start([TOUR[0], *reads, REFUND, END], ticket="T-1002", requester="sam@example.com")
        await engine.pending(run.id)
        await engine.decide(run.id, "ana", reason=REASON)
        assert (await engine.closed(run.id)).status == "completed"
        assert (await run.describe()).run_id != run.first_execution_run_id
        for segment in (run.first_execution_run_id, None):
            handle = engine.client.get_workflow_handle(run.id, run_id=segment)
            data = b"".join([e.SerializeToString() async for e in handle.fetch_history_events()])
            assert found_in(data) == []
        kept = stored(engine)
        assert len(kept) > 1000
        assert found_in(kept) == []
        assert words in "".join(await engine.remit.transcript(run.id))


async def test_a_plain_client_starts_and_decides(private: Engine, server: TemporalServer) -> None:
    """Who has no key can start a run and send a signed decision; what the run answers is for those who have it."""
    plain = Engine(await server.ready(), private.home, overrides={"task_queue": private.settings.task_queue}, working=False)
    run = await plain.start([REFUND, END], ticket="T-1002")
    await private.pending(run.id)
    name, token = await private.token(run.id, "ana")
    await plain.remit.handle(run.id).signal("decide", decision_payload(name, token))
    assert (await private.closed(run.id)).status == "completed"
    with pytest.raises(Unreadable, match=r"^A payload is encrypted with codec key `1-[0-9a-f]{16}`, which isn't here; set"):
        await plain.remit.status(run.id)
    with pytest.raises(Unreadable):
        await plain.remit.result(run.id)


async def test_forged_ciphertext_stops_nothing(private: Engine, server: TemporalServer) -> None:
    """A signal under our encoding that nobody here encrypted is refused and shown; the run can still be approved."""
    stranger = await server.ready()
    run = await park(private)
    handle = stranger.get_workflow_handle(run.id)
    for name in (b"1-0000000000000000", b"7-0000000000000000", private_key_name(private).encode()):
        junk = Payload(metadata={"encoding": ENCRYPTED, ENCRYPTION_KEY: name}, data=b"x" * 60)
        await handle.signal("kill", RawValue(junk))
        await handle.signal("decide", RawValue(junk))
    summary = await private.until(run.id, lambda s: s.refused_total == 6)
    assert {r.message for r in summary.refused} == {"The payload is encrypted, but not with a key that the worker has."}
    await private.decide(run.id, "ana")
    assert (await private.closed(run.id)).status == "completed"
    assert await private.stalls(run.id) == []


def private_key_name(engine: Engine) -> str:
    return CodecKeyFile(engine.settings.codec_keys_path, env="dev")().current


async def test_a_run_waits_for_a_key_that_is_on_its_way(private: Engine, server: TemporalServer, tmp_path: Path) -> None:
    """A signal under a key that the worker doesn't have yet is neither lost nor refused: it counts when the key is there."""
    keys = private.settings.codec_keys_path
    ahead = tmp_path / "ahead.json"
    ahead.write_bytes(keys.read_bytes())
    CodecKeyFile(ahead, env="dev").rotate()
    run = await park(private)
    newer = await server.ready(data_converter=converter(settings_of(private.home, codec_keys=ahead)))
    name, token = await private.token(run.id, "ana")
    await newer.get_workflow_handle(run.id).signal("decide", decision_payload(name, token))
    async with asyncio.timeout(30):
        while not await private.stalls(run.id):
            await asyncio.sleep(0.1)
    write_private(keys, ahead.read_text())
    assert (await private.closed(run.id)).status == "completed"
    assert len(private.rows("refunds")) == 1


async def test_a_worker_without_the_key_harms_no_run(private: Engine, server: TemporalServer) -> None:
    """Its tasks fail, naming the key; the run waits for a worker that has it."""
    await private.rest()
    same = {"task_queue": private.settings.task_queue}
    async with Engine(await server.ready(), private.home, overrides=same) as keyless:
        run = await private.start([REFUND, END], ticket="T-1002")
        async with asyncio.timeout(30):
            while not await keyless.stalls(run.id):
                await asyncio.sleep(0.1)
        events = await events_of(keyless.client, run.id)
    assert f"encrypted with codec key `{private_key_name(private)}`, which isn't here; set `REMIT_CODEC=on`".encode() in events
    await private.work()
    await private.pending(run.id)


async def test_a_run_id_holds_no_address(private: Engine) -> None:
    """Ids can't be encrypted, so `remit run` takes none with an e-mail address; versions and times are fine."""
    for name in ("ada@example.com", "refund/ada@example.co.uk-1"):
        with pytest.raises(InvalidInput) as caught:
            await private.start([END], run_id=name)
        assert caught.value.message == "A run id is never encrypted, and in every log: leave e-mail addresses out of it."
    await private.start([END], run_id="billing@1.2:2026-11-28/a")


@pytest.mark.parametrize("codec", ["on", "off"])
async def test_logs_hold_nothing_personal(server: TemporalServer, home: Path, codec: str) -> None:
    """Not at the finest level, of worker or server: of runs that were approved, rejected, killed and failed."""
    settings = settings_of(home, codec=codec)
    client = await server.ready(data_converter=converter(settings))
    async with Engine(client, home, overrides={"codec": settings.codec}, working=False) as engine:
        env = {"REMIT_CODEC": codec, "REMIT_LOG_LEVEL": "DEBUG", "REMIT_TASK_QUEUE": engine.settings.task_queue}
        sandbox.arm(engine.settings.business_path, "refund", "in_1004", "error_after_commit")
        worker = WorkerProcess(home, server.address, env=env)
        try:
            async with asyncio.timeout(60):
                while b'"event": "working"' not in worker.log.read_bytes():
                    await asyncio.sleep(0.1)
            rejected = await engine.start([REFUND, END], ticket="T-1002", requester="sam@example.com")
            await engine.pending(rejected.id)
            await engine.decide(rejected.id, "ana", "reject", reason=REASON)
            await engine.closed(rejected.id)
            killed = await engine.start([turn(call("get_ticket", ticket_id="T-1001")), REFUND, END], ticket="T-1002")
            await engine.pending(killed.id)
            await engine.remit.kill(killed.id, REASON, by="ana@example.com")
            approved = await park(engine)
            await engine.decide(approved.id, "ana", reason=REASON)
            await engine.closed(approved.id)
            lost = await engine.start([END], ticket="T-9876")
            with pytest.raises(RunFailed):
                await engine.remit.result(lost.id)
        finally:
            worker.stop()
    said = worker.log.read_bytes()
    assert b'"level": "debug"' in said
    assert b"ApplicationError: not_found" in said
    assert found_in(said + server.log.read_bytes()) == []
    assert b"T-9876" not in said
