"""What a run's histories say by themselves, without a replay: its capsule, its activities and what they gave."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from google.protobuf.json_format import ParseError
from pydantic import ValidationError
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory

from policies.errors import InvalidInput
from policies.identity import Directory
from tools.kb import Document, Documents
from workflows.messages import Capsule, ModelTurn

__all__ = [
    "Done",
    "activities",
    "asked_for",
    "capsule_of",
    "documents_of",
    "fields",
    "history_of",
    "json_of",
    "models_of",
    "people_of",
    "started_with",
]

LOCAL = "core_local_activity"


@dataclass(frozen=True)
class Done:
    """An activity that gave a result.

    Attributes:
        event_id: of the event that asked for it, or of the marker of a local one; `ended` is the one that has its result.
        given: its input; None for a local one, whose input isn't recorded.
    """

    name: str
    event_id: int
    ended: int
    given: object
    result: object


def json_of(history: WorkflowHistory) -> dict[str, object]:
    """The history as Temporal's own tools export it."""
    return cast("dict[str, object]", json.loads(history.to_json()))


def history_of(workflow_id: str, content: Mapping[str, object]) -> WorkflowHistory:
    """A history from Temporal's JSON.

    Raises:
        InvalidInput: it isn't one.
    """
    try:
        found = WorkflowHistory.from_json(workflow_id, json.dumps(content))
    except (ParseError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
        found = None
    if found is None or not found.events:
        raise InvalidInput("It isn't a history of Temporal's.")
    return found


def activities(history: WorkflowHistory) -> Iterator[Done]:
    """The activities that gave a result, in the order in which they did."""
    asked: dict[int, tuple[str, object]] = {}
    for event in history.events:
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            scheduled = event.activity_task_scheduled_event_attributes
            asked[event.event_id] = scheduled.activity_type.name, _value(scheduled.input)
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            completed = event.activity_task_completed_event_attributes
            if completed.scheduled_event_id in asked:
                name, given = asked[completed.scheduled_event_id]
                yield Done(name, completed.scheduled_event_id, event.event_id, given, _value(completed.result))
        elif event.event_type == EventType.EVENT_TYPE_MARKER_RECORDED:
            marker = event.marker_recorded_event_attributes
            if marker.marker_name == LOCAL and "result" in marker.details:
                name = str(fields(_value(marker.details["data"])).get("activity_type"))
                yield Done(name, event.event_id, event.event_id, None, _value(marker.details["result"]))


def asked_for(history: WorkflowHistory, name: str) -> list[int]:
    """The events that ask for the activity `name`, local ones not among them."""
    return [
        event.event_id
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
        and event.activity_task_scheduled_event_attributes.activity_type.name == name
    ]


def started_with(history: WorkflowHistory) -> object:
    """The first input of the execution; None when it has none that is JSON."""
    return _value(history.events[0].workflow_execution_started_event_attributes.input)


def capsule_of(histories: Sequence[WorkflowHistory]) -> Capsule | None:
    """What the run was pinned to; None when it wasn't admitted, or that history is gone.

    Raises:
        InvalidInput: it is none that today's code knows.
    """
    found: object = None
    for history in histories:
        found = next((done.result for done in activities(history) if done.name == "admit"), None)
        found = found or fields(started_with(history)).get("capsule")
        if found is not None:
            break
    if found is None:
        return None
    try:
        return Capsule.model_validate(found)
    except ValidationError:
        raise InvalidInput("The run was admitted with a capsule of a form that this version doesn't know.") from None


def people_of(histories: Sequence[WorkflowHistory]) -> Directory:
    """Those who weren't known at admission and were asked for when they decided."""
    found = Directory()
    for history in histories:
        for done in activities(history):
            if done.name == "read_people":
                found = found.joined(Directory.model_validate(done.result))
    return found


def models_of(histories: Sequence[WorkflowHistory]) -> list[ModelTurn]:
    """What each model call gave, in order."""
    return [
        ModelTurn.model_validate(done.result)
        for history in histories
        for done in activities(history)
        if done.name == "call_model"
    ]


def documents_of(histories: Sequence[WorkflowHistory]) -> list[Document]:
    """The documents that reads brought, each once, as they were shown to the model. What was cut off isn't among them."""
    found: dict[tuple[str, str], Document] = {}
    for history in histories:
        for done in activities(history):
            content = fields(done.result).get("content")
            if done.name == "read_tool" and isinstance(content, str) and '"corpus_digest"' in content:
                with contextlib.suppress(ValidationError):
                    for document in Documents.model_validate_json(content).documents:
                        found.setdefault((document.document_id, document.digest), document)
    return list(found.values())


def fields(value: object) -> dict[str, object]:
    """The fields of a JSON object; none of anything else."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _value(payloads: Payloads) -> object:
    return _json(payloads.payloads[0]) if payloads.payloads else None


def _json(payload: Payload) -> object:
    if not payload.metadata.get("encoding", b"").startswith(b"json/"):
        return None
    try:
        return json.loads(payload.data)
    except (ValueError, RecursionError):
        return None
