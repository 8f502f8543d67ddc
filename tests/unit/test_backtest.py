"""Another policy on recorded actions: what it would have decided, against what was decided and what people said."""

import json
from pathlib import Path

import pytest

from activities.ledger.rows import DecisionRow, PersonSaid
from policies.bundle import Bundle
from policies.models import AutonomyMode, Decision
from remit.whatif.backtest import tallied
from remit.whatif.judging import COLUMNS, Against, Judge, Policy, Tally
from tests.backtestbench import looser, rows_by
from tests.builders import NOW, agent, bundle, refund
from tools.builtin import CATALOG


def trying(policy: str = "", name: str = "new") -> Policy:
    """A policy that is tried: `refunds_v7`, or another text in its place."""
    text = policy or bundle().policy
    new = bundle() if not policy else Bundle(name=name, policy=text, limits_toml=bundle().limits_toml)
    return Policy(bundle=new, schema_json=CATALOG.cedar_schema, tools=frozenset(CATALOG.specs))


LOOSER = bundle().policy.replace(">= 5000", ">= 20000")
STRICTER = bundle().policy.replace(">= 5000", ">= 1000")
NOTHING = '@id("reads") permit (principal, action in Remit::Action::"read", resource);'


def said(who: str, decision: str, reason: str = "") -> PersonSaid:
    edit = {"amount_cents": 100} if decision == "edit" else None
    return PersonSaid.model_validate({"by": who, "decision": decision, "reason": reason, "at": 2, "edit": edit})


def row(
    cents: int,
    decision: Decision | str,
    *people: PersonSaid,
    required: int = 0,
    outcome: str = "done",
    last: bool = True,
    mode: AutonomyMode = "live",
    **changes: object,
) -> tuple[object, ...]:
    """A recorded refund, as the backtest reads it."""
    found = DecisionRow.model_validate(
        {
            "key": "k",
            "run_id": "run-1",
            "workflow_id": "wf-1",
            "agent": "billing-resolution",
            "release": "sha256:1",
            "tool": "request_refund@1",
            "effect": "write",
            "risk": "high",
            "step": 1,
            "call_index": 0,
            "round": 0,
            "last": last,
            "at": 1,
            "policy_name": "refunds_v7",
            "policy_digest": bundle().digest,
            "decision": decision,
            "approvals_required": required,
            "mode": mode,
            "amount_cents": cents,
            "currency": "USD",
            "facts": refund(cents).model_dump_json(),
            "people": json.dumps([p.model_dump(mode="json") for p in people]),
            "outcome": outcome,
            **changes,
        }
    )
    return tuple(getattr(found, name) for name in COLUMNS)


def tally(policy: str, *rows: tuple[object, ...]) -> Tally:
    return Judge(trying(policy)).tally(rows)


def test_the_same_policy_changes_nothing() -> None:
    """Asked again about what it decided itself, with the same facts."""
    rows = [tuple(getattr(r, name) for name in COLUMNS) for r in rows_by(1, 0, 400, NOW * 1000)]
    found = Judge(trying()).tally(rows)
    assert (found.actions, found.judged, found.drifted) == (400, 400, 0)
    assert {was == now for was, now in found.changes} == {True}
    assert (found.saved, found.added, found.against) == (0, 0, [])


def test_what_people_rejected_and_it_would_let_through_is_named() -> None:
    """With the run, the action, who rejected it and why; what still needs a person isn't among it."""
    found = tally(
        LOOSER,
        row(12_000, "require_approval", said("bo@example.com", "reject", "Too late."), required=1, outcome="refused"),
        row(30_000, "require_approval", said("bo@example.com", "reject"), required=1, outcome="refused"),
    )
    assert found.rejected_allowed == 1
    [named] = found.against
    assert (named.what, named.run_id, named.resource, str(named.amount), named.by, named.reason) == (
        "rejected",
        "run-1",
        "Invoice:in_1001",
        "$120.00",
        "bo@example.com",
        "Too late.",
    )
    assert found.let_through == {"USD": 12_000}


def test_what_people_edited_counts_as_it_was_proposed() -> None:
    """The judgement that ended with an edit is looked at too; the one that replaced it is an action of its own."""
    found = tally(
        LOOSER,
        row(12_000, "require_approval", said("bo@example.com", "edit", "Too much."), required=1, last=False),
        row(30_000, "require_approval", said("ana@example.com", "approve"), required=1),
    )
    assert (found.judged, found.edited_allowed, found.rejected_allowed) == (2, 1, 0)
    assert [(a.what, a.by) for a in found.against] == [("edited", "bo@example.com")]


def test_a_judgement_that_was_made_anew_counts_once() -> None:
    """Sums rose before it was carried out: the later judgement counts, though people had approved the earlier one."""
    earlier = row(12_000, "require_approval", said("ana@example.com", "approve"), required=1, last=False)
    found = tally(LOOSER, earlier, row(12_000, "require_approval", required=1))
    assert (found.actions, found.judged, found.superseded) == (2, 1, 1)


