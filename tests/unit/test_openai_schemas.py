"""Schemas as OpenAI's strict mode takes them, and arguments without the nulls that it asks for."""

import json
from typing import Any, Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field

from activities.providers.openai_schemas import strict_schema, without_nulls
from tools.registry import CATALOG

Schema = dict[str, Any]


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    item: str
    count: int = Field(default=1, ge=1)


class Order(BaseModel):
    """An order."""

    model_config = ConfigDict(extra="forbid")
    customer: str = Field(pattern=r"^cus_\d+$", min_length=5, description="Who pays.")
    lines: list[Line] = Field(min_length=1)
    note: str | None = None
    kind: Literal["new", "again"] = "new"
    gift: Line | None = None
    first: Line
    currency: Literal["USD"] = "USD"


ORDER = Order.model_json_schema()


def fields(**properties: Schema) -> Schema:
    """The schema of an object with these fields, none of them required."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def holders(schema: object) -> list[Schema]:
    """All objects in `schema` that describe an object."""
    if isinstance(schema, list):
        return [found for one in cast("list[object]", schema) for found in holders(one)]
    if not isinstance(schema, dict):
        return []
    here = cast("Schema", schema)
    return [*([here] if here.get("type") == "object" else []), *holders(list(here.values()))]


@pytest.mark.parametrize("name", sorted(CATALOG.specs))
def test_every_built_in_tool_can_be_strict(name: str) -> None:
    """Each tool that ships has a strict schema, with every field required and nothing open."""
    reduced = strict_schema(CATALOG.get(name).schema)
    assert reduced
    for holder in holders(reduced):
        assert holder["required"] == list(holder["properties"]) and holder["additionalProperties"] is False


def test_optional_fields_become_nullable_and_required() -> None:
    """What may be left out may be null instead, in each shape that a field may have; what was null already stays as it was."""
    reduced = strict_schema(ORDER)
    assert reduced
    properties = cast("Schema", reduced["properties"])
    assert reduced["required"] == ["customer", "lines", "note", "kind", "gift", "first", "currency"]
    assert properties["note"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert properties["kind"]["anyOf"][1] == {"type": "null"}
    assert properties["gift"] == {"anyOf": [{"$ref": "#/$defs/Line"}, {"type": "null"}]}
    assert properties["first"] == {"$ref": "#/$defs/Line"}
    line = cast("Schema", reduced["$defs"])["Line"]
    assert line["properties"]["count"]["type"] == ["integer", "null"]
    assert line["properties"]["count"]["minimum"] == 1


def test_what_strict_mode_cant_hold_is_told() -> None:
    """Limits and defaults that strict mode doesn't know stand in the description; patterns and counts are kept."""
    reduced = strict_schema(ORDER)
    assert reduced
    properties = cast("Schema", reduced["properties"])
    assert properties["customer"] == {
        "type": "string",
        "pattern": r"^cus_\d+$",
        "description": "Who pays. Must hold: minLength 5.",
    }
    assert properties["lines"]["minItems"] == 1
    assert properties["kind"]["description"] == 'Default: "new".'
    looks_ahead = strict_schema(fields(a={"type": "string", "pattern": "^(?!x)", "format": "uri"}))
    assert looks_ahead
    assert cast("Schema", looks_ahead["properties"])["a"]["description"].startswith("Must hold: pattern")


@pytest.mark.parametrize(
    "schema",
    [
        fields(a={"type": "object"}),
        fields(a={"type": "object", "additionalProperties": {"type": "string"}}),
        fields(a={"type": "object", "properties": {}, "additionalProperties": True}),
        fields(a={}),
        fields(a={"description": "anything"}),
        fields(a={"type": "array"}),
        fields(a={"type": "array", "items": {}}),
        fields(a={"type": "array", "prefixItems": [{"type": "string"}]}),
        fields(a={"not": {"type": "string"}}),
        fields(a={"allOf": [{"type": "string"}, {"minLength": 1}]}),
        fields(a={"type": "string", "if": {}}),
        fields(a={"enum": [{"b": 1}]}),
        fields(a={"$ref": "#/$defs/Missing"}),
        fields(a={"$ref": "#/$defs/A", "minLength": 2}) | {"$defs": {"A": {"type": "string"}}},
        fields(a={"type": "strange"}),
        fields(a={"type": [5]}),
        fields(a={"enum": [str(i) for i in range(1001)], "type": "string"}),
        fields(**{f"f{i}": {"type": "string"} for i in range(5001)}),
        {"type": "object"},
        {"type": "string"},
        {"anyOf": [fields(), fields()]},
    ],
)
def test_a_schema_without_a_strict_form_is_named_as_such(schema: Schema) -> None:
    """Maps, open values and what strict mode has no word for give None, so that the tool is offered as it is."""
    assert strict_schema(schema) is None


