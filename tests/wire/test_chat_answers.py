"""What becomes of each answer that Chat Completions of compatible servers give, over real HTTP."""

import json

import pytest

from activities.answers import presentable
from tests.wire.chat_forms import READ, USAGE, Connect, answer, asked, call, check, failure
from tests.wire.server import CannedServer, ask
from workflows.messages import ProviderState, TokenUsage, ToolMessage, UserMessage

TWICE = json.dumps(READ)
DEEP = '{"a":' * 30_000 + "1" + "}" * 30_000
NOTE_CUT = '{"customer_id":"cus_111","text":"Customer wants","visibility":"internal"}'


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ({"ticket_id": "T-1011"}, '{"ticket_id": "T-1011"}'),
        ({}, "{}"),
        (TWICE, READ),
        (READ, READ),
        ("", "{}"),
        (" \n", "{}"),
        (None, "{}"),
        (json.dumps(TWICE), json.dumps(TWICE)),  # three times is no mistake of a template any more
        (json.dumps("[1]"), json.dumps("[1]")),
        ([1], "[1]"),
        (5, "5"),
        ('{"ticket_id": "T-10', '{"ticket_id": "T-10'),
        ("```json\n{}\n```", "```json\n{}\n```"),
    ],
)
async def test_arguments_are_read_in_each_form(server: CannedServer, connect: Connect, arguments: object, read: str) -> None:
    """An object is written as JSON, a text that holds an object is unwrapped once, and all else is the model's to mend."""
    completion = await asked(server, connect, answer({"tool_calls": [call(arguments=arguments)]}))
    assert [(c.name, c.arguments) for c in completion.message.tool_calls] == [("weather", read)]
    assert completion.stop == "tool_calls"


@pytest.mark.parametrize(
    ("given", "name", "arguments", "call_id"),
    [
        ({"id": "x", "type": "function"}, "", "{}", "x"),
        ({"id": "x", "type": "function", "function": None}, "", "{}", "x"),
        ({"id": "x", "type": "function", "function": {"arguments": READ}}, "", READ, "x"),
        ({"id": "x", "function": {"name": None, "arguments": READ}}, "", READ, "x"),
        ({"id": 7, "function": {"name": "weather", "arguments": READ}}, "weather", READ, "7"),
        ({"id": None, "function": {"name": "weather"}}, "weather", "{}", ""),
        ({"name": "weather", "arguments": {"city": "Oslo"}}, "weather", '{"city": "Oslo"}', ""),
        ({"id": "x", "type": "custom", "custom": {"name": "grep", "input": "a.*b"}}, "grep", "a.*b", "x"),
        ("weather", "", "{}", ""),
        (None, "", "{}", ""),
    ],
)
async def test_a_call_that_makes_no_sense_is_a_call(
    server: CannedServer, connect: Connect, given: object, name: str, arguments: str, call_id: str
) -> None:
    """What is there of a call is kept, so that the workflow answers it and the model tries again."""
    completion = await asked(server, connect, answer({"tool_calls": [given]}, "tool_calls"))
    (found,) = completion.message.tool_calls
    assert (found.name, found.arguments, found.id) == (name, arguments, call_id)
    request = ask("m", UserMessage(text="hi"), presentable(completion.message, (), "r1"))
    await asked(server, connect, answer({"content": "ok"}), request)
    check(server.bodies[-1])


async def test_the_older_form_of_a_call_is_read(server: CannedServer, connect: Connect) -> None:
    """`function_call`, which `tool_calls` replaced, is a call without an id."""
    completion = await asked(
        server, connect, answer({"function_call": {"name": "weather", "arguments": READ}}, "function_call")
    )
    assert [(c.id, c.name, c.arguments) for c in completion.message.tool_calls] == [("", "weather", READ)]


@pytest.mark.parametrize("ids", [["same"] * 3, ["", None, ""], ["call_0_1", "", "call_0_1"], ["call_" + "x" * 60] * 2, [0, 1]])
async def test_ids_come_back_unique_and_short(server: CannedServer, connect: Connect, ids: list[object]) -> None:
    """However a server numbers its calls, each goes back under an id of at most 40 characters that no other call has."""
    completion = await asked(server, connect, answer({"tool_calls": [call(call_id=i) for i in ids]}))
    first = presentable(completion.message, (), "r1")
    again = presentable(completion.message, (first,), "r2")
    results = [[ToolMessage(call_id=c.id, name=c.name, content="{}") for c in m.tool_calls] for m in (first, again)]
    request = ask("m", UserMessage(text="hi"), first, *results[0], again, *results[1])
    await asked(server, connect, answer({"content": "ok"}), request)
    sent = [c["id"] for m in server.sent["messages"] for c in m.get("tool_calls", ())]
    assert len(sent) == len(set(sent)) == 2 * len(ids)
    assert all(0 < len(one) <= 40 for one in sent)
    check(server.bodies[-1])


