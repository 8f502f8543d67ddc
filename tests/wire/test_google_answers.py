"""What is read from Google's answers, well-formed and not."""

import json
from typing import Any

import pytest

from activities.providers.base import Completion, ModelRequest, ProviderError
from activities.providers.google_answer import read
from activities.providers.google_body import body_of
from tests.wire.google_forms import check
from tests.wire.server import ask
from workflows.messages import AssistantMessage, ProviderState, StopReason, TokenUsage, ToolMessage, ToolRequest, UserMessage

MODEL = "gemini-3.8-flash"
CALL = {"functionCall": {"id": "g1", "name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "QzE="}
USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 5}


def answer(*parts: object, reason: object = "STOP", usage: object = USAGE, **more: object) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [*parts]}, "finishReason": reason, "index": 0, **more}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-3.8-flash-001", "responseId": "r"}


def found(given: object, request: ModelRequest | None = None) -> Completion:
    request = request or ask(MODEL)
    raw = given if isinstance(given, str) else json.dumps(given)
    return read(raw, body_of(request), request, key="GEMINI_API_KEY")


def failure(given: object) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        found(given)
    return caught.value


def test_text_calls_and_signatures_are_kept_in_their_order() -> None:
    """Text and calls are the message; signatures and Gemini's ids are its state, each at the part that had it."""
    completion = found(
        answer(
            {"text": "hm", "thought": True},
            {"text": "Looking", "thoughtSignature": "VDE="},
            {"text": " up."},
            CALL,
            {"functionCall": {"name": "weather"}},
        )
    )
    assert completion.message == AssistantMessage(
        text="Looking up.",
        tool_calls=(
            ToolRequest(id="g1", name="weather", arguments='{"city": "Oslo"}'),
            ToolRequest(id="", name="weather", arguments="{}"),
        ),
        state=ProviderState(
            provider="google",
            model=MODEL,
            items=(
                {"text": 7, "thoughtSignature": "VDE="},
                {"text": 4},
                {"call": 0, "id": "g1", "thoughtSignature": "QzE="},
                {"call": 1},
            ),
        ),
    )
    assert (completion.stop, completion.model, completion.dialect) == ("tool_calls", "gemini-3.8-flash-001", "generate_content")


def test_two_turns_send_back_exactly_what_came() -> None:
    """The parts of an answer are in the next request as Google gave them, thoughts without a signature left out."""
    given = [
        {"text": "hm", "thought": True},
        {"text": "so", "thought": True, "thoughtSignature": "VEg="},
        {"text": "Looking."},
        CALL,
        {"functionCall": {"id": "g2", "name": "weather", "args": {"city": "Bergen", "days": 2}}},
        {"text": "", "thoughtSignature": "RW5k"},
    ]
    said = found(answer(*given)).message
    results = [ToolMessage(call_id=call.id, name=call.name, content="{}") for call in said.tool_calls]
    body = body_of(ask(MODEL, UserMessage(text="hi"), said, *results))
    check(body)
    contents = json.loads(body)["contents"]
    assert contents[1] == {"role": "model", "parts": given[1:]}
    assert [part["functionResponse"]["id"] for part in contents[2]["parts"]] == ["g1", "g2"]


def test_plain_text_has_no_state() -> None:
    """An answer of text alone needs nothing beside it."""
    completion = found(answer({"text": "hi"}))
    assert (completion.message, completion.stop) == (AssistantMessage(text="hi"), "end")


STOPS: list[tuple[object, StopReason]] = [
    ("STOP", "end"),
    (None, "end"),
    ("FINISH_REASON_UNSPECIFIED", "end"),
    ("MAX_TOKENS", "length"),
    ("SAFETY", "content_filter"),
    ("RECITATION", "content_filter"),
    ("LANGUAGE", "content_filter"),
    ("BLOCKLIST", "content_filter"),
    ("PROHIBITED_CONTENT", "content_filter"),
    ("SPII", "content_filter"),
    ("ESCALATION", "content_filter"),
    ("MODEL_ARMOR", "content_filter"),
    ("IMAGE_SAFETY", "content_filter"),
]


