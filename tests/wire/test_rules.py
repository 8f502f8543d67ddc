"""The rules bite: a request that keeps them is taken, and breaking any one of them is refused under its name."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.wire.rules.anthropic import MESSAGES
from tests.wire.rules.google import GENERATE
from tests.wire.rules.openai import CHAT, RESPONSES
from tests.wire.rules.server import Body, Say
from tests.wire.talking import LOOK, PATHS, Talk, choices, rules_server, talking

Break = Callable[[Body], Any]
STRICT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def items(body: Body, kind: str) -> list[Body]:
    return [item for item in body["input"] if item.get("type") == kind]


def thought(body: Body) -> Body:
    return body["messages"][1]["content"][0]


def swap(values: list[Any]) -> None:
    values[0], values[1] = values[1], values[0]


def rename(body: Body, call_id: str) -> None:
    body["messages"][1]["content"][-1].update(id=call_id)
    body["messages"][2]["content"][-1].update(tool_use_id=call_id)


def strict_tool(body: Body, **change: Any) -> None:
    body["tools"] = [{"type": "function", "name": "t", "strict": True, "parameters": STRICT | change}]


OPENAI: list[tuple[str, Break]] = [
    ("known_fields", lambda b: b.update(unheard_of=1)),
    ("no_sampling", lambda b: b.update(temperature=0.5)),
    ("none_is_known", lambda b: b.update(model="gpt-6.1-sol", reasoning={"effort": "none"})),
    ("calls_are_answered", lambda b: b["input"].remove(items(b, "function_call_output")[0])),
    ("calls_are_answered", lambda b: b["input"].remove(items(b, "function_call")[0])),
    ("reasoning_is_ours", lambda b: items(b, "reasoning")[0].update(encrypted_content="gAAAforged")),
    ("reasoning_is_ours", lambda b: b.update(model="gpt-6-sol")),
    ("reasoning_is_followed", lambda b: b["input"].remove(items(b, "message")[0])),
    ("ids_have_their_reasoning", lambda b: b["input"].remove(items(b, "reasoning")[0])),
    ("nothing_is_stored", lambda b: b.update(store=True)),
    ("nothing_is_stored", lambda b: b.pop("include")),
    ("strict_is_strict", lambda b: strict_tool(b, additionalProperties=True)),
    ("strict_is_strict", lambda b: strict_tool(b, required=[])),
    ("strict_is_strict", lambda b: strict_tool(b, properties={"a": {"type": "string", "maxLength": 5}})),
    ("names_and_ids", lambda b: b["tools"][0].update(name="a b")),
    ("some_output", lambda b: b.update(max_output_tokens=15)),
    ("four_marks", lambda b: b["input"][0].update(content=b["input"][0]["content"] * 5)),
]
ANTHROPIC: list[tuple[str, Break]] = [
    ("known_fields", lambda b: b.update(unheard_of=1)),
    ("roles_alternate", lambda b: b["messages"].pop(0)),
    ("roles_alternate", lambda b: b["messages"].append(b["messages"][-1])),
    ("no_empty_text", lambda b: b["messages"][0].update(content=[{"type": "text", "text": " "}])),
    ("results_come_first", lambda b: swap(b["messages"][2]["content"])),
    ("results_come_first", lambda b: b["messages"][2]["content"].pop()),
    ("results_come_first", lambda b: b["messages"][2]["content"].insert(0, {"type": "text", "text": "Here:"})),
    ("ids", lambda b: rename(b, "a|b")),
    ("ids", lambda b: rename(b, b["messages"][1]["content"][-2]["id"])),
    ("thinking_is_unaltered", lambda b: thought(b).update(thinking="Something else.")),
    ("thinking_is_unaltered", lambda b: thought(b).update(signature="forged")),
    ("thinking_is_bound", lambda b: b["messages"][0]["content"][0].update(text="Another task.")),
    ("thinking_is_bound", lambda b: b["system"][0].update(text="Another prompt.")),
    ("thinking_is_kept", lambda b: b["messages"][1]["content"].pop(0)),
    ("known_fields", lambda b: b.update(temperature=1.0)),
    ("no_forced_tool", lambda b: b.update(tool_choice={"type": "any"})),
    ("four_marks", lambda b: [t.update(cache_control={"type": "ephemeral"}) for t in b["tools"]]),
    ("output_limit", lambda b: b.update(max_tokens=1_000_000)),
    ("strict_is_closed", lambda b: b["tools"][0].update(strict=True, input_schema={"type": "object", "properties": {}})),
]
GOOGLE: list[tuple[str, Break]] = [
    ("known_fields", lambda b: b.update(unheardOf=1)),
    ("roles_alternate", lambda b: b["contents"].pop(0)),
    ("responses_match", lambda b: b["contents"][2]["parts"].pop()),
    ("responses_match", lambda b: b["contents"][2]["parts"][0]["functionResponse"].update(id="other")),
    ("signatures_come_back", lambda b: b["contents"][1]["parts"][1].pop("thoughtSignature")),
    ("signatures_come_back", lambda b: b["contents"][1]["parts"][1].update(thoughtSignature="Zm9yZ2Vk")),
    ("signatures_are_kept", lambda b: b["contents"][1]["parts"][1].update(thoughtSignature="skip_thought_signature_validator")),
]
BROKEN = [(v, *each) for v, all_of in (("openai", OPENAI), ("anthropic", ANTHROPIC), ("google", GOOGLE)) for each in all_of]


async def second_turn(talk: Talk, vendor: str) -> Body:
    """The body of a second turn, as a shipped agent sends it."""
    choice = choices("support-triage", vendor)[0]
    await talk.turn(choice, LOOK)
    await talk.turn(choice, Say("Done."))
    return talk.server.bodies[-1]


@pytest.mark.parametrize(("vendor", "rule", "change"), BROKEN, ids=[f"{b[0]}-{b[1]}-{n}" for n, b in enumerate(BROKEN)])
async def test_a_broken_rule_is_refused_by_its_name(vendor: str, rule: str, change: Break) -> None:
    """The request is taken as it is, and refused once it is changed in one place."""
    async with talking() as talk:
        body = await second_turn(talk, vendor)
        assert talk.server.judge(PATHS[vendor], body) == ""
        changed = copy.deepcopy(body)
        change(changed)
        assert talk.server.judge(PATHS[vendor], changed).partition(":")[0] == rule


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("known_chat_fields", {"unheard_of": 1}),
        ("tools_on_chat", {}),
        ("tools_on_chat", {"model": "gpt-6.1-sol", "reasoning_effort": "none"}),
        ("new_limit_name", {"tools": None, "max_tokens": 5}),
        ("no_sampling", {"tools": None, "top_p": 0.5}),
    ],
)
def test_chat_completions_has_rules_of_its_own(rule: str, change: Body) -> None:
    """What OpenAI's own hosts refuse there is the reason why Remit calls Responses."""
    tool = {"type": "function", "function": {"name": "t", "description": "d", "parameters": {"type": "object"}}}
    body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "hi"}], "tools": [tool], **change}
    sent = {name: value for name, value in body.items() if value is not None}
    assert rules_server().judge("/v1/chat/completions", sent).partition(":")[0] == rule


def test_every_rule_is_broken_here() -> None:
    """A rule that nothing can break is none."""
    for vendor, broken in ((RESPONSES, OPENAI), (MESSAGES, ANTHROPIC), (GENERATE, GOOGLE)):
        assert {rule.__name__ for rule in vendor.rules} == {name for name, _ in broken}
    assert {rule.__name__ for rule in CHAT.rules} == {"known_chat_fields", "tools_on_chat", "new_limit_name", "no_sampling"}
    assert all(
        "Source:" in (rule.__doc__ or "") or "The same" in (rule.__doc__ or "")
        for v in (RESPONSES, MESSAGES, GENERATE, CHAT)
        for rule in v.rules
    )
