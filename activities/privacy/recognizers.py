"""Finds personal data by its form: cards, IBANs and e-mail by rules of our own; phones, SSNs and IPs by Presidio's.

Presidio is an extra (`remit[privacy]`); its recognizers work without a language model, which would be downloaded.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from policies.errors import InvalidInput
from policies.patterns import Spans, cards, emails, ibans
from policies.privacy import Found, PrivacyRules

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer

__all__ = ["Recognized", "Recognizers", "installed"]

CACHED_TEXTS = 4096
CACHED_LENGTH = 20_000
"""Longer texts are looked at again each time; they are few."""
SURE = 0.4 - 1e-9
CONTEXT_ADDS = 0.35
"""What a word such as `phone` shortly before adds to Presidio's score; both figures are Presidio's own."""
CONTEXT_LENGTH = 40
WINDOW = 3

_PHONE_WORDS = re.compile(
    r"(?i)(?<![a-z])(?:phone|telephone|tel|mobile|cell|cellphone|call|callback|dial|ring|reach|text|sms|whatsapp|signal|fax|hotline|"
    r"telefon|handy|anruf\w*|rueckruf|ruckruf|rufnummer|mobil|mobiltelefon|durchwahl|erreich\w*|telephone|portable|appel\w*|joindre|"
    r"telefono|movil|celular|llam\w*|cellulare|chiam\w*|celular|telefone|ligar|ligue|numero)(?![a-z])"
)
_NO_PHONE = re.compile(
    r"(?i)(?<![a-z])(?:order|invoice|ticket|case|ref|reference|tracking|parcel|shipment|serial|sku|isbn|ean|vat|id|uid|account|acct|"
    r"imei|build|version|release|transaction|txn|po|rma|claim|policy|customer|contract|licen[cs]e|bestellung|bestellnummer|rechnung|"
    r"rechnungsnummer|auftrag|kundennummer|sendung|sendungsnummer|commande|facture|colis|pedido|factura|ordine|fattura|nummer|nr|"
    r"port|timestamp|epoch|pid|error|code|row|line|hash|commit|amount|total|price|usd|eur|gbp|part|model|batch|lot|gtin|upc)"
    r"(?:\s*(?:no|number|nr|num|id|#|code|num[eé]ro|nummer))?\s*[.:#=\"]*\s*$"
)
_SSN_WORDS = re.compile(r"(?i)(?<![a-z])(?:ssn|ssns|social|security|itin|taxpayer|tin)(?![a-z])")
_VERSION = re.compile(
    r"(?i)(?:(?<![a-z])v|version|release|firmware|build|chrome|safari|driver|revision|rev|fw|update|kernel|agent)[\s:=/\"]*$"
)
_DIGIT_RUN = re.compile(r"(?<![0-9A-Za-z_.,-])[+(]?[0-9](?:[0-9]|[ ().\-/\u00a0]{1,3}(?=[0-9(])){5,22}(?![0-9A-Za-z_])")
_DATE = re.compile(r"(?:19|20)[0-9]{2}[-./][0-9]{1,2}[-./][0-9]{1,2}|[0-9]{1,2}[-./][0-9]{1,2}[-./](?:19|20)[0-9]{2}")
_QUAD = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_FILE_TYPES = "png jpg jpeg gif svg webp css js ts html json xml yaml yml toml md txt log zip gz tar pdf csv"
_FILES = frozenset(_FILE_TYPES.split())

Find = Callable[[str], Spans]


@dataclass(frozen=True)
class Recognized:
    """Where something was found in a text."""

    start: int
    end: int
    kind: Found


def installed() -> bool:
    """Whether this process has what `[privacy]` needs."""
    return find_spec("presidio_analyzer") is not None


class Recognizers:
    """All that the rules of an agent ask for. Safe for several threads at once."""

    def __init__(self, rules: PrivacyRules) -> None:
        """Raises:
        InvalidInput: Presidio isn't installed.
        """
        if not installed():
            raise InvalidInput("`[privacy]` needs Presidio; install it for the workers with `pip install 'remit[privacy]'`.")
        from presidio_analyzer.predefined_recognizers import IpRecognizer, PhoneRecognizer, UsSsnRecognizer

        self._phone = PhoneRecognizer(supported_regions=rules.regions)
        self._abroad = PhoneRecognizer(supported_regions=("US",), leniency=0)  # its country code says which one it is
        self._ssn = UsSsnRecognizer()
        self._ip = IpRecognizer()
        every: dict[Found, Find] = {
            "card": cards,
            "iban": ibans,
            "email": _emails,
            "ssn": self._ssns,
            "ip": self._ips,
            "phone": self._phones,
        }
        self._finders: dict[Found, Find] = {kind: find for kind, find in every.items() if kind in rules.find}
        self._cached = lru_cache(maxsize=CACHED_TEXTS)(self._find)

    @classmethod
    def of(cls, rules: PrivacyRules) -> "Recognizers":
        """Those of `rules`, made once. Raises as the constructor."""
        return _made(rules.find, rules.regions)

    def find(self, text: str, field: str = "") -> tuple[Recognized, ...]:
        """What is in `text`, which is folded; of two that overlap, the longer one.

        Args:
            field: the name of the JSON field that holds the text. It says as much as a word before.
        """
        if len(text) > CACHED_LENGTH:
            return self._find(text)
        if not field or not any(c.isdigit() for c in text):
            return self._cached(text)
        before = f"{field.replace('_', ' ')}: "
        found = self._cached(before + text)
        return tuple(
            Recognized(one.start - len(before), one.end - len(before), one.kind) for one in found if one.start >= len(before)
        )

    def _find(self, text: str) -> tuple[Recognized, ...]:
        found: list[Recognized] = []
        for kind, find in self._finders.items():
            found += [Recognized(start, end, kind) for start, end in find(text)]
        order = {kind: place for place, kind in enumerate(self._finders)}
        taken: list[Recognized] = []
        for one in sorted(found, key=lambda r: (r.start - r.end, order[r.kind])):
            if all(one.end <= other.start or one.start >= other.end for other in taken):
                taken.append(one)
        return tuple(sorted(taken, key=lambda r: r.start))

    def _phones(self, text: str) -> Iterator[tuple[int, int]]:
        for run in _DIGIT_RUN.finditer(text):
            digits = [c for c in run.group() if c.isdigit()]
            if not 7 <= len(digits) <= 15 or _DATE.search(run.group()) or _QUAD.match(run.group()):
                continue
            if not run.group().startswith("+") and _NO_PHONE.search(text[max(0, run.start() - CONTEXT_LENGTH) : run.start()]):
                continue
            # The matcher takes milliseconds for a text: it is given the digits, with what stands around them.
            since = max(0, run.start() - WINDOW)
            phone = self._abroad if run.group().startswith("+") else self._phone
            for start, end, score in _presidio(phone, text[since : run.end() + WINDOW]):
                if score >= SURE and _is_phone(text, since + start, since + end):
                    yield since + start, since + end

    def _ssns(self, text: str) -> Iterator[tuple[int, int]]:
        for start, end, score in _presidio(self._ssn, text):
            says = _SSN_WORDS.search(text[max(0, start - CONTEXT_LENGTH) : start])
            if score + (CONTEXT_ADDS if says else 0) >= SURE:
                yield start, end

    def _ips(self, text: str) -> Iterator[tuple[int, int]]:
        for start, end, score in _presidio(self._ip, text):
            if score >= SURE and _is_host(text[start:end]) and not _VERSION.search(text[max(0, start - 20) : start]):
                yield start, end


@lru_cache(maxsize=16)
def _made(find: tuple[Found, ...], regions: tuple[str, ...]) -> Recognizers:
    return Recognizers(PrivacyRules(find=find, regions=regions))


def _presidio(recognizer: "EntityRecognizer", text: str) -> list[tuple[int, int, float]]:
    found = recognizer.analyze(text, recognizer.supported_entities, None)  # pyright: ignore[reportArgumentType]
    return [(one.start, one.end, one.score) for one in found or ()]


def _is_phone(text: str, start: int, end: int) -> bool:
    """Digits alone may be anything: they are a phone's where they are written like one, or something says so before."""
    number = text[start:end]
    before = text[max(0, start - CONTEXT_LENGTH) : start]
    if number.startswith("+"):
        return True
    if _NO_PHONE.search(before) or before.endswith(("#", "$", "€", "£", "_", "/")):
        return False
    if _PHONE_WORDS.search(before):
        return True
    groups = re.findall(r"[0-9]+", number)
    return len(groups) >= 3 or number.startswith(("(", "00")) or (len(groups) == 2 and number.startswith("0"))


def _emails(text: str) -> Iterator[tuple[int, int]]:
    """Addresses, but packages with a version, names of files, and addresses of repositories."""
    for start, end in emails(text):
        found = text[start:end]
        lead = len(found) - len(found.lstrip("`'*~.!#$%&^+-"))
        if start > 0 and text[start - 1] == "\\" and found[:1] in "nrtbf":
            lead = max(lead, 1)  # the letter of an escape
        local, _, host = found[lead:].partition("@")
        last = host.rpartition(".")[2].lower()
        if local and local.lower() != "git" and re.fullmatch(r"[^\W\d_]{2,63}|xn--[a-z0-9-]+", last) and last not in _FILES:
            yield start + lead, end


def _is_host(found: str) -> bool:
    """Whether it is the address of one host that is somewhere; a scope of C++ and a time aren't."""
    try:
        address = ipaddress.ip_address(found.partition("%")[0])
    except ValueError:
        return False  # a network, such as 10.0.0.0/8, is nobody's
    if address.version == 6 and len(re.findall(r"[0-9a-fA-F]+", found)) < 3:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or found.startswith("255."))
