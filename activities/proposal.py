"""A write that a run proposes: what is checked before a capability is minted for it, and again beside the side effect."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from activities.capabilities import Capabilities
from activities.ledger.rows import Intent
from policies import approvals, autonomy
from policies.approvals import Action, ApprovalDecision, ApprovalRequest
from policies.authorize import authorize
from policies.bundle import compile_policy
from policies.errors import ApprovalRefused, ToolRefusal
from policies.identity import Directory
from policies.models import AutonomyMode, Money, ResourceFacts, Verdict
from policies.switches import scopes_of
from tools.catalog import Catalog
from tools.spec import Arguments, ToolSpec
from workflows.action import action_of, facts_of
from workflows.messages import Capsule, ExecuteTool, MintCapability, Minted, RecordedFacts

__all__ = ["ApprovalNeeded", "Proposal", "mint_write"]

CLOCKS_APART_SECONDS = 300
"""How far a worker's clock may be ahead of the Temporal server's."""


class ApprovalNeeded(Exception):
    """The sum that the verdict rests on has risen, or the agent was stepped down; people must approve first."""

    def __init__(self, subject_sum_cents: int, mode: AutonomyMode) -> None:
        self.subject_sum_cents = subject_sum_cents
        self.mode: AutonomyMode = mode


@dataclass(frozen=True)
class Proposal:
    """A write, derived again from the model's arguments and the run's capsule; what the caller says of it must agree."""

    capsule: Capsule
    call: ExecuteTool
    spec: ToolSpec
    arguments: Arguments
    action: Action

    @classmethod
    def of(cls, capsule: Capsule, call: ExecuteTool, catalog: Catalog, workflow_id: str, now: Directory) -> Self:
        """Args:
            workflow_id: of the caller, as the server says.
            now: the people as they are now, among whom one may have edited it who wasn't known at admission.

        Raises:
            ToolRefusal: it isn't a write that this run may propose.
        """
        if capsule.workflow_id != workflow_id or capsule.digest != call.capsule:
            raise ToolRefusal("other_run", "The call isn't of the run that it names.")
        spec = catalog.get(call.tool)
        pinned = next((t for t in capsule.tools if t.name == spec.name), None)
        if pinned is None or pinned.digest != spec.digest:
            raise ToolRefusal("not_granted", f"The run has no `{spec.name}` as it is on this worker.")
        arguments = spec.parse(call.arguments)
        edited_by = _editors(capsule, call, spec, arguments, capsule.directory.joined(now))
        action = action_of(capsule, spec, arguments, step=call.step, index=call.index, edited_by=edited_by)
        if spec.idempotency is None or action.idempotency_key != call.idempotency_key:
            raise ToolRefusal("action_changed", "The idempotency key isn't that of this action.")
        if approvals.action_digest(action) != call.action_digest:
            raise ToolRefusal("action_changed", "The action isn't the one that was authorized.")
        return cls(capsule, call, spec, arguments, action)

    @property
    def amount(self) -> Money | None:
        return self.spec.amount(self.arguments)

    @property
    def scopes(self) -> tuple[str, ...]:
        """All switches that would cover it."""
        capsule, spec = self.capsule, self.spec
        return scopes_of(capsule.run_id, capsule.agent.name, spec.name, spec.risk, capsule.subject)

    @property
    def intent(self) -> Intent:
        """What the ledger is asked to reserve."""
        assert self.spec.idempotency
        return Intent(
            idempotency_key=self.action.idempotency_key,
            run_id=self.action.run_id,
            workflow_id=self.capsule.workflow_id,
            agent=self.capsule.agent.name,
            tool=self.spec.id,
            resource=self.action.resource,
            subject=self.action.subject,
            amount=self.amount,
            action_digest=self.call.action_digest,
            approvers=self.call.approval.approvers if self.call.approval else (),
            strategy=self.spec.idempotency,
            capability=self.call.capability,
            risk=self.spec.risk,
            per_run=self.capsule.write_limits.per_run,
            per_agent_and_day=self.capsule.write_limits.per_agent_and_day,
        )

    def approved(self, directory: Directory) -> int:
        """G3: how many different people approved exactly this action, each signature and each person's standing verified again.

        Args:
            directory: the people as they are now.

        Raises:
            ToolRefusal: one of them doesn't count, or the approval has expired.
        """
        return _approved(self.capsule, self.call, directory)

    def judge(
        self, schema: str, facts: ResourceFacts, approved: int, subject_sum_cents: int, ceiling: AutonomyMode = "live"
    ) -> Verdict:
        """The mode, the subject binding, the business rules, then the pinned policy, which allows it.

        Args:
            ceiling: what the agent may do now at most, if that is less than when the run was admitted.

        Raises:
            ApprovalNeeded: more people must approve.
            ToolRefusal: it is denied.
        """
        mode = autonomy.lowest(self.capsule.agent.mode, ceiling)
        autonomy.check(mode, self.spec.effect)
        self.spec.bind(self.arguments, facts, self.capsule.subject)
        self.spec.check(self.arguments, facts)
        by_policy = authorize(
            compile_policy(self.capsule.bundle, schema),
            facts_of(
                self.capsule,
                self.spec,
                self.arguments,
                calls_used=self.call.calls_used,
                approvals=approved,
                model_tier=self.call.model_tier,
                tainted=self.call.tainted,
                subject_sum_cents=subject_sum_cents,
                facts=facts,
            ),
        )
        verdict = autonomy.under(mode, by_policy, self.spec.effect, approved)
        if verdict.decision == "require_approval" and verdict.approvals_required > approved:
            raise ApprovalNeeded(subject_sum_cents, mode)
        if verdict.decision != "allow":
            raise ToolRefusal("denied", f"Policy: {verdict.reason}.")
        return verdict


def mint_write(
    call: MintCapability, capabilities: Capabilities, catalog: Catalog, workflow_id: str, directory: Callable[[], Directory]
) -> Minted:
    """Mint a capability for one write, which is checked as it will be beside the side effect. Blocking.

    Raises:
        ApprovalNeeded: more people must approve.
        ToolRefusal: the run wasn't admitted so, or the write is refused.
    """
    capabilities.check_admitted(call.capsule, workflow_id)
    assert call.write
    recorded = call.recorded or RecordedFacts(facts=ResourceFacts())
    people = directory() if call.write.approval or call.write.edits else Directory()
    proposal = Proposal.of(call.capsule, call.write, catalog, workflow_id, people)
    approved = proposal.approved(people)
    proposal.judge(catalog.cedar_schema, recorded.facts, approved, recorded.subject_sum_cents)
    return capabilities.mint_write(call.capsule, proposal.action, proposal.amount)


def _approved(capsule: Capsule, call: ExecuteTool, directory: Directory) -> int:
    known = {p.sub for p in directory.people}
    if gone := {*approvals.editors(call.edits)} - known:
        raise ToolRefusal("editor_suspended", f"`{min(gone)}` edited this, and isn't in the directory any more.")
    approval = call.approval
    if approval is None:
        return 0
    if approval.request.action_digest != call.action_digest:
        raise ToolRefusal("action_changed", "The approval is for another action.")
    if time.time() >= approval.request.expires_at:
        raise ToolRefusal("approval_expired", "The approval expired before the action could start.")
    if gone := {d.sub for d in approval.decisions} - known:
        raise ToolRefusal("approver_suspended", f"`{min(gone)}` approved this, and isn't in the directory any more.")
    try:
        return approvals.quorum(
            approval.decisions,
            # The digest that was compared binds the editors.
            request=_pinned(capsule, approval.request, approvals.editors(call.edits)),
            run_id=capsule.run_id,
            directory=directory,
            barred=_barred(capsule),
            rules=capsule.approval_rules,
        )
    except ApprovalRefused as e:
        raise ToolRefusal(e.reason, e.message) from None


def _editors(
    capsule: Capsule, call: ExecuteTool, spec: ToolSpec, arguments: Arguments, directory: Directory
) -> tuple[str, ...]:
    """G3: who put `arguments` in the place of the model's, each edit verified again and bound to the one before."""
    edited_by: tuple[str, ...] = ()
    result: Arguments | None = None
    for edit in call.edits:
        before = spec.parse(json.dumps(edit.request.arguments))
        action = action_of(capsule, spec, before, step=call.step, index=call.index, edited_by=edited_by)
        if edit.edit is None or edit.request.action_digest != approvals.action_digest(action) or result not in (None, before):
            raise ToolRefusal("action_changed", "An edit is for another action.")
        proven = _verified(capsule, edit.edit, _pinned(capsule, edit.request, edited_by), directory)
        result = spec.parse(json.dumps(proven.arguments))
        edited_by = tuple(dict.fromkeys((*edited_by, proven.sub)))
    if result not in (None, arguments):
        raise ToolRefusal("action_changed", "The arguments aren't those of the edit.")
    return edited_by


