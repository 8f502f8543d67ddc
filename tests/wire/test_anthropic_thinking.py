"""Thinking goes back as it came: to the same model, after the same words, and to nobody else."""

import json
from typing import Any

import pytest

from activities.providers.anthropic import body_of
from activities.providers.base import Completion, ModelRequest
from tests.wire.anthropic_api import DIRECT, MODEL, NOTE, answer, asked, checked, complete, next_turn, text, think, use
from tests.wire.server import WEATHER, CannedServer
from workflows.messages import AssistantMessage, ToolMessage, UserMessage

REDACTED = {"type": "redacted_thinking", "data": "EmwKAhgB"}
FIRST = use("add_account_note", {"customer_id": "cus_1", "text": "ü"}, "toolu_1")
SECOND = use("add_account_note", {"customer_id": "cus_2", "text": "b"}, "toolu_2")

ORDERS: list[list[dict[str, Any]]] = [
    [think(), FIRST],
    [REDACTED, FIRST],
    [think("a", "s1"), REDACTED, think("b", "s2"), FIRST],
    [think("a", "s1"), text("I look."), FIRST, think("b", "s2"), SECOND],
    [think("a", "s1"), text("I look."), think("b", "s2"), text("I go on."), FIRST],
    [text("First "), think("a", "s1"), FIRST, text("then\n"), SECOND],
    [think("", "signature-of-what-is-omitted"), FIRST],
    [think() | {"a_new_field": [1, {"deep": None}]}, FIRST],
]


async def two_turns(server: CannedServer, *content: object, stop: str = "tool_use") -> tuple[Completion, ModelRequest]:
    """The first answer, and the request that follows it."""
    server.answer(answer(*content, stop=stop))
    completion = await complete(server, asked())
    return completion, next_turn(asked(), completion.message)


def said(request: ModelRequest, dialect: str = DIRECT) -> Any:
    """The content of the model's first turn, as it is sent."""
    return json.loads(body_of(request, dialect))["messages"][1]["content"]


@pytest.mark.parametrize("content", ORDERS)
async def test_blocks_go_back_in_their_order(server: CannedServer, content: list[dict[str, Any]]) -> None:
    """Thinking blocks are sent back unchanged, in their places among text and calls."""
    completion, after = await two_turns(server, *content)
    assert said(after) == content
    assert completion.message.text == "".join(block["text"] for block in content if block["type"] == "text")
    if "a_new_field" not in content[0]:
        checked(body_of(after, DIRECT))


async def test_nothing_is_stored_twice(server: CannedServer) -> None:
    """The state holds the thinking; text and calls are there by length and number only."""
    completion, _ = await two_turns(server, think(), text("I look."), FIRST)
    state = completion.message.state
    assert state is not None
    assert (state.provider, state.model) == ("anthropic", MODEL)
    assert state.items[1:] == (think(), {"text": 7}, {"call": 0})


async def test_an_answer_without_thinking_has_no_state(server: CannedServer) -> None:
    """Text and calls say all there is."""
    completion, _ = await two_turns(server, text("I look."), FIRST)
    assert completion.message.state is None


async def test_a_run_of_many_turns_keeps_all_thinking(server: CannedServer) -> None:
    """Each turn's thinking goes back in each later request, and the SDK's types take the whole conversation."""
    request = asked()
    for index in range(4):
        server.answer(answer(think(f"t{index}", f"s{index}"), use("add_account_note", {}, f"toolu_{index}")))
        completion = await complete(server, request)
        request = next_turn(request, completion.message)
    sent = checked(body_of(request, DIRECT))["messages"]
    kept = [block["thinking"] for message in sent for block in message["content"] if block["type"] == "thinking"]
    assert kept == ["t0", "t1", "t2", "t3"]


