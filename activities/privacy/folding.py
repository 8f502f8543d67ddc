"""A text as it is searched: without accents, case, invisible characters, odd digits and escapes of URLs.

It is known where in the original each character came from.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Folded", "fold", "folded_case"]

# What Unicode doesn't decompose, and people leave out when they have no such key.
_ALIKE = str.maketrans(
    {
        "ø": "o",
        "Ø": "O",
        "ł": "l",
        "Ł": "L",
        "đ": "d",
        "Đ": "D",
        "ı": "i",
        "æ": "ae",
        "Æ": "AE",
        "œ": "oe",
        "Œ": "OE",
        "ß": "ss",
        "ẞ": "SS",
        **dict.fromkeys("‐‑‒–—―−﹘﹣－", "-"),
        **dict.fromkeys("’‘ʼ`´", "'"),
    }
)
_INVISIBLE = ("Cf", "Mn", "Me")
_ESCAPED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")


@dataclass(frozen=True)
class Folded:
    """A text for searching.

    Attributes:
        text: with its case.
        lower: the same in lower case, of the same length.
        starts, ends: for each character, where in the original it begins and where the next one does; None when the text is
            as it was.
    """

    text: str
    lower: str
    starts: Sequence[int] | None = None
    ends: Sequence[int] | None = None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Where in the original text the part from `start` to `end` is."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def fold(text: str) -> Folded:
    """`text` as it is searched."""
    if text.isascii() and not _ESCAPED.search(text):
        return Folded(text, text.lower())
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for start, end, char in _characters(text):
        piece = char if char.isascii() else _piece(char)
        if not piece:
            if ends:
                ends[-1] = end  # an accent, or what nobody sees: it goes with the character before
            continue
        pieces.append(piece)
        starts += [start] * len(piece)
        ends += [end] * len(piece)
    found = "".join(pieces)
    return Folded(found, _lower(found), starts, ends)


def _characters(text: str) -> Iterator[tuple[int, int, str]]:
    """Each character with its place; one that is escaped as in a URL is what it stands for."""
    at = 0
    for match in _ESCAPED.finditer(text):
        try:
            said = bytes.fromhex(match.group().replace("%", "")).decode()
        except UnicodeDecodeError:
            continue
        yield from ((i, i + 1, text[i]) for i in range(at, match.start()))
        at = match.start()
        for char in said:
            length = 3 * len(char.encode())
            yield at, at + length, char
            at += length
    yield from ((i, i + 1, text[i]) for i in range(at, len(text)))


def folded_case(text: str) -> str:
    """`text` folded, in lower case: equal for values that are taken for the same."""
    return fold(text).lower


@lru_cache(maxsize=4096)
def _piece(char: str) -> str:
    if unicodedata.category(char) in _INVISIBLE:
        return ""
    if (digit := unicodedata.digit(char, None)) is not None:
        return str(digit)
    apart = unicodedata.normalize("NFKD", char.translate(_ALIKE))
    return "".join(c for c in apart if unicodedata.category(c) not in _INVISIBLE).translate(_ALIKE)


def _lower(text: str) -> str:
    # `lower` may change a text's length; positions must stay.
    found = text.lower()
    return found if len(found) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
