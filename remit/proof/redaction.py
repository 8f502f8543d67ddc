"""What must not leave in a capsule, found by rule in every string and taken out. Pure.

A value that a rule finds becomes `[redacted:RULE:HEX]`, where HEX is 12 digits of an HMAC under a key of the namespace: equal
values stay equal, their owner can prove later what was there, and nobody without the key can try guesses.
"""

import base64
import binascii
import hashlib
import hmac
import importlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from policies.canonical import sha256
from policies.errors import InvalidInput
from policies.models import Frozen

__all__ = ["BUILT_IN", "LEFT_ALONE", "Hit", "Redactor", "Rule", "addresses_in", "rules_of"]

MAX_RULES = 100
MAX_PATTERN = 1000
MAX_DEPTH = 64
Spans = Iterable[tuple[int, int]]

LEFT_ALONE = frozenset(
    {
        "action_digest",
        "capsule",
        "catalog_digest",
        "corpus_digest",
        "digest",
        "head",
        "idempotency_key",
        "key_id",
        "kid",
        "nonce",
        "policy_digest",
        "price_digest",
        "release",
        "request_digest",
        "run_id",
        "transcript",
        "workflow_id",
        "x",
    }
)
"""Fields that are compared or verified as they stand: rules of one's own leave them alone, where they hold what they should."""
SIGNED = {"decision_jws": "approval+jws", "control_jws": "control+jws"}
"""Signed words, and what their header must say. They stay whole, or go whole when there is something to redact in them."""

_CODE = re.compile(r"(sha256:)?[0-9a-f]{16,64}|(rk|cap)_[0-9a-f]{24,40}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[\w-]{1,60}")
_JWS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_MARK = re.compile(r"(\[redacted:[a-z0-9_]+:[0-9a-f]{12}\])")
_CREDENTIAL_NAME = re.compile(
    r"(?i)(pass(word|wd|phrase)|(client|api|app)?[_-]?secret|api[_-]?key|(access|refresh|id|auth|bearer)[_-]?token|authorization"
    r"|private[_-]?key)"
)


@dataclass(frozen=True)
class Rule:
    """What is looked for.

    Attributes:
        version: goes up when a rule finds other things than before.
        find: where they are in a text. It takes time in proportion to the text, whatever is in it.
        pattern: of a rule from a file of settings.
    """

    name: str
    version: int
    find: Callable[[str], Spans] = field(repr=False)
    pattern: str = ""

    @property
    def id(self) -> str:
        """Its name and version, or for one from a file, the digest of its pattern."""
        return f"{self.name}@{sha256(self.pattern.encode())[:19] if self.pattern else self.version}"


class Hit(Frozen):
    """Where a rule finds something; never what."""

    rule: str
    path: str


def _by(pattern: str, accept: Callable[[str], bool] = lambda _: True) -> Callable[[str], Spans]:
    compiled = re.compile(pattern)
    return lambda text: (m.span() for m in compiled.finditer(text) if accept(m.group()))


def _has_digit(text: str) -> bool:
    return any(c.isdigit() for c in text)


def _luhn(text: str) -> bool:
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


def _ibans(text: str) -> Iterator[tuple[int, int]]:
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


_EMAIL = r"[\w.!#$%&'*+^`~-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"
_API_KEY = (
    r"(?<![0-9A-Za-z])(?:sk-[A-Za-z0-9_-]{16,}|[sr]k_(?:live|test)_[A-Za-z0-9]{8,}|whsec_[A-Za-z0-9+/=]{16,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|hf_[A-Za-z0-9]{24,}"
    r"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,})"
)
_PRIVATE_KEY = (
    r"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:.*?-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|.*)"
)
_NAMED = (
    r"(?i)(?<![a-z0-9])(?:password|passwd|passphrase|api[_ -]?key|client[_-]?secret|access[_-]?token|refresh[_-]?token)"
    r"[\"']?\s{0,3}[:=]\s{0,3}[\"']?[^\s\"',;]{6,200}"
)

BUILT_IN: tuple[Rule, ...] = (
    Rule("private_key", 1, _by(_PRIVATE_KEY)),
    Rule("jwt", 1, _by(r"(?<![0-9A-Za-z_-])eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*")),
    Rule("bearer", 1, _by(r"(?i)(?<![a-z0-9])(?:bearer|basic) [A-Za-z0-9._~+/-]{16,}={0,2}", _has_digit)),
    Rule("api_key", 1, _by(_API_KEY)),
    Rule("url_password", 1, _by(r"[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{0,100}:[^\s/@]{1,200}@")),
    Rule("password", 1, _by(_NAMED)),
    Rule("card", 1, _by(_CARD, _luhn)),
    Rule("iban", 1, _ibans),
    Rule("email", 1, _by(_EMAIL)),
)
"""In the order in which they are asked. What the first one has taken out, the next ones don't see."""


