"""Caps across runs: what an agent, or the whole fleet, may use in a day and in a minute. Pure; the ledger counts."""

from typing import Literal

from pydantic import Field

from policies.models import Cents, Currency, Frozen
from policies.switches import FLEET, Scope

__all__ = ["Caps", "CapsFile", "OnCap", "ScopedCaps", "scoped"]

OnCap = Literal["wait", "escalate", "refuse"]


class Caps(Frozen):
    """The table `[caps]` of a bundle's `limits.toml`. A day is the last 24 hours, a minute the last 60 seconds; None is no cap.

    Attributes:
        tool_calls_per_day, tool_calls_per_minute: calls that are carried out, reads and writes.
        tokens_per_day, cost_micro_usd_per_day: of model calls; a call counts with an estimate until it has answered.
        moved_cents_per_day: of writes that move money, by currency. Once one is named, others may not be moved at all.
        runs_per_minute: runs that begin.
        on_cap: what happens to a run that finds no room. `wait`: it waits until there is. `escalate`: it is paused, for a
            person to resume. `refuse`: its tool call is refused; at a model call or its admission, the run ends.
    """

    tool_calls_per_day: int | None = Field(default=None, ge=1)
    tokens_per_day: int | None = Field(default=None, ge=1)
    cost_micro_usd_per_day: int | None = Field(default=None, ge=1)
    moved_cents_per_day: dict[Currency, Cents] = Field(default_factory=dict)
    tool_calls_per_minute: int | None = Field(default=None, ge=1)
    runs_per_minute: int | None = Field(default=None, ge=1)
    on_cap: OnCap = "wait"

    @property
    def on_runs(self) -> bool:
        """Whether runs are looked at before they begin: each cap holds new ones once it is used up."""
        return self.on_calls or self.on_writes or self.on_models or self.runs_per_minute is not None

    @property
    def on_calls(self) -> bool:
        """Whether each tool call is counted."""
        return self.tool_calls_per_day is not None or self.tool_calls_per_minute is not None

    @property
    def on_writes(self) -> bool:
        """Whether writes are."""
        return self.on_calls or bool(self.moved_cents_per_day)

    @property
    def on_models(self) -> bool:
        """Whether model calls are."""
        return self.tokens_per_day is not None or self.cost_micro_usd_per_day is not None


class ScopedCaps(Frozen):
    """Caps and whose use counts towards them: `agent:NAME` or `fleet`."""

    scope: str
    caps: Caps

    @property
    def agent(self) -> str | None:
        """The agent; None for the fleet."""
        return Scope.parse(self.scope).value or None

    @property
    def words(self) -> str:
        """As a sentence names it."""
        return Scope.parse(self.scope).words


class CapsFile(Frozen):
    """The content of the file that `REMIT_CAPS` names: caps of the fleet, and of agents beside those of their bundles."""

    fleet: Caps = Field(default_factory=Caps)
    agents: dict[str, Caps] = Field(default_factory=dict)


def scoped(agent: str, bundle: Caps, file: CapsFile) -> tuple[ScopedCaps, ...]:
    """All that holds for a run of `agent`. Where two say something of the same thing, both hold, and so the lower one."""
    own = f"agent:{agent}"
    found = ((own, bundle), (own, file.agents.get(agent, Caps())), (str(FLEET), file.fleet))
    return tuple(ScopedCaps(scope=scope, caps=caps) for scope, caps in found if caps.on_runs)
