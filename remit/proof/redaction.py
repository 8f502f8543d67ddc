"""What must not leave in a capsule, found by rule in every string and taken out. Pure.

A value that a rule finds becomes `[redacted:RULE:HEX]`, where HEX is 12 digits of an HMAC under a key of the namespace: equal
values stay equal, their owner can prove later what was there, and nobody without the key can try guesses.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from policies.models import Frozen
from policies.privacy import PLACEHOLDER_NAME
from remit.proof.rules import BUILT_IN, Rule

__all__ = ["LEFT_ALONE", "Hit", "Redactor"]

MAX_DEPTH = 64

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
_PLACEHOLDER_OR_MARK = re.compile(rf"(\[redacted:[a-z0-9_]+:[0-9a-f]{{12}}\]|<{PLACEHOLDER_NAME}>)")
_CREDENTIAL_NAME = re.compile(
    r"(?i)(pass(word|wd|phrase)|(client|api|app)?[_-]?secret|api[_-]?key|(access|refresh|id|auth|bearer)[_-]?token|authorization"
    r"|private[_-]?key)"
)


PLACEHOLDERS = "placeholder"
"""What the places are counted as in which a run with `[privacy]` has a placeholder."""


class Placed(Protocol):
    """Where in a text a placeholder belongs, and its name."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def name(self) -> str: ...


class Hit(Frozen):
    """Where a rule finds something; never what."""

    rule: str
    path: str


@dataclass
class Redactor:
    """The rules, applied to one capsule.

    Attributes:
        key: the namespace's; empty for one that only scans.
        known: e-mail addresses that stay, in lower case: of those who answer for the run and decide in it.
        names: finds in a text what models saw placeholders for, in a run with `[privacy]`; the second argument asks for what
            is beyond doubt only. They come before all rules.
        counts: how often each rule found something so far.
    """

    key: bytes
    known: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = BUILT_IN
    names: Callable[[str, bool], Sequence[Placed]] | None = None
    counts: Counter[str] = field(default_factory=Counter[str])
    # Texts in which no rule finds anything: a history repeats most.
    # `replace` must not carry them over, for it may change who is known.
    _clean: set[str] = field(default_factory=set[str], init=False, repr=False)

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
                if _is_state(name, given):
                    return {**given, "items": [self._taken("provider_state", json.dumps(given["items"], sort_keys=True))]}
                return {self._plain(k, self.rules, certain=True): self._walk(v, k, depth + 1) for k, v in given.items()}
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

    def _plain(self, text: str, rules: Sequence[Rule], *, certain: bool = False) -> str:
        if text in self._clean:
            return text
        kept = self._once(text, rules, certain=certain)
        if kept == text and rules is self.rules and not certain:
            self._clean.add(text)
        while kept != text:  # a mark makes an edge, where there may be something now
            text, kept = kept, self._once(kept, rules, certain=certain)
        return kept

    def _once(self, text: str, rules: Sequence[Rule], *, certain: bool) -> str:
        mark = _PLACEHOLDER_OR_MARK if self.names else _MARK
        if self.names and rules is self.rules:  # ids and digests stay, or nothing could be verified
            pieces = mark.split(text)
            text = "".join(p if n % 2 else self._named(p, self.names(p, certain)) for n, p in enumerate(pieces))
        pieces = mark.split(text)  # every other one is a mark, in which nobody looks again
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

    def _named(self, text: str, found: Sequence[Placed]) -> str:
        out: list[str] = []
        at = 0
        for one in found:
            if text[one.start : one.end].lower() not in self.known:
                self.counts[PLACEHOLDERS] += 1
                out += [text[at : one.start], f"<{one.name}>"]
                at = one.end
        return "".join((*out, text[at:]))

    def _taken(self, rule: str, value: str) -> str:
        self.counts[rule] += 1
        return self.mark(rule, value)

    def _hits(self, value: object, path: str, depth: int) -> Iterator[Hit]:
        """As `_walk` goes, by asking it about each leaf."""
        match value:
            case dict() if depth < MAX_DEPTH and not _is_payload(cast("Mapping[str, object]", value)):
                fields = cast("Mapping[str, object]", value)
                if _is_state(path.rpartition("/")[2], fields):
                    yield Hit(rule="provider_state", path=path)
                for name, item in fields.items():
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
        look = Redactor(b"scan", self.known, self.rules, self.names)
        look._clean = self._clean
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


def _is_state(name: str, value: Mapping[str, object]) -> bool:
    """Whether it is what a vendor gave beside an answer, and it is still there. Nobody can say what is in it."""
    if name != "state" or set(value) != {"provider", "model", "items"}:
        return False
    items = value["items"]
    kept = cast("list[object]", items) if isinstance(items, list) else []
    return not (len(kept) == 1 and isinstance(kept[0], str) and _MARK.fullmatch(kept[0]))


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
