"""Two versions of the workers side by side, on a server that looks at what drains every second."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowHistory

from policies.errors import InvalidInput, Unavailable
from remit import embedded
from remit.deploy import move_runs
from remit.deployment import Deployment, VersionStatus
from remit.embedded import TemporalServer
from remit.history import segments
from remit.settings import ROOT
from tests.console import Console
from tests.engine import Engine, call, final, turn
from workflows import ports
from workflows.messages import Admission, Capsule, ReadPeople, RunSummary

SMALL = turn(call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"))
LARGE = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
OTHER = turn(call("request_refund", invoice_id="in_1006", amount_cents=30000, reason="duplicate"))
READS = [turn(call("search_kb", query=f"zzz{n}")) for n in range(9)]
QUICK = (
    'matching.wv.VersionDrainageStatusVisibilityGracePeriod="1s"',
    'matching.wv.VersionDrainageStatusRefreshInterval="1s"',
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[TemporalServer]:
    """A server that notices at once that a version has drained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "TUNING", (*embedded.TUNING, *QUICK))
        found = TemporalServer(tmp_path_factory.mktemp("upgrades"), headless=True)
    yield found
    found.stop()


@pytest.fixture
def name() -> str:
    """A deployment of the test's own."""
    return f"remit-{uuid.uuid4().hex[:8]}"


@asynccontextmanager
async def version(client: Client, home: Path, name: str, build: str, *, current: bool = True) -> AsyncGenerator[Engine]:
    """A worker of this version, on one queue with the others; `current`: it gets the new runs."""
    # A history is soon full, and the run goes on in a new one.
    settings = {"deployment": name, "build_id": build, "task_queue": name, "audience": "test", "history_events": 80}
    async with Engine(client, home, overrides=settings) as found:
        await Deployment(client, name).introduce(build, always=current)
        yield found


async def ran_on(client: Client, workflow_id: str) -> list[list[str]]:
    """The versions that decided each segment of a run, as its history's events say."""
    return [_builds(history) for history in await segments(client, workflow_id)]


def _builds(history: WorkflowHistory) -> list[str]:
    found = [e.workflow_task_completed_event_attributes for e in history.events if e.event_type == 7]
    return list(dict.fromkeys(task.deployment_version.build_id for task in found))


