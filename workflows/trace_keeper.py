"""TraceKeeper: has the traces of closed runs sealed, again and again, for ever."""

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from policies.errors import InvalidInput
from workflows import ports
from workflows.keeper_messages import TRACE_KEEPER, KeeperState, SealRuns

__all__ = ["TraceKeeper"]

SWEEP_SECONDS = 600
"""How often to look for closed runs that nobody recorded: those that were terminated, or timed out."""
OVERLAP_SECONDS = 3600
"""How much of the time before the last look is looked at again, for visibility may come late."""
AGAIN_SECONDS = 30
ROUNDS = 300
"""After so many, it goes on in a new history."""


@workflow.defn(name=TRACE_KEEPER)
class TraceKeeper:
    """Takes no input. One activity at a time, so that it never takes more than one slot of a worker."""

    @workflow.init
    def __init__(self, *args: Any) -> None:
        continued = workflow.info().continued_run_id is not None
        self._state = KeeperState.model_validate(args[0]) if continued else KeeperState()
        self._invalid = bool(args) and not continued

    @workflow.run
    async def run(self, *_: Any) -> None:
        if self._invalid:
            raise ApplicationError("`TraceKeeper` takes no input.", type=InvalidInput.code, non_retryable=True)
        for _round in range(ROUNDS):
            await self._seal()
        workflow.continue_as_new(self._state)

    async def _seal(self) -> None:
        state, now = self._state, int(workflow.now().timestamp())
        sweep = now - state.swept_at >= SWEEP_SECONDS
        wanted = SealRuns(sweep=sweep, since=max(0, state.swept_at - OVERLAP_SECONDS))
        try:
            done = await ports.seal_runs(wanted, summary=f"seal closed runs; {state.sealed} so far")
        except ActivityError:
            await workflow.sleep(timedelta(seconds=AGAIN_SECONDS), summary="try again")
            return
        swept_at = now if sweep and not done.again_seconds else state.swept_at
        self._state = KeeperState(swept_at=swept_at, sealed=state.sealed + done.sealed)
        if done.again_seconds:
            await workflow.sleep(timedelta(seconds=done.again_seconds), summary="sealing is off")

    @workflow.query
    def keeper(self) -> KeeperState:
        return self._state
