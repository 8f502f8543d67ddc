"""How answers of OpenAI's Responses API are read, whole ones and others, over real HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest

from activities.providers.base import Completion, ModelRequest, ProviderError, ToolOffer
from activities.providers.openai import OpenAIProvider
from tests.wire.responses_forms import CITY, USAGE, answer, at_openai, call, message, reasoning
from tests.wire.server import KEY, CannedServer, ask
from workflows.messages import TokenUsage, ToolRequest

Ask = Callable[..., Awaitable[Completion]]


@pytest.fixture
async def provider(server: CannedServer) -> AsyncIterator[OpenAIProvider]:
    made = at_openai(server.url)
    yield made
    await made.aclose()


@pytest.fixture
def asked(server: CannedServer, provider: OpenAIProvider) -> Ask:
    """What becomes of `body` as OpenAI's answer."""

    async def ask_it(body: object, request: ModelRequest | None = None) -> Completion:
        server.answer(body)
        return await provider.complete(request or ask("gpt-6-luna"))

    return ask_it


@pytest.fixture
def failure(server: CannedServer, provider: OpenAIProvider) -> Callable[..., Awaitable[ProviderError]]:
    async def fail(body: object, status: int = 200) -> ProviderError:
        server.answer(body, status)
        with pytest.raises(ProviderError) as caught:
            await provider.complete(ask("gpt-6-luna"))
        assert KEY not in caught.value.message
        return caught.value

    return fail


async def test_parallel_calls_come_back_in_order(asked: Ask) -> None:
    """Text, calls, tokens and the model's name are those of the answer."""
    found = await asked(answer(message("I look at ", "both."), call(), call(call_id="call_b", arguments='{"city":"Bergen"}')))
    assert found.message.text == "I look at both."
    assert found.message.tool_calls == (
        ToolRequest(id="call_a", name="weather", arguments=CITY),
        ToolRequest(id="call_b", name="weather", arguments='{"city":"Bergen"}'),
    )
    assert (found.stop, found.model) == ("tool_calls", "gpt-6-luna")
    assert found.usage == TokenUsage(
        input_tokens=120, output_tokens=30, cached_input_tokens=64, cache_write_tokens=32, reasoning_tokens=20
    )


async def test_an_answer_of_text_alone_needs_no_state(asked: Ask) -> None:
    """What is only said has nothing that must come back."""
    found = await asked(answer(message("Sun.")))
    assert (found.stop, found.message.text, found.message.state) == ("end", "Sun.", None)


async def test_reasoning_is_kept_as_openai_takes_it_back(asked: Ask) -> None:
    """Reasoning is kept in its place, without what OpenAI doesn't take back: its status, plain content and nulls."""
    plain: list[object] = []
    said = answer(reasoning(content="gAAA") | {"content": plain}, message("Hm.", phase="commentary"), call())
    found = await asked(said)
    assert found.message.state is not None and found.message.state.is_of("openai", "gpt-6-luna")
    assert found.message.state.items == (
        {"reasoning": {"type": "reasoning", "id": "rs_1", "encrypted_content": "gAAA", "summary": []}},
        {"message": {"id": "msg_1", "phase": "commentary"}, "letters": 3},
        {"call": "fc_call_a"},
    )


@pytest.mark.parametrize(
    "output",
    [
        (message("Sun."), reasoning()),
        (reasoning(content=None), message("Sun.")),
        (reasoning(item_id=""), message("Sun.")),
        (reasoning(), message(refusal="No.")),
    ],
    ids=["nothing-follows", "not-encrypted", "no-id", "refusal"],
)
async def test_reasoning_that_openai_would_refuse_isnt_kept(asked: Ask, output: tuple[object, ...]) -> None:
    """Reasoning that nothing follows, or that a server without storage can't read, isn't sent back."""
    assert (await asked(answer(*output))).message.state is None


async def test_ids_go_with_the_reasoning_that_they_hang_on(asked: Ask) -> None:
    """OpenAI looks for the reasoning of an id; where some of it can't come back, texts and calls are kept without theirs."""
    output = (reasoning("rs_1"), message("Hm.", phase="commentary"), reasoning("rs_2", content=None), call())
    state = (await asked(answer(*output))).message.state
    assert state is not None
    assert state.items[1:] == ({"message": {"phase": "commentary"}, "letters": 3}, {"call": ""})


async def test_two_messages_of_an_answer_stay_apart(asked: Ask) -> None:
    """Two messages are one text with an empty line between, and what is kept tells them apart."""
    found = await asked(answer(message("One.", phase="commentary"), message("Two.", item_id="msg_2")))
    assert found.message.text == "One.\n\nTwo."
    assert found.message.state is not None
    assert [item["letters"] for item in found.message.state.items if isinstance(item, dict)] == [4, 4]


