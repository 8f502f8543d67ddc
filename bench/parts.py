"""What is measured, part by part. All systems of a part run on one stage, in turns: what disturbs one disturbs all."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import History
from temporalio.service import RPCError

from bench.results import Metric, Samples
from bench.stage import Entrant, Stage, entrants
from bench.systems import PEERS, Failed, Run, System
from bench.task import Task

__all__ = ["METRICS_OF", "PARTS", "QUICK", "Plan"]

LATENCY: tuple[Metric, ...] = ("ms_per_step", "worker_cpu_ms_per_step", "rss_mb", "history_bytes", "history_events")
PARKED: tuple[Metric, ...] = ("parked_kb", "signal_all_s", "close_all_s")
METRICS_OF: dict[str, tuple[Metric, ...]] = {
    "latency": LATENCY,
    "throughput": ("steps_per_s",),
    "replay": ("replay_s",),
    "signals": ("approval_to_tool_ms", "kill_to_stop_ms"),
    "parked": PARKED,
}
SIGNALED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
STARTED = EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
AT_ONCE = 50
HOLD_SECONDS = 20
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        steps: sizes of single runs, and how often each is repeated.
        slow_repeats: the same for a system whose runs of that size take longer than `slow_seconds`.
        replayed: steps of the run that is replayed.
    """

    steps: tuple[tuple[int, int], ...] = ((5, 15), (20, 15), (100, 15), (200, 7), (1000, 3))
    slow_seconds: float = 6
    slow_repeats: int = 3
    run_seconds: float = 240
    throughput: int = 10
    replayed: int = 200
    replays: int = 5
    approvals: int = 8
    kills: int = 31
    parked: int = 1000
    parked_repeats: int = 3


QUICK = Plan(steps=((5, 2), (20, 1)), throughput=1, replayed=20, replays=1, approvals=2, kills=3, parked=50, parked_repeats=1)
Save = Callable[[], None]


def in_turn(entrants: Sequence[Entrant], repeat: int) -> list[Entrant]:
    """All of them, another one first each time."""
    start = repeat % len(entrants) if entrants else 0
    return [*entrants[start:], *entrants[:start]]


async def latency(stage: Stage, systems: Sequence[System], plan: Plan, samples: Samples, save: Save) -> None:
    """One run at a time: time, CPU and peak memory of the worker, and the history."""
    dead: dict[str, str] = {}
    async with entrants(stage, systems, dead) as found:
        for steps, repeats in plan.steps:
            took: dict[str, float] = {}
            for name, why in dead.items():
                samples.failed(name, LATENCY, steps, why)
            for repeat in range(repeats):
                for entrant in in_turn(found, repeat):
                    name = entrant.name
                    slow = took.get(name, 0) > plan.slow_seconds
                    if name in dead or (slow and repeat >= (1 if took[name] > 10 * plan.slow_seconds else plan.slow_repeats)):
                        continue
                    try:
                        took[name] = await _one(entrant, steps, plan, samples)
                    except Failed as e:
                        dead[name] = f"failed at N={steps}: {e}"
                        samples.failed(name, LATENCY, steps, dead[name])
                save()


async def _one(entrant: Entrant, steps: int, plan: Plan, samples: Samples) -> float:
    meter = entrant.meter
    meter.reset_peak()
    began, cpu = time.perf_counter(), meter.cpu_s()
    run = await entrant.run(Task(steps), plan.run_seconds)
    took, used, peak = time.perf_counter() - began, meter.cpu_s() - cpu, meter.peak_kb()
    events, size = await _history(entrant, run)
    values = (took * 1000 / steps, used * 1000 / steps, peak / 1024, size, events)
    for metric, value in zip(LATENCY, values, strict=True):
        samples.add(entrant.name, metric, steps, value)
    return took


