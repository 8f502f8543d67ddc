"""Replaces inside of JSON text: every string and number is given to a function, and all else stays to the byte."""

import json
import re
from collections.abc import Callable

__all__ = ["MAX_DEPTH", "is_json", "looks_like_json", "map_json", "map_loosely"]

MAX_DEPTH = 8
"""How deep JSON inside of strings of JSON is looked at as such."""

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(rf"(?P<string>{_STRING})(?P<key>\s*:)?|(?P<number>-?[0-9][0-9.eE+-]*)", re.DOTALL)
_LOOSE = re.compile(rf"{_STRING}", re.DOTALL)


def looks_like_json(text: str) -> bool:
    """Whether it begins as an object, a list or a string of JSON does."""
    return text.lstrip()[:1] in ("{", "[", '"')


def is_json(text: str) -> bool:
    """Whether all of it is an object, a list or a string of JSON."""
    if not looks_like_json(text):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def map_json(text: str, string: Callable[[str, str | None], str], number: Callable[[str], str]) -> str:
    """JSON text with its strings and numbers mapped.

    Args:
        string: given what a string says, and the name of the last field before it, or None if it is a field's name itself;
            gives what it is to say, or JSON if that begins with NUL.
        number: given a number as it is written; gives JSON.
    """
    field = ""

    def mapped(match: re.Match[str]) -> str:
        nonlocal field
        if match["number"] is not None:
            return number(match["number"])
        was: str = json.loads(match["string"], strict=False)
        if match["key"] is not None:
            field = was
        now = string(was, None if match["key"] is not None else field)
        if now == was:
            return match.group()
        written = now[1:] if now.startswith("\0") else json.dumps(now, ensure_ascii=match["string"].isascii())
        return written + (match["key"] or "")

    return _TOKEN.sub(mapped, text)


def map_loosely(text: str, string: Callable[[str], str], between: Callable[[str], str]) -> str:
    """Text that begins like JSON and isn't: a part of one, for example. What is between its strings is mapped as text."""
    out: list[str] = []
    at = 0
    for match in _LOOSE.finditer(text):
        try:
            was = json.loads(match.group(), strict=False)
        except ValueError:
            continue
        out.append(between(text[at : match.start()]))
        now = string(was)
        out.append(match.group() if now == was else json.dumps(now, ensure_ascii=match.group().isascii()))
        at = match.end()
    return "".join((*out, between(text[at:])))
