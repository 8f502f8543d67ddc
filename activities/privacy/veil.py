"""Puts placeholders into what a model is shown, and the values back into what it answers. No I/O."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from activities.privacy.folding import Folded, fold
from activities.privacy.jsontext import MAX_DEPTH, is_json, looks_like_json, map_json, map_loosely
from activities.privacy.known import KnownFinder
from activities.privacy.names import How, Names
from activities.privacy.recognizers import Recognizers
from policies.canonical import sha256
from policies.patterns import cards
from policies.privacy import PLACEHOLDER, name_in
from workflows.messages import AssistantMessage, Message, ToolMessage, ToolRequest, UserMessage
from workflows.window import NOTE

__all__ = ["Hider", "Replacement", "found_by", "replacements"]

_DIGITS = re.compile(r"[0-9]+")
_BETWEEN = re.compile(r"[ ().\-/+]{1,3}")
_MOST_GROUPS = 9
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")
LONGEST_URL = 300
SHORTEST_JSON_NUMBER = 10
"""Digits from which on a number in JSON may be a phone number that is known; shorter ones are amounts and counts."""
_TOKEN_EDGES = re.compile(r"[\s\"'<>()\[\]{}]")
_OPEN, _CLOSE = "\u2039", "\u203a"  # what stands for the brackets of something that only looks like a placeholder
NameOf = Callable[[str, How], str]


@dataclass(frozen=True)
class Replacement:
    """A part of a text, in the original's positions, and the placeholder that it becomes."""

    start: int
    end: int
    name: str


@dataclass(frozen=True)
class _Hit:
    start: int
    end: int
    rank: int
    name: NameOf
    how: How = ""


def replacements(
    text: str, names: Names, recognizers: Recognizers | None, *, field: str = "", certain: bool = False
) -> list[Replacement]:
    """What in `text` becomes a placeholder, in order; nothing overlaps.

    Args:
        names: is given what is found for the first time.
        recognizers: None to look only for what has a name already.
        field: the name of the JSON field that holds the text.
        certain: without words that may be something else than a name.
    """
    echoes = [Replacement(*echo) for echo in names.echoes(text)]
    folded = fold(text)
    hits = sorted(_hits(folded, names, recognizers, field, certain=certain), key=lambda h: (h.start - h.end, h.rank, h.start))
    taken: list[_Hit] = []
    for hit in hits:
        if all(hit.end <= other.start or hit.start >= other.end for other in taken):
            taken.append(hit)
    found: list[Replacement] = []
    for hit in sorted(taken, key=lambda h: h.start):
        start, end = folded.original(hit.start, hit.end)
        how = hit.how or ("url" if _ESCAPED.search(text[start:end]) else "")
        if all(end <= echo.start or start >= echo.end for echo in echoes):
            found.append(Replacement(start, end, hit.name(text[start:end], how)))
    return sorted((*found, *echoes), key=lambda r: r.start)


def found_by(names: Names) -> Callable[[str, bool], list[Replacement]]:
    """Finds what has a name already, without recognizing anything; the second argument asks for what is certain only."""
    return lambda text, certain: replacements(text, names, None, certain=certain)


def _hits(text: Folded, names: Names, recognizers: Recognizers | None, field: str, *, certain: bool) -> Iterator[_Hit]:
    finder = KnownFinder.of(names.facts)
    for start, end, fact in finder.find(text, certain=certain):
        yield _Hit(start, end, 0, lambda s, h, f=fact: names.of_fact(f, s, h), _how(text, start))
    for start, end, fact in finder.cut_off(text):
        yield _Hit(start, end, 1, lambda s, h, f=fact: names.of_fact(f, s, h), "part")
    for start, end, name in _numbers(text.text, names):
        yield _Hit(start, end, 1, lambda _s, _h, n=name: n)
    if recognizers is None:
        for start, end, name in names.spelt_out(text.lower):
            yield _Hit(start, end, 2, lambda _s, _h, n=name: n)
        return
    for one in recognizers.find(text.text, field):
        yield _Hit(one.start, one.end, 2, lambda s, h, k=one.kind: names.of_found(k, s, h))


def _how(text: Folded, start: int) -> How:
    """`url` for a value inside of a URL: it must go back in just this spelling."""
    before = _TOKEN_EDGES.split(text.lower[max(0, start - LONGEST_URL) : start])[-1]
    return "url" if "://" in before or before.startswith("www.") else ""


def _numbers(text: str, names: Names) -> Iterator[tuple[int, int, str]]:
    """Numbers that have a name already, however their digits are grouped."""
    if not names.has_numbers:
        return
    groups = [m.span() for m in _DIGITS.finditer(text)]
    for first, (start, end) in enumerate(groups):
        if start and (text[start - 1].isalnum() or text[start - 1] == "_"):
            continue
        digits = text[start:end]
        best: tuple[int, str] | None = None
        for number in range(first, min(first + _MOST_GROUPS, len(groups))):
            since, until = groups[number]
            if number > first:
                if not _BETWEEN.fullmatch(text[groups[number - 1][1] : since]):
                    break
                digits += text[since:until]
            after = text[until : until + 1]
            if not (after.isalnum() or after == "_") and (name := names.of_digits(digits)):
                best = until, name
        if best:
            lead = start - 1 if start and text[start - 1] == "+" else start
            yield lead, best[0], best[1]


