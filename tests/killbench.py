"""How fast a fleet stops: a thousand parked runs and some that write, on two workers. `make kill-bench`, on an idle machine.

Measures the kill (until it is acknowledged), effects reserved after that (0, counted from the ledger), and the time until all
runs have closed, as a ratio to signalling as many raw workflows, which then close, before and after on the same server. Prints,
as its last line, JSON.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from temporalio.client import Client

from activities.ledger import switches
from activities.ledger.store import existing
from policies.switches import FLEET
from remit.client import Remit
from remit.embedded import Process, TemporalServer, WorkerProcess
from remit.fleet import Fleet
from remit.settings import ROOT
from tests.engine import call, final, turn
from tests.parked import QUEUE, RAW
from tools.connectors import sandbox
from workflows.messages import AGENT_RUN

AT_ONCE = 64
WRITERS = 10
PARKS = [turn(call("add_account_note", customer_id="cus_111", visibility="customer", text="Seen.")), final()]


@dataclass(frozen=True)
class Raw:
    signalled_s: float
    closed_s: float


@dataclass(frozen=True)
class Killed:
    """Seconds since the kill was commanded.

    Attributes:
        reserved_after: effects reserved after the switch, by epoch.
        new_after: effects that the ledger didn't know yet when `kill` returned.
        effects: all that there were, so that it can be seen that something was written.
    """

    acknowledged_s: float
    told_s: float
    told: int
    closed_s: float
    reserved_after: int
    new_after: int
    effects: int


def _worker(home: Path, address: str, number: int) -> Process:
    code = f"import asyncio; from tests.parked import serve; asyncio.run(serve({address!r}))"
    return Process([sys.executable, "-c", code], home / f"raw-{number}.log", {"PYTHONPATH": str(ROOT)})


async def _running(client: Client, kind: str) -> int:
    return (await client.count_workflows(f"WorkflowType = '{kind}' AND ExecutionStatus = 'Running'")).count


async def _closed(client: Client, kind: str) -> None:
    async with asyncio.timeout(600):
        while await _running(client, kind):
            await asyncio.sleep(0.05)


async def raw(client: Client, home: Path, address: str, count: int) -> Raw:
    """As many raw workflows, parked and then signalled."""
    workers = [_worker(home, address, n) for n in range(2)]
    try:
        gate = asyncio.Semaphore(AT_ONCE)

        async def start(number: int) -> None:
            async with gate:
                await client.start_workflow(RAW, id=f"raw-{time.monotonic_ns()}-{number}", task_queue=QUEUE)

        await asyncio.gather(*(start(n) for n in range(count)))
        await _parked(client, f"WorkflowType = '{RAW}' AND ExecutionStatus = 'Running'", count)
        await asyncio.sleep(3)
        names = [w.id async for w in client.list_workflows(f"WorkflowType = '{RAW}' AND ExecutionStatus = 'Running'")]
        begun = time.monotonic()

        async def signal(name: str) -> None:
            async with gate:
                await client.get_workflow_handle(name).signal("kill", "stop")

        await asyncio.gather(*(signal(name) for name in names))
        signalled = time.monotonic() - begun
        await _closed(client, RAW)
        return Raw(signalled, time.monotonic() - begun)
    finally:
        for worker in workers:
            worker.stop()


async def _parked(client: Client, query: str, count: int) -> None:
    async with asyncio.timeout(1200):
        while (await client.count_workflows(query)).count < count:
            await asyncio.sleep(0.2)


async def killed(client: Client, home: Path, address: str, count: int) -> Killed:
    """As many runs that wait for people, and some that write all the time, then `kill --fleet`."""
    workers = [WorkerProcess(home, address, f"worker-{n}") for n in range(2)]
    try:
        remit, gate = Remit(client), asyncio.Semaphore(16)

        async def park() -> None:
            async with gate:
                await remit.start("support-triage", {"ticket_id": "T-1011"}, script=tuple(PARKS))

        await asyncio.gather(*(park() for _ in range(count)))
        await _parked(client, "RemitAwaitingApproval = true AND ExecutionStatus = 'Running'", count)
        drafts = [turn(call("draft_reply", ticket_id="T-1001", text=f"Draft {n}.")) for n in range(19)]
        for _ in range(WRITERS):
            await remit.start("billing-resolution", {"ticket_id": "T-1001"}, script=(*drafts, final()))
        with existing(f"sqlite:///{home / 'ledger.db'}") as ledger:
            async with asyncio.timeout(60):
                while len(ledger.effects()) < WRITERS:
                    await asyncio.sleep(0.01)
            fleet = Fleet(client)
            begun = time.monotonic()
            switched = await fleet.kill(FLEET, "bench")
            acknowledged = time.monotonic() - begun
            known = {e.idempotency_key for e in ledger.effects()}
            report = asyncio.create_task(fleet.report(switched))
            await _closed(client, AGENT_RUN)
            closed = time.monotonic() - begun
            found = await report
            with ledger.reading() as connection:
                after = switches.reserved_since(connection, FLEET, switched.epoch)
            effects = ledger.effects()
        told = (await fleet.control()).told[-1]
        return Killed(
            acknowledged_s=acknowledged,
            told_s=told.at - switched.at / 1000,
            told=found.told or told.told,
            closed_s=closed,
            reserved_after=after,
            new_after=len([e for e in effects if e.idempotency_key not in known]),
            effects=len(effects),
        )
    finally:
        for worker in workers:
            worker.stop()


async def bench(count: int) -> dict[str, object]:
    """Raw, ours, raw."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        sandbox.create(home / "business.db", json.loads((ROOT / "demo" / "business.json").read_text()))
        server = TemporalServer(Path(folder) / "server", headless=True)
        try:
            client = await server.ready()
            before = await raw(client, home, server.address, count)
            print(f"raw: {before}", flush=True)
            ours = await killed(client, home, server.address, count)
            print(f"ours: {ours}", flush=True)
            after = await raw(client, home, server.address, count)
            print(f"raw: {after}", flush=True)
        finally:
            server.stop()
    mean = (before.closed_s + after.closed_s) / 2
    figures = {"runs": count, "closed_to_raw": ours.closed_s / mean, **asdict(ours), "raw": [asdict(before), asdict(after)]}
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}


def main() -> int:
    """0 if the kill returned within a second and nothing was reserved afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    found = asyncio.run(bench(parser.parse_args().runs))
    print(json.dumps(found))
    return 0 if found["reserved_after"] == 0 == found["new_after"] and float(str(found["acknowledged_s"])) <= 1 else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
