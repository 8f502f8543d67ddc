"""What orders about rollouts do to the ledger, and the look at the gates, which may pause or abort one by nobody's word."""

import asyncio
import json
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.engine import Connection
from temporalio import activity

from activities.failures import ledger_needed
from activities.ledger import outcomes, rollouts
from activities.ledger.store import Ledger
from activities.ledger.switches import lock, now_ms
from activities.releases import Releases
from activities.switching import people_now
from policies.control import ControlClaims, Signable, verify_control
from policies.errors import ControlRefused, RemitError, Unavailable
from policies.gates import ArmFigures, Judgement, judge
from policies.identity import Directory
from policies.rollout import STAGES, Rollout
from workflows.fleet_messages import ApplyRollouts, Order
from workflows.rollout_messages import (
    AppliedRollouts,
    ArmSummary,
    JudgeRollout,
    RecordOutcome,
    RolledOut,
    RolloutPromote,
    RolloutStart,
    Said,
    Say,
)

__all__ = ["RolloutActivities"]

SIGNED = ("rollout_start", "rollout_promote")
SAID: dict[str, Said] = {
    "start": "started",
    "resume": "resumed",
    "promote": "promoted",
    "pause": "paused",
    "abort": "aborted",
    "judged": "judged",
}
BY_GATES = "the gates"


@dataclass(frozen=True)
class Look:
    """A rollout as it is after a look at its gates."""

    rollout: Rollout
    candidate: ArmFigures
    baseline: ArmFigures
    judgement: Judgement | None = None

    @property
    def findings(self) -> tuple[str, ...]:
        found = self.judgement
        return (found.sentence, *(f.sentence for f in found.findings)) if found else ()


