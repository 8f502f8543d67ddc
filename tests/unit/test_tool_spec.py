"""What `@tool` refuses to register, and what a registered tool refuses to parse."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, create_model

from policies.errors import ToolInvalid, ToolRefusal
from policies.models import Effect, Idempotency, Money, ResourceFacts, ResourceRef
from tools.billing import Billing, RequestRefund
from tools.builtin import CATALOG
from tools.spec import Arguments, Connector, Result, ToolContext, ToolSpec, spec_of, tool


class Ref(Arguments):
    thing_id: str
    cents: int = 0
    currency: str = "USD"


class Odd(Arguments):
    run: Callable[[], None]


class Done(Result):
    pass


async def facts(args: Ref, context: ToolContext) -> ResourceFacts:
    return ResourceFacts()


async def touch(args: Ref, context: ToolContext) -> Done:
    """Touch a thing."""
    return Done()


@dataclass(frozen=True)
class Declared:
    """What `@tool` is given; by default a good write."""

    effect: Effect = "write"
    resource: tuple[str, str] = ("Thing", "thing_id")
    idempotency: Idempotency | None = "native_key"
    amount: tuple[str, str] | None = None
    facts: Callable[[Any, ToolContext], Awaitable[ResourceFacts]] | None = facts
    fast: bool = False
    lookup: Callable[..., Any] | None = None
    settle_seconds: int | None = None

    def attach(self, function: Any) -> ToolSpec:
        tool(
            effect=self.effect,
            risk="low",
            scope="things:write",
            resource=self.resource,
            idempotency=self.idempotency,
            amount=self.amount,
            facts=self.facts,
            fast=self.fast,
            lookup=self.lookup,
            settle_seconds=self.settle_seconds,
        )(function)
        spec = spec_of(function)
        assert spec
        return spec


def sync(args: Ref, context: ToolContext) -> Done:
    """Touch a thing."""
    return Done()


async def silent(args: Ref, context: ToolContext) -> Done:
    return Done()


async def blank(args: Ref, context: ToolContext) -> Done:
    """ """
    return Done()


async def one(args: Ref) -> Done:
    """Touch a thing."""
    return Done()


async def three(args: Ref, context: ToolContext, more: int) -> Done:
    """Touch a thing."""
    return Done()


async def plain(args: dict[str, str], context: ToolContext) -> Done:
    """Touch a thing."""
    return Done()


async def untyped(args: Ref, context: ToolContext) -> Done:
    """Touch a thing."""
    return Done()


async def nowhere(args: Ref, context: ToolContext) -> Done:
    """Touch a thing."""
    return Done()


del untyped.__annotations__["args"]
nowhere.__annotations__["args"] = "Missing"


async def text(args: Ref, context: ToolContext) -> str:
    """Touch a thing."""
    return ""


async def odd(args: Odd, context: ToolContext) -> Done:
    """Touch a thing."""
    return Done()


async def find(args: Ref, context: ToolContext) -> Done | None:
    return None


def find_now(args: Ref, context: ToolContext) -> Done | None:
    return None


async def find_all(context: ToolContext) -> Done | None:
    return None


@dataclass(frozen=True)
class Wrong:
    declared: Declared
    function: Callable[..., object]
    message: str


def must(name: str, what: str) -> str:
    return f"Tool `{name}` must be `async def {name}(args: SomeArguments, context: ToolContext) -> SomeResult`; {what}"


NO_ARGUMENTS = "its first parameter isn't annotated with a subclass of `Arguments`."
WRITE, READ = Declared(), Declared(effect="read", idempotency=None)
SEARCHED = Declared(idempotency="lookup", lookup=find, settle_seconds=2)
NO_LOOKUP = 'Tool `touch`: `lookup` and `settle_seconds` are for `idempotency="lookup"` only; remove them.'
WRONG_LOOKUP = "Tool `touch`: `lookup` must be `async def lookup(args, context) -> SomeResult | None`."
WRONG_TIME = "Tool `touch`: `settle_seconds` is {}; use 1 to 20, or leave it out if the vendor may need longer."
WRONG = (
    Wrong(WRITE, sync, must("sync", "it isn't async.")),
    Wrong(WRITE, one, must("one", NO_ARGUMENTS)),
    Wrong(WRITE, three, must("three", NO_ARGUMENTS)),
    Wrong(WRITE, plain, must("plain", NO_ARGUMENTS)),
    Wrong(WRITE, untyped, must("untyped", NO_ARGUMENTS)),
    Wrong(WRITE, text, must("text", "it doesn't return a subclass of `Result`.")),
    Wrong(WRITE, nowhere, must("nowhere", "name 'Missing' is not defined.")),
    Wrong(
        WRITE,
        odd,
        "Tool `odd`: `Odd` has no JSON Schema: Cannot generate a JsonSchema for core_schema.CallableSchema.",
    ),
    Wrong(
        Declared(idempotency=None),
        touch,
        "Tool `touch` writes but declares no `idempotency`; use `native_key`, `lookup` or `at_most_once`.",
    ),
    Wrong(Declared(facts=None), touch, "Tool `touch` writes but declares no `facts`; say how to learn who owns its resource."),
    Wrong(Declared(fast=True), touch, "Tool `touch` writes, so it can't be `fast`: writes never run as local activities."),
    Wrong(Declared(effect="read"), touch, "Tool `touch` reads, so it needs no `idempotency`; remove it."),
    Wrong(Declared(lookup=find), touch, NO_LOOKUP),
    Wrong(Declared(idempotency="at_most_once", settle_seconds=2), touch, NO_LOOKUP),
    Wrong(Declared(effect="read", idempotency=None, lookup=find), touch, NO_LOOKUP),
    Wrong(
        Declared(idempotency="lookup"),
        touch,
        "Tool `touch` declares `lookup` but has no function for it; give `lookup=`, which asks the vendor.",
    ),
    Wrong(replace(SEARCHED, lookup=find_now), touch, WRONG_LOOKUP),
    Wrong(replace(SEARCHED, lookup=find_all), touch, WRONG_LOOKUP),
    Wrong(replace(SEARCHED, settle_seconds=0), touch, WRONG_TIME.format(0)),
    Wrong(replace(SEARCHED, settle_seconds=21), touch, WRONG_TIME.format(21)),
    Wrong(READ, silent, "Tool `silent` has no docstring; say in it what the tool does and when to use it."),
    Wrong(READ, blank, "Tool `blank` has no docstring; say in it what the tool does and when to use it."),
    Wrong(Declared(resource=("Thing", "id")), touch, "Tool `touch`: `Ref` has no argument `id`."),
    Wrong(Declared(amount=("cents", "money")), touch, "Tool `touch`: `Ref` has no argument `money`."),
)


@pytest.mark.parametrize("case", WRONG, ids=lambda c: c.message[:60])
def test_a_wrong_tool_isnt_registered(case: Wrong) -> None:
    """Whatever is wrong with a tool is one sentence, when it is declared and not when it is called."""
    with pytest.raises(ToolInvalid) as caught:
        case.declared.attach(case.function)
    assert caught.value.message == case.message


def test_a_good_tool_is_what_it_declares() -> None:
    """The spec takes its name, its text and its types from the function."""
    spec = Declared(amount=("cents", "currency")).attach(touch)
    assert (spec.id, spec.description, spec.arguments, spec.result) == ("touch@1", "Touch a thing.", Ref, Done)
    assert spec.resource(Ref(thing_id="t-1")) == ResourceRef(type="Thing", id="t-1")
    assert spec.amount(Ref(thing_id="t-1", cents=5)) == Money(cents=5, currency="USD")


def test_a_tool_of_the_only_resource_names_it_by_its_type() -> None:
    """Where there is only one resource of a type, it needs no argument."""
    assert Declared(resource=("Corpus", "")).attach(touch).resource(Ref(thing_id="t-1")) == ResourceRef(
        type="Corpus", id="corpus"
    )


def test_a_tool_that_moves_no_money_has_no_amount() -> None:
    """No amount is None, not zero."""
    assert WRITE.attach(touch).amount(Ref(thing_id="t-1")) is None


def test_what_isnt_a_tool_has_no_spec() -> None:
    """A plain function isn't taken for a tool."""
    assert spec_of(silent) is None
    assert spec_of(None) is None


