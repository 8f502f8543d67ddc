"""The meter: counts runs, reads and model calls towards caps across runs before they begin. Writes are counted in `reserve`.

Where no cap is set it does nothing: no transaction, no thread, no event.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities import prices
from activities.failures import ledger_awaited, ledger_needed
from activities.gates import Busy
from activities.ledger import switches, usage
from activities.ledger.rows import Charge
from activities.ledger.store import Ledger
from activities.providers.base import Completion, ModelRequest, ProviderError
from policies.bundle import Bundle
from policies.caps import ScopedCaps
from policies.errors import CapReached
from policies.routing import ModelChoice
from workflows.messages import (
    CAP_REACHED,
    PROVIDER_BUSY,
    AssistantMessage,
    Capped,
    Capsule,
    Message,
    PauseState,
    TokenUsage,
    ToolMessage,
)

__all__ = ["CapsOf", "Meter", "billed", "capped", "pause_of"]

CapsOf = Callable[[str, Bundle | None], Sequence[ScopedCaps]]
BYTES_A_TOKEN = 3
"""For an estimate: English takes four, JSON and Chinese about three."""
NOT_BILLED = (
    "rate_limited",
    "quota",
    "overloaded",
    "auth",
    "unknown_model",
    "bad_request",
    "context_exceeded",
    "content_filter",
    "script_exhausted",
    PROVIDER_BUSY,
)
"""How a call ends that isn't billed: refused, or never sent. One without an answer may have been: its estimate stands."""


class Meter:
    def __init__(self, ledger: Ledger, caps: CapsOf) -> None:
        """`caps`: those that hold for a run of an agent now, given the bundle that it is pinned to; `LiveCaps`."""
        self._ledger = ledger
        self._caps = caps

    async def run(self, run_id: str, agent: str, bundle: Bundle) -> None:
        """Count a run that begins.

        Raises:
            CapReached: it has no room.
        """
        if caps := [each for each in self._caps(agent, bundle) if each.caps.on_runs]:
            await self._charge(Charge(key=f"run/{run_id}", kind="run", run_id=run_id, agent=agent), caps)

    async def read(self, run_id: str, agent: str, slot: int, bundle: Bundle | None) -> None:
        """Count a read, which `slot` of the run's transcript names for good: its retries aren't counted again.

        Raises:
            CapReached: it has no room.
        """
        if caps := [each for each in self._caps(agent, bundle) if each.caps.on_calls]:
            await self._charge(Charge(key=f"read/{run_id}/{slot}", kind="tool", run_id=run_id, agent=agent), caps)

    def on_write(self, capsule: Capsule) -> list[ScopedCaps]:
        """The caps that a write of the run counts towards, for `Ledger.reserve`."""
        return [each for each in self._caps(capsule.agent.name, capsule.bundle) if each.caps.on_writes]

    async def model(
        self, capsule: Capsule, choice: ModelChoice, request: ModelRequest, ask: Callable[[], Awaitable[Completion]]
    ) -> Completion:
        """What `ask` gives, with an estimate of what it takes counted before, and what it took in its place after.

        Raises:
            CapReached: the estimate has no room.
        """
        caps = [each for each in self._caps(capsule.agent.name, capsule.bundle) if each.caps.on_models]
        if not caps:
            return await ask()
        info = activity.info()
        # With the attempt: each is paid for. One that dies leaves its estimate, for nobody knows what it took.
        key = f"model/{info.workflow_run_id}/{info.activity_id}/{info.attempt}/{choice.provider}"
        estimate = _estimate(request)
        wanted = Charge(
            key=key,
            kind="model",
            run_id=capsule.run_id,
            agent=capsule.agent.name,
            tokens=estimate.input_tokens + estimate.output_tokens,
            cost_micro_usd=prices.at_most(choice, estimate),
        )
        await self._charge(wanted, caps)
        try:
            answer = await ask()
        except (Busy, ProviderError) as e:
            if not billed(e):
                await self._settle(key, TokenUsage(), 0)
            raise
        await self._settle(key, answer.usage, prices.cost(choice, answer.usage)[0])
        return answer

    async def _charge(self, wanted: Charge, caps: Sequence[ScopedCaps]) -> None:
        def charge() -> CapReached | None:
            with self._ledger.begin() as connection:
                switches.lock(connection)
                return usage.charge(connection, wanted, caps)

        with ledger_needed():  # G6: no ledger, nothing that is capped
            reached = await ledger_awaited(partial(asyncio.to_thread, charge))
        if reached:
            raise reached

    async def _settle(self, key: str, took: TokenUsage, cost_micro_usd: int) -> None:
        def settle() -> None:
            with self._ledger.begin() as connection:
                switches.lock(connection)
                usage.settle(connection, key, tokens=took.input_tokens + took.output_tokens, cost_micro_usd=cost_micro_usd)

        try:
            await asyncio.to_thread(settle)
        except SQLAlchemyError as e:
            # The answer is there and paid for: asking again would be paid again. The estimate stands instead.
            activity.logger.warning("what a model call took isn't settled: %s", type(e).__name__)


def billed(error: Busy | ProviderError) -> bool:
    """Whether a call that failed may have to be paid for."""
    return isinstance(error, ProviderError) and error.code not in NOT_BILLED


def pause_of(reached: CapReached) -> PauseState | None:
    """What holds the run; None when it is refused instead."""
    if not reached.scope:
        return None
    return PauseState(
        scope=reached.scope,
        reason=reached.message,
        by="cap",
        epoch=reached.epoch,
        since=int(time.time()),
        until=reached.until,
    )


def capped(reached: CapReached) -> ApplicationError:
    """How an activity fails for it. Not retried by Temporal: the run waits, where people see it and can stop it."""
    details = Capped(cap=reached.cap, pause=pause_of(reached))
    # Benign: nothing is wrong, so no warning with a traceback in the worker's log.
    benign = ApplicationErrorCategory.BENIGN
    return ApplicationError(reached.message, details, type=CAP_REACHED, non_retryable=True, category=benign)


def _estimate(request: ModelRequest) -> TokenUsage:
    """What the call takes at most, but for text in which a token is shorter than usual."""
    offered = sum(len(t.name) + len(t.description) + len(json.dumps(t.parameters)) for t in request.tools)
    shown = len(request.system.encode()) + offered + sum(map(_bytes, request.messages))
    return TokenUsage(input_tokens=-(-shown // BYTES_A_TOKEN), output_tokens=request.max_output_tokens)


def _bytes(message: Message) -> int:
    match message:
        case ToolMessage():
            return len(message.content.encode())
        case AssistantMessage():
            return len(message.text.encode()) + sum(len(c.name) + len(c.arguments.encode()) for c in message.tool_calls)
        case _:
            return len(message.text.encode())