class RolloutActivities:
    def __init__(self, ledger: Ledger, releases: Releases, directory: Callable[[], Directory], audience: str) -> None:
        """Args:
        directory: asked for each command that somebody signed: who they are now.
        audience: the workers that such a command must be signed for.
        """
        self._ledger = ledger
        self._releases = releases
        self._directory = directory
        self._audience = audience

    @activity.defn(name="apply_rollouts")
    async def apply_rollouts(self, wanted: ApplyRollouts) -> AppliedRollouts:
        """Carry out the orders, one after the other. After this returns, the next admission knows. Safe to repeat."""
        with ledger_needed():
            return await asyncio.to_thread(self._apply, wanted.orders)

    def _apply(self, orders: Sequence[Order]) -> AppliedRollouts:
        # Before any transaction, for the directory may take its time, or lie in the same database.
        people = people_now(self._directory) if any(o.name in SIGNED for o in orders) else None
        answers = [self._answer(order, people) for order in orders]
        # Once for all that is said in one go of an agent's runs; whoever said the last of it hears what came of it.
        last = {a.agent: i for i, a in enumerate(answers) if a.status == "recorded"}
        for agent, i in last.items():
            look = None
            with suppress(RemitError):  # its folder is gone, or can't be read: what was said is kept, and judged later
                look = self._look(agent)
            if look and look.judgement and look.rollout.status != "running":
                answers[i] = answers[i].model_copy(update={"rollout": look.rollout, "findings": look.findings})
        with self._ledger.reading() as connection:
            return AppliedRollouts(outcomes=tuple(answers), rollouts=tuple(rollouts.current(connection)))

    def _answer(self, order: Order, people: Directory | Unavailable | None) -> RolledOut:
        command = order.command
        agent = getattr(command, "agent", "")
        try:
            with self._ledger.reading() as connection:
                if before := rollouts.logged(connection, command=order.id):
                    rollout = Rollout.model_validate_json(before[-1].rollout)
                    return RolledOut(status=SAID[before[-1].action], agent=agent, rollout=rollout)
            match command:
                case RolloutStart():
                    return self._start(order.id, command, people)
                case RolloutPromote():
                    return self._promote(order.id, command, people)
                case Say():
                    return self._lower(order.id, command, "pause" if order.name == "rollout_pause" else "abort")
                case JudgeRollout():
                    return self._judged(command.agent)
                case RecordOutcome():
                    return self._record(order.id, command)
                case _:
                    raise ControlRefused("unknown_command", "There is no such command.")
        except ControlRefused as e:
            return RolledOut(status="refused", agent=agent, refused=e.reason, message=e.message)
        except RemitError as e:
            return RolledOut(status="refused", agent=agent, refused=e.code, message=e.message)

    # ---- what raises a share, signed --------------------------------------------------------------------------------

    def _start(self, order: str, start: RolloutStart, people: Directory | Unavailable | None) -> RolledOut:
        name, now = start.agent, now_ms()
        who, claims = self._signed(start, "rollout_start", people)
        candidate = self._releases.candidate(name, people=claims.people)
        if candidate is None:
            raise ControlRefused("no_candidate", f"There is no candidate beside agent `{name}` on the worker.")
        if self._releases.definition(candidate) != claims.release:
            raise ControlRefused("other_release", "The candidate on the worker isn't what was signed for; deploy it first.")
        stable = "" if claims.people else self._releases.stable(name)
        if stable == claims.release:
            raise ControlRefused(
                "no_change", f"The candidate of `{name}` is what its folder holds already; there is nothing to roll out."
            )
        with self._ledger.begin() as connection:
            lock(connection)
            found = rollouts.found(connection, name)
            self._same(found, claims)
            if found and found.status == "paused":
                if (found.candidate, found.stable) != (claims.release, stable):
                    raise ControlRefused("other_release", "Another candidate than this one is paused; abort its rollout first.")
                going = found.model_copy(update={"status": "running", "by": who, "reason": claims.reason})
                kept = rollouts.save(connection, going, "resume", command=order, detail=_proof(start.control_jws))
                return RolledOut(status="resumed", agent=name, rollout=kept)
            if found and found.status == "running":
                raise ControlRefused("running", f"The rollout of `{name}` is {found.words} already.")
            if found and found.status == "done" and found.stable and not claims.people and stable != found.candidate:
                raise ControlRefused(
                    "not_moved",
                    f"What was promoted last isn't in `agents/{name}/` yet; move it there first.",
                )
            begun = Rollout(
                agent=name,
                status="running",
                stage=STAGES[0],
                salt=secrets.token_hex(16),
                candidate=claims.release,
                stable=stable,
                started_at=now,
                stage_at=now,
                by=who,
                reason=claims.reason,
            )
            kept = rollouts.save(connection, begun, "start", command=order, detail=_proof(start.control_jws))
        return RolledOut(status="started", agent=name, rollout=kept, notes=self._releases.notes(kept))

    def _promote(self, order: str, promote: RolloutPromote, people: Directory | Unavailable | None) -> RolledOut:
        name = promote.agent
        who, claims = self._signed(promote, "rollout_promote", people)
        look = self._look(name)
        if look is None:
            raise _never(name)
        if look.rollout.status != "running":
            raise ControlRefused("not_running", _ended(look))
        self._same(look.rollout, claims)
        if not look.rollout.passed:
            raise ControlRefused("gates", _held(look))
        if notes := self._releases.notes(look.rollout):
            raise ControlRefused("changed", " ".join(notes))
        with self._ledger.begin() as connection:
            lock(connection)
            found = rollouts.found(connection, name)
            if found is None or found != look.rollout:
                raise ControlRefused("changed", "The rollout has changed meanwhile; look at it again.")
            raised = found.promoted(now_ms()).model_copy(update={"by": who, "reason": claims.reason})
            kept = rollouts.save(connection, raised, "promote", command=order, detail=_proof(promote.control_jws))
        return RolledOut(status="promoted", agent=name, rollout=kept, notes=self._releases.notes(kept))

    def _signed(
        self, command: RolloutStart | RolloutPromote, what: Signable, people: Directory | Unavailable | None
    ) -> tuple[str, ControlClaims]:
        """Who signed it, and what for.

        Raises:
            ControlRefused: nobody who may.
        """
        if not isinstance(people, Directory):
            raise ControlRefused("unavailable", people.message if people else "Nobody's signature can be verified now.")
        person, claims = verify_control(
            command.control_jws, directory=people, now=int(time.time()), audience=self._audience, command=what
        )
        if claims.scope != f"agent:{command.agent}":
            raise ControlRefused("other_agent", "The command is signed for another agent.")
        roles = self._releases.roles(command.agent)
        if roles and not {*roles} & {*person.roles}:
            raise ControlRefused("wrong_role", f"`{person.sub}` may not sign for this; it takes {' or '.join(roles)}.")
        return person.sub, claims

    def _same(self, found: Rollout | None, claims: ControlClaims) -> None:
        if claims.epoch != (found.epoch if found else 0):
            raise ControlRefused("other_rollout", "The rollout has changed since this was signed; look at it, and sign again.")

    # ---- what lowers one, by anybody --------------------------------------------------------------------------------

    def _lower(self, order: str, said: Say, action: str) -> RolledOut:
        with self._ledger.begin() as connection:
            lock(connection)
            found = rollouts.found(connection, said.agent)
            if found is None:
                raise _never(said.agent)
            if found.status not in ("running", "paused") or (action == "pause" and found.status == "paused"):
                raise ControlRefused("unchanged", f"The rollout of `{said.agent}` is {found.words}; nothing was changed.")
            status = "paused" if action == "pause" else "aborted"
            lowered = found.model_copy(update={"status": status, "by": said.by, "reason": said.reason})
            kept = rollouts.save(connection, lowered, action, command=order)
        return RolledOut(status=SAID[action], agent=said.agent, rollout=kept)

    # ---- the gates --------------------------------------------------------------------------------------------------

    def _judged(self, agent: str) -> RolledOut:
        look = self._look(agent)
        if look is None:
            raise _never(agent)
        return RolledOut(
            status="judged",
            agent=agent,
            rollout=look.rollout,
            candidate=_summary(look.candidate),
            baseline=_summary(look.baseline),
            findings=look.findings,
            notes=self._releases.notes(look.rollout),
        )

    def _look(self, agent: str) -> Look | None:
        """The rollout, judged if a checkpoint is due; None if there is none. Its figures are read before anything is locked."""
        with self._ledger.reading() as connection:
            found = rollouts.found(connection, agent)
            if found is None:
                return None
            candidate, baseline = outcomes.figures(connection, found)
        if found.status != "running":
            return Look(found, candidate, baseline)
        judgement = judge(candidate, baseline, self._releases.rules(agent), found.judged)
        after = found.after(judgement)
        if after != found:
            with self._ledger.begin() as connection:
                lock(connection)
                if rollouts.found(connection, agent) != found:  # it was carried out twice, and the other one was quicker
                    return Look(rollouts.found(connection, agent) or found, candidate, baseline, judgement)
                after = self._keep(connection, after, judgement)
        return Look(after, candidate, baseline, judgement)

    def _keep(self, connection: Connection, after: Rollout, judgement: Judgement) -> Rollout:
        action = {"paused": "pause", "aborted": "abort"}.get(after.status, "judged")
        why = " ".join((judgement.sentence, *(f.sentence for f in judgement.findings if f.decision == judgement.decision)))
        if action != "judged":
            after = after.model_copy(update={"by": BY_GATES, "reason": why[:500]})
        return rollouts.save(connection, after, action, detail=judgement.model_dump_json())

    # ---- what became of cases -----------------------------------------------------------------------------------------

    def _record(self, order: str, said: RecordOutcome) -> RolledOut:
        with self._ledger.begin() as connection:
            lock(connection)
            run = outcomes.run_of(connection, said.workflow_id)
            if run is None:
                raise ControlRefused(
                    "no_run", f"The ledger has no closed run `{said.workflow_id[:200]}`; `remit runs` lists them."
                )
            people_only = {"cost_micro_usd", "first_response_ms"} & {*said.said}
            if people_only and run.arm != "human":
                raise ControlRefused("known", "Cost and first response of an agent's run are known; they are said of people's.")
            outcomes.record(connection, run.run_id, said.said, said.by, order)
        return RolledOut(status="recorded", agent=run.agent, arm=run.arm)


