"""The provider that answers from a script."""

import pytest

from activities.providers.base import ModelRequest, ProviderError
from activities.providers.scripted import ScriptedProvider
from workflows.messages import (
    AssistantMessage,
    Message,
    ScriptCall,
    ScriptTurn,
    TokenUsage,
    ToolRequest,
    UserMessage,
)

HELLO = UserMessage(text="hello")
LOOK_UP = ScriptCall(name="look_up", arguments={"b": 2, "a": [1, None]})
SCRIPT = (
    ScriptTurn(text="I look it up.", tool_calls=(LOOK_UP, LOOK_UP)),
    ScriptTurn(text="Done.", usage=TokenUsage(input_tokens=40, output_tokens=2)),
)


def ask(*messages: Message, turn: int | None = 0, script: tuple[ScriptTurn, ...] | None = SCRIPT) -> ModelRequest:
    return ModelRequest(model="scripted", system="", tools=(), messages=messages, turn=turn, script=script)


async def test_a_turn_names_its_calls_by_their_place() -> None:
    """Call ids come from turn and index, and arguments are JSON with sorted keys."""
    completion = await ScriptedProvider().complete(ask(HELLO))
    arguments = '{"a": [1, null], "b": 2}'
    assert completion.message == AssistantMessage(
        text="I look it up.",
        tool_calls=(
            ToolRequest(id="call_0_0", name="look_up", arguments=arguments),
            ToolRequest(id="call_0_1", name="look_up", arguments=arguments),
        ),
    )


async def test_a_retried_call_gets_the_same_answer() -> None:
    """The same request has the same completion."""
    provider = ScriptedProvider()
    assert await provider.complete(ask(HELLO)) == await provider.complete(ask(HELLO))


async def test_the_number_of_the_turn_picks_the_answer() -> None:
    """However little of the transcript is shown: a compacted conversation doesn't start the script again."""
    assert (await ScriptedProvider().complete(ask(HELLO, turn=1))).message.text == "Done."


async def test_a_summary_is_no_turn() -> None:
    """Asked to sum up, it says a fixed sentence and takes nothing from the script."""
    completion = await ScriptedProvider().complete(ask(HELLO, turn=None, script=None))
    assert completion.message == AssistantMessage(text="Scripted summary of the earlier steps.")
    assert completion.usage.simulated


async def test_usage_is_always_simulated() -> None:
    """A turn's own usage is kept but marked, and a turn without one is given an estimate."""
    provider = ScriptedProvider()
    declared = await provider.complete(ask(HELLO, turn=1))
    assert declared.usage == TokenUsage(input_tokens=40, output_tokens=2, simulated=True)
    short, long = [await provider.complete(ask(UserMessage(text=text))) for text in ("hi", "hi" * 200)]
    assert short.usage.simulated
    assert 0 < short.usage.input_tokens < long.usage.input_tokens
    assert short.usage.output_tokens == long.usage.output_tokens == 19


async def test_the_digest_follows_the_request() -> None:
    """Equal transcripts have equal digests whatever the script, and others have others."""
    provider = ScriptedProvider()
    first = await provider.complete(ask(HELLO))
    same = await provider.complete(ask(HELLO, script=(ScriptTurn(text="else"),)))
    other = await provider.complete(ask(UserMessage(text="bye")))
    assert first.request_digest == same.request_digest != other.request_digest
    assert first.request_digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            None,
            "The run has no script for the `scripted` provider; start it with `script`, or route it to a real model.",
        ),
        (SCRIPT, "The script ended after 2 turns; let its last turn call `final_answer`, or add turn 3."),
        ((), "The script ended after 0 turns; let its last turn call `final_answer`, or add turn 1."),
    ],
)
async def test_a_missing_turn_says_what_to_do(script: tuple[ScriptTurn, ...] | None, message: str) -> None:
    """Without a turn to give, the call fails for good, in one sentence."""
    with pytest.raises(ProviderError) as caught:
        await ScriptedProvider().complete(ask(HELLO, turn=len(script or ()), script=script))
    assert (caught.value.code, caught.value.retryable, caught.value.message) == ("script_exhausted", False, message)
