"""What all parts stand on: one tuned Temporal server, one model server, and a worker process for each system."""

import asyncio
import contextlib
import os
import socket
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client
from temporalio.service import RPCError

from bench.meter import Meter, machine_cpu_s
from bench.systems import Failed, Run, System
from bench.task import Task
from remit.embedded import Process, TemporalServer, free_port

__all__ = ["Entrant", "Stage", "entrants", "opened"]

WARM_SECONDS = 60
# Nothing of the caller's environment reaches a worker, and the loopback needs no proxy.
FOREIGN = ("REMIT_", "OPENAI_", "ANTHROPIC_", "OTEL_", "TEMPORAL_", "STRIPE_")


@dataclass(frozen=True)
class Entrant:
    """A system with its worker running."""

    system: System
    client: Client
    queue: str
    home: Path
    worker: Process

    @property
    def name(self) -> str:
        return self.system.name

    @property
    def meter(self) -> Meter:
        return Meter(self.worker.pid)

    async def start(self, task: Task, *, gated: bool = False) -> Run:
        """Start a run under an id that was never used."""
        run_id = f"{self.name}-{task.steps}-{uuid.uuid4().hex[:12]}"
        return await self.system.start(self.client, self.queue, task, run_id, gated=gated)

    async def run(self, task: Task, seconds: float) -> Run:
        """A run from start to its right end.

        Raises:
            Failed: it failed, took longer than `seconds`, answered something else, or its worker ended.
        """
        run = await self.start(task)
        finish = asyncio.create_task(self.system.finish(run, task))
        end = time.monotonic() + seconds
        while not finish.done() and self.worker.running and time.monotonic() < end:
            await asyncio.wait([finish], timeout=1)
        if finish.done():
            await finish
            return run
        finish.cancel()
        with contextlib.suppress(RPCError):
            await run.terminate("too slow for the bench")
        raise Failed(f"no answer within {seconds:.0f} s" if self.worker.running else "its worker ended")

    async def kill(self, run: Run) -> None:
        name, args = self.system.kill
        await run.signal(name, args=args)


class Stage:
    """The servers. Workers come and go with `entrant`."""

    def __init__(self, home: Path, server: TemporalServer, client: Client, model: Process, model_url: str) -> None:
        self.home = home
        self.client = client
        self.server = Meter(server.pid)
        self._address = server.address
        self._model = Meter(model.pid)
        self._model_url = model_url
        self._workers: dict[int, Meter] = {}
        self._gone_s = 0.0

    @asynccontextmanager
    async def entrant(self, system: System) -> AsyncGenerator[Entrant]:
        """A fresh worker of `system`, which has done one short run of each kind.

        Raises:
            Failed: it doesn't work; the message has its last words.
        """
        token = uuid.uuid4().hex[:8]
        home, queue = self.home / f"{system.name}-{token}", f"bench-{system.name}-{token}"
        client = await system.client(self.client, home)
        worker = Process(
            system.command(),
            home / "worker.log",
            {"TEMPORAL_ADDRESS": self._address, "NO_PROXY": "*", **system.environment(home, self._model_url, queue)},
            without=[name for name in os.environ if name.startswith(FOREIGN)] + ["PYTHONDONTWRITEBYTECODE"],
        )
        entrant = Entrant(system, client, queue, home, worker)
        self._workers[worker.pid] = entrant.meter
        try:
            try:
                await entrant.run(Task(2), WARM_SECONDS)
                await self._warm_gate(entrant)
            except Failed as e:
                raise Failed(f"{e}; the worker's last words: {worker.last_words()}") from None
            yield entrant
        finally:
            if worker.running:
                self._gone_s += entrant.meter.cpu_s()
            del self._workers[worker.pid]
            await asyncio.to_thread(worker.stop, 5)

    async def _warm_gate(self, entrant: Entrant) -> None:
        run = await entrant.start(Task(1), gated=True)
        await self.parked(run)
        await entrant.kill(run)
        await self.closed(run)

    async def parked(self, run: Run, seconds: float = WARM_SECONDS) -> None:
        """Wait until nothing of `run` is in flight.

        Raises:
            Failed: it doesn't come to rest.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            raw = (await run.describe()).raw_description
            if not raw.HasField("pending_workflow_task") and not raw.pending_activities:
                return
            await asyncio.sleep(0.02)
        raise Failed("it didn't come to rest")

    async def closed(self, run: Run, seconds: float = WARM_SECONDS) -> float:
        """Wait for the end of `run`, whatever it is, and say when that was (Unix seconds)."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (at := (await run.describe()).close_time) is not None:
                return at.timestamp()
            await asyncio.sleep(0.02)
        raise Failed("it didn't close")

    async def quiet(self, entrant: Entrant, seconds: float = 120) -> None:
        """Wait until worker and server use less than 0.15 cores between them."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = entrant.meter.cpu_s() + self.server.cpu_s()
            await asyncio.sleep(1)
            if entrant.meter.cpu_s() + self.server.cpu_s() - before < 0.15:
                return

    def foreign_cpu_s(self) -> float:
        """CPU seconds of all processes but ours: how disturbed the figures are."""
        ours = [self.server, self._model, Meter(os.getpid()), *self._workers.values()]
        return machine_cpu_s() - self._gone_s - sum(m.cpu_s() for m in ours)


@asynccontextmanager
async def opened(home: Path) -> AsyncGenerator[Stage]:
    """A stage whose files lie in `home`."""
    port = free_port()
    server = TemporalServer(home / "temporal", headless=True)
    model = Process([sys.executable, "-m", "bench.model", str(port)], home / "model.log")
    try:
        client = await server.ready()
        os.environ["TEMPORAL_ADDRESS"] = server.address  # where Remit's own clients look
        await _listening(port)
        yield Stage(home, server, client, model, f"http://127.0.0.1:{port}/v1")
    finally:
        model.stop()
        server.stop()


@asynccontextmanager
async def entrants(stage: Stage, systems: Iterable[System], failed: dict[str, str]) -> AsyncGenerator[list[Entrant]]:
    """The systems that work, and why the others don't in `failed`."""
    async with AsyncExitStack() as stack:
        found: list[Entrant] = []
        for system in systems:
            try:
                found.append(await stack.enter_async_context(stage.entrant(system)))
            except Failed as e:
                failed[system.name] = str(e)
        yield found


async def _listening(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        await asyncio.sleep(0.05)
    raise Failed("the model server doesn't answer")
