"""G2: no write happens twice, and what nobody can know goes to a human.

The failure matrix: for each idempotency strategy and each database, a worker is killed by SIGKILL at each point of a write, and
others finish. All runs of one database play at once, each on a task queue of its own; each is a test of its own. The oracle is
what the vendor has shipped.
"""

import asyncio
import fcntl
import json
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any, Literal, TypeVar

import pytest
from temporalio.client import Client

from activities.ledger.store import Ledger, run_scope
from remit.client import Remit, RunFailed
from remit.embedded import TemporalServer
from remit.issuer import DevIssuer
from remit.settings import ROOT, Settings
from tests.engine import Engine, call, final, turn
from tests.guarantees.dying import DyingWorker
from tests.postgres import PostgresServer
from tools import registry
from tools.builtin import CATALOG
from tools.connectors import sandbox
from worker import ensure_search_attributes
from workflows.messages import RunResult, RunSummary

T = TypeVar("T")
Database = Literal["sqlite", "postgresql"]
DATABASES: tuple[Database, ...] = ("sqlite", "postgresql")
State = Literal["done", "failed", "released", "indeterminate"]
KEY, SEARCH, SLOW, BLIND = "ship_by_key", "ship_by_search", "ship_by_slow_search", "ship_blindly"
PATIENCE_SECONDS = 300
"""For one cell, which takes 20 s at most when nothing else keeps the machine busy."""
PLAY_SECONDS = 1200
"""For all cells of one database: one test process plays them, and whichever test asks first waits for the last."""
AT_ONCE = 10
"""Runs that play at the same time: what they wait for is heartbeats that don't come."""


@dataclass(frozen=True)
class Cell:
    """A way to fail, for one strategy, and what must come of it.

    Attributes:
        points: where the first worker ends, then the second, and so on; after them comes one that lives.
        parcels: what the vendor has shipped in the end. Never more than one.
        shipped: how often the vendor was asked to ship.
        searched: how often it was searched, at least; an attempt on a busy machine may be overtaken by one more.
        state: of the effect in the ledger, in the end.
        how: `frozen`: the first worker is stopped instead, and goes on after the others. `killed`: the run is killed, too, once
            the first worker is dead.
        agent: `hasty-courier` gives each call one attempt, so that none is left to find out.
    """

    name: str
    tool: str
    points: tuple[str, ...]
    parcels: int
    shipped: int
    searched: int
    state: State = "done"
    how: Literal["", "frozen", "killed"] = ""
    agent: str = "courier"

    @property
    def ending(self) -> tuple[list[str], str, str, list[str]]:
        """The state in the ledger, how the run ends, what ends it, and what it knows of its call."""
        if self.how == "killed":
            return [self.state], "killed", "kill", [self.state]
        if self.state == "failed":
            return ["failed"], "stopped", "attempts_per_step", ["refused"]
        # What is frozen wakes up too late for its run: only the ledger hears what it did.
        if self.state == "indeterminate" or (self.how == "frozen" and self.tool in (SLOW, BLIND)):
            return [self.state], "escalated", "outcome_indeterminate", ["indeterminate"]
        return [self.state], "completed", "", ["done"]

    @property
    def id(self) -> str:
        return f"{self.tool}-{self.name}"


