"""What an agent's outcomes cost, looked at when a run is admitted: within its ceiling, the cheaper model only, or no run."""

import asyncio
import random
import time
from functools import partial

from sqlalchemy.engine import Connection

from activities.failures import ledger_awaited
from activities.ledger import breaker, switches
from activities.ledger.store import Ledger
from activities.library import AgentFile
from policies.bundle import Bundle
from policies.errors import CapReached
from policies.routing import Route
from policies.value import OutcomeCost, OutcomeRules, OverCeiling, judge

__all__ = ["Ceilings", "outcome_cost"]

FRESH_SECONDS = 5.0
"""A week of a busy agent is many rows: they are added up again after this."""
HOUR_MS = 3_600_000
LOOK_SECONDS = 600
"""When a run that waits for outcomes to cost less looks again, and up to half as much later: not all at once."""


def outcome_cost(connection: Connection, agent: str, rules: OutcomeRules) -> OutcomeCost:
    """What the agent's runs of the window came to, or of less, when a person put the agent back since it began."""
    since = max(switches.now_ms() - rules.window_hours * HOUR_MS, breaker.put_back_at(connection, agent))
    found = breaker.figures(connection, agent, since)
    return OutcomeCost(runs=found.runs, completed=found.completed, cost_micro_usd=found.cost_micro_usd)


class Ceilings:
    """The ceilings on what outcomes cost. An agent whose bundle has no `[outcome]` costs nothing here."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._seen: dict[tuple[str, OutcomeRules], tuple[float, OutcomeCost]] = {}

    async def check(self, run_id: str, agent: AgentFile, bundle: Bundle, route: Route) -> OverCeiling | None:
        """The figures of an agent that is to keep to the cheaper model of `route`; None where it needn't, or there is none.

        Raises:
            CapReached: its outcomes cost so much that no run of it begins.
        """
        rules = bundle.limits().outcome
        if rules is None:
            return None
        look = partial(self._cost, agent.name, rules)
        cost = await ledger_awaited(partial(asyncio.to_thread, look))
        spending, figures = judge(rules, agent.value, cost)
        if spending == "stop":
            raise await asyncio.to_thread(self._stopped, run_id, agent.name, rules, figures)
        return figures if spending == "cheaper" and route.has_cheaper else None

    def _cost(self, agent: str, rules: OutcomeRules) -> OutcomeCost:
        at, found = self._seen.get((agent, rules), (0.0, OutcomeCost()))
        now = time.monotonic()
        if not at or now - at > FRESH_SECONDS:
            with self._ledger.reading() as connection:
                found = outcome_cost(connection, agent, rules)
            self._seen[agent, rules] = (now, found)
        return found

    def _stopped(self, run_id: str, agent: str, rules: OutcomeRules, figures: OverCeiling) -> CapReached:
        """What the run is told, which is paused here and now if a person is to resume it."""
        message = (
            f"No run of `{agent}` begins: {figures.words}, and this is more than {rules.stop_percent} % of that; see "
            f"`remit report --agent {agent}`."
        )
        match rules.on_stop:
            case "refuse":
                return CapReached(message, cap="outcome")
            case "wait":
                until = int(time.time() + LOOK_SECONDS * random.uniform(1, 1.5))  # noqa: S311  (it spreads the runs)
                return CapReached(message, cap="outcome", scope=f"outcome:{agent}", until=until)
            case "escalate":
                scope = f"run:{run_id}"
                with self._ledger.begin() as connection:
                    switches.lock(connection)
                    epoch = switches.pause(connection, scope, message, "cap").epoch
                return CapReached(message, cap="outcome", scope=scope, epoch=epoch)
