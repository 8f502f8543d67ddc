"""What anybody would write instead of a run, for comparison: a workflow that waits for a signal, and its worker."""

import asyncio

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

__all__ = ["QUEUE", "RAW", "serve"]

QUEUE, RAW = "raw", "ParkedByHand"


@workflow.defn(name=RAW)
class ParkedByHand:
    def __init__(self) -> None:
        self._over = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self._over)
        return "killed"

    @workflow.signal
    def kill(self, reason: str) -> None:
        del reason
        self._over = True


async def serve(address: str) -> None:
    """Work until the process is ended."""
    client = await Client.connect(address)
    async with Worker(client, task_queue=QUEUE, workflows=[ParkedByHand]):
        await asyncio.Event().wait()
