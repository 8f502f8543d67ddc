"""The anomaly breaker beside the ledger: reads the figures that the rules look at, and carries out what tripped."""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy.engine import Connection
from temporalio import activity

from activities.failures import ledger_needed
from activities.ledger import breaker, switches
from activities.ledger.rows import TripRecord
from activities.ledger.store import Ledger
from activities.library import Library
from activities.switching import people_now
from policies.anomaly import Reading, stepped_down
from policies.autonomy import lowest
from policies.control import verify_control
from policies.errors import ControlRefused, RemitError, Unavailable
from policies.identity import Directory
from workflows.fleet_messages import AppliedTrips, ApplyTrips, Autonomy, Look, Looked, Order, PutBack, Trip

__all__ = ["IDLE_SECONDS", "BreakerActivities", "readings"]

IDLE_SECONDS = 600
"""How often to look whether there are rules, while there are none."""
MINUTE_MS = 60_000
_LOG = structlog.get_logger("remit.breaker")


def readings(connection: Connection, library: Library, now: int) -> list[Reading]:
    """What the rules of all agents see at `now` (Unix milliseconds). An agent whose files can't be used is left out."""
    found: list[Reading] = []
    for name in library.names():
        try:
            agent = library.agent(name)
            rules = library.bundle(agent.policy).limits().breaker
        except RemitError as e:
            _LOG.warning("the breaker can't look at this agent", agent=name, reason=e.message)
            continue
        if not rules:
            continue
        mode = lowest(agent.mode, breaker.ceiling(connection, agent.name))
        put_back = breaker.put_back_at(connection, agent.name)
        windows = {rule.window_minutes: max(now - rule.window_minutes * MINUTE_MS, put_back) for rule in rules}
        seen = {since: breaker.figures(connection, agent.name, since) for since in windows.values()}
        for rule in rules:
            since = windows[rule.window_minutes]
            found.append(Reading(agent=agent.name, mode=mode, rule=rule, since=since, figures=seen[since]))
    return found


class BreakerActivities:
    def __init__(
        self, ledger: Ledger, library: Library, directory: Callable[[], Directory], audience: str, seconds: int
    ) -> None:
        """Args:
        directory: asked for each command that somebody signed: who they are now.
        audience: the workers that such a command must be signed for.
        seconds: how often to look.
        """
        self._ledger = ledger
        self._library = library
        self._directory = directory
        self._audience = audience
        self._seconds = seconds

    @activity.defn(name="look_at_agents")
    async def look_at_agents(self, wanted: Look) -> Looked:
        """The figures that the rules of today's bundles look at."""
        del wanted
        with ledger_needed():
            return await asyncio.to_thread(self._look)

    def _look(self) -> Looked:
        now = switches.now_ms()
        with self._ledger.reading() as connection:
            found = readings(connection, self._library, now)
        return Looked(readings=tuple(found), at=now, again_seconds=self._seconds if found else max(self._seconds, IDLE_SECONDS))

    @activity.defn(name="apply_trips")
    async def apply_trips(self, wanted: ApplyTrips) -> AppliedTrips:
        """Carry out the orders in one transaction. Safe to repeat."""
        with ledger_needed():
            return AppliedTrips(outcomes=tuple(await asyncio.to_thread(self._apply, wanted.orders)))

    def _apply(self, orders: Sequence[Order]) -> list[Autonomy]:
        people = people_now(self._directory) if any(isinstance(o.command, PutBack) for o in orders) else None
        with self._ledger.begin() as connection:
            switches.lock(connection)
            return [self._carry_out(connection, order, people) for order in orders]

    def _carry_out(self, connection: Connection, order: Order, people: Directory | Unavailable | None) -> Autonomy:
        match order.command:
            case Trip() as trip:
                return _trip(connection, order.id, trip)
            case PutBack() as wanted:
                try:
                    return self._put_back(connection, order.id, wanted, people)
                except ControlRefused as e:
                    return Autonomy(status="refused", agent=wanted.agent, refused=e.reason, message=e.message)
            case _:
                return Autonomy(status="refused", agent="", refused="unknown_command", message="There is no such command.")

    def _put_back(
        self, connection: Connection, command: str, wanted: PutBack, people: Directory | Unavailable | None
    ) -> Autonomy:
        if before := switches.logged(connection, command=command):
            return Autonomy.model_validate({"status": "put_back", "agent": wanted.agent, "mode": before[-1].detail})
        if not isinstance(people, Directory):
            raise ControlRefused("unavailable", people.message if people else "Nobody's signature can be verified now.")
        now = int(time.time())
        person, claims = verify_control(
            wanted.control_jws, directory=people, now=now, audience=self._audience, command="put_back"
        )
        lowered = breaker.override(connection, wanted.agent)
        scope, epoch = f"agent:{wanted.agent}", lowered.epoch if lowered else 0
        if (claims.scope, claims.epoch) != (scope, epoch):
            raise ControlRefused("other_switch", "The command is for another agent, or for what was done to it before.")
        found = breaker.put_back(connection, wanted.agent, person.sub, claims.reason)
        if found is None:
            return Autonomy(status="unchanged", agent=wanted.agent)
        switches.log(
            connection,
            command=command,
            action="put_back",
            scope=scope,
            reason=claims.reason,
            by=person.sub,
            epoch=switches.lock(connection),
            detail=found.mode,
        )
        return Autonomy(status="put_back", agent=wanted.agent, mode=found.mode)


def _trip(connection: Connection, name: str, trip: Trip) -> Autonomy:
    """Keep a trip, and step the agent down if its rule says so: by one from what it may do now."""
    reading, rule = trip.reading, trip.reading.rule
    if kept := breaker.recorded(connection, trip=name):
        return Autonomy(status="tripped", agent=reading.agent, mode=kept[0].mode_after)
    before = lowest(reading.mode, breaker.ceiling(connection, reading.agent))
    after = stepped_down(before) if rule.action == "step_down" else before
    if after != before:
        breaker.step_down(connection, reading.agent, after, reading.words, "breaker")
    breaker.record(
        connection,
        TripRecord(
            id=name,
            agent=reading.agent,
            rule=rule.model_dump_json(),
            action=rule.action,
            figures=reading.figures.model_dump_json(),
            value=reading.value or 0.0,
            since=reading.since,
            mode_before=before,
            mode_after=after,
            at=trip.at,
        ),
    )
    return Autonomy(status="tripped", agent=reading.agent, mode=after)
