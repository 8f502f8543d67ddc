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
import time
from collections.abc import Callable, Generator, Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

import worker
from activities.capabilities import Capabilities
from activities.ledger.store import Ledger
from activities.results import StoredResults
from activities.runs import Runs
from activities.tool import ToolActivities
from policies.identity import Directory
from remit.connection import converter
from remit.settings import Settings
from tools.catalog import Catalog
from tools.spec import Connector

__all__ = ["DyingWorker"]

Hit = Callable[[], None]


class DyingWorker:
    """A worker in a process of its own.

    Args:
        point: `METHOD:before` or `METHOD:after` of a ledger's or a connector's method, where it ends; "" for nowhere.
        frozen: it is stopped there by SIGSTOP instead, and makes this file first.
    """

    def __init__(self, settings: Settings, address: str, log: Path, point: str = "", frozen: Path | None = None) -> None:
        # Of what comes along, only plain values: the settings hold nothing secret in these tests.
        plain = settings.model_dump(mode="json", exclude_none=True)
        self._process: BaseProcess = _nursery().Process(target=_work, args=(plain, address, log, point, frozen), daemon=True)
        self._process.start()

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    async def ended(self) -> int:
        """Wait for its end; negative for a signal."""
        while self._process.exitcode is None:
            await asyncio.sleep(0.05)
        return self._process.exitcode

    def thaw(self) -> None:
        """Let it go on where it was stopped, and ask it to end when what it does is done."""
        assert self._process.pid
        os.kill(self._process.pid, signal.SIGTERM)
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.join(20)


@functools.cache
def _nursery() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__])
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


def _work(settings: Mapping[str, object], address: str, log: Path, point: str, frozen: Path | None) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with the test run, however that ends
    out = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)

    def hit() -> None:
        if frozen is None:
            os.kill(os.getpid(), signal.SIGKILL)
        elif not frozen.exists():
            time.sleep(0.5)  # another thread may be writing to SQLite: nobody could, while it is frozen
            frozen.touch()
            os.kill(os.getpid(), signal.SIGSTOP)

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
        ) -> None:
            ends: Any = functools.partial(_Doomed, point=point, hit=hit)
            doomed = {port: ends(c) for port, c in connectors.items()}
            super().__init__(runs, ends(ledger), capabilities, catalog, doomed, directory, results)

    worker.ToolActivities = Doomed
    # The SDK would hash all modules of the process for the build id.
    options: dict[str, Any] = {"build_id": "tests"}
    if point:
        options["max_cached_workflows"] = 0  # else a run waits for the worker that had it last, though it is dead
    if frozen:
        options["max_concurrent_activities"] = 1  # its connection stays open: with room, it would get the next attempts, too
    worker.Worker = functools.partial(Worker, **options)  # type: ignore[assignment,misc]
    asyncio.run(_serve(Settings.model_validate(settings), address))
    os._exit(0)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)


async def _serve(settings: Settings, address: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await Client.connect(address, data_converter=converter(settings))
    ledger = Ledger(settings.ledger)
    async with worker.working(client, settings, ledger):
        await stop.wait()
