"""KillDrill: plays a kill of the whole fleet through when a schedule starts it. Its result is what was measured."""

from typing import Any

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from policies.bundle import explain
from policies.errors import InvalidInput, Unavailable
from workflows import ports
from workflows.fleet_messages import KILL_DRILL, DrillReport, PlayDrill

__all__ = ["KillDrill"]


@workflow.defn(name=KILL_DRILL)
class KillDrill:
    """One drill. Start input: `workflows.fleet_messages.PlayDrill` as one JSON object."""

    @workflow.run
    async def run(self, *args: Any) -> DrillReport:
        try:
            wanted = PlayDrill.model_validate(args[0] if args else {})
        except ValidationError as e:
            raise ApplicationError(
                f"The input of `KillDrill` can't be used: {explain(e)}.", type=InvalidInput.code, non_retryable=True
            ) from None
        try:
            return await ports.play_drill(wanted, summary="play a kill of the fleet through")
        except ActivityError as e:
            # A drill that failed is a result too: the next kill would have failed like this.
            why = e.cause.message if isinstance(e.cause, ApplicationError) else "The worker that played it through is lost."
            raise ApplicationError(why, type=Unavailable.code, non_retryable=True) from None