def addresses_in(values: Iterable[str]) -> frozenset[str]:
    """The e-mail addresses in `values`, in lower case."""
    return frozenset(m.lower() for v in values for m in re.findall(_EMAIL, v))


def rules_of(toml: str) -> tuple[Rule, ...]:
    """More rules, from the text of a file that `REMIT_REDACTION` names: a table of names and regular expressions.

    Those are RE2's, which take time in proportion to the text, whatever their author wrote.

    Raises:
        InvalidInput: it can't be used; the sentence says why.
    """
    where = "`REMIT_REDACTION`"
    try:
        found = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as e:
        raise InvalidInput(f"{where} isn't valid TOML: {e}.") from None
    if len(found) > MAX_RULES:
        raise InvalidInput(f"{where} has {len(found)} rules; {MAX_RULES} is the most.")
    built_in = {rule.name for rule in BUILT_IN}
    rules: list[Rule] = []
    for name, pattern in found.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name) or name in built_in:
            raise InvalidInput(f"{where}: `{name[:40]}` can't name a rule; use other small letters than a built-in one's name.")
        if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_PATTERN:
            raise InvalidInput(f"{where}: `{name}` isn't a regular expression of up to {MAX_PATTERN} characters.")
        compiled = _linear(pattern)
        if compiled is None:
            raise InvalidInput(f"{where}: `{name}` isn't a regular expression that RE2 takes.")
        if compiled.search(""):
            raise InvalidInput(f"{where}: `{name}` also finds nothing at all; make it narrower.")
        rules.append(Rule(name, 1, _of_re2(compiled), pattern))
    return tuple(rules)


def _linear(pattern: str) -> "re.Pattern[str] | None":
    re2 = importlib.import_module("re2")  # whoever has no rules of their own needn't load it; it has no stubs
    options = re2.Options()
    options.log_errors = False
    try:
        return cast("re.Pattern[str]", re2.compile(pattern, options))
    except re2.error:
        return None


def _of_re2(compiled: "re.Pattern[str]") -> Callable[[str], Spans]:
    # RE2 takes no half of a surrogate pair; a question mark is as long.
    return lambda text: [m.span() for m in compiled.finditer(text.encode(errors="replace").decode())]


