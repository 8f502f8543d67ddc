"""Fixtures of all tests: a real Temporal server for each test process, an engine (worker, ledger, business) for each test."""

import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from temporalio.worker._workflow import _WorkflowWorker  # pyright: ignore[reportPrivateUsage]

import worker
from remit.embedded import TemporalServer
from remit.settings import ROOT
from tests.engine import Engine
from tests.postgres import PostgresServer
from tools.connectors import sandbox

settings.register_profile("remit", deadline=None)  # how fast a machine is proves nothing
settings.load_profile("remit")
os.environ["REMIT_DEPLOYMENT"] = "none"  # as in `Engine`, for the workers that tests start as processes
PATIENCE_SECONDS = 30
_status = 0


def _patient(worker: Any, *args: Any, _init: Any = _WorkflowWorker.__init__, **given: Any) -> None:
    """Several test processes share a machine: a workflow that had no turn for two seconds isn't in a deadlock there."""
    _init(worker, *args, **given)
    worker._deadlock_timeout_seconds = PATIENCE_SECONDS


_WorkflowWorker.__init__ = _patient  # pyright: ignore[reportAttributeAccessIssue]


def pytest_sessionfinish(exitstatus: int) -> None:
    global _status
    _status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End with pytest's own exit code: the SDK's threads abort about one normal interpreter exit in four."""
    if not hasattr(config, "workerinput"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[TemporalServer]:
    """The real Temporal server, headless, for this test process."""
    found = TemporalServer(tmp_path_factory.mktemp("temporal"), headless=True)
    yield found
    found.stop()


@pytest.fixture(scope="session")
def postgres() -> Generator[PostgresServer]:
    """A real PostgreSQL for this test process, started by the first test that asks for it."""
    found = PostgresServer()
    yield found
    found.stop()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A `.remit` folder with the demo's business in it."""
    folder = tmp_path / "remit-home"
    folder.mkdir()
    sandbox.create(folder / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
    return folder


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the agents and bundles, which the worker of this test reads; change it before the run starts."""
    root = tmp_path / "library"
    shutil.copytree(ROOT / "agents", root / "agents")
    shutil.copytree(ROOT / "policies" / "bundles", root / "policies" / "bundles")
    monkeypatch.setattr(worker, "ROOT", root)
    return root


@pytest.fixture
async def engine(server: TemporalServer, home: Path) -> AsyncGenerator[Engine]:
    """A worker in this process, with a ledger and a business of its own."""
    client = await server.ready()
    async with Engine(client, home) as found:
        yield found
