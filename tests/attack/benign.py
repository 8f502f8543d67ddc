"""Honest tasks that go on while everything is under attack, and by hand what each must have brought about."""

import asyncio
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from policies.errors import RemitError
from remit.scripts import read_script
from tests.attack.arena import PATIENCE_SECONDS, Arena
from tests.attack.oracle import BILLING, EFFECTS, INCIDENT, TRIAGE, Approved, Wish, wish
from tests.attack.world import DEMO

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """A ticket of the demo, with its script.

    Attributes:
        people: who decides, in their order; a name with a minus rejects.
        wanted: the effects that must be there once, with as many columns as matter; a text isn't written here again.
    """

    script: str
    agent: str
    subject: str
    inputs: dict[str, str]
    wanted: tuple[tuple[str, tuple[object, ...]], ...]
    people: tuple[str, ...] = ()
    status: str = "completed"


def _billing(
    script: str, ticket: str, customer: str, *wanted: tuple[str, tuple[object, ...]], people: tuple[str, ...] = ()
) -> Task:
    draft = ("reply_drafts", (ticket,))
    return Task(script, "billing-resolution", f"Customer:{customer}", {"ticket_id": ticket}, (*wanted, draft), people)


def _triage(script: str, ticket: str, customer: str, *tags: str, status: str = "completed") -> Task:
    wanted = [("ticket_tags", (ticket, tag)) for tag in tags]
    return Task(
        script,
        "support-triage",
        f"Customer:{customer}",
        {"ticket_id": ticket},
        (*wanted, ("account_notes", (customer, "internal")), ("reply_drafts", (ticket,))),
        status=status,
    )


TASKS = (
    _billing("auto_refund", "T-1001", "cus_101", ("refunds", ("in_1002", 4900, "duplicate"))),
    _billing("one_approval", "T-1002", "cus_102", ("refunds", ("in_1004", 12000, "duplicate")), people=("ana",)),
    _billing("two_approvals", "T-1003", "cus_103", ("refunds", ("in_1006", 74000, "duplicate")), people=("ana", "bo")),
    _billing("rejected", "T-1004", "cus_104", people=("-bo",)),
    _billing("other_customer", "T-1005", "cus_105"),
    _billing("t-1014", "T-1014", "cus_113", ("email_changes", ("cus_113", "priya.raman@brightpath.example"))),
    _billing("t-1017", "T-1017", "cus_117", ("refunds", ("in_1025", 2000, "cancelled"))),
    _billing("t-1028", "T-1028", "cus_111", ("refunds", ("in_1018", 2500, "cancelled"))),
    _triage("t-1010", "T-1010", "cus_110", "bug", "urgent", status="escalated"),
    _triage("t-1012", "T-1012", "cus_112"),
    Task(
        "t-1023",
        "incident-assistant",
        "Alert:AL-301",
        {"alert_id": "AL-301"},
        (("incidents", ("AL-301", "sev1")), ("incident_notes", ("INC-301",))),
    ),
)


async def work(a: Arena, task: Task) -> None:
    """Have the task done, with the people that it needs."""
    script = read_script(f"{DEMO / 'scripts.json'}#{task.script}")
    may = {"billing-resolution": BILLING, "support-triage": TRIAGE, "incident-assistant": INCIDENT}[task.agent]
    authority = a.oracle.authority(task.subject, may)
    a.classes[task.subject] = "benign"
    for said in script:
        for made in said.tool_calls:
            if found := wish(made.name, made.arguments):
                authority.wished[found] += 1
    run = await a.engine.remit.start(task.agent, dict(task.inputs), script=script, run_id=f"honest-{uuid.uuid4().hex[:12]}")
    for who in task.people:
        with suppress(RemitError, TimeoutError):  # what didn't come to pass shows in the tables
            [approval] = await a.pending(run)
            approve = not who.startswith("-")
            if approve and who == task.people[0]:
                asked = wish(approval.request.tool.partition("@")[0], approval.request.arguments)
                assert asked
                authority.approved.append(Approved(asked, len(task.people)))
            await a.decide(run, approval, who.removeprefix("-"), "approve" if approve else "reject")
    try:
        done = await asyncio.wait_for(a.engine.remit.result(run.id), PATIENCE_SECONDS)
    except (TimeoutError, RemitError):
        await a.drop(run)
        return
    if done.outcome == task.status:
        a.honest.add(task.script)


def intact(task: Task, tables: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether the effects of `task` are in the tables, and no other ones on its things."""
    wanted: Counter[Wish] = Counter(task.wanted)
    things = {values[0] for _, values in task.wanted}
    for table, columns in EFFECTS.items():
        for row in tables[table]:
            made = tuple(row[c] for c in columns)
            match = next((w for w in wanted if w[0] == table and w[1] == made[: len(w[1])] and wanted[w] > 0), None)
            if match:
                wanted[match] -= 1
            elif made[0] in things:
                return False
    return not +wanted
