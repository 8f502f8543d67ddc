"""What both HTTP providers promise alike, over real HTTP with the real SDKs."""

import asyncio
import hashlib
import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from activities.providers.base import ProviderError
from policies.errors import MissingKey
from tests.wire.server import KEY, CannedServer, Provider, ProviderName, ask, provider_at
from workflows.messages import AssistantMessage, TokenUsage, ToolMessage, ToolRequest, UserMessage

Connect = Callable[..., Provider]
HANG_GUARD_S = 10

ANSWERS: dict[ProviderName, dict[str, object]] = {
    "openai": {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    },
    "anthropic": {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
}
VARIABLES: dict[ProviderName, str] = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


@pytest.fixture(params=["openai", "anthropic"])
def name(request: pytest.FixtureRequest) -> ProviderName:
    return request.param


async def failure(provider: Provider, model: str = "m", timeout_s: float = 20.0) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.complete(ask(model, timeout_s=timeout_s))
    return caught.value


async def test_a_text_answer_comes_back_with_its_usage(name: ProviderName, aimock: str, connect: Connect) -> None:
    """Text, token counts and the model's name are those that the server gave."""
    completion = await connect(name, aimock).complete(ask("text"))
    assert completion.message == AssistantMessage(text="It is sunny.")
    assert completion.usage == TokenUsage(input_tokens=120, output_tokens=30)
    assert completion.model == "text"


async def test_a_tool_call_comes_back_as_json_text(name: ProviderName, aimock: str, connect: Connect) -> None:
    """A tool call keeps its id and name, and its arguments are JSON text."""
    completion = await connect(name, aimock).complete(ask("one-call"))
    (call,) = completion.message.tool_calls
    assert (call.id, call.name, json.loads(call.arguments)) == ("call_a", "weather", {"city": "Oslo"})


async def test_parallel_calls_and_their_results_make_a_second_turn(name: ProviderName, aimock: str, connect: Connect) -> None:
    """Two calls of one turn come back in order, and their results sent together lead to the next answer."""
    provider = connect(name, aimock)
    question = UserMessage(text="Where does it rain?")
    first = await provider.complete(ask("two-calls", question))
    assert first.message.text == "I look at both."
    assert [(call.id, json.loads(call.arguments)["city"]) for call in first.message.tool_calls] == [
        ("call_a", "Oslo"),
        ("call_b", "Bergen"),
    ]
    results = (
        ToolMessage(call_id="call_a", name="weather", content='{"sky":"sun"}'),
        ToolMessage(call_id="call_b", name="weather", content='{"sky":"rain"}'),
    )
    second = await provider.complete(ask("two-calls", question, first.message, *results))
    assert second.message.text == "Rain in Bergen."
    assert second.request_digest != first.request_digest


async def test_what_one_provider_began_the_other_goes_on_with(name: ProviderName, aimock: str, connect: Connect) -> None:
    """Two calls that this provider's model asked for, and their results, lead to the other provider's next answer."""
    question = UserMessage(text="Where does it rain?")
    first = await connect(name, aimock).complete(ask("two-calls", question))
    results = [
        ToolMessage(call_id=call.id, name=call.name, content=f'{{"sky":"{sky}"}}')
        for call, sky in zip(first.message.tool_calls, ("sun", "rain"), strict=True)
    ]
    other = connect("anthropic" if name == "openai" else "openai", aimock)
    second = await other.complete(ask("two-calls", question, first.message, *results))
    assert second.message.text == "Rain in Bergen."


async def test_a_rate_limit_carries_the_servers_wish(name: ProviderName, aimock: str, connect: Connect) -> None:
    """A 429 is retryable and holds the seconds of `retry-after`."""
    error = await failure(connect(name, aimock), "limited")
    assert (error.code, error.retryable, error.retry_after_s) == ("rate_limited", True, 7.0)
    assert error.message == (
        "The provider refused the call (429 `rate_limit_error`); "
        f"try again later, or raise the limits of the account behind `{VARIABLES[name]}`."
    )


@pytest.mark.parametrize(
    ("model", "code", "retryable"),
    [("broken", "overloaded", True), ("overloaded", "overloaded", True), ("unknown", "unknown_model", False)],
)
async def test_a_status_decides_whether_to_retry(
    name: ProviderName, aimock: str, connect: Connect, model: str, code: str, retryable: bool
) -> None:
    """500 and 529 may be tried again, 404 may not."""
    error = await failure(connect(name, aimock), model)
    assert (error.code, error.retryable, error.retry_after_s) == (code, retryable, None)


async def test_a_refused_key_is_never_shown(name: ProviderName, aimock: str, connect: Connect) -> None:
    """A 401 names the variable to check, isn't retried, and no part of the error holds the key."""
    secret = "sk-wrong-6c1f"
    error = await failure(connect(name, aimock, secret), "text")
    assert (error.code, error.retryable) == ("auth", False)
    assert error.message.startswith("The provider refused the key (401")
    assert error.message.endswith(f"; check `{VARIABLES[name]}`.")
    assert secret not in "".join(traceback.format_exception(error))


async def test_a_slow_answer_times_out(name: ProviderName, aimock: str, connect: Connect) -> None:
    """A call without an answer within `timeout_s` is given up and may be tried again."""
    error = await failure(connect(name, aimock), "slow", timeout_s=0.2)
    assert (error.code, error.retryable) == ("timeout", True)
    assert error.message == "The provider gave no answer within 0.2 s; try again later."


async def test_an_endless_answer_times_out(name: ProviderName, server: CannedServer, connect: Connect) -> None:
    """`timeout_s` bounds the whole call, even when bytes keep coming."""
    server.mode = "dribble"
    error = await failure(connect(name, server.url), timeout_s=0.3)
    assert error.code == "timeout"
    await asyncio.wait_for(server.closed.wait(), HANG_GUARD_S)


async def test_cancelling_closes_the_connection(name: ProviderName, server: CannedServer, connect: Connect) -> None:
    """A cancelled call raises `CancelledError`, and the server sees the connection close."""
    server.mode = "hang"
    call = asyncio.create_task(connect(name, server.url).complete(ask("m")))
    await asyncio.wait_for(server.received.wait(), HANG_GUARD_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(server.closed.wait(), HANG_GUARD_S)


async def test_a_connection_that_breaks_may_be_tried_again(name: ProviderName, aimock: str, connect: Connect) -> None:
    """A connection broken off by the server is a retryable `connection` error."""
    error = await failure(connect(name, aimock), "broken-off")
    assert (error.code, error.retryable) == ("connection", True)


async def test_a_server_that_is_not_there_may_be_tried_again(name: ProviderName, connect: Connect) -> None:
    """A refused connection is a retryable `connection` error."""
    async with CannedServer() as gone:
        url = gone.url
    error = await failure(connect(name, url))
    assert (error.code, error.retryable) == ("connection", True)


async def test_malformed_json_is_a_bad_response(name: ProviderName, aimock: str, connect: Connect) -> None:
    """A 200 whose JSON doesn't parse is a retryable `bad_response`."""
    error = await failure(connect(name, aimock), "garbled")
    assert (error.code, error.retryable) == ("bad_response", True)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>Sign in</html>", "text/html"),
        (b"", "application/json"),
        ({}, "application/json"),
        ([], "application/json"),
        ("text", "application/json"),
        ({"choices": [], "content": None}, "application/json"),
        ({"choices": [{"message": {"content": 5}}], "content": [{"type": "text", "text": 5}]}, "application/json"),
    ],
    ids=["html", "empty", "no-fields", "list", "string", "no-answer", "wrong-types"],
)
async def test_a_200_that_is_no_answer_is_a_bad_response(
    server: CannedServer, connect: Connect, body: object, content_type: str
) -> None:
    """HTML, or JSON of another shape, is a retryable `bad_response` that says what to check.

    What is wrong with an answer of Messages is in `test_anthropic_answers.py`.
    """
    server.answer(body, headers={"content-type": content_type})
    error = await failure(connect("openai", server.url))
    assert (error.code, error.retryable) == ("bad_response", True)
    assert error.message.startswith("The provider answered 200 with ")
    assert error.message.endswith("; check that the base URL is an API's, not a page's.")


@pytest.mark.parametrize(
    ("status", "headers", "retryable", "seconds"),
    [
        (408, {}, True, None),
        (409, {}, True, None),
        (503, {"retry-after": "2"}, True, 2.0),
        (429, {"retry-after": "9", "retry-after-ms": "1500"}, True, 1.5),
        (429, {"retry-after": "3", "retry-after-ms": "soon"}, True, 3.0),
        (429, {"retry-after": "Thu, 01 Jan 2015 00:00:00 GMT"}, True, 0.0),
        (429, {"retry-after": "whenever"}, True, None),
        (429, {"retry-after": "inf"}, True, None),
        (429, {"retry-after": "-1"}, True, None),
        (500, {"x-should-retry": "false"}, False, None),
        (400, {"x-should-retry": "true"}, True, None),
        (400, {}, False, None),
        (422, {}, False, None),
    ],
)
async def test_retry_headers_are_honoured_by_the_caller_not_the_sdk(
    name: ProviderName,
    server: CannedServer,
    connect: Connect,
    status: int,
    headers: dict[str, str],
    retryable: bool,
    seconds: float | None,
) -> None:
    """Status and headers decide about a retry and its delay, and one call sends one request."""
    server.answer({"error": {"message": "no"}}, status, headers)
    error = await failure(connect(name, server.url))
    assert (error.retryable, error.retry_after_s) == (retryable, seconds)
    assert len(server.bodies) == 1


