"""What a run does for each reason why a model stops: none but a whole answer ends it as completed."""

from pathlib import Path

import pytest

from policies.models import RunStatus
from tests.engine import Engine, call, final, turn
from tests.workflow.conftest import SetLimits
from workflows.agent_run import REMINDER
from workflows.messages import AssistantMessage, ScriptTurn, StopReason, UserMessage

LOOK = call("get_invoice", invoice_id="in_1002")
NOTE = call("add_account_note", customer_id="cus_101", text="Customer wants", visibility="internal")
SAID = "I can't help with that."


def stopped(stop: StopReason, text: str = SAID, *calls: object) -> ScriptTurn:
    return ScriptTurn.model_validate({"text": text, "tool_calls": calls, "stop": stop})


@pytest.mark.parametrize("stop", ["refusal", "content_filter"])
@pytest.mark.parametrize("text", [SAID, ""])
async def test_a_model_that_refuses_hands_over(skipping: Engine, stop: StopReason, text: str) -> None:
    """The run is escalated under the reason's own code, with the model's words where it gave some."""
    done = await skipping.run([turn(LOOK), stopped(stop, text), final()])
    assert (done.status, done.stopped_by) == ("escalated", stop)
    assert done.summary == text if text else done.summary.endswith(".")
    assert done.usage.model_calls == 2


async def test_an_answer_that_was_cut_off_is_asked_for_again_twice(skipping: Engine) -> None:
    """Each try has twice the room of the one before and is charged; then the run is stopped, and none of its calls was made."""
    done = await skipping.run([stopped("length", "The customer asks for three things: first,", NOTE), final()])
    assert (done.status, done.stopped_by, done.usage.model_calls) == ("stopped", "output_cut_off", 3)
    assert done.summary == "The model's answer was cut off 3 times by the limit of output tokens."
    assert (done.calls, skipping.effects()) == ((), [])


async def test_a_paused_turn_goes_on(skipping: Engine) -> None:
    """`pause` isn't an end: what was said stays in the conversation, and the model is asked again."""
    run = await skipping.start([stopped("pause", "Let me think."), final("resolved", "Done.")])
    done = await skipping.closed(run.id)
    assert (done.status, done.summary) == ("completed", "Done.")
    assert [m.text for m in await skipping.messages(run.id) if isinstance(m, AssistantMessage)] == ["Let me think.", ""]


async def test_a_conversation_that_is_too_long_is_shortened_and_then_stops(skipping: Engine) -> None:
    """First older results of tools are left out, then the last ones; when that didn't help, the run stops by its own code."""
    other = call("get_invoice", invoice_id="in_1001")
    done = await skipping.run([turn(LOOK), turn(other), stopped("context_exceeded")])
    assert (done.status, done.stopped_by, done.usage.model_calls) == ("stopped", "context_exceeded", 5)


async def test_text_alone_is_no_final_answer(skipping: Engine) -> None:
    """The model is told once to call `final_answer`; when it only talks again, the run is escalated with its words."""
    run = await skipping.start([turn(text="Done!"), turn(text="Really."), final()])
    done = await skipping.closed(run.id)
    assert (done.status, done.stopped_by, done.summary) == ("escalated", "no_final_answer", "Really.")
    said = [m.text for m in await skipping.messages(run.id) if isinstance(m, UserMessage)]
    assert said[1:] == [REMINDER]


async def test_a_model_that_was_reminded_may_go_on_working(skipping: Engine) -> None:
    """After the reminder a tool call counts as ever, and the model may be reminded once more after it."""
    done = await skipping.run([turn(text="Hm."), turn(LOOK), turn(text="Hm."), final("no_action", "Nothing to do.")])
    assert (done.status, done.summary, [c.status for c in done.calls]) == ("completed", "Nothing to do.", ["done"])


async def test_a_model_that_says_nothing_is_asked_once_more(skipping: Engine) -> None:
    """An empty answer is no final answer either."""
    done = await skipping.run([turn(), turn(LOOK), final("resolved", "Done.")])
    assert (done.status, done.summary) == ("completed", "Done.")


@pytest.mark.parametrize(("text", "status"), [("The invoice is paid.", "completed"), ("", "escalated")])
async def test_an_agent_may_declare_that_text_is_its_answer(
    library: Path, skipping: Engine, text: str, status: RunStatus
) -> None:
    """With `answer = "text"` in `agent.toml` a turn that only says something ends the run; an empty one doesn't."""
    file = library / "agents" / "billing-resolution" / "agent.toml"
    file.write_text(f'answer = "text"\n{file.read_text()}')
    done = await skipping.run([turn(LOOK), turn(text=text), turn(), final()])
    assert done.status == status
    assert (done.summary == text) == (status == "completed")


async def test_limits_bound_a_model_that_is_always_cut_off(set_limits: SetLimits, skipping: Engine) -> None:
    """What was cut off is charged, so a run may meet its budget before its third try."""
    set_limits(model_calls=2)
    done = await skipping.run([stopped("length"), final()])
    assert (done.status, done.stopped_by, done.usage.model_calls) == ("stopped", "model_calls", 2)
