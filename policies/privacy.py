"""The rules of `[privacy]`, and the form of the placeholders that stand for personal data. Pure.

`<customer_1.email>` stands for something that the business knows of the run's subject, `<email_2>` for something that was
found in a text.
"""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Literal, cast, get_args

from pydantic import Field

from policies.models import Frozen

__all__ = [
    "FIELDS",
    "FOUND",
    "PLACEHOLDER",
    "PLACEHOLDER_NAME",
    "Found",
    "KnownField",
    "PrivacyRules",
    "first_placeholder",
    "name_in",
]

Found = Literal["card", "iban", "email", "phone", "ssn", "ip"]
"""Kinds of personal data that are recognized by their form."""
KnownField = Literal[
    "name", "first_name", "middle_name", "last_name", "email", "phone", "address", "street", "city", "postal_code"
]
"""What the business may know of a subject. The parts of a name are derived from the name."""
FOUND: tuple[Found, ...] = get_args(Found)
FIELDS: tuple[KnownField, ...] = get_args(KnownField)

# `_url`: the value stood in a URL and goes back exactly as it was there. `_part`: a page of a long text ended within the value.
_OF_RECORD = "|".join(sorted(FIELDS, key=len, reverse=True))
PLACEHOLDER_NAME = (
    rf"(?:(?:{'|'.join(FOUND)})(?:_url)?_[0-9]{{1,6}}"
    rf"|[a-z][a-z0-9]{{0,30}}_[0-9]{{1,6}}\.(?:{_OF_RECORD})(?:_url|_part)?(?:_[0-9]{{1,6}})?)"
)
"""A regular expression for the name in a placeholder, in small letters."""
PLACEHOLDER = re.compile(rf"(?P<open><|&lt;|%3C)\s{{0,3}}(?P<name>{PLACEHOLDER_NAME})\s{{0,3}}(?:>|&gt;|%3E)", re.IGNORECASE)
"""A placeholder as models write it: also in capitals, with spaces inside, or escaped for HTML or for a URL."""

MAX_DEPTH = 20


class PrivacyRules(Frozen):
    """The table `[privacy]` of an `agent.toml`; a run is pinned to it.

    Attributes:
        find: what is looked for besides what the business knows of the subject.
        regions: countries whose phone numbers are recognized without a country code, as two capital letters (ISO 3166).
    """

    find: tuple[Found, ...] = FOUND
    regions: tuple[Annotated[str, Field(pattern="^[A-Z]{2}$")], ...] = Field(
        default=("US", "GB", "DE", "FR", "ES", "IT", "IN", "BR"), max_length=30
    )


def name_in(match: re.Match[str]) -> str:
    """The name in a match of `PLACEHOLDER`, as placeholders are called."""
    return match["name"].lower()


def first_placeholder(arguments: str) -> str:
    """The first placeholder in the JSON text of a tool call's arguments, in names too; empty when there is none."""
    if "_" not in arguments:
        return ""
    return next((match.group() for text in texts_in(arguments) if (match := PLACEHOLDER.search(text))), "")


def texts_in(text: str) -> Iterator[str]:
    """The strings in JSON text, names of fields included; of other text, all of it."""
    try:
        yield from _texts(json.loads(text), 0)
    except (ValueError, RecursionError):
        yield text


def _texts(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and depth < MAX_DEPTH:
        for name, item in cast("dict[str, object]", value).items():
            yield name
            yield from _texts(item, depth + 1)
    elif isinstance(value, list) and depth < MAX_DEPTH:
        for item in cast("list[object]", value):
            yield from _texts(item, depth + 1)
    elif isinstance(value, (dict, list)):
        yield json.dumps(value, ensure_ascii=False)
