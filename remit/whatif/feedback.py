"""`remit feedback export`: what people made of agents' actions, as an evaluation set. `docs/schemas` has its JSON Schema."""

import json
import secrets
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from activities.ledger.rows import DecisionRow, PersonSaid
from policies.errors import InvalidInput, NotFound
from policies.models import ActionFacts, AutonomyMode, Decision, Frozen, Risk
from policies.switches import subject_tag
from remit.periods import since_of
from remit.proof.redaction import Redactor
from remit.proof.rules import addresses_in
from remit.settings import Settings, load

__all__ = ["FORMAT", "Example", "examples", "feedback", "redacted"]

FORMAT = "remit.feedback/1"
_PEOPLE: TypeAdapter[tuple[PersonSaid, ...]] = TypeAdapter(tuple[PersonSaid, ...])

feedback = typer.Typer(no_args_is_help=True, help="What people made of agents' actions.")


class Example(Frozen):
    """An action that people decided on. Times in Unix milliseconds; redacted by rule, and the subject is a tag.

    Attributes:
        id: names the judgement for good, so that a set can be exported again and joined.
        proposed_by: `person` when the arguments are those that somebody put in the place of the agent's.
        arguments: as they were proposed; `edited`, all of those that somebody put in their place.
        facts: the rest of what the verdict rested on; never the agent's word.
        label: what the people's decisions came to, and `approved` only when there were enough of them.
        outcome: what became of the call in the end.
    """

    format: Literal["remit.feedback/1"] = FORMAT
    id: str
    at: int
    run_id: str
    agent: str
    release: str
    mode: AutonomyMode
    subject: str
    tool: str
    risk: Risk
    resource: str
    proposed_by: Literal["agent", "person"]
    arguments: dict[str, JsonValue]
    edited: dict[str, JsonValue] | None = None
    facts: dict[str, JsonValue]
    policy: str
    decision: Decision
    policy_ids: tuple[str, ...]
    approvals_required: int
    people: tuple[PersonSaid, ...] = Field(min_length=1)
    label: Literal["approved", "edited", "rejected", "undecided"]
    outcome: str


@feedback.callback()
def _group() -> None:
    """What people made of agents' actions."""


@feedback.command("export")
def export(
    since: Annotated[str, typer.Option(help="How far back: `30d`, `12h`, `4w`, or a UTC date.")] = "30d",
    agent: Annotated[str | None, typer.Option(help="Only actions of this agent.", show_default=False)] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write to this file instead of stdout.", metavar="FILE", show_default=False),
    ] = None,
) -> None:
    """Write approvals, edits and rejections with their reasons as JSON Lines, one example a line, redacted."""
    # All of them before anything is written: a set that can't be exported leaves no half of a file.
    lines = [f"{json.dumps(each, ensure_ascii=False)}\n" for each in _exported(load(), since, agent)]
    if out is None:
        sys.stdout.writelines(lines)
        return
    with out.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    print(f"{len(lines):,} examples written to {out}.", file=sys.stderr)


def _exported(settings: Settings, since: str, agent: str | None) -> Generator[object]:
    """The examples as JSON, redacted, and scanned once more.

    Raises:
        NotFound: people decided on nothing.
        InvalidInput: a rule still finds something.
    """
    from activities.ledger import decisions
    from activities.ledger.store import existing
    from remit.proof.keeping import redaction_rules

    # Marks say only within one set that two values were the same: the key is gone after it.
    redactor = Redactor(secrets.token_bytes(32), rules=redaction_rules(settings))
    after, found = int(since_of(since, time.time()) * 1000), False
    with existing(settings.ledger) as ledger, ledger.reading() as connection:
        chunks = decisions.stream(connection, after, agent)
        for example in examples(_row(row) for chunk in chunks for row in chunk):
            found = True
            yield redacted(example, redactor)
    if not found:
        raise NotFound(
            f"People decided on nothing{f' of `{agent}`' if agent else ''} since {since}, so there is nothing to export."
        )


def _row(values: Sequence[object]) -> DecisionRow:
    return DecisionRow.model_validate(dict(zip(DecisionRow.model_fields, values, strict=True)))


def redacted(example: Example, redactor: Redactor) -> object:
    """`example` as JSON without what the rules find.

    Raises:
        InvalidInput: they still find something.
    """
    # One of its own: what is let pass here mustn't be in the next example.
    mine = Redactor(redactor.key, frozenset(addresses_in([each.by for each in example.people])), redactor.rules)
    kept = mine.redact(example.model_dump(mode="json"))
    if hits := mine.scan(kept):
        first = hits[0]
        raise InvalidInput(f"Nothing is exported: the rule `{first.rule}` still finds something at `{first.path}`.")
    return kept


def examples(rows: Iterable[DecisionRow]) -> Generator[Example]:
    """An example for each of `rows` (oldest first) that people decided on."""
    edited: set[tuple[str, int, int]] = set()
    for row in rows:
        if row.people == "[]" or not row.decision:
            continue
        try:
            people, facts = _PEOPLE.validate_json(row.people), ActionFacts.model_validate_json(row.facts)
        except ValidationError:
            raise InvalidInput(f"A decision of run `{row.run_id}` is in a form that this version doesn't know.") from None
        call = (row.run_id, row.step, row.call_index)
        edit = next((said for said in people if said.decision == "edit"), None)
        yield Example(
            id=row.key,
            at=row.at,
            run_id=row.run_id,
            agent=row.agent,
            release=row.release,
            mode=row.mode,
            subject=subject_tag(facts.run.subject) if facts.run.subject else "",
            tool=row.tool,
            risk=row.risk,
            resource=str(facts.resource),
            proposed_by="person" if call in edited else "agent",
            arguments=cast("dict[str, JsonValue]", facts.arguments),
            edited=edit.edit if edit else None,
            facts=_tagged(facts),
            policy=f"{row.policy_name}@{row.policy_digest[:19]}",
            decision=row.decision,
            policy_ids=tuple(row.policy_ids.split(",")) if row.policy_ids else (),
            approvals_required=row.approvals_required,
            people=people,
            label=_label(people, row.approvals_required),
            outcome=row.outcome,
        )
        if edit:
            edited.add(call)


def _label(people: tuple[PersonSaid, ...], required: int) -> Literal["approved", "edited", "rejected", "undecided"]:
    said = [each.decision for each in people]
    if "reject" in said:
        return "rejected"
    if "edit" in said:
        return "edited"
    return "approved" if len({each.by for each in people}) >= required else "undecided"


def _tagged(facts: ActionFacts) -> dict[str, JsonValue]:
    """The facts but for the arguments, with a tag in the place of whom they are about."""

    def tag(subject: str) -> str:
        return subject_tag(subject) if subject else ""

    run = {**facts.run.model_dump(mode="json"), "subject": tag(facts.run.subject)}
    found: Mapping[str, JsonValue] = {"run": run, "resource": None}
    if facts.facts is None:
        return dict(found)
    return {**found, "resource": {**facts.facts.model_dump(mode="json"), "owner": tag(facts.facts.owner)}}
