"""Forms that personal data takes in a text, told by checksum, length or grammar. Pure.

Each function takes time in proportion to the text, whatever is in it.
"""

import re
from collections.abc import Callable, Iterable, Iterator

__all__ = ["EMAIL", "Spans", "by_pattern", "cards", "emails", "ibans", "luhn"]

Spans = Iterable[tuple[int, int]]
"""Start and end of each thing that was found."""


def by_pattern(pattern: str, accept: Callable[[str], bool] = lambda _: True) -> Callable[[str], Spans]:
    """Finds what `pattern` matches and `accept` takes."""
    compiled = re.compile(pattern)
    return lambda text: (m.span() for m in compiled.finditer(text) if accept(m.group()))


def luhn(text: str) -> bool:
    """Whether the digits of `text` end with the check digit of ISO/IEC 7812."""
    digits = [int(c) for c in reversed(text) if c.isdigit()]
    return sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits)) % 10 == 0


# By issuer and length: a time in milliseconds has thirteen digits, too, and one in ten passes Luhn.
_CARD = (
    r"(?<![0-9A-Za-z.])(?:"
    r"4[0-9]{3}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9](?:[0-9]{3})?(?:[0-9]{3})?"
    r"|(?:5[0-9]{3}|2[2-7][0-9]{2}|6[0-9]{3}|35[0-9]{2})([ -]?)[0-9]{4}\2[0-9]{4}\2[0-9]{4}(?:[0-9]{1,3})?"
    r"|3[47][0-9]{2}([ -]?)[0-9]{6}\3[0-9]{5}"
    r"|3[0689][0-9]{2}([ -]?)[0-9]{6}\4[0-9]{4}"
    r")(?![0-9A-Za-z])"
)

_IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK"), 20),
    **dict.fromkeys(("CH", "CR", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    "LC": 32,
    "RU": 33,
}
"""How long an IBAN is, by country (ISO 13616)."""
_IBAN_START = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?=[ ]?[0-9A-Za-z])")


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """IBANs by country, length and checksum (ISO 13616), with or without spaces."""
    done = 0
    for start in _IBAN_START.finditer(text):
        if start.start() < done:
            continue
        length = _IBAN_LENGTHS.get(start.group()[:2].upper(), 0)
        at, taken = start.start(), ""
        while len(taken) < length and at < len(text):
            char = text[at]
            if char.isascii() and char.isalnum():
                taken += char.upper()
            elif char not in " -" or text[at - 1] in " -":
                break
            at += 1
        over = at < len(text) and text[at].isalnum()
        if length and len(taken) == length and not over:
            number = "".join(str(int(c, 36)) for c in taken[4:] + taken[:4])
            if int(number) % 97 == 1:
                done = at
                yield start.start(), at


EMAIL = r"[\w.!#$%&'*+^`~-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"

cards = by_pattern(_CARD, luhn)
emails = by_pattern(EMAIL)