@dataclass
class Redactor:
    """The rules, applied to one capsule.

    Attributes:
        key: the namespace's; empty for one that only scans.
        known: e-mail addresses that stay, in lower case: of those who answer for the run and decide in it.
        counts: how often each rule found something so far.
        clean: texts in which no rule finds anything while these are known: a history says the same ones again and again.
    """

    key: bytes
    known: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = BUILT_IN
    counts: Counter[str] = field(default_factory=Counter[str])
    clean: set[tuple[frozenset[str], str]] = field(default_factory=set[tuple[frozenset[str], str]])

    def redact(self, value: object) -> object:
        """`value` (JSON) without what the rules find. Deterministic; applied again, it changes nothing."""
        return self._walk(value, "", 0)

    def scan(self, value: object, path: str = "") -> list[Hit]:
        """What the rules find in `value`, where it still is."""
        return list(self._hits(value, path, 0))

    def mark(self, rule: str, value: str) -> str:
        """What stands in the place of `value`."""
        code = hmac.new(self.key, f"{rule}\n{value}".encode(errors="backslashreplace"), hashlib.sha256).hexdigest()
        return f"[redacted:{rule}:{code[:12]}]"

    def _walk(self, value: object, name: str, depth: int) -> object:
        match value:
            case str():
                return self._text(value, name, depth)
            case bool():
                return value
            case int():
                text = self._plain(str(value), self.rules)  # a card's number may be a number
                return value if text == str(value) else text
            case dict() if depth < MAX_DEPTH:
                given = cast("Mapping[str, object]", value)
                if _is_payload(given):
                    return self._payload(given, depth)
                return {self._plain(k, self.rules): self._walk(v, k, depth + 1) for k, v in given.items()}
            case list() | tuple() if depth < MAX_DEPTH:
                return [self._walk(v, name, depth + 1) for v in cast("Sequence[object]", value)]
            case dict() | list() | tuple():
                return self._taken("too_deep", json.dumps(value, sort_keys=True, default=str))
            case _:
                return value

    def _payload(self, payload: Mapping[str, object], depth: int) -> object:
        """A payload of Temporal's JSON, whose data is base64: what is redacted is what is in it."""
        data = _data(payload)
        if data is None:
            return {k: self._walk(v, k, depth + 1) for k, v in payload.items()}
        text = data.decode(errors="surrogateescape")  # also bytes that are no text: a secret in them is one all the same
        kept = self._text(text, "", depth)
        if kept == text:
            return dict(payload)
        if _is_json(text) and not _is_json(kept):  # a number that was a card's
            kept = json.dumps(kept)
        return {**payload, "data": base64.b64encode(kept.encode(errors="surrogateescape")).decode()}

    def _text(self, text: str, name: str, depth: int) -> str:
        if name in SIGNED and (said := _signed(text, SIGNED[name])):
            return self._taken("signed", text) if self.scan(said) else text
        if name in LEFT_ALONE and _CODE.fullmatch(text):
            return self._plain(text, [rule for rule in self.rules if not rule.pattern])
        if _CREDENTIAL_NAME.fullmatch(name) and text and not _MARK.fullmatch(text):
            return self._taken("credential", text)
        if depth < MAX_DEPTH and (inner := _parsed(text)):
            # Text that is JSON is looked at as such: an escape would hide what it says. Left as it is, if nothing is found.
            [was] = inner
            kept = self._walk(was, name, depth + 1)
            return text if kept == was else json.dumps(kept, ensure_ascii=False)
        return self._plain(text, self.rules)

    def _plain(self, text: str, rules: Sequence[Rule]) -> str:
        if (self.known, text) in self.clean:  # of all rules: so it is of some of them
            return text
        while True:
            kept = self._once(text, rules)
            if kept == text:
                if rules is self.rules:
                    self.clean.add((self.known, text))
                return text
            text = kept  # a mark makes an edge, where there may be something now

    def _once(self, text: str, rules: Sequence[Rule]) -> str:
        pieces = _MARK.split(text)  # every other one is a mark, in which nobody looks again
        for rule in rules:
            after: list[str] = []
            for number, piece in enumerate(pieces):
                at = 0
                for start, end in rule.find(piece) if number % 2 == 0 else ():
                    found = piece[start:end]
                    # In a sentence, an address may be in code quotes, which an address could begin with, too.
                    if rule.name != "email" or found.lower().lstrip("`'*_~") not in self.known:
                        after += [piece[at:start], self._taken(rule.name, found)]
                        at = end
                after.append(piece[at:])
            pieces = after
        return "".join(pieces)

    def _taken(self, rule: str, value: str) -> str:
        self.counts[rule] += 1
        return self.mark(rule, value)

    def _hits(self, value: object, path: str, depth: int) -> Iterator[Hit]:
        """As `_walk` goes, by asking it about each leaf."""
        match value:
            case dict() if depth < MAX_DEPTH and not _is_payload(cast("Mapping[str, object]", value)):
                for name, item in cast("Mapping[str, object]", value).items():
                    if self._found(name, "", depth):
                        yield Hit(rule=self._found(name, "", depth), path=path or "/")
                    yield from self._hits(item, f"{path}/{name[:80]}", depth + 1)
            case list() | tuple() if depth < MAX_DEPTH:
                for index, item in enumerate(cast("Sequence[object]", value)):
                    yield from self._hits(item, f"{path}/{index}", depth + 1)
            case _:
                name = next((p for p in reversed(path.split("/")) if not p.isdigit()), "")
                if rule := self._found(value, name, depth):
                    yield Hit(rule=rule, path=path or "/")

    def _found(self, value: object, name: str, depth: int) -> str:
        """The first rule that changes this leaf; empty if none does."""
        look = Redactor(b"scan", self.known, self.rules, clean=self.clean)
        look._walk(value, name, depth)
        return next(iter(look.counts), "")


def _signed(text: str, typ: str) -> str:
    """What the JWS `text` says, if its header says that it is such a one; empty otherwise."""
    parts = _JWS.fullmatch(text)
    if parts is None:
        return ""
    try:
        head, body = (base64.urlsafe_b64decode(p + "=" * (-len(p) % 4)).decode() for p in parts.groups())
        header: object = json.loads(head)
    except (ValueError, RecursionError):
        return ""
    return body if isinstance(header, dict) and cast("dict[str, object]", header).get("typ") == typ else ""


def _is_payload(value: Mapping[str, object]) -> bool:
    """Whether it is a payload in Temporal's JSON; a model could write something that looks like one, and it is read as one."""
    metadata = value.get("metadata")
    return isinstance(metadata, dict) and "encoding" in metadata and set(value) <= {"metadata", "data", "externalPayloads"}


def _data(payload: Mapping[str, object]) -> bytes | None:
    try:
        return base64.b64decode(str(payload.get("data", "")), validate=True)
    except binascii.Error:
        return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(text: str) -> tuple[object] | None:
    """The object, list or text that `text` is as JSON; None when it is none of them."""
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        return (json.loads(text),)
    except (ValueError, RecursionError):
        return None
