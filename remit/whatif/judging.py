"""What another policy makes of recorded actions, one at a time and added up. Pure: the facts are the recorded ones."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from activities.ledger.rows import PersonSaid
from policies.authorize import authorize
from policies.autonomy import under
from policies.bundle import Bundle, CompiledPolicy, compile_policy
from policies.models import ActionFacts, AutonomyMode, Decision, Effect, Frozen, Money

__all__ = ["COLUMNS", "LISTED", "Against", "Judge", "Policy", "Recorded", "Tally", "judged"]

LISTED = 1000
"""Actions that are listed at most; beyond that they are only counted."""
HAPPENED = ("done", "indeterminate")
_PEOPLE: TypeAdapter[tuple[PersonSaid, ...]] = TypeAdapter(tuple[PersonSaid, ...])


class Recorded(NamedTuple):
    """A row of `decisions`, as far as it is needed here."""

    run_id: str
    workflow_id: str
    agent: str
    tool: str
    effect: Effect
    last: bool
    policy_digest: str
    decision: Decision | Literal[""]
    approvals_required: int
    mode: AutonomyMode
    amount_cents: int
    currency: str
    facts: str
    people: str
    outcome: str


COLUMNS: tuple[str, ...] = Recorded._fields


@dataclass(frozen=True)
class Policy:
    """The policy that is tried, with all that judging by it needs: a process of its own can be handed it.

    Attributes:
        tools: names of today's catalog.
    """

    bundle: Bundle
    schema_json: str
    tools: frozenset[str]


class Against(Frozen):
    """An action that people didn't let pass as it was, and that the new policy would have let pass by itself.

    Attributes:
        what: whether somebody rejected it, or put other arguments in its place.
    """

    what: Literal["rejected", "edited"]
    run_id: str
    workflow_id: str
    agent: str
    tool: str
    resource: str
    amount: Money | None
    by: str
    reason: str


@dataclass
class Tally:
    """What came of some actions. Two of them add up.

    Attributes:
        actions: rows that were looked at.
        judged: those that the new policy was asked about.
        not_asked: refused by mode, binding or business rule before any policy was asked, and so whatever the policy is.
        superseded: judged anew before they were performed or refused; the later row counts.
        not_judged: those whose recorded facts today's code can't judge, by the reason.
        changes: of the judged ones, by what was decided and what would be.
        by_tool: of those with another answer, by tool.
        saved, added: approvals of people.
        let_through: cents by currency that weren't moved and would have been, with nobody asked.
        held_back: that were moved, and would have been denied.
        now_asked: that were moved with nobody asked, and that people would be asked about.
        unattended: that people let through, and that nobody would be asked about.
        drifted: decided by this very policy, with another verdict: the tools have changed since.
        newly_allowed, newly_denied: policies that determined the new verdicts, with how many.
        unknown, by_agent: actions that no policy permits, of all that were judged, by agent: a bundle may be for other agents.
    """

    actions: int = 0
    judged: int = 0
    not_asked: int = 0
    superseded: int = 0
    saved: int = 0
    added: int = 0
    drifted: int = 0
    rejected_allowed: int = 0
    edited_allowed: int = 0
    not_judged: Counter[str] = field(default_factory=Counter[str])
    changes: Counter[tuple[Decision, Decision]] = field(default_factory=Counter[tuple[Decision, Decision]])
    by_tool: Counter[tuple[str, Decision, Decision]] = field(default_factory=Counter[tuple[str, Decision, Decision]])
    newly_allowed: Counter[str] = field(default_factory=Counter[str])
    newly_denied: Counter[str] = field(default_factory=Counter[str])
    by_agent: Counter[str] = field(default_factory=Counter[str])
    unknown: Counter[str] = field(default_factory=Counter[str])
    let_through: Counter[str] = field(default_factory=Counter[str])
    held_back: Counter[str] = field(default_factory=Counter[str])
    now_asked: Counter[str] = field(default_factory=Counter[str])
    unattended: Counter[str] = field(default_factory=Counter[str])
    against: list[Against] = field(default_factory=list[Against])

    def add(self, other: "Tally") -> None:
        """Count what `other` counted too."""
        for name, theirs in vars(other).items():
            sum_ = getattr(self, name) + theirs
            setattr(self, name, sum_[:LISTED] if name == "against" else sum_)

    @property
    def strangers(self) -> list[str]:
        """Agents of which no policy permits anything: the bundle isn't for them."""
        return sorted(agent for agent, n in self.by_agent.items() if self.unknown[agent] == n)

    def count(self, before: Iterable[Decision], after: Decision) -> int:
        """How many were decided as one of `before`, and would be as `after`."""
        return sum(self.changes[was, after] for was in before)


