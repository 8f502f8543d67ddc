"""A model's answer as it enters a run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.answers import LARGEST_STATE, MOST_TOKENS, presentable, sane
from activities.providers.base import Completion, ModelRequest
from workflows.messages import AssistantMessage, Message, ProviderState, TokenUsage, ToolRequest, UserMessage


def said(*ids: str, text: str = "") -> AssistantMessage:
    return AssistantMessage(text=text, tool_calls=tuple(ToolRequest(id=i, name="t", arguments="{}") for i in ids))


def ids(message: AssistantMessage, before: list[Message] | None = None) -> list[str]:
    return [call.id for call in presentable(message, before or [], "r7").tool_calls]


@pytest.mark.parametrize(
    ("given_ids", "kept"),
    [
        (("call_1", "call_2"), ["call_1", "call_2"]),
        (("", ""), ["r7_0", "r7_1"]),
        (("a", "a"), ["a", "r7_1"]),
        (("r7_1", "", ""), ["r7_1", "r7_1x", "r7_2"]),
        (("x" * 40, "x" * 41), ["x" * 40, "r7_1"]),
        (("call|a.b", "é"), ["r7_0", "r7_1"]),
    ],
)
def test_ids_are_kept_where_every_vendor_takes_them(given_ids: tuple[str, ...], kept: list[str]) -> None:
    """One that is empty, too long, of other characters or there already becomes one of ours."""
    assert ids(said(*given_ids)) == kept


def test_an_id_of_an_earlier_turn_is_not_used_again() -> None:
    """A server that counts from 0 in each turn would otherwise name two calls alike."""
    assert ids(said("call_0"), [UserMessage(text="x"), said("call_0")]) == ["r7_0"]


@given(st.lists(st.text(max_size=3), max_size=6), st.lists(st.text(max_size=3), max_size=6))
def test_ids_are_unique_whatever_a_model_says(earlier: list[str], now: list[str]) -> None:
    """Over the conversation and within the turn."""
    first = presentable(said(*earlier), [], "r1")
    second = presentable(said(*now), [first], "r3")
    found = [c.id for c in (*first.tool_calls, *second.tool_calls)]
    assert len({*found}) == len(found)
    assert presentable(second, [first], "r3") == second


def test_half_of_a_surrogate_pair_becomes_a_character() -> None:
    """In text, names and arguments: what can't be stored would fail the run."""
    half = "\ud83d"
    message = AssistantMessage(text=f"Done {half}.", tool_calls=(ToolRequest(id=half, name=half, arguments=f'"{half}"'),))
    found = presentable(message, [], "r1")
    assert found.model_dump_json()
    assert (found.text, found.tool_calls[0].name, found.tool_calls[0].arguments) == ("Done \ufffd.", "\ufffd", '"\ufffd"')


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ('{"a": "\\ud83d"}', '{"a": "\ufffd"}'),
        ('{"a": "\\ud83d\\ude00"}', '{"a": "\\ud83d\\ude00"}'),
        ('{"a": "\\\\ud83d"}', '{"a": "\\\\ud83d"}'),
        ('{"a": "\\ud83d"', '{"a": "\\ud83d"'),
    ],
)
def test_half_of_a_pair_may_be_written_as_an_escape(written: str, kept: str) -> None:
    """Arguments are JSON text: an escape is found there, and a whole pair or an escaped backslash is left as it is."""
    message = AssistantMessage(tool_calls=(ToolRequest(id="c", name="t", arguments=written),))
    assert presentable(message, [], "r1").tool_calls[0].arguments == kept


@pytest.mark.parametrize("item", ["x" * LARGEST_STATE, "\ud83d", "é" * (LARGEST_STATE // 2)])
def test_what_history_cannot_hold_of_a_vendors_state_is_dropped(item: str) -> None:
    """It is worth a better answer, and not a run."""
    state = ProviderState(provider="openai", model="m", items=({"text": item},))
    assert presentable(AssistantMessage(text="x", state=state), [], "r1").state is None


def test_a_vendors_state_goes_back_as_it_came() -> None:
    """Nothing in it is changed."""
    state = ProviderState(provider="openai", model="m", items=({"id": "rs_1", "text": "\\ud83d é"},))
    assert presentable(AssistantMessage(state=state), [], "r1").state == state


def test_no_number_of_a_vendors_is_larger_than_a_call_can_be() -> None:
    """2**64 tokens would stop the run, and then couldn't be written down."""
    request = ModelRequest(model="m", system="", tools=(), messages=(), max_output_tokens=100)
    usage = TokenUsage(input_tokens=7, output_tokens=2**64)
    found = sane(Completion(message=AssistantMessage(), usage=usage, model="m", request_digest="d", stop="end"), request).usage
    assert (found.input_tokens, found.output_tokens) == (7, 100)
    fine = Completion(
        message=AssistantMessage(), usage=TokenUsage(input_tokens=MOST_TOKENS), model="m", request_digest="", stop="end"
    )
    assert sane(fine, request) is fine


def test_a_message_without_state_is_written_as_before() -> None:
    """Digests of transcripts don't change for a field that isn't used."""
    assert set(json.loads(AssistantMessage(text="x").model_dump_json())) == {"role", "text", "tool_calls"}
