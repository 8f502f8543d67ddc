"""Values for unit tests: the real bundles and tools, and small builders of facts, capsules and approvals around them."""

from functools import lru_cache

from policies.approvals import ApprovalRequest
from policies.bundle import Bundle, CompiledPolicy, compile_policy
from policies.identity import Directory
from policies.models import ActionFacts, AgentIdentity, Money, ResourceFacts, ResourceRef, RunFacts, UsageLimits
from policies.routing import ModelChoice, Price, Route
from remit.settings import ROOT
from tools.builtin import CATALOG
from workflows.messages import Capsule, PinnedTool

__all__ = ["ANA", "NOW", "SUBJECT", "agent", "bundle", "capsule", "compiled", "refund", "request"]

ANA = "ana@example.com"
NOW = 1_760_000_000
SUBJECT = "Customer:cus_101"


def bundle(name: str = "refunds_v7") -> Bundle:
    """A bundle as it lies under `policies/bundles`."""
    folder = ROOT / "policies" / "bundles" / name
    return Bundle(name=name, policy=(folder / "policy.cedar").read_text(), limits_toml=(folder / "limits.toml").read_text())


@lru_cache
def compiled(name: str = "refunds_v7") -> CompiledPolicy:
    """That bundle, compiled against the tools that Remit ships."""
    return compile_policy(bundle(name), CATALOG.cedar_schema)


def agent(**changes: object) -> AgentIdentity:
    """The identity of `billing-resolution`, with `changes`."""
    identity = AgentIdentity(
        id="billing-resolution@service",
        name="billing-resolution",
        owner="Head of Support",
        role="billing-resolution",
        mode="live",
        assurance=2,
    )
    return AgentIdentity.model_validate({**identity.model_dump(), **changes})


def refund(
    amount: int = 4900,
    *,
    earlier: int = 0,
    approvals: int = 0,
    tier: int = 2,
    by: AgentIdentity | None = None,
    owner: str = SUBJECT,
    subject: str = SUBJECT,
) -> ActionFacts:
    """A refund of `amount` cents, after `earlier` cents in the last 24 hours."""
    return ActionFacts(
        agent=by or agent(),
        tool="request_refund",
        resource=ResourceRef(type="Invoice", id="in_1001"),
        arguments={"invoice_id": "in_1001", "amount_cents": amount, "currency": "USD", "reason": "duplicate"},
        run=RunFacts(
            subject=subject,
            calls_used=1,
            approvals=approvals,
            model_tier=tier,
            assurance=2,
            tainted=True,
            subject_sum_cents=earlier,
        ),
        facts=ResourceFacts(owner=owner, status="paid", available_cents=100_000, currency="USD"),
    )


def request(**changes: object) -> ApprovalRequest:
    """A request to approve a refund of $120, open for an hour from `NOW`."""
    given = ApprovalRequest(
        approval_id="ap-2-0",
        action_digest="sha256:" + "a" * 64,
        tool="request_refund@1",
        resource=ResourceRef(type="Invoice", id="in_1001"),
        arguments={"invoice_id": "in_1001", "amount_cents": 12_000, "currency": "USD", "reason": "duplicate"},
        amount=Money(cents=12_000, currency="USD"),
        required=1,
        roles=("refund-approver",),
        policy_ids=("refund-one-person",),
        requested_at=NOW,
        expires_at=NOW + 3600,
    )
    return ApprovalRequest.model_validate({**given.model_dump(), **changes})


def capsule(**changes: object) -> Capsule:
    """What an admitted run of `billing-resolution` is pinned to."""
    price = Price(input_per_mtok=250_000, output_per_mtok=2_000_000)
    given = Capsule(
        run_id="run-1",
        workflow_id="wf-1",
        agent=agent(),
        requester="sam@example.com",
        subject=SUBJECT,
        prompt="Be kind.",
        tools=tuple(PinnedTool(name=s.name, version=s.version, digest=s.digest) for s in CATALOG.specs.values()),
        catalog_digest=CATALOG.digest,
        bundle=bundle(),
        limits=UsageLimits(),
        approver_roles=("refund-approver",),
        route=Route(models=(ModelChoice(provider="scripted", model="scripted-small", price=price),)),
        corpus="support-kb-v1",
        directory=Directory(),
        release="sha256:" + "b" * 64,
        admitted_at=NOW,
    )
    return Capsule.model_validate({**given.model_dump(), **changes})
