"""JSON Schemas of tools in the form that OpenAI's strict mode takes, and arguments back in the form of the whole schema. Pure.

Source: developers.openai.com/api/docs/guides/structured-outputs, "Supported schemas".
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import cast

__all__ = ["strict", "stripped"]

Schema = dict[str, object]

MOST_LEVELS = 10
MOST_PROPERTIES = 5000
MOST_CHARACTERS = 120_000
"""Of all names, constants and descriptions together; OpenAI doesn't count the descriptions."""

_SCALARS = frozenset({"string", "integer", "number", "boolean", "null"})
_KEPT = {
    "string": ("format", "pattern"),
    "integer": ("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "number": ("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "array": ("minItems", "maxItems"),
}
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
# Look-around, back references and word boundaries: grammars don't have them.
_IRREGULAR = re.compile(r"\(\?|\\[1-9bBAZk]")
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
        "minProperties",
        "$dynamicRef",
    }
)
_NULL: Schema = {"type": "null"}


class _Unfit(Exception):
    """Strict mode has no form of the schema."""


def strict(schema: Schema) -> Schema | None:
    """`schema` for strict mode: closed, with every property required; None where strict mode can't say what it says.

    An optional property may be null instead, and `stripped` takes that away again. Keywords that strict mode doesn't know are
    left out, so the whole schema must still be validated. References are resolved. Open maps, recursion, tuples, and unions
    whose branches can't be told apart give None.
    """
    found = _strict(json.dumps(schema))
    return cast("Schema", json.loads(found)) if found else None


def stripped(arguments: str, schema: Schema) -> str:
    """`arguments`, written under `strict(schema)`, without the nulls that `schema` has no place for.

    Text that isn't JSON, and arguments that hold no such null, come back as they are.
    """
    try:
        value = json.loads(arguments)
        without = _without_nulls(value, schema, schema)
        return arguments if without == value else json.dumps(without)
    except (ValueError, RecursionError, _Unfit):
        return arguments


@lru_cache(maxsize=512)
def _strict(text: str) -> str:
    """The same over JSON text, for a run sends the same schemas with every turn; empty for none."""
    schema = cast("Schema", json.loads(text))
    try:
        found = _Reduction(schema).object(_resolved(schema, schema), 1)
    except _Unfit:
        return ""
    written = json.dumps(found)
    return written if len(written) <= MOST_CHARACTERS else ""


class _Reduction:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._properties = 0
        self._open: list[str] = []  # references that are being resolved

    def reduced(self, given: object, level: int) -> Schema:
        schema = _object(given)
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in self._open:
                raise _Unfit  # recursion
            self._open.append(reference)
            found = self.reduced(_resolved(schema, self._root), level)
            self._open.pop()
            return found
        schema = _resolved(schema, self._root)
        if schema.keys() & _UNSUPPORTED:
            raise _Unfit
        if "anyOf" in schema or "oneOf" in schema:
            return _described(schema, {"anyOf": self._union(schema, level)})
        if "const" in schema or "enum" in schema:
            return _described(schema, _constants(schema))
        kinds = _kinds(schema)
        if kinds == ["object"]:
            return self.object(schema, level)
        if kinds == ["array"]:
            if "items" not in schema:
                raise _Unfit
            items = self.reduced(schema["items"], level + 1)
            return _described(schema, {"type": "array", "items": items, **_kept(schema, "array")})
        if not kinds or not set(kinds) <= _SCALARS:
            raise _Unfit
        kept = {name: value for kind in kinds for name, value in _kept(schema, kind).items()}
        return _described(schema, {"type": kinds if len(kinds) > 1 else kinds[0], **kept})

    def object(self, schema: Schema, level: int) -> Schema:
        properties = schema.get("properties")
        if _kinds(schema) != ["object"] or schema.keys() & (_UNSUPPORTED | {"anyOf", "oneOf", "enum", "const"}):
            raise _Unfit
        if schema.get("additionalProperties", False) is not False or (properties is None and level > 1):
            raise _Unfit  # an open map
        named = _object(properties or {})
        required = cast("list[str]", schema.get("required", []))
        self._properties += len(named)
        if level > MOST_LEVELS or self._properties > MOST_PROPERTIES or not set(required) <= named.keys():
            raise _Unfit
        reduced: Schema = {}
        for name, each in named.items():
            found = self.reduced(each, level + 1)
            reduced[name] = found if name in required else _or_null(found)
        return _described(
            schema,
            {"type": "object", "properties": reduced, "required": list(reduced), "additionalProperties": False},
        )

    def _union(self, schema: Schema, level: int) -> list[Schema]:
        beside = schema.keys() - {"anyOf", "oneOf", "title", "description", "default", "discriminator", "examples"}
        if beside or ("anyOf" in schema and "oneOf" in schema):
            raise _Unfit
        branches: list[Schema] = []
        for each in cast("list[object]", schema.get("anyOf", schema.get("oneOf"))):
            found = self.reduced(each, level)
            branches += cast("list[Schema]", found["anyOf"]) if "anyOf" in found else [found]
        kinds = [kind for branch in branches for kind in _kinds(branch) if kind != "object"]
        # Two branches of one kind can't be told apart, or both be right where one alone may be.
        if len(kinds) != len(set(kinds)) or {"integer", "number"} <= set(kinds):
            raise _Unfit
        objects = [branch for branch in branches if _kinds(branch) == ["object"]]
        if any(_alike(one, other) for at, one in enumerate(objects) for other in objects[:at]):
            raise _Unfit
        return branches


