"""The task that every system is given, and the payloads of its model and of its tool. Nothing of any system is in here."""

import json
import re
from dataclasses import dataclass

__all__ = [
    "PROMPT",
    "TOOL",
    "TOOL_DESCRIPTION",
    "TOOL_SCHEMA",
    "Task",
    "final_text",
    "tool_result",
    "tool_result_json",
    "turn_text",
]

PROMPT = "You are a careful assistant. Call the tool until the task is done, then answer."
TOOL = "lookup"
TOOL_DESCRIPTION = "Look up one step of the task and return its rows."
TOOL_SCHEMA = {
    "type": "object",
    "properties": {"step": {"type": "integer", "description": "Step number"}},
    "required": ["step"],
    "additionalProperties": False,
}
_FILL = "The quick brown fox jumps over the lazy dog near the quiet river bank. "
_TEXT = re.compile(rb"N=(\d+) tool=(\w+) hold=(\d+)")


@dataclass(frozen=True)
class Task:
    """What a run is asked to do.

    Attributes:
        steps: turns with a tool call; the turn after them is the answer.
        tool: the tool that the model calls in each of them.
        hold: seconds that the model takes for each answer.
    """

    steps: int
    tool: str = TOOL
    hold: int = 0

    @property
    def text(self) -> str:
        """The user's message. The model server reads the task from it again, so that it need remember nothing."""
        return f"N={self.steps} tool={self.tool} hold={self.hold}: look up every step, one call per turn, then summarise."

    @classmethod
    def read(cls, body: bytes) -> "Task | None":
        """The task in the body of a model request; None when there is none in it."""
        found = _TEXT.search(body)
        return cls(int(found[1]), found[2].decode(), int(found[3])) if found else None


def turn_text(step: int) -> str:
    """What the model says with a tool call: some 370 bytes."""
    return f"[{step:05d}] " + (_FILL * 6)[:360]


def final_text(steps: int) -> str:
    """What the model says at the end; the harness checks how it begins."""
    return f"DONE N={steps}. " + (_FILL * 7)[:440]


def tool_result(step: int) -> dict[str, object]:
    """What the tool returns: about 1 KB of JSON."""
    rows = [{"id": f"{step:05d}-{i}", "name": "item", "qty": i, "note": _FILL[:52]} for i in range(9)]
    return {"step": step, "status": "ok", "rows": rows}


def tool_result_json(step: int) -> str:
    return json.dumps(tool_result(step))
