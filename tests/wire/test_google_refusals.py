"""What Google's refusals become."""

import traceback

import pytest

from tests.wire.google_forms import Connect, failure
from tests.wire.server import KEY, CannedServer


def refusal(status: int, name: str, message: str = "no", *details: dict[str, object]) -> dict[str, object]:
    return {"error": {"code": status, "message": message, "status": name, "details": [*details]}}


REFUSALS: list[tuple[int, object, str, bool, str]] = [
    (
        400,
        refusal(
            400, "INVALID_ARGUMENT", "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576)."
        ),
        "context_exceeded",
        False,
        "The conversation is too long for the model (400); shorten what tools return.",
    ),
    (413, b"", "context_exceeded", False, "The conversation is too long for the model (413); shorten what tools return."),
    (
        400,
        refusal(400, "INVALID_ARGUMENT", "API key not valid.", {"@type": "ErrorInfo", "reason": "API_KEY_INVALID"}),
        "auth",
        False,
        "Google refused the key (400 `API_KEY_INVALID`); check `GEMINI_API_KEY`.",
    ),
    (
        400,
        refusal(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
        "auth",
        False,
        "Google doesn't serve this worker's region (400); use Vertex AI, or a paid project for `GEMINI_API_KEY`.",
    ),
    (
        403,
        refusal(403, "PERMISSION_DENIED", "off", {"reason": "SERVICE_DISABLED"}),
        "auth",
        False,
        "Google refused the key (403 `SERVICE_DISABLED`); switch the API on in the project of `GEMINI_API_KEY`.",
    ),
    (
        404,
        refusal(404, "NOT_FOUND", "models/x is not found"),
        "unknown_model",
        False,
        "Google has no such model, or not for `GEMINI_API_KEY` (404); check the route and the location.",
    ),
    (
        429,
        refusal(
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota",
            {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "250"}]},
            {"retryDelay": "34s"},
        ),
        "quota",
        False,
        "The quota or the money of `GEMINI_API_KEY` is used up (429); raise it in Google's console.",
    ),
    (
        429,
        refusal(429, "RESOURCE_EXHAUSTED", "q", {"violations": [{"quotaId": "PerMinute-FreeTier", "quotaValue": "0"}]}),
        "quota",
        False,
        "The quota or the money of `GEMINI_API_KEY` is used up (429); raise it in Google's console.",
    ),
    (
        429,
        refusal(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
        "quota",
        False,
        "The quota or the money of `GEMINI_API_KEY` is used up (429); raise it in Google's console.",
    ),
]


@pytest.mark.parametrize(("status", "body", "code", "retryable", "message"), REFUSALS)
async def test_google_says_why_it_refused(
    server: CannedServer, google: Connect, status: int, body: object, code: str, retryable: bool, message: str
) -> None:
    """What only Google says in its own words has a code and a sentence with a next step, whatever form the error has."""
    for form in (body, [body]):
        server.answer(form if not isinstance(body, bytes) else body, status)
        error = await failure(google(server.url))
        assert (error.code, error.retryable, error.message) == (code, retryable, message)


@pytest.mark.parametrize(
    ("status", "name", "code", "retryable"),
    [
        (400, "INVALID_ARGUMENT", "bad_request", False),
        (401, "UNAUTHENTICATED", "auth", False),
        (403, "PERMISSION_DENIED", "auth", False),
        (408, "", "timeout", True),
        (409, "ABORTED", "overloaded", True),
        (429, "RESOURCE_EXHAUSTED", "rate_limited", True),
        (500, "INTERNAL", "overloaded", True),
        (502, "", "overloaded", True),
        (503, "UNAVAILABLE", "overloaded", True),
        (504, "DEADLINE_EXCEEDED", "overloaded", True),
    ],
)
async def test_a_status_decides_whether_to_retry(
    server: CannedServer, google: Connect, status: int, name: str, code: str, retryable: bool
) -> None:
    """Each status has its code, and one call sends one request: the SDK's own retries are off."""
    server.answer(refusal(status, name), status)
    error = await failure(google(server.url))
    assert (error.code, error.retryable, error.retry_after_s) == (code, retryable, None)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("delay", "headers", "seconds"),
    [
        ("26s", {}, 26.0),
        ("1.5s", {}, 1.5),
        ("7s", {"retry-after": "90"}, 7.0),
        ("soon", {"retry-after": "9"}, 9.0),
        (5, {}, None),
        ("-1s", {}, None),
    ],
)
async def test_a_rate_limit_carries_googles_wish(
    server: CannedServer, google: Connect, delay: object, headers: dict[str, str], seconds: float | None
) -> None:
    """A quota of a minute is waited for as long as `RetryInfo` says, or the header where it says nothing."""
    violation = {"quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier", "quotaValue": "250000"}
    body = refusal(429, "RESOURCE_EXHAUSTED", "slow down", {"violations": [violation]}, {"retryDelay": delay})
    server.answer(body, 429, headers)
    error = await failure(google(server.url))
    assert (error.code, error.retryable, error.retry_after_s) == ("rate_limited", True, seconds)


@pytest.mark.parametrize("body", [b"<html>\xe9\xff</html>", b"", b"[" * 100_000, b"[]", b"null", b'"x"', b'{"error": 5}'])
async def test_a_refusal_that_cannot_be_read_keeps_its_status(server: CannedServer, google: Connect, body: bytes) -> None:
    """A page, or JSON of another shape, doesn't hide what the status says."""
    server.answer(body, 503, {"content-type": "text/html; charset=utf-8"})
    error = await failure(google(server.url))
    assert (error.code, error.retryable) == ("overloaded", True)


async def test_an_error_quotes_nothing_that_was_sent(server: CannedServer, google: Connect) -> None:
    """A message of Google's that repeats the key and the prompt reaches neither text nor causes of the error."""
    echo = f"bad key {KEY} for: What is the weather like?"
    server.answer({"error": {"message": echo, "status": f"NO {KEY}", "details": [{"reason": echo}]}}, 400)
    error = await failure(google(server.url))
    shown = "".join(traceback.format_exception(error))
    assert error.code == "bad_request"
    assert KEY not in shown
    assert "weather" not in shown


async def test_a_refused_key_is_never_shown(aimock: str, google: Connect) -> None:
    """A 401 names the variable to check, isn't retried, and no part of the error holds the key."""
    secret = "AIza-wrong-6c1f"
    error = await failure(google(aimock, secret), "text")
    assert (error.code, error.retryable) == ("auth", False)
    assert error.message.endswith("; check `GEMINI_API_KEY`.")
    assert secret not in "".join(traceback.format_exception(error))
