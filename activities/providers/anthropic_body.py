"""Bodies of the Messages API. Pure: a body depends on the request and the dialect, and no SDK is imported here."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import cast

from pydantic import JsonValue

from activities.providers import _http
from activities.providers.anthropic_schema import strict_schemas
from activities.providers.base import ModelRequest, ToolOffer
from workflows.messages import AssistantMessage, Message, ToolMessage, ToolRequest, UserMessage

__all__ = ["PROVIDER", "Built", "Dialect", "body_of", "built"]

PROVIDER = "anthropic"

_CALL_ID = re.compile(r"[A-Za-z0-9_-]+")
_MARK = b'"cache_control":{"type":"ephemeral"}'
# Sources: the vendor's pages "Thinking" and "What's new" of each model, and `ThinkingTypes` in its SDK.
_ALWAYS_THINKS = re.compile(r"claude-(opus-5-5|fable|mythos)")
_THINKS_BETWEEN_TOOLS = re.compile(r"claude-sonnet-5-5")


@dataclass(frozen=True)
class Dialect:
    """A form of the body, read from its name: a door, and the features that are used there, joined by `+`.

    Doors are alike but for `vertex`, whose body has a version and no model. Features: `auto` lets the server put a cache mark
    at the end of each request, `last` has it in the last block, `strict` asks for arguments that match their schema.

    Attributes:
        door: which server it is for, with `/` and the API's version where the body must hold it.
    """

    door: str
    features: frozenset[str] = frozenset()

    @classmethod
    def named(cls, name: str) -> "Dialect":
        door, *features = name.split("+")
        return cls(door, frozenset(features))

    @property
    def name(self) -> str:
        return "+".join((self.door, *sorted(self.features)))

    @property
    def version(self) -> str:
        """The API's version, if the body holds it."""
        return self.door.partition("/")[2]

    def without(self, feature: str, instead: str = "") -> "Dialect":
        """The same without a feature, or with another in its place."""
        return Dialect(self.door, (self.features | {instead}) - {feature, ""})


@dataclass(frozen=True)
class Built:
    """A body, and the digest of what an answer's thinking is bound to: system prompt, tools and all messages."""

    body: bytes
    bound: str


def body_of(request: ModelRequest, dialect: str) -> bytes:
    """The exact body of the request. An empty dialect is the form from before dialects were recorded."""
    return built(request, dialect).body if dialect else _first_form(request)


def built(request: ModelRequest, name: str) -> Built:
    """The body in the dialect of this name. What two requests share comes first in it, byte for byte."""
    dialect = Dialect.named(name)
    # A summary is asked for once, so a cache entry would be paid for and never read.
    cached = request.turn is not None and bool(dialect.features & {"auto", "last"})
    head: dict[str, object] = {"anthropic_version": dialect.version} if dialect.version else {"model": request.model}
    prefix: dict[str, object] = {}
    if request.tools:
        prefix["tools"] = _tools(request.tools, strict="strict" in dialect.features)
    if request.system:
        prefix["system"] = [{"type": "text", "text": request.system}]
    if cached:
        _mark_prefix(prefix)
    # Bound to the door too: an account elsewhere can't read it.
    bound = _Bound(json.dumps([dialect.door, prefix]).encode())
    messages = b",".join(_grouped(_spoken(request, bound), marked=cached and "last" in dialect.features))
    tail: dict[str, object] = {"max_tokens": request.max_output_tokens, **_reasoning(request)}
    if cached and "auto" in dialect.features:
        tail["cache_control"] = {"type": "ephemeral"}
    body = b'%b,"messages":[%b],%b' % (json.dumps(head | prefix).encode()[:-1], messages, json.dumps(tail).encode()[1:])
    return Built(body, bound.digest)


def _mark_prefix(prefix: dict[str, object]) -> None:
    """Mark the last block of what all runs of an agent share: the server reads tools before the system prompt."""
    blocks = cast("list[dict[str, object]]", prefix.get("system") or prefix.get("tools") or [])
    if blocks:
        blocks[-1]["cache_control"] = {"type": "ephemeral"}


def _reasoning(request: ModelRequest) -> dict[str, object]:
    """What sets the effort. Every model has its own way of not thinking, or none."""
    match request.effort:
        case None:
            return {}
        case "none" if _THINKS_BETWEEN_TOOLS.search(request.model):
            return {"thinking": {"type": "between_tools"}}
        case "none" if not _ALWAYS_THINKS.search(request.model):
            return {"thinking": {"type": "disabled"}}
        case "none" | "minimal":
            return {"output_config": {"effort": "low"}}
        case effort:
            return {"output_config": {"effort": effort}}


def _tools(offers: Sequence[ToolOffer], *, strict: bool) -> list[dict[str, object]]:
    """The tools, held to their schemas where that can be done."""
    schemas = strict_schemas(offers) if strict else [None] * len(offers)
    return [
        _tool(offer) if schema is None else _tool(offer) | {"input_schema": schema, "strict": True}
        for offer, schema in zip(offers, schemas, strict=True)
    ]


def _tool(offer: ToolOffer) -> dict[str, object]:
    return {"name": offer.name, "description": offer.description, "input_schema": offer.parameters}


