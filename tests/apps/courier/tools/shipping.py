"""One tool for each idempotency strategy, over the depot of `depot.py`."""

from typing import Annotated

from pydantic import Field

from policies.models import ResourceFacts
from tools.spec import Arguments, Result, ToolContext, tool

from .depot import Depot


class Ship(Arguments):
    order_id: Annotated[str, Field(pattern=r"^O-[0-9]{1,9}$")]


class Shipped(Result):
    parcel: int


async def facts(args: Ship, context: ToolContext) -> ResourceFacts:
    customer = await context.use(Depot).customer(args.order_id)
    return ResourceFacts(exists=customer is not None, owner=f"Customer:{customer}" if customer else "")


async def find(args: Ship, context: ToolContext) -> Shipped | None:
    parcel = await context.use(Depot).find(args.order_id, idempotency_key=context.idempotency_key)
    return None if parcel is None else Shipped(parcel=parcel)


async def ship(args: Ship, context: ToolContext, *, dedupe: bool = False) -> Shipped:
    depot = context.use(Depot)
    return Shipped(parcel=await depot.ship(args.order_id, idempotency_key=context.idempotency_key, dedupe=dedupe))


@tool(effect="write", risk="low", scope="parcels:write", resource=("Order", "order_id"), facts=facts, idempotency="native_key")
async def ship_by_key(args: Ship, context: ToolContext) -> Shipped:
    """Ship an order; the depot honours idempotency keys."""
    return await ship(args, context, dedupe=True)


@tool(
    effect="write",
    risk="low",
    scope="parcels:write",
    resource=("Order", "order_id"),
    facts=facts,
    idempotency="lookup",
    lookup=find,
    settle_seconds=4,
)
async def ship_by_search(args: Ship, context: ToolContext) -> Shipped:
    """Ship an order; the depot can be searched, and shows each parcel at once."""
    return await ship(args, context)


@tool(
    effect="write",
    risk="low",
    scope="parcels:write",
    resource=("Order", "order_id"),
    facts=facts,
    idempotency="lookup",
    lookup=find,
)
async def ship_by_slow_search(args: Ship, context: ToolContext) -> Shipped:
    """Ship an order; the depot can be searched, and shows a parcel sooner or later."""
    return await ship(args, context)


@tool(
    effect="write", risk="low", scope="parcels:write", resource=("Order", "order_id"), facts=facts, idempotency="at_most_once"
)
async def ship_blindly(args: Ship, context: ToolContext) -> Shipped:
    """Ship an order; the depot knows no keys and can't be searched."""
    return await ship(args, context)
