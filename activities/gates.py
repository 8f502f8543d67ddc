"""The gate before each model provider, for all runs of this worker: its limits, its wishes to wait, and whether it is down."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from aiolimiter import AsyncLimiter

from activities.providers.base import ProviderError

__all__ = ["DOWN_AFTER", "LONGEST_PAUSE_SECONDS", "Busy", "Gate"]

PATIENCE_SECONDS = 40.0
"""How long a call waits for its turn. With the provider's own timeout it must stay below `call_model`'s."""
DOWN_AFTER = 3
LOOK_AGAIN_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 300.0
BURST_SECONDS = 10


class Busy(Exception):
    """There is no turn to be had now, and nothing was sent. `after_s`: when to ask again, in seconds."""

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.message = message
        self.after_s = after_s


class Gate:
    """What stands between this worker's runs and one provider.

    Args:
        concurrency: calls in flight; None is no limit.
        per_minute: calls begun in a minute, spread out with bursts of ten seconds' worth; None is no limit.
        patience_s: how long a call waits for its turn.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        provider: str,
        *,
        concurrency: int | None = None,
        per_minute: int | None = None,
        patience_s: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._slots = _FairSlots(concurrency) if concurrency else None
        burst = max(1, (per_minute or 0) * BURST_SECONDS // 60)
        self._rate = AsyncLimiter(burst, 60 * burst / per_minute) if per_minute else None
        self._patience = patience_s
        self._clock = clock
        self._failures = 0
        self._closed_until = 0.0
        self._paused_until = 0.0

    @property
    def down(self) -> bool:
        """Whether the provider failed so often in a row, or asked for so long a pause, that another should be asked."""
        return self._failures >= DOWN_AFTER or self._pause > self._patience

    def usable(self) -> bool:
        """Whether a call may go there. Every half minute, one call finds out whether a provider that is down is back."""
        if not self.down:
            return True
        now = self._clock()
        if self._pause > self._patience or now < self._closed_until:
            return False
        self._closed_until = now + LOOK_AGAIN_SECONDS
        return True

    @asynccontextmanager
    async def turn(self, who: str) -> AsyncGenerator[None]:
        """Hold a turn while the block runs. Those who wait are served in turns by `who` they are.

        Raises:
            Busy: there was none in time.
        """
        if self._pause > self._patience:
            raise Busy(f"`{self._provider}` asked to be left alone for {self._pause:.0f} s.", self._pause)
        async with AsyncExitStack() as leaving:
            try:
                async with asyncio.timeout(self._patience):
                    if self._slots:
                        await self._slots.acquire(who)
                        leaving.callback(self._slots.release)
                    if self._rate:
                        await self._rate.acquire()
                    while self._pause > 0:  # noqa: ASYNC110  (it may be made longer meanwhile)
                        await asyncio.sleep(self._pause)
            except TimeoutError:
                text = f"This worker's limits for `{self._provider}` left no turn within {self._patience:g} s."
                raise Busy(text, max(1.0, self._pause)) from None
            yield

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, error: ProviderError) -> None:
        """Learn from a failure that may pass; after a 429, all runs of this worker hold back, not only the one that met it."""
        limited = error.code == "rate_limited"
        if not (limited and self._pause > 0):  # calls that were in flight when a pause began say nothing new
            self._failures += 1
        if self._failures >= DOWN_AFTER:
            self._closed_until = self._clock() + LOOK_AGAIN_SECONDS
        wish = error.retry_after_s
        if wish is None and limited:
            wish = float(min(2 ** min(self._failures, 8), LOOK_AGAIN_SECONDS))
        if wish is not None:
            self._paused_until = max(self._paused_until, self._clock() + min(wish, LONGEST_PAUSE_SECONDS))

    @property
    def _pause(self) -> float:
        return max(0.0, self._paused_until - self._clock())


class _FairSlots:
    """A semaphore whose waiters are served in turns by their keys, so that one key's crowd doesn't hold up another."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, key: str) -> None:
        if self._free:  # nobody waits while one is free
            self._free -= 1
            return
        mine = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self.release()  # it was given to us just before we left
            raise

    def release(self) -> None:
        while self._waiting:
            key, queue = self._waiting.popitem(last=False)
            first = queue.popleft()
            if queue:
                self._waiting[key] = queue  # at the end: the others come before its next
            if not first.done():
                first.set_result(None)
                return
        self._free += 1
