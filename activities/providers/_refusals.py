"""Refusals by an HTTP status as errors of ours: the code by what the vendor says, and the advice that fits. No SDK in here."""

import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import cast

from activities.providers.base import ProviderError

__all__ = ["LONGEST_WAIT_SECONDS", "codes", "is_refused_field", "parameter", "refused", "words"]

LONGEST_WAIT_SECONDS = 300.0
"""The longest wish of a server that is granted; some ask for days, and some for centuries."""

_STATUSES = {
    401: "auth",
    402: "quota",
    403: "auth",
    404: "unknown_model",
    408: "timeout",
    409: "overloaded",
    429: "rate_limited",
}
_PASSING = frozenset({"overloaded", "rate_limited", "timeout"})
_ADVICE = {
    "auth": "check `{key}`",
    "bad_request": "check the model's name, the base URL and the server's own log",
    "content_filter": "its content filter doesn't let the conversation through",
    "context_exceeded": "the conversation is too long for the model",
    "overloaded": "try again later",
    "quota": "the money or the allowance of the account behind `{key}` is used up",
    "rate_limited": "try again later, or raise the limits of the account behind `{key}`",
    "timeout": "try again later",
    "unknown_model": "check the model's name in `agent.toml`, and the base URL",
}
_FIREWALL = "a page came instead of an API's answer; check the base URL, what stands between (a proxy, a firewall), and `{key}`"
_NO_TOOLS = "the model takes no tools; choose another one in `agent.toml`"
_PARAMETER = "the model doesn't take `{name}` as it was sent"
_REGION = "the vendor doesn't serve this worker's region with `{key}`"
_TOO_MUCH = "`max_output_tokens` in `agent.toml` is more than the model can write"

# Identifiers as vendors document or write them, in small letters and without `_`, `-` and `.`.
_CODES: dict[str, frozenset[str]] = {
    "content_filter": frozenset(
        {"contentfilter", "contentpolicyviolation", "responsibleaipolicyviolation", "datainspectionfailed", "moderationblocked"}
    ),
    "quota": frozenset(
        {
            "insufficientquota",
            "insufficientbalance",
            "insufficientcredits",
            "billinghardlimitreached",
            "billingnotactive",
            "billingerror",
            "exceededcurrentquotaerror",
            "arrearage",
        }
    ),
    "context_exceeded": frozenset(
        {
            "contextlengthexceeded",
            "contextwindowexceeded",
            "contextwindowexceedederror",
            "modelcontextwindowexceeded",
            "exceedcontextsizeerror",
            "requesttoolarge",
            "stringabovemaxlength",
        }
    ),
    "unknown_model": frozenset({"modelnotfound", "modeldecommissioned", "deploymentnotfound", "invalidmodel"}),
}
# Only where the refusal is of the request: the words of a rate limit speak of tokens too.
_WORDS: dict[str, re.Pattern[str]] = {
    "content_filter": re.compile(
        r"content management policy|flagged as potentially violating|data may contain inappropriate content"
    ),
    # No word on quotas: vendors use the same ones for a limit of a minute.
    "quota": re.compile(r"credit balance is too low|insufficient (?:credits|balance)"),
    "context_exceeded": re.compile(
        r"maximum (?:context|prompt|model) length|(?:prompt|input)(?: is)? too long|exceeds?(?: the)? max(?:imum)? length"
        r"|exceed\w*.{0,40}context (?:length|window|limit|size)|context (?:length|window|limit|size).{0,40}exceed"
        r"|longer than the model's context|loaded with context length of only|context overflow"
        r"|exceeded model token limit|input token count.{0,60}exceeds|exceeds the maximum number of tokens"
        r"|range of input length should be|tokens` \+ `max_new_tokens` must be|request (?:is )?too large"
        r"|request entity too large|contextwindowexceeded"
    ),
    "unknown_model": re.compile(r"is not a valid model|\bmodel\b.{0,100}(?:does not exist|not found|is not available)"),
}
_TAKES_NO_TOOLS = re.compile(r"does not support (?:tools|function calling)|support tool use|--enable-auto-tool-choice")
_LIMIT = re.compile(r"max_(?:completion_|output_|new_)?tokens\W{1,4}(?:or \W?max_\w+\W{1,3})?is too large: (\d{1,12})")
_LENGTH = re.compile(r"maximum context length is (\d{1,12})")
_REFUSED_FIELD = (
    r"(?:unsupported|unrecognized|unknown|unexpected|extra).{{0,60}}(?<!\w){name}(?!\w)"
    r"|(?<!\w){name}(?!\w).{{0,60}}(?:not supported|unsupported|not permitted|not allowed|unrecognized|unexpected)"
)
_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
# An identifier, not a key: vendors repeat keys, and those have hyphens, or many digits.
_IDENTIFIER = re.compile(r"(?!(?:.*\d){5})[A-Za-z][A-Za-z0-9_.]{0,47}")
_NUMBER = re.compile(r"\d{1,6}")
_FIELD = re.compile(r"(?!(?:.*\d){5})[A-Za-z][A-Za-z0-9_.\[\]]{0,63}")