# ---- digests --------------------------------------------------------------------------------------------------------


def schema(**fields: Any) -> ToolSpec:
    """A read whose arguments are `fields`."""

    async def look(args: Arguments, context: ToolContext) -> Done:
        """Look."""
        return Done()

    look.__annotations__["args"] = create_model("Look", __base__=Arguments, **fields)
    return Declared(effect="read", resource=("Thing", ""), idempotency=None).attach(look)


SCHEMAS: tuple[dict[str, Any], ...] = (
    {"a": (str, ...)},
    {"b": (str, ...)},
    {"a": (int, ...)},
    {"a": (str, "x")},
    {"a": (Annotated[str, Field(max_length=9)], ...)},
    {"a": (Annotated[str, Field(description="The thing.")], ...)},
    {"a": (str, ...), "b": (str, ...)},
)


def test_the_digest_changes_with_the_schema() -> None:
    """Another name, type, default, bound, description or number of arguments is another tool to whoever pinned it."""
    assert len({schema(**fields).digest for fields in SCHEMAS}) == len(SCHEMAS)
    assert schema(**SCHEMAS[0]).digest == schema(**SCHEMAS[0]).digest


DECLARATIONS = (
    WRITE,
    READ,
    Declared(idempotency="at_most_once"),
    SEARCHED,
    replace(SEARCHED, settle_seconds=3),
    replace(SEARCHED, settle_seconds=None),
    Declared(resource=("Object", "thing_id")),
    Declared(resource=("Thing", "")),
    Declared(amount=("cents", "currency")),
)


