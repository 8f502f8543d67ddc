"""The Stripe connector over real HTTP with the real SDK, against a stateful fake of Stripe that others wrote."""

import asyncio
import json
import socket
import traceback
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from policies.errors import InvalidInput, MissingKey, ToolRefusal, Unavailable
from tests.wire.stripe.mock import KEY, Fault, StripeMock
from tools.billing import Customer, Invoice, Refund
from tools.connectors.stripe import ChargeInvoices, InvoiceSource, StripeBilling, StripeInvoices

Connect = Callable[..., StripeBilling]
SECRET = "sk_live_4eC39HqLyjWDarjtT1zdp7dc"


@pytest.fixture(scope="session")
def running() -> Iterator[StripeMock]:
    with StripeMock() as mock:
        yield mock


@pytest.fixture
def mock(running: StripeMock) -> StripeMock:
    running.fail()
    return running


@pytest.fixture
async def connect(mock: StripeMock) -> AsyncIterator[Connect]:
    """Makes a connector, and closes it after the test."""
    made: list[StripeBilling] = []

    def make(
        key: str = KEY, url: str = "", invoices: Callable[..., InvoiceSource] = ChargeInvoices, timeout_s: float = 20.0
    ) -> StripeBilling:
        made.append(StripeBilling(key, url or mock.url, invoices=invoices, timeout_s=timeout_s))
        return made[-1]

    yield make
    for billing in made:
        await billing.aclose()


@pytest.fixture
def billing(connect: Connect) -> StripeBilling:
    """Over an account that has charges and no invoices, as the mock's."""
    return connect()


@pytest.fixture
def key() -> str:
    return f"remit-{uuid4().hex}"


def receipt(charge: str) -> str:
    return charge.replace("ch_", "in_")


@contextmanager
def answered(mock: StripeMock, path: str, *objects: object) -> Generator[None]:
    """Answer a GET of `path` with a list of `objects` meanwhile."""
    mock.answer(path, {"object": "list", "data": objects, "has_more": False, "url": path})
    try:
        yield
    finally:
        mock.answer(path, None)


async def refusal(billing: StripeBilling, invoice: str, amount: int, key: str, reason: str = "goodwill") -> ToolRefusal:
    with pytest.raises(ToolRefusal) as caught:
        await billing.refund(invoice, amount, reason, idempotency_key=key)
    return caught.value


async def test_a_charge_is_read_as_an_invoice_of_its_customer(mock: StripeMock, billing: StripeBilling) -> None:
    """Amounts are in cents, the currency is upper case, and the owner is the customer whose card was charged."""
    customer = mock.post("customers", source="tok_visa")
    charge = mock.post("charges", amount=4900, currency="usd", customer=customer["id"], description="Pro plan")
    mock.post("refunds", charge=charge["id"], amount=1500)
    found = await billing.invoice(receipt(charge["id"]))
    assert found is not None
    assert found.model_dump(exclude={"issued_on"}) == {
        "invoice_id": receipt(charge["id"]),
        "customer_id": customer["id"],
        "description": "Pro plan",
        "status": "paid",
        "amount_cents": 4900,
        "refunded_cents": 1500,
        "currency": "USD",
    }
    assert found.refundable_cents == 3400
    assert len(found.issued_on) == len("2026-01-31")


async def test_a_charge_that_was_not_captured_is_not_paid(mock: StripeMock, billing: StripeBilling, key: str) -> None:
    """An authorization is an open invoice: there is nothing to give back yet."""
    charge = mock.charge(capture="false")
    found = await billing.invoice(receipt(charge))
    assert found and (found.status, found.refundable_cents) == ("open", 0)
    assert (await refusal(billing, receipt(charge), 100, key)).reason == "not_paid"
    assert mock.refunds(charge) == []


async def test_what_does_not_exist_is_none(billing: StripeBilling) -> None:
    """Stripe's 404 is an answer, not an error."""
    assert await billing.invoice("in_none") is None
    assert await billing.customer("cus_none") is None
    assert await billing.invoices("cus_none") == ()


async def test_a_customer_comes_with_address_and_plan(mock: StripeMock, billing: StripeBilling) -> None:
    """The plan is what the subscription's price is called."""
    made = mock.post("customers", email="ada@example.com", source="tok_visa")
    mock.post(f"customers/{made['id']}", name="Ada")
    assert await billing.customer(made["id"]) == Customer(
        customer_id=made["id"], name="Ada", email="ada@example.com", plan="none"
    )
    item = {"price": {"id": "price_1", "object": "price", "nickname": "Pro", "lookup_key": None}}
    subscription = {"id": "sub_1", "object": "subscription", "status": "active", "items": {"object": "list", "data": [item]}}
    listed = {"object": "list", "data": [subscription]}
    mock.answer("/v1/customers/cus_plan", {**made, "id": "cus_plan", "subscriptions": listed})
    found = await billing.customer("cus_plan")
    assert found and found.plan == "Pro"


