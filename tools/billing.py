"""Customers, invoices and refunds: what an agent may ask for, and the rules of the business. The connector does the I/O."""

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field

from policies.errors import ToolRefusal
from policies.models import ResourceFacts
from tools.spec import Arguments, Connector, Result, ToolContext, tool

__all__ = ["Billing", "Customer", "Invoice", "Invoices", "Refund"]

InvoiceId = Annotated[str, Field(pattern=r"^in_[A-Za-z0-9]{1,40}$", description="Invoice id, for example in_1001.")]
CustomerId = Annotated[str, Field(pattern=r"^cus_[A-Za-z0-9]{1,40}$", description="Customer id, for example cus_101.")]


class Customer(Result):
    customer_id: str
    name: str
    email: str
    plan: str


class Invoice(Result):
    """An invoice; amounts in cents."""

    invoice_id: str
    customer_id: str
    description: str
    status: Literal["draft", "open", "paid", "void"]
    amount_cents: int
    refunded_cents: int
    currency: str
    issued_on: str

    @property
    def refundable_cents(self) -> int:
        return self.amount_cents - self.refunded_cents if self.status == "paid" else 0


class Invoices(Result):
    invoices: tuple[Invoice, ...]


class Refund(Result):
    refund_id: str
    invoice_id: str
    amount_cents: int
    currency: str


class EmailChanged(Result):
    customer_id: str
    email: str


class Billing(Connector):
    """Port to the billing system."""

    @abstractmethod
    async def customer(self, customer_id: str) -> Customer | None: ...

    @abstractmethod
    async def invoice(self, invoice_id: str) -> Invoice | None: ...

    @abstractmethod
    async def invoices(self, customer_id: str) -> tuple[Invoice, ...]: ...

    @abstractmethod
    async def refund(self, invoice_id: str, amount_cents: int, reason: str, *, idempotency_key: str) -> Refund:
        """Refund once per key: the same key gives the same refund."""

    @abstractmethod
    async def set_email(self, customer_id: str, email: str, *, idempotency_key: str) -> None: ...


class GetCustomer(Arguments):
    customer_id: CustomerId


class ListInvoices(Arguments):
    customer_id: CustomerId


class GetInvoice(Arguments):
    invoice_id: InvoiceId


class SetCustomerEmail(Arguments):
    customer_id: CustomerId
    email: Annotated[str, Field(pattern=r"^[^@\s]{1,64}@[^@\s]{1,190}\.[A-Za-z]{2,24}$", description="The new address.")]


class RequestRefund(Arguments):
    invoice_id: InvoiceId
    amount_cents: Annotated[int, Field(gt=0, le=1_000_000, description="Amount in cents: $49.00 is 4900.")]
    currency: Literal["USD"] = "USD"
    reason: Literal["duplicate", "service_issue", "goodwill", "cancelled", "billing_error"]


async def customer_facts(args: GetCustomer | ListInvoices | SetCustomerEmail, context: ToolContext) -> ResourceFacts:
    found = await context.use(Billing).customer(args.customer_id)
    return ResourceFacts(exists=found is not None, owner=f"Customer:{args.customer_id}" if found else "")


async def invoice_facts(args: GetInvoice | RequestRefund, context: ToolContext) -> ResourceFacts:
    invoice = await context.use(Billing).invoice(args.invoice_id)
    if invoice is None:
        return ResourceFacts(exists=False)
    return ResourceFacts(
        owner=f"Customer:{invoice.customer_id}",
        status=invoice.status,
        available_cents=invoice.refundable_cents,
        currency=invoice.currency,
    )


def refund_rules(args: RequestRefund, facts: ResourceFacts) -> None:
    if facts.status != "paid":
        raise ToolRefusal("not_paid", f"Invoice `{args.invoice_id}` is {facts.status}; only a paid invoice can be refunded.")
    if args.currency != facts.currency:
        raise ToolRefusal("wrong_currency", f"Invoice `{args.invoice_id}` is in {facts.currency}.")
    if args.amount_cents > facts.available_cents:
        raise ToolRefusal(
            "not_refundable", f"Only {facts.available_cents} cents of invoice `{args.invoice_id}` can still be refunded."
        )


@tool(
    effect="read",
    risk="low",
    scope="customers:read",
    resource=("Customer", "customer_id"),
    facts=customer_facts,
    fast=True,
)
async def get_customer(args: GetCustomer, context: ToolContext) -> Customer:
    """Look up a customer: name, e-mail address and plan."""
    found = await context.use(Billing).customer(args.customer_id)
    if found is None:
        raise ToolRefusal("not_found", f"There is no customer `{args.customer_id}`.")
    return found


@tool(
    effect="write",
    risk="medium",
    scope="customers:write",
    resource=("Customer", "customer_id"),
    facts=customer_facts,
    idempotency="native_key",
)
async def set_customer_email(args: SetCustomerEmail, context: ToolContext) -> EmailChanged:
    """Change the e-mail address on a customer's account."""
    await context.use(Billing).set_email(args.customer_id, args.email, idempotency_key=context.idempotency_key)
    return EmailChanged(customer_id=args.customer_id, email=args.email)


@tool(
    effect="read",
    risk="low",
    scope="invoices:read",
    resource=("Customer", "customer_id"),
    facts=customer_facts,
    fast=True,
)
async def list_invoices(args: ListInvoices, context: ToolContext) -> Invoices:
    """List a customer's invoices, newest first, with what was paid and refunded."""
    return Invoices(invoices=await context.use(Billing).invoices(args.customer_id))


@tool(
    effect="read",
    risk="low",
    scope="invoices:read",
    resource=("Invoice", "invoice_id"),
    facts=invoice_facts,
    fast=True,
)
async def get_invoice(args: GetInvoice, context: ToolContext) -> Invoice:
    """Look up one invoice: its status, amount, and what was already refunded."""
    invoice = await context.use(Billing).invoice(args.invoice_id)
    if invoice is None:
        raise ToolRefusal("not_found", f"There is no invoice `{args.invoice_id}`.")
    return invoice


@tool(
    effect="write",
    risk="high",
    scope="refunds:write",
    resource=("Invoice", "invoice_id"),
    amount=("amount_cents", "currency"),
    facts=invoice_facts,
    rules=refund_rules,
    idempotency="native_key",
)
async def request_refund(args: RequestRefund, context: ToolContext) -> Refund:
    """Refund part or all of a paid invoice to the customer. Larger amounts wait for people to approve."""
    return await context.use(Billing).refund(
        args.invoice_id, args.amount_cents, args.reason, idempotency_key=context.idempotency_key
    )