def _pinned(capsule: Capsule, request: ApprovalRequest, edited_by: tuple[str, ...]) -> ApprovalRequest:
    """The request with its editors as they were proven, and its times only if the pinned limits give them."""
    open_for = request.expires_at - request.requested_at
    if request.requested_at < capsule.admitted_at - CLOCKS_APART_SECONDS or open_for != capsule.limits.approval_seconds:
        # Who claims to have asked earlier would have escalated earlier.
        raise ToolRefusal("action_changed", "The approval's times aren't those that this run's limits give.")
    return request.model_copy(update={"edited_by": edited_by})


def _barred(capsule: Capsule) -> frozenset[str]:
    return frozenset({capsule.requester, capsule.agent.id})


def _verified(capsule: Capsule, edit: ApprovalDecision, request: ApprovalRequest, directory: Directory) -> ApprovalDecision:
    try:
        proven = approvals.verify_decision(
            edit.decision_jws,
            request=request,
            run_id=capsule.run_id,
            directory=directory,
            now=edit.decided_at,
            barred=_barred(capsule),
            rules=capsule.approval_rules,
        )
    except ApprovalRefused as e:
        raise ToolRefusal(e.reason, e.message) from None
    if proven.decision != "edit":
        raise ToolRefusal("action_changed", "What is given as an edit isn't one.")
    return proven
