"""The models that the vendors' SDKs name, and when those are shut down.

It is read from the SDKs' files, for importing one of them takes a second and tens of megabytes.
"""

import ast
import re
from datetime import date, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["known_to_sdk", "shut_down_on"]

_OPENAI = ("types/shared/chat_model.py", "types/shared/responses_model.py")
_ANTHROPIC_NAMES = "types/model_param.py"
_ANTHROPIC_DATES = ("resources/messages/messages.py", "_data/deprecated_models.py")
_NAME = re.compile(r'^ {4,}"([a-z0-9.-]+)",$', re.MULTILINE)
_BULLET = re.compile(r"^- (.*?):\s+Announced shutdown date:\s+(\d{4}-\d{2}-\d{2})", re.DOTALL)
_TABLE = re.compile(r"^DEPRECATED_MODELS\b[^=]*= (\{.*?^\})", re.MULTILINE | re.DOTALL)


def known_to_sdk(provider: str, model: str) -> bool:
    """Whether the vendor's SDK lists `model` by this name."""
    return model in _names(provider)


def shut_down_on(provider: str, model: str) -> date | None:
    """When the vendor's SDK says that `model` is shut down; None when it says nothing."""
    return _dates(provider).get(model)


@cache
def _names(provider: str) -> frozenset[str]:
    files = {"openai": _OPENAI, "anthropic": (_ANTHROPIC_NAMES,)}.get(provider, ())
    return frozenset(name for file in files for name in _NAME.findall(_text(provider, file)))


@cache
def _dates(provider: str) -> dict[str, date]:
    if provider == "openai":
        found: dict[str, date] = {}
        for bullet in re.split(r"^(?=- )", _text(provider, _OPENAI[0]), flags=re.MULTILINE):
            if match := _BULLET.match(bullet):
                found |= dict.fromkeys(re.findall(r'"([^"]+)"', match[1]), date.fromisoformat(match[2]))
        return found
    if provider == "anthropic":
        tables = (_TABLE.search(_text(provider, file)) for file in _ANTHROPIC_DATES)
        listed = {name: day for match in tables if match for name, day in ast.literal_eval(match[1]).items()}
        return {name: _day(day) for name, day in listed.items()}
    return {}


def _day(text: str) -> date:
    """`June 15th, 2026`, as Anthropic writes it."""
    return datetime.strptime(re.sub(r"(?<=\d)(st|nd|rd|th)\b", "", text), "%B %d, %Y").date()  # noqa: DTZ007  (a day has no zone)


def _text(package: str, file: str) -> str:
    """A file of an installed package, without importing it; nothing when there is no such file (any more)."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / file
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""