async def eventually(what: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await what():
            await asyncio.sleep(0.1)


async def ramped_up(deployment: Deployment, build: str) -> None:
    """Ramp it to 100 %, as soon as the server knows that it takes up workflows."""

    async def done() -> bool:
        with suppress(InvalidInput):
            await deployment.ramp(build, 100)
            return True
        return False

    await eventually(done)


async def status_of(deployment: Deployment, build: str) -> VersionStatus:
    return next(v.status for v in await deployment.versions() if v.build_id == build)


async def asked(engine: Engine, workflow_id: str) -> RunSummary:
    """The run's status, without the patience that workers which are there deserve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("remit.client.ANSWER", timedelta(seconds=2))
        return await engine.remit.status(workflow_id)


async def test_two_versions_run_side_by_side(server: TemporalServer, home: Path, name: str) -> None:
    """Old runs finish on the old version, new ones start on the new one, and a long one moves on when it continues as new."""
    client = await server.ready()
    deployment = Deployment(client, name)
    async with version(client, home, name, "one") as one:
        old = await one.start([LARGE, final()], ticket="T-1002")
        long = await one.start([OTHER, *READS, final()], ticket="T-1003")
        await one.pending(old.id)
        await one.pending(long.id)
        async with version(client, home, name, "two", current=False) as two:
            waits = await two.start([SMALL, final()], ticket="T-1001")
            assert (await two.closed(waits.id)).status == "completed"
            assert await ran_on(client, waits.id) == [["one"]]  # nobody has made the new version current yet

            await deployment.introduce("two", always=True)
            assert await status_of(deployment, "one") == "draining"
            new = await two.start([final()], ticket="T-1001")
            assert (await two.closed(new.id)).status == "completed"
            await two.decide(old.id, "ana")
            await two.decide(long.id, "bo")
            assert (await two.closed(old.id)).status == (await two.closed(long.id)).status == "completed"
            assert await ran_on(client, new.id) == [["two"]]
            assert await ran_on(client, old.id) == [["one"]]
            [began, *later] = await ran_on(client, long.id)
            assert began == ["one"] and later and all(builds == ["two"] for builds in later)
            assert len(two.rows("refunds")) == 3
            assert [(v.build_id, v.open_runs) for v in await deployment.counted()] == [("two", 0), ("one", 0)]

            async def drained() -> bool:
                return await status_of(deployment, "one") == "drained"

            await eventually(drained)


async def test_a_ramp_gives_a_version_its_share_of_new_runs(server: TemporalServer, home: Path, name: str) -> None:
    """All of them at 100 %, none when the ramp is ended; the current version stays current."""
    client = await server.ready()
    deployment = Deployment(client, name)
    async with version(client, home, name, "one") as one, version(client, home, name, "two", current=False):
        await ramped_up(deployment, "two")
        [two, old] = await deployment.versions()
        assert (two.status, two.percent, old.status) == ("ramping", 100, "current")

        async def begins_on(build: str) -> bool:
            run = await one.start([final()])
            await one.closed(run.id)
            return await ran_on(client, run.id) == [[build]]

        # The task queue hears of it a little later than the deployment.
        await eventually(partial(begins_on, "two"))
        assert await begins_on("two")
        await deployment.ramp("two", 0)
        await eventually(partial(begins_on, "one"))
        assert await begins_on("one")


async def test_a_closed_run_can_be_read_when_the_workers_of_its_version_are_gone(
    server: TemporalServer, home: Path, name: str
) -> None:
    """A query would wait for them: the run is read from its history, by today's code, as it would have answered."""
    client = await server.ready()
    async with version(client, home, name, "one") as one:
        run = await one.start([SMALL, final()])
        answered, said = await one.closed(run.id), await one.remit.transcript(run.id)
    async with version(client, home, name, "two") as two:
        assert await asked(two, run.id) == answered
        assert await two.remit.transcript(run.id) == said


async def test_open_runs_move_to_the_version_that_replays_them(
    server: TemporalServer, home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that other code began goes on only if today's leads to the same history; the other one waits, and it is said why."""
    client = await server.ready()
    deployment = Deployment(client, name)
    admit = ports.admit

    async def with_directory(arg: Admission, *, summary: str) -> Capsule:
        await ports.read_people(ReadPeople(kids=()), summary="who decides")
        return await admit(arg, summary=summary)

    async with version(client, home, name, "one") as one:
        good = await one.start([LARGE, final()], ticket="T-1002")
        await one.pending(good.id)
        monkeypatch.setattr(ports, "admit", with_directory)
        bad = await one.start([OTHER, final()], ticket="T-1003")
        await one.pending(bad.id)
    monkeypatch.undo()
    async with version(client, home, name, "two") as two:
        with pytest.raises(
            Unavailable, match="pinned to version `one`, of which no worker answers. .*`remit deploy --move one`"
        ):
            await asked(two, good.id)
        found = {m.workflow_id: m for m in await move_runs(client, deployment, "one", "two")}
        assert found[good.id].moved
        assert (found[bad.id].moved, found[bad.id].reason) == (
            False,
            "event 5 (ActivityTaskScheduled): the history has the activity `read_people`, "
            "today's code asks for the activity `admit`",
        )
        await two.decide(good.id, "ana")
        assert (await two.closed(good.id)).status == "completed"
        assert await ran_on(client, good.id) == [["one", "two"]]

        console = Console(ROOT, {"TEMPORAL_ADDRESS": server.address, "REMIT_HOME": str(home), "REMIT_TASK_QUEUE": name})
        said = await asyncio.to_thread(console.remit, "replay", bad.id, code=1)
        assert f"differs  {bad.id} " in said.out and found[bad.id].reason in said.out and "1 replayed, 1 differ." in said.out
        both = f"WorkflowId IN ('{good.id}', '{bad.id}')"
        answer = await asyncio.to_thread(console.remit, "replay", "--query", both, "--json", code=1)
        assert (answer.json["replayed"], answer.json["differ"]) == (2, 1)
        [row] = [r for r in answer.json["runs"] if not r["ok"]]
        assert (row["event_id"], row["expected"], row["got"]) == (
            *(5, "the activity `read_people`"),
            "asks for the activity `admit`",
        )
        moved = Console(ROOT, {**console.env, "REMIT_BUILD_ID": "two"})
        again = await asyncio.to_thread(moved.remit, "deploy", "--move", "one", "--json", code=1)
        assert [m["workflow_id"] for m in json.loads(again.out)["moved"]] == [bad.id]
        await bad.terminate()
