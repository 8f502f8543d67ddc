"""What a worker remembers of runs: only what the chain of digests confirms, asked of the workflow where it must be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.runs import PATIENCE, Runs
from activities.storage import FolderStorage
from tests.builders import capsule
from workflows.messages import AssistantMessage, Capsule, Message, ScriptTurn, StartInput, UserMessage
from workflows.state import RunState

RUN = "sha256:run"
STORAGE = FolderStorage(Path("no-such-folder"))
SCRIPT = (ScriptTurn(text="Done."),)


@dataclass
class Workflow:
    """The run's own workflow, as a client sees it: answers queries from a real state, and counts them."""

    state: RunState
    queries: list[str] = field(default_factory=list[str])
    frozen: int = 0  # so many queries go to a worker that never answers

    def get_workflow_handle(self, workflow_id: str, *, run_id: str) -> "Workflow":
        assert (workflow_id, run_id) == ("test", "test-run")
        return self

    async def query(self, name: str, *, args: Sequence[int], result_type: type[object], rpc_timeout: timedelta) -> object:
        if self.frozen:
            self.frozen -= 1
            raise RPCError("Timeout expired", RPCStatusCode.CANCELLED, b"")
        (since,) = args or (0,)
        self.queries.append(f"{name} {since}" if name == "transcript" else name)
        return self.state.capsule if name == "capsule" else self.state.page(since)

    async def within(self, call: Any, *args: object, **kwargs: object) -> Any:
        """Run `call` as an activity of this workflow."""
        return await ActivityEnvironment(cast(Client, self)).run(call, *args, **kwargs)

    async def transcript(self, runs: Runs, cursor: int | None = None, *, scripted: bool = False) -> list[Message]:
        """The transcript as a model call at `cursor` gets it."""
        at = len(self.state.messages) if cursor is None else cursor
        head = upto(self.state, at).head
        messages, _ = await self.within(runs.transcript, RUN, at, head, scripted=scripted)
        return messages


def say(i: int) -> Message:
    return AssistantMessage(text=f"answer {i}") if i % 2 else UserMessage(text=f"question {i}")


def state(count: int, script: tuple[ScriptTurn, ...] | None = None) -> RunState:
    run = RunState(start=StartInput(agent="a", script=script), capsule=capsule())
    for i in range(count):
        run.append(say(i))
    return run


def upto(run: RunState, count: int) -> RunState:
    """The state as it was when it held `count` messages."""
    early = RunState(start=run.start)
    for i in range(count):
        early.append(say(i))
    assert early.messages == run.messages[:count]
    return early


def texts(messages: list[Message]) -> list[str]:
    return [m.model_dump_json() for m in messages]


async def test_a_worker_that_knows_nothing_asks() -> None:
    """On a miss the whole transcript comes from the workflow, and from then on only what is new."""
    workflow, runs = Workflow(state(3)), Runs(STORAGE)
    assert texts(await workflow.transcript(runs)) == workflow.state.messages
    workflow.state.append(say(3))
    assert texts(await workflow.transcript(runs)) == workflow.state.messages
    assert workflow.queries == ["transcript 0", "transcript 3"]


async def test_what_the_worker_wrote_isnt_asked_for() -> None:
    """Messages that this worker made fill their slots, in whatever order they were made."""
    workflow, runs = Workflow(state(5)), Runs(STORAGE)
    await workflow.transcript(runs, 1)
    for slot in (4, 2, 3, 1):
        runs.wrote(RUN, slot, workflow.state.messages[slot])
    assert texts(await workflow.transcript(runs)) == workflow.state.messages
    assert workflow.queries == ["transcript 0"]


async def test_a_gap_is_filled_by_the_workflow() -> None:
    """What another worker made is asked for from the first missing message on."""
    workflow, runs = Workflow(state(4)), Runs(STORAGE)
    await workflow.transcript(runs, 1)
    runs.wrote(RUN, 1, workflow.state.messages[1])
    runs.wrote(RUN, 3, workflow.state.messages[3])
    assert texts(await workflow.transcript(runs)) == workflow.state.messages
    assert workflow.queries == ["transcript 0", "transcript 2"]


async def test_a_message_that_history_never_took_is_thrown_away() -> None:
    """What a lost attempt wrote doesn't fit the chain, so that the workflow's own message replaces it."""
    workflow, runs = Workflow(state(3)), Runs(STORAGE)
    await workflow.transcript(runs, 1)
    runs.wrote(RUN, 1, AssistantMessage(text="a lost answer").model_dump_json())
    runs.wrote(RUN, 2, workflow.state.messages[2])
    assert texts(await workflow.transcript(runs)) == workflow.state.messages
    workflow.queries.clear()
    assert texts(await workflow.transcript(runs)) == workflow.state.messages
    assert workflow.queries == []


async def test_a_later_attempts_message_replaces_an_earlier_ones() -> None:
    """The last message written into a slot is the one that counts."""
    workflow, runs = Workflow(state(2)), Runs(STORAGE)
    await workflow.transcript(runs, 1)
    runs.wrote(RUN, 1, AssistantMessage(text="first attempt").model_dump_json())
    runs.wrote(RUN, 1, workflow.state.messages[1])
    assert texts(await workflow.transcript(runs)) == workflow.state.messages
    assert workflow.queries == ["transcript 0"]


async def test_a_shorter_transcript_is_a_prefix() -> None:
    """A late attempt of an earlier step gets the transcript as it was then, and spoils nothing for later ones."""
    workflow, runs = Workflow(state(4)), Runs(STORAGE)
    await workflow.transcript(runs)
    assert texts(await workflow.transcript(runs, 2)) == workflow.state.messages[:2]
    assert texts(await workflow.transcript(runs)) == workflow.state.messages
    assert workflow.queries == ["transcript 0"]


