"""Whoever deals with runs meanwhile: those who start, decide and kill, and those who send junk."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from temporalio.service import RPCError

from policies.approvals import Approval, Verb, decision_payload
from policies.errors import ApprovalRefused, InvalidInput, NotFound, RemitError, Unavailable
from remit.client import RunFailed
from tests.chaos.plan import NOBODYS, STAFF, Blow, Decision, Job
from tests.chaos.world import World
from workflows.messages import RunSummary

__all__ = ["People"]

T = TypeVar("T")
AWAY = (Unavailable, RunFailed, RPCError, RuntimeError)
"""What a client hears while workers or the server are away, or a busy worker takes a starved query for a deadlock."""
LOOK_SECONDS = 0.5
JUNK = 40


class People:
    """Everybody outside.

    Attributes:
        acknowledged: the runs whose kill was acknowledged to somebody.
        counted: decisions that counted though they mustn't; each as a sentence.
        junk, decisions: how many were sent.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._remit = world.remit
        self._jobs = {job.id: job for job in world.plan.jobs}
        self._rng = random.Random(world.plan.seed)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._tried: set[str] = set()
        self.acknowledged: set[str] = set()
        self.counted: list[str] = []
        self.closed: set[str] = set()
        self.waiting_at_most = 0
        self.junk = 0
        self.decisions = 0

    # ---- those who start ----------------------------------------------------------------------------------------

    async def start_all(self) -> None:
        """Start every run at its time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as killers:
            for job in self._world.plan.jobs:
                await asyncio.sleep(began + job.starts - loop.time())
                await self._insist(lambda job=job: self._start(job))
                if job.killed == "busy":
                    killers.create_task(self._kill_later(job))

    async def _start(self, job: Job) -> None:
        inputs = dict(job.inputs)
        with contextlib.suppress(InvalidInput):  # it was started, and the answer was lost
            await self._remit.start(job.agent, {**inputs}, run_id=job.id, requester=STAFF, script=job.script)

    async def _kill_later(self, job: Job) -> None:
        await asyncio.sleep(job.kill_after)
        await self._insist(lambda: self._kill(job))

    async def _kill(self, job: Job) -> None:
        try:
            await self._remit.kill(job.id, "It must stop.", "ana@example.com")
        except InvalidInput:
            return  # it had closed by itself
        self.acknowledged.add(job.id)

    # ---- those who decide ---------------------------------------------------------------------------------------

    async def mind(self) -> None:
        """Watch the inbox until every run has closed; decide once the doors are open."""
        opens = time.monotonic() + self._world.plan.doors
        while len(self.closed) < len(self._jobs):
            with contextlib.suppress(*AWAY):
                rows = [row async for row in self._remit.list(limit=10_000)]
                self.closed = {row.workflow_id for row in rows if row.closed_at is not None}
                waiting = [row.workflow_id for row in rows if row.awaiting_approval]
                self.waiting_at_most = max(self.waiting_at_most, len(waiting))
                if time.monotonic() > opens:
                    for name in self._rng.sample(waiting, len(waiting)):
                        if name not in self._busy:
                            self._busy[name] = asyncio.create_task(self._look(self._jobs[name]))
            for name, task in [*self._busy.items()]:
                if task.done():
                    task.result()
                    del self._busy[name]
            await asyncio.sleep(LOOK_SECONDS)
        await asyncio.gather(*self._busy.values())

    async def _look(self, job: Job) -> None:
        """Do the next thing about a run that waits."""
        with contextlib.suppress(*AWAY, NotFound, InvalidInput):
            summary, approval = await self._remit.approval(job.id, None)
            if job.id not in self._tried:
                await self._try_what_mustnt_count(job, summary, approval)
                self._tried.add(job.id)
            if job.killed == "parked" and job.id not in self.acknowledged:
                await self._kill(job)
            decided = {d.sub for d in approval.decisions}
            for decision in job.decisions:
                if decision.who not in decided:
                    with contextlib.suppress(ApprovalRefused):  # it came twice, or too late
                        await self._send(job, summary, approval, decision)
                    return

    async def _send(self, job: Job, summary: RunSummary, approval: Approval, decision: Decision) -> None:
        token = self._signed(decision.who, summary, approval, decision.verb)
        self.decisions += 1
        if decision.by == "update":
            await self._remit.decide(job.id, approval.request.approval_id, token)
            return
        await self._remit.handle(job.id).signal("decide", decision_payload(approval.request.approval_id, token))
        await asyncio.sleep(1)  # nobody says whether it counted; whoever looks again sees it

    async def _try_what_mustnt_count(self, job: Job, summary: RunSummary, approval: Approval) -> None:
        """Somebody who may not decide does; somebody decides on another run; a decision is made up."""
        name = approval.request.approval_id
        other = summary.model_copy(update={"run_id": "another"})
        for who, token in (
            *((who, self._signed(who, summary, approval, "approve")) for who in NOBODYS),
            ("ana@example.com", self._signed("ana@example.com", other, approval, "approve")),
            ("nobody", "e30.e30.e30"),
        ):
            self.junk += 1
            with contextlib.suppress(ApprovalRefused):
                await self._remit.decide(job.id, name, token)
                self.counted.append(f"what {who} decided on `{job.id}` counted")

    def _signed(self, who: str, summary: RunSummary, approval: Approval, verb: Verb) -> str:
        return self._world.issuer.sign(
            who, request=approval.request, run_id=summary.run_id, decision=verb, reason="Looked at it."
        )

    # ---- those who send junk ------------------------------------------------------------------------------------

    async def flood(self, blow: Blow) -> None:
        """Signals that mean nothing, many at once, to a run that is open if there is one."""
        jobs = [j for j in self._world.plan.jobs if j.id not in self.closed]
        if not jobs:
            return
        handle = self._remit.handle(jobs[blow.target % len(jobs)].id)
        kinds: tuple[tuple[str, object], ...] = (
            ("decide", {"approver": "mallory", "approved": True}),
            ("decide", "approve"),
            ("kill", {"reason": ""}),
            ("kill", 17),
            ("approve", {"approval_id": "ap-0-0"}),
        )

        async def send(name: str, payload: object) -> None:
            with contextlib.suppress(*AWAY):
                await handle.signal(name, payload)
                self.junk += 1

        await asyncio.gather(*(send(*kinds[n % len(kinds)]) for n in range(JUNK)))

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await work()
            except (*AWAY, NotFound):
                await asyncio.sleep(0.2)
            except RemitError as e:
                raise AssertionError(e.message) from e