async def _history(entrant: Entrant, run: Run) -> tuple[int, int]:
    """Events and bytes of the run's history, all its segments together."""
    events = size = 0
    execution = ""
    while True:
        handle = entrant.client.get_workflow_handle(run.id, run_id=execution or None)
        info = (await handle.describe()).raw_description.workflow_execution_info
        events, size = events + info.history_length, size + info.history_size_bytes
        first = await anext(aiter(handle.fetch_history_events(page_size=1)))
        execution = first.workflow_execution_started_event_attributes.continued_execution_run_id
        if not execution:
            return events, size


async def throughput(stage: Stage, systems: Sequence[System], plan: Plan, samples: Samples, save: Save) -> None:
    """50 runs of 5 steps at once on one worker."""
    dead: dict[str, str] = {}
    task = Task(5)
    async with entrants(stage, systems, dead) as found:
        for repeat in range(plan.throughput):
            for entrant in in_turn(found, repeat):
                slow = entrant.system.command()[0] == str(PEERS)
                if entrant.name in dead or (slow and repeat >= plan.slow_repeats):
                    continue
                began = time.perf_counter()
                done = await asyncio.gather(
                    *(entrant.run(task, plan.run_seconds) for _ in range(AT_ONCE)), return_exceptions=True
                )
                if errors := [e for e in done if isinstance(e, BaseException)]:
                    dead[entrant.name] = f"{len(errors)} of {AT_ONCE} runs failed: {errors[0]}"
                    continue
                samples.add(entrant.name, "steps_per_s", AT_ONCE, AT_ONCE * task.steps / (time.perf_counter() - began))
            save()
    for name, why in dead.items():
        samples.failed(name, ("steps_per_s",), AT_ONCE, why)


async def replay(stage: Stage, systems: Sequence[System], plan: Plan, samples: Samples, save: Save) -> None:
    """A run's history replayed in a fresh process, as after a crash or an eviction."""
    dead: dict[str, str] = {}
    histories: dict[str, Path] = {}
    async with entrants(stage, systems, dead) as found:
        for entrant in found:
            try:
                run = await entrant.run(Task(plan.replayed), plan.run_seconds)
            except Failed as e:
                dead[entrant.name] = f"failed at N={plan.replayed}: {e}"
                continue
            history = await run.fetch_history()
            histories[entrant.name] = stage.home / f"{entrant.name}.pb"
            await asyncio.to_thread(histories[entrant.name].write_bytes, History(events=history.events).SerializeToString())
    for _ in range(plan.replays):
        for system in systems:
            if system.name not in dead and system.name in histories:
                try:
                    for seconds in await _replays(system, histories[system.name]):
                        samples.add(system.name, "replay_s", plan.replayed, seconds)
                except Failed as e:
                    dead[system.name] = str(e)
        save()
    for name, why in dead.items():
        samples.failed(name, ("replay_s",), plan.replayed, why)


async def _replays(system: System, history: Path, repeats: int = 3) -> list[float]:
    command = system.replay_command(history, repeats)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, errors = await process.communicate()
    if process.returncode:
        raise Failed(f"doesn't replay: {errors.decode().strip().splitlines()[-1:]}")
    return [float(s) for s in json.loads(out)]


async def signals(stage: Stage, systems: Sequence[System], plan: Plan, samples: Samples, save: Save) -> None:
    """From a signal to what it brings about, one run at a time."""
    dead: dict[str, str] = {}
    async with entrants(stage, systems, dead) as found:
        for repeat in range(max(plan.approvals, plan.kills)):
            for entrant in in_turn(found, repeat):
                with _marking(dead, entrant.name):
                    if entrant.name not in dead and repeat < plan.approvals:
                        await _approvals(stage, entrant, repeat, samples)
                    if entrant.name not in dead and repeat < plan.kills:
                        await _kill(stage, entrant, repeat, samples)
            save()
    for name, why in dead.items():
        samples.failed(name, METRICS_OF["signals"], 1, why)


