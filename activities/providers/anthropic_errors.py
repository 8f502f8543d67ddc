"""What a refusal of Claude means, by Anthropic and by the clouds. No SDK in here."""

from collections.abc import Mapping

from pydantic import JsonValue

from activities.providers import _http
from activities.providers.base import ProviderError

__all__ = ["error_of", "no_credentials", "said"]

_MEANINGS: tuple[tuple[str, tuple[int, ...], tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        "context_exceeded",
        (413,),
        ("request_too_large",),
        ("prompt is too long", "input is too long", "exceed context limit", "exceeds the context", "maximum context length"),
        "the conversation is too long for the model; set `[context]` in `agent.toml`, or take a model with more room",
    ),
    (
        "quota",
        (402,),
        ("billing_error",),
        ("credit balance is too low", "specified api usage limits", "spend limit"),
        "the account behind `{key}` has no money or no allowance left; add credit or raise its limit, then resume the run",
    ),
    (
        "content_filter",
        (),
        (),
        ("blocked by content filtering",),
        "the vendor's content filter blocked the answer; a person must look at what the run is about",
    ),
    (
        "unknown_model",
        (),
        ("not_found_error", "DeploymentNotFound"),
        ("model identifier is invalid", "publisher model", "model not found"),
        "it has no model of this name, or not for this account; check the model's name, and the account behind `{key}`",
    ),
)
"""By code: statuses, the API's types of error, and words of its sentences, for it has no code for some of them. Sources: its
page "Errors", and for the sentences public bug reports."""


def error_of(status: int, headers: Mapping[str, str], body: JsonValue, key: str) -> ProviderError:
    """What a refusal means. Where the API has no code for it, its sentence tells; it is never quoted."""
    words = said(body)
    for code, statuses, kinds, sentences, advice in _MEANINGS:
        # What limits how often one may ask isn't told by words, but the account's own limit comes as a 429 too.
        told = status < 500 and (status not in (401, 429) or code == "quota")
        if status in statuses or (told and (_kind(body) in kinds or any(sentence in words for sentence in sentences))):
            message = f"The provider refused the call ({status}): {advice.format(key=key)}."
            return ProviderError(code, message, retryable=False)
    return _http.refused(status, headers, body, key=key)


def no_credentials(error: Exception, key: str) -> ProviderError:
    """What a failure of a cloud's own library means, before anything was sent."""
    # google-auth says so of a token server that can't be reached, though not in each of its versions.
    if getattr(error, "retryable", False) or type(error).__name__ == "TransportError":
        return _http.unreachable()
    message = f"The credentials for the provider can't be read or renewed (`{type(error).__name__}`); check `{key}`."
    return ProviderError("auth", message, retryable=False)


def said(body: JsonValue) -> str:
    """The vendor's sentence in lower case, to be searched and never shown."""
    match body:
        case [first, *_]:  # Google's form
            return said(first)
        case {"error": dict(error)}:
            return said(error)
        case {"message": str(text)} | {"error": str(text)} | str(text):
            return text.lower()
        case _:
            return ""


def _kind(body: JsonValue) -> str:
    """The API's type of error, or the cloud's code of it."""
    match body:
        case {"error": {"type": str(kind)} | {"code": str(kind)}}:
            return kind
        case _:
            return ""
