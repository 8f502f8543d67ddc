"""Schemas for OpenAI's strict mode, and arguments back in the form of the whole schema."""

import json
from typing import Any, Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, create_model

from activities.providers.schemas import strict, stripped
from tools.builtin import CATALOG
from workflows.messages import FinalAnswer

Schema = dict[str, object]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Line(Closed):
    item: str
    count: int = Field(default=1, ge=1, le=99)
    note: str = ""


class Cat(Closed):
    kind: Literal["cat"]
    lives: int | None = None
    name: str = ""


class Dog(Closed):
    kind: Literal["dog"]
    name: str = ""


class Everything(Closed):
    lines: list[Line] = Field(max_length=3)
    first: Line
    other: Line | None = None
    spare: Line = Field(default_factory=lambda: Line(item="x"), description="If needed.")
    pet: Cat | Dog
    state: Literal["open", "shut"] = "open"
    level: Literal[1, 2] | None = None
    many: list[Line | None] = []
    sizes: list[int] | str = []
    flag: bool = False


class Node(Closed):
    child: "Node | None" = None


class Alike(Closed):
    a: int
    b: str = ""


class AlikeToo(Closed):
    a: str
    b: str | None = None


def fits(value: object, schema: Schema) -> bool:
    return cast("bool", Draft202012Validator(schema).is_valid(value))  # pyright: ignore[reportUnknownMemberType]


def of(annotation: object) -> Schema:
    return create_model("Args", __base__=Closed, value=(annotation, ...)).model_json_schema()


def test_optional_fields_become_required_and_nullable() -> None:
    """Strict mode wants each property named as required; what may be left out may be null instead, in words of its own."""
    assert strict(Line.model_json_schema()) == {
        "type": "object",
        "properties": {
            "item": {"type": "string"},
            "count": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 99}, {"type": "null"}]},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["item", "count", "note"],
        "additionalProperties": False,
    }


def test_references_and_unions_are_written_out() -> None:
    """Nested models, lists, constants and unions that can be told apart have a strict form without references."""
    found = strict(Everything.model_json_schema())
    assert found is not None
    text = json.dumps(found)
    for word in ("$ref", "$defs", "oneOf", "allOf", "default", "title", "const", "discriminator"):
        assert f'"{word}"' not in text
    properties = cast("dict[str, Schema]", found["properties"])
    assert properties["spare"]["description"] == "If needed."
    assert properties["level"] == {"anyOf": [{"type": "integer", "enum": [1, 2]}, {"type": "null"}]}


@pytest.mark.parametrize(
    "schema",
    [
        of(dict[str, int]),
        of(Any),
        of(Node),
        of(tuple[int, str]),
        of(Alike | AlikeToo),
        of(list[int] | list[str]),
        of(int | float),
        {"type": "object", "properties": {"a": True}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "object"}}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"not": {"type": "null"}}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}},
        {"type": "object", "properties": {"a": {"$ref": "https://example.com/a.json"}}},
        {"type": "object", "properties": {}, "additionalProperties": True},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}, {"minLength": 1}]}}},
        {"type": "array", "items": {"type": "string"}},
        {"anyOf": [{"type": "object", "properties": {}}]},
        {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(5001)}},
        {"type": "object", "properties": {"a": {"type": "string", "description": "d" * 120_000}}},
    ],
)
def test_what_strict_mode_cannot_say_has_no_strict_form(schema: Schema) -> None:
    """Open maps, recursion, tuples, unions that can't be told apart, and schemas that are too large stay as they are."""
    assert strict(schema) is None


def test_too_deep_a_schema_has_no_strict_form() -> None:
    """OpenAI takes ten levels of objects."""
    schema: Schema = {"type": "string"}
    for level in range(11):
        assert level == 0 or strict(schema) is not None
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    assert strict(schema) is None


