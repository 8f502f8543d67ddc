"""The gate before a provider: limits in turns, pauses for everybody, and when it counts as down."""

import asyncio

import pytest

from activities.gates import DOWN_AFTER, LONGEST_PAUSE_SECONDS, LOOK_AGAIN_SECONDS, Busy, Gate
from activities.providers.base import ProviderError

GONE = ProviderError("connection", "gone", retryable=True)


class Clock:
    """Monotonic seconds that pass when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def limited(after: float | None = None) -> ProviderError:
    return ProviderError("rate_limited", "slow down", retryable=True, retry_after_s=after)


def failing(gate: Gate, error: ProviderError, times: int = DOWN_AFTER) -> None:
    for _ in range(times):
        gate.failed(error)


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_no_more_calls_are_in_flight_than_the_limit() -> None:
    """Of ten calls through a gate of three, three at most are in flight, and all get their turn."""
    gate = Gate("openai", concurrency=3)
    flying = most = done = 0

    async def call() -> None:
        nonlocal flying, most, done
        async with gate.turn("a"):
            flying += 1
            most = max(most, flying)
            await settle()
            flying -= 1
        done += 1

    await asyncio.gather(*(call() for _ in range(10)))
    assert (most, done) == (3, 10)


async def test_one_agents_crowd_does_not_hold_up_another() -> None:
    """A call of another agent comes second, though twenty of the first agent's wait before it."""
    gate = Gate("openai", concurrency=1)
    order: list[str] = []

    async def call(agent: str, n: int) -> None:
        async with gate.turn(agent):
            order.append(f"{agent}{n}")
            await settle()

    crowd = [asyncio.create_task(call("flood", n)) for n in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(call("calm", 0), call("calm", 1), *crowd)
    assert order.index("calm0") <= 2
    assert order.index("calm1") <= 4
    assert [o for o in order if o.startswith("flood")] == [f"flood{n}" for n in range(20)]


async def test_a_call_without_a_turn_says_so_in_one_sentence() -> None:
    """When no slot is free in time, nothing is sent, and the caller is told when to ask again."""
    gate = Gate("openai", concurrency=1, patience_s=0.01)
    async with gate.turn("a"):
        with pytest.raises(Busy) as caught:
            async with gate.turn("b"):
                pytest.fail("two turns at once")
    assert caught.value.message == "This worker's limits for `openai` left no turn within 0.01 s."
    assert caught.value.after_s == 1.0
    async with gate.turn("b"):
        pass


async def test_calls_a_minute_are_spread_out() -> None:
    """At six a minute the second call has no turn at once, and it doesn't keep the slot that it waited with."""
    gate = Gate("openai", concurrency=1, per_minute=6, patience_s=0.01)
    async with gate.turn("a"):
        pass
    for _ in range(2):
        with pytest.raises(Busy, match="left no turn"):
            async with gate.turn("a"):
                pytest.fail("two calls at once")


async def test_a_caller_that_is_cancelled_takes_no_slot_along() -> None:
    """A slot goes on to the next one, whether its waiter left before or just after it was given to them."""
    gate = Gate("openai", concurrency=1)

    async def call() -> None:
        async with gate.turn("a"):
            pass

    async with gate.turn("a"):
        early, late, last = (asyncio.create_task(call()) for _ in range(3))
        await settle()
        early.cancel()
        await settle()
    late.cancel()  # the slot is its own by now, but it hasn't run since
    await asyncio.gather(early, late, last, return_exceptions=True)
    assert (early.cancelled(), late.cancelled(), last.cancelled()) == (True, True, False)
    await asyncio.wait_for(call(), 10)


async def test_a_429_pauses_the_provider_for_everybody() -> None:
    """After `retry-after: 100`, other runs are turned away for 100 s instead of asking too."""
    clock = Clock()
    gate = Gate("openai", clock=clock)
    gate.failed(limited(100))
    with pytest.raises(Busy, match="`openai` asked to be left alone for 100 s.") as caught:
        async with gate.turn("another run"):
            pytest.fail("it was asked")
    assert caught.value.after_s == 100
    clock.now += 100
    async with gate.turn("another run"):
        pass


def test_a_short_pause_is_waited_for_and_a_long_one_sends_calls_elsewhere() -> None:
    """A pause within a call's patience doesn't make the provider one that is down; a longer one does, five minutes at most."""
    clock = Clock()
    gate = Gate("openai", clock=clock)
    gate.failed(limited(5))
    assert gate.usable()
    gate.failed(limited(86_400))
    assert not gate.usable()
    clock.now += LONGEST_PAUSE_SECONDS
    assert gate.usable()


def test_calls_in_flight_when_a_pause_begins_count_once() -> None:
    """A hundred calls that meet the same 429 don't make the provider one that is down."""
    gate = Gate("openai", clock=Clock())
    failing(gate, limited(2), 100)
    assert not gate.down


def test_429s_without_a_wish_are_waited_out_longer_each_time() -> None:
    """Pauses of 2 and 4 s follow one another; the third refusal in a row makes the provider one that is down."""
    clock = Clock()
    gate = Gate("openai", clock=clock)
    for seconds in (2, 4):
        gate.failed(limited())
        assert gate.usable()
        clock.now += seconds
    gate.failed(limited())
    assert gate.down


def test_a_provider_that_is_down_is_looked_at_by_one_call_each_half_minute() -> None:
    """Others go elsewhere until that call has an answer."""
    clock = Clock()
    gate = Gate("openai", clock=clock)
    failing(gate, GONE, DOWN_AFTER - 1)
    assert gate.usable()
    gate.failed(GONE)
    assert not gate.usable()
    clock.now += LOOK_AGAIN_SECONDS
    assert [gate.usable() for _ in range(3)] == [True, False, False]
    gate.failed(GONE)
    clock.now += LOOK_AGAIN_SECONDS - 1
    assert not gate.usable()
    clock.now += 1
    assert gate.usable()
    gate.succeeded()
    assert [gate.usable() for _ in range(3)] == [True, True, True]
