"""Verdicts of the bundles that Remit ships, over the tools that it ships."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.library import Library
from policies.authorize import authorize
from policies.bundle import Bundle, compile_policy
from policies.models import ActionFacts, Decision, Idempotency, ResourceFacts, ResourceRef, Risk, RunFacts, Verdict
from remit.settings import ROOT
from tests.builders import SUBJECT, agent, bundle, compiled, refund
from tools.builtin import CATALOG
from tools.catalog import Catalog
from tools.spec import Arguments, Result, ToolContext, ToolSpec, spec_of, tool

BUNDLES = ("incidents_v1", "refunds_v7", "support_v1")
REFUNDS = compiled("refunds_v7")
CENTS = st.integers(0, 120_000) | st.sampled_from([4999, 5000, 5001, 49_999, 50_000, 50_001])


@dataclass(frozen=True)
class Tier:
    amount: int
    earlier: int
    approvals: int
    decision: Decision
    required: int = 0


TIERS = (
    Tier(4999, 0, 0, "allow"),
    Tier(5000, 0, 0, "require_approval", 1),
    Tier(50_000, 0, 0, "require_approval", 1),
    Tier(50_001, 0, 0, "require_approval", 2),
    Tier(5000, 0, 1, "allow"),
    Tier(50_000, 0, 1, "allow"),
    Tier(50_001, 0, 1, "require_approval", 2),
    Tier(50_001, 0, 2, "allow"),
    Tier(4900, 99, 0, "allow"),
    Tier(4900, 100, 0, "require_approval", 1),
    Tier(1, 4999, 0, "require_approval", 1),
    Tier(4900, 45_100, 1, "allow"),
    Tier(4900, 45_101, 1, "require_approval", 2),
    Tier(1, 50_000, 2, "allow"),
)


def note(visibility: str, approvals: int = 0) -> ActionFacts:
    triage = agent(role="support-triage")
    asked = refund(by=triage, approvals=approvals)
    return asked.model_copy(
        update={
            "tool": "add_account_note",
            "resource": ResourceRef(type="Customer", id="cus_101"),
            "arguments": {"customer_id": "cus_101", "visibility": visibility, "text": "hello"},
        }
    )


def incident() -> ActionFacts:
    asked = refund(by=agent(role="incident-assistant"), owner="Alert:AL-301", subject="Alert:AL-301")
    return asked.model_copy(
        update={
            "tool": "open_incident",
            "resource": ResourceRef(type="Alert", id="AL-301"),
            "arguments": {"alert_id": "AL-301", "severity": "sev2", "title": "x"},
        }
    )


WRITES = {"incidents_v1": incident(), "refunds_v7": refund(), "support_v1": note("internal")}
"""A write of the automatic tier under each bundle."""


def read(**changes: object) -> ActionFacts:
    return refund(by=agent(**changes)).model_copy(
        update={
            "tool": "get_invoice",
            "resource": ResourceRef(type="Invoice", id="in_1001"),
            "arguments": {"invoice_id": "in_1001"},
            "facts": None,
        }
    )


@pytest.mark.parametrize("tier", TIERS, ids=str)
def test_a_refund_falls_into_its_tier(tier: Tier) -> None:
    """The amount and what the customer got in the last 24 hours, together, decide how many people must approve."""
    verdict = authorize(REFUNDS, refund(tier.amount, earlier=tier.earlier, approvals=tier.approvals))
    assert (verdict.decision, verdict.approvals_required) == (tier.decision, tier.required)


def oracle(total: int, approvals: int, tier: int) -> tuple[str, int, bool]:
    """The refund rules in words of their own."""
    people = 2 if total > 50_000 else 1 if total >= 5000 else 0
    strong = total >= 5000 and tier == 1
    if approvals >= people and not strong:
        return "allow", 0, False
    return "require_approval", people if approvals < people else 0, strong


@given(amount=CENTS, earlier=CENTS, approvals=st.integers(0, 3), tier=st.sampled_from([1, 2]))
def test_the_verdict_on_a_refund_is_what_the_rules_say(amount: int, earlier: int, approvals: int, tier: int) -> None:
    """For every amount, sum, number of approvals and model tier, Cedar agrees with an independent reading of the rules."""
    verdict = authorize(REFUNDS, refund(amount, earlier=earlier, approvals=approvals, tier=tier))
    expected = oracle(amount + earlier, approvals, tier)
    assert (verdict.decision, verdict.approvals_required, verdict.route_strong) == expected


@given(amount=st.integers(0, 2**63), earlier=st.integers(0, 2**63), tier=st.integers(1, 2))
def test_no_sum_of_fifty_dollars_passes_without_a_human(amount: int, earlier: int, tier: int) -> None:
    """From $50 on, nothing is allowed with no approvals, not even where the sum overflows."""
    verdict = authorize(REFUNDS, refund(max(amount, 5000 - earlier), earlier=earlier, tier=tier))
    assert verdict.decision != "allow"


def test_a_refund_that_people_see_is_decided_by_the_strong_model() -> None:
    """From $50 on, a proposal of the cheap model asks for the strong one, together with the approval."""
    verdict = authorize(REFUNDS, refund(5000, tier=1))
    assert (verdict.decision, verdict.approvals_required, verdict.route_strong) == ("require_approval", 1, True)


def test_the_cheap_model_may_refund_small_amounts() -> None:
    """Below $50 the model's tier doesn't matter."""
    assert authorize(REFUNDS, refund(4999, tier=1)).decision == "allow"


def test_a_read_only_agent_writes_nothing() -> None:
    """No number of approvals lets an agent write while it is in `read_only` mode."""
    verdict = authorize(REFUNDS, refund(by=agent(mode="read_only"), approvals=3))
    assert (verdict.decision, verdict.policy_ids) == ("deny", ("read-only-mode",))
    assert verdict.reason == "forbidden by read-only-mode"


def test_a_read_only_agent_reads() -> None:
    """`read_only` stops writes and nothing else."""
    assert authorize(REFUNDS, read(mode="read_only")).decision == "allow"


@pytest.mark.parametrize(("approvals", "decision"), [(0, "require_approval"), (1, "allow")])
def test_a_draft_agent_writes_with_one_approval(approvals: int, decision: Decision) -> None:
    """In `draft` mode a person approves each write, however small."""
    assert authorize(REFUNDS, refund(100, by=agent(mode="draft"), approvals=approvals)).decision == decision


@pytest.mark.parametrize(
    "action", [refund(by=agent(status="suspended"), approvals=3), read(status="suspended")], ids=["write", "read"]
)
def test_a_suspended_agent_does_nothing(action: ActionFacts) -> None:
    """Suspension stops reads and writes, whatever was approved."""
    verdict = authorize(REFUNDS, action)
    assert (verdict.decision, verdict.policy_ids) == ("deny", ("agent-suspended",))


def test_an_unconditional_denial_asks_nobody() -> None:
    """Where one policy forbids without a way out, the approvals that others ask for aren't asked for."""
    verdict = authorize(REFUNDS, refund(60_000, by=agent(status="suspended")))
    assert (verdict.decision, verdict.approvals_required, verdict.route_strong) == ("deny", 0, False)
    assert verdict.reason == "forbidden by agent-suspended"