def test_the_digest_changes_with_what_is_declared() -> None:
    """Effect, resource, amount and idempotency strategy are part of what a reviewer approved."""
    assert len({d.attach(touch).digest for d in DECLARATIONS}) == len(DECLARATIONS)


# ---- parsing --------------------------------------------------------------------------------------------------------

REFUND = CATALOG.get("request_refund")
GOOD: dict[str, object] = {"invoice_id": "in_1001", "amount_cents": 4900, "currency": "USD", "reason": "duplicate"}


@dataclass(frozen=True)
class Bad:
    name: str
    arguments: str
    message: str


def refund_text(**changes: object) -> str:
    return json.dumps({**GOOD, **changes})


BAD = (
    Bad("text for a number", refund_text(amount_cents="4900"), "`amount_cents` Input should be a valid integer"),
    Bad("float for a number", refund_text(amount_cents=4900.0), "`amount_cents` Input should be a valid integer"),
    Bad("boolean for a number", refund_text(amount_cents=True), "`amount_cents` Input should be a valid integer"),
    Bad("null", refund_text(amount_cents=None), "`amount_cents` Input should be a valid integer"),
    Bad("zero", refund_text(amount_cents=0), "`amount_cents` Input should be greater than 0"),
    Bad("too much", refund_text(amount_cents=1_000_001), "`amount_cents` Input should be less than or equal to 1000000"),
    Bad("extra field", refund_text(force=True), "`force` Extra inputs are not permitted"),
    Bad("missing field", '{"invoice_id": "in_1001", "reason": "goodwill"}', "`amount_cents` Field required"),
    Bad("other word", refund_text(reason="because"), "`reason` Input should be 'duplicate', 'service_issue'"),
    Bad("other currency", refund_text(currency="EUR"), "`currency` Input should be 'USD'"),
    Bad("unicode digits", refund_text(invoice_id="in_１００１"), "`invoice_id` String should match pattern"),
    Bad("unicode letter", refund_text(invoice_id="ín_1001"), "`invoice_id` String should match pattern"),
    Bad("newline at the end", refund_text(invoice_id="in_1001\n"), "`invoice_id` String should match pattern"),
    Bad("blank at the end", refund_text(invoice_id="in_1001 "), "`invoice_id` String should match pattern"),
    Bad("zero width", refund_text(invoice_id="in_1001\u200b"), "`invoice_id` String should match pattern"),
    Bad("a path", refund_text(invoice_id="in_1/../2"), "`invoice_id` String should match pattern"),
    Bad("not JSON", "{invoice_id: in_1001}", "`$` Invalid JSON: key must be a string"),
    Bad("cut off", '{"invoice_id": "in_1', "`$` Invalid JSON: EOF while parsing"),
    Bad("empty", "", "`$` Invalid JSON: EOF while parsing"),
    Bad("not an object", "[4900]", "`$` Input should be an object"),
    Bad("object in quotes", json.dumps(refund_text()), "`$` Input should be an object"),
    Bad("lone surrogate", refund_text().replace("in_1001", r"in_\ud800"), "`$` Invalid JSON"),
    Bad("deep", "[" * 10_000, "`$` Invalid JSON"),
    Bad("endless number", refund_text().replace("4900", "9" * 5000), "`$` Invalid JSON: number out of range"),
)


