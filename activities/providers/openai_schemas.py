"""A tool's JSON Schema as OpenAI's strict mode takes it, and arguments as they were before it asked for nulls. Pure.

Strict mode makes the model write every field, so an optional one may be null. The full schema stays ours, for validation and
for digests. Source: OpenAI's guide "Structured model outputs", section "Supported schemas".
"""

import json
import math
import re
from functools import lru_cache
from typing import cast

from pydantic import JsonValue

__all__ = ["strict_schema", "without_nulls"]

Schema = dict[str, JsonValue]

_MOST_FIELDS = 5_000
_MOST_VALUES = 1_000
_MOST_LETTERS = 120_000
_DEEPEST = 10
_KEPT = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems")
_TOLD = ("minLength", "maxLength", "uniqueItems")
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})
# Whatever else narrows a schema can't be left out in silence: the model would be held to something else.
_UNSUPPORTED = frozenset(
    {
        "not",
        "if",
        "then",
        "else",
        "dependentRequired",
        "dependentSchemas",
        "patternProperties",
        "propertyNames",
        "unevaluatedProperties",
        "prefixItems",
        "contains",
    }
)
_NULL: Schema = {"type": "null"}
_LOOKS_AROUND = re.compile(r"\(\?|\\[1-9bBkpPAzZG]")


def strict_schema(parameters: dict[str, object]) -> Schema | None:
    """`parameters` reduced to what strict mode takes: every field required, optional ones nullable, nothing open.

    What strict mode can't hold the model to goes into the field's description. None where no such schema exists, as for a map
    with keys of the model's own.
    """
    text = _reduced(json.dumps(parameters))
    return json.loads(text) if text else None


