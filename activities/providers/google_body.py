"""The body of a `generateContent` request, byte-stable. Without Google's SDK: `remit verify` works where there is none."""

import json
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NoReturn, cast

from activities.providers import _http
from activities.providers.base import ModelRequest, ToolOffer
from policies.routing import Effort
from workflows.messages import AssistantMessage, Message, ProviderState, ToolMessage, UserMessage

__all__ = ["DIALECT", "GO_ON", "NAME", "SKIPPED", "body_of"]

NAME = "google"
DIALECT = "generate_content"
"""The only form of the body so far; the Gemini API and Vertex AI take the same."""
SKIPPED = "skip_thought_signature_validator"
"""Sent as the signature of a call that Gemini didn't sign: another model's, or one whose signature was dropped.

Source: ai.google.dev/gemini-api/docs/thought-signatures.
"""

GO_ON = "Go on where you stopped."
"""Said to a model that is asked again after an answer that isn't over, and whose token there is none of."""

_GENERATION = re.compile(r"(?:^|/)gemini-(\d+)(?:\.(\d+))?")
_LEVELS: dict[Effort, str] = {
    "none": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}
# Google's own figures for `reasoning_effort` on its OpenAI-compatible endpoint; 24,576 is the most that 2.5 Flash takes.
_BUDGETS: dict[Effort, int] = {
    "none": 0,
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 24_576,
    "max": 24_576,
}
_SMALLEST_BUDGET_OF_PRO = 128
_UNSUPPORTED = frozenset({"$schema", "title", "discriminator", "examples"})
_NAMED = frozenset({"properties", "$defs"})
_BESIDE_A_REFERENCE = ("$ref", "description", "default")


def body_of(request: ModelRequest, dialect: str = DIALECT) -> bytes:
    """The exact body of the request. The model isn't part of it, for it is in the path.

    Args:
        dialect: `DIALECT`, or what an older version of this module called its form.
    """
    parts: list[bytes] = []
    # What all turns of a run share comes first: Google's implicit cache looks for a common prefix.
    if request.system:
        parts.append(b'"systemInstruction":' + _dumped({"parts": [{"text": request.system}]}))
    if request.tools:
        parts.append(b'"tools":' + _dumped([{"functionDeclarations": [_declaration(offer) for offer in request.tools]}]))
    config: dict[str, object] = {"maxOutputTokens": request.max_output_tokens}
    if request.effort:
        config["thinkingConfig"] = _thinking(request.model, request.effort)
    parts.append(b'"generationConfig":' + _dumped(config))
    messages = list(request.messages)
    if token := _token(messages, request.model):
        parts.append(b'"continuationToken":' + _dumped(token))
        while _token(messages, request.model):  # what was said so far is in the token, and isn't sent beside it
            messages.pop()
    parts.append(b'"contents":[' + b",".join(_contents(messages, request.model)) + b"]")
    return b"{" + b",".join(parts) + b"}"


def _token(messages: Sequence[Message], model: str) -> str:
    """What Google gave with an answer that isn't over yet, if the last message is such an answer of this model."""
    last = messages[-1] if messages else None
    if isinstance(last, AssistantMessage) and _is_of(last.state, model):
        for item in _items(last.state):
            if token := _text_of(item.get("continuationToken")):
                return token
    return ""


def _generation(model: str) -> tuple[int, int] | None:
    """The generation of a Gemini model, as in `gemini-3.8-flash`: (3, 8). None when its name doesn't say."""
    found = _GENERATION.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else None


def _thinking(model: str, effort: Effort) -> dict[str, object]:
    """Gemini 3 and later take a level, older ones a number of tokens; both in one request are refused."""
    version = _generation(model)
    if version and version < (3, 0):
        budget = _BUDGETS[effort]
        return {"thinkingBudget": max(budget, _SMALLEST_BUDGET_OF_PRO) if "-pro" in model else budget}
    level = _LEVELS[effort]
    # From 3.8 on, and for Pro models of 3, Google answers 400 to `MINIMAL`; thinking can't be switched off there.
    knows_minimal = version is not None and version < (3, 8) and "flash" in model
    return {"thinkingLevel": "LOW" if level == "MINIMAL" and not knows_minimal else level}


