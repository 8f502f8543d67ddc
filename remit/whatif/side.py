"""A recorded run and its fork, call by call, and where they first differ. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import cast

from policies.approvals import Approval
from policies.models import Frozen, Money
from workflows.messages import FINAL_ANSWER, AssistantMessage, Message, RunSummary, ToolCallView, ToolRequest

__all__ = ["Beside", "Line", "Side", "compared", "lines_of"]

WAITING = "waiting"


class Line(Frozen):
    """What came of one thing that the model decided.

    Attributes:
        tool: empty for an answer in words, which is then in `arguments`.
        status: of a call, `waiting` when people must decide on it and haven't; of the final answer, that of the run.
        people: who decided and what, after how many were needed.
    """

    step: int
    index: int
    tool: str
    arguments: str
    status: str = ""
    reason: str = ""
    policy_ids: tuple[str, ...] = ()
    needed: int = 0
    people: tuple[str, ...] = ()

    def differs(self, other: "Line | None") -> str:
        """What is other than in `other`, in one word; nothing if they are the same. Which policies say so isn't."""
        if other is None:
            return "call"
        for word in ("tool", "arguments", "needed", "people", "status", "reason"):
            if getattr(self, word) != getattr(other, word):
                return {"needed": "approvals", "people": "decisions"}.get(word, word)
        return ""


class Side(Frozen):
    """How one of the two ended."""

    status: str
    stopped_by: str
    summary: str
    model_calls: int
    tool_calls: int
    cost_usd: float
    approvals_asked: int
    moved_cents: dict[str, int]
    lines: tuple[Line, ...]

    @classmethod
    def of(cls, run: RunSummary, messages: Sequence[Message]) -> "Side":
        moved: dict[str, int] = {}
        for call in run.calls:
            if call.status == "done" and call.amount and call.idempotency_key:
                moved[call.amount.currency] = moved.get(call.amount.currency, 0) + call.amount.cents
        waiting = any(a.status == "pending" for a in run.approvals)
        return cls(
            status="waiting_for_approval" if waiting else run.status,
            stopped_by=run.stopped_by,
            summary=run.summary,
            model_calls=run.usage.model_calls,
            tool_calls=run.usage.tool_calls,
            cost_usd=run.usage.cost_micro_usd / 1_000_000,
            approvals_asked=len(run.approvals),
            moved_cents=moved,
            lines=tuple(lines_of(run, messages)),
        )

    @property
    def moved(self) -> str:
        return ", ".join(str(Money(cents=n, currency=c)) for c, n in sorted(self.moved_cents.items())) or "nothing"


class Beside(Frozen):
    """A line of the recorded run and the one of its fork in the same place; `differs` names what is other."""

    step: int
    index: int
    recorded: Line | None
    fork: Line | None
    differs: str


def lines_of(run: RunSummary, messages: Sequence[Message]) -> list[Line]:
    """What the model decided, in order, with what came of it."""
    views: dict[int, list[ToolCallView]] = {}
    for view in run.calls:
        views.setdefault(view.step, []).append(view)
    found: list[Line] = []
    for step, message in enumerate(m for m in messages if isinstance(m, AssistantMessage)):
        if not message.tool_calls:
            found.append(Line(step=step, index=0, tool="", arguments=message.text, status=run.status))
        for index, request in enumerate(message.tool_calls):
            view = next(iter(views.get(step, [])[index : index + 1]), None)
            approvals = [a for a in run.approvals if _about(a, step, index)]
            found.append(_line(run, step, index, request, view, approvals))
    return found


def _line(
    run: RunSummary, step: int, index: int, request: ToolRequest, view: ToolCallView | None, approvals: Sequence[Approval]
) -> Line:
    status, reason = (view.status, view.reason) if view else (run.status, "") if request.name == FINAL_ANSWER else ("", "")
    if any(a.status == "pending" for a in approvals):
        status = WAITING
    return Line(
        step=step,
        index=index,
        tool=request.name,
        arguments=_plain(request.arguments),
        status=status,
        reason=reason,
        policy_ids=view.policy_ids if view else approvals[-1].request.policy_ids if approvals else (),
        needed=max((a.request.required for a in approvals), default=0),
        people=tuple(f"{d.sub}: {d.decision}" for a in approvals for d in a.decisions),
    )


def _about(approval: Approval, step: int, index: int) -> bool:
    name = approval.request.approval_id
    return name == f"ap-{step}-{index}" or name.startswith(f"ap-{step}-{index}-")


def _plain(arguments: str) -> str:
    """The arguments in one way of writing them; as they are, if they aren't an object."""
    try:
        found: object = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    if not isinstance(found, dict):
        return arguments
    return json.dumps(cast("Mapping[str, object]", found), sort_keys=True, ensure_ascii=False)


def compared(recorded: Side, fork: Side) -> list[Beside]:
    """Both, side by side."""
    left = {(line.step, line.index): line for line in recorded.lines}
    right = {(line.step, line.index): line for line in fork.lines}
    rows: list[Beside] = []
    for place in sorted(left.keys() | right.keys()):
        mine, theirs = left.get(place), right.get(place)
        differs = mine.differs(theirs) if mine else "call"
        rows.append(Beside(step=place[0], index=place[1], recorded=mine, fork=theirs, differs=differs))
    return rows
