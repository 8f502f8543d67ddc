"""Turns with OpenAI's reasoning models, and requests that a server takes in another form only."""

import json
from typing import Any

import pytest

from activities.providers import openai_forms
from activities.providers.base import ProviderError
from activities.providers.openai_doors import direct
from tests.wire.responses_forms import answer, at_openai, call, check, message, reasoning
from tests.wire.server import KEY, CannedServer, ask
from workflows.messages import Message, ToolMessage, UserMessage

RUN = ask("gpt-6-luna").model_copy(update={"cache_key": "k" * 32})
ENCRYPTED = "Encrypted content is not supported with this model."


def refusal(text: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    return {"error": {"message": text, "type": "invalid_request_error", "param": param, "code": code}}


async def test_two_turns_carry_the_reasoning_along(server: CannedServer) -> None:
    """What OpenAI gave with two calls goes back in front of them, and the third turn has the reasoning of both."""
    first = [reasoning("rs_1"), message("I look.", phase="commentary"), call(), call(call_id="call_b")]
    second = [reasoning("rs_2"), call(call_id="call_c")]
    server.begin(answer(*first), answer(*second), answer(message("Sun.")))
    provider = at_openai(server.url)
    transcript: list[Message] = [UserMessage(text="Where is sun?")]
    for _ in range(2):
        said = (await provider.complete(RUN.model_copy(update={"messages": tuple(transcript)}))).message
        results = [ToolMessage(call_id=c.id, name=c.name, content="{}") for c in said.tool_calls]
        transcript += [said, *results]
    last = await provider.complete(RUN.model_copy(update={"messages": tuple(transcript)}))
    await provider.aclose()
    assert (last.stop, last.message.text) == ("end", "Sun.")
    for body in server.bodies:
        check(body)
    ids = [item.get("id") or item.get("call_id") or item["role"] for item in server.sent["input"]]
    assert ids == [
        "developer",
        "user",
        "rs_1",
        "msg_1",
        "fc_call_a",
        "fc_call_b",
        "call_a",
        "call_b",
        "rs_2",
        "fc_call_c",
        "call_c",
    ]
    assert server.bodies[2].startswith(server.bodies[1].removesuffix(b"]}"))


@pytest.mark.parametrize(
    ("status", "refused", "dialect"),
    [
        (400, refusal(ENCRYPTED, "include"), "responses no-include"),
        (400, {"detail": ENCRYPTED}, "responses no-include"),
        (400, refusal("Unknown parameter: 'prompt_cache_key'.", "prompt_cache_key", "unknown_parameter"), "responses no-key"),
        (422, {"detail": [{"msg": "extra fields not permitted: prompt_cache_key"}]}, "responses no-key"),
        (400, refusal("Unknown parameter.", "input[0].content[0].prompt_cache_breakpoint"), "responses no-marks"),
        (
            400,
            refusal("Invalid schema for function 'weather'", "tools[0].parameters", "invalid_function_parameters"),
            "responses no-strict",
        ),
        (400, refusal("The content could not be verified.", None, "invalid_encrypted_content"), "responses no-reasoning"),
        (
            404,
            refusal("Item with id 'rs_1' not found. Items are not persisted when `store` is set to false."),
            "responses no-reasoning",
        ),
    ],
)
async def test_what_a_server_refuses_is_left_out(
    server: CannedServer, status: int, refused: dict[str, Any], dialect: str
) -> None:
    """A feature that isn't taken is left out at once, and the answer says in which form it was asked for."""
    server.begin((status, refused))
    server.answer(answer(message("Sun.")))
    provider = at_openai(server.url)
    completion = await provider.complete(RUN)
    await provider.aclose()
    assert completion.dialect == dialect
    assert server.bodies == [openai_forms.body_of(RUN, "responses"), openai_forms.body_of(RUN, dialect)]


async def test_what_was_refused_is_remembered_for_the_model(server: CannedServer) -> None:
    """The next call of the same model begins without what was refused, one of another model with it."""
    server.begin((400, refusal(ENCRYPTED, "include")))
    server.answer(answer(message("Sun.")))
    provider = at_openai(server.url)
    other = RUN.model_copy(update={"model": "gpt-6.1-sol"})
    dialects = [(await provider.complete(request)).dialect for request in (RUN, RUN, other)]
    await provider.aclose()
    assert dialects == ["responses no-include", "responses no-include", "responses"]
    assert len(server.bodies) == 4


async def test_reasoning_that_cant_be_read_is_left_out_of_that_call_only(server: CannedServer) -> None:
    """Reasoning that another account encrypted says nothing of what the next conversation may carry."""
    server.begin((400, refusal("Could not be verified.", None, "invalid_encrypted_content")))
    server.answer(answer(message("Sun.")))
    provider = at_openai(server.url)
    dialects = [(await provider.complete(RUN)).dialect for _ in range(2)]
    await provider.aclose()
    assert dialects == ["responses no-reasoning", "responses"]


async def test_each_thing_is_left_out_once(server: CannedServer) -> None:
    """A server that refuses everything is asked in as many forms as there are, and the first refusal is what counts."""
    features = ("include", "prompt_cache_key")
    server.begin(*((400, refusal("Unknown parameter.", name, "unknown_parameter")) for name in features))
    server.answer(refusal("Unsupported value: 'none'.", "reasoning.effort", "unsupported_value"), 400)
    provider = at_openai(server.url)
    with pytest.raises(ProviderError) as caught:
        await provider.complete(RUN)
    await provider.aclose()
    assert len(server.bodies) == 3
    assert "`reasoning.effort`" in caught.value.message


@pytest.mark.parametrize(
    ("base_url", "api", "dialect"),
    [
        (None, None, "responses"),
        ("https://api.openai.com/v1", None, "responses"),
        ("https://eu.api.openai.com/v1", None, "responses"),
        ("https://notapi.openai.com/v1", None, "chat max_tokens"),
        ("http://127.0.0.1:8000/v1", None, "chat max_tokens"),
        ("http://127.0.0.1:8000/v1", "responses", "responses no-key no-marks no-strict"),
        (None, "chat", "chat max_completion_tokens"),
        ("https://us.api.openai.com/v1", "chat", "chat max_completion_tokens"),
    ],
)
async def test_the_host_decides_on_the_api(base_url: str | None, api: Any, dialect: str) -> None:
    """OpenAI's own hosts get Responses with all it has, others Chat Completions, unless the settings say otherwise."""
    door = direct(KEY, base_url, api)
    assert door.dialect == dialect
    await door.aclose()


def test_old_bodies_can_still_be_built() -> None:
    """A body of a run from before dialects is the one that was sent then."""
    body = json.loads(openai_forms.body_of(ask("m"), "max_tokens"))
    assert body.keys() == {"model", "max_tokens", "tools", "messages"}
