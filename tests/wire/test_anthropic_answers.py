"""How answers of Messages are read: why the model stopped, what it said and called, what it used, and what is an error."""

import json
import traceback
from typing import Any

import pytest

from activities.providers.base import ProviderError
from tests.wire.anthropic_api import DIRECT, MODEL, TASK, answer, asked, complete, text, think, use
from tests.wire.server import KEY, CannedServer
from workflows.messages import AssistantMessage, StopReason, TokenUsage, ToolRequest

NOTE = {"customer_id": "cus_111", "text": "Customer wants"}
WORDS = "The customer asks for three"


def error(kind: str, message: str = "x") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


async def failure(server: CannedServer, body: object, status: int = 200, **headers: str) -> ProviderError:
    server.answer(body, status, headers)
    with pytest.raises(ProviderError) as caught:
        await complete(server, asked())
    return caught.value


@pytest.mark.parametrize(
    ("content", "given", "stop"),
    [
        ([text(WORDS)], "end_turn", "end"),
        ([text(WORDS)], "stop_sequence", "end"),
        ([use("add_account_note", NOTE)], "tool_use", "tool_calls"),
        ([use("add_account_note", NOTE)], "end_turn", "tool_calls"),
        ([text(WORDS)], None, "end"),
        ([use("add_account_note", NOTE)], None, "tool_calls"),
        ([text(WORDS)], "a_new_reason", "end"),
        ([], "end_turn", "end"),
        ([text(WORDS)], "max_tokens", "length"),
        ([use("add_account_note", NOTE)], "max_tokens", "length"),
        ([use("add_account_note", NOTE), text("")], "max_tokens", "length"),
        ([use("add_account_note", NOTE)], "length", "length"),
        ([], "refusal", "refusal"),
        ([text("I'll start by")], "refusal", "refusal"),
        ([use("add_account_note", NOTE)], "refusal", "refusal"),
        ([text(WORDS)], "content_filter", "content_filter"),
        ([text("Let me go on")], "pause_turn", "pause"),
        ([text(WORDS)], "model_context_window_exceeded", "context_exceeded"),
    ],
)
async def test_why_the_model_stopped(server: CannedServer, content: list[object], given: str | None, stop: StopReason) -> None:
    """Each reason has its own name, whatever was said or called before."""
    server.answer(answer(*content, stop=given))
    assert (await complete(server, asked())).stop == stop


@pytest.mark.parametrize(
    ("written", "given", "stop"),
    [
        (4095, "tool_use", "tool_calls"),
        (4096, "tool_use", "length"),
        (4096, "end_turn", "length"),
        (5000, "end_turn", "length"),
        (4096, "refusal", "refusal"),
        (4096, "pause_turn", "pause"),
        (1_000_000, "tool_use", "tool_calls"),
    ],
)
async def test_an_answer_that_used_up_its_limit_was_cut_off(
    server: CannedServer, written: int, given: str, stop: StopReason
) -> None:
    """As many output tokens as were allowed mean `length`, whatever the server says; a number that can't be true doesn't."""
    server.answer(answer(use("add_account_note", NOTE), stop=given, usage={"input_tokens": 9, "output_tokens": written}))
    assert (await complete(server, asked())).stop == stop


async def test_what_was_cut_off_is_read_as_far_as_it_came(server: CannedServer) -> None:
    """Text and calls of an answer that was cut off are there, for a person to see; the run makes none of the calls."""
    server.answer(answer(text(WORDS), use("add_account_note", NOTE), stop="max_tokens"))
    message = (await complete(server, asked())).message
    assert (message.text, [call.name for call in message.tool_calls]) == (WORDS, ["add_account_note"])


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ({"ticket_id": "T-1"}, '{"ticket_id": "T-1"}'),
        ('{"ticket_id": "T-1"}', '{"ticket_id": "T-1"}'),
        (json.dumps('{"ticket_id": "T-1"}'), '{"ticket_id": "T-1"}'),
        ({}, "{}"),
        (None, "{}"),
        ("{not json", "{not json"),
        ("", ""),
        ([1], "[1]"),
        (5, "5"),
        ({"n": 1.0, "big": 18446744073709551615}, '{"n": 1.0, "big": 18446744073709551615}'),
    ],
)
async def test_arguments_in_any_form_are_json_text(server: CannedServer, given: object, arguments: str) -> None:
    """An object is dumped, a text is kept and unwrapped once, and nothing is an empty object."""
    server.answer(answer(use("get_ticket", given)))
    assert (await complete(server, asked())).message.tool_calls == (
        ToolRequest(id="toolu_a", name="get_ticket", arguments=arguments),
    )