async def test_a_deleted_customer_does_not_exist(mock: StripeMock, billing: StripeBilling) -> None:
    """Stripe still answers for a customer who was deleted, with nothing but the id."""
    mock.answer("/v1/customers/cus_gone", {"id": "cus_gone", "object": "customer", "deleted": True})
    assert await billing.customer("cus_gone") is None


async def test_a_refund_reaches_stripe_marked_with_its_key(mock: StripeMock, billing: StripeBilling, key: str) -> None:
    """Part of the payment goes back, and the vendor's record says by which key, for which invoice and why."""
    charge = mock.charge()
    made = await billing.refund(receipt(charge), 1900, "service_issue", idempotency_key=key)
    (listed,) = mock.refunds(charge)
    assert made == Refund(refund_id=listed["id"], invoice_id=receipt(charge), amount_cents=1900, currency="USD")
    assert (listed["amount"], listed["reason"]) == (1900, "requested_by_customer")
    assert listed["metadata"] == {"remit_key": key, "remit_invoice": receipt(charge), "remit_reason": "service_issue"}
    found = await billing.invoice(receipt(charge))
    assert found and found.refunded_cents == 1900


async def test_the_same_key_gives_the_same_refund(mock: StripeMock, billing: StripeBilling, connect: Connect, key: str) -> None:
    """A repeated call, also of another worker and of the whole amount, makes no second refund."""
    charge = mock.charge()
    first = await billing.refund(receipt(charge), 4900, "duplicate", idempotency_key=key)
    assert await billing.refund(receipt(charge), 4900, "duplicate", idempotency_key=key) == first
    assert await connect().refund(receipt(charge), 4900, "duplicate", idempotency_key=key) == first
    assert [refund["id"] for refund in mock.refunds(charge)] == [first.refund_id]


async def test_another_key_gives_another_refund(mock: StripeMock, billing: StripeBilling, key: str) -> None:
    """Keys, and not arguments, tell whether two refunds are one."""
    charge = mock.charge()
    first = await billing.refund(receipt(charge), 1000, "goodwill", idempotency_key=key)
    second = await billing.refund(receipt(charge), 1000, "goodwill", idempotency_key=f"{key}-2")
    assert first != second
    assert len(mock.refunds(charge)) == 2


async def test_concurrent_refunds_with_one_key_give_one_refund(mock: StripeMock, billing: StripeBilling, key: str) -> None:
    """Calls that none could see of each other are one for Stripe, which replays its answer."""
    charge = mock.charge()
    calls = [billing.refund(receipt(charge), 700, "goodwill", idempotency_key=key) for _ in range(8)]
    with answered(mock, "/v1/refunds"):
        made = await asyncio.gather(*calls)
    assert len(set(made)) == len(mock.refunds(charge)) == 1
    assert sorted(call["replayed"] for call in mock.asked(key)) == [False] + [True] * 7


@pytest.mark.parametrize(("amount", "reason"), [(1001, "goodwill"), (1000, "duplicate")])
async def test_a_key_used_with_other_parameters_is_refused(
    amount: int, reason: str, mock: StripeMock, billing: StripeBilling, key: str
) -> None:
    """A key stands for one refund with these very parameters."""
    charge = mock.charge()
    await billing.refund(receipt(charge), 1000, "goodwill", idempotency_key=key)
    refused = await refusal(billing, receipt(charge), amount, key, reason)
    assert refused.reason == "idempotency_conflict"
    assert refused.message == "The idempotency key of this call was used with other parameters."
    assert len(mock.refunds(charge)) == 1


async def test_stripe_refuses_a_key_of_another_call(mock: StripeMock, billing: StripeBilling, key: str) -> None:
    """A key that was used for another invoice is found out by Stripe, and its words, which repeat the key, aren't passed on."""
    first, second = mock.charge(), mock.charge()
    await billing.refund(receipt(first), 1000, "goodwill", idempotency_key=key)
    refused = await refusal(billing, receipt(second), 1000, key)
    assert refused.reason == "idempotency_conflict"
    assert key not in "".join(traceback.format_exception(refused))
    assert mock.refunds(second) == []