@pytest.mark.parametrize(("reason", "stop"), STOPS)
def test_each_reason_to_stop_is_told(reason: object, stop: StopReason) -> None:
    """What the model had written is kept, and why it stopped is told in the words of all providers."""
    completion = found(answer({"text": "It is"}, reason=reason))
    assert (completion.message.text, completion.stop, completion.usage.output_tokens) == ("It is", stop, 5)


@pytest.mark.parametrize("reason", ["MAX_TOKENS", "SAFETY"])
def test_calls_of_an_answer_that_is_not_whole_are_read(reason: str) -> None:
    """Calls beside a reason that forbids them are there to be shown, and the stop says that none may be made."""
    completion = found(answer(CALL, reason=reason))
    assert len(completion.message.tool_calls) == 1
    assert completion.stop in ("length", "content_filter")


@pytest.mark.parametrize("content", [None, {}, {"role": "model"}, {"parts": []}, {"parts": None}])
def test_a_withheld_answer_says_what_google_calls_it(content: object) -> None:
    """An answer without content that was withheld names Google's reason, and is charged."""
    completion = found(
        {"candidates": [{"content": content, "finishReason": "SPII"}], "usageMetadata": {"promptTokenCount": 10}}
    )
    assert completion.message.text == "Google withheld the answer: `SPII`."
    assert (completion.stop, completion.usage.input_tokens) == ("content_filter", 10)


