"""Strict mode over any model of pydantic's, and over the tools that come with Remit."""

import json
from typing import Any, Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, create_model

from activities.providers.openai_schemas import strict_schema, without_nulls
from tools.builtin import CATALOG
from workflows.messages import FinalAnswer

Schema = dict[str, Any]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Cat(Closed):
    kind: Literal["cat"]
    lives: int | None = None
    name: str = ""


class Dog(Closed):
    kind: Literal["dog"]
    name: str = ""


class Bird(Closed):
    wings: int = 2
    name: str | None = None


class Pets(Closed):
    one: Cat | Dog | Bird
    told: Cat | Dog = Field(discriminator="kind")
    many: list[Cat | Dog | None] = []


TOOLS: dict[str, Schema] = {spec.name: spec.schema for spec in CATALOG.specs.values()} | {
    "final_answer": FinalAnswer.model_json_schema()
}


def fits(value: Any, schema: Schema) -> bool:
    return Draft202012Validator(schema).is_valid(value)  # pyright: ignore[reportUnknownMemberType]


def strict(schema: Schema) -> Schema:
    found = strict_schema(schema)
    assert found is not None
    return cast("Schema", found)


def cleaned(value: object, schema: Schema) -> Any:
    return json.loads(without_nulls(json.dumps(value), schema))


def values(schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    """What a model may write that is held to `schema`, a strict one."""
    if "$ref" in schema:
        return values(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema:
        return st.one_of([values(branch, root) for branch in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if isinstance(schema["type"], list):
        kinds = cast("list[str]", schema["type"])
        return st.one_of([values({**schema, "type": kind}, root) for kind in kinds])
    match schema["type"]:
        case "object":
            fields = cast("dict[str, Schema]", schema["properties"])
            return st.fixed_dictionaries({name: values(each, root) for name, each in fields.items()})
        case "array":
            least = schema.get("minItems", 0)
            return st.lists(values(schema["items"], root), min_size=least, max_size=max(least, 2))
        case "string" if "pattern" in schema:
            return st.from_regex(str(schema["pattern"]), fullmatch=True)
        case "string":
            return st.text(min_size=3, max_size=5)
        case "integer":
            return st.integers(schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1), schema.get("maximum", 9))
        case "boolean":
            return st.booleans()
        case _:
            return st.none()


SCALARS: list[Any] = [str, int, bool, Literal["a", "b"], Literal["c"]]


@st.composite
def models(draw: st.DrawFn, depth: int = 2) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True)):
        annotation: Any = draw(st.sampled_from(SCALARS))
        if depth and draw(st.booleans()):
            annotation = draw(models(depth - 1))
        if draw(st.booleans()):
            annotation = list[annotation]
        if draw(st.booleans()):
            annotation = annotation | None
        fields[name] = (annotation, ... if draw(st.booleans()) else None)
    return create_model(f"M{draw(st.integers(0, 10**6))}", __base__=Closed, **fields)


@given(st.data())
def test_what_a_model_writes_is_valid_in_full(data: st.DataObject) -> None:
    """For any model: what its strict schema allows is, without the nulls, what its full schema allows."""
    schema = data.draw(models()).model_json_schema()
    reduced = strict(schema)
    Draft202012Validator.check_schema(reduced)
    value = data.draw(values(reduced, reduced))
    assert fits(value, reduced)
    assert fits(cleaned(value, schema), schema)


@given(st.data(), st.sampled_from(sorted(TOOLS)))
def test_arguments_of_the_tools_that_ship_survive(data: st.DataObject, name: str) -> None:
    """The same for each built-in tool and for `final_answer`."""
    reduced = strict(TOOLS[name])
    value = data.draw(values(reduced, reduced))
    assert fits(value, reduced)
    assert fits(cleaned(value, TOOLS[name]), TOOLS[name])


@given(st.data())
def test_everything_can_still_be_said(data: st.DataObject) -> None:
    """A value of the full schema has its form under the strict one, with null for what is left out, and comes back."""
    schema = data.draw(models()).model_json_schema()
    reduced = strict(schema)
    said = cleaned(data.draw(values(reduced, reduced)), schema)
    filled = _filled(said, reduced, reduced)
    assert fits(filled, reduced)
    assert cleaned(filled, schema) == said


def _filled(value: Any, schema: Schema, root: Schema) -> Any:
    """`value`, with null for each field that it leaves out."""
    for branch in schema.get("anyOf", [schema]):
        shape = root["$defs"][branch["$ref"].removeprefix("#/$defs/")] if "$ref" in branch else branch
        if isinstance(value, dict) and "properties" in shape:
            given_value = cast("Schema", value)
            return {name: _filled(given_value.get(name), each, root) for name, each in shape["properties"].items()}
        if isinstance(value, list) and "items" in shape:
            return [_filled(each, shape["items"], root) for each in cast("list[Any]", value)]
    return cast("object", value)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"kind": "cat", "lives": None, "name": None}, {"kind": "cat", "lives": None}),
        ({"kind": "dog", "name": None}, {"kind": "dog"}),
        ({"wings": None, "name": None}, {"name": None}),
    ],
)
def test_in_a_union_the_object_that_was_meant_decides(said: Schema, kept: Schema) -> None:
    """Which of several objects it is, its names and constants say, so its own nulls are told from those that are in the way."""
    schema = Pets.model_json_schema()
    told = {"kind": "dog", "name": None}
    value = {"one": said, "told": told, "many": [told, None]}
    assert fits(value, strict(schema))
    found = cleaned(value, schema)
    assert found == {"one": kept, "told": {"kind": "dog"}, "many": [{"kind": "dog"}, None]}
    Pets.model_validate(found)