@pytest.mark.parametrize("owner", ["Customer:cus_102", "customer:cus_101", f"{SUBJECT} ", ""])
def test_another_customers_invoice_is_denied(owner: str) -> None:
    """What belongs to somebody other than the run's subject isn't refunded, even if people approved."""
    verdict = authorize(REFUNDS, refund(owner=owner, approvals=2))
    assert (verdict.decision, verdict.policy_ids) == ("deny", ("other-subject",))


@given(amount=CENTS, approvals=st.integers(0, 3), tier=st.sampled_from([1, 2]))
@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("role", ["support-triage", "incident-assistant", "nobody"])
def test_no_other_role_can_refund(bundle: str, role: str, amount: int, approvals: int, tier: int) -> None:
    """Under no bundle does another role refund anything, and nobody is asked to approve what would be denied anyway."""
    verdict = authorize(compiled(bundle), refund(amount, by=agent(role=role), approvals=approvals, tier=tier))
    assert verdict.decision == "deny"


@pytest.mark.parametrize("bundle", ["incidents_v1", "support_v1"])
def test_the_billing_role_has_no_rights_under_other_bundles(bundle: str) -> None:
    """A role's rights come from its own bundle."""
    verdict = authorize(compiled(bundle), refund(100, approvals=1))
    assert verdict == Verdict(decision="deny", reason="no policy permits this")


