"""Each port is the activity that it names: nothing but these tests ties a stub's types to the implementation's."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

import pytest
from temporalio.workflow import ActivityCancellationType

from activities.authority import AuthorityActivities
from activities.breaking import BreakerActivities
from activities.drills import DrillActivities
from activities.fleet import FleetActivities
from activities.keeping import KeeperActivities
from activities.model import ModelActivities
from activities.records import RecordActivities
from activities.rollouts import RolloutActivities
from activities.tool import ToolActivities
from workflows import ports

Stub = Callable[..., Any]
STUBS: dict[str, Stub] = {name: getattr(ports, name) for name in ports.__all__}


def implementations() -> dict[str, Stub]:
    """The methods of the activity classes, by the name that they are registered under."""
    found: dict[str, Stub] = {}
    owners = (
        AuthorityActivities,
        BreakerActivities,
        DrillActivities,
        FleetActivities,
        KeeperActivities,
        ModelActivities,
        RecordActivities,
        RolloutActivities,
        ToolActivities,
    )
    for owner in owners:
        for value in vars(owner).values():
            if definition := getattr(value, "__temporal_activity_definition", None):
                assert definition.name not in found
                found[definition.name] = value
    return found


@dataclass(frozen=True)
class Made:
    """What a stub asked the engine for."""

    kind: str
    name: str
    arg: object
    options: dict[str, Any]


async def ask(stub: Stub, monkeypatch: pytest.MonkeyPatch, **given: object) -> Made:
    """Call `stub` outside of a workflow, and see what it would have scheduled."""
    made: list[Made] = []

    def engine(kind: str) -> Callable[..., Any]:
        async def schedule(name: str, arg: object, **options: Any) -> str:
            made.append(Made(kind, name, arg, options))
            return "answer"

        return schedule

    monkeypatch.setattr(ports.workflow, "execute_activity", engine("normal"))
    monkeypatch.setattr(ports.workflow, "execute_local_activity", engine("local"))
    usual: dict[str, object] = {"summary": "what for", "attempts": 3, "fast": False, **given}
    wanted = [p.name for p in inspect.signature(stub).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert await stub("the argument", **{n: usual[n] for n in wanted}) == "answer"
    (only,) = made
    return only


def test_every_activity_has_a_port_and_every_port_an_activity() -> None:
    """Workflow code can reach each registered activity through one stub, and no stub names one that doesn't exist."""
    assert set(STUBS) == set(implementations())


@pytest.mark.parametrize("name", STUBS)
def test_a_ports_types_are_the_activitys(name: str) -> None:
    """The stub takes and gives exactly the types of the method that is registered under its name."""
    stub, method = STUBS[name], implementations()[name]
    hints = get_type_hints(method)
    (_, argument) = inspect.signature(method).parameters
    assert get_type_hints(stub)["arg"] is hints[argument]
    assert get_type_hints(stub)["return"] is hints["return"]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", STUBS)
async def test_a_port_schedules_the_activity_of_its_name(name: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name, the argument, the type of the result and the summary reach the engine as they are."""
    made = await ask(STUBS[name], monkeypatch, fast=fast)
    assert (made.name, made.arg, made.options["summary"]) == (name, "the argument", "what for")
    assert made.options["result_type"] is get_type_hints(STUBS[name])["return"]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", STUBS)
async def test_every_activity_is_bounded(name: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt has an end, and so has the number of attempts: Temporal's own default is to retry for ever."""
    options = (await ask(STUBS[name], monkeypatch, fast=fast)).options
    assert options["start_to_close_timeout"].total_seconds() > 0
    assert options["retry_policy"].maximum_attempts > 0


@pytest.mark.parametrize("name", STUBS)
async def test_every_activity_that_waits_has_a_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes through the task queue says whose work it is, or one agent's flood would hold it up."""
    made = await ask(STUBS[name], monkeypatch)
    assert ("priority" in made.options) is (made.kind == "normal")


@pytest.mark.parametrize("name", ["read_tool", "execute_tool"])
async def test_a_tool_gets_the_attempts_that_are_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step has left bounds the engine's retries too."""
    made = await ask(STUBS[name], monkeypatch, attempts=2)
    assert made.options["retry_policy"].maximum_attempts == 2


@pytest.mark.parametrize(
    "name",
    [
        "admit",
        "apply_rollouts",
        "apply_switches",
        "call_model",
        "execute_tool",
        "give_up",
        "play_drill",
        "tell_runs",
        "write_kill",
    ],
)
async def test_writes_and_model_calls_are_never_local(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local activity may run again after a crash, unseen; only reads may."""
    assert (await ask(STUBS[name], monkeypatch, fast=True)).kind == "normal"


@pytest.mark.parametrize(("fast", "kind"), [(True, "local"), (False, "normal")])
async def test_only_a_fast_read_is_local(fast: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that talks to something slow is an activity with heartbeats."""
    made = await ask(ports.read_tool, monkeypatch, fast=fast)
    assert made.kind == kind
    assert ("heartbeat_timeout" in made.options) is not fast


@pytest.mark.parametrize("name", ["call_model", "execute_tool", "play_drill", "tell_runs"])
async def test_long_work_beats(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead worker is found by a missing heartbeat, and not after the whole timeout."""
    options = (await ask(STUBS[name], monkeypatch)).options
    assert options["heartbeat_timeout"] < options["start_to_close_timeout"]


@pytest.mark.parametrize("name", ["execute_tool", "give_up"])
async def test_a_cancelled_write_is_waited_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of a write must be known, even when the run is being stopped."""
    options = (await ask(STUBS[name], monkeypatch)).options
    assert options["cancellation_type"] is ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
