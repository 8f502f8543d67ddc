"""The final answer of a model, as it is read and what is told of one that can't be read. Pure."""

import json
from typing import cast

from pydantic import ValidationError

from policies.bundle import explain
from workflows.messages import FinalAnswer

__all__ = ["SUMMARY", "answer_error", "final_answer", "words_of"]

SUMMARY = 4000
"""The longest summary that is kept of a run, in characters."""


def final_answer(arguments: str) -> FinalAnswer:
    """The answer that `arguments` give. A summary that is too long is cut.

    Raises:
        ValidationError: they give none.
    """
    fields = _fields(arguments)
    summary = fields.get("summary") if fields else None
    if fields and isinstance(summary, str) and len(summary) > SUMMARY:
        return FinalAnswer.model_validate({**fields, "summary": summary[:SUMMARY]}, strict=True)
    return FinalAnswer.model_validate_json(arguments)


def answer_error(arguments: str) -> str:
    """What is wrong with `arguments` as a final answer, for the model; empty when nothing is."""
    try:
        final_answer(arguments)
    except ValidationError as e:
        return f"`final_answer` can't be read: {explain(e)}."
    return ""


def words_of(arguments: str) -> str:
    """What a model said in a final answer that can't be read: its summary, or all that it gave."""
    summary = (_fields(arguments) or {}).get("summary")
    return summary if isinstance(summary, str) and summary.strip() else arguments


def _fields(arguments: str) -> dict[str, object] | None:
    try:
        value: object = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None