def refused(status: int, headers: Mapping[str, str], body: object, *, key: str, secret: str = "") -> ProviderError:
    """The failure that an HTTP status other than 2xx means.

    Args:
        body: as it was parsed, or its text; it decides, but only identifiers in it are quoted, for vendors repeat keys and
            prompts in their sentences.
        key: name of the variable that holds the key.
        secret: the key itself, which isn't quoted even where it looks like an identifier.
    """
    reason = _reason(body, status, secret)
    code, advice = _recognised(status, body)
    if not code:
        code, advice = _STATUSES.get(status, "overloaded" if status >= 500 else "bad_request"), ""
        wish = headers.get("x-should-retry")
        retryable = wish == "true" if wish in ("true", "false") and code != "quota" else code in _PASSING
    else:
        retryable = False
    if not advice and status == 403 and isinstance(body, str | bytes):
        advice = _FIREWALL
    name = parameter(body)
    if _is_of_key(name, secret):
        advice = ""
    what = "the key" if code == "auth" and advice != _FIREWALL else "the call"
    quoted = f" `{reason}`" if reason else ""
    advice = (advice or _ADVICE[code]).format(key=key, name=name)
    message = f"The provider refused {what} ({status}{quoted}); {advice}."
    return ProviderError(code, message, retryable=retryable, retry_after_s=_retry_after(headers))


def parameter(body: object) -> str:
    """The field of the request that the vendor names as the cause, or nothing."""
    for fields in _levels(body):
        value = fields.get("param")
        if isinstance(value, str) and _FIELD.fullmatch(value):
            return value
    return ""


def codes(body: object) -> frozenset[str]:
    """The vendor's identifiers of the error."""
    return frozenset(_identifiers(body))


def is_refused_field(status: int, body: object, name: str) -> bool:
    """Whether the refusal is of the request's field `name` itself, not of its value."""
    if status not in (400, 422):
        return False
    said = words(body).lower()
    if "too large" in said or "at most" in said:
        return False
    codes = {_plain(found) for found in _identifiers(body)}
    if parameter(body) == name and "unsupportedparameter" in codes:
        return True
    if said.strip() in (f"no_{name}", name):  # some gateways say no more than that
        return True
    # Older servers and strict ones have no code for it.
    return re.search(_REFUSED_FIELD.format(name=re.escape(name)), said) is not None


def words(body: object) -> str:
    """The vendor's sentences, for recognising them. They may quote what was sent, so they aren't for people."""
    return " ".join(" ".join(_sentences(body)).split())[:4000]


