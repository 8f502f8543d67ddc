"""An app's tools, in a file that is called like one of Remit's own, over the help desk of `desk.py`."""

from typing import Annotated, Literal

from pydantic import Field

from policies.errors import ToolRefusal
from policies.models import ResourceFacts
from tools.billing import Billing  # Remit's own, though this file has the same name
from tools.spec import Arguments, Result, ToolContext, tool

from .desk import Desk


class CloseCase(Arguments):
    case_id: Annotated[str, Field(pattern=r"^C-[0-9]{1,9}$")]
    outcome: Literal["solved", "goodwill"]
    credit_cents: Annotated[int, Field(ge=0)] = 0


class Closed(Result):
    case_id: str
    customer: str


async def facts(args: CloseCase, context: ToolContext) -> ResourceFacts:
    customer = await context.use(Desk).customer(args.case_id)
    return ResourceFacts(exists=customer is not None, owner=f"Customer:{customer}" if customer else "")


def rules(args: CloseCase, facts: ResourceFacts) -> None:
    from ._rules import CREDITED  # as late as can be: in workflow code, inside the sandbox

    if args.credit_cents and args.outcome not in CREDITED:
        raise ToolRefusal("no_credit", "A solved case gets no credit; close it as `goodwill`.")


@tool(
    effect="write",
    risk="medium",
    scope="cases:write",
    resource=("Case", "case_id"),
    facts=facts,
    rules=rules,
    idempotency="native_key",
)
async def close_case(args: CloseCase, context: ToolContext) -> Closed:
    """Close a case of the help desk."""
    customer = await context.use(Desk).customer(args.case_id) or ""
    known = await context.use(Billing).customer(customer)
    await context.use(Desk).close(args.case_id, args.credit_cents, idempotency_key=context.idempotency_key)
    return Closed(case_id=args.case_id, customer=known.name if known else customer)