async def test_retry_after_may_be_a_date(name: ProviderName, server: CannedServer, connect: Connect) -> None:
    """`retry-after` as an HTTP date becomes the seconds until then."""
    then = datetime.now(UTC) + timedelta(hours=1)
    server.answer({}, 429, {"retry-after": format_datetime(then, usegmt=True)})
    error = await failure(connect(name, server.url))
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s <= 3600


async def test_an_error_quotes_nothing_that_was_sent(name: ProviderName, server: CannedServer, connect: Connect) -> None:
    """A vendor's message that repeats the key and the prompt reaches neither text nor causes of the error."""
    echo = f"bad key {KEY} for: What is the weather like?"
    server.answer({"error": {"message": echo, "type": "invalid_request_error", "code": f"no {KEY}"}}, 400)
    error = await failure(connect(name, server.url))
    assert error.message == (
        "The provider refused the call (400 `invalid_request_error`); "
        "check the model's name, the base URL and the server's own log."
    )
    shown = "".join(traceback.format_exception(error))
    assert KEY not in shown
    assert "weather" not in shown


async def test_a_redirect_is_not_followed(name: ProviderName, server: CannedServer, connect: Connect) -> None:
    """A redirect is refused, so that the transcript goes to no host but the configured one."""
    async with CannedServer() as elsewhere:
        elsewhere.answer(ANSWERS[name])
        server.answer(b"", 307, {"location": f"{elsewhere.url}/"})
        error = await failure(connect(name, server.url))
        assert (error.code, error.retryable) == ("bad_request", False)
        assert elsewhere.bodies == []


async def test_the_digest_is_of_the_bytes_that_were_sent(name: ProviderName, server: CannedServer, connect: Connect) -> None:
    """`request_digest` is the SHA-256 of the body on the wire, and equal requests send equal bytes."""
    server.answer(ANSWERS[name])
    provider = connect(name, server.url)
    completions = [await provider.complete(ask("m", UserMessage(text='Grüße "7"\n'))) for _ in range(2)]
    assert server.bodies[0] == server.bodies[1]
    digests = {completion.request_digest for completion in completions}
    assert digests == {"sha256:" + hashlib.sha256(server.bodies[0]).hexdigest()}


@pytest.mark.parametrize("arguments", ['{"city": ', "", "[1]", '"Oslo"', '{"x": NaN}', "[" * 100_000])
async def test_malformed_arguments_of_an_earlier_turn_are_wrapped(
    name: ProviderName, server: CannedServer, connect: Connect, arguments: str
) -> None:
    """Arguments that are no JSON object are sent back as `{"_raw": …}`, under a name that the API accepts."""
    server.answer(ANSWERS[name])
    said = AssistantMessage(tool_calls=(ToolRequest(id="call_a", name="get weather!", arguments=arguments),))
    result = ToolMessage(call_id="call_a", name="get weather!", content="{}")
    await connect(name, server.url).complete(ask("m", UserMessage(text="hi"), said, result))
    call = server.sent["messages"][-2]
    sent: tuple[str, object]
    if name == "openai":
        function = call["tool_calls"][0]["function"]
        sent = (function["name"], json.loads(function["arguments"]))
    else:
        sent = (call["content"][0]["name"], call["content"][0]["input"])
    assert sent == ("get_weather_", {"_raw": arguments})


@pytest.mark.parametrize(
    ("key", "problem"), [("", "is empty"), (" \n", "is empty"), ("k\u00e9y", "an HTTP header can't carry")]
)
def test_a_key_that_cannot_be_sent_is_refused_at_once(name: ProviderName, key: str, problem: str) -> None:
    """A blank or unsendable key raises `MissingKey`, which names the variable."""
    with pytest.raises(MissingKey, match=problem) as caught:
        provider_at(name, "http://127.0.0.1:9", key)
    assert VARIABLES[name] in caught.value.message


async def test_white_space_around_a_key_is_dropped(name: ProviderName, aimock: str, connect: Connect) -> None:
    """A key read from a file may end with a newline."""
    completion = await connect(name, aimock, f"{KEY}\n").complete(ask("text"))
    assert completion.message.text == "It is sunny."