async def _approvals(stage: Stage, entrant: Entrant, repeat: int, samples: Samples, rounds: int = 5) -> None:
    """From an approval's signal to the start of the tool, as the server dates it."""
    task = Task(rounds)
    run = await entrant.start(task, gated=True)
    sent: list[float] = []
    for _ in range(rounds):
        await stage.parked(run)
        signal, args = await entrant.system.approval(run, entrant.home)
        sent.append(time.time())
        await run.signal(signal, args=args)
    await run.result()
    waiting: list[float] = []
    got: list[float] = []
    async for event in run.fetch_history_events():
        if event.event_type == SIGNALED:
            waiting.append(sent[len(got)])
        elif event.event_type == STARTED and waiting:
            got.append(event.event_time.ToMicroseconds() / 1e6 - waiting.pop())
    if len(got) != rounds:
        raise Failed(f"{len(got)} of {rounds} approved tools started")
    if repeat:  # the first one warms up
        for seconds in got:
            samples.add(entrant.name, "approval_to_tool_ms", 1, seconds * 1000)


async def _kill(stage: Stage, entrant: Entrant, repeat: int, samples: Samples) -> None:
    """From a kill's signal, sent while the model is answering, to the end of the run."""
    run = await entrant.start(Task(1, hold=HOLD_SECONDS), gated=True)
    while not (await run.describe()).raw_description.pending_activities:
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)
    sent = time.time()
    await entrant.kill(run)
    closed = await stage.closed(run)
    if repeat:
        samples.add(entrant.name, "kill_to_stop_ms", 1, (closed - sent) * 1000)


async def parked(stage: Stage, systems: Sequence[System], plan: Plan, samples: Samples, save: Save) -> None:
    """Many runs that wait for a person: what they weigh, and how soon all are ended."""
    dead: dict[str, str] = {}
    for repeat in range(plan.parked_repeats):
        for system in systems:
            # A fresh worker each time: one that held many runs before has memory to spare for them.
            slow = system.command()[0] == str(PEERS)
            if system.name not in dead and not (slow and repeat):
                with _marking(dead, system.name):
                    async with stage.entrant(system) as entrant:
                        await _fleet(stage, entrant, plan.parked, samples)
            save()
    for name, why in dead.items():
        samples.failed(name, PARKED, plan.parked, why)


async def _fleet(stage: Stage, entrant: Entrant, size: int, samples: Samples) -> None:
    await stage.quiet(entrant)
    before = entrant.meter.rss_kb()
    runs = await _all([lambda: entrant.start(Task(1), gated=True)] * size)
    await stage.quiet(entrant)
    await stage.parked(runs[0], 1)
    await stage.parked(runs[-1], 1)
    samples.add(entrant.name, "parked_kb", size, (entrant.meter.rss_kb() - before) / size)
    began = time.perf_counter()
    await _all([lambda run=run: entrant.kill(run) for run in runs])
    samples.add(entrant.name, "signal_all_s", size, time.perf_counter() - began)
    open_ones = f'TaskQueue = "{entrant.queue}" AND ExecutionStatus = "Running"'
    while (await entrant.client.count_workflows(open_ones)).count:
        await asyncio.sleep(0.05)
        if time.perf_counter() - began > 300:
            raise Failed("not all runs closed within 300 s")
    samples.add(entrant.name, "close_all_s", size, time.perf_counter() - began)


async def _all(calls: Sequence[Callable[[], Awaitable[T]]], at_once: int = 100) -> list[T]:
    gate = asyncio.Semaphore(at_once)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await call()

    return await asyncio.gather(*(one(call) for call in calls))


@contextmanager
def _marking(dead: dict[str, str], name: str) -> Generator[None]:
    """A failure in the block is put down to the system called `name`."""
    try:
        yield
    except (Failed, RPCError) as e:
        dead[name] = str(e)


PARTS = {"latency": latency, "throughput": throughput, "replay": replay, "signals": signals, "parked": parked}
