"""What Google's refusals mean. Without its SDK."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import cast

from activities.providers import _http
from activities.providers.base import ProviderError

__all__ = ["refused"]

_KEY_REASONS = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED"})
_TOO_LONG = re.compile(r"token count.{0,40}exceeds the maximum|exceeds the maximum number of tokens", re.IGNORECASE)
_NO_MONEY = re.compile(r"spending (?:cap|limit)|credits are depleted|billing account", re.IGNORECASE)
_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_STATUS = re.compile(r"[A-Z][A-Z_]{0,63}")
_REGION = re.compile(r"location is not supported|not available in your (?:country|region)", re.IGNORECASE)


def refused(status: int, headers: Mapping[str, str], body: object, *, key: str) -> ProviderError:
    """What an HTTP status other than 200 of Google's means.

    Args:
        body: the parsed body; what it says decides, and only Google's own identifiers of it are quoted.
        key: name of the variable that holds the key, or says where the credentials are.
    """
    whole: object = cast("list[object]", body)[0] if isinstance(body, list) and body else cast("object", body)
    error = _object(_object(whole).get("error"))
    details = list(_details(error))
    reasons = {_text(detail.get("reason")) for detail in details}
    words = _text(error.get("message"))
    if status in (400, 413) and (_TOO_LONG.search(words) or status == 413):
        return _final("context_exceeded", f"The conversation is too long for the model ({status}); shorten what tools return.")
    if status in (400, 401) and reasons & _KEY_REASONS:
        return _final("auth", f"Google refused the key ({status} `{min(reasons & _KEY_REASONS)}`); check `{key}`.")
    if status == 403 and "SERVICE_DISABLED" in reasons:
        return _final("auth", f"Google refused the key (403 `SERVICE_DISABLED`); switch the API on in the project of `{key}`.")
    if status == 400 and _REGION.search(words):
        return _final("auth", f"Google doesn't serve this worker's region (400); use Vertex AI, or a paid project for `{key}`.")
    if status == 404:
        return _final("unknown_model", f"Google has no such model, or not for `{key}` (404); check the route and the location.")
    if status == 429 and (_is_used_up(details) or _NO_MONEY.search(words)):
        return _final("quota", f"The quota or the money of `{key}` is used up (429); raise it in Google's console.")
    return _general(status, {**headers, **_wish(details)}, error, key)


def _general(status: int, headers: Mapping[str, str], error: dict[str, object], key: str) -> ProviderError:
    name = _text(error.get("status"))
    code = name.lower() if _STATUS.fullmatch(name) else ""
    return _http.refused(status, headers, {"error": {"code": code}}, key=key)


def _final(code: str, message: str) -> ProviderError:
    return ProviderError(code, message, retryable=False)


def _details(error: dict[str, object]) -> Iterator[dict[str, object]]:
    details = error.get("details")
    for detail in cast("list[object]", details) if isinstance(details, list) else []:
        yield _object(detail)


def _is_used_up(details: list[dict[str, object]]) -> bool:
    """Whether a quota that was exceeded is one of a day, or one that the account hasn't got: soon is no better."""
    for detail in details:
        violations = detail.get("violations")
        for violation in cast("list[object]", violations) if isinstance(violations, list) else []:
            found = _object(violation)
            if "PerDay" in _text(found.get("quotaId")) or str(found.get("quotaValue")) == "0":
                return True
        limit = _text(_object(detail.get("metadata")).get("quota_limit"))
        if "PerDay" in limit:
            return True
    return False


def _wish(details: list[dict[str, object]]) -> dict[str, str]:
    """`google.rpc.RetryInfo` as the header of the same meaning."""
    for detail in details:
        found = _DELAY.fullmatch(_text(detail.get("retryDelay")))
        if found and math.isfinite(float(found[1])):
            return {"retry-after": found[1]}
    return {}


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
