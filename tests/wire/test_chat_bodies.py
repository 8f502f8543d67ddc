"""The bodies of Chat Completions: what is sent, in which form, and what stays the same from turn to turn."""

import json
import subprocess
import sys

import pytest

from activities.providers.base import ModelRequest
from activities.providers.chat_body import DIALECTS, GO_ON, body_of, dialect_of
from policies.canonical import sha256
from policies.routing import Effort
from remit.proof.prompts import is_digest_of
from tests.wire.chat_forms import check
from tests.wire.server import ask
from workflows.messages import AssistantMessage, Message, ModelTurn, ToolMessage, ToolRequest, UserMessage

CALL = AssistantMessage(tool_calls=(ToolRequest(id="a", name="weather", arguments='{"city":"Oslo"}'),))
RESULT = ToolMessage(call_id="a", name="weather", content='{"sky":"sun"}')
TASK, NOTE = UserMessage(text="The task."), UserMessage(text="The summary.")


def roles(*messages: Message) -> list[tuple[str, str | None]]:
    sent = json.loads(body_of(ask("m", *messages), "chat max_tokens"))["messages"]
    return [(message["role"], message["content"]) for message in sent[1:]]


def test_messages_of_a_user_in_a_row_are_joined() -> None:
    """After a summary, templates of Mistral and Gemma would refuse two messages of a user's."""
    assert roles(TASK, NOTE, CALL, RESULT) == [
        ("user", "The task.\n\nThe summary."),
        ("assistant", None),
        ("tool", '{"sky":"sun"}'),
    ]


def test_an_empty_answer_is_left_out() -> None:
    """An answer of another vendor's that said and called nothing is refused by servers, so what surrounds it is joined."""
    assert roles(TASK, AssistantMessage(), NOTE) == [("user", "The task.\n\nThe summary.")]


def test_an_answer_never_comes_last() -> None:
    """A model that takes over from one that paused is asked to go on, for servers refuse an answer at the end."""
    assert roles(TASK, AssistantMessage(text="First,")) == [("user", "The task."), ("assistant", "First,"), ("user", GO_ON)]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("messages", [(TASK,), (TASK, NOTE, CALL, RESULT), (TASK, CALL, RESULT, AssistantMessage(text="Sun."))])
@pytest.mark.parametrize("effort", [None, "none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_openai_would_take_each_body(dialect: str, messages: tuple[Message, ...], effort: Effort | None) -> None:
    """Each field of a body is at the place and of the type that OpenAI's own description gives it."""
    body = body_of(ask("m", *messages).model_copy(update={"effort": effort}), dialect)
    check(body)
    assert json.loads(body).get("reasoning_effort") == ("low" if effort == "minimal" else effort)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_turn_begins_as_the_one_before_it(dialect: str) -> None:
    """Tools and system prompt come first, and each turn only adds, so that servers find the beginning in their cache."""
    first = body_of(ask("m", TASK), dialect)
    second = body_of(ask("m", TASK, CALL, RESULT), dialect)
    assert second.startswith(first.removesuffix(b"]}"))


@pytest.mark.parametrize(
    ("url", "dialect"),
    [("https://api.openai.com/v1", "chat max_completion_tokens"), ("http://127.0.0.1:8000/v1", "chat max_tokens")],
)
def test_the_first_form_is_that_of_the_host(url: str, dialect: str) -> None:
    """Compatible servers are first sent the name of the limit that most of them know."""
    assert dialect_of(url) == dialect


def turn(body: bytes, dialect: str) -> ModelTurn:
    given = {"provider": "openai", "model": "m", "cost_micro_usd": 0, "price_digest": "", "latency_ms": 0}
    return ModelTurn.model_validate({**given, "message": {}, "usage": {}, "request_digest": sha256(body), "dialect": dialect})


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_recorded_call_is_found_again_by_its_form(dialect: str) -> None:
    """`remit verify` builds the body again from the recorded form, and only from that one."""
    request = ask("m", TASK, NOTE)
    body = body_of(request, dialect)
    assert is_digest_of(request, turn(body, dialect))
    other = next(one for one in DIALECTS if one != dialect)
    assert not is_digest_of(request, turn(body, other))


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_call_of_an_older_version_is_found_again(limit: str) -> None:
    """A history from before forms were recorded verifies: its messages of a user's in a row weren't joined."""
    request = ask("m", TASK, NOTE)
    body = body_of(request, limit)
    assert [message["role"] for message in json.loads(body)["messages"]] == ["system", "user", "user"]
    assert is_digest_of(request, turn(body, ""))


def test_bodies_and_answers_need_no_sdk() -> None:
    """`remit verify` works where OpenAI's SDK isn't installed."""
    code = (
        "import sys; import activities.providers.chat_body, activities.providers.chat_answer; "
        "sys.exit('openai' in sys.modules or 'httpx2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_body_depends_on_nothing_but_the_request() -> None:
    """Equal requests give equal bytes, whatever was rendered before."""
    copies = [ModelRequest.model_validate_json(ask("m", TASK, CALL, RESULT).model_dump_json()) for _ in range(2)]
    assert len({body_of(request, DIALECTS[0]) for request in copies}) == 1