def test_a_schema_deeper_than_is_taken_has_no_strict_form() -> None:
    """Ten levels are taken, more aren't."""
    nested: Schema = {"type": "string"}
    for _ in range(9):
        nested = fields(a=nested) | {"required": ["a"]}
    assert strict_schema(nested)
    assert strict_schema(fields(a=fields(a=nested))) is None


def test_a_schema_may_refer_to_itself() -> None:
    """A tree has a strict form, for OpenAI takes references."""
    tree: Schema = fields(left={"$ref": "#/$defs/Tree"}) | {"$defs": {"Tree": fields(left={"$ref": "#/$defs/Tree"})}}
    assert strict_schema(tree)
    assert without_nulls('{"left": {"left": {"left": null}}}', tree) == '{"left": {"left": {}}}'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"customer": "cus_1", "kind": null, "note": null}', '{"customer": "cus_1", "note": null}'),
        ('{"lines": [{"item": "é", "count": null}, {"item": null}]}', '{"lines": [{"item": "é"}, {"item": null}]}'),
        ('{"gift": {"item": "a", "count": null}}', '{"gift": {"item": "a"}}'),
        ('{"gift": null}', '{"gift": null}'),
        ('{"customer": null}', '{"customer": null}'),
        ('{"strange": null}', '{"strange": null}'),
        ('{"customer":"null"}', '{"customer":"null"}'),
        ('{"kind": null', '{"kind": null'),
        ("null", "null"),
        ("[null]", "[null]"),
        ('{"kind": null, "lines": [NaN]}', '{"kind": null, "lines": [NaN]}'),
        ('{"kind": null, "a": 1e400}', '{"kind": null, "a": 1e400}'),
    ],
)
def test_only_nulls_that_the_full_schema_refuses_are_dropped(arguments: str, expected: str) -> None:
    """A null goes where the field needn't be there and mayn't be null; everything else stays as the model wrote it."""
    assert without_nulls(arguments, ORDER) == expected


CAT = fields(kind={"const": "cat", "type": "string"}, lives={"type": ["integer", "null"]}, name={"type": "string"})
DOG = fields(kind={"const": "dog", "type": "string"}, tail={"type": "string"}, lives={"type": "integer"})


@pytest.mark.parametrize(
    ("pet", "expected"),
    [
        ({"kind": "cat", "lives": None, "name": None}, {"kind": "cat", "lives": None}),
        ({"kind": "dog", "lives": None, "tail": None}, {"kind": "dog"}),
        ({"kind": None, "lives": None}, {"lives": None}),
        ({"kind": "cow", "lives": None}, {"kind": "cow", "lives": None}),
        ({"lives": 9, "name": None, "moo": None}, {"lives": 9, "name": None, "moo": None}),
    ],
)
def test_the_nulls_of_a_union_are_those_of_the_branch_that_it_is_of(pet: Schema, expected: Schema) -> None:
    """Of several objects the one that fits counts; where more than one may, only what none of them takes as null goes."""
    schema = fields(pet={"oneOf": [CAT, DOG]})
    assert json.loads(without_nulls(json.dumps({"pet": pet}), schema)) == {"pet": expected}


def test_deep_arguments_stay_as_they_are() -> None:
    """Arguments nested beyond what Python reads are left for the run to refuse."""
    deep = '{"kind": null, "a": ' + "[" * 100_000 + "]" * 100_000 + "}"
    assert without_nulls(deep, ORDER) == deep


line = st.fixed_dictionaries({"item": st.text(), "count": st.none() | st.integers(1, 9)})
order = st.fixed_dictionaries(
    {
        "customer": st.from_regex(r"cus_[0-9]{2,9}", fullmatch=True),
        "lines": st.lists(line, min_size=1, max_size=3),
        "note": st.none() | st.text(),
        "kind": st.none() | st.sampled_from(["new", "again"]),
        "gift": st.none() | line,
        "first": line,
        "currency": st.none() | st.just("USD"),
    }
)


@given(order)
def test_what_strict_mode_lets_through_is_valid_in_full(said: dict[str, object]) -> None:
    """Without its nulls, what the strict schema takes is what the full schema takes, with its defaults."""
    Draft202012Validator(strict_schema(ORDER) or {}).validate(said)  # pyright: ignore[reportUnknownMemberType]
    parsed = Order.model_validate_json(without_nulls(json.dumps(said), ORDER))
    assert parsed.kind == (said["kind"] or "new")
    assert parsed.note == said["note"]