async def test_more_than_is_left_is_refused(mock: StripeMock, billing: StripeBilling, key: str) -> None:
    """Stripe is the judge of amounts, and its refusal means that nothing happened."""
    charge = mock.charge()
    refused = await refusal(billing, receipt(charge), 4901, key)
    assert (refused.reason, refused.message) == (
        "not_refundable",
        "Stripe can't refund that amount of this payment (400); look up what is left of the invoice.",
    )
    await billing.refund(receipt(charge), 4900, "goodwill", idempotency_key=f"{key}-2")
    assert (await refusal(billing, receipt(charge), 1, f"{key}-3")).reason == "not_refundable"
    assert [refund["amount"] for refund in mock.refunds(charge)] == [4900]


async def test_a_disputed_charge_is_refused(mock: StripeMock, billing: StripeBilling, key: str) -> None:
    """Money that the bank has taken back can't be given back again."""
    charge = mock.charge(source="tok_createDispute")
    refused = await refusal(billing, receipt(charge), 100, key)
    assert (refused.reason, "charge_disputed" in refused.message) == ("not_refundable", True)
    assert mock.refunds(charge) == []


@pytest.mark.parametrize("fault", ["429", "500"])
async def test_an_error_of_stripe_is_raised_and_not_repeated(
    fault: Fault, mock: StripeMock, billing: StripeBilling, key: str
) -> None:
    """The caller has the retry policy: one call sends one request, and a retry with the same key makes the refund."""
    charge = mock.charge()
    mock.fail(fault)
    with pytest.raises(ConnectionError, match=fault):
        await billing.refund(receipt(charge), 1000, "goodwill", idempotency_key=key)
    assert len(mock.asked(key)) == 1
    assert mock.refunds(charge) == []
    made = await billing.refund(receipt(charge), 1000, "goodwill", idempotency_key=key)
    assert [refund["id"] for refund in mock.refunds(charge)] == [made.refund_id]


@pytest.mark.parametrize("fault", ["500_after", "drop_after", "hang_after"])
async def test_a_refund_whose_answer_was_lost_is_found_again(
    fault: Fault, mock: StripeMock, connect: Connect, key: str
) -> None:
    """The outcome is unknown to the caller, and the retry finds the refund by its mark, however old the key is."""
    billing, charge = connect(timeout_s=1.0), mock.charge()
    mock.fail(fault)
    with pytest.raises(TimeoutError if fault == "hang_after" else ConnectionError, match="may have taken effect"):
        await billing.refund(receipt(charge), 4900, "goodwill", idempotency_key=key)
    (listed,) = mock.refunds(charge)
    made = await billing.refund(receipt(charge), 4900, "goodwill", idempotency_key=key)
    assert made.refund_id == listed["id"]
    assert len(mock.refunds(charge)) == len(mock.asked(key)) == 1


async def test_a_refund_that_stripe_gave_up_is_refused(mock: StripeMock, billing: StripeBilling, key: str) -> None:
    """A refund with status `failed` moved no money, whatever the call's status was."""
    charge = mock.charge()
    made = mock.post(
        "refunds",
        charge=charge,
        amount=1000,
        metadata__remit_key=key,
        metadata__remit_invoice=receipt(charge),
        metadata__remit_reason="goodwill",
    )
    with answered(mock, "/v1/refunds", {**made, "status": "failed"}):
        refused = await refusal(billing, receipt(charge), 1000, key)
    assert refused.message == f"Stripe could not carry out the refund of invoice `{receipt(charge)}`; no money moved."


async def test_a_write_without_a_key_is_refused(mock: StripeMock, billing: StripeBilling) -> None:
    """The SDK would make a key up, and a retry would then be a second refund."""
    charge = mock.charge()
    assert (await refusal(billing, receipt(charge), 100, "")).reason == "idempotency_key_missing"
    with pytest.raises(ToolRefusal, match="idempotency key"):
        await billing.set_email("cus_1", "a@example.com", idempotency_key="")
    assert mock.refunds(charge) == []


async def test_an_invoice_that_does_not_exist_is_not_refunded(billing: StripeBilling, key: str) -> None:
    """The refusal names the invoice."""
    refused = await refusal(billing, "in_none", 100, key)
    assert (refused.reason, refused.message) == ("not_found", "There is no invoice `in_none`.")


