"""The state of `FleetControl` and its transitions: all that survives a continue-as-new. Pure."""

from collections.abc import Sequence
from itertools import islice

from pydantic import BaseModel, ConfigDict, Field

from policies.errors import ControlRefused
from policies.rollout import Rollout
from workflows.fleet_messages import Control, Order, Outcome, Room, SwitchView, TellRuns, Told, kind_of
from workflows.messages import Refused

__all__ = ["BATCH", "FleetState"]

BATCH = 100
"""How many orders of a room are carried out together."""
MAX_QUEUED = 1_000_000  # bytes of orders that wait for a ledger which is away: all of them must fit into the next history
MAX_DONE = 200
MAX_REFUSED = 20
MAX_TOLD = 50


class FleetState(BaseModel):
    """What the fleet is told, and what came of it. The ledger is what counts; this is how it came there, and a view of it.

    Attributes:
        queue: orders that aren't carried out yet, by id, oldest first.
        done: what came of the latest orders, by id, for those who ask again.
        switches: what is set in the ledger, runs left out, as of the last write; `switches_total` counts all.
        telling: switches whose runs are still to be told.
        tripped: rules of the breaker that are, and since when; `looked_at` is when it last looked. Unix milliseconds.
        rollouts: those of all agents in the ledger, as of the last write.
    """

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    queue: dict[str, Order] = Field(default_factory=dict[str, Order])
    queued_bytes: int = 0
    done: dict[str, Outcome] = Field(default_factory=dict[str, Outcome])
    accepted: dict[str, int] = Field(default_factory=dict[str, int])
    switches: tuple[SwitchView, ...] = ()
    switches_total: int = 0
    telling: list[TellRuns] = Field(default_factory=list[TellRuns])
    told: list[Told] = Field(default_factory=list[Told])
    refused: list[Refused] = Field(default_factory=list[Refused])
    refused_total: int = 0
    histories: int = 0
    tripped: dict[str, int] = Field(default_factory=dict[str, int])
    looked_at: int = 0
    rollouts: tuple[Rollout, ...] = ()

    def accept(self, order: Order) -> None:
        """Put `order` into its room, unless it is there or was carried out already.

        Raises:
            ControlRefused: too many wait.
        """
        if order.id in self.done or order.id in self.queue:
            return
        if self.queued_bytes > MAX_QUEUED:
            raise ControlRefused("too_many", "Too many commands wait, for the ledger is away; give this one again later.")
        self.queue[order.id] = order
        self.queued_bytes += len(order.body)
        self.accepted[order.name] = self.accepted.get(order.name, 0) + 1

    def batch(self, room: Room) -> tuple[Order, ...]:
        """The next orders of `room`. They stay until they are `finished`, so that none is lost on the way to a new history."""
        return tuple(islice((o for o in self.queue.values() if kind_of(o.name).room == room), BATCH))

    def finished(self, orders: Sequence[Order], outcomes: Sequence[Outcome]) -> None:
        """Record what came of `orders`."""
        for order, outcome in zip(orders, outcomes, strict=True):
            self.queued_bytes -= len(self.queue.pop(order.id).body)
            self.done[order.id] = outcome
        for name in list(self.done)[:-MAX_DONE]:
            del self.done[name]

    def was_told(self, wanted: TellRuns, told: Told) -> None:
        self.telling = [t for t in self.telling if t.key != wanted.key]
        self.told = [*self.told, told][-MAX_TOLD:]

    def told_of(self, scope: str, epoch: int) -> Told | None:
        """What came of telling the runs of this switch; None while they are being told, or when it was long ago."""
        return next((t for t in reversed(self.told) if (t.scope, t.epoch) == (scope, epoch)), None)

    def refuse(self, name: str, reason: str, message: str, now: int) -> None:
        """Remember that a signal or update counted for nothing; the list is capped, the count isn't."""
        self.refused_total += 1
        self.refused = [*self.refused, Refused(name=name[:80], reason=reason, message=message[:300], at=now)][-MAX_REFUSED:]

    def view(self) -> Control:
        """The answer of the query `control`."""
        waiting: dict[str, int] = {}
        for order in self.queue.values():
            room = kind_of(order.name).room
            waiting[room] = waiting.get(room, 0) + 1
        return Control(
            switches=self.switches,
            switches_total=self.switches_total,
            waiting=waiting,
            accepted=self.accepted,
            telling=tuple(self.telling),
            told=tuple(self.told),
            refused=tuple(self.refused),
            refused_total=self.refused_total,
            histories=self.histories,
            tripped=self.tripped,
            looked_at=self.looked_at,
            rollouts=self.rollouts,
        )
