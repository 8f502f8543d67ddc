"""A ledger that is away: an attempt waits for it as long as it has time, and no longer."""

import dataclasses
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from temporalio.testing import ActivityEnvironment

from activities.failures import ledger_awaited

AWAY = OperationalError("SELECT 1", {}, Exception("connection refused"))
TAKEN = IntegrityError("INSERT", {}, Exception("exists already"))


def asked(*errors: SQLAlchemyError) -> tuple[list[int], Callable[[], Awaitable[str]]]:
    """What fails with `errors` one after the other and then answers; and how often it was asked."""
    left, times = [*errors], list[int]()

    async def ask() -> str:
        times.append(1)
        if left:
            raise left.pop(0)
        return "answer"

    return times, ask


async def within(seconds: float, ask: Callable[[], Awaitable[str]]) -> str:
    """`ledger_awaited` in an attempt that may take so long."""
    env = ActivityEnvironment()
    env.info = dataclasses.replace(env.info, start_to_close_timeout=timedelta(seconds=seconds))

    async def waiting() -> str:
        return await ledger_awaited(ask)

    return await env.run(waiting)


async def test_a_ledger_that_comes_back_costs_no_attempt() -> None:
    """It is asked again until it answers."""
    times, ask = asked(AWAY, AWAY)
    assert await within(60, ask) == "answer"
    assert len(times) == 3


async def test_a_ledger_that_stays_away_ends_the_attempt_before_its_time_is_over() -> None:
    """Then Temporal tries again, on whatever worker there is."""
    _, ask = asked(*[AWAY] * 1000)
    with pytest.raises(OperationalError):
        await within(0.5, ask)


async def test_an_error_that_waiting_doesnt_mend_isnt_waited_for() -> None:
    """What the ledger refuses, it would refuse again."""
    times, ask = asked(TAKEN)
    with pytest.raises(IntegrityError):
        await within(60, ask)
    assert len(times) == 1
