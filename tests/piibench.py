"""How much personal data `[privacy]` finds in 200 texts, what it takes for some and isn't, and what it costs: `make pii-bench`.

The counts are the same on every machine, and docs/privacy.md has them; times are those of this one.
"""

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from activities.privacy.known import facts_of
from activities.privacy.names import Entry, Names, Written
from activities.privacy.recognizers import Recognizers
from activities.privacy.veil import Hider, Replacement, replacements
from policies.privacy import PrivacyRules
from remit.settings import ROOT
from tools.subjects import record

__all__ = ["KINDS", "Figures", "Sample", "measure", "names_of", "samples", "table"]

DATA = Path(__file__).parent / "data" / "pii"
MARKED = re.compile(r"\[\[([a-z_]+):(.*?)\]\]", re.DOTALL)
FILES = ("texts.txt", "unseen.txt")
"""The corpus, and texts that were written after the rules were done."""
KINDS = ("card", "iban", "email", "phone", "ssn", "ip", "name", "address")
OF_NAMES = {"first_name": "name", "middle_name": "name", "last_name": "name"}
OF_ADDRESSES = {"street": "address", "postal_code": "address", "city": "address"}
ROUNDS = 20


@dataclass(frozen=True)
class Sample:
    """One text of the corpus.

    Attributes:
        record: whose details the business knows; empty for nobody's.
        marks: kind, start and end of what is personal in it.
    """

    language: str
    record: str
    text: str
    marks: tuple[tuple[str, int, int], ...]


@dataclass
class Figures:
    """Of one kind: how many there are, how many were found whole, and what was taken for one and isn't."""

    marked: int = 0
    hidden: int = 0
    missed: list[str] = field(default_factory=list[str])
    false: list[str] = field(default_factory=list[str])


def samples(name: str = "texts.txt") -> list[Sample]:
    """The corpus, in its order; or the texts of another file."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    found: list[Sample] = []
    for line in lines:
        if not line.startswith("#"):
            language, record_id, marked = line.split("|", 2)
            marked, text = marked.replace("\\n", "\n"), ""
            marks: list[tuple[str, int, int]] = []
            at = 0
            for match in MARKED.finditer(marked):
                text += marked[at : match.start()]
                marks.append((match[1], len(text), len(text) + len(match[2])))
                text += match[2]
                at = match.end()
            found.append(Sample(language, record_id, text + marked[at:], tuple(marks)))
    return found


def names_of(record_id: str) -> Names:
    """The names of a run that is for one of the people of the corpus, or for nobody."""
    if not record_id:
        return Names(Written())
    known = json.loads((DATA / "records.json").read_text(encoding="utf-8"))[record_id]
    facts = facts_of("Customer:cus_1", record(**known))
    return Names(Written(entries=tuple(Entry(name=f.name, kind=f.kind, value=f.value, fact=f.name) for f in facts)))


class _Watched(Hider):
    """Notes what is replaced in the strings of a text."""

    def __init__(self, names: Names, recognizers: Recognizers) -> None:
        super().__init__(names, recognizers)
        self._mine = recognizers
        self._strings: list[tuple[str, list[Replacement]]] = []

    def plain(self, text: str, field: str = "") -> str:
        self._strings.append((text, replacements(text, self.names, self._mine, field=field)))
        return super().plain(text, field)

    def seen(self, text: str) -> list[Replacement]:
        """What was replaced, with its place in the whole text."""
        found: list[Replacement] = []
        at = 0
        for string, replaced in self._strings:
            at = text.index(string, at)
            found += [Replacement(at + one.start, at + one.end, one.name) for one in replaced]
        return found


def _kind(name: str) -> str:
    return {**OF_NAMES, **OF_ADDRESSES}.get(name, name)


def measure(recognizers: Recognizers, name: str = "texts.txt") -> dict[str, Figures]:
    """What is found in the corpus, or in the texts of another file, by kind.

    A mark counts as hidden when nothing of its letters and digits is left, whatever the placeholder is called. A false alarm
    is a placeholder that stands for nothing marked.
    """
    found = {kind: Figures() for kind in KINDS}
    for sample in samples(name):
        names = names_of(sample.record)
        watched = _Watched(names, recognizers)
        watched.text(sample.text)
        replaced = watched.seen(sample.text)
        covered = {place for one in replaced for place in range(one.start, one.end)}
        for kind, start, end in sample.marks:
            figures = found[_kind(kind)]
            figures.marked += 1
            if all(place in covered or not sample.text[place].isalnum() for place in range(start, end)):
                figures.hidden += 1
            else:
                figures.missed.append(sample.text[start:end])
        for one in replaced:
            if all(one.end <= start or one.start >= end for _, start, end in sample.marks):
                entry = names.get(one.name)
                assert entry
                found[_kind(entry.kind)].false.append(sample.text[one.start : one.end])
    return found


def table(figures: dict[str, Figures]) -> list[str]:
    """The rows of docs/privacy.md."""
    rows = [
        f"| {kind} | {one.marked} | {one.hidden} | {one.hidden / one.marked:.0%} | {len(one.false)} |"
        for kind, one in figures.items()
    ]
    marked, hidden = sum(f.marked for f in figures.values()), sum(f.hidden for f in figures.values())
    false = sum(len(f.false) for f in figures.values())
    return [*rows, f"| all | {marked} | {hidden} | {hidden / marked:.0%} | {false} |"]


def _timed(texts: Sequence[tuple[Names, str]], recognizers: Recognizers) -> tuple[list[float], float]:
    """Milliseconds that each text took, sorted, and milliseconds of CPU a text."""
    took: list[float] = []
    cpu = time.process_time()
    for names, text in texts:
        began = time.perf_counter()
        Hider(names, recognizers).text(text)
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took), (time.process_time() - cpu) * 1000 / len(texts)


def main() -> int:
    """Print what docs/privacy.md has, and what was missed."""
    began = time.perf_counter()
    recognizers = Recognizers(PrivacyRules())
    loaded = time.perf_counter() - began
    for name in FILES:
        figures = measure(recognizers, name)
        print(f"{name}, {len(samples(name))} texts:\n\n| kind | in the texts | hidden | recall | false alarms |")
        print("|---|---|---|---|---|")
        print("\n".join(table(figures)))
        for kind, one in figures.items():
            for what, listed in (("missed", one.missed), ("false alarm", one.false)):
                for text in listed:
                    print(f"{what}: {kind}: {text!r}")
    texts = [s.text for s in samples()]
    tickets = [t["body"] for t in json.loads((ROOT / "demo" / "business.json").read_text(encoding="utf-8"))["tickets"]]
    print(f"\n{os.cpu_count()} cores, Python {sys.version.split()[0]}. Loading Presidio: {loaded:.1f} s, once a worker.")
    for label, group in (
        ("a text of the corpus", texts),
        ("a ticket of the demo", tickets),
        ("all the corpus", ["\n".join(texts)]),
    ):
        # Each is another text, so that nothing is remembered; then all of them once more, as each turn of a run shows them.
        fresh = [(names_of("r1"), f"{text} {n}") for n in range(ROUNDS) for text in group]
        size = sum(len(text) for _, text in fresh) // len(fresh)
        for when in ("new", "seen before"):
            took, cpu = _timed(fresh, recognizers)
            p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
            print(f"{label}, {size:,} characters, {when}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, CPU {cpu:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