@pytest.mark.parametrize("candidates", [{}, {"candidates": []}, {"candidates": None}])
def test_a_refused_conversation_is_withheld(candidates: dict[str, object]) -> None:
    """A prompt that Google blocks is no outage: the answer is withheld, with the reason in its place."""
    completion = found({**candidates, "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {}})
    assert completion.message.text == "Google refused the conversation: `PROHIBITED_CONTENT`."
    assert completion.stop == "content_filter"


def test_words_in_the_place_of_a_reason_are_not_quoted() -> None:
    """A reason that is no name of Google's may repeat the prompt, so it isn't shown."""
    completion = found({"promptFeedback": {"blockReason": "the customer's card 4111"}})
    assert completion.message.text == "Google refused the conversation: `UNKNOWN`."


def test_an_empty_answer_is_an_answer() -> None:
    """Gemini sometimes stops without a word; that is charged, and the workflow's to deal with."""
    completion = found({"candidates": [{"finishReason": "STOP"}], "usageMetadata": USAGE})
    assert (completion.message, completion.stop) == (AssistantMessage(), "end")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Malformed function call: print(default_api.weather(city='Oslo'", "weather"),
        ("Malformed function call: call:weather{city:Oslo", "weather"),
        ("Malformed function call: default_api.refund(x=1)", "refund"),
        ("", ""),
        (None, ""),
        (7, ""),
    ],
)
def test_a_call_that_google_could_not_read_is_a_call_that_cannot_be_read(words: object, name: str) -> None:
    """`MALFORMED_FUNCTION_CALL` becomes one call whose arguments don't parse, so that the model is told and tries again."""
    completion = found(answer(CALL, reason="MALFORMED_FUNCTION_CALL", finishMessage=words))
    (call,) = completion.message.tool_calls
    assert (call.name, completion.stop, completion.message.state) == (name, "tool_calls", None)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(call.arguments)
    if name:
        assert name in call.arguments


def test_an_unexpected_call_is_passed_on() -> None:
    """`UNEXPECTED_TOOL_CALL` gives the call as it is, for the workflow to refuse; or one that can't be read, without any."""
    unexpected: dict[str, object] = {"functionCall": {"name": "no_such_tool", "args": {}}}
    completion = found(answer(unexpected, reason="UNEXPECTED_TOOL_CALL"))
    assert [call.name for call in completion.message.tool_calls] == ["no_such_tool"]
    completion = found(answer(reason="UNEXPECTED_TOOL_CALL", finishMessage="Unexpected tool call: no_such_tool(x=1)"))
    assert [call.name for call in completion.message.tool_calls] == ["no_such_tool"]
    assert completion.stop == "tool_calls"


def test_a_long_answer_pauses_with_its_token() -> None:
    """`CONTINUATION` is a pause: asked again with the token, Google goes on where it stopped."""
    given = answer({"text": "One,"}, reason="CONTINUATION", continuationToken="dDE=")
    completion = found(given)
    assert completion.stop == "pause"
    body = body_of(ask(MODEL, UserMessage(text="hi"), completion.message))
    check(body)
    assert json.loads(body)["continuationToken"] == "dDE="


@pytest.mark.parametrize(
    "given",
    [
        answer({"text": "One,"}, reason="CONTINUATION"),
        answer({"text": "One,"}, CALL, reason="CONTINUATION", continuationToken="dDE="),
    ],
    ids=["no token", "with a call"],
)
def test_an_answer_that_cannot_be_continued_is_cut_off(given: object) -> None:
    """Without a token, or with a call that may be half of what it will be, the answer is asked for again from the start."""
    completion = found(given)
    assert completion.stop == "length"
    assert "continuationToken" not in json.dumps(completion.message.model_dump())


def test_more_than_the_limit_is_cut_off_whatever_google_says() -> None:
    """An answer that took all the tokens that it may take counts as cut off, thoughts included."""
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 96, "thoughtsTokenCount": 4000}
    assert found(answer(CALL, usage=usage)).stop == "length"


@pytest.mark.parametrize("reason", ["OTHER", "MALFORMED_RESPONSE", "TOO_MANY_TOOL_CALLS", "NO_IMAGE", "BRAND_NEW"])
def test_other_reasons_are_asked_again(reason: str) -> None:
    """A reason that says nothing of the answer's worth makes none: the call is made again, and the reason is named."""
    error = failure(answer({"text": "It is"}, reason=reason))
    assert (error.code, error.retryable) == ("bad_response", True)
    assert error.message.startswith(f"Google's answer can't be read: the model stopped by `{reason}`.")


def test_a_limited_account_is_said() -> None:
    """An account that Google limited is the deployment's to repair, not the model's answer."""
    error = failure(answer(reason="PUP_LIMITED_DISABLED"))
    assert (error.code, error.retryable) == ("auth", False)
    assert "check `GEMINI_API_KEY`" in error.message


def test_a_missed_signature_is_our_mistake() -> None:
    """`MISSING_THOUGHT_SIGNATURE` isn't asked again: the same request would miss it again."""
    error = failure(answer(reason="MISSING_THOUGHT_SIGNATURE"))
    assert (error.code, error.retryable) == ("bad_request", False)


USAGES: list[tuple[object, TokenUsage]] = [
    (
        {
            "promptTokenCount": 100,
            "cachedContentTokenCount": 64,
            "toolUsePromptTokenCount": 7,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 30,
            "totalTokenCount": 142,
        },
        TokenUsage(input_tokens=107, output_tokens=35, cached_input_tokens=64, reasoning_tokens=30),
    ),
    # Zero is left out: all of the answer was thoughts.
    ({"promptTokenCount": 9, "thoughtsTokenCount": 30}, TokenUsage(input_tokens=9, output_tokens=30, reasoning_tokens=30)),
    ({"promptTokenCount": 9, "totalTokenCount": 14}, TokenUsage(input_tokens=9, output_tokens=5)),
    ({"promptTokenCount": "9", "candidatesTokenCount": "5"}, TokenUsage(input_tokens=9, output_tokens=5)),
    ({"promptTokenCount": 9, "candidatesTokenCount": 5.0}, TokenUsage(input_tokens=9, output_tokens=5)),
    (
        {"promptTokenCount": 9, "candidatesTokenCount": 5, "cachedContentTokenCount": 99},
        TokenUsage(input_tokens=9, output_tokens=5, cached_input_tokens=9),
    ),
]


@pytest.mark.parametrize(("usage", "tokens"), USAGES)
def test_tokens_are_counted_as_google_bills_them(usage: object, tokens: TokenUsage) -> None:
    """Thoughts are output, results of Google's own tools are input, and what was cached is part of the input."""
    assert found(answer({"text": "hi"}, usage=usage)).usage == tokens


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        5,
        {"promptTokenCount": 0, "candidatesTokenCount": 0},
        {"promptTokenCount": -3, "candidatesTokenCount": -4},
        {"promptTokenCount": None, "candidatesTokenCount": True},
        {"promptTokenCount": "many", "candidatesTokenCount": "x"},
        {"promptTokenCount": 18446744073709551615, "candidatesTokenCount": 18446744073709551615},
        {"promptTokenCount": 1e300, "candidatesTokenCount": 1e9},
    ],
)
def test_counts_that_cannot_be_are_estimated(usage: object) -> None:
    """An answer isn't lost for its accounting, and isn't free either."""
    usage = found(answer({"text": "It is sunny."}, usage=usage)).usage
    assert usage.output_tokens == 3
    assert 50 < usage.input_tokens < 200