async def test_a_head_that_isnt_the_runs_is_an_error() -> None:
    """A transcript that can't be confirmed is never given to a model."""
    workflow, runs = Workflow(state(3)), Runs(STORAGE)
    with pytest.raises(ApplicationError) as caught:
        await workflow.within(runs.transcript, RUN, 3, "another head", scripted=False)
    assert (caught.value.type, caught.value.message) == (
        "transcript_mismatch",
        "The run's transcript isn't the one that this call names.",
    )
    assert texts(await workflow.transcript(runs)) == workflow.state.messages


async def test_a_cursor_past_the_end_is_an_error() -> None:
    """Asked for more messages than there are, it ends with an error and not in a loop."""
    workflow, runs = Workflow(state(2)), Runs(STORAGE)
    with pytest.raises(ApplicationError, match="transcript"):
        await workflow.within(runs.transcript, RUN, 9, workflow.state.head, scripted=False)


async def test_a_long_transcript_comes_in_pages() -> None:
    """Pages are asked for until the cursor is reached."""
    workflow, runs = Workflow(RunState(start=StartInput(agent="a"))), Runs(STORAGE)
    for _ in range(3):
        workflow.state.append(UserMessage(text="x" * 700_000))
    messages, _ = await workflow.within(runs.transcript, RUN, 3, workflow.state.head, scripted=False)
    assert texts(messages) == workflow.state.messages
    assert workflow.queries == ["transcript 0", "transcript 1", "transcript 2"]


async def test_a_scripted_run_gets_its_script() -> None:
    """The script is asked for once, even where the worker wrote all messages itself."""
    workflow, runs = Workflow(state(2, SCRIPT)), Runs(STORAGE)
    for slot, text in enumerate(workflow.state.messages):
        runs.wrote(RUN, slot, text)
    for _ in range(2):
        messages, script = await workflow.within(runs.transcript, RUN, 2, workflow.state.head, scripted=True)
        assert (texts(messages), script) == (workflow.state.messages, SCRIPT)
    assert workflow.queries == ["transcript 0"]


async def test_what_is_given_out_cant_be_changed_from_outside() -> None:
    """A caller that changes its list changes nobody else's."""
    workflow, runs = Workflow(state(2)), Runs(STORAGE)
    (await workflow.transcript(runs)).clear()
    assert texts(await workflow.transcript(runs)) == workflow.state.messages


@given(
    length=st.integers(1, 6),
    wrote=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=10),
    cursors=st.lists(st.integers(0, 6), max_size=4),
)
async def test_the_model_never_sees_another_transcript(length: int, wrote: list[tuple[int, bool]], cursors: list[int]) -> None:
    """Whatever right and wrong messages were remembered, for any cursor the transcript is the workflow's."""
    workflow, runs = Workflow(state(length)), Runs(STORAGE)
    for cursor in (*cursors, length):
        for slot, right in wrote:
            good = right and slot < length
            runs.wrote(RUN, slot, workflow.state.messages[slot] if good else UserMessage(text="wrong").model_dump_json())
        at = min(cursor, length)
        assert texts(await workflow.transcript(runs, at)) == workflow.state.messages[:at]


async def test_an_admitted_capsule_isnt_asked_for() -> None:
    """The worker that admitted a run holds its capsule; another one asks once."""
    workflow, runs = Workflow(state(0)), Runs(STORAGE)
    runs.admitted(capsule())
    assert await workflow.within(runs.capsule, capsule().digest) == capsule()
    assert workflow.queries == []
    other = Runs(STORAGE)
    for _ in range(2):
        assert await workflow.within(other.capsule, capsule().digest) == capsule()
    assert workflow.queries == ["capsule"]


async def test_a_capsule_that_isnt_the_named_one_is_an_error() -> None:
    """G1: what a run is pinned to is known by its digest, whoever answers."""
    workflow, runs = Workflow(state(0)), Runs(STORAGE)
    workflow.state.capsule = Capsule.model_validate({**capsule().model_dump(), "subject": "Customer:cus_999"})
    for _ in range(2):
        with pytest.raises(ApplicationError) as caught:
            await workflow.within(runs.capsule, capsule().digest)
        assert (caught.value.type, caught.value.message) == (
            "capsule_mismatch",
            "The run's capsule isn't the one that this call names.",
        )


async def test_the_runs_touched_last_are_kept() -> None:
    """Memory is bounded: the run that was touched longest ago is forgotten first."""
    workflow, runs = Workflow(state(0)), Runs(STORAGE, limit=2)
    runs.admitted(capsule())
    runs.wrote("sha256:b", 0, "{}")
    await workflow.within(runs.capsule, capsule().digest)
    runs.wrote("sha256:c", 0, "{}")
    await workflow.within(runs.capsule, capsule().digest)
    assert workflow.queries == []
    runs.wrote("sha256:d", 0, "{}")
    runs.wrote("sha256:e", 0, "{}")
    await workflow.within(runs.capsule, capsule().digest)
    assert workflow.queries == ["capsule"]


async def test_a_question_that_a_frozen_worker_took_is_asked_again() -> None:
    """Each time with more patience; after the fourth the attempt fails, and the next one asks."""
    workflow, runs = Workflow(state(3)), Runs(STORAGE)
    workflow.frozen = len(PATIENCE) - 1
    assert texts(await workflow.transcript(runs)) == workflow.state.messages
    workflow, runs = Workflow(state(3)), Runs(STORAGE)
    workflow.frozen = len(PATIENCE)
    with pytest.raises(RPCError):
        await workflow.transcript(runs)
