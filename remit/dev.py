"""`remit dev`: the embedded engine in the foreground, kept in `.remit/`. The newest code is always the current version."""

import asyncio
import fcntl
import json
import os
import signal
import sys
from typing import IO

from temporalio.client import Client
from temporalio.service import RPCError

from activities.ledger.store import Ledger
from policies.errors import InvalidInput, RemitError
from remit.apps import Parts, assemble
from remit.connection import converter, dev_state
from remit.deploy import move_runs
from remit.deployment import Deployment, build_id
from remit.embedded import Process, TemporalServer, WorkerProcess, free_port
from remit.issuer import DevIssuer
from remit.settings import ROOT, Settings
from tools import registry
from tools.connectors import sandbox

__all__ = ["prepare", "serve"]

STOP_SECONDS = 10  # what a worker has beyond its own deadline, before it is killed


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
    settling: asyncio.Task[None] | None = None
    try:
        client = await server.ready(data_converter=converter(settings))
        worker = WorkerProcess(settings.home, server.address)
        settling = asyncio.create_task(_settle(client, settings, parts))
        while not stop.is_set():
            if settling.done() and not state.exists():
                state.write_text(json.dumps({"address": server.address, "ui": server.ui, "pid": os.getpid(), "codec": codec}))
                _welcome(settings, server)
            try:
                await asyncio.wait_for(stop.wait(), 1 if state.exists() else 0.1)
            except TimeoutError:
                if not server.running:
                    raise InvalidInput(f"The Temporal server ended: {server.last_words()}") from None
                if worker.exit_code == 2:
                    raise InvalidInput(f"The worker can't start: {worker.last_words()}") from None
                if not worker.running:
                    print(f"The worker ended ({worker.last_words()}); starting another.", flush=True)
                    worker = WorkerProcess(settings.home, server.address)
                    settling.cancel()
                    settling = asyncio.create_task(_settle(client, settings, parts))
    finally:
        state.unlink(missing_ok=True)
        if settling:
            settling.cancel()
        if worker:
            worker.stop(settings.shutdown_seconds + STOP_SECONDS)
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


async def _settle(client: Client, settings: Settings, parts: Parts) -> None:
    """Send new runs to the code that the worker has just started with, and let it take over what earlier code began.

    There is no other worker here: without this, an edit of a tool would leave the open runs waiting for ever.
    """
    if not settings.deployment_name:
        return
    deployment, build = Deployment(client, settings.deployment_name), build_id(settings)
    try:
        await deployment.introduce(build, always=True)
        registry.install(parts.catalog)
        for version in await deployment.counted():
            if version.build_id != build and version.open_runs:
                for run in await move_runs(client, deployment, version.build_id, build):
                    if run.moved:
                        print(f"Run {run.workflow_id}, which other code began, goes on with today's.", flush=True)
                    else:
                        print(f"Run {run.workflow_id} waits for version {version.build_id}: {run.reason}.", flush=True)
    except (RemitError, RPCError) as e:
        print(f"Whether version {build} gets runs is unknown ({e.message}); see `remit deploy`.", flush=True)


def _welcome(settings: Settings, server: TemporalServer) -> None:
    home = settings.home
    who = "The dev issuer signs as anybody (ana, bo, cleo, dana, sam): for a laptop only."
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
