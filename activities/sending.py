"""One reserved write on its way to the vendor: find out what an earlier attempt did, mark it as sent, send it, record it."""

import asyncio
from functools import partial
from typing import Literal

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.failures import ledger_awaited
from activities.ledger.store import Effect, Ledger
from policies.errors import OutcomeIndeterminate, ToolRefusal, Unavailable
from policies.switches import scopes_of
from tools.spec import Arguments, ToolContext, ToolSpec

__all__ = ["LOOKUP_SECONDS", "Sending", "last_attempt"]

LOOKUP_SECONDS = 5.0


class Sending:
    """A write that `Ledger.reserve` gave to this attempt, within `execute_tool`."""

    def __init__(self, ledger: Ledger, spec: ToolSpec, args: Arguments, context: ToolContext, effect: Effect) -> None:
        self._ledger = ledger
        self._scopes = scopes_of(effect.run_id, effect.agent, spec.name, spec.risk, effect.subject)
        self._spec = spec
        self._args = args
        self._context = context
        self._effect = effect
        self._again = effect.state == "sent"
        """G2: an earlier attempt may have performed it already."""

    async def perform(self) -> str:
        """The result as JSON, recorded as `done`: from the vendor, sent now or found.

        Raises:
            ToolRefusal, Unavailable: nothing was written; recorded.
            OutcomeIndeterminate: nobody can say whether it was; recorded.
            ApplicationError: not known yet; the next attempt goes on.
        """
        result = await self._reconcile() if self._again else None
        return result if result is not None else await self._send()

    async def found(self) -> str | None:
        """The result, recorded as `done`, if the vendor can be searched and has it. Never raises: there is no attempt left."""
        try:
            return await self._look_up()
        except Exception:
            activity.logger.warning("the lookup of a write failed", exc_info=True)
            return None

    async def _reconcile(self) -> str | None:
        """What the vendor has of what an earlier attempt sent, recorded; None when it may be sent again."""
        spec = self._spec
        if spec.lookup is None:
            return None
        loop = asyncio.get_running_loop()
        # Counted from here on, for since `reserve` gave the effect to this attempt, no earlier one can begin to send it.
        settled = loop.time() + (spec.settle_seconds or 0)
        try:
            found = await self._look_up()
            if found is None and spec.settle_seconds:
                await asyncio.sleep(settled - loop.time())
                found = await self._look_up()
                if found is None:
                    return None
        except Exception as e:
            raise await self._unknown(f"`{spec.name}` couldn't be looked up", e) from e
        if found is None:
            raise await self._unknown(f"`{spec.name}` was sent and isn't found")
        return found

    async def _send(self) -> str:
        spec = self._spec
        marked, end = await ledger_awaited(self._mark)
        if not marked:
            # The retry asks `reserve`, which knows whether it was a kill or another attempt.
            raise ApplicationError("This attempt may not send the write any more.", type="superseded")
        try:
            async with asyncio.timeout_at(end):
                await asyncio.sleep(0)
                result = (await spec.run(self._args, self._context)).model_dump_json()
        except ToolRefusal as e:
            # The vendor said no. To a first attempt: nothing happened. To a later one perhaps because an earlier one came
            # through, which a vendor that dedupes doesn't confuse, and one that can be searched is asked about.
            if self._again and (found := await self.found()):
                return found
            await self._settle("failed", f"{e.reason}: {e.message}")
            raise
        except Unavailable as e:
            # The connector's word that it wasn't let in, and so wrote nothing; which says nothing of an earlier attempt.
            if self._again:
                raise await self._unknown(f"`{spec.name}` can't be sent again", e) from e
            await self._settle("released", "unavailable")
            raise
        except Exception as e:
            if last_attempt() and (found := await self.found()):
                return found
            raise await self._unknown(f"`{spec.name}` failed after it was sent", e) from e
        await self._settle("done", result)
        return result

    async def _mark(self) -> tuple[bool, float | None]:
        """Whether it may leave now, and when its time to do so is over, on the event loop's clock."""
        spec, effect = self._spec, self._effect
        # The half of the settling time that a request has. It runs from before the mark: a process that was frozen after it
        # and wakes up when another attempt relies on its silence must find its time over before it sends.
        end = asyncio.get_running_loop().time() + spec.settle_seconds / 2 if spec.settle_seconds else None
        return await asyncio.to_thread(self._ledger.sent, effect.idempotency_key, effect.attempts, self._scopes), end

    async def _look_up(self) -> str | None:
        """The result that the vendor has under our key, recorded as `done`."""
        if self._spec.lookup is None:
            return None
        async with asyncio.timeout(LOOKUP_SECONDS):
            found = await self._spec.lookup(self._args, self._context)
        if found is None:
            return None
        result = found.model_dump_json()
        await self._settle("done", result)
        return result

    async def _unknown(self, what: str, why: Exception | None = None) -> Exception:
        """What to raise: another attempt may learn more, or nobody will, which is recorded."""
        cause = type(why).__name__ if why else "not_found"
        if self._spec.idempotency != "at_most_once" and not last_attempt():
            return ApplicationError(f"{what} ({cause}).", type="vendor_error")
        await self._settle("indeterminate", cause)
        return OutcomeIndeterminate(f"{what}; a person must look.")

    async def _settle(self, state: Literal["done", "failed", "released", "indeterminate"], outcome: str) -> None:
        # That it happened is true whoever says so; that it didn't counts only from the newest attempt.
        attempt = None if state == "done" else self._effect.attempts
        settle = partial(self._ledger.settle, self._effect.idempotency_key, state, outcome, attempt)
        await ledger_awaited(partial(asyncio.to_thread, settle))


def last_attempt() -> bool:
    """Whether the activity that this runs in gets no further try."""
    info = activity.info()
    return info.retry_policy is not None and 0 < info.retry_policy.maximum_attempts <= info.attempt
