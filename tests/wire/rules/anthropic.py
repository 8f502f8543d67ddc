"""Rules of Anthropic's Messages API.

Sources: the SDK's types (`anthropic` 2.12, `types/message_create_params.py`, `types/*_param.py`), and the vendor's own pages:
*Thinking in tool and multi-turn workflows*, *Preserved thinking*, *What's new in Claude Haiku 5.5 / Sonnet 5.5*.
"""

# Bodies are JSON of anybody's.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
import itertools
import json
import re
from typing import Any

from tests.wire import anthropic_api
from tests.wire.rules.server import TOKEN_BYTES, Body, Issued, Say, Vendor

__all__ = ["MESSAGES"]

_ID = re.compile(r"[a-zA-Z0-9_-]+")
_THINKING = ("thinking", "redacted_thinking")
_THINKS = re.compile(r"claude-[a-z]+-5")
_MOST_OUTPUT = 128_000


def _blocks(message: Body) -> list[Body]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _unmarked(value: Any) -> Any:
    """`value` without cache marks, which no thinking is bound to."""
    if isinstance(value, dict):
        return {k: _unmarked(v) for k, v in value.items() if k != "cache_control"}
    return [_unmarked(v) for v in value] if isinstance(value, list) else value


def _bound(body: Body, at: int) -> str:
    """Digest of everything before message `at`."""
    before = _unmarked([body["model"], body.get("system"), body.get("tools"), body["messages"][:at]])
    return hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()


def known_fields(body: Body, _: Issued) -> str:
    """An unknown field, or one of another type, is 400; `temperature` is none any more. Source: the SDK's typed params."""
    try:
        anthropic_api.checked(json.dumps(body).encode())
    except Exception as e:
        return str(e)[:300]
    return ""


def roles_alternate(body: Body, _: Issued) -> str:
    """The first message is a user's, and no role speaks twice in a row. Source: `MessageParam`."""
    roles = [message["role"] for message in body["messages"]]
    if roles[:1] != ["user"]:
        return "first message must use the user role"
    return "roles must alternate" if any(a == b for a, b in itertools.pairwise(roles)) else ""


def no_empty_text(body: Body, _: Issued) -> str:
    """Text blocks aren't blank, and no message is without content. Source: `TextBlockParam`; the API's own message."""
    for message in body["messages"]:
        blocks = _blocks(message)
        if not blocks or any(b["type"] == "text" and not b["text"].strip() for b in blocks):
            return "text content blocks must contain non-whitespace text"
    return ""


def results_come_first(body: Body, _: Issued) -> str:
    """Results follow their calls at once, all of them, in their order, before any text. Source: *Handle tool calls*."""
    messages = body["messages"]
    for at, message in enumerate(messages):
        wanted = [b["id"] for b in _blocks(message) if b["type"] == "tool_use"]
        following = _blocks(messages[at + 1]) if at + 1 < len(messages) else []
        given = [b.get("tool_use_id") for b in following[: len(wanted)] if b["type"] == "tool_result"]
        if wanted and given != wanted:
            return "tool_use ids were found without tool_result blocks immediately after"
        extra = [b for b in following[len(wanted) :] if b["type"] == "tool_result"]
        if extra:
            return "unexpected tool_use_id found in tool_result blocks"
    return ""


def ids(body: Body, _: Issued) -> str:
    """Ids of calls are unique, and of letters, digits, `_` and `-`. Source: the API's own messages."""
    found = [b["id"] for message in body["messages"] for b in _blocks(message) if b["type"] == "tool_use"]
    if any(not _ID.fullmatch(each) for each in found):
        return "tool_use.id: String should match pattern"
    return "tool_use ids must be unique" if len(set(found)) < len(found) else ""


def thinking_is_unaltered(body: Body, issued: Issued) -> str:
    """Thinking comes back as it was given, signature and all. Source: *Thinking in tool and multi-turn workflows*."""
    for message in body["messages"]:
        for block in _blocks(message):
            if block["type"] in _THINKING and _unmarked(block) != issued.items.get(_key(block), {}).get("block"):
                return "thinking blocks cannot be modified"
    return ""


