"""Google's models over real HTTP with its real SDK: what crosses, what fails, and how."""

import asyncio
import hashlib
import json

import pytest

from activities.providers.google import GoogleProvider
from policies.errors import MissingKey
from tests.wire.google_forms import ANSWER, MODEL, Connect, check, failure
from tests.wire.server import KEY, CannedServer, ask
from workflows.messages import TokenUsage, ToolMessage, UserMessage

HANG_GUARD_S = 10


async def test_a_text_answer_comes_back_with_its_usage(aimock: str, google: Connect) -> None:
    """Text and token counts are those that the server gave."""
    completion = await google(aimock).complete(ask("text"))
    assert completion.message.text == "It is sunny."
    assert completion.usage == TokenUsage(input_tokens=120, output_tokens=30)
    assert completion.stop == "end"


async def test_parallel_calls_and_their_results_make_a_second_turn(aimock: str, google: Connect) -> None:
    """Two calls of one turn come back in order, and their results sent together lead to the next answer."""
    provider = google(aimock)
    question = UserMessage(text="Where does it rain?")
    first = await provider.complete(ask("two-calls", question))
    assert first.message.text == "I look at both."
    assert first.stop == "tool_calls"
    assert [json.loads(call.arguments)["city"] for call in first.message.tool_calls] == ["Oslo", "Bergen"]
    results = [
        ToolMessage(call_id=call.id, name="weather", content=f'{{"sky":"{sky}"}}')
        for call, sky in zip(first.message.tool_calls, ("sun", "rain"), strict=True)
    ]
    second = await provider.complete(ask("two-calls", question, first.message, *results))
    assert second.message.text == "Rain in Bergen."
    assert second.request_digest != first.request_digest


async def test_a_call_cut_off_by_the_limit_is_not_whole(aimock: str, google: Connect) -> None:
    """A turn that ran into `max_output_tokens` says so, with the call as far as it was read."""
    completion = await google(aimock).complete(ask("cut-off"))
    assert (completion.stop, len(completion.message.tool_calls)) == ("length", 1)


