"""What requests have in common: vendors cache a prompt only as far as its bytes are those of an earlier one."""

from collections.abc import Sequence

import pytest

from activities.model import request_of
from activities.providers import openai_forms
from activities.providers.base import ModelRequest, ToolOffer
from policies.models import Effect
from policies.routing import ModelChoice, Price
from tests.builders import capsule
from tools.builtin import CATALOG
from workflows.messages import AssistantMessage, CallModel, Message, ProviderState, ToolMessage, ToolRequest, UserMessage

DIALECTS = ("responses", "responses no-marks no-strict", "chat max_tokens", "chat max_completion_tokens")
TOOLS: list[tuple[Effect, ToolOffer]] = [
    (spec.effect, ToolOffer(name=spec.name, description=spec.description, parameters=spec.schema))
    for spec in CATALOG.specs.values()
]
CHOICE = ModelChoice(
    provider="openai",
    model="gpt-6-luna",
    price=Price(input_per_mtok=1, output_per_mtok=1),
    max_output_tokens=16_000,
    effort="medium",
)


def request(messages: Sequence[Message], run: str = "run-1", step: int = 0) -> ModelRequest:
    call = CallModel(cursor=len(messages), transcript="sha256:x", capsule="sha256:y", tier=0, step=step)
    pinned = capsule(run_id=run, workflow_id=f"wf-{run}", prompt="Be kind.", model_protocol=1)
    return request_of(call, pinned, CHOICE, TOOLS, messages)


def said(index: int) -> AssistantMessage:
    reasoning: dict[str, object] = {
        "type": "reasoning",
        "id": f"rs_{index}",
        "encrypted_content": "gAAA=",
        "summary": [{"type": "summary_text", "text": "Hm."}],
    }
    items = ({"reasoning": reasoning}, {"call": f"fc_{index}"})
    state = ProviderState.model_validate({"provider": "openai", "model": "gpt-6-luna", "items": items})
    return AssistantMessage(tool_calls=(ToolRequest(id=f"c{index}", name="get_invoice", arguments="{}"),), state=state)


def common(one: bytes, other: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_turn_begins_with_the_bytes_of_the_turn_before(dialect: str) -> None:
    """Over the turns of a run a request is the one before, with messages behind it."""
    transcript: list[Message] = [UserMessage(text="Refund invoice in_1.")]
    for step in range(3):
        before = openai_forms.body_of(request(transcript, step=step), dialect)
        transcript += [said(step), ToolMessage(call_id=f"c{step}", name="get_invoice", content='{"total":5}')]
        after = openai_forms.body_of(request(transcript, step=step + 1), dialect)
        assert after.startswith(before.removesuffix(b"]}"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_runs_of_an_agent_share_all_before_their_first_message(dialect: str) -> None:
    """Prompt and tools, which are most of a request, are the same bytes in each run of an agent."""
    one = openai_forms.body_of(request([UserMessage(text="Refund invoice in_1.")], run="run-1"), dialect)
    other = openai_forms.body_of(request([UserMessage(text="Who is cus_2?")], run="run-2"), dialect)
    assert common(one, other) == one.index(b"Refund invoice in_1.")
    assert b"Be kind." in one[: common(one, other)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_same_request_is_the_same_body(dialect: str) -> None:
    """A body depends on nothing but its request and its dialect: `remit verify` builds it again from the history."""
    transcript = (UserMessage(text="hi"), said(0), ToolMessage(call_id="c0", name="get_invoice", content="{}"))
    again = tuple(type(message).model_validate_json(message.model_dump_json()) for message in transcript)
    assert openai_forms.body_of(request(transcript), dialect) == openai_forms.body_of(request(again), dialect)
