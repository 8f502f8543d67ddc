"""What Remit reads in answers of OpenAI's Responses: each end, each failure, and whatever is written oddly."""

import json

import pytest

from tests.wire.responses_forms import MODEL, Connect, answer, call, failure, reasoning, text
from tests.wire.server import KEY, CannedServer, ask
from workflows.messages import TokenUsage


def usage(read: object = 120, written: object = 30, **fields: object) -> dict[str, object]:
    return {"input_tokens": read, "output_tokens": written, **fields}


INCOMPLETE = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
FILTERED = {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
REFUSED = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "refusal", "refusal": "I won't."}]}


@pytest.mark.parametrize(
    ("said", "stop", "words", "calls"),
    [
        (answer(text("Sun.")), "end", "Sun.", 0),
        (answer(text("I look."), call()), "tool_calls", "I look.", 1),
        (answer(reasoning()), "end", "", 0),
        (answer(text("Sun"), **INCOMPLETE), "length", "Sun", 0),
        (answer(call(arguments='{"city": "Os'), **INCOMPLETE), "length", "", 1),
        (answer(call(), status="incomplete"), "length", "", 1),
        (answer(call(), status="incomplete", incomplete_details={"reason": "steered"}), "length", "", 1),
        (answer(text("Sun."), usage=usage(written=4096)), "length", "Sun.", 0),
        (answer(text("Su"), **FILTERED), "content_filter", "Su", 0),
        (answer(**FILTERED), "content_filter", "The provider withheld the answer: `content_filter`.", 0),
        (answer(REFUSED), "refusal", "I won't.", 0),
        (answer(call(), REFUSED), "refusal", "I won't.", 1),
    ],
)
async def test_each_end_is_told(
    server: CannedServer, responses: Connect, said: dict[str, object], stop: str, words: str, calls: int
) -> None:
    """Why the model stopped decides what may be done with its answer; what it said so far is read in every case."""
    server.answer(said)
    completion = await responses(server.url).complete(ask(MODEL))
    assert (completion.stop, completion.message.text) == (stop, words)
    assert len(completion.message.tool_calls) == calls
    assert completion.model == "gpt-6-luna-2026-09-01"


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        ({"code": "rate_limit_exceeded", "message": "slow"}, "rate_limited", True),
        ({"code": "server_error", "message": "oops"}, "overloaded", True),
        ({"code": "vector_store_timeout", "message": "oops"}, "overloaded", True),
        ({"code": "insufficient_quota", "message": "pay"}, "quota", False),
        ({"code": "context_length_exceeded", "message": "long"}, "context_exceeded", False),
        ({"code": "invalid_prompt", "message": "flagged"}, "content_filter", False),
        ({"code": "bio_policy", "message": "flagged"}, "content_filter", False),
        ({"code": "misalignment_policy_violation", "message": "flagged"}, "content_filter", False),
        ({"code": "data_residency_mismatch", "message": "no"}, "bad_request", False),
        ({"code": 503, "message": "a gateway's"}, "overloaded", True),
        ({"message": "no code"}, "overloaded", True),
        (None, "overloaded", True),
    ],
)
async def test_a_failed_response_is_a_failure_of_its_kind(
    server: CannedServer, responses: Connect, error: object, code: str, retryable: bool
) -> None:
    """OpenAI says with a 200 that a response failed; it is told by its code, without the vendor's words."""
    server.answer(answer(status="failed", error=error))
    found = await failure(responses(server.url))
    assert (found.code, found.retryable) == (code, retryable)
    assert "flagged" not in found.message


@pytest.mark.parametrize(
    ("status", "code"), [("cancelled", "overloaded"), ("queued", "bad_response"), ("in_progress", "bad_response")]
)
async def test_a_response_that_is_not_there_may_be_asked_for_again(
    server: CannedServer, responses: Connect, status: str, code: str
) -> None:
    """A cancelled or unfinished response isn't an empty answer, and may be asked for again."""
    server.answer(answer(status=status))
    found = await failure(responses(server.url))
    assert (found.code, found.retryable) == (code, True)


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable"),
    [
        (400, {"error": {"code": "context_length_exceeded", "message": "long"}}, "context_exceeded", False),
        (400, {"error": {"code": "unsupported_parameter", "param": "reasoning.effort"}}, "bad_request", False),
        (400, {"error": {"code": "invalid_prompt", "message": "flagged"}}, "content_filter", False),
        (401, {"error": {"code": "invalid_api_key", "message": f"Incorrect API key provided: {KEY}"}}, "auth", False),
        (403, b"<html>blocked</html>", "auth", False),
        (404, {"error": {"code": "model_not_found", "message": "no"}}, "unknown_model", False),
        (429, {"error": {"code": "rate_limit_exceeded", "message": "slow"}}, "rate_limited", True),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, "quota", False),
        (500, {"error": {"code": "server_error", "message": "oops"}}, "overloaded", True),
        (503, b"", "overloaded", True),
    ],
)
async def test_each_refusal_is_told_by_what_openai_says(
    server: CannedServer, responses: Connect, status: int, body: object, code: str, retryable: bool
) -> None:
    """A refusal keeps its kind, and its message neither quotes the key nor the vendor's sentence."""
    server.answer(body, status)
    found = await failure(responses(server.url))
    assert (found.code, found.retryable) == (code, retryable)
    assert KEY not in found.message
    assert "flagged" not in found.message
    assert found.__cause__ is None


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"<html>hello</html>", "it isn't JSON"),
        (b"[]", "it isn't a JSON object"),
        (b"{}", "it has no `output`"),
        (b'{"output": 5}', "`output` is a number"),
        (b"[" * 100_000, "it isn't JSON"),
        (json.dumps({"choices": [{"message": {"content": "hi"}}]}).encode(), "it has no `output`"),
    ],
)
async def test_what_is_no_answer_is_named(server: CannedServer, responses: Connect, body: bytes, what: str) -> None:
    """An answer that can't be read says what is wrong with it."""
    server.answer(body)
    found = await failure(responses(server.url))
    assert (found.code, found.retryable) == ("bad_response", True)
    assert what in found.message