def _declaration(offer: ToolOffer) -> dict[str, object]:
    declared: dict[str, object] = {"name": offer.name, "description": offer.description}
    if offer.parameters.get("properties"):  # left out for a tool without arguments, as the API wants it
        declared["parametersJsonSchema"] = _reduced(offer.parameters)
    return declared


def _reduced(schema: object) -> object:
    """`schema` without the keywords that Google refuses; the whole one stays ours, for validation and digest.

    Source: pydantic-ai's `GoogleJsonSchemaTransformer`, whose list was found by trying; python-genai#1732 for `title`.
    """
    if isinstance(schema, list):
        return [_reduced(each) for each in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    given = cast("dict[str, object]", schema)
    if "$ref" in given:
        return {key: given[key] for key in _BESIDE_A_REFERENCE if key in given}
    found: dict[str, object] = {}
    for key, value in given.items():
        if key in _UNSUPPORTED:
            continue
        if key in _NAMED and isinstance(value, dict):
            found[key] = {name: _reduced(each) for name, each in cast("dict[str, object]", value).items()}
        elif key == "const":
            found |= _one_of(value)
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            if given.get("type") == "integer" and isinstance(value, int):
                found[key.removeprefix("exclusive").lower()] = value + (1 if key.endswith("Minimum") else -1)
        elif key == "format" and given.get("type") == "string":
            found["description"] = f"{given.get('description', '')} (format: {value})".strip()
        elif key != "description" or "description" not in found:
            found[key] = value if key in ("enum", "default", "required") else _reduced(value)
    return found


def _one_of(value: object) -> dict[str, object]:
    """A constant as an enumeration of one: `enum` is for texts and numbers only."""
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, str):
        return {"type": "string", "enum": [value]}
    return {"enum": [value]} if isinstance(value, int | float) else {}


def _contents(messages: list[Message], model: str) -> list[bytes]:
    spoken: list[tuple[bytes, bytes]] = []
    ids: dict[str, str] = {}  # of the calls that wait for their results: by our id, the one that Google gave
    for message in messages:
        match message:
            case UserMessage():
                role, parts = b"user", _text_part(message)
            case ToolMessage():
                role, parts = b"user", _result(message, ids.get(message.call_id, ""))
            case AssistantMessage():
                own = _is_of(message.state, model)
                role, parts = b"model", (_own_parts if own else _foreign(model))(message)
                ids = _ids(message) if own else {}
        if parts:  # a content without parts is refused
            spoken.append((role, parts))
    if spoken and spoken[-1][0] == b"model":  # Gemini goes on with no words of its own that aren't in a token
        spoken.append((b"user", _dumped({"text": GO_ON})))
    return [
        b'{"role":"%b","parts":[%b]}' % (role, b",".join(parts for _, parts in group))
        for role, group in groupby(spoken, key=itemgetter(0))
    ]


@_http.remembered
def _text_part(message: Message) -> bytes:
    text = message.text if isinstance(message, UserMessage) else ""
    return _dumped({"text": text}) if text.strip() else b""


def _result(message: ToolMessage, call_id: str) -> bytes:
    named = b'"id":%b,' % _dumped(call_id) if call_id else b""
    return b'{"functionResponse":{%b%b}}' % (named, _answered(message))


@_http.remembered
def _answered(message: Message) -> bytes:
    assert isinstance(message, ToolMessage)
    return b'"name":%b,"response":%b' % (_dumped(_name(message.name)), _as_response(message.content))


def _as_response(content: str) -> bytes:
    """The result of a tool as the object that Google wants; an object goes in as it is written."""
    try:
        found = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return _dumped({"output": content})
    raw = content.encode("utf-8", "replace")
    return raw if isinstance(found, dict) else b'{"output":%b}' % raw


