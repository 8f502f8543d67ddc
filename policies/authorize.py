"""The verdict: Cedar decides from recorded facts; anything that isn't a clean `allow` is a denial or asks for more."""

import json
from functools import lru_cache

import cedarpy

from policies.bundle import CompiledPolicy
from policies.models import ActionFacts, AgentIdentity, Verdict

__all__ = ["NAMESPACE", "authorize"]

NAMESPACE = "Remit"


@lru_cache(maxsize=256)
def _entities(agent: AgentIdentity) -> str:
    return json.dumps(
        [
            {"uid": {"type": f"{NAMESPACE}::Role", "id": agent.role}, "attrs": {}, "parents": []},
            {
                "uid": {"type": f"{NAMESPACE}::Agent", "id": agent.id},
                "attrs": {
                    "mode": agent.mode,
                    "status": agent.status,
                    "assurance": agent.assurance,
                    "scopes": sorted(agent.scopes),
                },
                "parents": [{"type": f"{NAMESPACE}::Role", "id": agent.role}],
            },
        ]
    )


def authorize(policy: CompiledPolicy, action: ActionFacts) -> Verdict:
    """The verdict of `policy` on `action`. Pure: equal inputs give equal verdicts, in any process.

    Policy ids come from Cedar in an order that differs between processes, so they are sorted before anybody sees them.
    A determining policy with obligations means "deny unless"; if all of them carry some, the answer is what they ask for.
    """
    context: dict[str, object] = {"args": action.arguments, "run": action.run.model_dump()}
    if action.facts is not None:
        context["resource"] = action.facts.model_dump()
    request = {
        "principal": {"type": f"{NAMESPACE}::Agent", "id": action.agent.id},
        "action": {"type": f"{NAMESPACE}::Action", "id": action.tool},
        "resource": {"type": f"{NAMESPACE}::{action.resource.type}", "id": action.resource.id},
        "context": context,
    }
    try:
        answer = cedarpy.is_authorized(request, policy.policies, _entities(action.agent), policy.schema)
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
    return Verdict(
        decision="require_approval",
        policy_ids=ids,
        approvals_required=max((int(o.value) for o in obligations if o.kind == "approval"), default=0),
        route_strong=any(o.kind == "route" for o in obligations),
        reason=f"required by {', '.join(ids)}",
    )
