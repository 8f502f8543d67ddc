"""Where a text says something that the business knows of a run's subject, in whatever spelling people use."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from activities.privacy.folding import Folded, fold, folded_case
from activities.privacy.words import BEFORE_A_NAME, COMMON, NEVER_ALONE, TIMES_AND_PLACES
from policies.privacy import KnownField
from tools.subjects import PersonalDetail

__all__ = ["Fact", "KnownFinder", "facts_of"]

NEAR_STREET, NEAR_PLACE = 30, 6
"""Characters within which a city or a postal code must stand beside the street, or beside each other, or it says nothing."""
SHORTEST_PART = 5
"""Characters of a value that must be left at the end of a page, for it to be told from other text."""
PAGE = 512
"""Characters from which on a text may be a page of a longer one."""

# What may stand before a value: nothing that a word is made of, but an escape of JSON.
_LEFT = r"(?:(?<![a-z0-9])|(?<=\\[nrtbf]))"
_RIGHT = r"(?![a-z0-9])"
_GAP = r"[\s+_.,'-]{1,4}"
_UMLAUTS = {"ä": "ae?", "ö": "oe?", "ü": "ue?", "å": "aa?"}
_SENTENCE_ENDS = '.!?:;\n"([{-*>'


@dataclass(frozen=True)
class Fact:
    """One thing that is known, and the name of its placeholder.

    Attributes:
        name: such as `customer_1.email`.
    """

    name: str
    kind: KnownField
    value: str


def facts_of(subject: str, details: Sequence[PersonalDetail]) -> tuple[Fact, ...]:
    """What is known of `subject`, for example `Customer:cus_101`, with the words of names as facts of their own."""
    word = re.sub(r"[^a-z0-9]", "", folded_case(subject.partition(":")[0]))
    owner = f"{word if word[:1].isalpha() else 'subject'}_1"
    found: dict[tuple[KnownField, str], Fact] = {}

    def add(kind: KnownField, value: str) -> None:
        key = kind, folded_case(" ".join(value.split()))
        if key in found or not value.strip():
            return
        before = sum(k == kind for k, _ in found)
        found[key] = Fact(f"{owner}.{kind}" + (f"_{before + 1}" if before else ""), kind, value.strip())

    for detail in details:
        add(detail.kind, detail.value)
        if detail.kind == "name":
            for variant in _variants(detail.value):
                if len(variant.split()) > 1:
                    add("name", variant)
    for fact in [f for f in found.values() if f.kind == "name"]:
        words = _words(fact.value)
        for place, part in enumerate(words):
            add("first_name" if place == 0 else "last_name" if place == len(words) - 1 else "middle_name", part)
    return tuple(found.values())


def _variants(name: str) -> list[str]:
    """The names in one: `Studio Kalliope (Eleni Markou)` is that of a company and of a person."""
    inside = re.findall(r"\(([^()]+)\)", name)
    return [" ".join(re.sub(r"\([^()]*\)", " ", name).split()), *inside] if inside else []


def _words(name: str) -> list[str]:
    if any(ord(c) > 0x2E80 for c in name):
        return []  # written without spaces: its words aren't told apart
    found = (word.strip(".,;'\"()") for word in re.split(r"[\s_]+", name))
    return [w for w in found if len(w) > 1 and any(c.isalpha() for c in w)]


@dataclass(frozen=True)
class _Pattern:
    fact: Fact
    regex: re.Pattern[str]
    weak: bool
    """Whether what stands around it must say so, too."""


class KnownFinder:
    """Finds facts in texts."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self._patterns = [_Pattern(f, re.compile(p), _is_weak(f)) for f in facts if (p := _pattern(f))]
        self._whole = [(f, folded_case(f.value)) for f in facts if f.kind in ("email", "address", "street", "name")]

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, facts: tuple[Fact, ...]) -> "KnownFinder":
        """The finder of these facts; compiled once."""
        return cls(facts)

    def find(self, text: Folded, *, certain: bool = False) -> Iterator[tuple[int, int, Fact]]:
        """Where facts are: start and end in the folded text. They may overlap.

        Args:
            certain: without those that are words of a language, too.
        """
        weak: list[tuple[int, int, Fact]] = []
        sure: list[tuple[int, int, Fact]] = []
        for pattern in self._patterns:
            if certain and pattern.fact.kind not in ("name", "email", "phone", "address"):
                continue
            for match in pattern.regex.finditer(text.lower):
                (weak if pattern.weak else sure).append((*match.span(), pattern.fact))
        yield from sure
        for hit in weak if not certain else ():
            others = [o for o in (*sure, *weak) if o is not hit and o[2].kind != hit[2].kind]
            if _is_place(hit[2]):
                near = {"street": NEAR_STREET, "city": NEAR_PLACE, "postal_code": NEAR_PLACE}
                if any(_distance(o, hit) <= near.get(o[2].kind, -1) for o in others):
                    yield hit
            elif _is_name_here(text, hit, others):
                yield hit

    def cut_off(self, text: Folded) -> Iterator[tuple[int, int, Fact]]:
        """A fact that a long text begins or ends within: its page was cut there."""
        if len(text.lower) < PAGE:
            return
        for fact, value in self._whole:
            for left in range(len(value) - 1, SHORTEST_PART - 1, -1):
                if text.lower.endswith(value[:left]):
                    yield len(text.lower) - left, len(text.lower), fact
                    break
            for left in range(len(value) - 1, SHORTEST_PART - 1, -1):
                if text.lower.startswith(value[-left:]):
                    yield 0, left, fact
                    break


