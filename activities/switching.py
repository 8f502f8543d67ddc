"""What each order about a switch does to the ledger. Nothing here waits: the caller holds the ledger's lock."""

import json
import time
from collections.abc import Callable, Sequence

from sqlalchemy.engine import Connection

from activities.ledger import switches
from activities.ledger.rows import Logged, Switch
from policies.control import RELEASE_SECONDS, people_needed, verify_control
from policies.errors import ControlRefused, Unavailable
from policies.identity import Directory
from policies.switches import Scope
from workflows.fleet_messages import Drilled, Kill, Order, Pause, Resume, Switched, Unkill

__all__ = ["carry_out", "people_now"]

LOGGED = {
    "kill": "engaged",
    "drill": "engaged",
    "drilled": "drilled",
    "pause": "paused",
    "resume": "resumed",
    "ask": "pending",
    "unkill": "released",
}


def people_now(directory: Callable[[], Directory]) -> Directory | Unavailable:
    """Who may sign; or why nobody's word can be verified now: it is refused then, and what stops things mustn't wait."""
    try:
        return directory()
    except Unavailable as e:
        return e


def carry_out(connection: Connection, order: Order, people: Directory | Unavailable | None, audience: str) -> Switched:
    """What comes of `order`, written in the transaction of the caller, which has locked it into the order of things.

    Args:
        people: as they are now, if the order is one that somebody must have signed.
        audience: the workers that it must be signed for.
    """
    if before := switches.logged(connection, command=order.id):
        return _as_logged(before[-1])
    match order.command:
        case Kill() as kill:
            return _kill(connection, order.id, kill)
        case Pause() as pause:
            set_ = switches.pause(connection, pause.scope, pause.reason, pause.by, command=order.id)
            return _switched("paused", set_)
        case Resume() as resume:
            epoch = switches.resume(connection, resume.scope, resume.reason, resume.by, command=order.id)
            at = switches.now_ms()
            if epoch is None:
                return Switched(status="unchanged", scope=resume.scope, at=at)
            return Switched(status="resumed", scope=resume.scope, reason=resume.reason, by=resume.by, epoch=epoch, at=at)
        case Unkill() as unkill:
            try:
                return _unkill(connection, order.id, unkill, people, audience)
            except ControlRefused as e:
                return Switched(status="refused", scope=unkill.scope, refused=e.reason, message=e.message)
        case Drilled() as drilled:
            detail = json.dumps({"effect_ms": drilled.effect_ms})
            said = f"took effect after {drilled.effect_ms} ms"
            epoch = switches.release(connection, drilled.scope, said, drilled.by, command=order.id, detail=detail)
            return Switched(status="drilled" if epoch else "unchanged", scope=drilled.scope, epoch=epoch or 0)
        case _:
            return Switched(status="refused", scope="", refused="unknown_command", message="There is no such command.")


def _kill(connection: Connection, command: str, kill: Kill) -> Switched:
    scope = Scope.parse(kill.scope)
    keys, total = switches.in_flight(connection, scope)
    detail = json.dumps({"in_flight": keys, "in_flight_total": total})
    target = scope.drill if kill.drill else scope
    if kill.drill:  # one that nobody ended
        switches.release(connection, str(target), "another drill began", kill.by)
    engaged = switches.engage(connection, str(target), kill.reason, kill.by, command=command, detail=detail)
    return _switched("engaged", engaged, keys, total)


def _unkill(
    connection: Connection, command: str, unkill: Unkill, people: Directory | Unavailable | None, audience: str
) -> Switched:
    """Raises:
    ControlRefused: nobody who may signed for the release of exactly this switch.
    """
    if not isinstance(people, Directory):
        raise ControlRefused("unavailable", people.message if people else "Nobody's signature can be verified now.")
    now = int(time.time())
    person, claims = verify_control(unkill.control_jws, directory=people, now=now, audience=audience, command="unkill")
    found = next((s for s in switches.current(connection) if s.scope == unkill.scope), None)
    if claims.scope != unkill.scope or found is None or found.epoch != claims.epoch:
        raise ControlRefused("other_switch", "The command is for another switch than the one that is set now, if any is.")
    fields = {"scope": found.scope, "reason": claims.reason, "by": person.sub, "at": now * 1000}
    proof = json.dumps({"control_jws": unkill.control_jws})
    if people_needed(found.scope) > 1:
        asked = _asked(connection, found, now, people)
        if person.sub in asked:
            raise ControlRefused("same_person", f"`{person.sub}` has signed already; somebody else must.")
        if not asked:
            switches.log(
                connection,
                command=command,
                action="ask",
                scope=found.scope,
                reason=claims.reason,
                by=person.sub,
                epoch=found.epoch,
                detail=proof,
            )
            return Switched.model_validate({**fields, "status": "pending", "epoch": found.epoch, "waits_for": 1})
    epoch = switches.release(connection, found.scope, claims.reason, person.sub, command=command, detail=proof)
    return Switched.model_validate({**fields, "status": "released", "epoch": epoch})


def _asked(connection: Connection, switch: Switch, now: int, people: Directory) -> frozenset[str]:
    """Who has signed for the release of `switch` lately, and still may."""
    may = {p.sub for p in people.people if p.roles}
    since = (now - RELEASE_SECONDS) * 1000
    lines = switches.logged(connection, scope=switch.scope, since=switch.epoch)
    return frozenset(x.by for x in lines if x.action == "ask" and x.epoch == switch.epoch and x.at > since and x.by in may)


def _switched(status: str, switch: Switch, keys: Sequence[str] = (), total: int = 0) -> Switched:
    fields = {"scope": switch.scope, "reason": switch.reason, "by": switch.set_by, "epoch": switch.epoch, "at": switch.set_at}
    return Switched.model_validate({**fields, "status": status, "in_flight": tuple(keys), "in_flight_total": total})


def _as_logged(line: Logged) -> Switched:
    """The answer that was given, or would have been, to the order that wrote this line."""
    fields = {"scope": line.scope, "reason": line.reason, "by": line.by, "epoch": line.epoch, "at": line.at}
    known: dict[str, object] = json.loads(line.detail) if line.detail else {}
    flight = {k: known[k] for k in ("in_flight", "in_flight_total") if k in known}
    waits = {"waits_for": 1} if line.action == "ask" else {}
    return Switched.model_validate({**fields, "status": LOGGED[line.action], **flight, **waits})