@pytest.mark.parametrize(
    ("visibility", "approvals", "decision"),
    [("internal", 0, "allow"), ("customer", 0, "require_approval"), ("customer", 1, "allow")],
)
def test_a_note_that_the_customer_reads_is_approved_first(visibility: str, approvals: int, decision: Decision) -> None:
    """Notes for staff pass; one that the customer can read waits for a person."""
    assert authorize(compiled("support_v1"), note(visibility, approvals)).decision == decision


@dataclass(frozen=True)
class Unusable:
    name: str
    change: dict[str, object]
    reason: str


UNUSABLE = (
    Unusable("unknown tool", {"tool": "mute_alert"}, 'action `Remit::Action::"mute_alert"` does not exist'),
    Unusable("group as a tool", {"tool": "write"}, "policy_error"),
    Unusable("no facts", {"facts": None}, "to have an attribute `resource`"),
    Unusable("no arguments", {"arguments": {}}, "to have an attribute `amount_cents`"),
    Unusable("unknown resource", {"resource": ResourceRef(type="Vault", id="v")}, "`Remit::Vault` is not declared"),
    Unusable("wrong resource", {"resource": ResourceRef(type="Ticket", id="T-1")}, "`Remit::Ticket` is not valid"),
    Unusable("float", {"arguments": {**refund().arguments, "amount_cents": 49.0}}, "policy_error"),
    Unusable("null", {"arguments": {**refund().arguments, "reason": None}}, "null"),
    Unusable("text for a number", {"arguments": {**refund().arguments, "amount_cents": "4900"}}, "policy_error"),
    Unusable("extra argument", {"arguments": {**refund().arguments, "force": True}}, "`force`"),
)


@pytest.mark.parametrize("case", UNUSABLE, ids=lambda c: c.name)
def test_a_question_that_cedar_cant_take_is_denied(case: Unusable) -> None:
    """What doesn't fit the schema is a denial that says so, never an allow and never an exception."""
    verdict = authorize(REFUNDS, refund(approvals=2).model_copy(update=case.change))
    assert verdict.decision == "deny"
    assert verdict.reason.startswith("policy_error: ")
    assert case.reason in verdict.reason


def test_an_error_while_evaluating_is_a_denial() -> None:
    """Cedar skips a `forbid` that fails; a sum that overflows must not open the door that way."""
    verdict = authorize(REFUNDS, refund(4900, earlier=2**63 - 1, approvals=2))
    assert verdict.decision == "deny"
    assert verdict.reason.startswith("policy_error: error while evaluating policy `refund-")
    assert "integer overflow" in verdict.reason


def test_policy_ids_are_sorted() -> None:
    """Cedar's own order differs from answer to answer; ours doesn't."""
    action = refund(60_000, tier=1, by=agent(mode="draft"))
    seen = {authorize(REFUNDS, action).policy_ids for _ in range(50)}
    assert seen == {("draft-mode", "refund-one-person", "refund-strong-model", "refund-two-people", "untrusted-refund")}


@given(st.text(max_size=80))
def test_no_resource_id_changes_the_verdict(text: str) -> None:
    """A resource id is data: quotes, newlines and Cedar syntax in it change nothing."""
    action = refund(5000).model_copy(update={"resource": ResourceRef(type="Invoice", id=text)})
    assert authorize(REFUNDS, action) == authorize(REFUNDS, refund(5000))


@given(
    subject=st.text(min_size=1, max_size=40),
    calls=st.integers(0, 1000),
    assurance=st.integers(0, 3),
    tainted=st.booleans(),
)
def test_facts_that_no_rule_names_change_nothing(subject: str, calls: int, assurance: int, tainted: bool) -> None:
    """With the owner being the subject, calls used, assurance and taint leave a small refund allowed."""
    run = RunFacts(
        subject=subject,
        calls_used=calls,
        approvals=0,
        model_tier=1,
        assurance=assurance,
        tainted=tainted,
        subject_sum_cents=0,
    )
    assert authorize(REFUNDS, refund(owner=subject).model_copy(update={"run": run})).decision == "allow"


