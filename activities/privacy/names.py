"""Which placeholder stands for which value in one run. No text is searched here, and nothing is stored."""

import html
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import ClassVar, Literal
from urllib.parse import quote

from pydantic import Field

from activities.privacy.folding import folded_case
from activities.privacy.known import Fact
from policies.models import Frozen, Lean
from policies.privacy import FIELDS, PLACEHOLDER, Found, KnownField, name_in, texts_in

__all__ = ["Entry", "How", "Names", "Written", "digits_of"]

MAX_SAID = 500
"""Of how many texts it is remembered how the model wrote them; the oldest are forgotten, and hidden as other text is."""
SHORTEST_NUMBER = 7
COUNTRY_CODE = 3
"""The most digits that a country code has."""

How = Literal["", "url", "part", "number"]
"""How a value stood in its text: in a URL, cut off at the end of a page, or in JSON as a number. The first two go back exactly
as they were."""


class Entry(Lean):
    """What one placeholder stands for.

    Attributes:
        name: the placeholder without its brackets.
        fact: the name of what is known of the subject; empty for what was recognized.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"fact", "how"})

    name: str
    kind: Found | KnownField
    value: str
    fact: str = ""
    how: How = ""

    @property
    def stem(self) -> str:
        """What entries are numbered after; empty for a fact, which has its name already."""
        how = f"_{self.how}" if self.how in ("url", "part") else ""
        if not self.fact:
            return f"{self.kind}{how}"
        return re.sub(r"_[0-9]+$", "", self.fact) + how if how else ""

    @property
    def key(self) -> tuple[str, How, str]:
        """The same for values that share a placeholder."""
        exact = self.how in ("url", "part")
        return self.fact or self.kind, self.how, self.value if exact else _normal(self.kind, self.value)


class Written(Frozen):
    """The names of a run as they are stored.

    Attributes:
        entries: in the order in which they appeared.
        said: how the model wrote its own texts, by the digest of what they say.
    """

    entries: tuple[Entry, ...] = ()
    said: dict[str, str] = Field(default_factory=dict[str, str])


class Names:
    """The placeholders of one run: numbered as the values appear, and never given to another value."""

    def __init__(self, written: Written) -> None:
        self.said = dict(written.said)
        self._entries: dict[str, Entry] = {}
        self._by_key: dict[tuple[str, How, str], str] = {}
        self._count: Counter[str] = Counter()
        self._numbers: dict[str, str] = {}
        self._endings: dict[str, str] = {}
        self._echoes: dict[str, list[tuple[int, int, str]]] | None = None
        self._listed: tuple[int, re.Pattern[str] | None, dict[str, Entry]] = 0, None, {}
        for entry in written.entries:
            self._take(entry)

    @property
    def written(self) -> Written:
        """As they are stored."""
        return Written(entries=tuple(self._entries.values()), said=self.said)

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """What is known of the subject. It is known before anything is hidden."""
        known = [e for e in self._entries.values() if e.fact and not e.how]
        return tuple(Fact(e.name, kind, e.value) for e in known for kind in FIELDS if kind == e.kind)

    def copy(self) -> "Names":
        """Names to try something out with."""
        found = Names(self.written)
        found._echoes = self._echoes
        return found

    def get(self, name: str) -> Entry | None:
        """What the placeholder called `name` stands for."""
        return self._entries.get(name)

    def remember(self, digest: str, text: str) -> None:
        """Keep how the model wrote a text of its own."""
        self.said.pop(digest, None)
        self.said[digest] = text
        while len(self.said) > MAX_SAID:
            del self.said[next(iter(self.said))]
        if self._echoes is not None:
            self._learn(text, self._echoes)

    def value(self, match: re.Match[str]) -> str | None:
        """What a match of `PLACEHOLDER` stands for, escaped as the placeholder is; None for one that stands for nothing."""
        entry = self._entries.get(name_in(match))
        if entry is None:
            return None
        if match["open"] == "&lt;":
            return html.escape(entry.value)
        if match["open"].lower() == "%3c" and entry.how != "url":
            return quote(entry.value, safe="")
        return entry.value

    def echoes(self, text: str) -> list[tuple[int, int, str]]:
        """Where a text that the model wrote itself has values that it wrote placeholders for, and their names.

        It finds those that nothing else would, such as a first name that is a common word.
        """
        if self._echoes is None:
            self._echoes = {}
            for said in self.said.values():
                self._learn(said, self._echoes)
        return self._echoes.get(text, [])

    def _learn(self, said: str, echoes: dict[str, list[tuple[int, int, str]]]) -> None:
        for part in texts_in(said):
            out, spans, at, size = list[str](), list[tuple[int, int, str]](), 0, 0
            for match in PLACEHOLDER.finditer(part):
                value = self.value(match)
                if value is not None:
                    out += [part[at : match.start()], value]
                    size += match.start() - at + len(value)
                    spans.append((size - len(value), size, name_in(match)))
                    at = match.end()
            if spans:
                echoes["".join((*out, part[at:]))] = spans

    def of_fact(self, fact: Fact, surface: str, how: How = "") -> str:
        """The placeholder of a fact that stands in a text as `surface`."""
        if not how:
            return fact.name
        return self._name(Entry(name="", kind=fact.kind, value=surface, fact=fact.name, how=how))

    def of_found(self, kind: Found, surface: str, how: How = "") -> str:
        """The placeholder of what was recognized: the subject's own where it is that, a new one where there is none yet."""
        found = Entry(name="", kind=kind, value=surface, how=how)
        if not how:
            own = next((f.name for f in self.facts if f.kind == kind and _normal(kind, f.value) == found.key[2]), "")
            if own:
                return own
        return self._name(found)

    def of_digits(self, digits: str) -> str:
        """The placeholder of a phone number, a card or an SSN that is known already, however it is written; or nothing."""
        if len(digits) < SHORTEST_NUMBER:
            return ""
        found = self._numbers.get(digits) or self._endings.get(digits) or self._endings.get(digits.lstrip("0"))
        return found or ""

    @property
    def has_numbers(self) -> bool:
        """Whether `of_digits` can find any."""
        return bool(self._numbers)

    def spelt_out(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Where a text, folded and in lower case, has what was recognized before, without recognizing it again."""
        listed = [e for e in self._entries.values() if not e.fact and e.how != "number" and e.kind in ("email", "iban", "ip")]
        if len(listed) != self._listed[0]:
            by_value = {_normal(e.kind, e.value): e for e in listed}
            spelt = (r"[ -]?".join(v) if e.kind == "iban" else re.escape(folded_case(e.value)) for v, e in by_value.items())
            inside = "|".join(sorted(spelt, key=len, reverse=True))
            self._listed = len(listed), re.compile(rf"(?<![a-z0-9])(?:{inside})(?![a-z0-9])"), by_value
        _, pattern, by_value = self._listed
        for match in pattern.finditer(text) if pattern else ():
            found = match.group()
            entry = next((e for kind in ("email", "iban", "ip") if (e := by_value.get(_normal(kind, found)))), None)
            if entry:
                yield *match.span(), entry.name

    def merge(self, other: Written) -> bool:
        """Take in what another attempt stored meanwhile. False: a name stands for something else there."""
        for entry in other.entries:
            mine = self._entries.get(entry.name)
            if mine is None:
                self._take(entry)
            elif mine.key != entry.key:
                return False
        self.said = {**other.said, **self.said}
        return True

    def _name(self, entry: Entry) -> str:
        known = self._by_key.get(entry.key)
        if known:
            return known
        count = self._count[entry.stem] + 1
        first = entry.stem if entry.fact else f"{entry.stem}_1"
        return self._take(entry.model_copy(update={"name": first if count == 1 else f"{entry.stem}_{count}"}))

    def _take(self, entry: Entry) -> str:
        self._entries[entry.name] = entry
        self._by_key[entry.key] = entry.name
        if entry.stem:
            self._count[entry.stem] += 1
        if entry.kind in ("phone", "ssn", "card") and not entry.how:
            self._take_digits(entry)
        return entry.name

    def _take_digits(self, entry: Entry) -> None:
        digits = digits_of(entry.value)
        if len(digits) < SHORTEST_NUMBER:
            return
        self._numbers.setdefault(digits, entry.name)
        abroad = range(1, COUNTRY_CODE + 1) if entry.kind == "phone" and entry.value.lstrip(" (").startswith("+") else ()
        for ending in {digits.lstrip("0"), *(digits[n:].lstrip("0") for n in abroad)}:
            if len(ending) >= SHORTEST_NUMBER and self._endings.setdefault(ending, entry.name) != entry.name:
                self._endings[ending] = ""  # two numbers end so: neither is meant for sure


def digits_of(text: str) -> str:
    """The digits in `text`, whatever is between them."""
    return "".join(c for c in folded_case(text) if c.isdigit())


def _normal(kind: str, value: str) -> str:
    """What is the same for two spellings of one value."""
    if kind in ("phone", "card", "ssn"):
        return digits_of(value)
    folded = folded_case(value)
    if kind == "iban":
        return re.sub(r"[^a-z0-9]", "", folded)
    if kind == "ip":
        with suppress(ValueError):
            return str(ipaddress.ip_address(folded))
    return " ".join(folded.split())
