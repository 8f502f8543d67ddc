"""Drills of the off switch, played through by a worker as a person at a terminal does."""

from collections.abc import Awaitable, Callable

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.heartbeat import beating
from policies.errors import RemitError
from workflows.fleet_messages import DrillReport, PlayDrill

__all__ = ["DrillActivities"]


class DrillActivities:
    def __init__(self, play: Callable[[PlayDrill], Awaitable[DrillReport]]) -> None:
        """`play`: gives the commands to `FleetControl` from outside, so that a drill takes the way of a real kill."""
        self._play = play

    @activity.defn(name="play_drill")
    async def play_drill(self, wanted: PlayDrill) -> DrillReport:
        """One drill from the command to the report. Tried again, it is another drill, which ends the one before."""
        async with beating():
            try:
                return await self._play(wanted)
            except RemitError as e:
                raise ApplicationError(e.message, type=e.code) from None
