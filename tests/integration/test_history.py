"""Recorded histories under today's code: what can't be replayed at all is told from what differs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowHistory
from temporalio.converter import PayloadCodec

from policies.errors import InvalidInput
from remit.connection import CONVERTER
from remit.embedded import TemporalServer
from remit.history import judge, read_file, state
from remit.replay import replay
from remit.settings import ROOT, Settings
from tests.engine import Engine, call, final, turn

STORED = ROOT / "tests" / "replay" / "histories" / "0.1.0"


class _Reversed(PayloadCodec):
    """A codec whose payloads nobody reads by accident."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload(metadata={"encoding": b"binary/reversed"}, data=p.SerializeToString()[::-1]) for p in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload.FromString(p.data[::-1]) for p in payloads]


CODED = replace(CONVERTER, payload_codec=_Reversed())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no JSON", "isn't a history: it isn't JSON."),
        ("7", "isn't a history: export one with `temporal workflow show --output json`, or in the UI."),
        ('{"a": 1}', "isn't a history: export one with `temporal workflow show --output json`, or in the UI."),
        ('{"events": []}', "isn't a history: export one with `temporal workflow show --output json`, or in the UI."),
        (
            '{"events": [{"eventId": "x"}]}',
            "isn't a history: export one with `temporal workflow show --output json`, or in the UI.",
        ),
    ],
)
def test_a_file_that_is_no_history_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    """The sentence names the file and what to do."""
    file = tmp_path / "file.json"
    file.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_file(file)
    assert refused.value.message == f"`{file}` {sentence}"


def test_a_list_of_events_is_a_history(tmp_path: Path) -> None:
    """Some exports have no object around it."""
    stored = json.loads((STORED / "auto_refund.json").read_text())
    file = tmp_path / "list.json"
    file.write_text(json.dumps(stored["events"]))
    assert len(read_file(file).events) == len(stored["events"])


@pytest.mark.parametrize("name", ["auto_refund", "continued", "run_killed"])
async def test_a_run_is_read_from_its_history(name: str) -> None:
    """Its last state answers as its queries did."""
    run = await state(read_file(STORED / f"{name}.json"), CONVERTER)
    expected = "killed" if name == "run_killed" else "completed"
    assert (run.status().status, run.transcript().total) == (expected, len(run.transcript().messages))


async def test_a_part_of_a_history_and_another_workflow_are_refused() -> None:
    """They are said not to be replayable, not to differ."""
    history = read_file(STORED / "auto_refund.json")
    part = await judge(WorkflowHistory("part", history.events[3:]), CONVERTER)
    assert (part.ok, part.sentence) == (False, "It isn't a whole workflow history: its first event isn't a start.")
    history.events[0].workflow_execution_started_event_attributes.workflow_type.name = "Other"
    other = await judge(history, CONVERTER)
    assert other.sentence == "It is the history of a `Other`; only runs (`AgentRun`) can be replayed."


async def test_a_run_that_nobody_took_up_replays() -> None:
    """No code has decided anything yet."""
    history = read_file(STORED / "auto_refund.json")
    assert (await judge(WorkflowHistory("new", history.events[:2]), CONVERTER)).ok


@pytest.fixture
async def coded(server: TemporalServer, home: Path, tmp_path: Path) -> Path:
    """The export of a real run whose payloads went through a codec."""
    await server.ready()
    async with Engine(await Client.connect(server.address, data_converter=CODED), home) as engine:
        run = await engine.start([turn(call("get_ticket", ticket_id="T-1001")), final()])
        assert (await engine.closed(run.id)).status == "completed"
        file = tmp_path / "coded.json"
        file.write_text((await run.fetch_history()).to_json())
    return file


async def test_a_history_that_the_codec_can_not_decode_is_refused(coded: Path) -> None:
    """It isn't taken for one that differs: what is missing is a key."""
    history = read_file(coded)
    assert (await judge(history, CODED)).ok
    verdict = await judge(history, CONVERTER)
    sentence = "Its payloads (`binary/reversed`) can't be decoded; set what its workers had, such as the codec's keys."
    assert (verdict.ok, verdict.sentence) == (False, sentence)


def test_what_can_not_be_replayed_is_one_sentence_of_the_command(tmp_path: Path) -> None:
    """It names the file, and isn't reported as a run that differs."""
    stored = json.loads((STORED / "auto_refund.json").read_text())
    file = tmp_path / "part.json"
    file.write_text(json.dumps({"events": stored["events"][3:]}))
    with pytest.raises(InvalidInput) as refused:
        replay(Settings(), str(file), None, 1, as_json=False)
    assert refused.value.message == (
        "`part` can't be replayed: it isn't a whole workflow history: its first event isn't a start."
    )
