"""Compatible servers that take a request only in another form: it is found out once, and said in the dialect."""

import json
from collections.abc import Callable

import pytest

from activities.providers.base import ModelRequest, ProviderError, ToolOffer
from activities.providers.chat_body import body_of
from tests.wire.server import CannedServer, Provider, ask
from workflows.messages import AssistantMessage, ToolMessage, ToolRequest, UserMessage

Connect = Callable[..., Provider]
OK = {
    "choices": [{"finish_reason": "stop", "message": {"content": "ok"}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1},
}
CALL = ToolRequest(id="call_a", name="weather", arguments='{"city": "Oslo"}')
SECOND_TURN = ask(
    "m",
    UserMessage(text="hi"),
    AssistantMessage(tool_calls=(CALL,)),
    ToolMessage(call_id="call_a", name="weather", content="{}"),
)
NO_ROOM = [
    "This model's maximum context length is 4096 tokens. However, you requested 5138 tokens (1042 in the messages, 4096 in the "
    "completion).",
    "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 4096 tokens and your "
    "request has 1042 input tokens (4096 > 4096 - 1042).",
]


async def test_a_server_that_wants_text_beside_tool_calls_gets_it(server: CannedServer, connect: Connect) -> None:
    """A 500 for `"content": null` is tried once with an empty text, and that is remembered."""
    server.answer(OK)
    server.begin((500, {"error": {"message": "Input should be a valid string"}}))
    provider = connect("openai", server.url)
    first = await provider.complete(SECOND_TURN)
    await provider.complete(SECOND_TURN)
    assert first.dialect == "chat max_tokens text"
    sent = [json.loads(body)["messages"][2]["content"] for body in server.bodies]
    assert sent == [None, "", ""]
    assert server.bodies[1] == body_of(SECOND_TURN, first.dialect)


async def test_a_server_that_is_down_is_asked_once_more_only(server: CannedServer, connect: Connect) -> None:
    """The other form is tried once; a request without such a message isn't tried again at all."""
    server.answer({"error": {"message": "oops"}}, 500)
    with pytest.raises(ProviderError):
        await connect("openai", server.url).complete(SECOND_TURN)
    assert len(server.bodies) == 2
    with pytest.raises(ProviderError):
        await connect("openai", server.url).complete(ask("m"))
    assert len(server.bodies) == 3


@pytest.mark.parametrize("words", NO_ROOM)
async def test_an_answer_takes_what_room_the_server_has(server: CannedServer, connect: Connect, words: str) -> None:
    """A context that has no room for the whole limit of output tokens isn't too small for the conversation."""
    server.answer(OK)
    server.begin((400, {"error": {"message": words}}))
    provider = connect("openai", server.url)
    found = await provider.complete(ask("m"))
    await provider.complete(ask("m"))
    assert found.dialect == "chat max_tokens most=3054"
    assert [json.loads(body)["max_tokens"] for body in server.bodies] == [4096, 3054, 4096]
    assert server.bodies[1] == body_of(ask("m"), found.dialect)


async def test_a_context_that_is_full_is_too_long(server: CannedServer, connect: Connect) -> None:
    """Room for a few words is none."""
    words = "This model's maximum context length is 4096 tokens. However, you requested 8100 tokens (4004 in the messages)."
    server.answer({"error": {"message": words}}, 400)
    with pytest.raises(ProviderError) as caught:
        await connect("openai", server.url).complete(ask("m"))
    assert caught.value.code == "context_exceeded"
    assert len(server.bodies) == 1


def test_long_limits_of_length_are_said_in_words() -> None:
    """Servers that make a grammar of a schema refuse thousands of repetitions; short ones stay."""
    schema: dict[str, object] = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "maxLength": 5000, "description": "The reply."},
            "tag": {"type": "string", "maxLength": 40},
        },
    }
    offer = ToolOffer(name="draft", description="d", parameters=schema)
    request = ModelRequest(model="m", system="", tools=(offer,), messages=(UserMessage(text="x"),))
    sent = json.loads(body_of(request, "chat max_tokens"))["tools"][0]["function"]["parameters"]["properties"]
    assert sent["text"] == {"type": "string", "description": "The reply. At most 5000 characters."}
    assert sent["tag"] == {"type": "string", "maxLength": 40}


@pytest.mark.parametrize("words", ["no_max_tokens", "max_tokens"])
async def test_a_gateway_may_name_the_field_and_say_no_more(server: CannedServer, connect: Connect, words: str) -> None:
    """The other name of the limit is tried then, too."""
    server.answer(OK)
    server.begin((400, {"error": {"type": "invalid_request_error", "message": words}}))
    assert (await connect("openai", server.url).complete(ask("m"))).dialect == "chat max_completion_tokens"
