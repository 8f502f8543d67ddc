"""Whether tools are as people reviewed them: what this worker offers to agents that act by themselves."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from activities.described import describe
from activities.ledger import reviews
from activities.ledger.store import Ledger
from policies.capability import Keyring
from policies.errors import ControlRefused
from policies.identity import Directory
from policies.reviews import WHY, Kept, Review, Shipped, proven, seal, stands, unsealed
from tools.catalog import Catalog
from workflows.messages import Withheld

__all__ = ["Reviews"]


class Reviews:
    """The tools of this worker that write, as they were when it started, and the reviews of them."""

    def __init__(
        self,
        catalog: Catalog,
        shipped: Mapping[str, Shipped],
        directory: Callable[[], Directory],
        keys: Callable[[], Keyring],
        *,
        audience: str,
        roles: Collection[str] = (),
        agents: Collection[str] = (),
        strict: bool,
    ) -> None:
        """Args:
        shipped: the reviews that came with the release, by tool.
        directory: who people are, for reviews that no worker has sealed yet.
        keys: the root keys, which seal.
        audience: the workers that a review must be signed for.
        roles: who may review; empty for anybody with a role.
        agents: their identities, none of which may.
        strict: whether a tool that nobody ever reviewed is withheld too, as in production.
        """
        self.described = {s.name: describe(s) for s in catalog.specs.values() if s.effect == "write"}
        self._shipped = shipped
        self._directory = directory
        self._keys = keys
        self._audience = audience
        self._roles = frozenset(roles)
        self._agents = frozenset(agents)
        self._strict = strict
        self._proven: set[tuple[str, str]] = set()
        self._log = structlog.get_logger("remit.reviews")

    def withheld(self, ledger: Ledger, tools: Collection[str]) -> tuple[Withheld, ...]:
        """Which of `tools` an agent in `live` mode doesn't get, and why. Seals what it verifies.

        Raises:
            Unavailable: a review can't be verified now, for the issuer is away.
        """
        names = sorted({*tools} & {*self.described})
        if not names:
            return ()
        with ledger.reading() as connection:
            rows = reviews.of(connection, names)
        found = self.look(rows, names)
        if unsaid := [row for row in rows if self._wants_seal(row)]:
            self._seal(ledger, unsaid)
        return tuple(Withheld(name=name, why=WHY[found[name].state]) for name in names if self.withholds(found[name]))

    def withholds(self, review: Review) -> bool:
        """Whether a tool that stands so is kept from agents in `live` mode."""
        return review.state in ("changed", "withdrawn") or (review.state == "never" and self._strict)

    def look(self, rows: Sequence[Kept], tools: Collection[str]) -> dict[str, Review]:
        """How each of `tools` stands, by the ledger's `rows` on them."""
        found: dict[str, Review] = {}
        for name in sorted(tools):
            mine = [row for row in rows if row.tool == name]
            valid = [row for row in mine if self._holds(row)]
            found[name] = stands(self.described[name], valid, self._shipped.get(name), len(mine) - len(valid))
        return found

    def _holds(self, row: Kept) -> bool:
        """Whether somebody who may signed exactly this. Fails closed: what doesn't verify is no review, and no withdrawal."""
        known = (row.model_dump_json(exclude={"seal"}), row.seal)
        if known in self._proven:
            return True
        sealed = unsealed(row, self._keys()) if row.seal else None
        try:
            people = sealed[0] if sealed else self._directory()
            proven(row, people, audience=self._audience, roles=self._roles, barred=self._agents)
        except ControlRefused as e:
            self._log.warning("review refused", tool=row.tool, by=row.by, reason=e.reason)
            return False
        self._proven.add(known)
        return True

    def _wants_seal(self, row: Kept) -> bool:
        """Whether it was verified, and no seal by the newest root key says so."""
        keys = self._keys()
        if not keys.private or (row.model_dump_json(exclude={"seal"}), row.seal) not in self._proven:
            return False
        sealed = unsealed(row, keys)
        return sealed is None or sealed[1] != max(keys.private)

    def _seal(self, ledger: Ledger, rows: Sequence[Kept]) -> None:
        """So that it can be verified when the person's key is long forgotten, and when the root key has been retired."""
        keys, now = self._keys(), int(time.time())
        for row in rows:
            sealed = unsealed(row, keys)
            people = sealed[0] if sealed else self._directory()
            if made := seal(row, people, keys, now):
                with ledger.begin() as connection:
                    reviews.add_seal(connection, row, made)
