"""Results too long to show, and payloads too large for history: kept outside, read on by their run alone, replayed."""

import json
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Replayer

import worker
from activities.capabilities import Capabilities
from activities.providers.base import Completion, ModelRequest
from activities.providers.scripted import ScriptedProvider
from activities.results import HEAD_BYTES, StoredResults
from activities.runs import Runs
from activities.storage import storage_at
from activities.tool import ToolActivities
from policies.canonical import sha256
from policies.errors import StoredValueLost
from remit.client import Remit, RunFailed
from remit.connection import converter
from remit.embedded import TemporalServer
from remit.keyring import RootKeys
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn, uncapped
from tools import registry
from tools.builtin import CATALOG
from workflows.agent_run import AgentRun
from workflows.messages import AssistantMessage, Capsule, ReadTool, ScriptCall, ScriptTurn, ToolMessage, ToolOutcome

BIG = 150_000  # lines of the test app: 5 MB
LONG = 2_000  # 66 KB


class Reader(ScriptedProvider):
    """A scripted model that can read: `$ref` and `$next` in its calls are those of the last answer that has them."""

    async def complete(self, request: ModelRequest) -> Completion:
        completion = await super().complete(request)
        seen = "".join(m.content for m in request.messages if isinstance(m, ToolMessage))
        found = {
            "$ref": re.findall(r'"ref":\s?"([^"]+)', seen)[-1:],
            "$next": re.findall(r'"next_offset":\s?(\d+)', seen)[-1:],
        }
        text = completion.message.model_dump_json()
        for name, values in found.items():
            text = text.replace(f'\\"{name}\\"' if name == "$next" else name, values[0] if values else "0")
        return completion.model_copy(update={"message": AssistantMessage.model_validate_json(text)})


@pytest.fixture
async def engine(server: TemporalServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Engine]:
    """A worker with the app `archive`, and a scripted model that can read."""
    monkeypatch.setattr(worker, "_providers", lambda *_: {"scripted": Reader()})  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    client = await server.ready()
    async with Engine(client, home, overrides={"app": ROOT / "tests" / "apps" / "archive"}) as found:
        yield found
    registry.install(CATALOG)


async def run(engine: Engine, *turns: ScriptTurn) -> str:
    """A run of the app's agent, from start to end."""
    handle = await engine.start([*turns, final()], agent="archivist")
    await engine.closed(handle.id)
    return handle.id


async def ref_of(engine: Engine, tool: str = "export", lines: int = LONG) -> tuple[str, str]:
    """A closed run that got one long result, and the result's reference."""
    workflow_id = await run(engine, turn(call(tool, kind="mail", lines=lines)))
    [answer] = await engine.answers(workflow_id)
    return workflow_id, answer["ref"]


async def history_bytes(engine: Engine, workflow_id: str) -> int:
    history = await engine.remit.handle(workflow_id).fetch_history()
    return sum(event.ByteSize() for event in history.events)


async def offered(engine: Engine, workflow_id: str) -> list[bool]:
    """Whether `read_more` was offered, by model call: always, for vendors cache what each request begins with."""
    history = await engine.remit.handle(workflow_id).fetch_history()
    inputs = [
        json.loads(event.activity_task_scheduled_event_attributes.input.payloads[0].data)
        for event in history.events
        if event.activity_task_scheduled_event_attributes.activity_type.name == "call_model"
    ]
    return [given["paging"] for given in inputs]


async def test_a_result_of_5_mb_costs_history_its_head(engine: Engine) -> None:
    """The run completes, the model gets a head with a reference, and history holds no more than that."""
    workflow_id = await run(engine, turn(call("export", kind="sales", lines=BIG)))
    [answer] = await engine.answers(workflow_id)
    assert answer["truncated"] is True
    assert answer["bytes"] > 5_000_000
    assert answer["head"].startswith('{"text":"sales line 000000 – naïve café\\n')
    assert HEAD_BYTES - 4 < len(answer["head"].encode()) == answer["next_offset"] <= HEAD_BYTES
    assert await history_bytes(engine, workflow_id) < 40_000
    assert await offered(engine, workflow_id) == [True, True]