CONTENTS: list[tuple[object, str]] = [
    ([{"type": "text", "text": "It is "}, {"type": "text", "text": "sunny."}], "It is sunny."),
    ([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Sun."}], "Sun."),
    ([{"type": "holographic", "data": {}}, {"type": "output_text", "text": "Sun."}], "Sun."),
    ([{"text": "Sun."}], "Sun."),
    (["It is ", "sunny."], "It is sunny."),
    ({"type": "text", "text": "Sun."}, "Sun."),
    ([], ""),
    (None, ""),
]


@pytest.mark.parametrize(("content", "text"), CONTENTS)
async def test_content_may_be_a_list_of_parts(server: CannedServer, connect: Connect, content: object, text: str) -> None:
    """Texts are joined, and parts that nobody knows are skipped by their type."""
    completion = await asked(server, connect, answer({"content": content}))
    assert (completion.message.text, completion.stop) == (text, "end")


@pytest.mark.parametrize(
    ("message", "finish", "stop"),
    [
        ({"content": "The customer asks for three things: first, the invoice of"}, "length", "length"),
        ({"content": ""}, "length", "length"),
        ({"content": "Hello"}, "model_length", "length"),
        ({"content": "Hello"}, "MAX_TOKENS", "length"),
        ({"content": "Hello"}, {"type": "length", "length": 9}, "length"),
        ({"tool_calls": [call(arguments=NOTE_CUT)]}, "length", "length"),
        ({"tool_calls": [call(arguments='{"text":"Customer wan')]}, "length", "length"),
        ({"tool_calls": [call("add_acc", "")]}, "length", "length"),
        ({"content": None}, "content_filter", "content_filter"),
        ({"content": "The customer writes that"}, "content_filter", "content_filter"),
        ({"content": "", "tool_calls": [call()]}, "sensitive", "content_filter"),
        ({"content": "Hello"}, "model_context_window_exceeded", "context_exceeded"),
        ({"content": "Hello"}, "stop", "end"),
        ({"content": "Hello"}, "eos", "end"),
        ({"content": "Hello"}, None, "end"),
        ({"content": "Hello"}, "tool_calls", "end"),
        ({"tool_calls": [call()]}, "stop", "tool_calls"),
        ({"tool_calls": [call()]}, "COMPLETE", "tool_calls"),
        ({"tool_calls": [call()]}, "function_call", "tool_calls"),
    ],
)
async def test_why_the_model_stopped_is_known(
    server: CannedServer, connect: Connect, message: object, finish: object, stop: str
) -> None:
    """Each reason becomes one of ours; one that nobody knows leaves the content whole."""
    completion = await asked(server, connect, answer(message, finish))
    assert completion.stop == stop


@pytest.mark.parametrize("finish", ["stop", "tool_calls", None])
@pytest.mark.parametrize("message", [{"content": "The customer"}, {"tool_calls": [call(arguments=NOTE_CUT)]}])
async def test_what_used_all_its_tokens_was_cut_off(
    server: CannedServer, connect: Connect, message: object, finish: object
) -> None:
    """An answer as long as the limit is cut off, whatever the server says; one token less is whole."""
    usage = {"prompt_tokens": 100, "completion_tokens": 4096, "total_tokens": 4196}
    assert (await asked(server, connect, answer(message, finish, usage))).stop == "length"
    usage |= {"completion_tokens": 4095, "total_tokens": 4195}
    assert (await asked(server, connect, answer(message, finish, usage))).stop in ("end", "tool_calls")


@pytest.mark.parametrize(
    "message",
    [
        {"refusal": "I'm sorry, I can't help with that."},
        {"content": "", "refusal": "I'm sorry, I can't help with that."},
        {"content": [{"type": "refusal", "refusal": "I'm sorry, I can't help with that."}]},
    ],
)
@pytest.mark.parametrize("finish", ["stop", "content_filter", "refusal"])
async def test_a_refusal_is_no_answer(server: CannedServer, connect: Connect, message: object, finish: str) -> None:
    """The model's words of refusal are kept as text, and the answer isn't taken for one."""
    completion = await asked(server, connect, answer(message, finish))
    assert (completion.message.text, completion.stop) == ("I'm sorry, I can't help with that.", "refusal")


@pytest.mark.parametrize("refusal", ["", " ", None, False])
async def test_an_empty_refusal_refuses_nothing(server: CannedServer, connect: Connect, refusal: object) -> None:
    """Some servers give every field of a message, whether it says something or not."""
    completion = await asked(server, connect, answer({"content": "Sun.", "refusal": refusal}))
    assert (completion.message.text, completion.stop) == ("Sun.", "end")


ESTIMATED = -1
COUNTS: list[tuple[object, tuple[int, int]]] = [
    (USAGE, (100, 20)),
    ("absent", (ESTIMATED, ESTIMATED)),
    (None, (ESTIMATED, ESTIMATED)),
    ({}, (ESTIMATED, ESTIMATED)),
    ([], (ESTIMATED, ESTIMATED)),
    ({"prompt_tokens": 0, "completion_tokens": 0}, (ESTIMATED, ESTIMATED)),
    ({"prompt_tokens": 100, "completion_tokens": 0}, (100, ESTIMATED)),
    ({"prompt_tokens": 0, "completion_tokens": 20}, (ESTIMATED, 20)),
    ({"prompt_tokens": -5, "completion_tokens": -5}, (ESTIMATED, ESTIMATED)),
    ({"prompt_tokens": None, "completion_tokens": None}, (ESTIMATED, ESTIMATED)),
    ({"prompt_tokens": 100, "completion_tokens": 18446744073709551615}, (100, ESTIMATED)),
    ({"prompt_tokens": 18446744073709551615, "completion_tokens": 20}, (ESTIMATED, 20)),
    ({"prompt_tokens": 100, "completion_tokens": 900_000}, (100, ESTIMATED)),
    ({"prompt_tokens": "100", "completion_tokens": 20.0}, (100, 20)),
    ({"prompt_tokens": "many", "completion_tokens": True}, (ESTIMATED, ESTIMATED)),
    ({"input_tokens": 100, "output_tokens": 20}, (100, 20)),
    ({"total_tokens": 103}, (100, 3)),
    ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 170}, (100, 70)),  # reasoning only in the total
    ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 18446744073709551615}, (100, 20)),
]