def _or_null(schema: Schema) -> Schema:
    if _is_nullable(schema, schema):
        return schema
    inner = {name: value for name, value in schema.items() if name != "description"}
    branches = cast("list[Schema]", inner["anyOf"]) if "anyOf" in inner else [inner]
    return _described(schema, {"anyOf": [*branches, _NULL]})


def _alike(one: Schema, other: Schema) -> bool:
    """Whether an object may be of both: it has the same names, and no constant that differs."""
    first, second = _object(one["properties"]), _object(other["properties"])
    if first.keys() != second.keys():
        return False
    for name, schema in first.items():
        mine, theirs = _object(schema).get("enum"), _object(second[name]).get("enum")
        if isinstance(mine, list) and isinstance(theirs, list):
            written = {json.dumps(value) for value in cast("list[object]", theirs)}
            if not any(json.dumps(value) in written for value in cast("list[object]", mine)):
                return False
    return True


def _constants(schema: Schema) -> Schema:
    values = [schema["const"]] if "const" in schema else cast("list[object]", schema["enum"])
    kinds = list(dict.fromkeys(_kind(value) for value in values))
    if not kinds or not set(kinds) <= _SCALARS:
        raise _Unfit
    return {"type": kinds if len(kinds) > 1 else kinds[0], "enum": values}


def _kept(schema: Schema, kind: str) -> Schema:
    kept = {name: schema[name] for name in _KEPT.get(kind, ()) if name in schema}
    if kept.get("format") not in _FORMATS:
        kept.pop("format", None)
    if _IRREGULAR.search(str(kept.get("pattern", ""))):
        kept.pop("pattern")
    return kept


def _described(schema: Schema, found: Schema) -> Schema:
    text = schema.get("description")
    return {**found, "description": text} if isinstance(text, str) and text else found


def _resolved(schema: Schema, root: Schema) -> Schema:
    """`schema`, or what it refers to, with the words that stand beside the reference."""
    seen: set[str] = set()
    while isinstance(reference := schema.get("$ref"), str):
        if reference in seen or not reference.startswith("#/"):
            raise _Unfit
        seen.add(reference)
        found: object = root
        for step in reference[2:].split("/"):
            found = _object(found).get(step.replace("~1", "/").replace("~0", "~"))
        beside = {name: value for name, value in schema.items() if name != "$ref"}
        if beside.keys() - {"description", "title", "default", "examples", "deprecated"}:
            raise _Unfit
        schema = _object(found) | beside
    parts = schema.get("allOf")
    if isinstance(parts, list):
        alone = cast("list[object]", parts)
        beside = {name: value for name, value in schema.items() if name != "allOf"}
        if len(alone) != 1 or beside.keys() - {"description", "title", "default", "examples"}:
            raise _Unfit
        return _resolved(_object(alone[0]) | beside, root)
    return schema


def _without_nulls(value: object, given: object, root: Schema) -> object:
    schema = _resolved(_object(given), root)
    branches = _branches(schema, root)
    if isinstance(value, list):
        found = next((branch for branch in branches if _kinds(branch) == ["array"]), None)
        if found is None or "items" not in found:
            return cast("object", value)
        return [_without_nulls(each, found["items"], root) for each in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    branch = next((branch for branch in branches if _fits(fields, branch, root)), None)
    if branch is None:
        return fields
    named = _object(branch.get("properties", {}))
    required = cast("Sequence[str]", branch.get("required", ()))
    return {
        name: _without_nulls(each, named[name], root) if name in named else each
        for name, each in fields.items()
        if each is not None or name in required or name not in named or _is_nullable(named[name], root)
    }


def _branches(schema: Schema, root: Schema) -> list[Schema]:
    union = schema.get("anyOf", schema.get("oneOf"))
    if not isinstance(union, list):
        return [schema]
    found = (_branches(_resolved(_object(each), root), root) for each in cast("list[object]", union))
    return [branch for branches in found for branch in branches]


def _fits(fields: dict[str, object], schema: Schema, root: Schema) -> bool:
    if _kinds(schema) != ["object"]:
        return False
    named = _object(schema.get("properties", {}))
    if not fields.keys() <= named.keys():
        return False
    for name, value in fields.items():
        each = _resolved(_object(named[name]), root)
        constants = [each["const"]] if "const" in each else each.get("enum")
        optional = value is None and name not in cast("Sequence[str]", schema.get("required", ()))
        if isinstance(constants, list) and not optional and value not in cast("list[object]", constants):
            return False
    return all(name in fields for name in cast("Sequence[str]", schema.get("required", ())))


def _is_nullable(given: object, root: Schema) -> bool:
    for branch in _branches(_resolved(_object(given), root), root):
        values = [branch["const"]] if "const" in branch else branch.get("enum")
        if isinstance(values, list):
            if None in cast("list[object]", values):
                return True
        elif not branch.keys() & {"type", "properties", "items"} or "null" in _kinds(branch):
            return True
    return False


def _kinds(schema: Schema) -> list[str]:
    kinds = schema.get("type", "object" if "properties" in schema else [])
    return [kinds] if isinstance(kinds, str) else list(cast("Iterable[str]", kinds))


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case _:
            return ""


def _object(value: object) -> Schema:
    if not isinstance(value, dict):
        raise _Unfit  # `true`, or nothing at all
    return cast("Schema", value)
