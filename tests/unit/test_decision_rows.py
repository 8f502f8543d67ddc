"""The ledger's rows of real runs: one for each judgement, with its facts and what people said, and what is exported of them."""

import json
from pathlib import Path

import jsonschema
import pytest

from activities.ledger.rows import DecisionRow, PersonSaid
from policies.errors import InvalidInput
from policies.models import ActionFacts
from policies.switches import subject_tag
from remit.proof.redaction import Redactor
from remit.settings import ROOT
from remit.whatif.feedback import Example, examples, redacted
from remit.whatif.judging import COLUMNS, Judge, Policy
from tests.builders import bundle
from tests.histories import rows
from tools.builtin import CATALOG

DEMO = ("auto_refund", "one_approval", "two_approvals", "rejected", "other_customer", "prompt_injection", "edited", "drafted")


def said(row: DecisionRow) -> list[tuple[str, str, str]]:
    return [(p.by, p.decision, p.reason) for p in map(PersonSaid.model_validate, json.loads(row.people))]


async def test_a_rejected_action_has_its_verdict_and_who_rejected_it() -> None:
    """The turn that the cheap model decided doesn't count; the strong model's is the last, and ends the call."""
    first, last = [r for r in await rows("rejected") if r.tool == "request_refund@1"]
    assert (first.round, first.last, first.outcome, said(first)) == (0, False, "not_carried_out", [])
    assert (last.round, last.last, last.decision, last.approvals_required) == (1, True, "require_approval", 1)
    assert (last.reason, last.outcome, last.amount_cents, last.currency) == ("rejected", "refused", 21_000, "USD")
    assert said(last) == [("bo@example.com", "reject", "An annual plan is refunded within 30 days only.")]
    assert ActionFacts.model_validate_json(last.facts).arguments["amount_cents"] == 21_000


async def test_an_edited_action_has_a_row_for_each_of_its_forms() -> None:
    """Each with its own arguments, amount and people; the last is what was carried out."""
    _, proposed, edited = await rows("edited")
    assert (proposed.amount_cents, [who for who, _, _ in said(proposed)], proposed.last) == (74_000, ["bo@example.com"], False)
    assert json.loads(proposed.people)[0]["edit"]["amount_cents"] == 30_000
    assert (edited.amount_cents, said(edited), edited.last) == (30_000, [("ana@example.com", "approve", "")], True)
    assert len({r.key for r in (proposed, edited)}) == 2


async def test_what_a_rule_refused_has_no_verdict() -> None:
    """Only the code of the rule: no policy was asked, so none can be asked again."""
    refused = [r for r in await rows("prompt_injection") if r.tool == "request_refund@1"]
    assert [(r.decision, r.reason, r.policy_ids) for r in refused] == [("", "not_subject", ""), ("", "not_refundable", "")]


async def test_the_same_run_gives_the_same_rows() -> None:
    """So that a keeper that was cut off may make them again."""
    assert [r.key for r in await rows("drafted")] == [r.key for r in await rows("drafted")]
    assert [(r.mode, r.outcome) for r in await rows("drafted")] == [("draft", "done"), ("draft", "refused")]


async def test_every_verdict_of_the_demo_is_given_again() -> None:
    """By the policy that gave it, from the recorded facts alone."""
    same = Policy(bundle=bundle(), schema_json=CATALOG.cedar_schema, tools=frozenset(CATALOG.specs))
    found = Judge(same).tally(tuple(getattr(r, name) for name in COLUMNS) for r in await rows(*DEMO))
    assert (found.drifted, found.not_judged, found.against) == (0, {}, [])
    assert found.judged > 30
    assert {was for was, _ in found.changes} == {now for _, now in found.changes}


async def test_an_example_says_what_was_proposed_and_what_people_made_of_it() -> None:
    """With whose proposal it was; the people stay, the subject is a tag."""
    found = list(examples(await rows("edited", "rejected")))
    assert [(e.label, e.proposed_by, e.arguments["amount_cents"], e.people[0].by) for e in found] == [
        ("edited", "agent", 74_000, "bo@example.com"),
        ("approved", "person", 30_000, "ana@example.com"),
        ("rejected", "agent", 21_000, "bo@example.com"),
    ]
    assert found[0].edited is not None and found[0].edited["amount_cents"] == 30_000
    assert found[2].subject == subject_tag("Customer:cus_104")
    assert "cus_104" not in found[2].model_dump_json()


async def test_an_example_that_too_few_approved_is_undecided() -> None:
    """One of two people, and then the run ended."""
    [row] = [r for r in await rows("one_approval") if r.people != "[]"]
    [found] = examples([row.model_copy(update={"approvals_required": 2})])
    assert found.label == "undecided"


async def test_examples_are_redacted_and_of_the_schema_that_is_shipped() -> None:
    """Nobody's address or card is in them, but for the people's who decided."""
    [row] = [r for r in await rows("one_approval") if r.people != "[]"]
    facts = ActionFacts.model_validate_json(row.facts)
    told = {**facts.arguments, "note": "maren@holt.example paid with 4242 4242 4242 4242"}
    leaky = row.model_copy(update={"facts": facts.model_copy(update={"arguments": told}).model_dump_json()})
    [example] = examples([leaky])
    kept = redacted(example, Redactor(b"key"))
    text = json.dumps(kept)
    assert "maren" not in text and "4242" not in text and "ana@example.com" in text
    schema = json.loads((ROOT / "docs" / "schemas" / "feedback-1.schema.json").read_text())
    jsonschema.validate(kept, schema)
    Example.model_validate(kept)


async def test_who_decided_on_one_action_is_redacted_in_another() -> None:
    """An address that stays in one example, for its owner decided there, doesn't stay where they are a customer."""
    [row] = [r for r in await rows("one_approval") if r.people != "[]"]
    facts = ActionFacts.model_validate_json(row.facts)
    told = facts.model_copy(update={"arguments": {**facts.arguments, "note": "Ask ana@example.com."}})
    bo = row.people.replace("ana@example.com", "bo@example.com")
    other = row.model_copy(update={"people": bo, "facts": told.model_dump_json()})
    redactor = Redactor(b"key")
    first, second = (json.dumps(redacted(each, redactor)) for each in examples([row, other]))
    assert "ana@example.com" in first and "ana@example.com" not in second


def test_the_schema_is_that_of_the_code() -> None:
    """`python -m tests.unit.test_decision_rows` writes it anew."""
    assert json.loads(SCHEMA.read_text()) == schema_of()


async def test_a_row_that_this_version_cannot_read_is_one_sentence() -> None:
    """Nothing is left out in silence."""
    [row] = [r for r in await rows("one_approval") if r.people != "[]"]
    with pytest.raises(InvalidInput, match="is in a form that this version doesn't know"):
        list(examples([row.model_copy(update={"facts": "{}"})]))


SCHEMA = Path(ROOT / "docs" / "schemas" / "feedback-1.schema.json")


def schema_of() -> object:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "One line of `remit feedback export`"}
    return head | {k: v for k, v in Example.model_json_schema(mode="serialization").items() if k != "title"}


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(schema_of(), indent=2) + "\n")
