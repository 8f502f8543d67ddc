"""What is particular to Messages."""

from collections.abc import Callable, Mapping

from tests.wire.server import WEATHER, CannedServer, Provider, ask
from workflows.messages import AssistantMessage, TokenUsage, ToolMessage, ToolRequest, UserMessage

Connect = Callable[..., Provider]


def answer(usage: Mapping[str, object] | None = None) -> dict[str, object]:
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "ok"}],
        "stop_reason": "end_turn",
        "usage": usage or {"input_tokens": 1, "output_tokens": 1},
    }


async def test_the_results_of_a_turn_share_one_user_message(server: CannedServer, connect: Connect) -> None:
    """System prompt, tools and transcript are sent with alternating roles, and arguments as the model wrote them."""
    server.answer(answer())
    calls = (
        ToolRequest(id="call_a", name="weather", arguments='{"city": "Oslo", "share": 0.10}'),
        ToolRequest(id="call_b", name="weather", arguments='{"city": "Bergen"}'),
    )
    transcript = (
        UserMessage(text="hi"),
        AssistantMessage(text="Looking.", tool_calls=calls),
        ToolMessage(call_id="call_a", name="weather", content='{"sky":"sun"}'),
        ToolMessage(call_id="call_b", name="weather", content='{"sky":"rain"}'),
        UserMessage(text="And?"),
    )
    completion = await connect("anthropic", server.url).complete(ask("m", *transcript))
    assert completion.message == AssistantMessage(text="ok")
    assert b'"share": 0.10}' in server.bodies[0]
    assert server.sent == {
        "model": "m",
        "max_tokens": 4096,
        "system": "Be brief.",
        "tools": [{"name": "weather", "description": "The weather of a city.", "input_schema": WEATHER.parameters}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Oslo", "share": 0.1}},
                    {"type": "tool_use", "id": "call_b", "name": "weather", "input": {"city": "Bergen"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_a", "content": '{"sky":"sun"}'},
                    {"type": "tool_result", "tool_use_id": "call_b", "content": '{"sky":"rain"}'},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
    }


async def test_an_empty_answer_of_the_model_is_left_out(server: CannedServer, connect: Connect) -> None:
    """A turn in which the model said nothing isn't sent back, for the API refuses a message without content."""
    server.answer(answer())
    transcript = (UserMessage(text="hi"), AssistantMessage(text=" \n"), UserMessage(text="Please answer."))
    await connect("anthropic", server.url).complete(ask("m", *transcript))
    said = [{"type": "text", "text": "hi"}, {"type": "text", "text": "Please answer."}]
    assert server.sent["messages"] == [{"role": "user", "content": said}]


async def test_ids_of_another_provider_are_made_acceptable(server: CannedServer, connect: Connect) -> None:
    """A call id that the API would refuse is replaced alike in the call and in its result."""
    server.answer(answer())
    call = ToolRequest(id="functions.weather:0", name="weather", arguments="{}")
    result = ToolMessage(call_id=call.id, name="weather", content="{}")
    await connect("anthropic", server.url).complete(
        ask("m", UserMessage(text="hi"), AssistantMessage(tool_calls=(call,)), result)
    )
    _, said, answered = server.sent["messages"]
    assert said["content"][0]["id"] == answered["content"][0]["tool_use_id"]
    assert said["content"][0]["id"].startswith("id_")


async def test_cache_tokens_are_input_tokens(server: CannedServer, connect: Connect) -> None:
    """Tokens read from and written to the cache count as input, and those read are reported beside it."""
    usage = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 64, "cache_creation_input_tokens": 3}
    server.answer(answer(usage))
    completion = await connect("anthropic", server.url).complete(ask("m"))
    assert completion.usage == TokenUsage(input_tokens=77, output_tokens=5, cached_input_tokens=64)


async def test_a_call_cut_off_by_the_token_limit_does_not_parse(aimock: str, connect: Connect) -> None:
    """A tool call that ran into `max_output_tokens` stays malformed, so that no half of it is carried out."""
    completion = await connect("anthropic", aimock).complete(ask("cut-off"))
    assert completion.message.tool_calls == (ToolRequest(id="call_a", name="note", arguments='{"text": "Please do n"'),)
