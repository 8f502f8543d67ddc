"""How an activity deals with a ledger that is away for now: it waits, and then says so, to be tried again."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError, TimeoutError
from temporalio import activity
from temporalio.exceptions import ApplicationError

__all__ = ["AWAY", "ledger_awaited", "ledger_needed"]

T = TypeVar("T")
AWAY = (InterfaceError, OperationalError, TimeoutError)
"""What is raised while the database starts, is busy or can't be reached; other errors of it don't go away by waiting."""
WAIT = 0.75
"""How much of an attempt's time it may spend in waiting."""
LONGEST_PAUSE_SECONDS = 1.0


@contextmanager
def ledger_needed() -> Generator[None]:
    """Fail, to be retried, when the ledger can't be reached. The driver's own text stays out of history."""
    try:
        yield
    except SQLAlchemyError as e:
        raise ApplicationError(f"The ledger can't be reached: {type(e).__name__}.", type="ledger_unavailable") from None


async def ledger_awaited(ask: Callable[[], Awaitable[T]]) -> T:
    """`ask`, again and again while the ledger is away and this attempt has time.

    A database that is started again must cost no attempt: those of a write are few, and meant for its vendor. `ask` must be
    safe to repeat, also when it came through and only the answer was lost.
    """
    timeout = activity.info().start_to_close_timeout
    loop = asyncio.get_running_loop()
    end = loop.time() + (timeout.total_seconds() * WAIT if timeout else 0)
    pause = 0.1
    while True:
        try:
            return await ask()
        except AWAY:
            if loop.time() + pause > end:
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
