"""Rules of OpenAI: the Responses API, and Chat Completions as its own hosts take them.

Sources: the SDK's types (`openai` 3.54, `types/responses`, `types/chat`), OpenAI's description in `data/openai`, and reports:
litellm#34569, onyx#15008, Prompture 1.15.1 (function tools), openai-agents-python#919 (`store`). No key was there to try them.
"""

# Bodies are JSON of anybody's.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import re
from typing import Any

from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from tests.wire import chat_forms, responses_forms
from tests.wire.rules.server import TOKEN_BYTES, Body, Issued, Say, Vendor

__all__ = ["CHAT", "RESPONSES"]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_REASONS = re.compile(r"(?:^|/)(?:gpt-[5-9]|o\d)")
_NEVER_NONE = re.compile(r"gpt-6\.1|gpt-6-astra")
_STRICT_WORDS = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "$ref",
        "$defs",
        "description",
    }
    | {"title", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    | {"minItems", "maxItems"}
)


def _check(check: Any, params: Any, body: Body) -> str:
    if unknown := sorted(body.keys() - params.__annotations__.keys()):
        return f"Unknown parameter: '{unknown[0]}'"
    try:
        check(json.dumps(body).encode())
    except Exception as e:
        return str(e)[:300]
    return ""


def known_fields(body: Body, _: Issued) -> str:
    """An unknown field, or one of another type, is 400. Source: OpenAI's own OpenAPI description, and its SDK's params."""
    return _check(responses_forms.check, ResponseCreateParamsBase, body)


def known_chat_fields(body: Body, _: Issued) -> str:
    """The same for Chat Completions."""
    return _check(chat_forms.check, CompletionCreateParamsBase, body)


def tools_on_chat(body: Body, _: Issued) -> str:
    """Chat Completions takes tools of gpt-6 with effort `none` only, and of 6.1 and Astra never. Source: litellm#34569."""
    if not body.get("tools") or not body["model"].startswith("gpt-6"):
        return ""
    if _NEVER_NONE.match(body["model"]) or body.get("reasoning_effort") != "none":
        return "Function tools with reasoning_effort are not supported"
    return ""


def new_limit_name(body: Body, _: Issued) -> str:
    """Models that reason refuse `max_tokens`. Source: `types/chat/completion_create_params.py`, `max_tokens`: deprecated."""
    return "max_tokens" if "max_tokens" in body and _REASONS.search(body["model"]) else ""


def no_sampling(body: Body, _: Issued) -> str:
    """Models that reason take no `temperature` and no `top_p`. Source: OpenAI's guide to reasoning models."""
    return next((name for name in ("temperature", "top_p") if name in body and _REASONS.search(body["model"])), "")


def none_is_known(body: Body, _: Issued) -> str:
    """Effort `none` isn't for 6.1 and Astra. Source: docs.laozhang.ai, function calling, 2026-10-14."""
    effort = (body.get("reasoning") or {}).get("effort")
    return "effort none" if effort == "none" and _NEVER_NONE.match(body["model"]) else ""


def calls_are_answered(body: Body, _: Issued) -> str:
    """Each `function_call` has one output behind it, and no output is without its call. Source: guide to function calling."""
    open_calls: set[str] = set()
    for item in body["input"]:
        kind = item.get("type")
        if kind == "function_call":
            open_calls.add(item["call_id"])
        elif kind == "function_call_output":
            if item["call_id"] not in open_calls:
                return f"No tool call found for function call output {item['call_id']}"
            open_calls.remove(item["call_id"])
        elif item.get("role") == "user" and open_calls:
            break
    return f"No tool output found for function call {min(open_calls)}" if open_calls else ""


def reasoning_is_ours(body: Body, issued: Issued) -> str:
    """A reasoning item comes back as it was given. Source: `ResponseReasoningItemParam`, `encrypted_content`."""
    for item in body["input"]:
        if item.get("type") == "reasoning":
            given = issued.items.get(str(item.get("encrypted_content")))
            if given is None or given["id"] != item["id"] or given["model"] != body["model"]:
                return f"The encrypted content for item {item['id']} could not be verified"
    return ""


def reasoning_is_followed(body: Body, issued: Issued) -> str:
    """A reasoning item stands before the item that it led to. Source: openai-agents-python#919 and its like."""
    items = body["input"]
    for at, item in enumerate(items):
        if item.get("type") == "reasoning":
            given = issued.items.get(str(item.get("encrypted_content")))
            follows = items[at + 1] if at + 1 < len(items) else {}
            if given and follows.get("id") != given["before"]:
                return f"Item {item['id']} of type reasoning was provided without its required following item"
    return ""


def ids_have_their_reasoning(body: Body, issued: Issued) -> str:
    """An item that came with reasoning is named by its id only beside it. Source: openai-agents-python#919 and its like."""
    sent = {item["id"] for item in body["input"] if item.get("type") == "reasoning"}
    for given in issued.items.values():
        if given["id"] not in sent and any(item.get("id") == given["before"] for item in body["input"]):
            return f"Item {given['before']} was provided without its required reasoning item {given['id']}"
    return ""