@pytest.mark.parametrize(
    ("block", "call"),
    [
        (use("get_ticket", {}, 7), ToolRequest(id="7", name="get_ticket", arguments="{}")),
        (use("get_ticket", {}, None), ToolRequest(id="", name="get_ticket", arguments="{}")),
        ({"type": "tool_use"}, ToolRequest(id="", name="", arguments="{}")),
        (use(5, {}), ToolRequest(id="toolu_a", name="", arguments="{}")),
        (use("get_ticket", {}) | {"caller": {"type": "direct"}}, ToolRequest(id="toolu_a", name="get_ticket", arguments="{}")),
    ],
)
async def test_a_call_is_a_call_whatever_is_missing(server: CannedServer, block: object, call: ToolRequest) -> None:
    """Ids become text and what is missing is empty, so that the model is told what was wrong with its call."""
    server.answer(answer(block))
    assert (await complete(server, asked())).message.tool_calls == (call,)


ODD: list[object] = [
    [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, {"type": "brand_new", "x": 1}, text("ok")],
    [{"no": "type"}, None, 5, ["x"], text("ok")],
    [text("o"), {"type": 5}, text("k")],
    ["ok"],
    "ok",
    [text(None), text("ok") | {"citations": None, "new": {}}],
]


@pytest.mark.parametrize("content", ODD)
async def test_what_is_known_is_read_and_the_rest_is_skipped(server: CannedServer, content: object) -> None:
    """Unknown blocks and fields are passed over, and content as one text is that text."""
    server.answer(answer(stop="end_turn") | {"content": content})
    assert (await complete(server, asked())).message == AssistantMessage(text="ok")


@pytest.mark.parametrize("where", ["text", "input", "id", "name"])
async def test_half_a_character_is_passed_on(server: CannedServer, where: str) -> None:
    """A lone surrogate is no error here; the activity replaces it for all providers."""
    given = {"text": text("X"), "input": use("a", {"q": "X"}), "id": use("a", {}, "X"), "name": use("X", {})}[where]
    server.answer(json.dumps(answer(given)).replace('"X"', '"ok \\ud83d"').encode())
    assert (await complete(server, asked())).message


USED = TokenUsage(input_tokens=100, output_tokens=20)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 100, "output_tokens": 20}, USED),
        (
            {"input_tokens": 10, "output_tokens": 20, "cache_creation_input_tokens": 100_000, "cache_read_input_tokens": 64},
            TokenUsage(input_tokens=100_074, output_tokens=20, cached_input_tokens=64, cache_write_tokens=100_000),
        ),
        (
            {"input_tokens": 10, "output_tokens": 20, "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h": 4}},
            TokenUsage(input_tokens=17, output_tokens=20, cache_write_tokens=7),
        ),
        (
            {"input_tokens": 0, "output_tokens": 20, "cache_read_input_tokens": 64},
            TokenUsage(input_tokens=64, output_tokens=20, cached_input_tokens=64),
        ),
        (
            {"input_tokens": 100, "output_tokens": 20, "output_tokens_details": {"thinking_tokens": 15}},
            TokenUsage(input_tokens=100, output_tokens=20, reasoning_tokens=15),
        ),
        (
            {"input_tokens": 100, "output_tokens": 20, "output_tokens_details": {"thinking_tokens": 99}},
            TokenUsage(input_tokens=100, output_tokens=20, reasoning_tokens=20),
        ),
        ({"input_tokens": 100, "output_tokens": 20, "output_tokens_details": None, "cache_read_input_tokens": None}, USED),
        ({"input_tokens": 100.0, "output_tokens": 20.0}, USED),
    ],
)
async def test_usage_is_read(server: CannedServer, usage: object, expected: TokenUsage) -> None:
    """Input is what was read anew, from the cache and into it; thinking is a part of the output."""
    server.answer(answer(text("I look.")) | {"usage": usage})
    assert (await complete(server, asked())).usage == expected


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        "many",
        {"input_tokens": 0, "output_tokens": 0},
        {"input_tokens": -5, "output_tokens": -5},
        {"input_tokens": None, "output_tokens": None},
        {"input_tokens": "100", "output_tokens": "20"},
        {"input_tokens": True, "output_tokens": True},
        {"input_tokens": 2**64, "output_tokens": 2**64},
        {"input_tokens": 2**60, "output_tokens": 1_000_000},
    ],
)
async def test_usage_that_makes_no_sense_is_estimated(server: CannedServer, usage: object) -> None:
    """A billed answer isn't lost for its accounting, nor is it free: four characters are a token, thinking included."""
    server.answer(answer(think("x" * 40), use("add_account_note", {})) | {"usage": usage})
    completion = await complete(server, asked())
    assert completion.usage == TokenUsage(input_tokens=-(-len(server.bodies[0]) // 4), output_tokens=5 + 10)


async def test_only_the_half_that_makes_no_sense_is_estimated(server: CannedServer) -> None:
    """A number that can be true is kept beside one that can't."""
    server.answer(answer(text("x" * 8), usage={"input_tokens": 100, "output_tokens": 0}))
    assert (await complete(server, asked())).usage == TokenUsage(input_tokens=100, output_tokens=2)
    server.answer(answer(text("x" * 8), usage={"output_tokens": 20}))
    assert (await complete(server, asked())).usage.output_tokens == 20


async def test_an_empty_answer_may_have_cost_no_output(server: CannedServer) -> None:
    """No output is believed where there is none."""
    server.answer(answer(stop="end_turn", usage={"input_tokens": 100, "output_tokens": 0}))
    assert (await complete(server, asked())).usage == TokenUsage(input_tokens=100)


async def test_the_model_is_the_one_that_answered(server: CannedServer) -> None:
    """The vendor's name for it, or the one that was asked for."""
    server.answer(answer(text("ok")) | {"model": "claude-haiku-5-5-20261001"})
    assert (await complete(server, asked())).model == "claude-haiku-5-5-20261001"
    for model in (None, 5, ""):
        server.answer(answer(text("ok")) | {"model": model})
        assert (await complete(server, asked())).model == MODEL


ERRORS: list[tuple[int, dict[str, Any], str, bool]] = [
    (529, error("overloaded_error"), "overloaded", True),
    (500, error("api_error"), "overloaded", True),
    (504, error("timeout_error"), "overloaded", True),
    (429, error("rate_limit_error"), "rate_limited", True),
    (401, error("authentication_error"), "auth", False),
    (403, error("permission_error"), "auth", False),
    (413, error("request_too_large"), "context_exceeded", False),
    (400, error("invalid_request_error", "prompt is too long: 214676 tokens > 200000 maximum"), "context_exceeded", False),
    (
        400,
        error("invalid_request_error", "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000"),
        "context_exceeded",
        False,
    ),
    (400, error("invalid_request_error", "Your credit balance is too low to access the Anthropic API."), "quota", False),
    (400, error("invalid_request_error", "You have reached your specified API usage limits."), "quota", False),
    (402, error("billing_error"), "quota", False),
    (429, error("rate_limit_error", "You have reached your specified API usage limits."), "quota", False),
    (404, error("not_found_error", "model: claude-haiku-9"), "unknown_model", False),
    (400, error("invalid_request_error", "Output blocked by content filtering policy"), "content_filter", False),
    (400, error("invalid_request_error", "messages: roles must alternate"), "bad_request", False),
]


@pytest.mark.parametrize(("status", "body", "code", "retryable"), ERRORS)
@pytest.mark.parametrize("inside", [False, True], ids=["status", "in-a-200"])
async def test_each_refusal_has_its_code(
    server: CannedServer, status: int, body: dict[str, Any], code: str, retryable: bool, inside: bool
) -> None:
    """A refusal means the same whether it comes by its status or inside a 200."""
    caught = await failure(server, body, 200 if inside else status)
    assert (caught.code, caught.retryable) == (code, retryable)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_in_a_200_may_come_with_a_status_and_content(server: CannedServer, status: int) -> None:
    """A gateway's error counts, also beside what looks like an answer."""
    body = answer(text("")) | {"error": {"message": "Provider returned error", "code": status}}
    caught = await failure(server, body)
    assert (caught.code, caught.retryable) == ("rate_limited" if status == 429 else "overloaded", True)


SENTENCES = {
    "context_exceeded": "The provider refused the call (413): the conversation is too long for the model; set `[context]` in "
    "`agent.toml`, or take a model with more room.",
    "quota": "The provider refused the call (402): the account behind `ANTHROPIC_API_KEY` has no money or no allowance left; "
    "add credit or raise its limit, then resume the run.",
    "unknown_model": "The provider refused the call (404): it has no model of this name, or not for this account; check the "
    "model's name, and the account behind `ANTHROPIC_API_KEY`.",
}


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (413, "request_too_large", "context_exceeded"),
        (402, "billing_error", "quota"),
        (404, "not_found_error", "unknown_model"),
    ],
)
async def test_a_refusal_says_what_to_do(server: CannedServer, status: int, kind: str, code: str) -> None:
    """The sentence names the cause and the next step, and nothing that was sent."""
    caught = await failure(server, error(kind, f"{KEY}: {TASK.text}"), status)
    assert caught.message == SENTENCES[code]
    shown = "".join(traceback.format_exception(caught))
    assert KEY not in shown and "T-1011" not in shown


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"<html>Sign in</html>", "it isn't JSON"),
        (b"", "it isn't JSON"),
        (b'{"content": "' + b"[" * 100_000, "it isn't JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "it isn't JSON"),
        ([], "it is a list"),
        ("text", "it is a text"),
        (None, "it is missing"),
        ({}, "`content` is missing"),
        ({"choices": [], "content": None}, "`content` is missing"),
        ({"content": 5}, "`content` is a number"),
        ({"content": {}}, "`content` is an object"),
        ({"content": [text("a"), text(5)]}, "`content[1].text` is a number"),
        ({"content": [text(True)]}, "`content[0].text` is a boolean"),
    ],
)
async def test_what_is_no_answer_says_what_was_wrong(server: CannedServer, body: object, what: str) -> None:
    """The sentence of `bad_response` names the place and what is there."""
    caught = await failure(server, body)
    assert (caught.code, caught.retryable) == ("bad_response", True)
    assert caught.message == (
        f"The provider answered 200 with something that is no model answer: {what}. "
        "Check that the base URL is an API's, not a page's."
    )


async def test_a_number_that_json_has_not_is_kept_as_a_word(server: CannedServer) -> None:
    """`NaN` in arguments reaches the tool's own validation as a text, and the rest of the answer isn't lost."""
    server.answer(json.dumps(answer(use("pay", {"cents": float("nan")}))).encode())
    (call,) = (await complete(server, asked())).message.tool_calls
    assert call.arguments == '{"cents": "NaN"}'


async def test_a_vendor_field_nested_without_end_is_no_crash(server: CannedServer) -> None:
    """What can't be kept in history is a `bad_response`, not an error of Python's."""
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"a": deep}
    caught = await failure(server, answer(think() | {"deep": deep}, use("a", {})))
    assert caught.code == "bad_response"


async def test_the_dialect_is_told(server: CannedServer) -> None:
    """The completion names the form of its body."""
    server.answer(answer(text("ok"), stop="end_turn"))
    assert (await complete(server, asked())).dialect == DIRECT
