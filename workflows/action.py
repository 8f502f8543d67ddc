"""What a call of a run is, derived the same way when it is judged, minted for, and performed. Pure."""

from policies.approvals import Action
from policies.models import ActionFacts, ResourceFacts, RunFacts
from tools.spec import Arguments, ToolSpec
from workflows.keys import idempotency_key
from workflows.messages import Capsule

__all__ = ["action_of", "facts_of"]


def action_of(
    capsule: Capsule, spec: ToolSpec, arguments: Arguments, *, step: int, index: int, edited_by: tuple[str, ...] = ()
) -> Action:
    """What exactly is approved, minted for and performed."""
    values = arguments.model_dump(mode="json")
    return Action(
        run_id=capsule.run_id,
        agent=capsule.agent.id,
        subject=capsule.subject,
        tool=spec.id,
        resource=spec.resource(arguments),
        arguments=values,
        policy_digest=capsule.bundle.digest,
        idempotency_key=idempotency_key(capsule.workflow_id, step, index, spec.id, values),
        edited_by=edited_by,
    )


def facts_of(
    capsule: Capsule,
    spec: ToolSpec,
    arguments: Arguments,
    *,
    calls_used: int,
    approvals: int,
    model_tier: int,
    tainted: bool,
    subject_sum_cents: int,
    facts: ResourceFacts | None,
) -> ActionFacts:
    """All that the verdict on a call depends on."""
    return ActionFacts(
        agent=capsule.agent,
        tool=spec.name,
        resource=spec.resource(arguments),
        arguments=arguments.model_dump(mode="json", exclude_none=True),
        run=RunFacts(
            subject=capsule.subject,
            calls_used=calls_used,
            approvals=approvals,
            model_tier=model_tier,
            assurance=capsule.agent.assurance,
            tainted=tainted,
            subject_sum_cents=subject_sum_cents,
            delegated=capsule.delegation(spec.name) is not None,
        ),
        facts=facts,
    )
