"""G6: caps across runs are reached exactly and never passed, whoever counts at the same time and whoever dies meanwhile."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest
import sqlalchemy as sa

from activities.ledger import usage
from activities.ledger.store import Ledger
from activities.ledger.tables import charges
from remit.embedded import TemporalServer, WorkerProcess
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tests.guarantees.capping import CALLS, CAPS, CENTS, ESTIMATE, MOVED, TOKENS
from tests.postgres import PostgresServer
from tools.connectors import sandbox

PROCESSES = 4


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh ledger of each kind."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        found = server.database()
    else:
        found = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger(found)
    ledger.migrate()
    ledger.close()
    return found


class Counting:
    """A process of `tests.guarantees.capping`."""

    def __init__(self, url: str, name: str) -> None:
        command = [sys.executable, "-m", "tests.guarantees.capping", url, name]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._out.readline() == "ready\n"

    @property
    def _out(self) -> IO[str]:
        assert self._process.stdout
        return self._process.stdout

    def go(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def dies_after(self, lines: int) -> None:
        """Kill it, wherever it is, once it has said so much."""
        for _ in range(lines):
            assert self._out.readline()
        os.kill(self._process.pid, signal.SIGKILL)
        assert self._process.wait(30) == -signal.SIGKILL

    def done(self) -> list[str]:
        """What got room, once it has none any more."""
        out, _ = self._process.communicate(timeout=120)
        lines = [line for line in out.splitlines() if line]
        assert lines[-1:] == ["done"], lines[-3:]
        return lines[:-1]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def counting(url: str) -> Generator[list[Counting]]:
    with ExitStack() as closing:
        found = [Counting(url, f"p{n}") for n in range(PROCESSES)]
        for each in found:
            closing.callback(each.close)
        yield found


def test_caps_are_reached_exactly_though_some_of_those_who_count_die(url: str, counting: list[Counting]) -> None:
    """Four processes read, ask and write at once, and two are killed on the way: no call, no cent, no token too many.

    And none too few: nothing is lost to a process that dies but what it had counted itself.
    """
    for each in counting:
        each.go()
    counting[0].dies_after(3)
    counting[1].dies_after(6)
    for each in counting[2:]:
        each.done()
    ledger = Ledger(url)
    with ledger.reading() as connection:
        found = {use.cap: use.used for each in CAPS for use in usage.used(connection, each)}
        calls = connection.execute(sa.select(sa.func.count()).where(charges.c.kind == "tool")).scalar_one()
        tokens = connection.execute(sa.select(sa.func.sum(charges.c.tokens))).scalar_one()
    moved = sum(e.amount_cents for e in ledger.effects())
    ledger.close()
    # What is added up by the minute is what was counted one by one.
    assert found == {"tool_calls_per_day": calls, "tokens_per_day": tokens, "moved_cents_per_day.USD": moved}
    assert calls == CALLS
    assert TOKENS - ESTIMATE < tokens <= TOKENS
    assert CENTS - MOVED < moved <= CENTS


async def test_runs_on_workers_that_die_pass_no_cap(server: TemporalServer, home: Path) -> None:
    """Four runs at once on two workers, the first to refund dies with it: two refunds fit under the cap, and two happen."""
    file = home / "caps.toml"
    file.write_text('[fleet]\nmoved_cents_per_day = { USD = 2500 }\non_cap = "refuse"\n')
    for invoice in ("in_1001", "in_1002"):
        sandbox.arm(home / "business.db", "refund", invoice, "crash_after_commit")
    async with Engine(await server.ready(), home, overrides={"caps": file}, working=False) as engine:
        env = {"REMIT_TASK_QUEUE": engine.settings.task_queue, "REMIT_CAPS": str(file)}
        workers = [WorkerProcess(home, server.address, f"worker-{n}", env) for n in range(2)]
        try:
            refunds = [
                call("request_refund", invoice_id=f"in_100{n % 2 + 1}", amount_cents=1000, reason="duplicate") for n in range(4)
            ]
            runs = [await engine.start([turn(refund), final()]) for refund in refunds]
            async with asyncio.timeout(60):
                while all(worker.running for worker in workers):
                    await asyncio.sleep(0.05)
            workers.append(WorkerProcess(home, server.address, "worker-2", env))
            workers.append(WorkerProcess(home, server.address, "worker-3", env))
            done = [await engine.closed(run.id) for run in runs]
        finally:
            for worker in workers:
                worker.stop()
        assert sum(worker.exit_code == -signal.SIGKILL for worker in workers) >= 1
        assert sorted((c.status, c.reason) for run in done for c in run.calls) == [
            *[("done", "")] * 2,
            *[("refused", "cap_reached")] * 2,
        ]
        assert [r["amount_cents"] for r in engine.rows("refunds")] == [1000, 1000]
