"""Mailboxes and exports: an app's tools whose results are long, some of them text from outside."""

from typing import Annotated

from pydantic import Field

from policies.models import ResourceFacts
from tools.spec import Arguments, Result, ToolContext, tool
from tools.support import Support


class Export(Arguments):
    kind: Annotated[str, Field(pattern=r"^[a-z]{1,20}$")]
    lines: Annotated[int, Field(ge=1, le=200_000)]


class Text(Result):
    text: str


class Archive(Arguments):
    customer_id: Annotated[str, Field(pattern=r"^cus_[A-Za-z0-9]{1,40}$")]
    lines: Annotated[int, Field(ge=1, le=200_000)]


def text(kind: str, lines: int) -> str:
    """Different in each line, and not all ASCII."""
    return "\n".join(f"{kind} line {n:06} – naïve café" for n in range(lines))


@tool(effect="read", risk="low", scope="archive:read", resource=("Archive", "kind"))
async def export(args: Export, context: ToolContext) -> Text:
    """Export our own records."""
    return Text(text=text(args.kind, args.lines))


@tool(effect="read", risk="low", scope="archive:read", resource=("Archive", "kind"), untrusted=True, fast=True)
async def read_mailbox(args: Export, context: ToolContext) -> Text:
    """Read all that strangers have written to us."""
    return Text(text=text(args.kind, args.lines))


async def facts(args: Archive, context: ToolContext) -> ResourceFacts:
    return ResourceFacts(owner=f"Customer:{args.customer_id}")


@tool(
    effect="write",
    risk="low",
    scope="archive:write",
    resource=("Customer", "customer_id"),
    facts=facts,
    idempotency="native_key",
)
async def archive(args: Archive, context: ToolContext) -> Text:
    """Archive a customer's records; returns what was archived."""
    key = context.idempotency_key
    await context.use(Support).add_note(args.customer_id, "archived", "internal", idempotency_key=key)
    return Text(text=text(args.customer_id, args.lines))