CHANGES: dict[str, dict[str, Any]] = {
    "another model": {"model": "claude-sonnet-5-5"},
    "another prompt": {"system": "Be kind."},
    "a tool more": {"tools": (NOTE, WEATHER)},
    "a tool less": {"tools": ()},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_thinking_is_left_out_where_it_would_be_refused(server: CannedServer, change: dict[str, Any]) -> None:
    """A request that isn't the same up to the thinking gets text and calls alone, for the API refuses the whole of it."""
    _, after = await two_turns(server, think(), text("I look."), FIRST)
    changed = after.model_copy(update=change)
    assert said(changed) == [text("I look."), FIRST]
    checked(body_of(changed, DIRECT))


async def test_a_changed_message_before_it_drops_the_thinking_after_it_only(server: CannedServer) -> None:
    """When a result of a tool is left out to save room, what was thought before it stays and what came after goes."""
    completion, second = await two_turns(server, think("before", "s1"), FIRST)
    server.answer(answer(think("after", "s2"), SECOND))
    later = await complete(server, second)
    third = next_turn(second, later.message)
    cut = ToolMessage(call_id="toolu_1", name=NOTE.name, content='{"dropped":"12 characters"}')
    shown = (second.messages[0], completion.message, cut, *third.messages[3:])
    messages = checked(body_of(third.model_copy(update={"messages": shown}), DIRECT))["messages"]
    assert [block["type"] for block in messages[1]["content"]] == ["thinking", "tool_use"]
    assert [block["type"] for block in messages[3]["content"]] == ["tool_use"]


async def test_another_door_gets_no_thinking(server: CannedServer) -> None:
    """Thinking is bound to an account, so a cloud's isn't sent to Anthropic, nor the other way."""
    _, after = await two_turns(server, think(), FIRST)
    assert said(after, "bedrock+last+strict") == [FIRST]


async def test_more_room_and_another_effort_keep_the_thinking(server: CannedServer) -> None:
    """The limit of output tokens and the effort aren't part of what thinking is bound to."""
    _, after = await two_turns(server, think(), FIRST)
    assert said(after.model_copy(update={"max_output_tokens": 64_000, "effort": "high"})) == [think(), FIRST]


async def test_an_answer_that_was_changed_goes_without_its_thinking(server: CannedServer) -> None:
    """Where text or calls aren't those that came with it, the thinking is left out rather than put in a wrong place."""
    completion, _ = await two_turns(server, think(), text("I look."), FIRST)
    for changed in ({"text": "I look"}, {"text": ""}, {"tool_calls": ()}, {"tool_calls": completion.message.tool_calls * 2}):
        request = asked(*asked().messages, completion.message.model_copy(update=changed), UserMessage(text="Go on."))
        assert all(block["type"] != "thinking" for block in said(request)[:1])


@pytest.mark.parametrize("stop", ["max_tokens", "refusal", "model_context_window_exceeded"])
async def test_thinking_that_was_cut_off_is_not_kept(server: CannedServer, stop: str) -> None:
    """A block that may have been cut off has no signature that counts."""
    completion, _ = await two_turns(server, think(), text("I look"), stop=stop)
    assert completion.message == AssistantMessage(text="I look")


async def test_thinking_at_the_end_of_an_answer_is_left_out(server: CannedServer) -> None:
    """The API refuses a turn that ends with thinking; a turn of nothing else is left out with it."""
    completion, after = await two_turns(server, think("a", "s1"), text("Done."), think("b", "s2"), stop="end_turn")
    assert said(after) == [think("a", "s1"), text("Done.")]
    completion, _ = await two_turns(server, think(), stop="end_turn")
    assert completion.message == AssistantMessage()


async def test_a_paused_turn_goes_back_as_it_is(server: CannedServer) -> None:
    """Blocks of every type go back, the unknown ones too, and the answer that follows joins the same turn."""
    searched = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    paused = [think("a", "s1"), text("Let me look."), searched, think("b", "s2")]
    completion, after = await two_turns(server, *paused, stop="pause_turn")
    assert (completion.stop, said(after)) == ("pause", paused)
    server.answer(answer(think("c", "s3"), FIRST))
    rest = await complete(server, after)
    messages = json.loads(body_of(next_turn(after, rest.message), DIRECT))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == [*paused, think("c", "s3"), FIRST]


async def test_words_after_a_call_keep_no_state(server: CannedServer) -> None:
    """Without thinking the order of text and calls isn't kept: no server asks for it."""
    completion, after = await two_turns(server, FIRST, text("Now I wait."))
    assert completion.message.state is None
    assert said(after) == [text("Now I wait."), FIRST]


async def test_the_state_survives_history(server: CannedServer) -> None:
    """What history gives back leads to the same bytes."""
    completion, after = await two_turns(server, *ORDERS[3])
    stored = AssistantMessage.model_validate_json(completion.message.model_dump_json())
    assert body_of(next_turn(asked(), stored), DIRECT) == body_of(after, DIRECT)