def more(ref: str = "$ref", offset: object = "$next", limit: int = 16_000) -> ScriptCall:
    return call("read_more", ref=ref, offset=offset, limit=limit)


async def test_the_model_reads_on_to_the_end_of_a_result(engine: Engine) -> None:
    """Head and pages together are the whole result, though pages are cut at any byte; each page counts as a tool call."""
    workflow_id = await run(engine, turn(call("export", kind="sales", lines=1200)), *[turn(more(limit=10_007))] * 4)
    head, *pages = await engine.answers(workflow_id)
    assert [page["offset"] for page in pages] == [head["next_offset"], *(page["next_offset"] for page in pages[:-1])]
    assert pages[-1]["next_offset"] is None
    whole = json.loads(head["head"] + "".join(page["text"] for page in pages))
    assert whole["text"].splitlines()[::1199] == ["sales line 000000 – naïve café", "sales line 001199 – naïve café"]
    assert len(whole["text"].splitlines()) == 1200
    assert (await engine.remit.status(workflow_id)).usage.tool_calls == 5
    assert await offered(engine, workflow_id) == [True] * 6


async def test_a_result_within_the_bundles_limit_is_shown_whole(engine: Engine) -> None:
    """The app's bundle says 20,000 bytes; nothing is stored."""
    workflow_id = await run(engine, turn(call("export", kind="sales", lines=550)))
    [answer] = await engine.answers(workflow_id)
    assert len(answer["text"].splitlines()) == 550
    assert await offered(engine, workflow_id) == [True, True]
    assert not (engine.home / "storage").exists()


async def test_a_write_with_a_long_result_happens_once_and_shows_its_head(engine: Engine) -> None:
    """What was written is in the ledger whole; the model may read on in it as in a read's result."""
    workflow_id = await run(engine, turn(call("archive", customer_id="cus_101", lines=LONG)), turn(more()))
    head, page = await engine.answers(workflow_id)
    assert head["truncated"] is True
    assert page["text"].startswith(engine.effects()[0].outcome.encode()[head["next_offset"] :].decode()[:100])
    assert len(engine.rows("account_notes")) == 1


async def test_another_runs_result_is_refused(engine: Engine) -> None:
    """A model that knows the reference of another run's result learns nothing, in the workflow already."""
    _, ref = await ref_of(engine)
    workflow_id = await run(engine, turn(more(ref, 0)), turn(more("sha256:" + "0" * 64, 0)), turn(more("../../x", 0)))
    assert await engine.errors(workflow_id) == [
        ("unknown_ref", f"This run has no result `{ref}`."),
        ("unknown_ref", f"This run has no result `sha256:{'0' * 64}`."),
        ("validation_failed", "`read_more`: `ref` String should match pattern '^sha256:[0-9a-f]{64}$'"),
    ]


async def test_a_worker_of_strangers_cannot_read_another_runs_result(engine: Engine) -> None:
    """Past the workflow, the activity itself compares the run's capsule, which its capability binds to the caller."""
    first, ref = await ref_of(engine)
    second = (await engine.start([turn(call("export", kind="x", lines=LONG)), final()], agent="archivist")).id
    await engine.closed(second)
    capsules = [await engine.remit.handle(w).query("capsule", result_type=Capsule) for w in (first, second)]

    async def read(caller: str, capsule: Capsule, capability: Capsule) -> ToolOutcome:
        minted = capability.capability
        assert minted
        call = ReadTool(
            capsule=capsule.digest,
            subject=capsule.subject,
            corpus="",
            tool="read_more",
            arguments=json.dumps({"ref": ref, "offset": 0}),
            call_id="c",
            slot=9,
            capability=minted.id,
            result_bytes=20_000,
        )
        keys = RootKeys(engine.settings.root_keys_path, env="dev")
        audience = f"{engine.client.namespace}/{engine.settings.task_queue}"
        storage = storage_at(engine.settings.storage_place)
        results = StoredResults(storage)
        checks = Capabilities(engine.ledger, keys, audience, 600)
        meter = uncapped(engine.ledger)
        tool = ToolActivities(
            Runs(storage), engine.ledger, checks, registry.current(), {}, engine.issuer.ensure, results, meter
        )
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, workflow_id=caller)
        return await environment.run(tool.read_tool, call)

    own, other = capsules
    assert (await read(first, own, own)).status == "done"
    refused = await read(second, other, other)  # its own capability, another run's reference
    assert (refused.reason, refused.content) == ("unknown_ref", f"This run has no result `{ref}`.")
    for caller, capsule, capability in ((second, own, other), (second, own, own), (first, other, own)):
        assert (await read(caller, capsule, capability)).reason == "capability_refused"