# ---- text from outside ----------------------------------------------------------------------------------------------


def told(action: ActionFacts, **changes: object) -> ActionFacts:
    """The action, with other facts of its run."""
    return action.model_copy(update={"run": action.run.model_copy(update=changes)})


@given(amount=CENTS, earlier=CENTS, approvals=st.integers(0, 2), tier=st.sampled_from([1, 2]), assurance=st.integers(0, 3))
def test_what_untrusted_text_led_to_needs_a_person_a_strong_model_and_assurance(
    amount: int, earlier: int, approvals: int, tier: int, assurance: int
) -> None:
    """Above the automatic tier; below it, taint changes nothing."""
    action = refund(amount, earlier=earlier, approvals=approvals, tier=tier)
    verdict = authorize(REFUNDS, told(action, tainted=True, assurance=assurance))
    if amount + earlier < 5000:
        assert verdict.decision == "allow"
    elif assurance < 2:
        assert verdict.decision == "deny"
    else:
        assert (verdict.decision == "allow") == (approvals >= (2 if amount + earlier > 50_000 else 1) and tier == 2)


def test_assurance_that_is_missing_cannot_be_approved() -> None:
    """Nobody is asked: the denial names what is missing and which policy wants it."""
    verdict = authorize(REFUNDS, told(refund(12_000, approvals=2), tainted=True, assurance=1))
    assert (verdict.decision, verdict.approvals_required, verdict.policy_ids) == ("deny", 0, ("untrusted-refund",))
    assert verdict.reason == (
        "assurance 2 is required, the agent has 1, and nobody can approve it instead; required by untrusted-refund"
    )


def test_without_untrusted_text_the_amount_decides() -> None:
    """An agent of low assurance may still ask people, where it has read nothing from outside."""
    verdict = authorize(REFUNDS, told(refund(12_000), tainted=False, assurance=1))
    assert (verdict.decision, verdict.approvals_required) == ("require_approval", 1)


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("tainted", [True, False])
def test_a_run_for_nobody_writes_nothing_after_untrusted_text(name: str, tainted: bool) -> None:
    """There is no subject to bind it to."""
    action = told(WRITES[name], subject="", tainted=tainted)
    verdict = authorize(compiled(name), action)
    expected = ("deny", ("untrusted-unbound",)) if tainted else ("allow", ("writes",))
    assert (verdict.decision, verdict.policy_ids) == expected


def test_a_visible_note_that_untrusted_text_led_to_needs_the_strong_model() -> None:
    """What a customer can read, written after reading a ticket: a person, the strong model, and assurance."""
    verdict = authorize(compiled("support_v1"), told(note("customer"), model_tier=1, tainted=True))
    assert (verdict.approvals_required, verdict.route_strong) == (1, True)
    plain = authorize(compiled("support_v1"), told(note("customer"), model_tier=1, tainted=False))
    assert (plain.approvals_required, plain.route_strong) == (1, False)


def test_a_policy_sees_the_taint() -> None:
    """`context.taint.untrusted` says what `context.run.tainted` says."""
    text = '@id("all") permit (principal, action, resource);' + "".join(
        f'@id("{n}") forbid (principal, action, resource) when {{ {condition} }};'
        for n, condition in (("new", "context.taint.untrusted"), ("old", "context.run.tainted"))
    )
    policy = compile_policy(Bundle(name="b", policy=text, limits_toml=""), CATALOG.cedar_schema)
    assert authorize(policy, told(read(), tainted=True)).policy_ids == ("new", "old")
    assert authorize(policy, told(read(), tainted=False)).decision == "allow"


# ---- risk -----------------------------------------------------------------------------------------------------------


class Account(Arguments):
    customer_id: str


class Changed(Result):
    pass


async def owner(args: Account, context: ToolContext) -> ResourceFacts:
    return ResourceFacts(owner=f"Customer:{args.customer_id}")