@pytest.mark.parametrize(
    ("item", "call_id", "name", "arguments"),
    [
        (call(arguments={"city": "Oslo"}), "call_a", "weather", '{"city": "Oslo"}'),
        (call(arguments=json.dumps('{"city": "Oslo"}')), "call_a", "weather", '{"city": "Oslo"}'),
        (call(arguments=""), "call_a", "weather", "{}"),
        (call(arguments=None), "call_a", "weather", "{}"),
        (call(arguments="{cut"), "call_a", "weather", "{cut"),
        ({**call(), "call_id": 7}, "7", "weather", '{"city": "Oslo"}'),
        ({"type": "function_call"}, "", "", "{}"),
        ({**call(), "name": "made up"}, "call_a", "made up", '{"city": "Oslo"}'),
    ],
)
async def test_calls_are_read_however_they_are_written(
    server: CannedServer, responses: Connect, item: object, call_id: str, name: str, arguments: str
) -> None:
    """A call with odd arguments, id or name is a call all the same: the workflow tells the model what was wrong."""
    server.answer(answer(item))
    (found,) = (await responses(server.url).complete(ask(MODEL))).message.tool_calls
    assert (found.id, found.name, found.arguments) == (call_id, name, arguments)


async def test_unknown_items_and_parts_are_skipped(server: CannedServer, responses: Connect) -> None:
    """What this code doesn't know, or what is no item at all, doesn't spoil the rest of the answer."""
    content = [{"type": "output_audio", "data": "x"}, {"type": "output_text", "text": "Su"}, "n.", 7, None]
    odd: list[object] = [None, "text", {"type": "web_search_call", "id": "ws_1"}, {"type": "message", "content": "One."}]
    server.answer(answer(*odd, {"type": "message", "content": content}, call()))
    completion = await responses(server.url).complete(ask(MODEL))
    assert completion.message.text == "One.\n\nSun."
    assert len(completion.message.tool_calls) == 1


@pytest.mark.parametrize(
    ("items", "kinds"),
    [
        ([reasoning(encrypted=None), call()], []),
        ([call(), reasoning()], []),
        ([reasoning("rs_1"), {"type": "web_search_call", "id": "ws"}, call()], ["reasoning", "call"]),
        ([reasoning("rs_1"), reasoning("rs_2", None), call()], ["reasoning", "call"]),
    ],
)
async def test_ids_are_kept_only_with_all_that_they_hang_on(
    server: CannedServer, responses: Connect, items: list[object], kinds: list[str]
) -> None:
    """OpenAI looks for what an id needs; where some of it can't come back, calls and words are kept without their ids."""
    server.answer(answer(*items))
    state = (await responses(server.url).complete(ask(MODEL))).message.state
    found = [item for item in (state.items if state else ()) if isinstance(item, dict)]
    assert ["reasoning" if item.get("type") else "call" for item in found] == kinds
    assert all("id" not in item for item in found if "call" in item)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (
            usage(
                1000,
                300,
                input_tokens_details={"cached_tokens": 600, "cache_write_tokens": 300},
                output_tokens_details={"reasoning_tokens": 250},
            ),
            TokenUsage(
                input_tokens=1000,
                output_tokens=300,
                cached_input_tokens=600,
                cache_write_tokens=300,
                reasoning_tokens=250,
            ),
        ),
        (
            usage(
                100,
                30,
                input_tokens_details={"cached_tokens": 900, "cache_write_tokens": 900},
                output_tokens_details={"reasoning_tokens": 900},
            ),
            TokenUsage(input_tokens=100, output_tokens=30, cached_input_tokens=100, reasoning_tokens=30),
        ),
        (usage("120", 30.0, input_tokens_details=None), TokenUsage(input_tokens=120, output_tokens=30)),
    ],
)
async def test_tokens_are_counted_once(server: CannedServer, responses: Connect, counts: object, expected: TokenUsage) -> None:
    """Tokens read from and written to the cache are part of the input, and reasoning is part of the output."""
    server.answer(answer(text("Sun."), usage=counts))
    assert (await responses(server.url).complete(ask(MODEL))).usage == expected


@pytest.mark.parametrize(
    "counts",
    [None, {}, [], usage(-5, -1), usage(0, 0), usage(2**60, 2**60), usage(True, None), usage("many", 1e300)],
)
async def test_tokens_that_nobody_counted_are_estimated(server: CannedServer, responses: Connect, counts: object) -> None:
    """No answer is free, and none is thrown away because its tokens can't be true."""
    server.answer(answer(text("It is sunny."), usage=counts))
    completion = await responses(server.url).complete(ask(MODEL))
    assert completion.usage == TokenUsage(input_tokens=-(-len(server.bodies[-1]) // 4), output_tokens=3)
    assert completion.stop == "end"
