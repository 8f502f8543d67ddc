"""Values of a vendor's answer as they can be understood, whatever type they came as. No SDK in here."""

import json
import math
from typing import cast

__all__ = ["arguments_of", "count", "kind", "listed", "mapped", "parsed", "text_of"]

_ABSURD = 2**53
"""JSON knows no integers beyond it, and no call takes so many tokens."""


def parsed(raw: bytes) -> object:
    """The body of an answer as JSON, or its text where it is none."""
    text = raw.decode("utf-8-sig", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def mapped(value: object) -> dict[str, object]:
    """`value` if it is an object, else one without fields."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def listed(value: object) -> list[object]:
    """`value` if it is a list, else one without items."""
    return cast("list[object]", value) if isinstance(value, list) else []


def text_of(value: object) -> str:
    """`value` if it is a text, or a number as text; else nothing."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def count(counts: dict[str, object], *names: str) -> int:
    """The first number of tokens under one of `names`; 0 when there is none that can be true."""
    for name in names:
        value = counts.get(name)
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
        except (ValueError, OverflowError):
            continue
        if math.isfinite(number) and 0 < number < _ABSURD:
            return int(number)
    return 0


def arguments_of(value: object) -> str:
    """The arguments of a call as JSON text, which was perhaps not encoded at all, or twice."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "{}"  # what some servers say for none
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        inner = json.loads(value)
        if isinstance(inner, str) and isinstance(json.loads(inner), dict):
            return inner
    except (ValueError, RecursionError):
        pass
    return value


def kind(value: object) -> str:
    """What sort of JSON `value` is, in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"