@pytest.mark.parametrize(("usage", "tokens"), COUNTS)
async def test_counts_that_cannot_be_true_are_estimated(
    server: CannedServer, connect: Connect, usage: object, tokens: tuple[int, int]
) -> None:
    """A billed answer isn't lost for its accounting, and no answer is free: a quarter of the characters is charged."""
    completion = await asked(server, connect, answer({"content": "123456789"}, usage=usage))
    estimates = (-(-len(server.bodies[-1]) // 4), 3)
    wanted = tuple(e if t == ESTIMATED else t for t, e in zip(tokens, estimates, strict=True))
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == wanted
    assert completion.stop == "end"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 16}},
        {"cached_tokens": 64, "cache_creation_input_tokens": 16},
        {"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36, "prompt_tokens_details": {"cache_write_tokens": 16}},
    ],
)
async def test_cache_and_reasoning_are_counted(server: CannedServer, connect: Connect, usage: dict[str, object]) -> None:
    """Cached, cache-written and reasoning tokens are parts of the others, by whichever name a server has for them."""
    counts = {**USAGE, **usage, "completion_tokens_details": {"reasoning_tokens": 12}}
    completion = await asked(server, connect, answer({"content": "ok"}, usage=counts))
    assert completion.usage == TokenUsage(
        input_tokens=100, output_tokens=20, cached_input_tokens=64, cache_write_tokens=16, reasoning_tokens=12
    )


SIGNED: dict[str, object] = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
DETAILS = [{"type": "reasoning.encrypted", "data": "ZW5j", "id": "r1", "format": "x", "index": 0}]
BESIDE: list[tuple[dict[str, object], dict[str, object]]] = [
    ({}, SIGNED),
    ({}, {"provider_specific_fields": {"thought_signature": "c2ln"}}),
    ({"reasoning_content": "Read it first."}, {}),
    ({"reasoning": "Read it first.", "reasoning_details": DETAILS}, {}),
    ({"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}]}, {}),
    ({"reasoning_content": "Read it first.", "content": "I look."}, SIGNED),
]


@pytest.mark.parametrize(("message", "with_call"), BESIDE)
async def test_what_came_with_a_call_goes_back_with_it(
    server: CannedServer, connect: Connect, message: dict[str, object], with_call: dict[str, object]
) -> None:
    """Gemini's signatures and other servers' reasoning are sent back at their places, to the same model only."""
    given = {**message, "tool_calls": [{**call(call_id="a"), **with_call}, call(call_id="b")]}
    first = (await asked(server, connect, answer(given))).message
    assert first.state is not None
    assert first.state.is_of("openai", "m")
    stored = type(first).model_validate_json(first.model_dump_json())
    said = presentable(stored, (), "r1")
    results = [ToolMessage(call_id=c.id, name=c.name, content="{}") for c in said.tool_calls]
    bodies: list[bytes] = []
    for model in ("m", "other"):
        await asked(server, connect, answer({"content": "ok"}), ask(model, UserMessage(text="hi"), said, *results))
        bodies.append(server.bodies[-1])
    sent = json.loads(bodies[0])["messages"][2]
    assert {name: sent[name] for name in message} == message
    assert {name: sent["tool_calls"][0].get(name) for name in with_call} == with_call
    assert sent["tool_calls"][1] == call(call_id="b")
    check(bodies[1])
    assert json.loads(bodies[1])["messages"][2].keys() == {"role", "content", "tool_calls"}


async def test_reasoning_without_a_call_is_not_kept(server: CannedServer, connect: Connect) -> None:
    """DeepSeek's reasoner refuses it when it comes back, and nobody wants it."""
    completion = await asked(server, connect, answer({"content": "Sun.", "reasoning_content": "It is summer."}))
    assert completion.message.state is None


async def test_state_of_another_vendor_is_not_sent(server: CannedServer, connect: Connect) -> None:
    """What Anthropic or Google gave with a call goes to nobody else, even under the same model's name."""
    first = (await asked(server, connect, answer({"tool_calls": [{**call(), **SIGNED}]}))).message
    foreign = ProviderState(provider="google", model="m", items=first.state.items if first.state else ())
    said = first.model_copy(update={"state": foreign})
    request = ask("m", UserMessage(text="hi"), said, ToolMessage(call_id="call_a", name="weather", content="{}"))
    await asked(server, connect, answer({"content": "ok"}), request)
    assert b"c2ln" not in server.bodies[-1]


async def test_half_a_pair_is_read_as_it_is(server: CannedServer, connect: Connect) -> None:
    """Half an emoji in text, name, id, arguments or the model's name breaks no answer; U+FFFD is stored in its place."""
    raw = json.dumps(answer({"content": "Done @.", "tool_calls": [call("we@", '{"a":"@"}', "i@")]})).replace("@", "\\ud83d")
    completion = await asked(server, connect, raw.replace('"model": "m"', '"model": "m\\ud83d"').encode())
    said = presentable(completion.message, (), "r1")
    assert said.text == "Done \ufffd."
    (found,) = said.tool_calls
    assert (found.name, json.loads(found.arguments)) == ("we\ufffd", {"a": "\ufffd"})
    completion.model_copy(update={"message": said}).model_dump_json()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (answer(5), "`choices[0].message` is a number"),
        (answer(None), "`choices[0]` has no `message`"),
        (answer("hi"), "`choices[0].message` is a text"),
        (answer({"content": 5}), "`choices[0].message.content` is a number"),
        (answer({"content": ["a", 5]}), "`choices[0].message.content` has a number"),
        (answer({"tool_calls": 5}), "`choices[0].message.tool_calls` is a number"),
        ({"id": "c", "choices": {}}, "`choices` is an object"),
        ({"id": "c", "choices": [None]}, "`choices[0]` is null"),
        ({"id": "c", "choices": []}, "it has no `choices`"),
    ],
)
async def test_what_cannot_be_read_is_named(server: CannedServer, connect: Connect, body: object, problem: str) -> None:
    """The sentence says what is wrong with the answer, and where."""
    error = await failure(server, connect, body)
    assert (error.code, error.retryable) == ("bad_response", True)
    assert error.message == (
        f"The provider answered 200 with an answer that can't be read: {problem}; "
        "check that the base URL is an API's, not a page's."
    )


async def test_json_that_is_too_deep_is_a_bad_response(server: CannedServer, connect: Connect) -> None:
    """Nesting that Python can't follow is an answer that can't be read, not a crash."""
    assert (await failure(server, connect, DEEP.encode())).code == "bad_response"
    completion = await asked(server, connect, answer({"tool_calls": [call(arguments=DEEP)]}))
    assert completion.message.tool_calls[0].arguments == DEEP


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"\n  "])
async def test_bytes_before_the_answer_do_no_harm(server: CannedServer, connect: Connect, prefix: bytes) -> None:
    """A byte order mark, or the blank lines by which gateways keep a connection open, are no part of the JSON."""
    completion = await asked(server, connect, prefix + json.dumps(answer({"content": "ok"})).encode())
    assert completion.message.text == "ok"