@pytest.mark.parametrize("case", BAD, ids=lambda c: c.name)
def test_arguments_are_parsed_strictly(case: Bad) -> None:
    """A model's arguments are taken as they are or refused, with the field and what is wrong with it."""
    with pytest.raises(ToolRefusal) as caught:
        REFUND.parse(case.arguments)
    assert caught.value.reason == "validation_failed"
    assert caught.value.message.startswith(f"`request_refund`: {case.message}")
    assert len(caught.value.message) < 600


def test_good_arguments_are_parsed() -> None:
    """Defaults are filled in, and nothing else is changed."""
    text = '{"invoice_id": "in_1001", "amount_cents": 4900, "reason": "goodwill"}'
    assert REFUND.parse(text) == RequestRefund(invoice_id="in_1001", amount_cents=4900, currency="USD", reason="goodwill")


@given(st.text() | st.dictionaries(st.text(), st.integers() | st.text() | st.none()).map(json.dumps))
def test_no_text_raises_anything_but_a_refusal(text: str) -> None:
    """Junk that a model gives as arguments is refused by every tool."""
    for spec in CATALOG.specs.values():
        with pytest.raises(ToolRefusal):
            spec.parse(text)


@given(cents=st.integers(), currency=st.text(max_size=4))
def test_what_is_parsed_can_be_named_and_counted(cents: int, currency: str) -> None:
    """Arguments that have no digest or no amount are refused; in the workflow they would fail its task for ever."""
    spec = Declared(amount=("cents", "currency")).attach(touch)
    text = json.dumps({"thing_id": "t-1", "cents": cents, "currency": currency})
    usable = 0 <= cents < 2**53 and len(currency) == 3 and all("A" <= c <= "Z" for c in currency)
    if usable:
        assert spec.amount(spec.parse(text)) == Money(cents=cents, currency=currency)
    else:
        with pytest.raises(ToolRefusal) as caught:
            spec.parse(text)
        assert caught.value.reason == "validation_failed"


def test_an_integer_beyond_json_is_refused() -> None:
    """An integer that canonical JSON can't hold is refused where the arguments are parsed, with the tool's name."""
    with pytest.raises(ToolRefusal) as caught:
        WRITE.attach(touch).parse(json.dumps({"thing_id": "t-1", "cents": 2**53}))
    assert (
        caught.value.message
        == "`touch`: an argument is out of range; integers go up to 2**53 - 1, amounts from 0, in a currency."
    )


# ---- connectors -----------------------------------------------------------------------------------------------------


class Other(Connector):
    pass


def test_a_tool_uses_the_connector_of_its_port() -> None:
    """The connector that is configured for a port is the one that is used."""
    other = Other()
    assert ToolContext(subject="", connectors={Other: other}).use(Other) is other


def test_a_missing_connector_is_named() -> None:
    """A worker without the connector says which one is missing."""
    with pytest.raises(ToolInvalid) as caught:
        ToolContext(subject="", connectors={Other: Other()}).use(Billing)
    assert caught.value.message == "No connector for `Billing` is configured on this worker."
