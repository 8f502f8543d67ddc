"""What is particular to Chat Completions."""

from collections.abc import Callable, Mapping

import pytest

from activities.providers.base import ModelRequest
from activities.providers.openai import limit_field
from tests.wire.server import WEATHER, CannedServer, Provider, ask
from workflows.messages import AssistantMessage, TokenUsage, ToolMessage, ToolRequest, UserMessage

Connect = Callable[..., Provider]


def answer(message: dict[str, object], usage: Mapping[str, object] | None = None) -> dict[str, object]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None, **message}}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


async def test_the_body_has_one_wire_message_per_message(server: CannedServer, connect: Connect) -> None:
    """System prompt, tools and the whole transcript are sent in the form that compatible servers know."""
    server.answer(answer({"content": "ok"}))
    call = ToolRequest(id="call_a", name="weather", arguments='{"city": "Oslo"}')
    transcript = (
        UserMessage(text="hi"),
        AssistantMessage(tool_calls=(call,)),
        ToolMessage(call_id="call_a", name="weather", content='{"sky":"sun"}'),
        AssistantMessage(text="Sun."),
        UserMessage(text="thanks"),
    )
    await connect("openai", server.url).complete(ask("m", *transcript))
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert server.sent == {
        "model": "m",
        "max_tokens": 4096,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "The weather of a city.",
                    "parameters": WEATHER.parameters,
                },
            }
        ],
        "tool_choice": "auto",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "call_a", "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": "call_a", "content": '{"sky":"sun"}'},
            {"role": "assistant", "content": "Sun."},
            {"role": "user", "content": "thanks"},
        ],
    }


@pytest.mark.parametrize(
    ("base_url", "field"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("https://notapi.openai.com/v1", "max_tokens"),
        ("http://127.0.0.1:8000/v1", "max_tokens"),
    ],
)
def test_only_openai_itself_gets_the_new_limit_field(base_url: str, field: str) -> None:
    """OpenAI's hosts get `max_completion_tokens`, compatible servers the `max_tokens` that they know."""
    assert limit_field(base_url) == field


async def test_empty_parts_are_left_out(server: CannedServer, connect: Connect) -> None:
    """A request without tools or system prompt sends neither, for servers refuse an empty list."""
    server.answer(answer({"content": "ok"}))
    request = ModelRequest(model="m", system="", tools=(), messages=(UserMessage(text="hi"),))
    await connect("openai", server.url).complete(request)
    assert server.sent == {"model": "m", "max_tokens": 4096, "messages": [{"role": "user", "content": "hi"}]}


async def test_cached_tokens_are_counted(server: CannedServer, connect: Connect) -> None:
    """Cached input tokens are part of the input tokens, and reported beside them."""
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "prompt_tokens_details": {"cached_tokens": 64}}
    server.answer(answer({"content": "ok"}, usage))
    completion = await connect("openai", server.url).complete(ask("m"))
    assert completion.usage == TokenUsage(input_tokens=100, output_tokens=5, cached_input_tokens=64)


async def test_missing_usage_is_estimated(server: CannedServer, connect: Connect) -> None:
    """A server that reports no usage isn't free: a quarter of the characters is charged."""
    server.answer(answer({"content": "12345678"}))
    completion = await connect("openai", server.url).complete(ask("m"))
    assert completion.usage == TokenUsage(input_tokens=-(-len(server.bodies[0]) // 4), output_tokens=2)
