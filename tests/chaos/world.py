"""The engine under fire: a Temporal server on files, a ledger on PostgreSQL, workers that are replaced when they die."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from signal import SIGKILL

from temporalio.client import Client

from activities.ledger.store import Ledger
from remit.client import Remit
from remit.embedded import TemporalServer, free_port
from remit.issuer import DevIssuer
from remit.keyring import RootKeys
from remit.settings import ROOT, Standalone
from tests.chaos.plan import Blow, Plan
from tests.guarantees.dying import DyingWorker
from tests.postgres import PostgresServer
from tools.connectors import sandbox
from worker import ensure_search_attributes

__all__ = ["World", "standing"]

STICKY_SECONDS = 1
"""A run waits this long for the worker that had it last and is dead. The SDK's own 10 s would only take longer."""


class World:
    """Everything that runs, and what can be broken of it.

    Attributes:
        kills: workers that ended by SIGKILL, those included that died at the vendor's (`crash_after_commit`).
        faults: workers that ended otherwise while the server was there, with their exit codes.
    """

    def __init__(self, plan: Plan, home: Path, postgres: PostgresServer) -> None:
        home.mkdir(exist_ok=True)
        app = home / "courier"
        shutil.copytree(ROOT / "tests" / "apps" / "courier", app)
        self.plan = plan
        self.home = home
        self.depot = app / "depot.db"
        self.settings = Standalone(home=home, app=app, ledger_url=postgres.database(), shutdown_seconds=1)
        self.ledger = Ledger(self.settings.ledger)
        self.issuer = DevIssuer(home, env="dev")
        self.kills = 0
        self.server_restarts = 0
        self.database_restarts = 0
        self.freezes = 0
        self.faults: list[int] = []
        self._postgres = postgres
        self._port = free_port()
        self._workers: list[DyingWorker] = []
        self._up = asyncio.Event()
        self._frozen = set[int]()
        self._one_database = asyncio.Lock()
        self._server: TemporalServer | None = None
        self._tending: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self.ledger.migrate()
        RootKeys(self.settings.root_keys_path, env="dev")()
        self.issuer.ensure()
        self._stock()
        self._server = TemporalServer(self.home / "temporal", port=self._port, headless=True)
        self.client: Client = await self._server.ready()
        self.remit = Remit(self.client, self.settings.task_queue)
        await ensure_search_attributes(self.client)
        self._workers = [self._spawn(place) for place in range(self.plan.form.workers)]
        self._up.set()
        self._tending = asyncio.create_task(self._tend())

    def end(self) -> None:
        if self._tending:
            self._tending.cancel()
        for worker in self._workers:
            worker.kill()
        if self._server:
            self._server.stop()
        self.ledger.close()

    def _stock(self) -> None:
        """Open the businesses: the sandbox's and the depot's."""
        sandbox.create(self.settings.business_path, self.plan.business)
        for job in self.plan.jobs:
            if job.fault:
                sandbox.arm(self.settings.business_path, *job.fault)
        with closing(sqlite3.connect(self.depot)) as db, db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, customer TEXT NOT NULL)")
            db.execute("CREATE TABLE parcels (id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, key TEXT NOT NULL)")
            db.execute("CREATE TABLE requests (kind TEXT NOT NULL, key TEXT NOT NULL)")
            db.execute("CREATE TABLE faults (kind TEXT NOT NULL, order_id TEXT NOT NULL)")
            orders = [(f"O-{i}", f"cus_{i}") for i in range(self.plan.form.runs)]
            db.executemany("INSERT INTO orders VALUES (?, ?)", orders)

    # ---- workers ------------------------------------------------------------------------------------------------

    def _spawn(self, place: int) -> DyingWorker:
        log = self.home / f"worker-{place}.log"
        return DyingWorker(self.settings, f"127.0.0.1:{self._port}", log, sticky_seconds=STICKY_SECONDS)

    async def _tend(self) -> None:
        """Replace workers that end, as a supervisor would."""
        while True:
            for place, worker in enumerate(self._workers):
                if (code := worker.exit_code) is not None:
                    if code == -SIGKILL:
                        self.kills += 1
                    elif self._up.is_set():
                        self.faults.append(code)
                    await self._up.wait()
                    self._workers[place] = self._spawn(place)
            await asyncio.sleep(0.05)

    # ---- blows --------------------------------------------------------------------------------------------------

    async def strike_all(self, flood: Callable[[Blow], Coroutine[None, None, None]]) -> None:
        """Let all blows fall, as far apart as planned, and wait until what they broke is up again. Floods are people's work.

        The next one waits until the workers are up that aren't frozen. So on a machine that is busy, blows come more slowly, as
        everything does: a process that is only about to start proves nothing, and a write has no more than four attempts.
        """
        before = 0.0
        async with asyncio.TaskGroup() as lasting:
            for blow in self.plan.blows:
                await asyncio.sleep(blow.at - before)
                before = blow.at
                while not all(w.ready or place in self._frozen for place, w in enumerate(self._workers)):
                    await asyncio.sleep(0.05)
                match blow.kind:
                    case "kill":
                        self._workers[blow.target].kill()
                    case "freeze":
                        lasting.create_task(self._freeze(blow))
                    case "server":
                        await self._restart_server(blow)
                    case "database":
                        lasting.create_task(self._restart_database(blow))
                    case "flood":
                        lasting.create_task(flood(blow))

    async def _freeze(self, blow: Blow) -> None:
        worker = self._workers[blow.target]
        self._frozen.add(blow.target)
        worker.pause()
        self.freezes += 1
        await asyncio.sleep(blow.seconds)
        worker.wake()
        self._frozen.discard(blow.target)

    async def _restart_server(self, blow: Blow) -> None:
        assert self._server
        self._up.clear()
        if blow.hard:
            self._server.kill()
        else:
            await asyncio.to_thread(self._server.stop)
        await asyncio.sleep(blow.seconds)
        self._server = TemporalServer(self.home / "temporal", port=self._port, headless=True)
        await self._server.ready()
        self.server_restarts += 1
        self._up.set()

    async def _restart_database(self, blow: Blow) -> None:
        async with self._one_database:
            try:
                await asyncio.to_thread(self._postgres.halt, hard=blow.hard)
                await asyncio.sleep(blow.seconds)
            finally:
                self._postgres.start()  # not in a thread: it ends with the thread that started it
            self.database_restarts += 1


@asynccontextmanager
async def standing(plan: Plan, home: Path, postgres: PostgresServer) -> AsyncGenerator[World]:
    """A world that is up; whatever happens, nothing of it is left."""
    world = World(plan, home, postgres)
    try:
        await world.begin()
        yield world
    finally:
        world.end()
