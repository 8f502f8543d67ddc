"""The part of a tool's JSON Schema that Claude can be held to. Pure.

The vendor compiles the schemas of a request's strict tools into one grammar, and refuses the request when that gets too large.
What it can't compile stays in the description; the full schema stays ours, for validation and for digests.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from pydantic import JsonValue

from activities.providers.base import ToolOffer

__all__ = ["MOST", "Size", "strict_schemas"]

_SAID = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "maxItems",
    "uniqueItems",
    "format",
    "default",
)
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})


@dataclass(frozen=True)
class Size:
    """What the grammar is measured by: strict tools, parameters that may be left out, parameters of several types."""

    tools: int = 0
    optional: int = 0
    unions: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(self.tools + other.tools, self.optional + other.optional, self.unions + other.unions)

    def fits(self) -> bool:
        return self.tools <= MOST.tools and self.optional <= MOST.optional and self.unions <= MOST.unions


MOST = Size(tools=20, optional=24, unions=16)
"""The most that the vendor takes in one request. Source: its page "Structured outputs"."""


def strict_schemas(offers: Iterable[ToolOffer]) -> list[dict[str, JsonValue] | None]:
    """For each tool, in order, the schema that it can be held to; None where it can't, or where there is no room left."""
    size = Size()
    found: list[dict[str, JsonValue] | None] = []
    for offer in offers:
        text, more = _reduced(json.dumps(offer.parameters))
        fits = bool(text) and (size + more).fits()
        found.append(json.loads(text) if fits else None)
        if fits:
            size += more
    return found


class _Unsupported(Exception):
    """A schema that no grammar can be made of."""


@lru_cache(maxsize=1000)
def _reduced(text: str) -> tuple[str, Size]:
    """The schema in `text`, reduced, and its size; empty when it can't be."""
    try:
        schema = cast("dict[str, JsonValue]", json.loads(text))
        reducer = _Reducer()
        reduced = reducer.schema(schema)
        reducer.check_references(reduced)
    except (_Unsupported, RecursionError):
        return "", Size()
    return json.dumps(reduced), Size(1, reducer.optional, reducer.unions)


class _Reducer:
    """Reduces one tool's schema, and counts on the way."""

    def __init__(self) -> None:
        self.optional = 0
        self.unions = 0

    def schema(self, given: JsonValue) -> dict[str, JsonValue]:
        """One schema, with all in it.

        Raises:
            _Unsupported: it allows any value, or any field.
        """
        if not isinstance(given, dict):
            raise _Unsupported
        definitions = given.get("$defs", {})
        assert isinstance(definitions, dict)
        kept: dict[str, JsonValue] = {}
        if definitions:
            kept["$defs"] = {name: self.schema(definition) for name, definition in definitions.items()}
        if "$ref" in given:
            return {**kept, "$ref": given["$ref"]}  # nothing may stand beside it
        literals = {name: given[name] for name in ("enum", "const") if name in given}
        kept |= literals or {name: given[name] for name in ("type",) if name in given}
        if any(isinstance(value, dict | list) for value in _listed(given.get("enum"), given.get("const"))):
            raise _Unsupported
        if isinstance(kept.get("type"), list):
            self.unions += 1
        for names in ("anyOf", "oneOf"):
            if isinstance(variants := given.get(names), list):
                self.unions += 1
                kept["anyOf"] = [self.schema(variant) for variant in variants]
        if isinstance(parts := given.get("allOf"), list):
            if len(parts) != 1 or kept:
                raise _Unsupported
            kept = self.schema(parts[0])
        if given.get("type") == "object":
            self._fields(given, kept)
        if given.get("type") == "array":
            kept["items"] = self.schema(given.get("items"))
            if given.get("minItems") in (0, 1):
                kept["minItems"] = given["minItems"]
        if not kept.keys() & {"type", "anyOf", "enum", "const"}:
            raise _Unsupported
        self._describe(given, kept)
        return kept

    def _fields(self, given: dict[str, JsonValue], kept: dict[str, JsonValue]) -> None:
        if given.get("additionalProperties", False) is not False or "patternProperties" in given:
            raise _Unsupported
        properties = given.get("properties", {})
        required = given.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise _Unsupported
        self.optional += sum(name not in required for name in properties)
        kept["properties"] = {name: self.schema(field) for name, field in properties.items()}
        kept["required"] = required
        kept["additionalProperties"] = False

    def _describe(self, given: dict[str, JsonValue], kept: dict[str, JsonValue]) -> None:
        """Keep the description, and tell the model there what the grammar can't hold it to."""
        told = {name: given[name] for name in _SAID if name in given}
        if told.get("format") in _FORMATS:
            kept["format"] = told.pop("format")
        if "minItems" in given and "minItems" not in kept:
            told["minItems"] = given["minItems"]
        words = [str(given["description"])] if given.get("description") else []
        if told:
            words.append("Must hold: " + ", ".join(f"{name} {json.dumps(value)}" for name, value in told.items()) + ".")
        if words:
            kept["description"] = " ".join(words)

    def check_references(self, reduced: dict[str, JsonValue]) -> None:
        """Raises:
        _Unsupported: a definition leads to itself, or isn't there.
        """
        definitions = reduced.get("$defs", {})
        assert isinstance(definitions, dict)
        leads = {name: set(_references(definition)) for name, definition in definitions.items()}
        if not set(_references(reduced)) <= leads.keys():
            raise _Unsupported
        while leads:
            ends = {name for name, others in leads.items() if not others & leads.keys()}
            if not ends:
                raise _Unsupported
            leads = {name: others for name, others in leads.items() if name not in ends}


def _listed(enum: JsonValue, const: JsonValue) -> list[JsonValue]:
    return [*(enum if isinstance(enum, list) else ()), const]


def _references(schema: JsonValue) -> Iterable[str]:
    match schema:
        case dict():
            if isinstance(reference := schema.get("$ref"), str):
                yield reference.removeprefix("#/$defs/")
            for value in schema.values():
                yield from _references(value)
        case list():
            for value in schema:
                yield from _references(value)
        case _:
            pass