async def test_an_email_is_changed_once_for_each_key(mock: StripeMock, billing: StripeBilling, key: str) -> None:
    """The same key changes nothing again, even when the address was changed in between."""
    customer = mock.post("customers", email="old@example.com")["id"]
    await billing.set_email(customer, "new@example.com", idempotency_key=key)
    await billing.set_email(customer, "newer@example.com", idempotency_key=f"{key}-2")
    await billing.set_email(customer, "new@example.com", idempotency_key=key)
    found = await billing.customer(customer)
    assert found and found.email == "newer@example.com"
    with pytest.raises(ToolRefusal) as caught:
        await billing.set_email(customer, "other@example.com", idempotency_key=key)
    assert caught.value.reason == "idempotency_conflict"
    with pytest.raises(ToolRefusal) as caught:
        await billing.set_email("cus_none", "other@example.com", idempotency_key=f"{key}-3")
    assert caught.value.reason == "not_found"


async def test_a_wrong_key_is_told_without_the_key(mock: StripeMock, connect: Connect, key: str) -> None:
    """Stripe repeats most of the key in its message; the sentence for the operator names the variable instead."""
    billing = connect(SECRET)
    for call in (billing.invoice("in_1"), billing.refund("in_1", 100, "goodwill", idempotency_key=key)):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.message == "Stripe doesn't accept the key (401); check `STRIPE_API_KEY`."
        assert SECRET[:11] not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("", "`STRIPE_API_KEY` is empty; set it to a secret or restricted key of the Stripe account."),
        (" \n", "`STRIPE_API_KEY` is empty; set it to a secret or restricted key of the Stripe account."),
        ("sk_\nx", "`STRIPE_API_KEY` holds a character that an HTTP header can't carry; copy the key again."),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused_at_once(secret: str, text: str) -> None:
    """A worker without a usable key says so when it starts."""
    with pytest.raises(MissingKey) as caught:
        StripeBilling(secret)
    assert caught.value.message == text


@pytest.mark.parametrize("url", ["localhost:12111", "ftp://x", "http://", "http://x:99999"])
def test_an_address_that_is_no_url_is_refused_at_once(url: str) -> None:
    """The sentence shows what one looks like."""
    with pytest.raises(InvalidInput, match="must be the URL of a server"):
        StripeBilling(KEY, url)


async def test_a_server_that_is_not_there_is_a_connection_error(connect: Connect, key: str) -> None:
    """Whoever calls may try again."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match="can't be reached"):
        await connect(url=f"http://127.0.0.1:{port}").refund("in_1", 100, "goodwill", idempotency_key=key)


async def test_stripe_is_told_nothing_of_the_machine(mock: StripeMock, billing: StripeBilling, key: str) -> None:
    """The SDK's telemetry, which keeps an id in a file under the home directory, is off."""
    await billing.refund(receipt(mock.charge()), 100, "goodwill", idempotency_key=key)
    (sent,) = mock.asked(key)
    assert json.loads(sent["agent"]).keys().isdisjoint({"telemetry_id", "platform"})


async def test_the_charges_of_a_customer_are_listed(mock: StripeMock, billing: StripeBilling) -> None:
    """Newest first, as Stripe lists them; a payment that no invoice id can stand for is left out."""
    charges = [mock.call("GET", f"/v1/charges/{mock.charge()}") for _ in range(2)]
    mine = [{**charge, "customer": "cus_1"} for charge in charges]
    with answered(mock, "/v1/charges", mine[0], {**mine[0], "id": "py_1"}, mine[1]):
        found = await billing.invoices("cus_1")
    assert [(invoice.invoice_id, invoice.customer_id) for invoice in found] == [
        (receipt(charge["id"]), "cus_1") for charge in charges
    ]


def invoice(name: str, *payments: dict[str, Any], **fields: object) -> dict[str, Any]:
    """An invoice in the shape of Stripe's API; the mock has none."""
    return {
        "id": name,
        "object": "invoice",
        "status": "paid",
        "customer": "cus_1",
        "description": None,
        "number": "R-0001",
        "total": 4900,
        "currency": "usd",
        "created": 1767312000,
        "status_transitions": {"finalized_at": 1767398400},
        "post_payment_credit_notes_amount": 0,
        "payments": {"object": "list", "data": payments, "has_more": False, "url": "/v1/invoice_payments"},
        **fields,
    }


def payment(kind: str, name: str, amount: int | None = 4900, status: str = "paid") -> dict[str, Any]:
    paid = {"type": kind, kind: name}
    return {"id": "inpay_1", "object": "invoice_payment", "status": status, "amount_paid": amount, "payment": paid}