LOST: State = "indeterminate"
ALL = (KEY, SEARCH, SLOW, BLIND)
HASTY = "hasty-courier"
CELLS = (
    # Killed before it was sent: it is sent once, by the next worker.
    *(Cell("before_reserve", tool, ("reserve:before",), 1, 1, 0) for tool in ALL),
    *(Cell("after_reserve", tool, ("reserve:after",), 1, 1, 0) for tool in ALL),
    # Killed when it was marked as sent, and the vendor hadn't got it.
    Cell("after_send", KEY, ("ship:before",), 1, 1, 0),
    Cell("after_send", SEARCH, ("ship:before",), 1, 1, 2),
    Cell("after_send", SLOW, ("ship:before",), 0, 0, 1, LOST),
    Cell("after_send", BLIND, ("ship:before",), 0, 0, 0, LOST),
    # Killed when the vendor had done it.
    Cell("after_commit", KEY, ("ship:after",), 1, 2, 0),
    Cell("after_commit", SEARCH, ("ship:after",), 1, 1, 1),
    Cell("after_commit", SLOW, ("ship:after",), 1, 1, 1),
    Cell("after_commit", BLIND, ("ship:after",), 1, 1, 0, LOST),
    # Killed when it was on record, and the run hadn't heard of it.
    *(Cell("after_record", tool, ("settle:after",), 1, 1, 0) for tool in ALL),
    # Killed before it was sent, and again in the retry, which sent it.
    Cell("in_the_retry", KEY, ("reserve:after", "ship:after"), 1, 2, 0),
    Cell("in_the_retry", SEARCH, ("reserve:after", "ship:after"), 1, 1, 1),
    Cell("in_the_retry", SLOW, ("reserve:after", "ship:after"), 1, 1, 1),
    Cell("in_the_retry", BLIND, ("reserve:after", "ship:after"), 1, 1, 0, LOST),
    # Killed before the vendor had it, and again in the retry, when it had.
    Cell("in_the_second_send", KEY, ("ship:before", "ship:after"), 1, 2, 0),
    Cell("in_the_second_send", SEARCH, ("ship:before", "ship:after"), 1, 1, 3),
    # Killed when the vendor had done it, and again while that was being found out.
    Cell("in_the_reconcile", KEY, ("ship:after", "ship:after"), 1, 3, 0),
    Cell("in_the_reconcile", SEARCH, ("ship:after", "find:after"), 1, 1, 2),
    Cell("in_the_reconcile", SLOW, ("ship:after", "find:before"), 1, 1, 1),
    Cell("in_the_reconcile", BLIND, ("ship:after", "reserve:after"), 1, 1, 0, LOST),
    # Not dead but frozen, when it was marked as sent; it wakes up when others have finished.
    Cell("frozen", KEY, ("sent:after",), 1, 2, 0, how="frozen"),
    Cell("frozen", SEARCH, ("sent:after",), 1, 1, 2, how="frozen"),
    Cell("frozen", SLOW, ("sent:after",), 1, 1, 1, how="frozen"),
    Cell("frozen", BLIND, ("sent:after",), 1, 1, 0, how="frozen"),
    # The run is killed while nobody knows: what can be searched is searched, and nothing is sent again.
    Cell("after_commit_killed", KEY, ("ship:after",), 1, 1, 0, LOST, how="killed"),
    Cell("after_commit_killed", SEARCH, ("ship:after",), 1, 1, 1, how="killed"),
    Cell("after_send_killed", SEARCH, ("ship:before",), 0, 0, 1, LOST, how="killed"),
    # There is no other attempt: the ledger is asked, and then nobody can send it any more, whoever wakes up.
    Cell("last_before_reserve", KEY, ("reserve:before",), 0, 0, 0, "failed", agent=HASTY),
    Cell("last_after_reserve", KEY, ("reserve:after",), 0, 0, 0, "failed", agent=HASTY),
    # A vendor that dedupes by our key is asked by sending it once more.
    Cell("last_after_send", KEY, ("ship:before",), 1, 1, 0, agent=HASTY),
    Cell("last_after_commit", KEY, ("ship:after",), 1, 2, 0, agent=HASTY),
    Cell("last_after_commit", BLIND, ("ship:after",), 1, 1, 0, LOST, agent=HASTY),
    Cell("last_after_commit", SLOW, ("ship:after",), 1, 1, 1, agent=HASTY),
    Cell("last_after_record", BLIND, ("settle:after",), 1, 1, 0, agent=HASTY),
    Cell("last_frozen_before_reserve", KEY, ("reserve:before",), 0, 0, 0, "failed", how="frozen", agent=HASTY),
    Cell("last_frozen_after_reserve", KEY, ("reserve:after",), 0, 0, 0, "failed", how="frozen", agent=HASTY),
)


