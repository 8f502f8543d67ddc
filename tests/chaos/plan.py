"""What will be done and what will break, made up from a seed: runs, what each must bring about, people, blows. Pure."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from tests.engine import call, final, turn
from tools.connectors.sandbox import Fault, Operation
from workflows.messages import ScriptTurn

__all__ = ["LONG", "SHORT", "SMALL", "Blow", "Decision", "Form", "Identity", "Job", "Plan", "make"]

Identity = tuple[str, ...]
"""What makes an effect this one and no other: its table, then what it was asked for."""

ANA, BO, CLEO = "ana@example.com", "bo@example.com", "cleo@example.com"
NOBODYS = ("sam@example.com", "dana@example.com")
"""People who may decide on none of this; they try."""
STAFF = "sam@example.com"


@dataclass(frozen=True)
class Form:
    """How much of everything there is.

    Attributes:
        seconds: how long blows fall.
        workers: processes that work at the same time.
        patience: seconds in which everything must have closed once the last blow has fallen.
    """

    name: str
    runs: int
    seconds: float
    workers: int
    kills: int
    server_restarts: int
    database_restarts: int
    freezes: int
    floods: int
    patience: float


SMALL = Form("small", 14, 12, 2, 4, 1, 1, 0, 2, patience=120)
SHORT = Form("short", 50, 32, 3, 12, 2, 2, 2, 6, patience=120)
LONG = Form("long", 480, 780, 3, 206, 22, 12, 20, 60, patience=300)


@dataclass(frozen=True)
class Decision:
    """What somebody will decide, and whether they send it as a signal or as an update."""

    who: str
    verb: Literal["approve", "reject"]
    by: Literal["signal", "update"]


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        starts: seconds from the beginning.
        expected: effects that it must bring about, each exactly once.
        allowed: effects that it may bring about, each at most once.
        unsure: its vendor can't be asked in time, so it may end `escalated` and leave what is expected to a person.
        killed: `parked`: somebody kills it when it waits for approval. `busy`: they do so this early after its start.
        fault: what befalls one write of it at the vendor's.
    """

    id: str
    agent: str
    inputs: dict[str, str]
    script: tuple[ScriptTurn, ...]
    starts: float = 0
    expected: tuple[Identity, ...] = ()
    allowed: tuple[Identity, ...] = ()
    decisions: tuple[Decision, ...] = ()
    unsure: bool = False
    killed: Literal["", "parked", "busy"] = ""
    kill_after: float = 0
    fault: tuple[Operation, str, Fault] | None = None


@dataclass(frozen=True)
class Blow:
    """One thing that breaks.

    Attributes:
        at: seconds from the beginning.
        target: of a `kill` or a `freeze`, the worker's place.
        seconds: of a `freeze`, `server` or `database`, how long it lasts.
        hard: the server or the database is killed, not stopped.
    """

    at: float
    kind: Literal["kill", "freeze", "server", "database", "flood"]
    target: int = 0
    seconds: float = 0
    hard: bool = False


@dataclass(frozen=True)
class Plan:
    """All of it.

    Attributes:
        doors: seconds from the beginning after which people decide; until then the inbox fills.
    """

    seed: int
    form: Form
    doors: float
    jobs: tuple[Job, ...]
    blows: tuple[Blow, ...]
    business: dict[str, list[dict[str, object]]] = field(repr=False)