def without_nulls(arguments: str, parameters: dict[str, object]) -> str:
    """`arguments` without the nulls that only strict mode asked for.

    A field of an object goes if it is null, needn't be there and mayn't be null by the full schema. Text that is no JSON object
    stays as it is.
    """
    if "null" not in arguments:
        return arguments
    try:
        value = cast("JsonValue", json.loads(arguments))
        schema = cast("Schema", parameters)
        cleaned = _cleaned(value, schema, schema)
        if not isinstance(value, dict) or cleaned == value:
            return arguments
        return json.dumps(cleaned, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return arguments


class _Unsupported(Exception):
    """A schema that strict mode has no form for."""


@lru_cache(maxsize=1000)
def _reduced(text: str) -> str:
    """The schema in `text`, reduced; empty when it can't be."""
    schema = cast("Schema", json.loads(text))
    try:
        reduced = _Reducer(schema).root()
    except (_Unsupported, RecursionError):
        return ""
    return json.dumps(reduced)


class _Reducer:
    """Reduces one tool's schema, and counts on the way what is limited."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._fields = 0
        self._values = 0
        self._letters = 0

    def root(self) -> Schema:
        if self._root.get("type") != "object" or "anyOf" in self._root:
            raise _Unsupported
        definitions = self._root.get("$defs", {})
        if not isinstance(definitions, dict):
            raise _Unsupported
        kept = self._schema({name: value for name, value in self._root.items() if name != "$defs"}, 1)
        if definitions:
            self._letters += sum(map(len, definitions))
            kept["$defs"] = {name: self._schema(definition, 1) for name, definition in definitions.items()}
        if self._fields > _MOST_FIELDS or self._values > _MOST_VALUES or self._letters > _MOST_LETTERS:
            raise _Unsupported
        return kept

    def _schema(self, given: JsonValue, depth: int) -> Schema:
        """One schema, with all in it.

        Raises:
            _Unsupported: it allows any value or any field, or says what strict mode can't.
        """
        if not isinstance(given, dict) or given.keys() & _UNSUPPORTED or depth > _DEEPEST:
            raise _Unsupported
        if "$ref" in given:
            return self._reference(given)
        if isinstance(parts := given.get("allOf"), list):
            if len(parts) != 1 or not isinstance(parts[0], dict):
                raise _Unsupported
            return self._schema({**parts[0], **{name: value for name, value in given.items() if name != "allOf"}}, depth)
        kept: Schema = {}
        for name in ("anyOf", "oneOf"):
            if isinstance(variants := given.get(name), list):
                kept["anyOf"] = [self._schema(variant, depth) for variant in variants]
        kept |= self._literals(given)
        types = self._types(given)
        if types:
            kept["type"] = given["type"]
        if "object" in types:
            self._object(given, kept, depth)
        if "array" in types:
            kept["items"] = self._schema(given.get("items"), depth + 1)
        if not kept:
            raise _Unsupported
        kept |= {name: given[name] for name in _KEPT if name in given}
        return kept | self._described(given, kept)

    def _reference(self, given: Schema) -> Schema:
        """A reference alone. Nothing may stand beside it but what describes it, which goes."""
        name = str(given["$ref"]).removeprefix("#/$defs/")
        definitions = self._root.get("$defs")
        if not isinstance(definitions, dict) or name not in definitions:
            raise _Unsupported
        if given.keys() - {"$ref", "title", "description", "default", "examples", "deprecated"}:
            raise _Unsupported
        return {"$ref": given["$ref"]}

    def _types(self, given: Schema) -> set[str]:
        value = given.get("type")
        named = value if isinstance(value, list) else [] if value is None else [value]
        types = {name for name in named if isinstance(name, str)}
        if len(types) != len(named) or not types <= _TYPES:
            raise _Unsupported
        return types

    def _literals(self, given: Schema) -> Schema:
        literals = {name: given[name] for name in ("enum", "const") if name in given}
        values = [*_list(literals.get("enum")), literals.get("const")]
        if any(isinstance(value, dict | list) for value in values):
            raise _Unsupported
        self._values += len(values) - 1
        self._letters += sum(len(value) for value in values if isinstance(value, str))
        return literals

    def _object(self, given: Schema, kept: Schema, depth: int) -> None:
        properties, required = given.get("properties"), given.get("required", [])
        # Without fields, pydantic's `dict` is an object in which anything goes.
        open_ended = given.get("additionalProperties", properties is None) is not False
        if not isinstance(required, list) or not isinstance(properties or {}, dict):
            raise _Unsupported
        if open_ended and ("additionalProperties" in given or properties is None):
            raise _Unsupported
        fields = cast("Schema", properties or {})
        self._fields += len(fields)
        self._letters += sum(map(len, fields))
        reduced = {name: self._schema(field, depth + 1) for name, field in fields.items()}
        kept["properties"] = {
            name: field if name in required else self._nullable(field, given=fields[name]) for name, field in reduced.items()
        }
        kept["required"] = list(fields)
        kept["additionalProperties"] = False

    def _nullable(self, reduced: Schema, *, given: JsonValue) -> Schema:
        """`reduced`, with null among what it allows."""
        if _allows_null(given, self._root):
            return reduced
        described = {name: reduced[name] for name in ("description",) if name in reduced}
        bare = {name: value for name, value in reduced.items() if name not in described}
        if bare.keys() == {"anyOf"}:
            return {**described, "anyOf": [*cast("list[JsonValue]", bare["anyOf"]), _NULL]}
        if isinstance(bare.get("type"), str) and not bare.keys() & {"enum", "const", "properties", "anyOf"}:
            return {**described, **bare, "type": [bare["type"], "null"]}
        return {**described, "anyOf": [bare, _NULL]}

    def _described(self, given: Schema, kept: Schema) -> Schema:
        """The description, with what the model can't be held to; and the pattern and the format, where it can."""
        told = {name: given[name] for name in _TOLD if given.get(name) is not None}
        found: Schema = {}
        for name in ("pattern", "format"):
            if name in given:
                held = given[name] in _FORMATS if name == "format" else not _LOOKS_AROUND.search(str(given[name]))
                (found if held else told)[name] = given[name]
        words = [str(given["description"])] if given.get("description") else []
        if told:
            words.append("Must hold: " + ", ".join(f"{name} {json.dumps(value)}" for name, value in told.items()) + ".")
        if given.get("default") is not None:
            words.append(f"Default: {json.dumps(given['default'])}.")
        if words:
            found["description"] = " ".join(words)
        return found


def _cleaned(value: JsonValue, schema: JsonValue, root: Schema) -> JsonValue:
    """`value` without the nulls that `schema` doesn't know."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no JSON number")
    shapes = _shapes(schema, root)
    if isinstance(value, list):
        items: JsonValue = next((shape["items"] for shape in shapes if "items" in shape), None)
        return [_cleaned(item, items, root) for item in value]
    if not isinstance(value, dict):
        return value
    objects = [shape for shape in shapes if isinstance(shape.get("properties"), dict)]
    if len(objects) > 1:
        objects = [shape for shape in objects if _may_be(value, shape)]
    if len(objects) != 1:
        return value  # which of several objects it is, only validation can say
    fields, required = cast("Schema", objects[0]["properties"]), objects[0].get("required", [])
    return {
        name: _cleaned(field, fields.get(name), root)
        for name, field in value.items()
        if not (
            field is None
            and name in fields
            and name not in cast("list[JsonValue]", required)
            and not _allows_null(fields[name], root)
        )
    }


def _may_be(value: Schema, shape: Schema) -> bool:
    """Whether `value`, which has every field as strict mode wants it, can be an object of this shape."""
    fields, required = cast("Schema", shape["properties"]), _list(shape.get("required"))
    if value.keys() != fields.keys():
        return False
    for name, field in fields.items():
        if not isinstance(field, dict) or (value[name] is None and name not in required):
            continue
        literals = [field["const"]] if "const" in field else _list(field.get("enum"))
        if literals and value[name] not in literals:
            return False
    return True


def _shapes(schema: JsonValue, root: Schema, depth: int = 0) -> list[Schema]:
    """The schemas that `schema` stands for: those of its variants, and what it refers to."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return []
    if isinstance(reference := schema.get("$ref"), str):
        definitions = root.get("$defs")
        found = definitions.get(reference.removeprefix("#/$defs/")) if isinstance(definitions, dict) else None
        return _shapes(found, root, depth + 1)
    variants = [variant for name in ("anyOf", "oneOf", "allOf") for variant in _list(schema.get(name))]
    return [schema, *(shape for variant in variants for shape in _shapes(variant, root, depth + 1))]


def _allows_null(schema: JsonValue, root: Schema) -> bool:
    """Whether null is a value that `schema` takes."""
    for shape in _shapes(schema, root):
        types = shape.get("type")
        if types == "null" or (isinstance(types, list) and "null" in types):
            return True
        if None in _list(shape.get("enum")) or ("const" in shape and shape["const"] is None):
            return True
        if not shape.keys() - {"title", "description", "default", "examples"}:
            return True  # it takes anything
    return False


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []
