"""What each error of compatible servers leads to, as they really come, over real HTTP."""

import logging
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from activities.providers._http import refused
from activities.providers.base import ProviderError
from activities.providers.openai import OpenAIProvider
from policies.errors import InvalidInput
from tests.wire.chat_forms import Connect, answer, check, failure
from tests.wire.server import KEY, CannedServer, ask

TOO_LONG = "the conversation is too long for the model"
NO_CREDIT = "the money or the allowance of the account behind `OPENAI_API_KEY` is used up"
FILTERED = "its content filter doesn't let the conversation through"
NO_MODEL = "check the model's name in `agent.toml`, and the base URL"
LOG = "check the model's name, the base URL and the server's own log"
KEYED = "check `OPENAI_API_KEY`"
LATER = "try again later"
SLOWER = "try again later, or raise the limits of the account behind `OPENAI_API_KEY`"
LESS = "`max_output_tokens` in `agent.toml` is more than the model can write"
NO_TOOLS = "the model takes no tools; choose another one in `agent.toml`"


def error(message: str = "no", **fields: object) -> dict[str, object]:
    return {"error": {"message": message, **fields}}


def vllm(message: str, kind: str = "BadRequestError", code: int = 400) -> dict[str, object]:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


CASES: list[tuple[int, object, str, str, str]] = [
    # status, body, code, identifier, advice
    (400, error("m", type="invalid_request_error", param="messages", code="context_length_exceeded"), "context_exceeded",
     "context_length_exceeded", TOO_LONG),
    (400, vllm("This model's maximum context length is 4096 tokens."), "context_exceeded", "BadRequestError", TOO_LONG),
    (400, vllm("The decoder prompt (length 9001) is longer than the maximum model length of 4096."), "context_exceeded",
     "BadRequestError", TOO_LONG),
    (400, error("'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 4096 tokens "
                "and your request has 3900 input tokens"), "context_exceeded", "", TOO_LONG),
    (400, error("'max_tokens' or 'max_completion_tokens' is too large: 4096. "
                "This model's maximum context length is 4096 tokens and your request has 17 input tokens"),
     "bad_request", "", LESS),
    (400, error("max_tokens is too large: 32768. This model supports at most 16384 completion tokens.", param="max_tokens",
                code="invalid_value"), "bad_request", "invalid_value", LESS),
    (400, error("prompt too long; exceeded max context length by 12 tokens", type="api_error"), "context_exceeded", "api_error",
     TOO_LONG),
    (400, error("the request exceeds the available context size", code=400, type="exceed_context_size_error"),
     "context_exceeded", "exceed_context_size_error", TOO_LONG),
    (400, error("Input is too long for requested model."), "context_exceeded", "", TOO_LONG),
    (400, error("prompt is too long: 201000 tokens > 200000 maximum"), "context_exceeded", "", TOO_LONG),
    (400, error("Provider returned error", code=400, metadata={"raw": '{"message":"maximum context length is 8192"}'}),
     "context_exceeded", "", TOO_LONG),
    (400, error("litellm.ContextWindowExceededError: m", type=None, code="400"), "context_exceeded", "", TOO_LONG),
    (400, [{"error": {"code": 400, "message": "The input token count (9) exceeds the maximum number of tokens allowed (8).",
                      "status": "INVALID_ARGUMENT"}}], "context_exceeded", "INVALID_ARGUMENT", TOO_LONG),
    (413, b"<html>413 Request Entity Too Large</html>", "context_exceeded", "", TOO_LONG),
    (429, error("Request too large for m on tokens per min (TPM): Limit 10000, Requested 20000.", code="rate_limit_exceeded"),
     "context_exceeded", "rate_limit_exceeded", TOO_LONG),
    (429, error("You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"), "quota",
     "insufficient_quota", NO_CREDIT),
    (429, error(type="exceeded_current_quota_error"), "quota", "exceeded_current_quota_error", NO_CREDIT),
    (400, error(code="billing_hard_limit_reached"), "quota", "billing_hard_limit_reached", NO_CREDIT),
    (400, error("Your credit balance is too low to access the API.", type="invalid_request_error"), "quota",
     "invalid_request_error", NO_CREDIT),
    (402, error("Insufficient Balance", type="unknown_error", code="invalid_request_error"), "quota", "invalid_request_error",
     NO_CREDIT),
    (402, b"", "quota", "", NO_CREDIT),
    (429, error("You exceeded your current quota, please check your plan", code=429, status="RESOURCE_EXHAUSTED"),
     "rate_limited", "RESOURCE_EXHAUSTED", SLOWER),
    (429, error("Rate limit reached", type="tokens", code="rate_limit_exceeded"),
     "rate_limited", "rate_limit_exceeded", SLOWER),
    (429, error("Too many tokens, please wait before trying again."), "rate_limited", "", SLOWER),
    (400, error("filtered", type=None, param="prompt", code="content_filter", status=400,
                innererror={"code": "ResponsibleAIPolicyViolation"}), "content_filter", "content_filter", FILTERED),
    (400, error(code="content_policy_violation"), "content_filter", "content_policy_violation", FILTERED),
    (400, error("The response was filtered due to Azure OpenAI's content management policy.", code=None), "content_filter", "",
     FILTERED),
    (400, error(code="data_inspection_failed"), "content_filter", "data_inspection_failed", FILTERED),
    (403, error("m requires moderation", code=403, metadata={"reasons": ["violence"], "flagged_input": "…"}), "content_filter",
     "", FILTERED),
    (404, error("The model `fake-1` does not exist", type="invalid_request_error", code="model_not_found"), "unknown_model",
     "model_not_found", NO_MODEL),
    (403, error("Project has no access to model", code="model_not_found"), "unknown_model", "model_not_found", NO_MODEL),
    (404, error(code="DeploymentNotFound"), "unknown_model", "DeploymentNotFound", NO_MODEL),
    (404, vllm("The model `m` does not exist.", "NotFoundError", 404), "unknown_model", "NotFoundError", NO_MODEL),
    (404, error("model 'm' not found, try pulling it first"), "unknown_model", "", NO_MODEL),
    (400, error("m is not a valid model ID", code=400), "unknown_model", "", NO_MODEL),
    (404, b"404 page not found", "unknown_model", "", NO_MODEL),
    (400, error("Unsupported parameter: 'reasoning_effort'", param="reasoning_effort", code="unsupported_parameter"),
     "bad_request", "unsupported_parameter", "the model doesn't take `reasoning_effort` as it was sent"),
    (400, error("registry.ollama.ai/library/gemma:2b does not support tools", type="api_error", param=None, code=None),
     "bad_request", "api_error", NO_TOOLS),
    (404, error("No endpoints found that support tool use.", code=404), "bad_request", "", NO_TOOLS),
    (400, error("An assistant message with 'tool_calls' must be followed", param="messages.[2].role"), "bad_request", "", LOG),
    (400, {"error": "model requires more system memory (5.6 GiB) than is available"}, "bad_request", "", LOG),
    (422, {"detail": [{"loc": ["body", "tools"], "msg": "extra fields not permitted", "type": "value_error.extra"}]},
     "bad_request", "", LOG),
    (400, error(code="1214"), "bad_request", "1214", LOG),
    (302, b"", "bad_request", "", LOG),
    (401, error(code="invalid_api_key"), "auth", "invalid_api_key", KEYED),
    (403, error(code="forbidden"), "auth", "forbidden", KEYED),
    (403, error(code="unsupported_country_region_territory"), "auth", "unsupported_country_region_territory",
     "the vendor doesn't serve this worker's region with `OPENAI_API_KEY`"),
    (408, {}, "timeout", "", LATER),
    (500, error("Failed to parse tool call arguments as JSON", code=500, type="server_error"),
     "overloaded", "server_error", LATER),
    (503, b"<html>", "overloaded", "", LATER),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "overloaded", "overloaded_error",
     LATER),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "code", "identifier", "advice"), CASES)
async def test_a_refusal_says_what_to_do(
    server: CannedServer, connect: Connect, status: int, body: object, code: str, identifier: str, advice: str
) -> None:
    """The code and the advice are those of the cause, the vendor's identifier is quoted, and nothing else of its body is."""
    found = await failure(server, connect, body, status)
    what = "the key" if code == "auth" else "the call"
    quoted = f" `{identifier}`" if identifier else ""
    assert (found.code, found.message) == (code, f"The provider refused {what} ({status}{quoted}); {advice}.")
    assert found.retryable is (code in ("rate_limited", "overloaded", "timeout"))
    # Once more where the server says how much room it has.
    assert len(server.bodies) == (2 if advice == LESS and "maximum context length is" in str(body) else 1)


@pytest.mark.parametrize(
    ("inside", "code", "quoted"),
    [
        ({"message": "Provider returned error", "code": 429, "metadata": {"raw": "rate limited"}}, "rate_limited", "429"),
        ({"message": "Insufficient credits", "code": 402}, "quota", "402"),
        ({"message": "No auth credentials found", "code": 401}, "auth", "401"),
        ({"message": "Internal Server Error", "code": 500}, "overloaded", "500"),
        ({"message": "m", "code": "503"}, "overloaded", "503"),
        ({"message": "m", "code": "rate_limit_exceeded"}, "rate_limited", "429 `rate_limit_exceeded`"),
        ({"message": "m", "code": "context_length_exceeded"}, "context_exceeded", "502 `context_length_exceeded`"),
        ({"message": "m", "type": "invalid_request_error"}, "bad_request", "400 `invalid_request_error`"),
        ({"message": "busy"}, "overloaded", "502"),
        ("busy", "overloaded", "502"),
    ],
)
@pytest.mark.parametrize("place", ["alone", "beside", "choice"])
async def test_an_error_inside_a_200_is_that_status(
    server: CannedServer, connect: Connect, inside: object, code: str, quoted: str, place: str
) -> None:
    """A gateway's 200 with an error in it counts as that error, also with an empty answer beside it, or inside a choice."""
    empty = {"prompt_tokens": 0, "completion_tokens": 0}
    body: dict[str, object] = {"error": inside, "user_id": "u"}
    if place == "beside":
        body |= answer({"content": None}, usage=empty)
    elif place == "choice":
        body = answer({"content": ""}, "error", choice={"error": inside})
    found = await failure(server, connect, body)
    assert found.code == code
    assert f"({quoted})" in found.message


@pytest.mark.parametrize("error_field", [None, {}, ""])
async def test_an_empty_error_is_none(server: CannedServer, connect: Connect, error_field: object) -> None:
    """Some servers give every field of an answer, whether there was an error or not."""
    server.answer(answer({"content": "ok"}, error=error_field))
    assert (await connect("openai", server.url).complete(ask("m"))).message.text == "ok"


@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource", "network_error"])
async def test_an_answer_that_the_server_broke_off_is_asked_for_again(
    server: CannedServer, connect: Connect, finish: str
) -> None:
    """What a server's own trouble ended is no answer, however much of it there is."""
    found = await failure(server, connect, answer({"content": "The customer"}, finish))
    assert (found.code, found.retryable) == ("overloaded", True)


async def test_a_firewalls_page_does_not_blame_the_key(server: CannedServer, connect: Connect) -> None:
    """A 403 with a page comes from something before the API."""
    page = b"<html><title>Attention Required! | Cloudflare</title></html>"
    found = await failure(server, connect, page, 403, {"content-type": "text/html"})
    assert (found.code, found.retryable) == ("auth", False)
    assert found.message == (
        "The provider refused the call (403); a page came instead of an API's answer; check the base URL, "
        "what stands between (a proxy, a firewall), and `OPENAI_API_KEY`."
    )