@pytest.mark.parametrize(
    ("said", "stop"),
    [
        (answer(message("The customer"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "length"),
        (answer(message("The customer"), status="incomplete", incomplete_details={"reason": "max_messages"}), "length"),
        (answer(message("The customer"), status="incomplete"), "length"),
        (answer(reasoning(), status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "length"),
        (answer(call(status="incomplete")), "length"),
        (answer(message("The customer", status="incomplete")), "length"),
        (answer(call(), usage={**USAGE, "output_tokens": 4096}), "length"),
        (answer(message("The cust"), status="incomplete", incomplete_details={"reason": "content_filter"}), "content_filter"),
        (answer(message(refusal="I can't help with that.")), "refusal"),
        (answer(message("Well. ", refusal="I can't.")), "refusal"),
        (answer(message(refusal="I can't."), call()), "refusal"),
        (answer(message("Sun.", refusal=" ")), "end"),
        (answer(reasoning()), "end"),
        (answer(), "end"),
        (answer(message("Sun."), status=None), "end"),
    ],
)
async def test_why_the_model_stopped(asked: Ask, said: object, stop: str) -> None:
    """Only what is whole counts as such, whatever the server says of it."""
    assert (await asked(said)).stop == stop


async def test_a_refusal_is_the_answers_text(asked: Ask) -> None:
    """What the model refuses with is kept for people."""
    assert (await asked(answer(message("Well. ", refusal="I can't.")))).message.text == "Well. I can't."


async def test_what_was_cut_off_is_still_read(asked: Ask) -> None:
    """Calls of an answer that was cut off are handed on as far as they go, for the run to leave undone."""
    cut = call(arguments='{"city": "Os', status="incomplete")
    found = await asked(answer(cut, status="incomplete", incomplete_details={"reason": "max_output_tokens"}))
    assert (found.stop, found.message.tool_calls[0].arguments) == ("length", '{"city": "Os')


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"city": "Oslo"}, CITY),
        ('"{\\"city\\": \\"Oslo\\"}"', CITY),
        ("", "{}"),
        (None, "{}"),
        ("Oslo", "Oslo"),
        ('"Oslo"', '"Oslo"'),
        ([1], "[1]"),
    ],
)
async def test_arguments_are_read_however_they_came(asked: Ask, given: object, read: str) -> None:
    """An object is made text, text that was encoded twice is unwrapped once, and nothing else is touched."""
    assert (await asked(answer(call(arguments=given)))).message.tool_calls[0].arguments == read


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (call(call_id=7), ToolRequest(id="7", name="weather", arguments=CITY)),
        (call(call_id=None), ToolRequest(id="fc_None", name="weather", arguments=CITY)),
        (call(call_id="", id=""), ToolRequest(id="", name="weather", arguments=CITY)),
        (call(name=None), ToolRequest(id="call_a", name="", arguments=CITY)),
        ({"type": "function_call"}, ToolRequest(id="", name="", arguments="{}")),
    ],
)
async def test_a_call_is_a_call_whatever_there_is_of_it(asked: Ask, item: object, expected: ToolRequest) -> None:
    """Ids that are numbers become text, and a call without a name goes on as one, for the model to be told."""
    assert (await asked(answer(item))).message.tool_calls == (expected,)


async def test_items_that_nobody_asked_for_are_skipped(asked: Ask) -> None:
    """Items and parts of types that we don't know are left out, by their `type`."""
    strange = [{"type": "web_search_call", "id": "ws_1"}, {"type": "brand_new", "text": "x"}, 5, None, "text", {"no": "type"}]
    part = {"type": "output_hologram", "text": "x"}
    said = message("Sun.")
    said["content"] = [part, *cast("list[object]", said["content"]), 5]
    assert (await asked(answer(*strange, said, call()))).message.text == "Sun."


async def test_content_may_be_a_text(asked: Ask) -> None:
    """Some servers put the text where a list of parts belongs."""
    assert (await asked(answer(message() | {"content": "Sun."}))).message.text == "Sun."


