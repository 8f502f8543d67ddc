"""Alerts and incidents: reading an alert, opening an incident, adding notes. Nothing in here can mute an alert."""

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field

from policies.errors import ToolRefusal
from policies.models import ResourceFacts
from tools.spec import Arguments, Connector, Result, ToolContext, tool

__all__ = ["Alert", "Incidents"]

AlertId = Annotated[str, Field(pattern=r"^AL-[0-9]{1,12}$", description="Alert id, for example AL-301.")]
IncidentId = Annotated[str, Field(pattern=r"^INC-[A-Za-z0-9]{1,40}$", description="Incident id.")]


class Alert(Result):
    alert_id: str
    service: str
    title: str
    details: str
    status: Literal["firing", "resolved"]


class Incident(Result):
    incident_id: str
    alert_id: str
    severity: str
    title: str


class NoteAdded(Result):
    note_id: str


class Incidents(Connector):
    """Port to the incident system."""

    @abstractmethod
    async def alert(self, alert_id: str) -> Alert | None: ...

    @abstractmethod
    async def incident(self, incident_id: str) -> Incident | None: ...

    @abstractmethod
    async def open(self, alert_id: str, severity: str, title: str, *, idempotency_key: str) -> Incident: ...

    @abstractmethod
    async def add_incident_note(self, incident_id: str, text: str, *, idempotency_key: str) -> str: ...


class GetAlert(Arguments):
    alert_id: AlertId


class OpenIncident(Arguments):
    alert_id: AlertId
    severity: Literal["sev1", "sev2", "sev3"]
    title: Annotated[str, Field(min_length=1, max_length=200)]


class AddIncidentNote(Arguments):
    incident_id: IncidentId
    text: Annotated[str, Field(min_length=1, max_length=4000)]


async def alert_facts(args: GetAlert | OpenIncident, context: ToolContext) -> ResourceFacts:
    alert = await context.use(Incidents).alert(args.alert_id)
    return ResourceFacts(exists=False) if alert is None else ResourceFacts(owner=f"Alert:{alert.alert_id}", status=alert.status)


async def incident_facts(args: AddIncidentNote, context: ToolContext) -> ResourceFacts:
    incident = await context.use(Incidents).incident(args.incident_id)
    return ResourceFacts(exists=False) if incident is None else ResourceFacts(owner=f"Alert:{incident.alert_id}")


def open_rules(args: OpenIncident, facts: ResourceFacts) -> None:
    if facts.status != "firing":
        raise ToolRefusal("not_firing", f"Alert `{args.alert_id}` is {facts.status}; an incident needs a firing alert.")


@tool(
    effect="read",
    risk="low",
    scope="alerts:read",
    resource=("Alert", "alert_id"),
    facts=alert_facts,
    fast=True,
    untrusted=True,
)
async def get_alert(args: GetAlert, context: ToolContext) -> Alert:
    """Read an alert: service, title, details, and whether it is still firing."""
    alert = await context.use(Incidents).alert(args.alert_id)
    if alert is None:
        raise ToolRefusal("not_found", f"There is no alert `{args.alert_id}`.")
    return alert


@tool(
    effect="write",
    risk="medium",
    scope="incidents:write",
    resource=("Alert", "alert_id"),
    facts=alert_facts,
    rules=open_rules,
    idempotency="native_key",
)
async def open_incident(args: OpenIncident, context: ToolContext) -> Incident:
    """Open an incident for a firing alert and page whoever is on call."""
    return await context.use(Incidents).open(args.alert_id, args.severity, args.title, idempotency_key=context.idempotency_key)


@tool(
    effect="write",
    risk="low",
    scope="incidents:write",
    resource=("Incident", "incident_id"),
    facts=incident_facts,
    idempotency="native_key",
)
async def add_incident_note(args: AddIncidentNote, context: ToolContext) -> NoteAdded:
    """Add a note to an open incident's timeline."""
    note = await context.use(Incidents).add_incident_note(args.incident_id, args.text, idempotency_key=context.idempotency_key)
    return NoteAdded(note_id=note)
