"""Which release of an agent a run gets: what lies in its folder, or the candidate beside it, as its rollout says."""

import threading
from collections.abc import Mapping

from activities import prices
from activities.ledger import rollouts
from activities.ledger.store import Ledger
from activities.library import AgentFile, Library
from policies.bundle import Bundle
from policies.canonical import digest
from policies.errors import InvalidInput
from policies.gates import GateRules
from policies.rollout import Arm, Release, Rollout, assigned
from policies.routing import Route
from tools.connectors.corpus import Corpora

__all__ = ["Releases"]

ASIDE = {"prompt", "status", "owner", "priority", "weight", "value"}
"""What of an `agent.toml` isn't part of a release: it changes nothing that a run does. The prompt counts by itself."""


class Releases:
    """The releases that this worker's folders hold."""

    def __init__(self, library: Library, corpora: Corpora, code: str = "") -> None:
        """`code`: version of the code that decides a run's commands."""
        self._library = library
        self._corpora = corpora
        self._code = code
        self._kept: set[str] = set()
        self._keeping = threading.Lock()

    def candidate(self, name: str, *, people: bool) -> AgentFile | None:
        """What a rollout of the agent would begin with: the agent itself if people do the rest, else what lies beside it."""
        return self._library.agent(name) if people else self._library.candidate(name)

    def stable(self, name: str) -> str:
        """The definition of what lies in the agent's folder now."""
        return self.definition(self._library.agent(name))

    def definition(self, agent: AgentFile) -> str:
        """`Release.definition` of what lies in the folders now."""
        return self.release(agent, self._library.bundle(agent.policy)).definition

    def rules(self, name: str) -> GateRules:
        """The gates that a candidate must pass: those of the agent's own bundle, which a candidate can't change."""
        return self._library.bundle(self._library.agent(name).policy).limits().gates

    def roles(self, name: str) -> tuple[str, ...]:
        """Who may give a candidate more to do: who may decide on what the agent does; with none, anybody with a role."""
        return self._library.bundle(self._library.agent(name).policy).limits().approvals.roles

    def release(
        self, agent: AgentFile, bundle: Bundle, tools: Mapping[str, str] | None = None, route: Route | None = None
    ) -> Release:
        """All that a run of `agent` depends on, by digest.

        Args:
            tools: digest of each tool of the agent, by name. What a person handed to one run isn't part of a release.
        """
        return Release(
            agent=digest(agent.model_dump(mode="json", exclude=ASIDE)),
            prompt=digest(agent.prompt),
            policy=bundle.digest,
            corpus=self._corpora.digest(agent.corpus) if agent.corpus else "",
            tools={**tools} if tools else {},
            route=digest(route) if route else "",
            prices=prices.TABLE_VERSION,
            code=self._code,
        )

    def chosen(self, agent: AgentFile, rollout: Rollout | None, key: str) -> tuple[AgentFile, Arm]:
        """What the run gets, and in which arm.

        A candidate that isn't what was started any more gets no run: its share goes to the baseline. The same goes for a stable
        release that has changed, but for the arm: somebody must do the work, and it isn't compared.

        Args:
            agent: as it lies in its folder.
            key: what is hashed: the subject, or the run's id where there is none.
        """
        if rollout is None:
            return agent, ""
        arm = assigned(rollout, key)
        if arm == "candidate":
            if candidate := self.started(rollout):
                return candidate, "" if rollout.status == "done" else arm
            arm = rollout.baseline
        if rollout.status == "done" or (arm == "stable" and not self.unchanged(rollout)):
            arm = ""
        return agent, arm

    def started(self, rollout: Rollout) -> AgentFile | None:
        """The candidate, if what lies in the folders now is still what the rollout was started with."""
        try:
            found = self.candidate(rollout.agent, people=not rollout.stable)
            return found if found and self.definition(found) == rollout.candidate else None
        except InvalidInput:
            return None  # nobody can run what can't be read; `remit policy check` says why

    def unchanged(self, rollout: Rollout) -> bool:
        """Whether the stable release is still what the candidate is compared with; people always are."""
        return not rollout.stable or self.stable(rollout.agent) == rollout.stable

    def notes(self, rollout: Rollout) -> tuple[str, ...]:
        """What people should know of the rollout's releases in the folders of this worker."""
        folder, there = f"`agents/{rollout.agent}/`", self.started(rollout) is not None
        if rollout.status == "done":
            moved = not rollout.stable or self.stable(rollout.agent) == rollout.candidate
            if moved:
                return ()
            if there:
                return (f"New runs take the candidate from its own folder; move it into {folder} before you prepare another.",)
            return (f"New runs get what lies in {folder}, which isn't the release that was promoted.",)
        found: list[str] = []
        if not there and rollout.status != "aborted":
            found.append("The candidate in its folder isn't what was started; its share goes to the baseline.")
        if not self.unchanged(rollout):
            found.append(f"{folder} has changed since the start; its runs aren't compared.")
        return tuple(found)

    def keep(self, ledger: Ledger, agent: str, release: Release) -> None:
        """Keep the release in the ledger, the first time that this worker sees it."""
        if release.digest in self._kept:
            return
        with self._keeping, ledger.begin() as connection:
            rollouts.keep_release(connection, agent, release)
        self._kept.add(release.digest)