async def test_nulls_that_strict_mode_asked_for_are_dropped(asked: Ask) -> None:
    """A field that needn't be there and came as null is as good as absent."""
    fields = {"query": {"type": "string"}, "limit": {"type": "integer", "default": 3}, "note": {"type": ["string", "null"]}}
    offer = ToolOffer(
        name="search",
        description="Search.",
        parameters={"type": "object", "properties": fields, "required": ["query"], "additionalProperties": False},
    )
    request = ask("gpt-6-luna").model_copy(update={"tools": (offer,)})
    found = await asked(answer(call("search", '{"query": "é", "limit": null, "note": null}')), request)
    assert found.message.tool_calls[0].arguments == '{"query": "é", "note": null}'


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ("absent", (-1, 1)),
        (None, (-1, 1)),
        ({}, (-1, 1)),
        ({"total_tokens": 9}, (-1, 1)),
        ({"input_tokens": 0, "output_tokens": 0}, (-1, 1)),
        ({"input_tokens": -5, "output_tokens": -5}, (-1, 1)),
        ({"input_tokens": 7, "output_tokens": 18446744073709551615}, (7, 1)),
        ({"input_tokens": 7, "output_tokens": 1_000_000}, (7, 1)),
        ({"input_tokens": 1e400, "output_tokens": "2"}, (-1, 2)),
        ({"input_tokens": 7.0, "output_tokens": True}, (7, 1)),
        ("many", (-1, 1)),
    ],
)
async def test_tokens_that_cant_be_true_are_estimated(
    asked: Ask, server: CannedServer, usage: object, expected: tuple[int, int]
) -> None:
    """No number of the vendor's makes a call free, or as expensive as none can be; -1 stands for the estimate."""
    found = await asked(answer(message("Sun."), usage=usage))
    estimate = -(-len(server.bodies[-1]) // 4)
    assert (found.usage.input_tokens, found.usage.output_tokens) == (estimate if expected[0] < 0 else expected[0], expected[1])


async def test_parts_of_the_usage_are_no_larger_than_the_whole(asked: Ask) -> None:
    """Cached and written tokens are part of what was read, reasoning is part of what was written."""
    details = {"cached_tokens": 80, "cache_write_tokens": 90}
    usage = {
        "input_tokens": 100,
        "input_tokens_details": details,
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 9},
    }
    found = await asked(answer(message("Sun."), usage=usage))
    assert found.usage == TokenUsage(
        input_tokens=100, output_tokens=5, cached_input_tokens=80, cache_write_tokens=20, reasoning_tokens=5
    )


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        ({"code": "server_error", "message": "Oops"}, "overloaded", True),
        ({"code": "rate_limit_exceeded", "message": "Slow down"}, "rate_limited", True),
        ({"code": "insufficient_quota", "message": "Pay"}, "quota", False),
        ({"code": "invalid_prompt", "message": "Flagged"}, "content_filter", False),
        ({"code": "misalignment_policy_violation", "message": "x"}, "content_filter", False),
        ({"code": "context_length_exceeded", "message": "Too long"}, "context_exceeded", False),
        ({"code": "data_residency_mismatch", "message": "x"}, "bad_request", False),
        ({"message": "Oops"}, "overloaded", True),
        (None, "overloaded", True),
    ],
)
async def test_an_error_inside_an_answer_is_a_failure_of_that_kind(
    failure: Callable[..., Awaitable[ProviderError]], error: object, code: str, retryable: bool
) -> None:
    """An answer whose status is `failed` isn't an answer."""
    found = await failure(answer(message("Half"), status="failed", error=error))
    assert (found.code, found.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>Sign in</html>", "with something that is no model answer"),
        ([], "with something that is no model answer"),
        ({}, "with something that is no model answer"),
        ({"object": "response"}, "it has no `output`"),
        ({"object": "response", "output": 5}, "`output` is a number"),
        ({"object": "response", "output": [], "status": "queued"}, "it is `queued`"),
        (b'{"output": ' + b"[" * 100_000, "with something that is no model answer"),
    ],
)
async def test_what_cant_be_read_says_what_is_wrong(
    failure: Callable[..., Awaitable[ProviderError]], body: object, words: str
) -> None:
    """A 200 that is no answer is a retryable `bad_response`, and names what was wrong with it."""
    found = await failure(body)
    assert (found.code, found.retryable) == ("bad_response", True)
    assert words in found.message


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, {"message": "Input too long", "code": "context_length_exceeded", "param": "input"}, "context_exceeded"),
        (404, {"message": "The model `x` does not exist", "code": "model_not_found"}, "unknown_model"),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "quota"),
        (400, {"message": "Unsupported value", "code": "unsupported_value", "param": "reasoning.effort"}, "bad_request"),
    ],
)
async def test_refusals_are_read_as_for_chat_completions(
    failure: Callable[..., Awaitable[ProviderError]], server: CannedServer, status: int, error: dict[str, str], code: str
) -> None:
    """A refusal has the code of its kind, and isn't tried in another form where that wouldn't help."""
    assert (await failure({"error": error}, status)).code == code
    assert len(server.bodies) == 1