def test_keywords_that_strict_mode_does_not_take_are_left_out() -> None:
    """What can't be enforced there is left to Remit's own validation; simple patterns and known formats stay."""
    words: dict[str, Schema] = {
        "a": {"type": "string", "minLength": 2, "pattern": "^[A-Z]{3}$", "format": "email"},
        "b": {"type": "string", "pattern": "^(?!x)", "format": "binary"},
        "c": {"type": "array", "items": {"type": "string", "examples": ["x"]}, "uniqueItems": True, "minItems": 1},
    }
    found = strict({"type": "object", "properties": words, "required": [*words]})
    assert found is not None
    assert found["properties"] == {
        "a": {"type": "string", "pattern": "^[A-Z]{3}$", "format": "email"},
        "b": {"type": "string"},
        "c": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    }


def test_a_tool_without_arguments_is_strict_too() -> None:
    """A tool that takes nothing takes exactly nothing."""
    assert strict({"type": "object", "properties": {}}) == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"item":"a","count":null,"note":null}', '{"item": "a"}'),
        ('{"item":"a","count":2,"note":"n"}', '{"item":"a","count":2,"note":"n"}'),
        ('{"item":null}', '{"item":null}'),
        ('{"other":null,"item":"a"}', '{"other":null,"item":"a"}'),
        ("{cut", "{cut"),
        ("[null]", "[null]"),
        ("null", "null"),
    ],
)
def test_only_nulls_without_a_place_are_taken_away(arguments: str, expected: str) -> None:
    """A null is dropped where a field may be left out and may not be null; nothing else is touched, not even its spaces."""
    assert stripped(arguments, Line.model_json_schema()) == expected


def test_a_null_that_means_something_stays() -> None:
    """A field that may be null keeps its null, in a nested object, a list and the branch of a union that it is of."""
    schema = Everything.model_json_schema()
    line = {"item": "a", "count": None, "note": None}
    value = {
        "lines": [line],
        "first": line,
        "other": None,
        "spare": None,
        "pet": {"kind": "cat", "lives": None, "name": None},
        "state": None,
        "level": None,
        "many": [None, line],
        "sizes": None,
        "flag": None,
    }
    assert fits(value, cast("Schema", strict(schema)))
    found = json.loads(stripped(json.dumps(value), schema))
    assert found == {
        "lines": [{"item": "a"}],
        "first": {"item": "a"},
        "other": None,
        "pet": {"kind": "cat", "lives": None},
        "level": None,
        "many": [None, {"item": "a"}],
    }
    assert fits(found, schema)
    Everything.model_validate(found)


SCALARS: dict[object, st.SearchStrategy[object]] = {
    str: st.text(max_size=3),
    int: st.integers(-5, 5),
    bool: st.booleans(),
    Literal["a", "b"]: st.sampled_from(["a", "b"]),
}


@st.composite
def models(draw: st.DrawFn, depth: int = 2) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=0 if depth < 2 else 1, unique=True)):
        annotation: Any = draw(st.sampled_from([*SCALARS]))
        if depth and draw(st.booleans()):
            annotation = draw(models(depth - 1))
        if draw(st.booleans()):
            annotation = list[annotation]
        if draw(st.booleans()):
            annotation = annotation | None
        # `None` as the default of what may not be null: pydantic doesn't look at defaults, and neither may we.
        fields[name] = (annotation, ... if draw(st.booleans()) else None)
    return create_model(f"M{draw(st.integers(0, 10**6))}", __base__=Closed, **fields)


def values(schema: Schema) -> st.SearchStrategy[object]:
    """Values of a strict schema."""
    if "anyOf" in schema:
        return st.one_of([values(branch) for branch in cast("list[Schema]", schema["anyOf"])])
    if "enum" in schema:
        return st.sampled_from(cast("list[object]", schema["enum"]))
    match schema["type"]:
        case "object":
            named = cast("dict[str, Schema]", schema["properties"])
            return st.fixed_dictionaries({name: values(each) for name, each in named.items()}).map(lambda v: cast("object", v))
        case "array":
            most = cast("int", schema.get("maxItems", 2))
            least = cast("int", schema.get("minItems", 0))
            return st.lists(values(cast("Schema", schema["items"])), min_size=least, max_size=max(least, min(most, 2))).map(
                lambda v: cast("object", v)
            )
        case "string":
            return st.text(min_size=1, max_size=3)
        case "integer":
            return st.integers(cast("int", schema.get("minimum", 1)), cast("int", schema.get("maximum", 9)))
        case "boolean":
            return st.booleans()
        case _:
            return st.none()