def _recognised(status: int, body: object) -> tuple[str, str]:
    """Code and advice (empty: the usual one) by what the vendor says; no code when the status alone decides."""
    if status in (401, 407, 408) or status < 400:
        return "", ""
    codes = {_plain(found) for found in _identifiers(body)}
    said = words(body).lower()
    if "unsupportedcountryregionterritory" in codes:
        return "auth", _REGION
    if _is_flagged(body):
        return "content_filter", ""
    for code, known in _CODES.items():
        if codes & known and not (code == "context_exceeded" and status == 429):
            return (code, "") if code != "context_exceeded" else _too_long(said)
    if status == 429:
        # One request that is larger than what is allowed in a minute doesn't pass in any minute.
        return ("context_exceeded", "") if "request too large" in said else ("", "")
    if status not in (400, 402, 403, 404, 413, 422, 500):
        return "", ""
    if _TAKES_NO_TOOLS.search(said):
        return "bad_request", _NO_TOOLS
    for code, pattern in _WORDS.items():
        if pattern.search(said):
            return (code, "") if code != "context_exceeded" else _too_long(said)
    if status == 413:
        return "context_exceeded", ""
    if status in (400, 422):
        name = parameter(body)
        if name in _LIMITS and not codes & {"unsupportedparameter"}:
            return "bad_request", _TOO_MUCH
        if name and not name.startswith(("messages", "input", "prompt", "model")):
            return "bad_request", _PARAMETER
    return "", ""


def _too_long(said: str) -> tuple[str, str]:
    """A conversation that is too long, or a limit for which even an empty one would be."""
    limit, length = _LIMIT.search(said), _LENGTH.search(said)
    if limit and length and int(limit[1]) >= int(length[1]):
        return "bad_request", _TOO_MUCH
    return "context_exceeded", ""


def _is_flagged(body: object) -> bool:
    return any("flagged_input" in _object(fields.get("metadata")) for fields in _levels(body))


def _reason(body: object, status: int, secret: str) -> str:
    """The vendor's identifier of the error, if it has one that says more than the status."""
    number = ""
    for found in _identifiers(body):
        if _is_of_key(found, secret):
            continue
        if _IDENTIFIER.fullmatch(found):
            return found
        if not number and _NUMBER.fullmatch(found) and found != str(status):
            number = found
    return number


def _is_of_key(found: str, secret: str) -> bool:
    """Whether `found` gives the key away. Servers that ask for no key are given a short word, which proves nothing."""
    return min(len(found), len(secret)) >= 8 and (found in secret or secret in found)


def _identifiers(body: object) -> Iterator[str]:
    for fields in _levels(body):
        inner = _object(fields.get("innererror"))
        for value in (
            fields.get("code"),
            inner.get("code"),
            fields.get("type"),
            fields.get("status"),
            fields.get("error_code"),
        ):
            if isinstance(value, str):
                yield value
            elif isinstance(value, int) and not isinstance(value, bool):
                yield str(value)


def _levels(body: object) -> Iterator[dict[str, object]]:
    """The object that describes the error, and those around it, the innermost first."""
    listed = cast("list[object]", body) if isinstance(body, list) else [body]
    fields = _object(listed[0] if listed else None)
    for name in ("error", "detail"):
        if isinstance(fields.get(name), dict):
            yield _object(fields[name])
    if fields:
        # Around a nested error, `type` is only the word "error".
        yield {name: value for name, value in fields.items() if not (name in ("type", "object") and value == "error")}


def _sentences(body: object) -> Iterator[str]:
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    if isinstance(body, str):
        yield body
        return
    for fields in _levels(body):
        for name in ("message", "msg", "error", "detail"):
            value = fields.get(name)
            if isinstance(value, str):
                yield value
            for one in cast("list[object]", value) if isinstance(value, list) else ():
                for part in (one, _object(one).get("msg")):
                    if isinstance(part, str):
                        yield part
        raw = _object(fields.get("metadata")).get("raw")  # what the server behind a gateway said
        if isinstance(raw, str):
            yield raw


def _plain(identifier: str) -> str:
    return re.sub(r"[_.\-]", "", identifier).lower()


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    for header, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[header]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return min(seconds, LONGEST_WAIT_SECONDS)
    try:
        moment = parsedate_to_datetime(headers["retry-after"])
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), LONGEST_WAIT_SECONDS)