def _foreign(model: str) -> Callable[[Message], bytes]:
    version = _generation(model)
    return _unsigned_parts if version and version < (3, 0) else _skipping_parts


@_http.remembered
def _unsigned_parts(message: Message) -> bytes:
    return _plain(message, "")


@_http.remembered
def _skipping_parts(message: Message) -> bytes:
    return _plain(message, SKIPPED)


def _plain(message: Message, signature: str) -> bytes:
    """The parts of an answer that another model gave, or this one without what belongs to it."""
    assert isinstance(message, AssistantMessage)
    parts = [_dumped({"text": message.text})] if message.text.strip() else []
    # Of parallel calls, Gemini signs the first one only.
    parts += [_call(message, at, "", signature if at == 0 else "") for at in range(len(message.tool_calls))]
    return b",".join(parts)


@_http.remembered
def _own_parts(message: Message) -> bytes:
    """The parts of an answer as this model gave it, in their order, each with its signature and id."""
    assert isinstance(message, AssistantMessage)
    assert message.state is not None
    version = _generation(message.state.model)
    missing = "" if version and version < (3, 0) else SKIPPED
    parts: list[bytes] = []
    sent: list[int] = []
    texts = _Slices(message.text, [n for item in _items(message.state) if isinstance(n := item.get("text"), int)])
    for item in _items(message.state):
        signature = item.get("thoughtSignature")
        signature = signature if isinstance(signature, str) else ""
        if isinstance(item.get("text"), int):
            text = texts.take()
            if signature or text.strip():
                parts.append(_signed({"text": text}, signature))
        elif isinstance(thought := item.get("thought"), str):
            parts.append(_signed({"text": thought, "thought": True}, signature))
        elif isinstance(at := item.get("call"), int) and at < len(message.tool_calls):
            parts.append(_call(message, at, _text_of(item.get("id")), signature or ("" if sent else missing)))
            sent.append(at)
    for at in range(len(message.tool_calls)):
        if at not in sent:
            parts.append(_call(message, at, "", "" if sent else missing))
            sent.append(at)
    return b",".join(parts)


class _Slices:
    """Cuts a text into the lengths that its parts had; the last one takes what is left, however long the text is now."""

    def __init__(self, text: str, lengths: list[int]) -> None:
        self._text, self._left, self._at = text, lengths, 0

    def take(self) -> str:
        length = self._left.pop(0)
        end = self._at + length if self._left else len(self._text)
        begin, self._at = self._at, end
        return self._text[begin:end]


def _call(message: AssistantMessage, at: int, call_id: str, signature: str) -> bytes:
    call = message.tool_calls[at]
    head: dict[str, object] = {"id": call_id} if call_id else {}
    head["name"] = _name(call.name)
    # The object goes in as it was written: parsing and dumping it again would change its numbers.
    args = _http.as_json_object(call.arguments).encode("utf-8", "replace")
    signed = b',"thoughtSignature":%b' % _dumped(signature) if signature else b""
    return b'{"functionCall":%b,"args":%b}%b}' % (_dumped(head)[:-1], args, signed)


def _signed(part: dict[str, object], signature: str) -> bytes:
    return _dumped(part | {"thoughtSignature": signature} if signature else part)


def _ids(message: AssistantMessage) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in _items(message.state):
        at = item.get("call")
        if isinstance(at, int) and at < len(message.tool_calls):
            found[message.tool_calls[at].id] = _text_of(item.get("id"))
    return found


def _items(state: ProviderState | None) -> list[dict[str, object]]:
    return [cast("dict[str, object]", item) for item in (state.items if state else ()) if isinstance(item, dict)]


def _is_of(state: ProviderState | None, model: str) -> bool:
    return state is not None and state.is_of(NAME, model)


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else ""


def _name(name: str) -> str:
    """A tool's name as Google accepts it: it begins with a letter or an underscore."""
    safe = _http.wire_name(name)
    return safe if safe[0].isalpha() or safe[0] == "_" else "_" + safe[:63]


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(constant)  # json.loads takes NaN and Infinity, JSON doesn't
