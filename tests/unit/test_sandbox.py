"""The sandbox behaves like a vendor: writes once per key, refuses nonsense in the transaction, and fails on demand."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from policies.errors import InvalidInput, NotFound, ToolRefusal
from tools.connectors.sandbox import TABLES, Sandbox, arm, create, rows

BUSINESS: dict[str, object] = {
    "customers": [
        {"customer_id": "cus_1", "name": "Ann", "email": "ann@example.com", "plan": "team"},
        {"customer_id": "cus_2", "name": "Bo", "email": "bo@example.com", "plan": "free"},
    ],
    "invoices": [
        {
            "invoice_id": invoice_id,
            "customer_id": "cus_1",
            "description": "Team plan",
            "status": status,
            "amount_cents": 10_000,
            "refunded_cents": 0,
            "currency": "USD",
            "issued_on": issued_on,
        }
        for invoice_id, status, issued_on in (("in_1", "paid", "2025-10-01"), ("in_2", "open", "2025-11-01"))
    ],
    "tickets": [{"ticket_id": "T-1", "customer_id": "cus_1", "subject": "Hi", "body": "…", "tags": ["bug"]}],
    "alerts": [
        {"alert_id": "AL-1", "service": "api", "title": "5xx", "details": "7 %", "status": "firing"},
        {"alert_id": "AL-2", "service": "api", "title": "5xx", "details": "0 %", "status": "resolved"},
    ],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "business.sqlite"
    create(file, BUSINESS)
    return file


@pytest.fixture
def sandbox(path: Path) -> Sandbox:
    return Sandbox(path)


async def test_reads_what_was_loaded(sandbox: Sandbox) -> None:
    """Customers, invoices (newest first), tickets and alerts come back as they were loaded, and unknown ones as None."""
    customer = await sandbox.customer("cus_1")
    assert customer is not None and customer.email == "ann@example.com"
    assert [i.invoice_id for i in await sandbox.invoices("cus_1")] == ["in_2", "in_1"]
    ticket = await sandbox.ticket("T-1")
    assert ticket is not None and ticket.tags == ("bug",)
    alert = await sandbox.alert("AL-1")
    assert alert is not None and alert.status == "firing"
    for read in (sandbox.customer, sandbox.invoice, sandbox.ticket, sandbox.alert, sandbox.incident):
        assert await read("x") is None


async def test_creating_again_changes_nothing(path: Path) -> None:
    """A second `create` on a file that holds a business keeps what happened in it."""
    await Sandbox(path).refund("in_1", 100, "goodwill", idempotency_key="k")
    again = Sandbox.create(path, BUSINESS)
    invoice = await again.invoice("in_1")
    assert invoice is not None and invoice.refunded_cents == 100
    assert len(rows(path, "customers")) == 2


def test_concurrent_creates_make_one_business(tmp_path: Path) -> None:
    """Processes that start together find one business, not two and not an error."""
    file = tmp_path / "business.sqlite"
    threads = [threading.Thread(target=create, args=(file, BUSINESS)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(file, "invoices")) == 2


async def test_the_same_key_gives_the_same_refund_under_concurrency(path: Path) -> None:
    """Forty concurrent refunds under one key, from several sandboxes, are one refund and move the money once."""
    sandboxes = [Sandbox(path) for _ in range(4)]
    refunds = await asyncio.gather(
        *(sandboxes[n % 4].refund("in_1", 3000, "duplicate", idempotency_key="same") for n in range(40))
    )
    assert len(set(refunds)) == 1
    (row,) = rows(path, "refunds")
    assert (row["invoice_id"], row["customer_id"], row["amount_cents"], row["currency"]) == ("in_1", "cus_1", 3000, "USD")
    assert rows(path, "invoices")[0]["refunded_cents"] == 3000


async def test_concurrent_refunds_never_exceed_the_invoice(path: Path, sandbox: Sandbox) -> None:
    """Of twenty concurrent $30 refunds under different keys on a $100 invoice, three happen and the rest are refused."""
    answers = await asyncio.gather(
        *(sandbox.refund("in_1", 3000, "goodwill", idempotency_key=f"k{n}") for n in range(20)), return_exceptions=True
    )
    refused = [a for a in answers if isinstance(a, ToolRefusal)]
    assert [a.reason for a in refused] == ["not_refundable"] * 17
    assert sum(int(r["amount_cents"]) for r in rows(path, "refunds")) == 9000
    assert len({r["refund_id"] for r in rows(path, "refunds")}) == 3


async def test_a_key_with_other_parameters_is_a_conflict(path: Path, sandbox: Sandbox) -> None:
    """A key that was used stands for its parameters; with others it is refused and nothing is written."""
    await sandbox.refund("in_1", 100, "goodwill", idempotency_key="k")
    with pytest.raises(ToolRefusal) as refusal:
        await sandbox.refund("in_1", 200, "goodwill", idempotency_key="k")
    assert refusal.value.reason == "idempotency_conflict"
    assert refusal.value.message == "The idempotency key of this `refund` was used with other parameters."
    assert len(rows(path, "refunds")) == 1


async def test_a_write_without_a_key_is_refused(path: Path, sandbox: Sandbox) -> None:
    """An empty key would make all writes the same one, so it is refused."""
    with pytest.raises(ToolRefusal) as refusal:
        await sandbox.refund("in_1", 100, "goodwill", idempotency_key="")
    assert refusal.value.reason == "idempotency_key_missing"
    assert rows(path, "refunds") == []


@pytest.mark.parametrize(
    ("invoice_id", "cents", "reason"),
    [("in_1", 10_001, "not_refundable"), ("in_1", 0, "not_refundable"), ("in_2", 100, "not_paid"), ("in_9", 100, "not_found")],
)
async def test_the_vendor_refuses_impossible_refunds(
    path: Path, sandbox: Sandbox, invoice_id: str, cents: int, reason: str
) -> None:
    """Over-refunds, empty refunds, unpaid and unknown invoices are refused, and leave no row and no key behind."""
    with pytest.raises(ToolRefusal) as refusal:
        await sandbox.refund(invoice_id, cents, "goodwill", idempotency_key="k")
    assert refusal.value.reason == reason
    assert rows(path, "refunds") == []
    assert (await sandbox.refund("in_1", 100, "goodwill", idempotency_key="k")).amount_cents == 100


async def test_every_write_happens_once_per_key(path: Path, sandbox: Sandbox) -> None:
    """Each operation, called twice under its key, leaves one row and gives the same answer."""
    answers: list[list[object]] = []
    for _ in range(2):
        incident = await sandbox.open("AL-1", "sev2", "Errors", idempotency_key="i")
        answers.append(
            [
                incident,
                await sandbox.add_incident_note(incident.incident_id, "looking", idempotency_key="n"),
                await sandbox.set_email("cus_1", "new@example.com", idempotency_key="e"),
                await sandbox.add_tag("T-1", "refund", idempotency_key="t"),
                await sandbox.add_note("cus_1", "called", "internal", idempotency_key="a"),
                await sandbox.draft_reply("T-1", "Hello", idempotency_key="d"),
            ]
        )
    assert answers[0] == answers[1]
    for table in ("incidents", "incident_notes", "email_changes", "ticket_tags", "account_notes", "reply_drafts"):
        assert len(rows(path, table)) == 1, table
    customer = await sandbox.customer("cus_1")
    ticket = await sandbox.ticket("T-1")
    assert customer is not None and customer.email == "new@example.com"
    assert ticket is not None and ticket.tags == ("bug", "refund")
    assert await sandbox.incident("INC-1") == answers[0][0]


async def test_a_resolved_alert_gets_no_incident(path: Path, sandbox: Sandbox) -> None:
    """The vendor itself refuses an incident for an alert that isn't firing."""
    with pytest.raises(ToolRefusal) as refusal:
        await sandbox.open("AL-2", "sev2", "Errors", idempotency_key="i")
    assert refusal.value.reason == "not_firing"
    assert rows(path, "incidents") == []


