"""What a model is shown of a compacted transcript."""

import json

import pytest

from policies.bundle import ContextRules
from tests.unit.test_state import state
from workflows.messages import AssistantMessage, Message, ToolMessage, ToolRequest, UserMessage, Window
from workflows.window import shown, summary_note


def turns(count: int) -> list[Message]:
    """A task and so many turns, of an answer with one call and its result each."""
    found: list[Message] = [UserMessage(text="task")]
    for n in range(count):
        found.append(AssistantMessage(tool_calls=(ToolRequest(id=f"c{n}", name="t", arguments="{}"),)))
        found.append(ToolMessage(call_id=f"c{n}", name="t", content=f"result {n}"))
    return found


def test_without_a_window_everything_is_shown() -> None:
    """All messages up to the cursor, and none after it."""
    said = turns(3)
    assert shown(None, 5, said.__getitem__) == said[:5]


def test_dropped_results_leave_their_calls() -> None:
    """Every call keeps its answer, or vendors would refuse the conversation; only its content is gone."""
    said = turns(4)
    got = shown(Window(until=5), 9, said.__getitem__)
    assert (got[5:], [m.role for m in got]) == (said[5:], [m.role for m in said])
    dropped = [m for m in got[:5] if isinstance(m, ToolMessage)]
    assert [(m.call_id, [*json.loads(m.content)]) for m in dropped] == [("c0", ["dropped"]), ("c1", ["dropped"])]


def test_a_summary_stands_for_what_came_before() -> None:
    """The task, the summary, then the turns that stay, wherever the summary itself lies in the transcript."""
    said = [*turns(4), summary_note("all of it"), AssistantMessage(text="on")]
    got = shown(Window(until=5, note=9), 11, said.__getitem__)
    assert got == [said[0], said[9], *said[5:9], said[10]]


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_turns_are_compacted_as_are_kept(keep: int) -> None:
    """Not before twice as many have passed, or a conversation that stays too long would be compacted at every step."""
    rules, run, when = ContextRules(tokens=100, keep_turns=keep), state(), list[int]()
    run.append(UserMessage(text="task"))
    for n in range(6 * keep):
        if (until := run.compactable(rules)) is not None:
            when.append(n)
            assert run.length - until == 2 * keep
            run.compacted(Window(until=until))
        run.began(rules, input_tokens=101)
        run.append(AssistantMessage())
        run.append(ToolMessage(call_id="c", name="t", content="r"))
    assert when == [2 * keep, 3 * keep, 4 * keep, 5 * keep]


def test_a_conversation_that_fits_is_never_compacted() -> None:
    """At the limit, and without one."""
    for rules in (ContextRules(tokens=100, keep_turns=1), ContextRules(keep_turns=1)):
        run = state()
        for _ in range(5):
            run.began(rules, input_tokens=100)
            assert run.compactable(rules) is None
