"""Stripe as the billing system, over its official SDK: one refund for each idempotency key. No business rules live here."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx2
import stripe
from stripe import StripeClient

from policies.errors import InvalidInput, MissingKey, RemitError, ToolRefusal, Unavailable
from tools.billing import Billing, Customer, Invoice, Refund
from tools.connectors.stripe_records import details_of
from tools.subjects import Personal, PersonalDetail

__all__ = ["Billed", "ChargeInvoices", "InvoiceSource", "StripeBilling", "StripeInvoices"]

T = TypeVar("T")

_RECENT = 100
"""How many of a customer's latest invoices are listed: one page of Stripe's."""
_STATUS: Mapping[str, Literal["draft", "open", "paid", "void"]] = {
    "draft": "draft",
    "open": "open",
    "paid": "paid",
    "void": "void",
    "uncollectible": "open",  # given up on, yet still owed
}
_SUBSCRIBED = ("active", "trialing", "past_due")
_SPENT = ("charge_already_refunded", "charge_disputed", "refund_disputed_payment", "amount_too_large")
_BUSY = ("idempotency_key_in_use", "lock_timeout")


@dataclass(frozen=True)
class Billed:
    """An invoice, and the ids of the charges that paid it: what a refund goes back to."""

    invoice: Invoice
    charges: tuple[str, ...] = ()


class InvoiceSource(Protocol):
    """Where invoices come from: Stripe's own, or an account that only takes charges."""

    async def find(self, invoice_id: str) -> Billed | None: ...

    async def of(self, customer_id: str) -> Sequence[Billed]:
        """A customer's latest invoices, newest first."""
        ...


class StripeInvoices:
    """The invoices of Stripe Billing, as of API version 2025-03-31 and later, where an invoice has payments.

    The amount of a paid invoice is what was paid through Stripe: money that came by another way can't be refunded here. What
    was refunded includes credit given for the invoice after its payment.
    """

    def __init__(self, client: StripeClient) -> None:
        self._client = client

    async def find(self, invoice_id: str) -> Billed | None:
        found = await _found(self._client.v1.invoices.retrieve_async(invoice_id, {"expand": ["payments"]}))
        return await self._billed(found, {}) if found else None

    async def of(self, customer_id: str) -> Sequence[Billed]:
        listed = await _found(
            self._client.v1.invoices.list_async({"customer": customer_id, "limit": _RECENT, "expand": ["data.payments"]})
        )
        if listed is None or not listed.data:
            return ()
        # One page of charges answers for nearly all of them; without it, each invoice would cost a request of its own.
        charges = await _asked(self._client.v1.charges.list_async({"customer": customer_id, "limit": _RECENT}))
        known = {name: charge for charge in charges.data if charge.paid for name in (charge.id, _id(charge.payment_intent))}
        return [await self._billed(invoice, known) for invoice in listed.data]

    async def _billed(self, invoice: stripe.Invoice, known: Mapping[str, stripe.Charge]) -> Billed:
        status = _STATUS.get(invoice.status or "draft", "open")
        amount, refunded, charges = invoice.total, 0, list[str]()
        if status == "paid":
            amount = 0
            for paid in invoice.payments.data if invoice.payments else ():
                charge = await self._charge(paid.payment, known) if paid.status == "paid" else None
                if charge:
                    amount += paid.amount_paid or 0
                    refunded += charge.amount_refunded
                    charges.append(charge.id)
            refunded += await self._credited(invoice)
        return Billed(
            Invoice(
                invoice_id=invoice.id,
                customer_id=_id(invoice.customer),
                description=invoice.description or invoice.number or "",
                status=status,
                amount_cents=amount,
                refunded_cents=min(amount, refunded),
                currency=invoice.currency.upper(),
                issued_on=_day(invoice.status_transitions.finalized_at or invoice.created),
            ),
            tuple(charges),
        )

    async def _charge(self, payment: stripe.InvoicePayment.Payment, known: Mapping[str, stripe.Charge]) -> stripe.Charge | None:
        """The charge behind a payment; None when the money didn't come through Stripe."""
        if payment.type == "charge":
            charge = _id(payment.charge)
        elif payment.type == "payment_intent":
            name = _id(payment.payment_intent)
            if name in known:
                return known[name]
            charge = _id((await _asked(self._client.v1.payment_intents.retrieve_async(name))).latest_charge)
        else:
            return None
        return known.get(charge) or await _asked(self._client.v1.charges.retrieve_async(charge))

    async def _credited(self, invoice: stripe.Invoice) -> int:
        """What credit notes gave back after the payment by other ways than a refund, which the charge counts itself."""
        if not invoice.post_payment_credit_notes_amount:
            return 0
        notes = await _asked(self._client.v1.credit_notes.list_async({"invoice": invoice.id, "limit": _RECENT}))
        issued = [note for note in notes.data if note.status == "issued"]
        return sum(note.post_payment_amount - sum(back.amount_refunded for back in note.refunds) for note in issued)


