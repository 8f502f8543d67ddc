"""Permission changes and deletes: an app's tools of high and of critical risk, over the notes of the support desk."""

from typing import Annotated

from pydantic import Field

from policies.models import ResourceFacts
from tools.spec import Arguments, Result, ToolContext, tool
from tools.support import Support


class Account(Arguments):
    customer_id: Annotated[str, Field(pattern=r"^cus_[A-Za-z0-9]{1,40}$")]


class Noted(Result):
    note_id: str


async def facts(args: Account, context: ToolContext) -> ResourceFacts:
    return ResourceFacts(owner=f"Customer:{args.customer_id}")


async def note(args: Account, context: ToolContext, text: str) -> Noted:
    support = context.use(Support)
    return Noted(note_id=await support.add_note(args.customer_id, text, "internal", idempotency_key=context.idempotency_key))


@tool(
    effect="write",
    risk="high",
    scope="accounts:write",
    resource=("Customer", "customer_id"),
    facts=facts,
    idempotency="native_key",
)
async def grant_admin(args: Account, context: ToolContext) -> Noted:
    """Make the customer an administrator of their account."""
    return await note(args, context, "admin granted")


@tool(
    effect="write",
    risk="critical",
    scope="accounts:write",
    resource=("Customer", "customer_id"),
    facts=facts,
    idempotency="native_key",
)
async def close_account(args: Account, context: ToolContext) -> Noted:
    """Close the customer's account and delete what is in it."""
    return await note(args, context, "account closed")