def test_approvals_and_money_are_counted_both_ways() -> None:
    """Saved and added, put before people or not any more, by currency."""
    found = tally(LOOSER, row(12_000, "require_approval", said("ana@example.com", "approve"), required=1))
    assert (found.saved, found.added, found.unattended, found.let_through) == (1, 0, {"USD": 12_000}, {})
    found = tally(STRICTER, row(4_900, "allow"))
    assert (found.saved, found.added, found.now_asked) == (0, 1, {"USD": 4_900})


def test_newly_denied_and_newly_allowed_are_told_apart_from_what_people_decide() -> None:
    """With the policies that say so."""
    found = tally(NOTHING, row(4_900, "allow"), row(12_000, "require_approval", required=1, outcome="refused"))
    assert found.count(("allow", "require_approval"), "deny") == 2
    assert (found.newly_denied, found.held_back) == ({"no policy permits this": 2}, {"USD": 4_900})
    found = tally("", row(4_900, "deny", outcome="refused"), row(60_000, "deny", outcome="refused"))
    assert (found.newly_allowed, found.count(("deny",), "require_approval"), found.added) == ({"writes": 1}, 1, 2)


def test_the_mode_that_held_still_holds() -> None:
    """An agent that only drafted is asked for a person under the new policy too; one that only read is denied."""
    assert tally(LOOSER, row(4_900, "require_approval", required=1, mode="draft")).saved == 0
    assert tally(LOOSER, row(4_900, "deny", outcome="refused", mode="read_only")).changes == {("deny", "deny"): 1}


def test_what_only_needs_a_stronger_model_is_let_through_by_itself() -> None:
    """Nobody looks at it, so that a person's rejection of it must show."""
    strong = (
        LOOSER
        + '@id("s") @obligation("route:strong") forbid (principal, action, resource) unless {context.run.model_tier > 1};'
    )
    facts = refund(12_000, tier=1).model_dump_json()
    rejected = row(12_000, "require_approval", said("bo@example.com", "reject"), required=1, facts=facts, outcome="refused")
    assert tally(strong, rejected).rejected_allowed == 1


def test_what_was_refused_before_any_policy_is_not_asked_about() -> None:
    """By mode, subject binding or business rule: no policy changes that."""
    found = tally(LOOSER, row(12_000, "", reason="not_refundable", outcome="refused"))
    assert (found.not_asked, found.judged, found.changes) == (1, 0, {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tool": "send_fax@1"}, "there is no tool `send_fax` any more"),
        ({"facts": "{}"}, "its facts can't be read any more"),
        ({"people": '[{"by": 7}]'}, "what people decided can't be read any more"),
    ],
)
def test_what_cannot_be_judged_any_more_is_counted(changes: dict[str, object], reason: str) -> None:
    """Never dropped, and never taken for a denial."""
    recorded = dict(zip(COLUMNS, row(4_900, "allow"), strict=True)) | changes
    found = tally(LOOSER, tuple(recorded[name] for name in COLUMNS))
    assert (found.not_judged, found.judged, found.changes) == ({reason: 1}, 0, {})


def test_arguments_that_the_tool_does_not_take_any_more_are_not_judged() -> None:
    """The policy's schema is today's: what it can't hold would be denied, which says nothing of the policy."""
    facts = refund(4_900).model_copy(update={"arguments": {"invoice_id": 7, "amount_cents": 4_900}})
    found = tally(LOOSER, row(4_900, "allow", facts=facts.model_dump_json()))
    assert [reason.split(":")[0] for reason in found.not_judged] == ["`request_refund`"]


def test_a_verdict_of_this_very_policy_that_differs_shows() -> None:
    """The tools have changed since, or the record."""
    assert tally("", row(4_900, "require_approval", required=1)).drifted == 1
    assert tally(LOOSER, row(4_900, "require_approval", required=1)).drifted == 0


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    """In the same order, with the same sums; a sample of it is judged by itself."""
    rows = [tuple(getattr(r, name) for name in COLUMNS) for r in rows_by(2, 0, 600, NOW * 1000)]
    text = (looser(tmp_path) / "policy.cedar").read_text()
    policy, chunks = trying(text), [rows[n : n + 100] for n in range(0, 600, 100)]
    alone = tallied(policy, chunks, 600, processes=1)
    assert tallied(policy, chunks, 600, processes=2) == alone
    assert alone.rejected_allowed > 0 and isinstance(alone.against[0], Against)


def test_agents_that_a_bundle_is_not_for_are_named() -> None:
    """All that they did would be denied, for no policy speaks of them; of one that may read, that says something else."""
    stranger = refund(4_900, by=agent(role="support-triage")).model_dump_json()
    rows = [row(4_900, "allow", facts=stranger, agent="support-triage"), row(4_900, "allow")]
    assert tally(LOOSER, *rows).strangers == ["support-triage"]


def test_an_agent_is_judged_as_it_was() -> None:
    """Suspended then, and so denied by any policy that says so, whatever it is today."""
    facts = refund(4_900, by=agent(status="suspended")).model_dump_json()
    assert tally(LOOSER, row(4_900, "deny", facts=facts, outcome="refused")).changes == {("deny", "deny"): 1}