class ChargeInvoices:
    """For an account that takes charges and has no Stripe invoices: invoice `in_X` stands for charge `ch_X`."""

    def __init__(self, client: StripeClient) -> None:
        self._client = client

    async def find(self, invoice_id: str) -> Billed | None:
        found = await _found(self._client.v1.charges.retrieve_async(f"ch_{invoice_id.removeprefix('in_')}"))
        return _receipt(found) if found else None

    async def of(self, customer_id: str) -> Sequence[Billed]:
        listed = await _found(self._client.v1.charges.list_async({"customer": customer_id, "limit": _RECENT}))
        # Other means of payment than cards may have ids such as `py_…`, which no invoice id of ours stands for.
        return [_receipt(charge) for charge in listed.data if charge.id.startswith("ch_")] if listed else ()


class StripeBilling(Billing, Personal):
    """The billing port over one Stripe account. Amounts are in the currency's smallest unit, as Stripe counts them.

    Call `aclose` at the end. No request is repeated here: whoever calls has the retry policy, and the idempotency key makes
    a repeated write safe.

    Raises (each operation):
        ToolRefusal: `not_found`, `not_paid`, `not_refundable`, `idempotency_conflict`, `idempotency_key_missing` or
            `refused_by_vendor`; nothing was written.
        Unavailable: Stripe doesn't accept the key, or it may not do this; nothing was written.
        ConnectionError: Stripe couldn't be reached, failed, or was busy; a write may have taken effect.
        TimeoutError: Stripe didn't answer in time; a write may have taken effect.
    """

    def __init__(
        self,
        api_key: str,
        api_base: str = "",
        *,
        invoices: Callable[[StripeClient], InvoiceSource] = StripeInvoices,
        timeout_s: float = 15.0,
    ) -> None:
        """Make the client; nothing is sent yet.

        Args:
            api_base: another server than Stripe's, for example a mock's.
            timeout_s: how long one request may take, from the connection to the last byte.

        Raises:
            MissingKey: `api_key` can't be sent.
            InvalidInput: `api_base` isn't the URL of a server.
        """
        # The SDK would write an id under the home directory and report the platform. There is no setting for one client.
        stripe.enable_telemetry = False
        self._transport = _Transport(timeout_s)
        self._client = StripeClient(
            _checked_key(api_key),
            base_addresses={"api": _checked_base(api_base)} if api_base else {},
            max_network_retries=0,
            http_client=self._transport,
        )
        self._invoices = invoices(self._client)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.close_async()

    async def customer(self, customer_id: str) -> Customer | None:
        found = await _found(self._client.v1.customers.retrieve_async(customer_id, {"expand": ["subscriptions"]}))
        if found is None or getattr(found, "deleted", False):
            return None
        return Customer(
            customer_id=found.id,
            name=found.name or found.description or "",
            email=found.email or "",
            plan=_plan(found),
        )

    async def known(self, subject: str) -> tuple[PersonalDetail, ...]:
        """See `details_of`; nothing of what isn't a customer, or isn't there."""
        kind, _, customer_id = subject.partition(":")
        if kind != "Customer" or not customer_id:
            return ()
        found = await _found(self._client.v1.customers.retrieve_async(customer_id))
        return details_of(found) if found and not getattr(found, "deleted", False) else ()

    async def invoice(self, invoice_id: str) -> Invoice | None:
        found = await self._invoices.find(invoice_id)
        return found.invoice if found else None

    async def invoices(self, customer_id: str) -> tuple[Invoice, ...]:
        return tuple(billed.invoice for billed in await self._invoices.of(customer_id))

    async def refund(self, invoice_id: str, amount_cents: int, reason: str, *, idempotency_key: str) -> Refund:
        _need(idempotency_key)
        billed = await self._invoices.find(invoice_id)
        if billed is None:
            raise ToolRefusal("not_found", f"There is no invoice `{invoice_id[:80]}`.")
        charge = _only_charge(billed)
        # G2: nothing that a first attempt may have changed is checked here or sent, such as what is left to refund. A
        # retry must send what the first attempt sent and get its refund; Stripe is the judge of amounts.
        marks = {"remit_key": idempotency_key, "remit_invoice": invoice_id, "remit_reason": reason}
        made = await self._made(charge, idempotency_key)
        if made is None:
            made = await _asked(
                self._client.v1.refunds.create_async(
                    {
                        "charge": charge,
                        "amount": amount_cents,
                        "reason": "duplicate" if reason == "duplicate" else "requested_by_customer",
                        "metadata": marks,
                    },
                    {"idempotency_key": idempotency_key},
                )
            )
        elif made.amount != amount_cents or _metadata(made) != marks:
            raise _conflict()
        if made.status in ("failed", "canceled"):
            raise ToolRefusal(
                "not_refundable", f"Stripe could not carry out the refund of invoice `{invoice_id}`; no money moved."
            )
        return Refund(refund_id=made.id, invoice_id=invoice_id, amount_cents=made.amount, currency=made.currency.upper())

    async def set_email(self, customer_id: str, email: str, *, idempotency_key: str) -> None:
        _need(idempotency_key)
        await _asked(
            self._client.v1.customers.update_async(customer_id, {"email": email}, {"idempotency_key": idempotency_key})
        )

    async def _made(self, charge: str, key: str) -> stripe.Refund | None:
        """The refund that was made under `key`, found by its mark: Stripe itself forgets keys after a day or so."""

        async def search() -> stripe.Refund | None:
            listed = await self._client.v1.refunds.list_async({"charge": charge, "limit": 100})
            async for refund in listed.auto_paging_iter():
                if _metadata(refund).get("remit_key") == key:
                    return refund
            return None

        return await _asked(search())