@given(st.data())
def test_what_is_written_under_the_strict_schema_is_valid_under_the_whole_one(data: st.DataObject) -> None:
    """For any model: a value that the strict schema allows, its nulls taken away, is one that the whole schema allows."""
    schema = cast("Schema", data.draw(models()).model_json_schema())
    reduced = strict(schema)
    assert reduced is not None
    Draft202012Validator.check_schema(reduced)
    value = data.draw(values(reduced))
    assert fits(value, reduced)
    assert fits(json.loads(stripped(json.dumps(value), schema)), schema)


@given(st.data())
def test_each_value_of_the_whole_schema_can_be_written_under_the_strict_one(data: st.DataObject) -> None:
    """Nothing that the model could say before is lost: left-out fields as nulls make it valid, and come back as it was."""
    schema = cast("Schema", data.draw(models()).model_json_schema())
    reduced = cast("Schema", strict(schema))
    said = json.loads(stripped(json.dumps(data.draw(values(reduced))), schema))  # any value of the whole schema
    filled = _filled(said, reduced)
    assert fits(filled, reduced)
    assert _contains(json.loads(stripped(json.dumps(filled), schema)), said)


def _filled(value: object, schema: Schema) -> object:
    for branch in cast("list[Schema]", schema.get("anyOf", [schema])):
        if isinstance(value, dict) and branch.get("type") == "object":
            named = cast("dict[str, Schema]", branch["properties"])
            return {name: _filled(cast("Schema", value).get(name), each) for name, each in named.items()}
        if isinstance(value, list) and branch.get("type") == "array":
            return [_filled(each, cast("Schema", branch["items"])) for each in cast("list[object]", value)]
    return value


def _contains(whole: object, part: object) -> bool:
    """Whether `whole` says what `part` says, and else only null, of fields that may be."""
    if isinstance(part, dict) and isinstance(whole, dict):
        w, p = cast("Schema", whole), cast("Schema", part)
        return all(name in w and _contains(w[name], each) for name, each in p.items()) and all(
            w[name] is None for name in w.keys() - p.keys()
        )
    if isinstance(part, list) and isinstance(whole, list):
        pairs = zip(cast("list[object]", whole), cast("list[object]", part), strict=True)
        return all(_contains(w, p) for w, p in pairs)
    return whole == part


SCHEMAS = {spec.name: spec.schema for spec in CATALOG.specs.values()} | {"final_answer": FinalAnswer.model_json_schema()}


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_each_built_in_tool_is_strict(name: str) -> None:
    """All tools that come with Remit, and `final_answer`, have a strict form."""
    assert strict(SCHEMAS[name]) is not None


@given(st.data(), st.sampled_from(sorted(SCHEMAS)))
def test_arguments_of_built_in_tools_survive(data: st.DataObject, name: str) -> None:
    """What a model writes under a built-in tool's strict schema has the form that the tool takes."""
    reduced = cast("Schema", strict(SCHEMAS[name]))
    value = data.draw(values(reduced))
    assert fits(json.loads(stripped(json.dumps(value), SCHEMAS[name])), _without_lengths(SCHEMAS[name]))


def _without_lengths(schema: Any) -> Any:
    """`schema` without what strict mode doesn't enforce."""
    if isinstance(schema, dict):
        fields = cast("dict[str, Any]", schema)
        left_out = ("minLength", "maxLength", "uniqueItems", "pattern", "format")
        return {name: _without_lengths(each) for name, each in fields.items() if name not in left_out}
    return [_without_lengths(each) for each in cast("list[Any]", schema)] if isinstance(schema, list) else schema
