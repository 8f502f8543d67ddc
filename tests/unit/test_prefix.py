"""What requests have in common: vendors cache a prompt only as far as its bytes are those of an earlier one."""

from collections.abc import Callable

import pytest

from activities.model import request_of
from activities.providers import chat_body, responses_body
from activities.providers.base import ModelRequest, ToolOffer
from policies.models import Effect
from policies.routing import ModelChoice, Price
from tests.builders import capsule
from tools.builtin import CATALOG
from workflows.messages import AssistantMessage, CallModel, Message, ProviderState, ToolMessage, ToolRequest, UserMessage

BODIES: list[Callable[[ModelRequest], bytes]] = [
    *(lambda request, d=dialect: responses_body.body_of(request, d) for dialect in responses_body.DIALECTS),
    *(lambda request, d=dialect: chat_body.body_of(request, d) for dialect in chat_body.DIALECTS),
]
TOOLS: list[tuple[Effect, ToolOffer]] = [
    (spec.effect, ToolOffer(name=spec.name, description=spec.description, parameters=spec.schema))
    for spec in CATALOG.specs.values()
]
CHOICE = ModelChoice(provider="openai", model="gpt-6-luna", price=Price(input_per_mtok=1, output_per_mtok=1))


def request(*messages: Message, run: str = "run-1", step: int = 0, room: int = 0) -> ModelRequest:
    call = CallModel(cursor=len(messages), transcript="sha256:x", capsule="sha256:y", tier=0, step=step, room=room)
    pinned = capsule(run_id=run, workflow_id=f"wf-{run}", prompt="Be kind.", model_protocol=1)
    return request_of(call, pinned, CHOICE, TOOLS, messages)


def said(index: int) -> AssistantMessage:
    reasoning = {"type": "reasoning", "id": f"rs_{index}", "summary": [], "encrypted_content": "gAAA="}
    state = ProviderState.model_validate(
        {"provider": "openai", "model": "gpt-6-luna", "items": [reasoning, {"call": 0, "id": f"fc_{index}"}]}
    )
    return AssistantMessage(tool_calls=(ToolRequest(id=f"c{index}", name="get_invoice", arguments="{}"),), state=state)


def common(one: bytes, other: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@pytest.mark.parametrize("body_of", BODIES)
def test_each_turn_begins_with_the_bytes_of_the_turn_before(body_of: Callable[[ModelRequest], bytes]) -> None:
    """Over the turns of a run a request is the one before with messages behind it, also after an answer was cut off."""
    transcript: list[Message] = [UserMessage(text="Refund invoice in_1.")]
    for step in range(3):
        before = body_of(request(*transcript, step=step))
        last = before.rindex(b"}]")  # where the messages end
        transcript += [said(step), ToolMessage(call_id=f"c{step}", name="get_invoice", content='{"total":5}')]
        after = body_of(request(*transcript, step=step + 1))
        assert common(before, after) >= last


@pytest.mark.parametrize("body_of", BODIES)
def test_runs_of_an_agent_share_all_before_their_first_message(body_of: Callable[[ModelRequest], bytes]) -> None:
    """Prompt and tools, which are most of a request, are the same bytes in each run of an agent."""
    one = body_of(request(UserMessage(text="Refund invoice in_1."), run="run-1"))
    other = body_of(request(UserMessage(text="Who is cus_2?"), run="run-2"))
    assert common(one, other) >= one.index(b"Refund invoice in_1.")
    assert b"Be kind." in one[: common(one, other)]


def test_a_larger_limit_comes_after_what_is_shared() -> None:
    """An answer that was cut off is asked for with more room, and still begins like the request before."""
    message = UserMessage(text="Refund invoice in_1.")
    one, other = (responses_body.body_of(request(message, room=room)) for room in (0, 1))
    assert one != other
    assert common(one, other) > one.index(b"Refund invoice in_1.")


@pytest.mark.parametrize("body_of", BODIES)
def test_the_same_request_is_the_same_body(body_of: Callable[[ModelRequest], bytes]) -> None:
    """A body depends on nothing but its request: `remit verify` builds it again."""
    transcript = (UserMessage(text="hi"), said(0), ToolMessage(call_id="c0", name="get_invoice", content="{}"))
    again = tuple(type(message).model_validate_json(message.model_dump_json()) for message in transcript)
    assert body_of(request(*transcript)) == body_of(request(*again))