def _never(agent: str) -> ControlRefused:
    return ControlRefused("no_rollout", f"Agent `{agent[:100]}` was never rolled out; `remit rollout start` begins it.")


def _ended(look: Look) -> str:
    rollout = look.rollout
    why = f", by {rollout.by}: {rollout.reason}" if rollout.by else ""
    return f"The rollout of `{rollout.agent}` is {rollout.words}{why}"


def _held(look: Look) -> str:
    """Why the next stage can't begin."""
    found = look.judgement
    said = " ".join((found.sentence, *(f.sentence for f in found.findings if f.decision != "pass"))) if found else ""
    judged = (
        f" was judged at {look.rollout.judged[-1]} runs, and didn't pass" if look.rollout.judged else " hasn't been judged yet"
    )
    return f"`{look.rollout.agent}` stays at {look.rollout.stage} %, which{judged}. {said}"


def _summary(arm: ArmFigures) -> ArmSummary:
    return ArmSummary(
        runs=arm.runs,
        escalated=arm.escalated,
        violations=arm.violations,
        reopened=arm.reopened,
        refunded=arm.refunded,
        csat=statistics.fmean(arm.csat) if arm.csat else None,
        csat_answers=len(arm.csat),
        cost_usd=statistics.fmean(arm.cost_micro_usd) / 1_000_000 if arm.cost_micro_usd else None,
        first_response_ms=round(statistics.median(arm.first_response_ms)) if arm.first_response_ms else None,
    )


def _proof(control_jws: str) -> str:
    return json.dumps({"control_jws": control_jws})
