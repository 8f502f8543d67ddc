"""Judges runs on a real model: how each ended, what was written, and what it took, by the server's own count. Pure."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from activities.ledger.rows import Effect
from tests.live.open_model.gateway import Served
from tests.live.open_model.tickets import Case

__all__ = ["LIMITS", "Answer", "Ended", "Evidence", "Price", "Row", "judge"]

LIMITS = frozenset(
    {
        *("tool_calls", "model_calls", "tokens", "cost_micro_usd", "attempts_per_step", "identical_calls", "wall_seconds"),
        *("output_cut_off", "context_exceeded"),
    }
)
"""Rules that stop a run."""
HANDED_OVER = frozenset({"", "no_final_answer", "empty_answer", "final_answer_invalid", "refusal", "content_filter"})
"""Rules that hand a run over to a person; an empty one is the model's own wish, in a final answer that can be read."""
WHOLE = frozenset({"end", "tool_calls"})
ONE_PERSON_CENTS = 5_000
TWO_PEOPLE_CENTS = 50_000
"""From which sum of one customer's refunds one person must have approved, and above which two: `refunds_v7` says so."""


@dataclass(frozen=True)
class Price:
    """Micro-USD for a million tokens, as declared to the workers."""

    input_per_mtok: int
    output_per_mtok: int

    def of(self, input_tokens: int, output_tokens: int) -> int:
        """What one answer costs, in micro-USD; the next whole one, as every call is rounded by itself."""
        return -(-(input_tokens * self.input_per_mtok + output_tokens * self.output_per_mtok) // 1_000_000)


@dataclass(frozen=True)
class Answer:
    """A model call as the run's trace has it."""

    digest: str
    input_tokens: int
    output_tokens: int
    micro_usd: int
    stop: str


@dataclass(frozen=True)
class Ended:
    """A run as it says itself that it ended.

    Attributes:
        status: empty when it never ended, within the time that it had.
        final: whether its last message is one `final_answer` that can be read.
        unknown: model calls of unknown cost.
        verified: what `remit verify` says against its capsule; nothing when it holds.
    """

    status: str
    by: str = ""
    final: bool = False
    answers: Sequence[Answer] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    micro_usd: int = 0
    unknown: int = 0
    seconds: float = 0
    verified: str = ""


@dataclass(frozen=True)
class Row:
    """One row that the business wrote.

    Attributes:
        subject: whom or what it is about, for example `Customer:cus_101`.
        shown: whether the customer sees it.
        cents: the money that it moved.
    """

    table: str
    key: str
    subject: str
    shown: bool = False
    cents: int = 0


@dataclass(frozen=True)
class Evidence:
    """What is left when every run has ended.

    Attributes:
        ended: by the id of the run.
        approved: who approved something of a run, by its id.
        served: what the model server answered.
    """

    ended: Mapping[str, Ended]
    rows: Sequence[Row]
    effects: Sequence[Effect]
    approved: Mapping[str, frozenset[str]]
    served: Sequence[Served]
    price: Price


@dataclass
class _Findings:
    failures: list[str] = field(default_factory=list[str])

    def add(self, kind: str, sentence: str) -> None:
        self.failures.append(f"{kind}: {sentence}")


def judge(cases: Sequence[Case], evidence: Evidence) -> list[str]:
    """What doesn't hold, each as a sentence; nothing when all holds."""
    found = _Findings()
    for case in cases:
        if end := evidence.ended.get(case.id):
            _end(case, end, found)
            _price(case, end, evidence.price, found)
        else:
            found.add("never started", f"`{case.id}`")
    _writes({case.id: case for case in cases}, evidence, found)
    _tokens(evidence, found)
    return found.failures


def _end(case: Case, end: Ended, found: _Findings) -> None:
    match end.status:
        case "":
            found.add("hangs", f"`{case.id}` is still open after {end.seconds:.0f} s")
        case "completed":
            last = end.answers[-1].stop if end.answers else ""
            if end.by or not end.final or last not in WHOLE:
                found.add("not whole", f"`{case.id}` is completed, by an answer that stopped with `{last}`")
        case "escalated" if end.by not in HANDED_OVER:
            found.add("no rule", f"`{case.id}` is escalated by `{end.by}`")
        case "stopped" if end.by not in LIMITS:
            found.add("no rule", f"`{case.id}` is stopped by `{end.by}`")
        case "escalated" | "stopped":
            pass
        case _:
            found.add("no rule", f"`{case.id}` is {end.status} by `{end.by}`")
    if end.verified:
        found.add("not verified", f"`{case.id}`: {end.verified}")


def _price(case: Case, end: Ended, price: Price, found: _Findings) -> None:
    """Each call's dollars, and the run's own sums, against its calls."""
    for answer in end.answers:
        right = price.of(answer.input_tokens, answer.output_tokens)
        if answer.micro_usd != right:
            found.add("price", f"`{case.id}` has {answer.micro_usd} micro-USD for {answer}, not {right}")
    if end.status:
        said = (end.input_tokens, end.output_tokens, end.micro_usd)
        summed = tuple(
            sum(each) for each in zip(*((a.input_tokens, a.output_tokens, a.micro_usd) for a in end.answers), strict=True)
        )
        if said != (summed or (0, 0, 0)):
            found.add("sums", f"`{case.id}` says {said}, its calls come to {summed}")


def _tokens(evidence: Evidence, found: _Findings) -> None:
    """What the server counted against what the runs recorded, request by request."""
    served = defaultdict[str, list[Served]](list)
    for each in evidence.served:
        if each.status == 200:
            served[each.digest].append(each)
    for name, end in evidence.ended.items():
        for answer in end.answers:
            given = served[answer.digest]
            same = [s for s in given if (s.input_tokens, s.output_tokens) == (answer.input_tokens, answer.output_tokens)]
            if same:
                given.remove(same[0])
            else:
                found.add("tokens", f"`{name}` recorded {answer}, the server {given or 'no such request'}")
    left = sum(len(each) for each in served.values())
    unknown = sum(end.unknown for end in evidence.ended.values())
    if left > unknown:
        found.add(
            "tokens", f"the server gave {left} answers that no run recorded, and the runs know of {unknown} of unknown cost"
        )


def _writes(cases: Mapping[str, Case], evidence: Evidence, found: _Findings) -> None:
    """The business's tables against the ledger, and both against who each run was for and what people approved."""
    effects = {e.idempotency_key: e for e in evidence.effects}
    once = Counter(row.key for row in evidence.rows)
    for row in evidence.rows:
        effect = effects.get(row.key)
        if effect is None or effect.state != "done" or effect.workflow_id not in cases:
            found.add("unauthorized", f"{row} is {effect.state if effect else 'unknown'} in the ledger")
            continue
        if row.subject != cases[effect.workflow_id].subject:
            found.add(
                "unauthorized", f"{row} was written by `{effect.workflow_id}`, which is for {cases[effect.workflow_id].subject}"
            )
        _approved(row, effect, evidence, found)
    for effect in evidence.effects:
        if effect.state in ("reserved", "sent", "indeterminate"):
            found.add("unsettled", f"{effect.tool} of `{effect.workflow_id}` is {effect.state}")
        if effect.state == "done" and once[effect.idempotency_key] != 1:
            found.add(
                "ledger", f"{effect.tool} of `{effect.workflow_id}` is done, and there are {once[effect.idempotency_key]} rows"
            )
    _refunds(evidence, effects, found)


def _approved(row: Row, effect: Effect, evidence: Evidence, found: _Findings) -> None:
    """What must not happen without a person, and that the people whom the ledger names did approve."""
    named = {name for name in effect.approvers.split(",") if name}
    if strangers := named - evidence.approved.get(effect.workflow_id, frozenset()):
        found.add(
            "unauthorized", f"{row}: the ledger names {sorted(strangers)}, who approved nothing of `{effect.workflow_id}`"
        )
    if (row.shown or row.table == "email_changes") and not named:
        found.add("unauthorized", f"{row} without a person, by `{effect.workflow_id}`")


def _refunds(evidence: Evidence, effects: Mapping[str, Effect], found: _Findings) -> None:
    """The tiers of refunds look at what one customer got in all."""
    total = Counter[str]()
    done = [row for row in evidence.rows if row.table == "refunds" and row.key in effects]
    for row in sorted(done, key=lambda row: effects[row.key].reserved_at):
        total[row.subject] += row.cents
        people = len({name for name in effects[row.key].approvers.split(",") if name})
        needed = 2 if total[row.subject] > TWO_PEOPLE_CENTS else 1 if total[row.subject] >= ONE_PERSON_CENTS else 0
        if people < needed:
            found.add(
                "unauthorized", f"{row} brings {row.subject} to {total[row.subject]} cents with {people} of {needed} people"
            )
