"""The worker process of a system that isn't Remit: connect, work until SIGTERM. It says nothing of what it serves."""

import asyncio
import os
import signal
import warnings
from collections.abc import Sequence
from typing import Any

from temporalio.client import Client, Plugin
from temporalio.worker import Worker

__all__ = ["model_url", "serve"]


def model_url() -> str:
    """The model server's address, up to and including its `/v1`."""
    return os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")


def serve(workflows: Sequence[type], activities: Sequence[Any] = (), plugins: Sequence[Plugin] = ()) -> None:
    """Serve the task queue `BENCH_QUEUE` at `TEMPORAL_ADDRESS`, with the SDK's own settings."""
    warnings.filterwarnings("ignore")
    asyncio.run(_serve(workflows, activities, plugins))
    os._exit(0)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)


async def _serve(workflows: Sequence[type], activities: Sequence[Any], plugins: Sequence[Plugin]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"], plugins=plugins)
    async with Worker(client, task_queue=os.environ["BENCH_QUEUE"], workflows=workflows, activities=activities):
        await stop.wait()
