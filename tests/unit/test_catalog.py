"""The catalog of tools, and the Cedar schema that is made of it."""

import enum
import json
from dataclasses import dataclass
from datetime import datetime
from types import ModuleType
from typing import Annotated, Any, Literal

import cedarpy
import pytest
from pydantic import BaseModel, Field, create_model

from policies.bundle import Bundle, CompiledPolicy
from policies.errors import PolicyInvalid, ToolInvalid, ToolRefusal
from tools import incidents
from tools.builtin import CATALOG
from tools.catalog import Catalog
from tools.spec import Arguments, Result, ToolContext, ToolSpec, spec_of, tool


class Nothing(Result):
    pass


class Colour(enum.StrEnum):
    RED = "red"


class Rank(enum.IntEnum):
    LOW = 1


class Address(BaseModel):
    street: str
    floor: int | None = None


class Tree(BaseModel):
    children: list["Tree"]


def made(
    name: str = "look", *, arguments: type[Arguments] = Arguments, resource: str = "Thing", text: str = "Look."
) -> ToolSpec:
    """A tool called `name` with `arguments`."""

    async def run(args: Arguments, context: ToolContext) -> Nothing:
        return Nothing()

    run.__name__, run.__doc__ = name, text
    run.__annotations__["args"] = arguments
    tool(effect="read", risk="low", scope="things:read", resource=(resource, ""))(run)
    spec = spec_of(run)
    assert spec
    return spec


def of_type(annotation: Any, default: Any = ...) -> type[Arguments]:
    return create_model("Wanted", __base__=Arguments, value=(annotation, default))


def cedar(arguments: type[Arguments]) -> dict[str, Any]:
    """The Cedar type of the argument `value`."""
    schema = json.loads(Catalog([made(arguments=arguments)]).cedar_schema)
    context = schema["Remit"]["actions"]["look"]["appliesTo"]["context"]
    return context["attributes"]["args"]["attributes"]["value"]


SHORT: Any = Annotated[str, Field(max_length=3)]
OPTIONAL: tuple[object, ...] = (str | None, SHORT | None, Annotated[str | None, Field(max_length=3)])


@dataclass(frozen=True)
class Typed:
    name: str
    arguments: type[Arguments]
    cedar: dict[str, object]


STRING: dict[str, object] = {"type": "String"}
LONG: dict[str, object] = {"type": "Long"}
ADDRESS: dict[str, object] = {
    "type": "Record",
    "attributes": {"street": {**STRING, "required": True}, "floor": {**LONG, "required": False}},
}
TYPED = (
    Typed("string", of_type(str), STRING),
    Typed("annotated", of_type(SHORT), STRING),
    Typed("integer", of_type(int), LONG),
    Typed("boolean", of_type(bool), {"type": "Boolean"}),
    Typed("literal", of_type(Literal["a", "b"]), STRING),
    Typed("literal of integers", of_type(Literal[1, 2]), LONG),
    Typed("enum", of_type(Colour), STRING),
    Typed("list", of_type(list[int]), {"type": "Set", "element": LONG}),
    Typed("tuple", of_type(tuple[str, ...]), {"type": "Set", "element": STRING}),
    Typed("set", of_type(frozenset[bool]), {"type": "Set", "element": {"type": "Boolean"}}),
    Typed("nested", of_type(Address), ADDRESS),
    Typed("list of nested", of_type(list[Address]), {"type": "Set", "element": ADDRESS}),
    Typed("list of annotated", of_type(list[SHORT]), {"type": "Set", "element": STRING}),
)


@pytest.mark.parametrize("case", TYPED, ids=lambda c: c.name)
def test_an_argument_has_its_cedar_type(case: Typed) -> None:
    """Each type that arguments may have becomes its counterpart in the schema, and is required."""
    assert cedar(case.arguments) == {**case.cedar, "required": True}


@pytest.mark.parametrize("annotation", OPTIONAL, ids=str)
def test_an_optional_argument_isnt_required(annotation: object) -> None:
    """An argument that may be null is an attribute that may be absent, for Cedar has no null."""
    assert cedar(of_type(annotation, None)) == {**STRING, "required": False}


def test_an_argument_with_a_default_is_always_there() -> None:
    """A default is filled in before the policy sees the arguments, so the attribute is required."""
    assert cedar(of_type(int, 3)) == {**LONG, "required": True}


@dataclass(frozen=True)
class Untyped:
    annotation: Any
    what: str


UNTYPED = (
    Untyped(float, "`float` has no Cedar type"),
    Untyped(datetime, "`datetime` has no Cedar type"),
    Untyped(dict[str, str], "`dict` has no Cedar type"),
    Untyped(list, "`list` has no Cedar type"),
    Untyped(Rank, "`Rank` has no Cedar type"),
    Untyped(tuple[int, str], "`tuple` has no Cedar type"),
    Untyped(tuple[()], "`tuple` has no Cedar type"),
    Untyped(Any, "`Any` has no Cedar type"),
    Untyped(Literal["a", 1], "`Literal` has no Cedar type"),
    Untyped(Literal[True], "`Literal` has no Cedar type"),
    Untyped(int | str, "`value` is a union, which has no Cedar type"),
    Untyped(int | str | None, "`value` is a union, which has no Cedar type"),
    Untyped(list[int | None], "`int | None` has no Cedar type"),
    Untyped(Tree, "`Tree` contains itself, which has no Cedar type"),
)


