"""What became of cases after their runs, and the figures of a rollout's arms. Works in the transaction of its caller."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from activities.ledger.rows import Outcome, RunRecord
from activities.ledger.switches import now_ms, text_of
from activities.ledger.tables import outcomes, run_records
from policies.gates import ArmFigures
from policies.rollout import Rollout

__all__ = ["ENDED_BY_PEOPLE", "figures", "record", "run_of", "said_of", "said_where"]

SAID = tuple(name for name in Outcome.model_fields if name != "violated")
ENDED_BY_PEOPLE = ("escalated", "stopped", "failed")
"""Ends of a run after which a person must go on with the case: for the gates, all of them are escalations."""


def run_of(connection: Connection, workflow_id: str) -> RunRecord | None:
    """The closed run of this workflow id: the last one, when one failed and was started again."""
    query = (
        sa.select(run_records)
        .where(run_records.c.workflow_id == workflow_id)
        .order_by(run_records.c.recorded_at.desc(), run_records.c.run_id)
    )
    row = connection.execute(query.limit(1)).mappings().first()
    return RunRecord.model_validate(dict(row)) if row else None


def record(connection: Connection, run_id: str, said: dict[str, int | bool], by: str, command: str) -> None:
    """Add what somebody says of a run. The same command again adds nothing."""
    if connection.execute(sa.select(outcomes.c.id).where(outcomes.c.command == command)).first():
        return
    row = {**said, "command": command, "run_id": run_id, "by": text_of(by)[:200], "at": now_ms()}
    connection.execute(sa.insert(outcomes).values(row))


def said_of(connection: Connection, run_id: str) -> Outcome:
    """What is known of a run: of each field, what was said last."""
    query = sa.select(outcomes).where(outcomes.c.run_id == run_id).order_by(outcomes.c.id)
    return _joined(connection.execute(query).mappings())


def said_where(connection: Connection, mine: sa.ColumnElement[bool]) -> dict[str, Outcome]:
    """What is known of the runs whose records are `mine`, by run."""
    joined = outcomes.join(run_records, outcomes.c.run_id == run_records.c.run_id)
    said: dict[str, list[sa.RowMapping]] = {}
    for row in connection.execute(sa.select(outcomes).select_from(joined).where(mine).order_by(outcomes.c.id)).mappings():
        said.setdefault(str(row["run_id"]), []).append(row)
    return {run_id: _joined(rows) for run_id, rows in said.items()}


def figures(connection: Connection, rollout: Rollout) -> tuple[ArmFigures, ArmFigures]:
    """The candidate's figures and those of its baseline, since this stage began.

    A case of an agent counts when its run has closed, one of people when somebody has said what became of it: until then
    nobody knows that it is over. Runs that were killed don't count: an off switch says nothing of the release.
    """
    began = rollout.stage_at // 1000 * 1000  # runs know their start to the second
    mine = sa.and_(
        run_records.c.agent == rollout.agent,
        run_records.c.arm.in_(("candidate", rollout.baseline)),
        run_records.c.started_at >= began,
        run_records.c.recorded_at >= rollout.stage_at,
        run_records.c.outcome != "killed",
    )
    columns = (
        run_records.c.run_id,
        run_records.c.arm,
        run_records.c.outcome,
        run_records.c.denied,
        run_records.c.moved_cents,
        run_records.c.cost_micro_usd,
        run_records.c.first_response_ms,
    )
    runs = connection.execute(sa.select(*columns).where(mine)).mappings().all()
    known = said_where(connection, mine)
    cases = {
        arm: [_case(r, known.get(r["run_id"])) for r in runs if r["arm"] == arm] for arm in ("candidate", rollout.baseline)
    }
    return _figures(cases["candidate"]), _figures(cases[rollout.baseline])


def _joined(rows: Iterable[sa.RowMapping]) -> Outcome:
    last: dict[str, Any] = {}
    for row in rows:
        last |= {name: row[name] for name in SAID if row[name] is not None}
    return Outcome.model_validate(last)


def _case(run: sa.RowMapping, said: Outcome | None) -> Outcome | None:
    """How one case counts; None: not yet. An agent's cost and times are the ledger's word, people's are what was said."""
    if run["arm"] == "human":
        return said
    said = said or Outcome()
    return said.model_copy(
        update={
            "escalated": run["outcome"] in ENDED_BY_PEOPLE or bool(said.escalated),
            "refunded": run["moved_cents"] > 0 if said.refunded is None else said.refunded,
            "violated": run["denied"] > 0,
            "cost_micro_usd": run["cost_micro_usd"],
            "first_response_ms": run["first_response_ms"],
        }
    )


def _figures(cases: Iterable[Outcome | None]) -> ArmFigures:
    counted = [case for case in cases if case is not None]
    return ArmFigures(
        runs=len(counted),
        escalated=sum(bool(c.escalated) for c in counted),
        violations=sum(c.violated for c in counted),
        reopened=sum(bool(c.reopened) for c in counted),
        refunded=sum(bool(c.refunded) for c in counted),
        csat=tuple(c.csat for c in counted if c.csat is not None),
        cost_micro_usd=tuple(c.cost_micro_usd for c in counted if c.cost_micro_usd is not None),
        first_response_ms=tuple(c.first_response_ms for c in counted if c.first_response_ms is not None),
    )