async def test_signatures_go_back_and_forth(server: CannedServer, google: Connect) -> None:
    """What came with a turn is in the next request byte by byte, and each body is one that Google knows."""
    part = {"functionCall": {"id": "g1", "name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "QzE="}
    server.begin({**ANSWER, "candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]})
    server.answer(ANSWER)
    provider = google(server.url)
    question = UserMessage(text="hi")
    first = await provider.complete(ask(MODEL, question))
    result = ToolMessage(call_id="g1", name="weather", content='{"sky":"sun"}')
    second = await provider.complete(ask(MODEL, question, first.message, result))
    assert second.message.text == "hi"
    assert server.sent["contents"][1]["parts"] == [part]
    for body in server.bodies:
        check(body)


async def test_the_request_has_the_key_and_the_path(server: CannedServer, google: Connect) -> None:
    """The model is in the path, the key in a header and in no URL, and Google is told how long it has."""
    server.answer(ANSWER)
    await google(f"{server.url}/").complete(ask(MODEL, timeout_s=9.5))
    head = server.heads[0].decode()
    assert head.startswith(f"POST /v1beta/models/{MODEL}:generateContent HTTP/1.1\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.strip().split("\r\n")[1:])
    assert (headers["x-goog-api-key"], headers["content-type"]) == (KEY, "application/json")
    assert headers["x-server-timeout"] == "10"


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("tunedModels/mine", "/v1beta/tunedModels/mine:generateContent"),
        ("models/gemini-3.8-flash", "/v1beta/models/gemini-3.8-flash:generateContent"),
        ("a model?key=x#y", "/v1beta/models/a%20model%3Fkey%3Dx%23y:generateContent"),
    ],
)
async def test_a_name_that_is_a_path_is_one(server: CannedServer, google: Connect, model: str, path: str) -> None:
    """A model that is named by its place is asked there, and no name changes the rest of the URL."""
    server.answer(ANSWER)
    await google(server.url).complete(ask(model))
    assert server.heads[0].decode().split(" ")[1] == path


async def test_the_environment_changes_nothing(server: CannedServer, google: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDK would take from the environment doesn't count: an operator sets what is documented, and nothing else."""
    monkeypatch.setenv("GOOGLE_API_KEY", "another")
    monkeypatch.setenv("GEMINI_API_KEY", "a third")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "v9")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    server.answer(ANSWER)
    await google(server.url).complete(ask(MODEL))
    assert server.heads[0].startswith(b"POST /v1beta/models/")
    assert f"x-goog-api-key: {KEY}\r\n".encode() in server.heads[0]


async def test_the_digest_is_of_the_bytes_that_were_sent(server: CannedServer, google: Connect) -> None:
    """`request_digest` is the SHA-256 of the body on the wire, and equal requests send equal bytes."""
    server.answer(ANSWER)
    completions = [await google(server.url).complete(ask(MODEL, UserMessage(text='Grüße "7"\n'))) for _ in range(2)]
    assert server.bodies[0] == server.bodies[1]
    assert {c.request_digest for c in completions} == {"sha256:" + hashlib.sha256(server.bodies[0]).hexdigest()}


async def test_a_redirect_is_not_followed(server: CannedServer, google: Connect) -> None:
    """A redirect is refused, so that the transcript goes to no host but the configured one."""
    async with CannedServer() as elsewhere:
        elsewhere.answer(ANSWER)
        server.answer(b"", 307, {"location": f"{elsewhere.url}/"})
        error = await failure(google(server.url))
        assert (error.code, error.retryable) == ("bad_request", False)
        assert elsewhere.bodies == []


async def test_a_slow_answer_times_out(aimock: str, google: Connect) -> None:
    """A call without an answer within `timeout_s` is given up and may be tried again."""
    error = await failure(google(aimock), "slow", timeout_s=0.2)
    assert (error.code, error.retryable) == ("timeout", True)


async def test_an_endless_answer_times_out(server: CannedServer, google: Connect) -> None:
    """`timeout_s` bounds the whole call, even when bytes keep coming."""
    server.mode = "dribble"
    error = await failure(google(server.url), timeout_s=0.3)
    assert error.code == "timeout"
    await asyncio.wait_for(server.closed.wait(), HANG_GUARD_S)


async def test_cancelling_closes_the_connection(server: CannedServer, google: Connect) -> None:
    """A cancelled call raises `CancelledError`, and the server sees the connection close."""
    server.mode = "hang"
    call = asyncio.create_task(google(server.url).complete(ask(MODEL)))
    await asyncio.wait_for(server.received.wait(), HANG_GUARD_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(server.closed.wait(), HANG_GUARD_S)


async def test_a_connection_that_breaks_may_be_tried_again(aimock: str, google: Connect) -> None:
    """A connection broken off by the server is a retryable `connection` error."""
    error = await failure(google(aimock), "broken-off")
    assert (error.code, error.retryable) == ("connection", True)


async def test_a_server_that_is_not_there_may_be_tried_again(google: Connect) -> None:
    """A refused connection is a retryable `connection` error."""
    async with CannedServer() as gone:
        url = gone.url
    error = await failure(google(url))
    assert (error.code, error.retryable) == ("connection", True)


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"", b"\xff\xfe", b"{}", b'{"candidates"'])
async def test_a_200_that_is_no_answer_is_a_bad_response(server: CannedServer, google: Connect, body: bytes) -> None:
    """HTML, broken JSON and JSON of another shape are retryable."""
    server.answer(body, headers={"content-type": "text/html"})
    error = await failure(google(server.url))
    assert (error.code, error.retryable) == ("bad_response", True)


@pytest.mark.parametrize(
    ("key", "problem"), [("", "is empty"), (" \n", "is empty"), ("k\u00e9y", "an HTTP header can't carry")]
)
def test_a_key_that_cannot_be_sent_is_refused_at_once(key: str, problem: str) -> None:
    """A blank or unsendable key raises `MissingKey`, which names the variable."""
    with pytest.raises(MissingKey, match=problem) as caught:
        GoogleProvider(key)
    assert "GEMINI_API_KEY" in caught.value.message