LENIENT: list[tuple[object, str, tuple[tuple[str, str, str], ...]]] = [
    ({"parts": {"text": "hi"}}, "hi", ()),
    ("hi", "hi", ()),
    ({"parts": ["h", {"text": "i"}]}, "hi", ()),
    ({"parts": [{"text": 5}, None, 7, {"executableCode": {"code": "x"}}, {"text": None}]}, "5", ()),
    ({"parts": [{"functionCall": {"id": 7, "name": "weather", "args": None}}]}, "", (("7", "weather", "{}"),)),
    (
        {"parts": [{"functionCall": {"name": "weather", "args": '{"city": "Oslo"}'}}]},
        "",
        (("", "weather", '{"city": "Oslo"}'),),
    ),
    ({"parts": [{"functionCall": {"name": "weather", "args": "{"}}]}, "", (("", "weather", "{"),)),
    ({"parts": [{"functionCall": {"name": "weather", "args": [1]}}]}, "", (("", "weather", "[1]"),)),
    ({"parts": [{"functionCall": {}}]}, "", (("", "", "{}"),)),
    ({"parts": [{"functionCall": None}]}, "", (("", "", "{}"),)),
    ({"parts": [{"functionCall": {"name": 7, "args": ""}}]}, "", (("", "7", "{}"),)),
]


@pytest.mark.parametrize(("content", "text", "calls"), LENIENT)
def test_what_can_be_understood_is_read(content: object, text: str, calls: tuple[tuple[str, str, str], ...]) -> None:
    """Fields of other types are read where they have a meaning, and skipped where they have none."""
    message = found({"candidates": [{"content": content, "finishReason": "STOP"}], "usageMetadata": USAGE}).message
    assert message.text == text
    assert tuple((call.id, call.name, call.arguments) for call in message.tool_calls) == calls


def test_half_of_a_surrogate_pair_passes() -> None:
    """Half an emoji is read as it is; what to do about it is decided once, for all providers."""
    given = '{"candidates":[{"content":{"parts":[{"text":"Done \\ud83d."}]},"finishReason":"STOP"}]}'
    assert found(given).message.text == "Done \ud83d."


def test_a_stream_of_one_is_read() -> None:
    """Some gateways answer with the list that a stream would be."""
    assert found([answer({"text": "hi"})]).message.text == "hi"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("<html>Sign in</html>", "it isn't JSON"),
        ("", "it isn't JSON"),
        ('{"candidates": [', "it isn't JSON"),
        ("[" * 100_000, "it isn't JSON"),
        ("[]", "it isn't a JSON object"),
        ('"text"', "it isn't a JSON object"),
        ({}, "it has no `candidates`"),
        ({"candidates": []}, "it has no `candidates`"),
        ({"candidates": {"content": {}}}, "it has no `candidates`"),
        ({"candidates": [5]}, "`candidates[0]` isn't an object"),
        ({"choices": [{"message": {"content": "hi"}}]}, "it has no `candidates`"),
    ],
)
def test_what_is_no_answer_says_what_it_is(given: object, what: str) -> None:
    """What can't be read may be asked for again, and the sentence says what was wrong and what to check."""
    error = failure(given)
    assert (error.code, error.retryable) == ("bad_response", True)
    assert error.message == f"Google's answer can't be read: {what}. Check that the base URL is an API's, not a page's."


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, "rate_limited", True),
        ({"code": 503, "status": "UNAVAILABLE"}, "overloaded", True),
        ({"code": "401"}, "auth", False),
        ({"message": "no"}, "overloaded", True),
        ({"code": 200}, "overloaded", True),
    ],
)
def test_an_error_inside_a_200_is_that_error(error: object, code: str, retryable: bool) -> None:
    """A gateway's 200 around a refusal is the refusal."""
    found = failure({"error": error})
    assert (found.code, found.retryable) == (code, retryable)