def _is_place(fact: Fact) -> bool:
    return fact.kind in ("address", "street", "city", "postal_code")


def _distance(a: tuple[int, int, Fact], b: tuple[int, int, Fact]) -> int:
    return max(a[0], b[0]) - min(a[1], b[1])


def _is_weak(fact: Fact) -> bool:
    folded = folded_case(fact.value)
    if fact.kind == "city":
        return True
    if fact.kind == "postal_code":
        return folded.isdigit()
    if fact.kind == "name":
        return len(folded.split()) == 1
    return fact.kind in ("first_name", "middle_name", "last_name")


def _pattern(fact: Fact) -> str:
    """A regular expression for the folded, lower-case text; nothing for what is looked for otherwise, or can't be."""
    value = " ".join(fact.value.split())
    folded = folded_case(value)
    if len(folded) < 2 or fact.kind == "phone":
        return ""
    if fact.kind == "email":
        return _LEFT + re.escape(folded) + _RIGHT
    if fact.kind == "postal_code":
        return _LEFT + r"[ -]?".join(map(re.escape, folded.split())) + _RIGHT if len(folded) >= 4 else ""
    spelt = [_spelt(word) for word in re.split(r"[\s_.,'()-]+", value) if word]
    if any(ord(c) > 0x2E80 for c in folded):  # written with spaces or without
        return r"[\s.,'-]?".join(re.escape(c) for c in folded if c.isalnum())
    if fact.kind in (
        "first_name",
        "middle_name",
        "last_name",
    ):  # not in an id such as `cus_maren`, which must come back as it is
        return f"(?<!_){_LEFT}{_GAP.join(spelt)}(?![a-z0-9_])"
    if fact.kind == "name" and len(spelt) > 2:
        inner = f"(?:{_GAP}{_GAP.join(spelt[1:-1])})?"  # middle names are left out often
        return f"{_LEFT}{spelt[0]}{inner}{_GAP}{spelt[-1]}{_RIGHT}"
    return f"{_LEFT}{_GAP.join(spelt)}{_RIGHT}"


def _spelt(word: str) -> str:
    """The word as it may be spelt: `Müller` also as `Mueller` or `Muller`."""
    return "".join(_UMLAUTS.get(c) or re.escape(fold(c).lower) for c in word.lower())


def _is_name_here(text: Folded, hit: tuple[int, int, Fact], others: Sequence[tuple[int, int, Fact]]) -> bool:
    """Whether a word that is part of a name is meant as one where it stands."""
    start, end, _ = hit
    word, lower = text.text[start:end], text.lower[start:end]
    beside = any(not _is_place(o[2]) and 0 <= _distance(o, hit) <= 3 for o in others)
    if lower in NEVER_ALONE:
        return beside and word[:1].isupper()
    if lower not in COMMON and lower not in TIMES_AND_PLACES and len(lower) >= 4:
        return True
    if not word[:1].isupper() or (word.isupper() and len(word) <= 2):
        return False
    if beside or (len(lower) == 3 and lower not in COMMON and lower not in TIMES_AND_PLACES):
        return True
    before = text.lower[:start].rstrip()
    line_before, line_after = text.lower[:start].rpartition("\n")[2], text.lower[end:].partition("\n")[0]
    if not line_before.strip(" -,\"'") and not line_after.strip(" .,!\"'"):
        return True  # alone on its line, as a signature is
    last = re.search(r"([a-z']+)[.,]?$", before[-20:])
    if last and last[1] in BEFORE_A_NAME:
        return True
    in_sentence = bool(before) and before[-1] not in _SENTENCE_ENDS
    return in_sentence and lower not in TIMES_AND_PLACES