async def test_reading_on_taints_as_the_tool_that_brought_the_text(engine: Engine) -> None:
    """Text from outside is so in its pages too: after them the bundle permits no write. Our own text taints nothing."""
    write = turn(call("archive", customer_id="cus_101", lines=1))
    tainted = await run(engine, turn(call("read_mailbox", kind="mail", lines=LONG)), turn(more()), write)
    assert [code for code, _ in await engine.errors(tainted)] == ["denied"]
    clean = await run(engine, turn(call("export", kind="sales", lines=LONG)), turn(more()), write)
    assert await engine.errors(clean) == []
    assert len(engine.rows("account_notes")) == 1


async def test_a_storage_that_is_away_costs_the_rest_of_a_result_only(engine: Engine) -> None:
    """The write has happened and is said to have; its result is shown as far as it can be."""
    (engine.home / "storage").write_text("a file where the folder should be")
    workflow_id = await run(engine, turn(call("archive", customer_id="cus_101", lines=LONG)))
    [answer] = await engine.answers(workflow_id)
    assert answer["error"] == "The rest couldn't be kept."
    assert "ref" not in answer
    assert [effect.state for effect in engine.effects()] == ["done"]
    assert await offered(engine, workflow_id) == [True, True]


async def test_with_the_payload_codec_nothing_of_it_can_be_read_in_the_storage(engine: Engine) -> None:
    """The model reads on all the same; the addresses are those of what lies there, and what lies there tells nothing."""
    async with Engine(engine.client, engine.home, overrides={"app": engine.settings.app, "codec": True}) as sealed:
        workflow_id = await run(sealed, turn(call("export", kind="sales", lines=LONG)), turn(more(), text=token_hex(200_000)))
        head, page = await sealed.answers(workflow_id)
        assert "sales line" in head["head"]
        assert "sales line" in page["text"]
    files = [path for path in (engine.home / "storage").rglob("*") if path.is_file()]
    assert {path.parent.parent.name for path in files} == {"storage", "payloads"}
    for path in files:
        data = path.read_bytes()
        assert path.name == sha256(data).removeprefix("sha256:")
        assert b"sales line" not in data


# ---- payloads ---------------------------------------------------------------------------------------------------


def draft(size: int) -> ScriptTurn:
    """A scripted turn of about `size` bytes, which the start input carries."""
    return turn(call("export", kind="x", lines=1), text="t" * size)


async def stored(engine: Engine) -> int:
    """How many payloads lie outside of history."""
    return sum(path.is_file() for path in (engine.home / "storage" / "payloads").rglob("*"))


async def test_a_payload_over_the_threshold_lies_outside_of_history_and_replays(engine: Engine, tmp_path: Path) -> None:
    """A script of 3 MB, which no payload may have, starts a run; its history is small, and replays from the storage."""
    workflow_id = await run(engine, draft(600_000), final(), *[draft(900_000)] * 3)  # of which two turns are played
    assert await stored(engine) >= 2  # the start input and the model's turn
    assert await history_bytes(engine, workflow_id) < 40_000
    history = await engine.remit.handle(workflow_id).fetch_history()

    def replayer(data_converter: DataConverter) -> Replayer:
        return Replayer(workflows=[AgentRun], workflow_runner=worker.runner(), data_converter=data_converter)

    await replayer(converter(engine.settings)).replay_workflow(history)
    elsewhere = engine.settings.model_copy(update={"home": tmp_path / "elsewhere"})
    with pytest.raises(Exception, match="isn't in the folder `.*elsewhere/storage/payloads`; point `REMIT_STORAGE` at"):
        await replayer(converter(elsewhere)).replay_workflow(history)