@dataclass
class Found:
    """What came of a cell."""

    exits: list[int] = field(default_factory=list[int])
    parcels: int = -1
    shipped: int = -1
    searched: int = -1
    states: list[str] = field(default_factory=list[str])
    status: str = ""
    stopped_by: str | None = ""
    calls: list[str] = field(default_factory=list[str])
    error: str = ""
    seconds: float = 0


class Depot:
    """The vendor's own records."""

    def __init__(self, app: Path, orders: int) -> None:
        self.path = app / "depot.db"
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, customer TEXT NOT NULL)")
            db.execute("CREATE TABLE parcels (id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, key TEXT NOT NULL)")
            db.execute("CREATE TABLE requests (kind TEXT NOT NULL, key TEXT NOT NULL)")
            db.execute("CREATE TABLE faults (kind TEXT NOT NULL, order_id TEXT NOT NULL)")
            db.executemany("INSERT INTO orders VALUES (?, ?)", [(f"O-{i}", f"cus_{i}") for i in range(orders)])

    def count(self, sql: str, *values: str) -> int:
        with closing(sqlite3.connect(self.path)) as db:
            return int(db.execute(f"SELECT count(*) FROM {sql}", values).fetchone()[0])

    def fault(self, order: str, *kinds: str) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            db.executemany("INSERT INTO faults VALUES (?, ?)", [(kind, order) for kind in kinds])


@dataclass(frozen=True)
class Theatre:
    """Where the cells of one database are played: one server, one ledger, one vendor."""

    client: Client
    address: str
    settings: Settings
    ledger: Ledger
    depot: Depot

    async def play(self, number: int, cell: Cell) -> Found:
        order, home = f"O-{number}", self.settings.home
        settings = self.settings.model_copy(update={"task_queue": f"remit-cell-{uuid.uuid4().hex}"})
        remit = Remit(self.client, settings.task_queue)
        script = (turn(call(cell.tool, order_id=order)), final())
        run = await remit.start(cell.agent, {"order_id": order}, script=script)
        found, workers, mark = Found(), list[DyingWorker](), home / f"frozen-{number}"

        def begin(point: str = "", frozen: Path | None = None) -> DyingWorker:
            log = home / f"cell-{number}-{len(workers)}.log"
            workers.append(DyingWorker(settings, self.address, log, point, frozen))
            return workers[-1]

        try:
            for point in cell.points:
                if cell.how == "frozen":
                    await sooner(begin(point, mark).freeze(self.ledger), remit.result(run.id))
                else:
                    found.exits.append(await sooner(begin(point).ended(), remit.result(run.id)))
            if cell.how == "killed":
                # The row is there before the next worker, as `write_kill` would have it.
                assert run.first_execution_run_id
                self.ledger.engage(run_scope(run.first_execution_run_id), "stop", "")
                await run.signal("kill", {"reason": "stop"})
            begin()
            await remit.result(run.id)
            done = await status(remit, run.id)
            if cell.how == "frozen":
                workers[0].thaw()
                found.exits.append(await workers[0].ended())
        finally:
            for worker in workers:
                worker.kill()
        effects = await asyncio.to_thread(self.ledger.effects, run.id)
        keys = [e.idempotency_key for e in effects]
        found.parcels = self.depot.count("parcels WHERE order_id = ?", order)
        found.shipped = self.depot.count("requests WHERE kind = 'ship' AND key = ?", *keys)
        found.searched = self.depot.count("requests WHERE kind = 'find' AND key = ?", *keys)
        found.states = [e.state for e in effects]
        found.status, found.stopped_by, found.calls = done.status, done.stopped_by, [c.status for c in done.calls]
        return found

    async def play_all(self) -> dict[str, Found]:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, cell: Cell) -> Found:
            async with room:
                started = time.monotonic()
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        found = await self.play(number, cell)
                except Exception as e:  # it is this cell's failure, and no other's
                    found = Found(error=f"{type(e).__name__}: {e}")
                found.seconds = time.monotonic() - started
                return found

        found = await asyncio.gather(*(one(i, cell) for i, cell in enumerate(CELLS)))
        return {cell.id: outcome for cell, outcome in zip(CELLS, found, strict=True)}