class Hider:
    """Hides and restores texts with the names of one run."""

    def __init__(self, names: Names, recognizers: Recognizers | None) -> None:
        self.names = names
        self._recognizers = recognizers

    # ---- to the model -------------------------------------------------------------------------------------------

    def message(self, message: Message) -> Message:
        """The message as the model is shown it. What it wrote itself comes back as it wrote it."""
        match message:
            case UserMessage():
                said = self.names.said.get(_digest(message.text.removeprefix(NOTE))) if message.text.startswith(NOTE) else None
                text = self.text(message.text) if said is None else NOTE + said
                return message if text == message.text else message.model_copy(update={"text": text})
            case ToolMessage():
                content = self.text(message.content)
                return message if content == message.content else message.model_copy(update={"content": content})
            case AssistantMessage():
                calls = tuple(self._call(c) for c in message.tool_calls)
                text = self._own(message.text)
                same = text == message.text and calls == message.tool_calls
                return message if same else message.model_copy(update={"text": text, "tool_calls": calls})

    def text(self, text: str, field: str = "", depth: int = 0) -> str:
        """`text` with placeholders; JSON is looked at as such, and inside of its strings, too."""
        if depth < MAX_DEPTH and looks_like_json(text):
            if is_json(text):
                return map_json(
                    text, lambda s, name: self.plain(s) if name is None else self.text(s, name, depth + 1), self._number
                )
            return map_loosely(text, lambda s: self.text(s, field, depth + 1), self.plain)
        return self.plain(text, field)

    def certain(self, text: str) -> str:
        """A text of the agent's own: only what is beyond doubt is hidden in it."""
        return _put(text, replacements(text, self.names, None, certain=True), str)

    def plain(self, text: str, field: str = "") -> str:
        """`text` with placeholders; it isn't JSON, or is the string in the field of that name."""
        return _put(text, replacements(text, self.names, self._recognizers, field=field), _harmless)

    def _number(self, number: str) -> str:
        """A number in JSON: that of a card, or one that is known. Only whole ones, for amounts are numbers too."""
        if not number.isdigit() or len(number) < SHORTEST_JSON_NUMBER:
            return number
        if any(span == (0, len(number)) for span in cards(number)):
            return json.dumps(f"<{self.names.of_found('card', number, 'number')}>")
        entry = self.names.get(self.names.of_digits(number))
        if entry and entry.kind == "phone":
            return json.dumps(f"<{self.names.of_found('phone', number, 'number')}>")
        return number

    def _call(self, call: ToolRequest) -> ToolRequest:
        arguments = self._own(call.arguments)
        return call if arguments == call.arguments else call.model_copy(update={"arguments": arguments})

    def _own(self, text: str) -> str:
        said = self.names.said.get(_digest(text)) if self.names.said else None
        return self.text(text) if said is None else said

    # ---- from the model -----------------------------------------------------------------------------------------

    def restore(self, message: AssistantMessage) -> AssistantMessage:
        """The answer with values for the placeholders of this run. Others stay: whoever carries out a call refuses them."""
        text = self.restored(message.text)
        calls = tuple(c.model_copy(update={"arguments": self._arguments(c.arguments)}) for c in message.tool_calls)
        self._remember(message.text, text)
        for was, now in zip(message.tool_calls, calls, strict=True):
            self._remember(was.arguments, now.arguments)
        return message.model_copy(update={"text": text, "tool_calls": calls})

    def restored(self, text: str) -> str:
        """A text with values for the placeholders in it. Once only: a value that looks like a placeholder stays."""

        def value(match: re.Match[str]) -> str:
            found = self.names.value(match)
            return match.group() if found is None else found

        return PLACEHOLDER.sub(value, text)

    def _arguments(self, text: str, depth: int = 0) -> str:
        """As `restored`; inside of JSON, values are written as JSON."""
        if depth >= MAX_DEPTH or not is_json(text):
            return self.restored(text)

        def string(said: str, field: str | None) -> str:
            alone = PLACEHOLDER.fullmatch(said.strip())
            entry = self.names.get(name_in(alone)) if alone else None
            if field is None:
                return self.restored(said)
            return f"\0{entry.value}" if entry and entry.how == "number" else self._arguments(said, depth + 1)

        return map_json(text, string, lambda number: number)

    def _remember(self, said: str, restored: str) -> None:
        """Keep how the model wrote this, if hiding what it says wouldn't give the same.

        Vendors cache what they have seen, and sign reasoning over it. But a value that is hidden stays hidden, also where the
        model has guessed it.
        """
        again = Hider(self.names.copy(), self._recognizers).text(restored)
        if again == said:
            return
        self.names.remember(_digest(restored), self._between(said))

    def _between(self, said: str) -> str:
        """What the model wrote, with what has a name already hidden around its placeholders."""
        out: list[str] = []
        at = 0
        for match in PLACEHOLDER.finditer(said):
            piece = said[at : match.start()]
            out += [_put(piece, replacements(piece, self.names, None), str), match.group()]
            at = match.end()
        piece = said[at:]
        return "".join((*out, _put(piece, replacements(piece, self.names, None), str)))


def _put(text: str, found: list[Replacement], between: Callable[[str], str]) -> str:
    out: list[str] = []
    at = 0
    for one in found:
        out += [between(text[at : one.start]), f"<{one.name}>"]
        at = one.end
    return "".join((*out, between(text[at:])))


def _harmless(text: str) -> str:
    """Text that looks like a placeholder, with other brackets, so that it isn't taken for one."""
    folded = fold(text)
    matches = list(PLACEHOLDER.finditer(folded.text))
    for match in reversed(matches):
        start, end = folded.original(*match.span())
        text = f"{text[:start]}{_OPEN}{match['name']}{_CLOSE}{text[end:]}"
    return text


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass"))