@pytest.mark.parametrize("case", UNTYPED, ids=lambda c: str(c.annotation))
def test_a_type_without_a_cedar_counterpart_is_refused(case: Untyped) -> None:
    """A tool that policies couldn't judge isn't registered, and the sentence says what to use instead."""
    with pytest.raises(ToolInvalid) as caught:
        Catalog([made(arguments=of_type(case.annotation))])
    assert caught.value.message == f"Tool `look`: {case.what}; use strings, integers, booleans, literals, lists or models."


def test_two_tools_cant_share_a_name() -> None:
    """A name means one tool."""
    with pytest.raises(ToolInvalid) as caught:
        Catalog([made(), made(text="Another one.")])
    assert caught.value.message == "Two tools are called `look`; rename one."


def test_catalogs_add_up() -> None:
    """An app's tools join those that ship, and a clash of names is refused."""
    both = CATALOG + Catalog([made()])
    assert set(both.specs) == {*CATALOG.specs, "look"}
    with pytest.raises(ToolInvalid, match=r"^Two tools are called `get_ticket`; rename one\.$"):
        _ = CATALOG + Catalog([made("get_ticket")])


@pytest.mark.parametrize("name", ["read", "write", "final_answer"])
def test_reserved_names_are_refused(name: str) -> None:
    """A tool can't take the name of an action group in policies, or of what ends a run."""
    with pytest.raises(ToolInvalid) as caught:
        Catalog([made(name)])
    assert caught.value.message == f"A tool can't be called `{name}`: the name is taken; rename it."


@pytest.mark.parametrize("resource", ["Agent", "Role", "", "my thing", "Ding-1", "Größe"])
def test_a_resource_type_that_cedar_cant_name_is_refused(resource: str) -> None:
    """A resource's type is an identifier in policies, and not one that means something else there."""
    with pytest.raises(ToolInvalid) as caught:
        Catalog([made(resource=resource)])
    assert caught.value.message == (
        f"Tool `look`: `{resource}` can't be a resource type; use a word of letters and digits other than `Agent` and `Role`."
    )


def test_a_module_gives_the_tools_that_it_defines() -> None:
    """What a module only imports isn't registered twice."""
    module = ModuleType("app")
    vars(module).update({n: v for n, v in vars(incidents).items() if not n.startswith("__")})
    assert Catalog.of(module).specs == {}
    assert set(Catalog.of(incidents).specs) == {"get_alert", "open_incident", "add_incident_note"}


def test_an_unknown_tool_is_refused_by_name() -> None:
    """A name that a model made up comes back to it, cut short."""
    with pytest.raises(ToolRefusal) as caught:
        CATALOG.get("x" * 500)
    assert caught.value.reason == "unknown_tool"
    assert caught.value.message == f"There is no tool `{'x' * 80}`; use one of those offered."


def test_the_digest_follows_the_tools() -> None:
    """The order of registration doesn't matter; another tool, or another text for the model, does."""
    one, two = made("one"), made("two")
    assert Catalog([one, two]).digest == Catalog([two, one]).digest
    assert len({Catalog(specs).digest for specs in ([one], [two], [one, two], [made("one", text="Else.")])}) == 4


def test_cedar_reads_the_schema() -> None:
    """The generated schema is one that Cedar accepts."""
    cedarpy.Schema.from_json_str(CATALOG.cedar_schema)


def test_an_optional_argument_must_be_asked_for() -> None:
    """A policy that uses an optional argument without `has` is refused, for Cedar would skip it where it is absent."""
    schema = Catalog([made(arguments=of_type(str | None, None))]).cedar_schema
    rule = '@id("a") forbid (principal, action == Remit::Action::"look", resource) when {{ {} context.args.value == "x" }};'
    CompiledPolicy.parse(Bundle(name="b", policy=rule.format("context.args has value &&"), limits_toml=""), schema)
    with pytest.raises(PolicyInvalid, match=r"unable to guarantee safety of access to optional attribute `args\.value`"):
        CompiledPolicy.parse(Bundle(name="b", policy=rule.format(""), limits_toml=""), schema)


def test_each_write_says_how_it_happens_once() -> None:
    """Of the tools that ship, those that write declare an idempotency strategy and their facts, and none is fast."""
    writes = [s for s in CATALOG.specs.values() if s.effect == "write"]
    assert {s.name for s in writes} == {
        "add_account_note",
        "add_incident_note",
        "draft_reply",
        "open_incident",
        "request_refund",
        "set_customer_email",
        "tag_ticket",
    }
    assert [s.name for s in writes if not s.idempotency or not s.facts or s.fast] == []


def test_no_tool_mutes_an_alert() -> None:
    """Nothing that ships writes to an alert except the opening of an incident for it, and nothing is called a mute."""
    touching = {s.name for s in CATALOG.specs.values() if s.resource_type == "Alert" and s.effect == "write"}
    assert touching == {"open_incident"}
    words = ("mute", "silence", "snooze", "resolve", "acknowledge", "suppress", "disable")
    assert [n for n in (*CATALOG.specs, *vars(incidents.Incidents)) if any(w in n.lower() for w in words)] == []


def test_only_refunds_move_money() -> None:
    """One tool that ships moves money, and it needs a scope of its own."""
    moving = {s.name: s.scope for s in CATALOG.specs.values() if s.amount_fields}
    assert moving == {"request_refund": "refunds:write"}
    assert [s.name for s in CATALOG.specs.values() if s.scope == "refunds:write"] == ["request_refund"]