def make(form: Form, seed: int) -> Plan:
    """The plan of `seed`: equal for equal seeds."""
    rng = random.Random(f"{form.name}-{seed}")
    kinds = [kind for kind, weight in KINDS for _ in range(weight)]
    # Each kind at least once, then by weight.
    chosen = [kind for kind, _ in KINDS][: form.runs]
    chosen += [rng.choice(kinds) for _ in range(form.runs - len(chosen))]
    rng.shuffle(chosen)
    jobs = [replace(kind(i, rng), kill_after=rng.uniform(0.1, 2.5)) for i, kind in enumerate(chosen)]
    # What needs people starts early, so that the inbox is full when they come.
    jobs = [replace(job, starts=form.seconds * rng.uniform(0, 0.3 if job.decisions else 0.75)) for job in jobs]
    befallen = [i for i, job in enumerate(jobs) if job.agent in _OPERATIONS]
    for i in rng.sample(befallen, min(len(befallen), form.runs // 5)):
        jobs[i] = replace(jobs[i], fault=(*_OPERATIONS[jobs[i].agent](jobs[i]), rng.choice(FAULTS)))
    return Plan(
        seed=seed,
        form=form,
        doors=form.seconds * 0.35,
        jobs=tuple(sorted(jobs, key=lambda j: j.starts)),
        blows=tuple(sorted(_blows(form, rng), key=lambda b: b.at)),
        business=_business(form.runs),
    )


def _blows(form: Form, rng: random.Random) -> Iterable[Blow]:
    def spread(count: int) -> Iterable[float]:
        # One in each stretch of equal length: at random, and never all at once.
        stretch = form.seconds / max(1, count)
        return (stretch * (i + rng.uniform(0.1, 0.9)) for i in range(count))

    yield from (Blow(at, "kill", rng.randrange(form.workers)) for at in spread(form.kills))
    yield from (Blow(at, "server", seconds=rng.uniform(0.2, 3), hard=rng.random() < 0.5) for at in spread(form.server_restarts))
    yield from (
        Blow(at, "database", seconds=rng.uniform(1, 10), hard=rng.random() < 0.5) for at in spread(form.database_restarts)
    )
    # The heartbeats of a write are 5 s apart at most.
    yield from (Blow(at, "freeze", rng.randrange(form.workers), rng.uniform(6, 9)) for at in spread(form.freezes))
    yield from (Blow(at, "flood", rng.randrange(form.runs)) for at in spread(form.floods))


# ---- runs -----------------------------------------------------------------------------------------------------------


def _by(rng: random.Random) -> Literal["signal", "update"]:
    return rng.choice(("signal", "update"))


def _approved(rng: random.Random, *people: str) -> tuple[Decision, ...]:
    return tuple(Decision(who, "approve", _by(rng)) for who in rng.sample(people, len(people)))


def _refund(i: int, cents: int) -> tuple[tuple[ScriptTurn, ...], Identity, Identity]:
    """The script of a refund, and the two effects of it."""
    ticket, text = f"T-{i}", f"Refunded {cents} cents of in_{i}."
    script = (
        turn(call("get_ticket", ticket_id=ticket)),
        turn(call("list_invoices", customer_id=f"cus_{i}"), call("search_kb", query="duplicate charge")),
        turn(call("request_refund", invoice_id=f"in_{i}", amount_cents=cents, reason="duplicate")),
        turn(call("draft_reply", ticket_id=ticket, text=text)),
        final(),
    )
    return script, ("refunds", f"in_{i}", str(cents)), ("reply_drafts", ticket, text)


def _billing(i: int, cents: int, decisions: tuple[Decision, ...] = ()) -> Job:
    script, refund, draft = _refund(i, cents)
    return Job(
        f"refund-{i}", "billing-resolution", {"ticket_id": f"T-{i}"}, script, expected=(refund, draft), decisions=decisions
    )


def _small(i: int, rng: random.Random) -> Job:
    return _billing(i, 4900)


def _one(i: int, rng: random.Random) -> Job:
    return _billing(i, 12000, _approved(rng, rng.choice((ANA, BO))))


def _two(i: int, rng: random.Random) -> Job:
    return _billing(i, 74000, _approved(rng, ANA, BO))


def _rejected(i: int, rng: random.Random) -> Job:
    script, _, draft = _refund(i, 12000)
    decisions = (Decision(rng.choice((ANA, BO)), "reject", _by(rng)),)
    return Job(f"rejected-{i}", "billing-resolution", {"ticket_id": f"T-{i}"}, script, expected=(draft,), decisions=decisions)


def _foreign(i: int, rng: random.Random) -> Job:
    """A refund of somebody else's invoice, which nobody may bring about; a draft of one's own."""
    script, _, _ = _refund(i, 4900)
    text = "This isn't your invoice."
    own = turn(call("draft_reply", ticket_id=f"T-{i}", text=text))
    other = turn(call("request_refund", invoice_id=f"in_{i + 1 if i == 0 else i - 1}", amount_cents=4800, reason="goodwill"))
    return Job(
        f"foreign-{i}",
        "billing-resolution",
        {"ticket_id": f"T-{i}"},
        (script[0], other, own, final()),
        expected=(("reply_drafts", f"T-{i}", text),),
    )


def _triage(i: int, rng: random.Random) -> Job:
    ticket, note, text = f"T-{i}", f"Looked at {i}.", f"We are on it, {i}."
    script = (
        turn(call("get_ticket", ticket_id=ticket)),
        turn(
            call("tag_ticket", ticket_id=ticket, tag="bug"),
            call("add_account_note", customer_id=f"cus_{i}", visibility="internal", text=note),
            call("draft_reply", ticket_id=ticket, text=text),
        ),
        final(),
    )
    effects = (("ticket_tags", ticket, "bug"), ("account_notes", f"cus_{i}", note, "internal"), ("reply_drafts", ticket, text))
    return Job(f"triage-{i}", "support-triage", {"ticket_id": ticket}, script, expected=effects)


def _visible(i: int, rng: random.Random) -> Job:
    text = f"Dear customer {i}."
    script = (turn(call("add_account_note", customer_id=f"cus_{i}", visibility="customer", text=text)), final())
    return Job(
        f"visible-{i}",
        "support-triage",
        {"ticket_id": f"T-{i}"},
        script,
        expected=(("account_notes", f"cus_{i}", text, "customer"),),
        decisions=_approved(rng, rng.choice((ANA, CLEO))),
    )


def _incident(i: int, rng: random.Random) -> Job:
    alert, title, text = f"AL-{i}", f"Alert {i}", f"Looking at {i}."
    script = (
        turn(call("get_alert", alert_id=alert)),
        turn(call("open_incident", alert_id=alert, severity="sev2", title=title)),
        turn(call("add_incident_note", incident_id=f"INC-{i}", text=text)),
        final(),
    )
    return Job(
        f"incident-{i}",
        "incident-assistant",
        {"alert_id": alert},
        script,
        expected=(("incidents", alert, title), ("incident_notes", f"INC-{i}", text)),
    )


def _parcel(tool: str, *, unsure: bool) -> Callable[[int, random.Random], Job]:
    def made(i: int, rng: random.Random) -> Job:
        order = f"O-{i}"
        script = (turn(call(tool, order_id=order)), final())
        return Job(f"{tool}-{i}", "courier", {"order_id": order}, script, expected=(("parcels", order),), unsure=unsure)

    return made


def _killed_parked(i: int, rng: random.Random) -> Job:
    """Killed while it waits, and approved afterwards: too late."""
    script, _, _ = _refund(i, 12000)
    decisions = _approved(rng, rng.choice((ANA, BO)))
    return Job(
        f"killed-parked-{i}", "billing-resolution", {"ticket_id": f"T-{i}"}, script, decisions=decisions, killed="parked"
    )


def _killed_busy(i: int, rng: random.Random) -> Job:
    """Killed somewhere in its work: each of its writes may have happened by then, or not."""
    job = _triage(i, rng)
    return Job(f"killed-busy-{i}", job.agent, job.inputs, job.script, allowed=job.expected, killed="busy")


KINDS: tuple[tuple[Callable[[int, random.Random], Job], int], ...] = (
    (_small, 3),
    (_one, 4),
    (_two, 3),
    (_rejected, 1),
    (_foreign, 1),
    (_triage, 4),
    (_visible, 2),
    (_incident, 3),
    (_parcel("ship_by_key", unsure=False), 2),
    (_parcel("ship_by_search", unsure=False), 2),
    (_parcel("ship_by_slow_search", unsure=True), 1),
    (_parcel("ship_blindly", unsure=True), 1),
    (_killed_parked, 1),
    (_killed_busy, 2),
)

FAULTS: tuple[Fault, ...] = ("crash_after_commit", "error_after_commit", "slow", "slow")
"""What befalls one run in five at the vendor's: the worker dies at the worst moment, the answer is lost, it takes a second."""
_OPERATIONS: dict[str, Callable[[Job], tuple[Operation, str]]] = {
    "billing-resolution": lambda j: ("refund", f"in_{j.id.rpartition('-')[2]}"),
    "support-triage": lambda j: ("draft_reply", j.inputs["ticket_id"]),
    "incident-assistant": lambda j: ("open", j.inputs["alert_id"]),
}


def _business(runs: int) -> dict[str, list[dict[str, object]]]:
    """A customer with a ticket, an invoice and an alert for each run, so that no two have a sum in common."""
    return {
        "customers": [
            {"customer_id": f"cus_{i}", "name": f"Customer {i}", "email": f"c{i}@example.com", "plan": "Team"}
            for i in range(runs)
        ],
        "invoices": [
            {
                "invoice_id": f"in_{i}",
                "customer_id": f"cus_{i}",
                "description": "Plan",
                "status": "paid",
                "amount_cents": 100_000,
                "refunded_cents": 0,
                "currency": "USD",
                "issued_on": "2026-11-01",
            }
            for i in range(runs)
        ],
        "tickets": [
            {"ticket_id": f"T-{i}", "customer_id": f"cus_{i}", "subject": "Help", "body": "Something is wrong.", "tags": []}
            for i in range(runs)
        ],
        "alerts": [
            {"alert_id": f"AL-{i}", "service": "boards", "title": "Errors", "details": "5xx", "status": "firing"}
            for i in range(runs)
        ],
    }
