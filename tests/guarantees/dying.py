"""Worker processes that end, by SIGKILL, exactly where a test wants them to.

The points lie around what a worker is given: its ledger and its connectors. The processes are forked from one that has imported
everything, for a test needs dozens of them.
"""

import asyncio
import contextlib
import ctypes
import functools
import inspect
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from temporalio.client import Client
from temporalio.worker import Worker

import worker
from activities.capabilities import Capabilities
from activities.ledger.store import Ledger
from activities.ledger.tables import control
from activities.meter import Meter
from activities.results import StoredResults
from activities.runs import Runs
from activities.tool import ToolActivities
from policies.identity import Directory
from remit.connection import converter
from remit.settings import Settings
from tests.forked import LOADED
from tools.catalog import Catalog
from tools.spec import Connector

__all__ = ["DyingWorker"]

Hit = Callable[[], None]


class DyingWorker:
    """A worker in a process of its own.

    Args:
        point: `METHOD:before` or `METHOD:after` of a ledger's or a connector's method, where it ends; "" for nowhere.
        frozen: it waits there instead, and makes this file: then `freeze` stops it.
        sticky_seconds: how long a run waits for this worker, should it be dead, before another gets it.
    """

    def __init__(
        self,
        settings: Settings,
        address: str,
        log: Path,
        point: str = "",
        frozen: Path | None = None,
        sticky_seconds: float | None = None,
    ) -> None:
        # Of what comes along, only plain values: the settings hold nothing secret in these tests.
        plain = settings.model_dump(mode="json", exclude_none=True)
        args = (plain, address, log, point, frozen, sticky_seconds)
        self._log = log
        self._frozen = frozen
        self._process: BaseProcess = _nursery().Process(target=_work, args=args, daemon=True)
        self._process.start()

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    @property
    def ready(self) -> bool:
        """Whether it works: it has started, and hasn't ended."""
        return self._process.exitcode is None and _mark(self._log, self._process.pid).exists()

    async def ended(self) -> int:
        """Wait for its end; negative for a signal."""
        while self._process.exitcode is None:
            await asyncio.sleep(0.05)
        return self._process.exitcode

    async def freeze(self, ledger: Ledger) -> None:
        """Stop it by SIGSTOP once it waits at its point."""
        assert self._process.pid
        assert self._frozen
        while not self._frozen.exists():
            assert self._process.exitcode is None
            await asyncio.sleep(0.05)
        await asyncio.to_thread(_stop, self._process.pid, ledger)

    def thaw(self) -> None:
        """Let it go on where it was stopped, and ask it to end when what it does is done."""
        assert self._process.pid
        assert self._frozen
        self._frozen.unlink()
        os.kill(self._process.pid, signal.SIGTERM)
        os.kill(self._process.pid, signal.SIGCONT)

    def pause(self) -> None:
        """Stop it wherever it is, until `wake`."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.exitcode is None and self._process.pid:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join(20)


def _stop(pid: int, ledger: Ledger) -> None:
    """Stop the process while nobody else writes to the ledger: nobody could any more, if it were stopped while it does."""
    with ledger.begin() as connection:
        connection.execute(sa.select(control.c.epoch).with_for_update())
        os.kill(pid, signal.SIGSTOP)
        # Each thread stops by itself. Where there is no /proc, a moment is not worth more.
        while not all(_stopped(thread) for thread in Path(f"/proc/{pid}/task").glob("*/stat")):
            time.sleep(0.01)


def _stopped(stat: Path) -> bool:
    with contextlib.suppress(OSError):  # a thread that has ended since
        return stat.read_text().rpartition(")")[2].split()[0] in "TtZX"
    return True


def _mark(log: Path, pid: int | None) -> Path:
    """A file that the worker `pid` makes when it works."""
    return log.with_suffix(f".{pid}.up")


@functools.cache
def _nursery() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([*LOADED, __name__])
    return found


class _Doomed:
    """Whatever it stands for, but for the method where this process ends."""

    def __init__(self, target: object, point: str, hit: Hit) -> None:
        self._target = target
        self._name, _, self._when = point.partition(":")
        self._hit = hit

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name != self._name:
            return found
        if inspect.iscoroutinefunction(found):

            async def later(*args: object, **given: object) -> object:
                with self._dying():
                    return await found(*args, **given)

            return later

        def now(*args: object, **given: object) -> object:
            with self._dying():
                return found(*args, **given)

        return now

    @contextlib.contextmanager
    def _dying(self) -> Generator[None]:
        if self._when == "before":
            self._hit()
        try:
            yield
        finally:
            if self._when == "after":
                self._hit()


def _work(
    settings: Mapping[str, object], address: str, log: Path, point: str, frozen: Path | None, sticky_seconds: float | None
) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with the test run, however that ends
    out = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)

    reached = threading.Event()

    def hit() -> None:
        if frozen is None:
            os.kill(os.getpid(), signal.SIGKILL)
        elif not reached.is_set():  # another thread may come here while the first one waits
            reached.set()
            frozen.touch()
            while frozen.exists():
                time.sleep(0.01)

    class Doomed(ToolActivities):
        def __init__(
            self,
            runs: Runs,
            ledger: Ledger,
            capabilities: Capabilities,
            catalog: Catalog,
            connectors: Mapping[type[Connector], Connector],
            directory: Callable[[], Directory],
            results: StoredResults,
            meter: Meter,
        ) -> None:
            ends: Any = functools.partial(_Doomed, point=point, hit=hit)
            doomed = {port: ends(c) for port, c in connectors.items()}
            super().__init__(runs, ends(ledger), capabilities, catalog, doomed, directory, results, meter)

    worker.ToolActivities = Doomed
    options: dict[str, Any] = {}
    if point:
        options["max_cached_workflows"] = 0  # else a run waits for the worker that had it last, though it is dead
    if sticky_seconds is not None:
        options["sticky_queue_schedule_to_start_timeout"] = timedelta(seconds=sticky_seconds)
    if frozen:
        # Its connections stay open, so the server hands its polls what comes next: with room, the next attempts, too, and
        # to each of five polls a workflow task, which times out after ten seconds.
        options["max_concurrent_activities"] = 1
        options["max_concurrent_workflow_task_polls"] = 1

    def made(client: Client, **given: Any) -> Worker:
        return Worker(client, **{**given, **options})

    worker.Worker = made  # type: ignore[assignment,misc]
    unversioned = Settings.model_validate({**settings, "deployment": "none", "build_id": "tests"})
    asyncio.run(_serve(unversioned, address, _mark(log, os.getpid())))
    os._exit(0)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)


async def _serve(settings: Settings, address: str, mark: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await Client.connect(address, data_converter=converter(settings))
    ledger = Ledger(settings.ledger)
    async with worker.working(client, settings, ledger):
        await asyncio.to_thread(mark.touch)
        await stop.wait()
