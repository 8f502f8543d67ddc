"""`remit dev`: the embedded engine in the foreground, kept in `.remit/`."""

import asyncio
import fcntl
import json
import os
import signal
import sys
from typing import IO

from activities.ledger.store import Ledger
from policies.errors import InvalidInput
from remit.apps import assemble
from remit.connection import dev_state
from remit.embedded import Process, TemporalServer, WorkerProcess, free_port
from remit.issuer import DevIssuer
from remit.settings import ROOT, Settings
from tools.connectors import sandbox

__all__ = ["prepare", "serve"]


def prepare(settings: Settings) -> IO[str]:
    """Make the embedded parts' files: people with keys, the ledger, and the sandbox business of the demo.

    Returns:
        The lock of the folder, held until it is closed or the process ends.

    Raises:
        InvalidInput: the folder can't be written, or another engine runs in it.
        Unavailable: the ledger can't be reached.
    """
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        lock = (settings.home / "dev.lock").open("w")
    except OSError as e:
        raise InvalidInput(
            f"`{settings.home}` can't be written: {e.strerror}; set `REMIT_HOME` to a folder of yours."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise InvalidInput(f"`remit dev` runs already in `{settings.home}`, at {dev_state(settings).get('address')}.") from None
    ledger = Ledger(settings.ledger)
    ledger.migrate()
    ledger.close()
    DevIssuer(settings.home, env=settings.env).ensure()
    if not settings.business_path.exists():
        sandbox.create(settings.business_path, json.loads((ROOT / "demo" / "business.json").read_text(encoding="utf-8")))
    return lock


async def serve(settings: Settings, *, port: int | None, ui_port: int | None) -> None:
    """Run until SIGINT or SIGTERM; a worker that dies is started again.

    Raises:
        InvalidInput: another `remit dev` runs in the same folder.
    """
    parts = assemble(settings)
    parts.check()
    lock = prepare(settings)
    _ = parts.connectors  # a worker that can't start would be started again and again
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    state = settings.home / "dev.json"
    codec_port = free_port() if settings.codec else 0
    codec = f"http://127.0.0.1:{codec_port}" if codec_port else ""
    server = TemporalServer(settings.home, port=port, ui_port=ui_port, codec=codec)
    worker: WorkerProcess | None = None
    decrypting = _codec_server(settings, server, codec_port) if codec_port else None
    try:
        await server.ready()
        worker = WorkerProcess(settings.home, server.address)
        state.write_text(json.dumps({"address": server.address, "ui": server.ui, "pid": os.getpid(), "codec": codec}))
        _welcome(settings, server)
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), 1)
            except TimeoutError:
                if not server.running:
                    raise InvalidInput(f"The Temporal server ended: {server.last_words()}") from None
                if worker.exit_code == 2:
                    raise InvalidInput(f"The worker can't start: {worker.last_words()}") from None
                if not worker.running:
                    print(f"The worker ended ({worker.last_words()}); starting another.", flush=True)
                    worker = WorkerProcess(settings.home, server.address)
    finally:
        state.unlink(missing_ok=True)
        if worker:
            worker.stop()
        if decrypting:
            decrypting.stop()
        server.stop()
        lock.close()


def _codec_server(settings: Settings, server: TemporalServer, port: int) -> Process:
    """The UI's codec server, a process of its own: it holds keys, and answers web pages."""
    argv = [sys.executable, "-m", "remit.cli", "codec-server", "--port", str(port)]
    for origin in (server.ui, server.ui.replace("127.0.0.1", "localhost")):
        argv += ["--ui-origin", origin]
    return Process(argv, settings.home / "codec-server.log", {"TEMPORAL_NAMESPACE": "default"})


def _welcome(settings: Settings, server: TemporalServer) -> None:
    home = settings.home
    who = "The dev issuer signs as anybody (ana, bo, cleo, sam): for a laptop only."
    if settings.oidc:
        who = f"People log in with {settings.oidc_issuer}: `remit login`."
    print(
        f"""Remit is up; everything is kept in {home}.
  Temporal server   {server.address}
  Temporal UI       {server.ui}
  Waiting for you   {server.ui}/namespaces/default/workflows?query=RemitAwaitingApproval%3Dtrue
  Worker log        {home / "worker.log"}

{who}
In another terminal, from this folder:

  remit agents
  remit run billing-resolution --inputs '{{"ticket_id": "T-1004"}}' --script {ROOT / "demo" / "scripts.json"}#rejected
  remit inbox

Ctrl-C stops everything; nothing is lost.""",
        flush=True,
    )