@pytest.mark.parametrize(
    ("wish", "seconds"),
    [
        ("1e15", 300),
        ("9999999999999", 300),
        ("1e400", None),
        ("410400", 300),
        ("-5", None),
        ("inf", None),
        ("nan", None),
        ("0", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300),
        ("Fri, 31 Dec 10000 23:59:59 GMT", None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("Thu, 99 Foo 2026 99:99:99 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 300),
        pytest.param(format_datetime(datetime.now(UTC) + timedelta(days=9), usegmt=True), 300, id="in nine days"),
        ("2s", None),
        ("", None),
    ],
)
def test_no_wish_of_a_server_is_longer_than_minutes(wish: str, seconds: float | None) -> None:
    """`Retry-After` of days or centuries is cut to 300 seconds, and one that is no time is none."""
    assert refused(429, {"retry-after": wish}, {}, key="K").retry_after_s == seconds


@pytest.mark.parametrize("place", ["code", "type", "message", "param"])
@pytest.mark.parametrize("secret", [KEY, "gsk_abcdefghijklmnop", "fw_3ZabcdefghijklmnopqrstX1"])
def test_no_part_of_a_key_is_quoted(place: str, secret: str) -> None:
    """A vendor that gives the key back as if it were an identifier doesn't bring it into history."""
    assert secret not in refused(400, {}, {"error": {place: secret}}, key="K", secret=secret).message


async def test_nothing_of_the_conversation_is_in_history_or_log(
    server: CannedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """The vendor's sentence, which may repeat the conversation, goes nowhere."""
    caplog.set_level(logging.DEBUG)
    echo = "maximum context length; cannot read: What is the weather like?"
    found = await failure(server, connect, error(echo, param="What is the weather"), 400)
    assert "weather" not in "".join(traceback.format_exception(found))
    assert not [record for record in caplog.records if record.levelno >= logging.INFO and "weather" in record.getMessage()]


REFUSED_NAMES: list[object] = [
    error("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
          param="max_tokens", code="unsupported_parameter"),
    error("Unsupported parameter", param="max_tokens", code="unsupported_parameter"),
    error("Unrecognized request argument supplied: max_tokens", type="invalid_request_error", param=None, code=None),
    {"detail": [{"loc": ["body", "max_tokens"], "msg": "max_tokens: extra fields not permitted"}]},
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSED_NAMES)
async def test_the_other_name_of_the_limit_is_sent_and_remembered(
    server: CannedServer, connect: Connect, refusal: object
) -> None:
    """Azure and gateways to OpenAI refuse `max_tokens`: they get `max_completion_tokens` at once, and from then on."""
    server.answer(answer({"content": "ok"}))
    server.begin((400, refusal))
    provider = connect("openai", server.url)
    completions = [await provider.complete(ask("m")) for _ in range(2)]
    names = ["max_completion_tokens" if b"max_completion_tokens" in body else "max_tokens" for body in server.bodies]
    assert names == ["max_tokens", "max_completion_tokens", "max_completion_tokens"]
    assert [completion.dialect for completion in completions] == ["chat max_completion_tokens"] * 2
    for body in server.bodies:
        check(body)


async def test_a_limit_that_is_refused_by_both_names_is_told(server: CannedServer, connect: Connect) -> None:
    """The sentence is of the name that was tried last, and no third call is made."""
    fields = {"message": "no", "code": "unsupported_parameter"}
    server.answer({"error": {**fields, "param": "max_completion_tokens"}}, 400)
    server.begin((400, {"error": {**fields, "param": "max_tokens"}}))
    with pytest.raises(ProviderError) as caught:
        await connect("openai", server.url).complete(ask("m"))
    said = "the model doesn't take `max_completion_tokens` as it was sent."
    assert caught.value.message == f"The provider refused the call (400 `unsupported_parameter`); {said}"
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://host/v1", "http://", "http://a b/v1", "http://host\n/v1", "http://host:port/v1", " \n", "v1"],
)
def test_a_base_url_that_is_none_is_refused_at_once(url: str) -> None:
    """One sentence names the variable and shows the form."""
    with pytest.raises(InvalidInput) as caught:
        OpenAIProvider(KEY, url)
    assert caught.value.message == "`OPENAI_BASE_URL` must be the URL of a server, for example `http://localhost:8000/v1`."


async def test_a_tier_with_a_server_of_its_own_names_its_own_variable(server: CannedServer) -> None:
    """The advice names the variable that the tier's key is in."""
    server.answer(error(code="invalid_api_key"), 401)
    provider = OpenAIProvider(KEY, f"{server.url}/v1", key_variable="TIER_KEY")
    with pytest.raises(ProviderError, match="check `TIER_KEY`"):
        await provider.complete(ask("m"))
    await provider.aclose()


async def test_a_newline_after_the_base_url_is_dropped(server: CannedServer) -> None:
    """A URL read from a file may end with a newline."""
    server.answer(answer({"content": "ok"}))
    provider = OpenAIProvider(KEY, f" {server.url}/v1\n")
    assert (await provider.complete(ask("m"))).message.text == "ok"
    await provider.aclose()
