"""A model's answer as it enters a run: ids that are unique, text that can be stored, numbers that can be true. No I/O."""

import json
import re
from collections.abc import Sequence

from activities.providers.base import Completion, ModelRequest
from workflows.messages import AssistantMessage, Message, ProviderState, TokenUsage, ToolRequest

__all__ = ["presentable", "sane"]

LONGEST_ID = 40  # what OpenAI's Chat Completions takes
MOST_TOKENS = 2**40
LARGEST_STATE = 400_000
"""What a vendor may give beside one answer, in bytes of JSON."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def presentable(message: AssistantMessage, before: Sequence[Message], prefix: str) -> AssistantMessage:
    """`message` as every vendor takes it back, and every database stores it.

    Half of a surrogate pair becomes U+FFFD. What the vendor gave beside the answer is dropped when it is too large. A call id
    that is empty, too long, or that the conversation has already, becomes one of ours: vendors refuse a conversation in which
    two calls have one id.

    Args:
        before: the messages that the model was shown.
        prefix: of ids of ours; different for each message of a run.
    """
    taken = {call.id for one in before if isinstance(one, AssistantMessage) for call in one.tool_calls}
    calls: list[ToolRequest] = []
    for index, call in enumerate(message.tool_calls):
        call_id = call.id if _ID.fullmatch(call.id) and call.id not in taken else f"{prefix}_{index}"
        while call_id in taken:
            call_id += "x"
        taken.add(call_id)
        calls.append(ToolRequest(id=call_id, name=_text(call.name), arguments=_json(call.arguments)))
    return AssistantMessage(text=_text(message.text), tool_calls=tuple(calls), state=_bounded(message.state))


def _bounded(state: ProviderState | None) -> ProviderState | None:
    """`state`, if history can hold it. Its text is the vendor's, and goes back as it came."""
    if state is None:
        return None
    text = json.dumps(state.items, ensure_ascii=False)
    return None if len(text.encode(errors="replace")) > LARGEST_STATE or _SURROGATE.search(text) else state


def sane(completion: Completion, request: ModelRequest) -> Completion:
    """`completion`, its usage bounded: no number of a vendor's may be larger than any call can take."""
    used = completion.usage
    if max(used.input_tokens, used.output_tokens) <= MOST_TOKENS:
        return completion
    bounded = TokenUsage(
        input_tokens=min(used.input_tokens, MOST_TOKENS),
        output_tokens=min(used.output_tokens, request.max_output_tokens),
        simulated=used.simulated,
    )
    return completion.model_copy(update={"usage": bounded})


def _json(text: str) -> str:
    """JSON text that a model wrote, in which half of a pair may also stand as an escape."""
    if _ESCAPED.search(text):
        try:
            written = json.dumps(json.loads(text), ensure_ascii=False)
        except (ValueError, RecursionError):
            return _text(text)
        if _SURROGATE.search(written):
            return _text(written)
    return _text(text)


def _text(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)
