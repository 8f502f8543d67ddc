"""From a run's trace to the ledger's rows: one for each judgement of an action. Pure."""

import json
from collections import Counter, deque
from collections.abc import Sequence

from activities.ledger.decisions import decision_key
from activities.ledger.rows import DecisionRow, PersonSaid
from policies.approvals import Approval, ApprovalDecision
from policies.errors import ToolRefusal
from policies.models import Money
from remit.proof.lines import DroppedLine, Judgement, ToolLine, Trace
from tools.catalog import Catalog

__all__ = ["rows_of"]

DROPPED = "not_carried_out"
"""What came of a call of a turn that was decided again, or that a limit came before."""


def rows_of(trace: Trace, catalog: Catalog) -> list[DecisionRow]:
    """A row for each judgement in `trace`, in order. The same trace gives the same rows.

    A call that was never judged has none: its tool isn't the agent's, its arguments don't parse, or facts couldn't be read.

    Args:
        catalog: says what the amount of an action was that people edited afterwards; the trace says that of the last one only.
    """
    rounds: Counter[tuple[int, int]] = Counter()
    found: list[DecisionRow] = []
    run = trace.run

    def add(
        line: ToolLine | DroppedLine, index: int, judgement: Judgement, said: Sequence[PersonSaid] = (), last: bool = False
    ) -> None:
        spec = catalog.specs.get(judgement.facts.tool)
        slot = line.step, index
        amount = line.amount if last and isinstance(line, ToolLine) else _amount(catalog, judgement)
        verdict, tool = judgement.verdict, line if isinstance(line, ToolLine) else None
        found.append(
            DecisionRow(
                key=decision_key(run.run_id, *slot, rounds[slot]),
                run_id=run.run_id,
                workflow_id=run.workflow_id,
                agent=run.agent,
                release=run.release,
                policy_name=run.policy_version.partition("@")[0],
                policy_digest=run.policy_digest,
                tool=f"{tool.tool}@{tool.version}" if tool else spec.id if spec else judgement.facts.tool,
                effect=tool.effect if tool else spec.effect if spec else "write",
                risk=tool.risk if tool else spec.risk if spec else "low",
                step=line.step,
                call_index=index,
                round=rounds[slot],
                last=last,
                at=judgement.at,
                decision=verdict.decision if verdict else "",
                policy_ids=",".join(verdict.policy_ids) if verdict else "",
                approvals_required=verdict.approvals_required if verdict else 0,
                reason=judgement.reason or (tool.outcome.reason if tool and last else ""),
                mode=judgement.mode,
                amount_cents=amount.cents if amount else 0,
                currency=amount.currency if amount else "",
                facts=judgement.facts.model_dump_json(),
                people=json.dumps([p.model_dump(mode="json") for p in said], ensure_ascii=False),
                outcome=tool.outcome.status if tool else DROPPED,
            )
        )
        rounds[slot] += 1

    for line in trace.lines:
        if isinstance(line, DroppedLine):
            for call in line.calls:
                if call.judgement:
                    add(line, call.index, call.judgement)
        elif isinstance(line, ToolLine) and line.facts and line.mode:
            last = Judgement(at=line.at, arguments=line.arguments, mode=line.mode, facts=line.facts, verdict=line.verdict)
            judgements = (*line.earlier, last)
            for judgement, said in zip(judgements, _people(judgements, line.approvals), strict=True):
                add(line, line.index, judgement, said, last=judgement is last)
    return found


def _people(judgements: Sequence[Judgement], approvals: Sequence[Approval]) -> list[list[PersonSaid]]:
    """What people said after each judgement: those that asked for people were put before them in this order."""
    left = deque(approvals)
    found: list[list[PersonSaid]] = []
    for judgement in judgements:
        asks = judgement.verdict is not None and judgement.verdict.approvals_required > 0
        mine = asks and left and left[0].request.arguments == judgement.arguments
        found.append([_said(d) for d in left.popleft().decisions] if mine else [])
    return found


def _said(decision: ApprovalDecision) -> PersonSaid:
    return PersonSaid(
        by=decision.sub,
        decision=decision.decision,
        reason=decision.reason,
        at=decision.decided_at * 1000,
        edit=decision.arguments,
    )


def _amount(catalog: Catalog, judgement: Judgement) -> Money | None:
    try:
        spec = catalog.get(judgement.facts.tool)
        return spec.amount(spec.parse(json.dumps(judgement.arguments)))
    except ToolRefusal:  # the tool has changed since
        return None