class _Transport(stripe.HTTPClient):
    """The SDK's requests over the HTTP client that the model SDKs use too, with a limit on a request's whole time."""

    name = "httpx2"

    def __init__(self, timeout_s: float) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]  (the SDK leaves a parameter untyped)
        self._timeout_s = timeout_s
        # The limit is set on each request below: that of the HTTP client starts anew with every part of an answer.
        self._http = httpx2.AsyncClient(timeout=None)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._http.request(method, url, headers=headers, content=post_data)
        except TimeoutError:
            raise TimeoutError(
                f"Stripe gave no answer within {self._timeout_s:g} s; a write may have taken effect nevertheless."
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as e:
            # Only its type is told: its text may repeat a header.
            raise ConnectionError(
                f"Stripe can't be reached, or broke the connection off ({type(e).__name__}); a write may have taken effect."
            ) from None
        return answer.content, answer.status_code, answer.headers

    async def close_async(self) -> None:
        await self._http.aclose()


async def _asked(request: Awaitable[T]) -> T:
    """The answer to a request, with the SDK's errors told as ours."""
    try:
        return await request
    except stripe.StripeError as e:
        # Without its cause: vendors repeat parts of keys and of parameters in their messages.
        raise _meaning(e) from None


async def _found(request: Awaitable[T]) -> T | None:
    """The answer to a request; None when what it asks for doesn't exist."""
    try:
        return await _asked(request)
    except ToolRefusal as e:
        if e.reason == "not_found":
            return None
        raise


def _meaning(error: stripe.StripeError) -> RemitError | ConnectionError:
    status, code = error.http_status, error.code or (error.error.code if error.error else None)
    said = f"{status} `{code}`" if code else f"{status}"
    if isinstance(error, stripe.AuthenticationError):
        return Unavailable(f"Stripe doesn't accept the key ({said}); check `STRIPE_API_KEY`.")
    if isinstance(error, stripe.PermissionError):
        return Unavailable(f"Stripe doesn't let this key do that ({said}); check the permissions of `STRIPE_API_KEY`.")
    if isinstance(error, stripe.RateLimitError) or code in _BUSY:
        return ConnectionError(f"Stripe is busy ({said}); try again with the same idempotency key.")
    if isinstance(error, stripe.IdempotencyError):
        return _conflict()
    if code == "resource_missing":
        return ToolRefusal("not_found", "Stripe doesn't have what this call is about.")
    if isinstance(error, stripe.CardError) or code in _SPENT or getattr(error, "param", None) == "amount":
        return ToolRefusal(
            "not_refundable", f"Stripe can't refund that amount of this payment ({said}); look up what is left of the invoice."
        )
    if isinstance(error, stripe.InvalidRequestError):
        return ToolRefusal("refused_by_vendor", f"Stripe refused the call ({said}).")
    return ConnectionError(f"Stripe failed ({said}); a write may have taken effect.")


def _conflict() -> ToolRefusal:
    return ToolRefusal("idempotency_conflict", "The idempotency key of this call was used with other parameters.")


def _need(key: str) -> None:
    if not key:
        raise ToolRefusal("idempotency_key_missing", "A write to Stripe needs an idempotency key.")


def _only_charge(billed: Billed) -> str:
    """What a refund of this invoice goes back to.

    Raises:
        ToolRefusal: there isn't exactly one charge. One key is one refund, and a choice among several could change in a retry.
    """
    invoice = billed.invoice
    if invoice.status != "paid":
        raise ToolRefusal("not_paid", f"Invoice `{invoice.invoice_id}` is {invoice.status}; only a paid one can be refunded.")
    if len(billed.charges) != 1:
        raise ToolRefusal(
            "not_refundable",
            f"Invoice `{invoice.invoice_id}` was paid by {len(billed.charges)} charges; only one that was paid by a single"
            " charge can be refunded here.",
        )
    return billed.charges[0]


def _receipt(charge: stripe.Charge) -> Billed:
    """A charge as an invoice of its own."""
    if charge.paid and charge.captured:
        status: Literal["open", "paid", "void"] = "paid"
    else:
        status = "void" if charge.status == "failed" else "open"
    card = charge.source if isinstance(charge.source, stripe.Card) else None
    return Billed(
        Invoice(
            invoice_id=f"in_{charge.id.removeprefix('ch_')}",
            # A charge names its customer, or else the saved card that was charged does.
            customer_id=_id(charge.customer) or _id(card.customer if card else None),
            description=charge.description or "",
            status=status,
            amount_cents=charge.amount,
            refunded_cents=charge.amount_refunded,
            currency=charge.currency.upper(),
            issued_on=_day(charge.created),
        ),
        (charge.id,),
    )


def _plan(customer: stripe.Customer) -> str:
    """What the customer is subscribed to, by its price's nickname, lookup key or id; `none` without a subscription."""
    for subscription in customer.subscriptions.data if customer.subscriptions else ():
        if subscription.status in _SUBSCRIBED and subscription.items.data:
            price = subscription.items.data[0].price
            return price.nickname or price.lookup_key or price.id
    return "none"


class _Named(Protocol):
    @property
    def id(self) -> str: ...


def _id(reference: str | _Named | None) -> str:
    """The id in a field that Stripe may expand into the whole object."""
    return reference if isinstance(reference, str) else reference.id if reference else ""


def _metadata(refund: stripe.Refund) -> dict[str, str]:
    return refund.metadata.to_dict() if refund.metadata else {}


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _checked_key(key: str) -> str:
    stripped = key.strip()  # a key mounted as a file ends with a newline
    if not stripped:
        raise MissingKey("`STRIPE_API_KEY` is empty; set it to a secret or restricted key of the Stripe account.")
    if not (stripped.isascii() and stripped.isprintable()):
        raise MissingKey("`STRIPE_API_KEY` holds a character that an HTTP header can't carry; copy the key again.")
    return stripped


def _checked_base(url: str) -> str:
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url.rstrip("/")
    raise InvalidInput("`STRIPE_API_BASE` must be the URL of a server, for example `http://localhost:12111`.")