async def test_payloads_under_the_threshold_stay_in_history(engine: Engine) -> None:
    """Ordinary runs need no storage."""
    await run(engine, draft(10_000))
    assert await stored(engine) == 0


async def test_a_client_without_the_storage_gets_one_sentence(engine: Engine, tmp_path: Path) -> None:
    """It says which value is missing and what to set; a query's answer needs no storage, however long it is."""
    workflow_id = await run(engine, draft(200_000))
    elsewhere = engine.settings.model_copy(update={"home": tmp_path / "elsewhere"})
    history = await engine.remit.handle(workflow_id).fetch_history()
    payload = history.events[0].workflow_execution_started_event_attributes.input.payloads[0]
    sentence = "^`sha256:[0-9a-f]{64}` isn't in the folder `.*elsewhere/storage/payloads`; point `REMIT_STORAGE` at"
    with pytest.raises(StoredValueLost, match=sentence):
        await converter(elsewhere).decode([payload], [dict[str, Any]])
    [whole] = await converter(engine.settings).decode([payload], [dict[str, Any]])
    assert whole["agent"] == "archivist"
    config = {**engine.client.config(), "data_converter": converter(elsewhere)}
    remit = Remit(Client(**config), engine.settings.task_queue)  # pyright: ignore[reportArgumentType]
    before = await stored(engine)
    assert sum(len(text) for text in await remit.transcript(workflow_id)) > 200_000
    assert (await remit.status(workflow_id)).status == "completed"
    assert await stored(engine) == before


async def test_a_start_input_that_the_worker_cannot_read_fails_with_one_sentence(engine: Engine, tmp_path: Path) -> None:
    """A client that stores where no worker looks learns it at once, and nothing has happened."""
    elsewhere = engine.settings.model_copy(update={"home": tmp_path / "elsewhere"})
    config = {**engine.client.config(), "data_converter": converter(elsewhere)}
    remit = Remit(Client(**config), engine.settings.task_queue)  # pyright: ignore[reportArgumentType]
    handle = await remit.start("archivist", {"ticket_id": "T-1001"}, script=(draft(200_000), final()))
    with pytest.raises(RunFailed, match="^The input of `AgentRun` can't be read: `sha256:.*; point `REMIT_STORAGE` at"):
        await remit.result(handle.id)


REFERENCE = {"encoding": b"json/protobuf", "messageType": b"temporal.api.sdk.v1.ExternalStorageReference"}
REFERENCES = {
    "nothing there": b'{"driverName":"remit","claimData":{"key":"sha256:' + b"0" * 64 + b'"}}',
    "no key": b'{"driverName":"remit"}',
    "a path": b'{"driverName":"remit","claimData":{"key":"../../etc/passwd"}}',
    "another driver": b'{"driverName":"aws.s3driver","claimData":{"key":"x"}}',
    "no reference": b"{{{",
}


@pytest.mark.parametrize("name", ["decide", "kill"])
async def test_a_strangers_reference_in_a_signal_is_refused(engine: Engine, name: str) -> None:
    """A reference to what isn't there is a malformed signal; without more, it would fail the run's task for ever."""
    turns = [turn(call("export", kind="x", lines=1)), final()]
    async with Engine(engine.client, engine.home, overrides={"app": engine.settings.app}, working=False) as idle:
        handle = await idle.start(turns, agent="archivist")
        for data in REFERENCES.values():
            await handle.signal(name, RawValue(Payload(metadata=REFERENCE, data=data)))
        await idle.work()
        done = await idle.closed(handle.id)
        assert (done.status, done.refused_total) == ("completed", len(REFERENCES))
        assert {refused.reason for refused in done.refused} == {"malformed"}
        assert await idle.stalls(handle.id) == []


async def test_a_reference_cannot_name_what_a_tool_stored(engine: Engine) -> None:
    """Payloads lie apart: a start input that refers to a run's result is as good as lost."""
    _, ref = await ref_of(engine)
    data = json.dumps({"driverName": "remit", "claimData": {"key": ref}}).encode()
    [found] = await converter(engine.settings).decode([Payload(metadata=REFERENCE, data=data)])
    assert isinstance(found, RawValue)
    assert found.payload.metadata["encoding"] == b"remit/lost"