async def test_subjects(sandbox: Sandbox) -> None:
    """A ticket and a customer stand for the customer, an alert for itself, and what doesn't exist for nobody."""
    assert await sandbox.subject_of("ticket", "T-1") == "Customer:cus_1"
    assert await sandbox.subject_of("customer", "cus_2") == "Customer:cus_2"
    assert await sandbox.subject_of("alert", "AL-1") == "Alert:AL-1"
    assert await sandbox.subject_of("ticket", "T-2") is None
    assert await sandbox.subject_of("customer", "T-1") is None
    assert await sandbox.subject_of("alert", "AL-9") is None


async def test_a_crash_is_between_commit_and_answer_and_once(path: Path) -> None:
    """The armed process dies by SIGKILL after the refund is committed; the retry gets that refund and lives."""
    arm(path, "refund", "in_1", "crash_after_commit")
    code = (
        "import asyncio, sys; from tools.connectors.sandbox import Sandbox\n"
        "asyncio.run(Sandbox(sys.argv[1]).refund('in_1', 3500, 'goodwill', idempotency_key='k'))"
    )
    root = Path(__file__).parents[2]
    first = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert first.returncode == -signal.SIGKILL
    assert rows(path, "faults") == []
    second = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert second.returncode == 0
    assert [r["amount_cents"] for r in rows(path, "refunds")] == [3500]


