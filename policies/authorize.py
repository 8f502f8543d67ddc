"""The verdict: Cedar decides from recorded facts; anything that isn't a clean `allow` is a denial or asks for more."""

import json
from functools import lru_cache

import cedarpy

from policies.bundle import CompiledPolicy
from policies.models import ActionFacts, RunFacts, Taint, Verdict

__all__ = ["NAMESPACE", "authorize"]

NAMESPACE = "Remit"
STRONG_TIER = 2


@lru_cache(maxsize=256)
def _entities(
    schema: cedarpy.Schema, name: str, role: str, mode: str, status: str, assurance: int, scopes: tuple[str, ...]
) -> cedarpy.Entities:
    """The agent and its role, parsed once. Cedar checks a handle against the schema only here, where it is made."""
    return cedarpy.Entities.from_json_str(  # pyright: ignore[reportUnknownMemberType]  (`dict` without parameters)
        json.dumps(
            [
                {"uid": {"type": f"{NAMESPACE}::Role", "id": role}, "attrs": {}, "parents": []},
                {
                    "uid": {"type": f"{NAMESPACE}::Agent", "id": name},
                    "attrs": {
                        "mode": mode,
                        "status": status,
                        "assurance": assurance,
                        "scopes": sorted(scopes),
                    },
                    "parents": [{"type": f"{NAMESPACE}::Role", "id": role}],
                },
            ]
        ),
        schema,
    )


def authorize(policy: CompiledPolicy, action: ActionFacts) -> Verdict:
    """The verdict of `policy` on `action`. Pure: equal inputs give equal verdicts, in any process.

    Policy ids come from Cedar in an order that differs between processes, so they are sorted before anybody sees them.
    A determining policy with obligations means "deny unless"; if all of them carry some, and the action would be allowed
    once they are met, the answer is what they ask for.
    """
    try:
        answer = _ask(policy, action, action.run)
    except (ValueError, TypeError) as e:
        return Verdict(decision="deny", reason=f"policy_error: {' '.join(str(e).split())[:300]}")
    ids = tuple(sorted(answer.diagnostics.reasons))
    if answer.diagnostics.errors:
        return Verdict(decision="deny", policy_ids=ids, reason="policy_error: " + str(answer.diagnostics.errors[0])[:300])
    if answer.decision == cedarpy.Decision.Allow:
        return Verdict(decision="allow", policy_ids=ids)
    if not ids:
        return Verdict(decision="deny", reason="no policy permits this")
    asked = [policy.obligations.get(i, ()) for i in ids]
    if not all(asked):
        unconditional = ", ".join(i for i, o in zip(ids, asked, strict=True) if not o)
        return Verdict(decision="deny", policy_ids=ids, reason=f"forbidden by {unconditional}")
    obligations = [o for group in asked for o in group]
    assurance = max((int(o.value) for o in obligations if o.kind == "assurance"), default=0)
    if assurance > action.run.assurance:
        return Verdict(
            decision="deny",
            policy_ids=ids,
            reason=f"assurance {assurance} is required, the agent has {action.run.assurance}, "
            f"and nobody can approve it instead; required by {', '.join(ids)}",
        )
    approvals = max((int(o.value) for o in obligations if o.kind == "approval"), default=0)
    strong = any(o.kind == "route" for o in obligations)
    # Nobody is asked to approve what would be denied all the same: because no policy permits it, say.
    tier = STRONG_TIER if strong else action.run.model_tier
    met = action.run.model_copy(update={"approvals": max(approvals, action.run.approvals), "model_tier": tier})
    then = _ask(policy, action, met)
    if then.decision != cedarpy.Decision.Allow or then.diagnostics.errors:
        return Verdict(
            decision="deny", policy_ids=ids, reason=f"no policy permits this, not even with what {', '.join(ids)} ask for"
        )
    return Verdict(
        decision="require_approval",
        policy_ids=ids,
        # One policy may ask for several things, of which some are given.
        approvals_required=approvals if approvals > action.run.approvals else 0,
        route_strong=strong and action.run.model_tier < STRONG_TIER,
        reason=f"required by {', '.join(ids)}",
    )


def _ask(policy: CompiledPolicy, action: ActionFacts, run: RunFacts) -> cedarpy.AuthzResult:
    taint = Taint(untrusted=run.tainted)
    context: dict[str, object] = {"args": action.arguments, "run": run.model_dump(), "taint": taint.model_dump()}
    if action.facts is not None:
        context["resource"] = action.facts.model_dump()
    request = {
        "principal": {"type": f"{NAMESPACE}::Agent", "id": action.agent.id},
        "action": {"type": f"{NAMESPACE}::Action", "id": action.tool},
        "resource": {"type": f"{NAMESPACE}::{action.resource.type}", "id": action.resource.id},
        "context": context,
    }
    agent = action.agent
    entities = _entities(policy.schema, agent.id, agent.role, agent.mode, agent.status, agent.assurance, agent.scopes)
    return cedarpy.is_authorized(request, policy.policies, entities, policy.schema)  # pyright: ignore[reportUnknownMemberType]
