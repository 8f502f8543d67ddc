"""What strangers may send to a run: parsed with suspicion, verified, counted at most once. Pure."""

import json
from collections.abc import Sequence
from typing import TypeVar

from pydantic import ConfigDict, Field, ValidationError
from temporalio.common import RawValue

from policies import approvals
from policies.approvals import Approval, ApprovalDecision
from policies.bundle import explain
from policies.errors import ApprovalRefused, ToolRefusal
from policies.models import Frozen
from tools.catalog import Catalog
from workflows.messages import ENCRYPTED
from workflows.state import RunState

__all__ = ["DecideSignal", "KillSignal", "PauseSignal", "count_decision", "known", "parse", "stranger", "verified"]

MAX_BYTES = 16_384
MAX_EDITS = 10
T = TypeVar("T", bound=Frozen)


class KillSignal(Frozen):
    """Payload of the signal `kill`: `{"reason": "..."}`.

    Attributes:
        scope, epoch: of the switch that it is about, if it comes from `FleetControl`. A claim, which the run looks up.
    """

    reason: str = Field(min_length=1, max_length=500)
    by: str = Field(default="", max_length=200)
    scope: str = Field(default="", max_length=300)
    epoch: int = Field(default=0, ge=0)


class PauseSignal(KillSignal):
    """Payload of the signals `pause` and `resume`. Both are claims: who may signal a run may park it and let it go on."""


class DecideSignal(Frozen):
    """Payload of the signal or update `decide`. Whatever else it holds (an `approver`, say) is a claim, and ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    approval_id: str = Field(max_length=100)
    decision_jws: str


def parse(model: type[T], args: Sequence[RawValue]) -> T:
    """The one payload in `args` as `model`.

    Raises:
        ApprovalRefused: `malformed` or `too_large`; never another error, whatever the bytes are.
    """
    if len(args) != 1:
        raise ApprovalRefused("malformed", f"Expected one JSON object, got {len(args)} inputs.")
    payload = args[0].payload
    if payload.metadata.get("encoding") == ENCRYPTED:
        raise ApprovalRefused("malformed", "The payload is encrypted, but not with a key that the worker has.")
    data = payload.data
    if len(data) > MAX_BYTES:
        raise ApprovalRefused("too_large", f"The payload is over {MAX_BYTES} bytes.")
    try:
        return model.model_validate_json(data)
    except ValidationError as e:
        raise ApprovalRefused("malformed", f"The payload can't be used: {explain(e)}.") from None


def stranger(state: RunState, request: DecideSignal) -> str:
    """The key that `request` says it is signed by, if its owner may have logged in since the admission; else nothing."""
    kid = approvals.claimed_key(request.decision_jws) if state.directory.live else ""
    return "" if state.directory.by_key(kid) else kid


def known(state: RunState, request: DecideSignal) -> Approval:
    """The approval that `request` is about.

    Raises:
        ApprovalRefused: `unknown_approval`.
    """
    approval = state.approvals.get(request.approval_id)
    if approval is None or state.capsule is None:
        raise ApprovalRefused("unknown_approval", f"There is no approval `{request.approval_id}` in this run.")
    return approval


def verified(
    state: RunState, run_id: str, request: DecideSignal, now: int, catalog: Catalog
) -> tuple[Approval, ApprovalDecision]:
    """The approval that `request` is about and the decision it proves; changes nothing.

    Raises:
        ApprovalRefused: it doesn't count.
    """
    approval = known(state, request)
    assert state.capsule
    decision = approvals.verify_decision(
        request.decision_jws,
        request=approval.request,
        run_id=run_id,
        directory=state.directory,
        now=now,
        barred=frozenset({state.start.requester, state.capsule.agent.id}),
        rules=state.capsule.approval_rules,
    )
    if _name(decision) not in state.nonces:
        approvals.add_decision(approval, decision)
        if decision.decision == "edit":
            _check_edit(state, approval, decision, catalog)
    return approval, decision


def _check_edit(state: RunState, approval: Approval, decision: ApprovalDecision, catalog: Catalog) -> None:
    """Whether an edit can be judged at all: arguments that the tool takes, and other ones than before.

    Raises:
        ApprovalRefused: `invalid_edit`, `nothing_changed` or `too_many_edits`.
    """
    request = approval.request
    earlier = approval
    for _ in range(MAX_EDITS):
        if not earlier.request.edit_of:
            break
        earlier = state.approvals[earlier.request.edit_of]
    else:
        raise ApprovalRefused("too_many_edits", f"This action was edited {MAX_EDITS} times; approve or reject it.")
    try:
        parsed = catalog.get(request.tool.partition("@")[0]).parse(json.dumps(decision.arguments))
    except ToolRefusal as e:
        raise ApprovalRefused("invalid_edit", f"The edited arguments can't be used: {e.message}"[:1000]) from None
    except Exception as e:  # an app's validators may do anything, and an error here would stop the run for ever
        raise ApprovalRefused("invalid_edit", f"The edited arguments can't be used: {type(e).__name__}.") from None
    if parsed.model_dump(mode="json") == request.arguments:
        raise ApprovalRefused(
            "nothing_changed", "The edit changes nothing; approve or reject the action, or change an argument."
        )


def count_decision(state: RunState, run_id: str, request: DecideSignal, now: int, catalog: Catalog) -> Approval:
    """Count a decision; the same one sent twice (by a client that retried) changes nothing.

    Raises:
        ApprovalRefused: it doesn't count.
    """
    approval, decision = verified(state, run_id, request, now, catalog)
    if _name(decision) in state.nonces:
        return approval
    after = approvals.add_decision(approval, decision)
    state.counted(_name(decision))
    state.approvals[request.approval_id] = after
    return after


def _name(decision: ApprovalDecision) -> str:
    """What makes a decision the same one when it is sent again: its nonce, in its signer's mouth."""
    return f"{decision.sub} {decision.nonce}"