def account_tool(name: str, risk: Risk) -> ToolSpec:
    """A tool of an app that changes permissions or deletes."""

    async def run(args: Account, context: ToolContext) -> Changed:
        return Changed()

    run.__name__, run.__doc__ = name, "Change an account."
    once: Idempotency = "native_key"
    tool(effect="write", risk=risk, scope="x", resource=("Customer", "customer_id"), facts=owner, idempotency=once)(run)
    spec = spec_of(run)
    assert spec
    return spec


WITH_ACCOUNTS = CATALOG + Catalog(
    [account_tool("rename_user", "medium"), account_tool("grant_access", "high"), account_tool("close_account", "critical")]
)
RISKS = {"rename_user": 0, "grant_access": 1, "close_account": 2}


@given(
    approvals=st.integers(0, 3),
    tier=st.sampled_from([1, 2]),
    assurance=st.integers(1, 3),
    tainted=st.booleans(),
    name=st.sampled_from(sorted(RISKS)),
)
@pytest.mark.parametrize("shipped", BUNDLES)
def test_permission_changes_and_deletes_have_tiers_by_risk(
    shipped: str, approvals: int, tier: int, assurance: int, tainted: bool, name: str
) -> None:
    """Under every bundle that ships, `high` needs one person and `critical` two; after untrusted text, the strong model
    and assurance too."""
    permits = '@id("accounts") permit (principal, action in Remit::Action::"write", resource);'
    text = bundle(shipped).policy + permits
    policy = compile_policy(Bundle(name=shipped, policy=text, limits_toml=""), WITH_ACCOUNTS.cedar_schema)
    action = refund().model_copy(
        update={
            "tool": name,
            "resource": ResourceRef(type="Customer", id="cus_101"),
            "arguments": {"customer_id": "cus_101"},
        }
    )
    verdict = authorize(policy, told(action, approvals=approvals, model_tier=tier, assurance=assurance, tainted=tainted))
    people = RISKS[name]
    careful = tainted and people > 0
    if careful and assurance < 2:
        assert verdict.decision == "deny"
    elif approvals >= people and not (careful and tier < 2):
        assert verdict.decision == "allow"
    else:
        assert verdict.decision == "require_approval"
        assert verdict.approvals_required == (people if approvals < people else 0)
        assert verdict.route_strong == (careful and tier < 2)


GIVEN: dict[str, dict[str, object]] = {
    "read_more": {"ref": "sha256:" + "0" * 64, "offset": 0},
    "add_account_note": {"customer_id": "cus_101", "visibility": "internal", "text": "x"},
    "add_incident_note": {"incident_id": "INC-1", "text": "x"},
    "draft_reply": {"ticket_id": "T-1001", "text": "x"},
    "get_alert": {"alert_id": "AL-301"},
    "get_customer": {"customer_id": "cus_101"},
    "get_invoice": {"invoice_id": "in_1001"},
    "get_ticket": {"ticket_id": "T-1001"},
    "list_invoices": {"customer_id": "cus_101"},
    "open_incident": {"alert_id": "AL-301", "severity": "sev2", "title": "x"},
    "request_refund": {"invoice_id": "in_1001", "amount_cents": 4900, "reason": "goodwill"},
    "search_kb": {"query": "refund"},
    "set_customer_email": {"customer_id": "cus_101", "email": "a@example.com"},
    "tag_ticket": {"ticket_id": "T-1001", "tag": "bug"},
}
LIBRARY = Library([ROOT], CATALOG)


@pytest.mark.parametrize("name", LIBRARY.names())
@pytest.mark.parametrize("tool", sorted(CATALOG.specs))
def test_an_agent_may_do_what_it_was_given(name: str, tool: str) -> None:
    """Under its own bundle an agent's role may read everything, and write with exactly the tools that it was given."""
    file, spec = LIBRARY.agent(name), CATALOG.get(tool)
    arguments = spec.parse(json.dumps(GIVEN[tool]))
    action = refund(by=file.identity).model_copy(
        update={
            "tool": tool,
            "resource": spec.resource(arguments),
            "arguments": arguments.model_dump(mode="json", exclude_none=True),
            "facts": refund().facts if spec.effect == "write" else None,
        }
    )
    expected = "allow" if spec.effect == "read" or tool in file.tools else "deny"
    assert authorize(compiled(file.policy), action).decision == expected
