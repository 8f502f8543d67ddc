"""Heartbeats in the background, so that a dead worker is found soon and a cancellation arrives."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from temporalio import activity

__all__ = ["beating"]


@asynccontextmanager
async def beating(*details: object) -> AsyncGenerator[None]:
    """Beat while the block runs, three times in each heartbeat timeout. Does nothing in local activities.

    `details` go with each beat, for the next attempt: one that beats without them forgets those before.
    The first beat comes after a third of it: one at the start would be a call to the server in each activity, however short.
    """
    timeout = activity.info().heartbeat_timeout
    if not timeout:
        yield
        return

    async def beat() -> None:
        while True:
            await asyncio.sleep(timeout.total_seconds() / 3)
            activity.heartbeat(*details)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