async def sooner(reached: Coroutine[Any, Any, T], closed: Coroutine[Any, Any, RunResult]) -> T:
    """What comes of `reached`; if the run closes before, the worker never came to its point, and nobody waits for it."""
    point, end = asyncio.ensure_future(reached), asyncio.ensure_future(closed)
    try:
        await asyncio.wait((point, end), return_when=asyncio.FIRST_COMPLETED)
        assert point.done(), f"the run ended before its worker did: {end.result()}"
        return point.result()
    finally:
        point.cancel()
        end.cancel()


async def status(remit: Remit, workflow_id: str) -> RunSummary:
    """The run's status. On a machine that is busy with a dozen workers, the SDK takes a starved query for a deadlock."""
    while True:
        try:
            return await remit.status(workflow_id)
        except RunFailed:
            await asyncio.sleep(0.5)


def stage(folder: Path) -> Path:
    """The app with a new depot, in `folder`."""
    app = folder / "courier"
    shutil.copytree(ROOT / "tests" / "apps" / "courier", app)
    return app


@pytest.fixture(scope="session", params=DATABASES)
def matrix(
    request: pytest.FixtureRequest, server: TemporalServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Found]:
    """What came of each cell on one database. Played by the first test process that asks, and read by the others."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"matrix-{request.param}"
    folder.mkdir(exist_ok=True)
    written = folder / "found.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not written.exists():
            url = ""
            if request.param == "postgresql":
                postgres: PostgresServer = request.getfixturevalue("postgres")
                url = postgres.database()
            found = asyncio.run(played(folder, server, url))
            written.write_text(json.dumps({name: asdict(outcome) for name, outcome in found.items()}))
    return {name: Found(**outcome) for name, outcome in json.loads(written.read_text()).items()}


async def played(folder: Path, server: TemporalServer, url: str) -> dict[str, Found]:
    app, home = stage(folder), folder / "home"
    home.mkdir()
    sandbox.create(home / "business.db", {})
    DevIssuer(home, env="dev").ensure()
    settings = Settings(home=home, app=app, ledger_url=url, shutdown_seconds=5)
    ledger = Ledger(settings.ledger)
    ledger.migrate()
    client = await server.ready()
    await ensure_search_attributes(client)
    try:
        return await Theatre(client, server.address, settings, ledger, Depot(app, len(CELLS))).play_all()
    finally:
        ledger.close()


@pytest.mark.timeout(PLAY_SECONDS)
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.id)
def test_a_write_happens_once_or_is_honestly_unknown(matrix: dict[str, Found], cell: Cell) -> None:
    """Wherever workers die: one parcel, or none that nobody vouches for, and the ledger, the run and the vendor agree."""
    found = matrix[cell.id]
    assert found.error == ""
    assert found.exits == ([0] if cell.how == "frozen" else [-SIGKILL] * len(cell.points))
    assert (found.parcels, found.shipped) == (cell.parcels, cell.shipped)
    assert found.searched >= cell.searched
    assert (found.states, found.status, found.stopped_by, found.calls) == cell.ending


# ---- vendors that fail ----------------------------------------------------------------------------------------------


@pytest.fixture
def app(tmp_path: Path) -> Generator[Path]:
    yield stage(tmp_path)
    registry.install(CATALOG)


@pytest.fixture
def depot(app: Path) -> Depot:
    return Depot(app, 1)


@pytest.fixture
async def engine(server: TemporalServer, home: Path, app: Path, depot: Depot) -> AsyncGenerator[Engine]:
    """A worker in this process, with the app and its depot."""
    async with Engine(await server.ready(), home, overrides={"app": app}) as found:
        yield found


@dataclass(frozen=True)
class Trouble:
    """What befalls the requests of one write, in this order for each kind, and what must come of it."""

    name: str
    tool: str
    faults: tuple[str, ...]
    parcels: int
    shipped: int
    state: State
    call: str
    reason: str = ""
    agent: str = "courier"


UNKNOWN = "outcome_indeterminate"
TROUBLES = (
    Trouble("the answer is lost", KEY, ("lost_after",), 1, 2, "done", "done"),
    Trouble("the answer is lost", SEARCH, ("lost_after",), 1, 1, "done", "done"),
    Trouble("the answer is lost", SLOW, ("lost_after",), 1, 1, "done", "done"),
    Trouble("the answer is lost", BLIND, ("lost_after",), 1, 1, LOST, "indeterminate", UNKNOWN),
    Trouble("the last answer is lost", KEY, ("lost_after",), 1, 1, LOST, "indeterminate", UNKNOWN, HASTY),
    Trouble("the last answer is lost", SLOW, ("lost_after",), 1, 1, "done", "done", agent=HASTY),
    Trouble("the request is lost", SEARCH, ("lost_before",), 1, 2, "done", "done"),
    Trouble("the request is lost", SLOW, ("lost_before",), 0, 1, LOST, "indeterminate", UNKNOWN),
    Trouble("the search is late", SLOW, ("lost_after", "lag"), 1, 1, "done", "done"),
    Trouble("the search is late for half of its time", SEARCH, ("lost_after", "lag"), 1, 1, "done", "done"),
    Trouble("the search fails once", SEARCH, ("lost_after", "no_search"), 1, 1, "done", "done"),
    Trouble("the search fails each time", SEARCH, ("lost_after", *["no_search"] * 9), 1, 1, LOST, "indeterminate", UNKNOWN),
    Trouble("the vendor refuses", SEARCH, ("refuse",), 0, 1, "failed", "refused", "no_van"),
    Trouble("it refuses what didn't arrive", SEARCH, ("lost_before", "refuse"), 0, 2, "failed", "refused", "no_van"),
    Trouble("it refuses what it has done", SEARCH, ("lost_after", "lag", "lag", "refuse"), 1, 2, "done", "done"),
    Trouble("it lets nobody in", KEY, ("shut",), 0, 1, "released", "refused", "unavailable"),
    Trouble("it lets nobody in once it has done it", KEY, ("lost_after", "shut"), 1, 3, "done", "done"),
    Trouble("it lets nobody in any more", KEY, ("lost_after", *["shut"] * 9), 1, 4, LOST, "indeterminate", UNKNOWN),
    Trouble("its facts are away once it has done it", KEY, ("lost_after", "no_facts"), 1, 2, "done", "done"),
    Trouble("its facts are away, too", BLIND, ("lost_after", "no_facts"), 1, 1, LOST, "indeterminate", UNKNOWN),
)


@pytest.mark.parametrize("case", TROUBLES, ids=lambda c: f"{c.tool}-{c.name}")
async def test_what_a_vendors_failure_leaves(engine: Engine, depot: Depot, case: Trouble) -> None:
    """Nothing is shipped twice, and the run is told that it happened, that it didn't, or that nobody knows: what is true."""
    depot.fault("O-0", *case.faults)
    script = (turn(call(case.tool, order_id="O-0")), final())
    run = await engine.remit.start(case.agent, {"order_id": "O-0"}, script=script)
    done = await engine.closed(run.id)
    assert [(c.status, c.reason) for c in done.calls] == [(case.call, case.reason)]
    assert [e.state for e in engine.effects()] == [case.state]
    assert (depot.count("parcels"), depot.count("requests WHERE kind = 'ship'")) == (case.parcels, case.shipped)
