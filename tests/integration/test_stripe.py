"""Whole runs whose refunds go to Stripe: a fake of it that others wrote, over real HTTP with the real SDK."""

import json
from collections.abc import AsyncGenerator, Iterator

import pytest
from pydantic import SecretStr

from policies.errors import MissingKey
from remit.embedded import TemporalServer
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tests.wire.stripe.mock import KEY, Fault, StripeMock
from tools.connectors import sandbox
from workflows.messages import ScriptTurn


@pytest.fixture(scope="module")
def running() -> Iterator[StripeMock]:
    """A Stripe that answers for this module."""
    with StripeMock() as mock:
        yield mock


@pytest.fixture
def stripe(running: StripeMock) -> StripeMock:
    """It, with no fault left over."""
    running.fail()
    return running


@pytest.fixture
async def customer(stripe: StripeMock) -> str:
    """A Stripe customer with a card."""
    return str(stripe.post("customers", source="tok_visa", email="ann@example.com", name="Ann")["id"])


@pytest.fixture
async def engine(
    server: TemporalServer, stripe: StripeMock, customer: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Engine]:
    """An engine whose tickets are the sandbox's and whose billing is Stripe's; `T-1001` is the customer's."""
    home = tmp_path_factory.mktemp("stripe")
    business = json.loads((ROOT / "demo" / "business.json").read_text())
    business["tickets"][0]["customer_id"] = customer
    sandbox.create(home / "business.db", business)
    settings = {
        "connector_billing": "stripe",
        "stripe_api_key": SecretStr(KEY),
        "stripe_api_base": stripe.url,
        "stripe_invoices": "charges",
    }
    async with Engine(await server.ready(), home, overrides=settings) as found:
        yield found


def refund(charge: str, cents: int) -> ScriptTurn:
    return turn(call("request_refund", invoice_id=charge.replace("ch_", "in_"), amount_cents=cents, reason="duplicate"))


async def test_a_refund_arrives_once(engine: Engine, stripe: StripeMock, customer: str) -> None:
    """A run's refund is made at Stripe under the ledger's key, exactly once."""
    charge = stripe.charge(4900, customer=customer, source=stripe.call("GET", f"/v1/customers/{customer}")["default_source"])
    done = await engine.run([refund(charge, 4900), final()])
    assert [c.status for c in done.calls] == ["done"]
    assert [r["amount"] for r in stripe.refunds(charge)] == [4900]
    assert [(e.state, e.attempts) for e in engine.effects()] == [("done", 1)]
    assert engine.rows("refunds") == []


@pytest.mark.parametrize("fault", ["429", "500", "500_after", "drop_after"])
async def test_a_fault_is_retried_and_never_doubled(engine: Engine, stripe: StripeMock, customer: str, fault: Fault) -> None:
    """Whether Stripe failed before or after it refunded, the retry leaves exactly one refund and a ledger that says done."""
    charge = stripe.charge(4900, customer=customer, source=stripe.call("GET", f"/v1/customers/{customer}")["default_source"])
    stripe.fail(fault)
    done = await engine.run([refund(charge, 4900), final()])
    assert [c.status for c in done.calls] == ["done"]
    assert [r["amount"] for r in stripe.refunds(charge)] == [4900]
    assert [(e.state, e.attempts) for e in engine.effects()] == [("done", 2)]


async def test_another_customers_charge_is_refused(engine: Engine, stripe: StripeMock) -> None:
    """Whose charge it is comes from Stripe, not from the model."""
    other = str(stripe.post("customers", source="tok_visa")["id"])
    charge = stripe.charge(4900, customer=other, source=stripe.call("GET", f"/v1/customers/{other}")["default_source"])
    done = await engine.run([refund(charge, 4900), final()])
    assert [c.reason for c in done.calls] == ["not_subject"]
    assert stripe.refunds(charge) == []


async def test_stripe_without_a_key_is_one_sentence(server: TemporalServer, engine: Engine) -> None:
    """A worker that should use Stripe and has no key doesn't start."""
    with pytest.raises(MissingKey, match="^`REMIT_CONNECTOR_BILLING=stripe` needs `STRIPE_API_KEY`.$"):
        async with Engine(await server.ready(), engine.home, overrides={"connector_billing": "stripe"}):
            pass