def _spoken(request: ModelRequest, bound: "_Bound") -> Iterator[tuple[Message, bytes]]:
    """Each message with its content blocks, those without any left out: the API refuses a message without content.

    Args:
        bound: what comes before the messages; they are added.
    """
    for message in request.messages:
        blocks = _blocks(message)
        # Thinking is refused if anything before it has changed since: tools, the system prompt, any message.
        if _state(message, request.model)[:1] == (bound.digest,):
            blocks = _whole(message)
        if blocks:
            bound.add(_role(message) + blocks)
            yield message, blocks


def _grouped(spoken: Iterable[tuple[Message, bytes]], *, marked: bool) -> list[bytes]:
    """The API's messages: roles alternate, and the results of a turn come first, in the order of its calls."""
    groups = [(role, list(group)) for role, group in groupby(spoken, key=lambda pair: _role(pair[0]))]
    order: dict[str, int] = {}
    for role, group in groups:
        if role == b"assistant":
            calls = [call.id for message, _ in group if isinstance(message, AssistantMessage) for call in message.tool_calls]
            order = {call_id: index for index, call_id in enumerate(calls)}
        else:
            group.sort(key=lambda pair: _place(pair[0], order))
    if marked and groups and groups[-1][0] == b"user":
        message, blocks = groups[-1][1][-1]
        # Outside the memo of blocks, or each message would keep its mark for ever and the fifth be refused.
        groups[-1][1][-1] = (message, b"%b,%b}" % (blocks[:-1], _MARK))
    blocks_of = itemgetter(1)
    return [b'{"role":"%b","content":[%b]}' % (role, b",".join(map(blocks_of, group))) for role, group in groups]


def _place(message: Message, order: dict[str, int]) -> tuple[int, int]:
    return (0, order.get(message.call_id, len(order))) if isinstance(message, ToolMessage) else (1, 0)


def _state(message: Message, model: str) -> tuple[JsonValue, ...]:
    """What the vendor gave beside an answer, if it may be sent back to `model`."""
    state = message.state if isinstance(message, AssistantMessage) else None
    return state.items if state and state.is_of(PROVIDER, model) else ()


def _role(message: Message) -> bytes:
    return b"assistant" if isinstance(message, AssistantMessage) else b"user"


@_http.remembered
def _blocks(message: Message) -> bytes:
    """The content blocks of a message, separated by commas, without what its vendor gave beside it."""
    match message:
        case UserMessage():
            blocks = _text(message.text)
        case ToolMessage():
            result = {"type": "tool_result", "tool_use_id": _call_id(message.call_id), "content": message.content}
            blocks = [json.dumps(result)]
        case AssistantMessage():
            blocks = _text(message.text) + [_past_call(call) for call in message.tool_calls]
    return ",".join(blocks).encode()


@_http.remembered
def _whole(message: Message) -> bytes:
    """The content blocks of an answer as the vendor gave them: thinking in its place among text and calls."""
    assert isinstance(message, AssistantMessage) and message.state
    blocks: list[str] = []
    read = calls = 0
    for item in message.state.items[1:]:
        match item:
            case {"type": str()}:
                blocks.append(json.dumps(item))
            case {"text": int(length)}:
                blocks += _text(message.text[read : read + length])
                read += length
            case {"call": int(index)} if index == calls < len(message.tool_calls):
                blocks.append(_past_call(message.tool_calls[index]))
                calls += 1
            case _:
                return _blocks(message)
    if (read, calls) != (len(message.text), len(message.tool_calls)):
        return _blocks(message)  # the answer isn't the one that it was made of
    return ",".join(blocks).encode()


def _text(text: str) -> list[str]:
    return [json.dumps({"type": "text", "text": text})] if text.strip() else []  # a blank text block is refused


def _past_call(call: ToolRequest) -> str:
    head = json.dumps({"type": "tool_use", "id": _call_id(call.id), "name": _http.wire_name(call.name)})
    # The object goes in as the model wrote it: parsing and dumping it again would change its numbers.
    return f'{head[:-1]},"input":{_http.as_json_object(call.arguments)}}}'


def _call_id(call_id: str) -> str:
    """`call_id`, or a digest of it when another provider, in an earlier turn, chose one that this API refuses."""
    return (
        call_id if _CALL_ID.fullmatch(call_id) else "id_" + hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:32]
    )


class _Bound:
    """What thinking is bound to, as a running digest of all that comes before it."""

    def __init__(self, prefix: bytes) -> None:
        self._hash = hashlib.sha256(prefix)

    def add(self, blocks: bytes) -> None:
        self._hash.update(blocks)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:16]


def _first_form(request: ModelRequest) -> bytes:
    """The body as it was before dialects were recorded, so that older traces verify."""
    head: dict[str, object] = {"model": request.model, "max_tokens": request.max_output_tokens}
    if request.system:
        head["system"] = request.system
    if request.tools:
        head["tools"] = [_tool(offer) for offer in request.tools]
    spoken = ((_role(message), blocks) for message in request.messages if (blocks := _blocks(message)))
    messages = [
        b'{"role":"%b","content":[%b]}' % (role, b",".join(blocks for _, blocks in group))
        for role, group in groupby(spoken, key=itemgetter(0))
    ]
    return b'%b,"messages":[%b]}' % (json.dumps(head).encode()[:-1], b",".join(messages))
