"""The rules by which a capsule is redacted: those that are built in, and those of a file. Pure.

Each takes time in proportion to the text, whatever is in it.
"""

import importlib
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

from policies.canonical import sha256
from policies.errors import InvalidInput
from policies.patterns import EMAIL, Spans, by_pattern, cards, emails, ibans

__all__ = ["BUILT_IN", "Rule", "addresses_in", "rules_of"]

MAX_RULES = 100
MAX_PATTERN = 1000


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


def _has_digit(text: str) -> bool:
    return any(c.isdigit() for c in text)


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
    Rule("private_key", 1, by_pattern(_PRIVATE_KEY)),
    Rule("jwt", 1, by_pattern(r"(?<![0-9A-Za-z_-])eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*")),
    Rule("bearer", 1, by_pattern(r"(?i)(?<![a-z0-9])(?:bearer|basic) [A-Za-z0-9._~+/-]{16,}={0,2}", _has_digit)),
    Rule("api_key", 1, by_pattern(_API_KEY)),
    Rule("url_password", 1, by_pattern(r"[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{0,100}:[^\s/@]{1,200}@")),
    Rule("password", 1, by_pattern(_NAMED)),
    Rule("card", 1, cards),
    Rule("iban", 1, ibans),
    Rule("email", 1, emails),
)
"""In the order in which they are asked. What the first one has taken out, the next ones don't see."""


def addresses_in(values: Iterable[str]) -> frozenset[str]:
    """The e-mail addresses in `values`, in lower case."""
    return frozenset(m.lower() for v in values for m in re.findall(EMAIL, v))


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
