"""A capsule as it is checked: its parts, parsed, and what couldn't be derived again of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from temporalio.client import WorkflowHistory

from policies.approvals import Action
from policies.identity import Directory
from policies.models import Money, ResourceRef
from remit.proof.capsule import CapsuleFile, ToolCard
from remit.proof.lines import DroppedLine, Judgement, ModelLine, RunLine, ToolLine, TraceLine
from remit.proof.reading import Done, activities, fields
from workflows.keys import idempotency_key
from workflows.messages import Capsule

__all__ = ["Case", "DoesNotHold", "held", "named"]


class DoesNotHold(Exception):
    """The first thing that isn't as the capsule says, in one sentence."""


def held(holds: object, sentence: str) -> None:
    """Raises:
    DoesNotHold: with `sentence`, unless it holds.
    """
    if not holds:
        raise DoesNotHold(sentence)


def named(line: ToolLine) -> str:
    """How a sentence calls a tool call."""
    return f"line {line.seq} (`{line.tool}`)"


@dataclass
class Case:
    """A capsule whose seal holds.

    Attributes:
        people: those who could decide, at admission and since.
        run: the first of `lines`.
        exceptions: what can't be derived again, and why; each once.
        deciders: fingerprints of the keys whose decisions were verified, by person.
    """

    file: CapsuleFile
    histories: Sequence[WorkflowHistory]
    pinned: Capsule
    people: Directory
    run: RunLine
    lines: Sequence[TraceLine]
    exceptions: list[str] = field(default_factory=list[str])
    deciders: dict[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def cards(self) -> dict[str, ToolCard]:
        return {card.name: card for card in self.file.contents.tools}

    @cached_property
    def models(self) -> list[ModelLine]:
        return [line for line in self.lines if isinstance(line, ModelLine)]

    @cached_property
    def tools(self) -> list[ToolLine]:
        return [line for line in self.lines if isinstance(line, ToolLine)]

    @cached_property
    def writes(self) -> list[ToolLine]:
        """Calls that write, and whose arguments parsed."""
        return [line for line in self.tools if line.effect == "write" and line.validation == "valid"]

    @cached_property
    def done(self) -> list[tuple[int, Done]]:
        """The activities that gave a result, each with the number of its history."""
        return [(number, done) for number, history in enumerate(self.histories) for done in activities(history)]

    @cached_property
    def pins_redacted(self) -> bool:
        """Whether something was redacted in what the run was pinned to: its digests can't be derived any more."""
        return self.pinned.digest != self.run.capsule and bool(self.file.contents.redaction.events)

    @cached_property
    def steering_redacted(self) -> bool:
        """Whether something was redacted that the workflow's code goes by, so that a replay may go another way.

        What tools told the model doesn't steer it, nor what the run was started with and what it returned, nor what vendors
        gave beside their answers.
        """
        told = {
            (n, done.ended)
            for n, done in self.done
            if done.name in ("read_tool", "execute_tool", "give_up") or (done.name == "call_model" and _words_kept(done.result))
        }
        ends = {
            (n, event.event_id) for n, history in enumerate(self.histories) for event in (history.events[0], history.events[-1])
        }
        return not {*self.file.contents.redaction.events} <= told | ends

    def redacted(self, line: TraceLine) -> bool:
        return self.pins_redacted or line.seq in self.file.contents.redaction.lines

    def excuse(self, what: str) -> None:
        """Remember what can't be derived again."""
        if what not in self.exceptions:
            self.exceptions.append(what)

    def judgements(self, line: ToolLine) -> list[Judgement]:
        """All judgements of a call, oldest first."""
        if line.facts is None or line.mode is None:
            return list(line.earlier)
        last = Judgement(at=line.at, arguments=line.arguments, mode=line.mode, facts=line.facts, verdict=line.verdict)
        return [*line.earlier, last]

    def dropped(self, line: DroppedLine) -> list[tuple[str, Judgement]]:
        """The judgements of a turn that didn't count, each with its tool."""
        return [(call.tool, call.judgement) for call in line.calls if call.judgement]

    def resource(self, tool: str, arguments: Mapping[str, object]) -> ResourceRef | None:
        """What a call is about, as the tool's card says; None when that isn't in the file."""
        card = self.cards.get(tool)
        if card is None:
            return None
        kind, name = cast("list[str]", card.card["resource"])
        return ResourceRef(type=kind, id=str(arguments.get(name)) if name else kind.lower())

    def moves(self, tool: str, arguments: Mapping[str, object], amount: Money | None) -> bool:
        """Whether a call with these arguments moves `amount`; true of a tool whose card isn't in the file."""
        card = self.cards.get(tool)
        if card is None:
            return True
        names = cast("list[str]", card.card["amount"])
        said = {"cents": amount.cents, "currency": amount.currency} if amount else None
        return said == (dict(zip(("cents", "currency"), (arguments.get(n) for n in names), strict=True)) if names else None)

    def action(self, line: ToolLine, arguments: Mapping[str, object], edited_by: tuple[str, ...]) -> Action:
        """What exactly a write with these arguments is."""
        tool = f"{line.tool}@{line.version}"
        resource = self.resource(line.tool, arguments) or line.resource
        held(resource, f"What {named(line)} is about isn't said.")
        assert resource
        return Action(
            run_id=self.pinned.run_id,
            agent=self.pinned.agent.id,
            subject=self.pinned.subject,
            tool=tool,
            resource=resource,
            arguments={**arguments},
            policy_digest=self.pinned.bundle.digest,
            idempotency_key=idempotency_key(self.pinned.workflow_id, line.step, line.index, tool, arguments),
            edited_by=edited_by,
        )


def _words_kept(result: object) -> bool:
    """Whether nothing was redacted in what a model said and called."""
    message = fields(fields(result).get("message"))
    return "[redacted:" not in json.dumps([message.get("text"), message.get("tool_calls")])