def nothing_is_stored(body: Body, _: Issued) -> str:
    """Without `store`, reasoning must be asked for encrypted. Source: `response_create_params.py`, `include`."""
    if body.get("store") is not False:
        return "store must be false"
    wanted = "reasoning.encrypted_content" in (body.get("include") or [])
    return "" if wanted or not _REASONS.search(body["model"]) else "include lacks reasoning.encrypted_content"


def strict_is_strict(body: Body, _: Issued) -> str:
    """Strict schemas are closed, require all properties, and keep to some keywords. Source: guide to structured outputs."""
    return next((what for tool in body.get("tools") or () if tool.get("strict") and (what := _strict(tool["parameters"]))), "")


def _strict(schema: Any) -> str:
    if isinstance(schema, list):
        return next((what for each in schema if (what := _strict(each))), "")
    if not isinstance(schema, dict):
        return ""
    if unknown := sorted(schema.keys() - _STRICT_WORDS):
        return f"{unknown[0]} is not permitted"
    if "properties" in schema or schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return "additionalProperties is required to be false"
        if sorted(schema.get("required", ())) != sorted(schema.get("properties", ())):
            return "required must list every property"
    inner = [
        *schema.get("properties", {}).values(),
        *schema.get("$defs", {}).values(),
        schema.get("items"),
        schema.get("anyOf"),
    ]
    return _strict([each for each in inner if each is not None])


def names_and_ids(body: Body, _: Issued) -> str:
    """Names are of letters, digits, `_` and `-`; a `call_id` is 64 characters at most. Source: `FunctionToolParam`."""
    named = [*(body.get("tools") or ()), *(i for i in body["input"] if i.get("type") == "function_call")]
    if wrong := next((each["name"] for each in named if not _NAME.fullmatch(each["name"])), ""):
        return f"name {wrong}"
    return next((item["call_id"] for item in body["input"] if len(item.get("call_id", "")) > 64), "")


def some_output(body: Body, _: Issued) -> str:
    """`max_output_tokens` is 16 at least. Source: OpenAI's description of it."""
    return "max_output_tokens" if body["max_output_tokens"] < 16 else ""


def four_marks(body: Body, _: Issued) -> str:
    """A request writes four cache marks at most. Source: `response_create_params.py`, `prompt_cache_options`."""
    return "prompt_cache_breakpoint" if json.dumps(body).count('"prompt_cache_breakpoint"') > 4 else ""


def _refuse(what: str) -> Body:
    return {"error": {"message": what, "type": "invalid_request_error", "param": None, "code": "invalid_request_error"}}


def _answer(body: Body, say: Say, issued: Issued) -> Body:
    n = issued.count
    outputs: list[Body] = []
    if say.text:
        outputs.append(responses_forms.message(say.text, item_id=f"msg_{n}"))
    for at, (name, arguments) in enumerate(say.calls):
        outputs.append(responses_forms.call(name, json.dumps(arguments), f"call_{n}_{at}"))
    items: list[Body] = []
    for at, output in enumerate(outputs):
        secret = f"gAAA{n}x{at}"
        issued.items[secret] = {"id": f"rs_{n}_{at}", "before": output["id"], "model": body["model"]}
        items += [responses_forms.reasoning(f"rs_{n}_{at}", secret), output]
    head = {k: v for k, v in body.items() if k in ("tools", "instructions")}
    prompt = json.dumps([head, body["input"]]).encode()
    cached, read = issued.cached(prompt), len(prompt) // TOKEN_BYTES
    details = {"cached_tokens": cached, "cache_write_tokens": read - cached}
    usage = {"input_tokens": read, "input_tokens_details": details, "output_tokens": 30, "total_tokens": read + 30}
    usage["output_tokens_details"] = {"reasoning_tokens": 20}
    return responses_forms.answer(*items, usage=usage, model=body["model"])


def _chat_answer(body: Body, say: Say, issued: Issued) -> Body:
    calls = [
        chat_forms.call(name, json.dumps(given), f"call_{issued.count}_{at}") for at, (name, given) in enumerate(say.calls)
    ]
    message: Body = {"content": say.text or None, **({"tool_calls": calls} if calls else {})}
    return chat_forms.answer(message, "tool_calls" if calls else "stop")


RESPONSES = Vendor(
    (
        known_fields,
        no_sampling,
        none_is_known,
        calls_are_answered,
        reasoning_is_ours,
        reasoning_is_followed,
        ids_have_their_reasoning,
        nothing_is_stored,
        strict_is_strict,
        names_and_ids,
        some_output,
        four_marks,
    ),
    _refuse,
    _answer,
)
CHAT = Vendor((known_chat_fields, tools_on_chat, new_limit_name, no_sampling), _refuse, _chat_answer)