class Judge:
    """The new policy, compiled once."""

    def __init__(self, policy: Policy) -> None:
        """Raises:
        PolicyInvalid: its bundle can't be used.
        """
        self._compiled: CompiledPolicy = compile_policy(policy.bundle, policy.schema_json)
        self._digest = policy.bundle.digest
        self._tools = policy.tools

    def tally(self, rows: Iterable[Sequence[object]]) -> Tally:
        """What the policy makes of `rows`, each the values of `COLUMNS`."""
        found = Tally()
        for row in rows:
            self._count(found, Recorded._make(row))  # pyright: ignore[reportArgumentType]  (columns of a typed table)
        return found

    def _count(self, tally: Tally, row: Recorded) -> None:
        tally.actions += 1
        if not row.decision:
            tally.not_asked += 1
            return
        try:
            people = _PEOPLE.validate_json(row.people) if row.people != "[]" else ()
        except ValidationError:
            tally.not_judged["what people decided can't be read any more"] += 1
            return
        if not row.last and all(said.decision != "edit" for said in people):
            tally.superseded += 1
            return
        name = row.tool.partition("@")[0]
        if name not in self._tools:
            tally.not_judged[f"there is no tool `{name[:80]}` any more"] += 1
            return
        try:
            facts = ActionFacts.model_validate_json(row.facts)
        except ValidationError:
            tally.not_judged["its facts can't be read any more"] += 1
            return
        verdict = under(row.mode, authorize(self._compiled, facts), row.effect)
        if verdict.reason.startswith("policy_error"):
            tally.not_judged[f"`{name}`: {verdict.reason}"[:200]] += 1
            return
        tally.judged += 1
        tally.by_agent[row.agent] += 1
        if verdict.decision == "deny" and not verdict.policy_ids:
            tally.unknown[row.agent] += 1
        was, now = _effective(row.decision, row.approvals_required), _effective(verdict.decision, verdict.approvals_required)
        tally.changes[was, now] += 1
        if now == "allow":
            self._contradicted(tally, row, facts, people)
        if now != "deny" and was != "deny":
            tally.saved += max(0, row.approvals_required - verdict.approvals_required)
        if now != "deny":
            tally.added += max(0, verdict.approvals_required - (row.approvals_required if was != "deny" else 0))
        if (row.decision, row.approvals_required) != (verdict.decision, verdict.approvals_required):
            tally.drifted += row.policy_digest == self._digest
        if was == now:
            return
        tally.by_tool[name, was, now] += 1
        if now == "deny":
            tally.newly_denied[", ".join(verdict.policy_ids) or verdict.reason] += 1
        elif was == "deny" and now == "allow":
            tally.newly_allowed[", ".join(verdict.policy_ids)] += 1
        if row.amount_cents and row.effect == "write":
            self._move(tally, row, was, now)

    def _move(self, tally: Tally, row: Recorded, was: Decision, now: Decision) -> None:
        """Count the money of an action that would have been decided otherwise."""
        moved = row.last and row.outcome in HAPPENED
        if now == "allow":
            (tally.unattended if moved else tally.let_through)[row.currency] += row.amount_cents
        elif moved and now == "deny":
            tally.held_back[row.currency] += row.amount_cents
        elif moved and was == "allow":
            tally.now_asked[row.currency] += row.amount_cents

    def _contradicted(self, tally: Tally, row: Recorded, facts: ActionFacts, people: Iterable[PersonSaid]) -> None:
        """Count the action if people rejected or edited what would be let through by itself."""
        for said in people:
            if said.decision == "approve":
                continue
            if said.decision == "reject":
                tally.rejected_allowed += 1
            else:
                tally.edited_allowed += 1
            if len(tally.against) < LISTED:
                tally.against.append(
                    Against(
                        what="rejected" if said.decision == "reject" else "edited",
                        run_id=row.run_id,
                        workflow_id=row.workflow_id,
                        agent=row.agent,
                        tool=row.tool,
                        resource=str(facts.resource),
                        amount=Money(cents=row.amount_cents, currency=row.currency) if row.currency else None,
                        by=said.by,
                        reason=said.reason,
                    )
                )


def _effective(decision: Decision, people: int) -> Decision:
    """A verdict as people see it: what asks for nobody but a stronger model is let through with nobody looking at it."""
    return "allow" if decision == "require_approval" and not people else decision


@lru_cache(maxsize=1)
def _judge(policy: Policy) -> Judge:
    return Judge(policy)


def judged(policy: Policy, rows: Sequence[Sequence[object]]) -> Tally:
    """What `policy` makes of `rows`; it is compiled once a process."""
    return _judge(policy).tally(rows)