async def test_a_broken_connection_hides_a_write_once(path: Path, sandbox: Sandbox) -> None:
    """`error_after_commit` raises although the write happened; the retry under the same key finds it."""
    arm(path, "refund", "in_1", "error_after_commit")
    with pytest.raises(ConnectionError, match="after `refund` was sent"):
        await sandbox.refund("in_1", 100, "goodwill", idempotency_key="k")
    assert (await sandbox.refund("in_1", 100, "goodwill", idempotency_key="k")).amount_cents == 100
    assert len(rows(path, "refunds")) == 1


async def test_a_slow_write_blocks_nobody(path: Path, sandbox: Sandbox) -> None:
    """`slow` delays its own write by a second, outside the transaction, while other writes go on."""
    arm(path, "refund", "in_1", "slow")
    began = time.monotonic()
    slow = asyncio.create_task(sandbox.refund("in_1", 100, "goodwill", idempotency_key="k"))
    await sandbox.add_tag("T-1", "refund", idempotency_key="t")
    assert not slow.done()
    await slow
    assert time.monotonic() - began >= 1


async def test_a_refused_write_leaves_its_fault_armed(path: Path, sandbox: Sandbox) -> None:
    """A fault waits for a write that really happens."""
    arm(path, "refund", "in_1", "error_after_commit")
    with pytest.raises(ToolRefusal):
        await sandbox.refund("in_1", 99_999, "goodwill", idempotency_key="k")
    assert len(rows(path, "faults")) == 1


def test_bad_input_is_told(tmp_path: Path, path: Path) -> None:
    """Unknown tables, faults, files and malformed businesses are errors with a sentence of their own."""
    with pytest.raises(NotFound, match="The sandbox has no table `secrets`; it has customers, "):
        rows(path, "secrets")
    with pytest.raises(NotFound, match="There is no sandbox business at"):
        rows(tmp_path / "missing.sqlite", "refunds")
    with pytest.raises(InvalidInput, match="A fault needs one of the operations"):
        arm(path, "refund", "in_1", "explode")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInput, match="The business for the sandbox can't be used: `customers"):
        create(tmp_path / "new.sqlite", {"customers": [{"customer_id": 1}]})
    assert not (tmp_path / "new.sqlite").exists()


def test_write_tables_have_unique_keys(path: Path) -> None:
    """The database itself, not only the code, keeps a key from being used twice."""
    db = sqlite3.connect(path)
    try:
        for table in TABLES[4:-2]:
            unique = [
                db.execute(f"PRAGMA index_info({index[1]})").fetchall()[0][2]
                for index in db.execute(f"PRAGMA index_list({table})").fetchall()
                if index[2]
            ]
            assert "idempotency_key" in unique, table
    finally:
        db.close()