def thinking_is_bound(body: Body, issued: Issued) -> str:
    """Thinking is bound to the model, the system prompt, the tools and every message before. Source: *Preserved thinking*."""
    for at, message in enumerate(body["messages"]):
        for block in _blocks(message):
            given = issued.items.get(_key(block)) if block["type"] in _THINKING else None
            if given and given["bound"] != _bound(body, at):
                return "the prefix of a thinking block has changed"
    return ""


def thinking_is_kept(body: Body, issued: Issued) -> str:
    """A turn whose calls are being answered keeps the thinking it began with. Source: *Thinking in tool … workflows*."""
    at = max((n for n, message in enumerate(body["messages"]) if message["role"] == "assistant"), default=-1)
    blocks = _blocks(body["messages"][at]) if at >= 0 else []
    uses = {b["id"] for b in blocks if b["type"] == "tool_use"}
    for given in issued.items.values():
        same = given["bound"] == _bound(body, at) and uses & set(given["uses"])
        if same and given["block"] not in map(_unmarked, blocks):
            return "expected thinking, but found tool_use"
    return ""


def _key(block: Body) -> str:
    return str(block.get("signature") or block.get("data"))


def no_forced_tool(body: Body, _: Issued) -> str:
    """A tool can't be forced on a model that thinks. Source: *What's new in Claude Haiku 5.5*."""
    forced = (body.get("tool_choice") or {}).get("type") in ("any", "tool")
    return "tool_choice forces tool use" if forced and _THINKS.match(body["model"]) else ""


def four_marks(body: Body, _: Issued) -> str:
    """Four cache marks at most, and none on thinking. Source: *Prompt caching*, and `CacheControlEphemeralParam`."""
    blocks = [b for message in body["messages"] for b in _blocks(message)]
    if any(b["type"] in _THINKING and "cache_control" in b for b in blocks):
        return "cache_control cannot be set on thinking blocks"
    return "a maximum of 4 blocks with cache_control" if anthropic_api.cached_marks(body) > 4 else ""


def output_limit(body: Body, _: Issued) -> str:
    """`max_tokens` is at most what the model can write. Source: `message_create_params.py`, `max_tokens`."""
    return "max_tokens" if body["max_tokens"] > _MOST_OUTPUT else ""


def strict_is_closed(body: Body, _: Issued) -> str:
    """Objects of strict schemas are closed. Source: *Structured outputs*; `ToolParam.strict`."""
    return next((what for t in body.get("tools") or () if t.get("strict") and (what := _open(t["input_schema"]))), "")


def _open(schema: Any) -> str:
    if isinstance(schema, list):
        return next((what for each in schema if (what := _open(each))), "")
    if not isinstance(schema, dict):
        return ""
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return "additionalProperties must be explicitly set to false"
    return _open([each for each in schema.values() if isinstance(each, dict | list)])


def _refuse(what: str) -> Body:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": what}}


def _answer(body: Body, say: Say, issued: Issued) -> Body:
    n = issued.count
    uses = [anthropic_api.use(name, given, f"toolu_{n}_{at}") for at, (name, given) in enumerate(say.calls)]
    content: list[Body] = [anthropic_api.text(say.text)] if say.text else []
    if _THINKS.match(body["model"]) and (body.get("thinking") or {}).get("type") != "disabled":
        block = anthropic_api.think("Let me see.", f"sig{n}")
        issued.items[f"sig{n}"] = {
            "block": block,
            "bound": _bound(body, len(body["messages"])),
            "uses": [use["id"] for use in uses],
        }
        content.insert(0, block)
    prompt = json.dumps(_unmarked([body.get("tools"), body.get("system"), body["messages"]])).encode()
    read = len(prompt) // TOKEN_BYTES
    cached = min(issued.cached(prompt), read) if anthropic_api.cached_marks(body) else 0
    written = read - cached if anthropic_api.cached_marks(body) else 0
    usage = {"input_tokens": read - cached - written, "cache_read_input_tokens": cached, "cache_creation_input_tokens": written}
    stop = "tool_use" if uses else "end_turn"
    return anthropic_api.answer(*content, *uses, stop=stop, usage={**usage, "output_tokens": 30}, model=body["model"])


MESSAGES = Vendor(
    (
        known_fields,
        no_forced_tool,
        four_marks,
        output_limit,
        strict_is_closed,
        roles_alternate,
        no_empty_text,
        results_come_first,
        ids,
        thinking_is_unaltered,
        thinking_is_bound,
        thinking_is_kept,
    ),
    _refuse,
    _answer,
)
