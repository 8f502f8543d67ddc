"""The form of a request to OpenAI's API, and which other form to try when a server refuses a part of it. Pure."""

import re

from activities.providers import _http, chat_answer, chat_body, responses_answer, responses_body
from activities.providers._refusals import codes, parameter, words
from activities.providers.base import Completion, ModelRequest
from activities.providers.responses_body import Feature, features_of

__all__ = ["body_of", "lasting", "other_form", "path_of", "read"]

_MARKS = "prompt_cache_breakpoint"
_WINDOW = re.compile(r"maximum context length is (\d{1,9}) tokens")
_READ = re.compile(r"(\d{1,9}) (?:tokens )?(?:in|from) the (?:messages|prompt|input)|(\d{1,9}) input tokens")
_LEAST_ROOM = 256
"""Output tokens that are worth another try."""
_KEY = "prompt_cache_key"


def body_of(request: ModelRequest, dialect: str) -> bytes:
    """The exact body of the request, in the form `dialect` of `chat_body` or `responses_body`."""
    return responses_body.body_of(request, dialect) if _responds(dialect) else chat_body.body_of(request, dialect)


def path_of(dialect: str) -> str:
    """Where such a body is sent."""
    return "/responses" if _responds(dialect) else "/chat/completions"


def read(raw: bytes, body: bytes, request: ModelRequest, *, dialect: str, key: str, secret: str) -> Completion:
    """What the answer says; see `chat_answer.read` and `responses_answer.read`."""
    reader = responses_answer if _responds(dialect) else chat_answer
    return reader.read(raw, body, request, dialect=dialect, key=key, secret=secret)


def other_form(dialect: str, status: int, body: object, sent: bytes = b"") -> str | None:
    """The form to try after a refusal of this one; None when another form wouldn't help.

    Args:
        status: of the refusal.
        body: the refusal as it was parsed, or its text.
        sent: the body that was refused.
    """
    if not _responds(dialect):
        return _other_name(dialect, status, body) or _other_words(dialect, status, body, sent)
    features, refused = features_of(dialect), _refused(status, body)
    if refused is None or refused not in features:
        return None
    return responses_body.dialect_of(features - {refused})


def lasting(dialect: str) -> str:
    """`dialect` as later calls should begin with it: reasoning that couldn't be read was that of one conversation."""
    if not _responds(dialect):
        return " ".join(word for word in dialect.split() if not word.startswith(chat_body.MOST))
    kept: set[Feature] = {"reasoning", *features_of(dialect)}
    return responses_body.dialect_of(kept)


def _responds(dialect: str) -> bool:
    return dialect.startswith(responses_body.FORM)


def _other_name(dialect: str, status: int, body: object) -> str | None:
    if dialect not in chat_body.DIALECTS or not _http.is_refused_field(status, body, dialect.rpartition(" ")[2]):
        return None
    return chat_body.other_dialect(dialect)


def _other_words(dialect: str, status: int, body: object, sent: bytes) -> str | None:
    """`dialect` with text in the place of null, or with as much room as the server says that it has."""
    taken = dialect.split()
    # Pydantic models of small servers want a text, and answer 500 where others would say 400.
    said = words(body)
    blamed = status == 500 or (status in (400, 422) and "content" in said.lower())
    if blamed and chat_body.TEXT not in taken and b'"content": null' in sent:
        return f"{dialect} {chat_body.TEXT}"
    window, read = _WINDOW.search(said), _READ.search(said)
    if status not in (400, 413) or not (window and read) or any(word.startswith(chat_body.MOST) for word in taken):
        return None
    room = int(window[1]) - int(read[1] or read[2])
    return f"{dialect} {chat_body.MOST}{room}" if room >= _LEAST_ROOM else None


def _refused(status: int, body: object) -> Feature | None:
    """The feature of a Responses request that the server refuses."""
    field, said = parameter(body), words(body).lower()
    if status not in (400, 404, 422):
        return None
    # OpenAI answers 404 for reasoning that it can't decrypt and looks up instead, 400 for what another account encrypted.
    if "invalid_encrypted_content" in codes(body) or "items are not persisted" in said:
        return "reasoning"
    if status == 404:
        return None
    if field == "include" or field.startswith("include[") or "encrypted content is not supported" in said:
        return "include"
    if _MARKS in field or _MARKS in said:
        return "marks"
    if field == _KEY or _http.is_refused_field(status, body, _KEY):
        return "key"
    if field.startswith("tools") and ("schema" in said or "strict" in said or "strict" in field):
        return "strict"
    return None