@pytest.mark.parametrize("kind", ["charge", "payment_intent"])
async def test_an_invoice_of_stripe_is_refunded_through_its_payment(
    kind: str, mock: StripeMock, connect: Connect, key: str
) -> None:
    """The refund goes to the charge behind the invoice's payment, and what was refunded is read there."""
    billing, charge = connect(invoices=StripeInvoices), mock.charge()
    mock.answer("/v1/payment_intents/pi_1", {"id": "pi_1", "object": "payment_intent", "latest_charge": charge})
    name = f"in_{key[-8:]}"
    attempts = [payment(kind, "pi_0", None, "canceled"), payment(kind, charge if kind == "charge" else "pi_1")]
    mock.answer(f"/v1/invoices/{name}", invoice(name, *attempts))
    made = await billing.refund(name, 1900, "billing_error", idempotency_key=key)
    assert await billing.refund(name, 1900, "billing_error", idempotency_key=key) == made
    assert [refund["id"] for refund in mock.refunds(charge)] == [made.refund_id]
    assert await billing.invoice(name) == Invoice(
        invoice_id=name,
        customer_id="cus_1",
        description="R-0001",
        status="paid",
        amount_cents=4900,
        refunded_cents=1900,
        currency="USD",
        issued_on="2026-01-03",
    )


async def test_only_an_invoice_paid_by_one_charge_is_refunded(mock: StripeMock, connect: Connect, key: str) -> None:
    """A choice among several charges could change in a retry, and money that didn't come through Stripe can't go back there."""
    billing, charges = connect(invoices=StripeInvoices), [mock.charge(), mock.charge()]
    mock.answer("/v1/invoices/in_two", invoice("in_two", *(payment("charge", charge) for charge in charges)))
    mock.answer("/v1/invoices/in_cash", invoice("in_cash", payment("payment_record", "pr_1")))
    found = await billing.invoice("in_two")
    assert found and found.amount_cents == 9800
    found = await billing.invoice("in_cash")
    assert found and found.refundable_cents == 0
    refused = await refusal(billing, "in_two", 100, key)
    assert (refused.reason, refused.message) == (
        "not_refundable",
        "Invoice `in_two` was paid by 2 charges; only one that was paid by a single charge can be refunded here.",
    )
    assert (await refusal(billing, "in_cash", 100, key)).reason == "not_refundable"
    assert [mock.refunds(charge) for charge in charges] == [[], []]


@pytest.mark.parametrize(
    ("status", "read"), [("draft", "draft"), ("open", "open"), ("uncollectible", "open"), ("void", "void")]
)
async def test_an_invoice_that_is_not_paid_is_not_refunded(
    status: str, read: str, mock: StripeMock, connect: Connect, key: str
) -> None:
    """Its amount is what it asks for, and nothing of it can go back."""
    billing = connect(invoices=StripeInvoices)
    mock.answer("/v1/invoices/in_unpaid", invoice("in_unpaid", status=status))
    found = await billing.invoice("in_unpaid")
    assert found and (found.status, found.amount_cents, found.refundable_cents) == (read, 4900, 0)
    assert (await refusal(billing, "in_unpaid", 100, key)).reason == "not_paid"


async def test_credit_after_the_payment_counts_as_refunded(mock: StripeMock, connect: Connect) -> None:
    """Of a credit note only what isn't a refund is added: the charge counts the refund already."""
    billing, charge = connect(invoices=StripeInvoices), mock.charge()
    mock.post("refunds", charge=charge, amount=500)
    notes = [
        {"id": "cn_1", "object": "credit_note", "status": "issued", "post_payment_amount": 1500},
        {"id": "cn_2", "object": "credit_note", "status": "void", "post_payment_amount": 900},
    ]
    refund = {"refund": "re_1", "amount_refunded": 500}
    mock.answer("/v1/invoices/in_note", invoice("in_note", payment("charge", charge), post_payment_credit_notes_amount=1500))
    with answered(mock, "/v1/credit_notes", *({**note, "refunds": [refund]} for note in notes)):
        found = await billing.invoice("in_note")
    assert found and (found.refunded_cents, found.refundable_cents) == (1500, 3400)


async def test_the_invoices_of_a_customer_are_listed(mock: StripeMock, connect: Connect) -> None:
    """In Stripe's order, each with what was refunded of its own payment."""
    billing, charges = connect(invoices=StripeInvoices), [mock.charge(), mock.charge(2500)]
    mock.post("refunds", charge=charges[1], amount=100)
    made = [
        invoice("in_b", payment("charge", charges[0])),
        invoice("in_a", payment("charge", charges[1], 2500), total=2500),
        invoice("in_0", status="open", payments=None),
    ]
    with answered(mock, "/v1/invoices", *made):
        found = await billing.invoices("cus_1")
    assert [(each.invoice_id, each.amount_cents, each.refunded_cents) for each in found] == [
        ("in_b", 4900, 0),
        ("in_a", 2500, 100),
        ("in_0", 4900, 0),
    ]
