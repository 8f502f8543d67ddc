"""Rules of Google's `generateContent`.

Sources: Google's description in `data/google`, the SDK's types (`google-genai` 3.6), its pages *Thought signatures* and
*Function calling*; securo#884 and qwen-code#1187 for what is answered.
"""

import itertools

# Bodies are JSON of anybody's.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import json
from typing import Any

from activities.providers.google_body import SKIPPED
from tests.wire import google_forms
from tests.wire.rules.server import TOKEN_BYTES, Body, Issued, Say, Vendor

__all__ = ["GENERATE"]

_FIELDS = {
    "model",
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "generationConfig",
    "safetySettings",
    "cachedContent",
} | {"continuationToken"}


def known_fields(body: Body, _: Issued) -> str:
    """An unknown field, or one of another type, is 400. Source: Google's description, and its SDK's types."""
    if unknown := sorted(body.keys() - _FIELDS):
        return f'Unknown name "{unknown[0]}"'
    try:
        google_forms.check(json.dumps({k: v for k, v in body.items() if k != "model"}).encode())
    except Exception as e:
        return str(e)[:300]
    return ""


def roles_alternate(body: Body, _: Issued) -> str:
    """The first content is a user's, and none is empty. Source: *Function calling*: turns follow one another."""
    roles = [content["role"] for content in body["contents"]]
    if roles[:1] != ["user"] or any(a == b for a, b in itertools.pairwise(roles)):
        return "function call turn comes immediately after a user turn or after a function response turn"
    return "contents.parts must not be empty" if any(not content["parts"] for content in body["contents"]) else ""


def responses_match(body: Body, _: Issued) -> str:
    """As many responses as calls, by name and in their order. Source: the API's own message."""
    contents = body["contents"]
    for at, content in enumerate(contents):
        calls = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
        following = contents[at + 1]["parts"] if at + 1 < len(contents) else []
        answers = [part["functionResponse"] for part in following if "functionResponse" in part]
        if [c["name"] for c in calls] != [a["name"] for a in answers] and (calls or content["role"] == "model"):
            return "the number of function response parts is not equal to the number of function call parts"
        if any(c.get("id") != a.get("id") for c, a in zip(calls, answers, strict=False)):
            return "function response id"
    return ""


def signatures_come_back(body: Body, issued: Issued) -> str:
    """The first call of a turn has the signature it came with, or says that it has none. Source: *Thought signatures*."""
    for content in body["contents"]:
        calls = [part for part in content["parts"] if "functionCall" in part] if content["role"] == "model" else []
        if not calls:
            continue
        signature = calls[0].get("thoughtSignature")
        given = issued.items.get(str(calls[0]["functionCall"].get("id")))
        if signature is None or (signature != SKIPPED and (given is None or given != signature)):
            return "Function call is missing a thought_signature in functionCall parts"
    return ""


def signatures_are_kept(body: Body, issued: Issued) -> str:
    """A call of this model is not sent back as another one's. Source: *Thought signatures*."""
    for content in body["contents"]:
        for part in content["parts"]:
            call_id = str(part.get("functionCall", {}).get("id"))
            if call_id in issued.items and part.get("thoughtSignature") == SKIPPED:
                return "the signature of a call was left out"
    return ""


def _refuse(what: str) -> Body:
    return {"error": {"code": 400, "message": what, "status": "INVALID_ARGUMENT"}}


def _answer(body: Body, say: Say, issued: Issued) -> Body:
    n = issued.count
    parts: list[Body] = [{"text": say.text}] if say.text else []
    for at, (name, given) in enumerate(say.calls):
        part: dict[str, Any] = {"functionCall": {"id": f"fc{n}{at}", "name": name, "args": given}}
        if at == 0:  # of parallel calls, the first one only
            part["thoughtSignature"] = issued.items[f"fc{n}{at}"] = f"c2ln{n:04}"
        parts.append(part)
    prompt = json.dumps([body.get("systemInstruction"), body.get("tools"), body["contents"]]).encode()
    usage = {"promptTokenCount": len(prompt) // TOKEN_BYTES, "cachedContentTokenCount": issued.cached(prompt)}
    usage |= {"candidatesTokenCount": 10, "thoughtsTokenCount": 20}
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": body["model"]}


GENERATE = Vendor((known_fields, roles_alternate, responses_match, signatures_come_back, signatures_are_kept), _refuse, _answer)
