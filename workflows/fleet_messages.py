"""What people and workers say to `FleetControl`, what it answers, and the names that it is met under. Add optional fields only.

A command is a frozen model with a room, in which it waits its turn: commands of one room are carried out in order, those of
different rooms side by side, so that a kill waits for nothing but other switches.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from policies.anomaly import Reading
from policies.errors import InvalidInput
from policies.models import AutonomyMode, Frozen
from policies.rollout import Rollout
from policies.switches import PAUSABLE, Scope
from workflows.commands import Answer, By, Command, Reason, Room
from workflows.messages import TASK_QUEUE, Refused
from workflows.rollout_messages import ROLLOUT_COMMANDS, RolledOut

__all__ = [
    "COMMANDS",
    "FLEET_CONTROL",
    "KILL_DRILL",
    "MOVED_ON",
    "Answer",
    "Applied",
    "AppliedTrips",
    "ApplyRollouts",
    "ApplySwitches",
    "ApplyTrips",
    "Autonomy",
    "Command",
    "ConfirmKill",
    "Control",
    "DrillReport",
    "Drilled",
    "EffectOutcome",
    "Kill",
    "Look",
    "Looked",
    "Order",
    "Outcome",
    "Pause",
    "PlayDrill",
    "PutBack",
    "ReportSwitch",
    "Resume",
    "Room",
    "SwitchReport",
    "SwitchView",
    "Switched",
    "TellAll",
    "TellRuns",
    "Told",
    "ToldAll",
    "Trip",
    "Unkill",
    "WantReport",
    "control_queue",
    "fleet_id",
    "kind_of",
]

FLEET_CONTROL = "FleetControl"
KILL_DRILL = "KillDrill"
MOVED_ON = "moved_on"
"""Why an update isn't answered, when `FleetControl` goes on in a new history: whoever asks there again gets the answer."""
SwitchStatus = Literal["engaged", "released", "pending", "paused", "resumed", "drilled", "unchanged", "refused"]


def fleet_id(task_queue: str) -> str:
    """The workflow id of the `FleetControl` of these workers: one for a namespace, or for each task queue that shares one."""
    return "remit-fleet-control" if task_queue == TASK_QUEUE else f"remit-fleet-control:{task_queue}"


def control_queue(task_queue: str) -> str:
    """The task queue of `FleetControl`. Its own, so that a kill never waits behind the work that it is to stop."""
    return f"{task_queue}-control"


def _scope(text: str) -> str:
    try:
        return str(Scope.parse(text))
    except InvalidInput as e:
        raise ValueError(e.message) from None


def _killable(text: str) -> str:
    if Scope.parse(text).kind == "drill":
        raise ValueError("for a drill, give the scope that is to be played through and `drill`")
    return text


def _pausable(text: str) -> str:
    if Scope.parse(text).kind not in PAUSABLE:
        raise ValueError(f"a pause holds runs, and covers one of {', '.join(PAUSABLE)}")
    return text


AnyScope = Annotated[str, AfterValidator(_scope)]


class _OfSwitches(Command):
    room: ClassVar[Room] = "switches"


class Kill(_OfSwitches):
    """Set an off switch. `by` is a claim.

    Attributes:
        workflow_id: of the run, when the scope is one.
        drill: play it through on a scope that covers no write.
    """

    scope: Annotated[AnyScope, AfterValidator(_killable)]
    reason: Reason
    by: By = ""
    workflow_id: str = Field(default="", max_length=200)
    drill: bool = False


class Unkill(_OfSwitches):
    """Take an off switch away. Who does it, and why, is signed in `control_jws`."""

    scope: AnyScope
    control_jws: str = Field(max_length=8192)


class Pause(_OfSwitches):
    """Park runs without ending them."""

    scope: Annotated[AnyScope, AfterValidator(_pausable)]
    reason: Reason
    by: By = ""
    workflow_id: str = Field(default="", max_length=200)


class Resume(_OfSwitches):
    """Let parked runs go on."""

    scope: Annotated[AnyScope, AfterValidator(_pausable)]
    reason: Reason
    by: By = ""
    workflow_id: str = Field(default="", max_length=200)


class Drilled(_OfSwitches):
    """The end of a drill. `effect_ms` is what its caller measured, from the command to a gate that had read the switch."""

    scope: AnyScope
    effect_ms: int = Field(ge=0)
    by: By = ""


class _OfBreaker(Command):
    room: ClassVar[Room] = "breaker"


class PutBack(_OfBreaker):
    """Let an agent that the breaker stepped down do again what its file says. Who does it, and why, is signed."""

    agent: str = Field(min_length=1, max_length=200)
    control_jws: str = Field(max_length=8192)


class Trip(_OfBreaker):
    """A rule of the breaker that tripped: `FleetControl` gives this command to itself, and takes it from nobody."""

    reading: Reading
    at: int


COMMANDS: dict[str, type[Command]] = {
    "kill": Kill,
    "unkill": Unkill,
    "pause": Pause,
    "resume": Resume,
    "drilled": Drilled,
    "put_back": PutBack,
    **ROLLOUT_COMMANDS,
}
"""Each command by the name of the signal or update that brings it."""
OWN: dict[str, type[Command]] = {"trip": Trip}


def kind_of(name: str) -> type[Command]:
    """What an order called `name` carries."""
    return COMMANDS.get(name) or OWN[name]


class Order(Frozen):
    """A command in its room. `id` makes it the same command when it is given, or carried out, again.

    Attributes:
        body: the command as JSON text.
    """

    id: str
    name: str
    body: str

    @property
    def command(self) -> Command:
        return kind_of(self.name).model_validate_json(self.body)


class Switched(Answer):
    """What came of a command about a switch: written to the ledger before this is answered. `at` in Unix milliseconds.

    Attributes:
        epoch: its place in the order of all switches and reservations.
        in_flight: keys of effects that were reserved or sent at that moment; `in_flight_total` says how many there were.
        waits_for: how many more people must sign, when `pending`.
        gate_ms: of a drill: how long it took, within the worker, until a gate read the switch.
    """

    status: SwitchStatus
    scope: str
    reason: str = ""
    by: str = ""
    epoch: int = 0
    at: int = 0
    in_flight: tuple[str, ...] = ()
    in_flight_total: int = 0
    waits_for: int = 0
    gate_ms: int | None = None


class Autonomy(Answer):
    """What came of a command about what an agent may do by itself: it may now do `mode`, or less if its file says so."""

    status: Literal["tripped", "put_back", "unchanged", "refused"]
    agent: str
    mode: AutonomyMode = "read_only"


Outcome = Switched | Autonomy | RolledOut
"""What came of a command, whatever room it was in: a union, to which each room adds its own."""


class SwitchView(Frozen):
    """A switch or pause that is set. `at` in Unix milliseconds."""

    kind: Literal["kill", "pause"]
    scope: str
    reason: str
    by: str
    epoch: int
    at: int


class ApplySwitches(Frozen):
    """Input of `apply_switches`: orders of the room `switches`, to be carried out in order and at most once each."""

    orders: tuple[Order, ...]


class ApplyRollouts(Frozen):
    """Input of `apply_rollouts`: orders of the room `rollouts`, to be carried out in order and at most once each."""

    orders: tuple[Order, ...]


class Applied(Frozen):
    """Answer of `apply_switches`: an outcome for each order, and what is set now (the newest of it, runs left out)."""

    outcomes: tuple[Switched, ...]
    switches: tuple[SwitchView, ...]
    total: int


class Look(Frozen):
    """Input of `look_at_agents`: nothing is asked for but what there is."""


class Looked(Frozen):
    """Answer of `look_at_agents`: a reading for each rule of each agent, as of `at` (Unix milliseconds).

    Attributes:
        again_seconds: when to look again.
    """

    readings: tuple[Reading, ...]
    at: int
    again_seconds: int


class ApplyTrips(Frozen):
    """Input of `apply_trips`: orders of the room `breaker`, each carried out at most once."""

    orders: tuple[Order, ...]


class AppliedTrips(Frozen):
    """Answer of `apply_trips`: an outcome for each order."""

    outcomes: tuple[Autonomy, ...]


class TellRuns(Frozen):
    """A signal that the open runs in `scope` get.

    Attributes:
        signal: `kill`, `pause`, `resume` or `drill`.
        workflow_id: of the one run, when the scope is one.
    """

    signal: Literal["kill", "pause", "resume", "drill"]
    scope: str
    reason: str
    by: str
    epoch: int
    workflow_id: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it the same one."""
        return self.signal, self.scope, self.epoch


class Told(Frozen):
    """How many open runs were found in a switch's scope, and how many of them got its signal. `at` in Unix seconds."""

    scope: str
    epoch: int
    found: int
    told: int
    at: int = 0


class TellAll(Frozen):
    """Input of `tell_runs`."""

    tell: tuple[TellRuns, ...]


class ToldAll(Frozen):
    """Answer of `tell_runs`, in the order of what was to be told."""

    told: tuple[Told, ...]


class WantReport(Frozen):
    """Payload of the update `report`: what came of the switch of this epoch."""

    scope: AnyScope
    epoch: int = Field(ge=1)
    keys: tuple[str, ...] = Field(default=(), max_length=200)
    wait_seconds: float = Field(default=5.0, ge=0, le=30)


class ReportSwitch(Frozen):
    """Input of `report_switch`: waits `wait_seconds` at most for the effects `keys` to be settled."""

    scope: str
    epoch: int
    keys: tuple[str, ...]
    wait_seconds: float


class EffectOutcome(Frozen):
    """An effect that was in flight when a switch was set. `done`, `refused` (nothing happened), `unknown`, or still `open`."""

    key: str
    workflow_id: str
    tool: str
    resource: str
    amount_cents: int
    currency: str
    outcome: Literal["done", "refused", "unknown", "open"]


class SwitchReport(Frozen):
    """What came of a switch.

    Attributes:
        reserved_after: effects in its scope that were reserved after it, counted from the ledger by epoch: 0, or G4 is broken.
        found, told: open runs in its scope, and those that got its signal; None while they are being told.
    """

    scope: str
    epoch: int
    effects: tuple[EffectOutcome, ...]
    reserved_after: int
    found: int | None = None
    told: int | None = None


class PlayDrill(Frozen):
    """Input of `KillDrill` and of `play_drill`: a kill of the whole fleet is to be played through."""

    reason: Reason
    by: By = ""


class DrillReport(Frozen):
    """What a drill measured. `at` in Unix milliseconds.

    Attributes:
        effect_ms: from the command to the answer that a gate had read the switch; `gate_ms` of them within the worker.
        found, told: open runs, and those that got the signal; None while they are being told.
        in_flight: writes that were reserved or sent at that moment.
    """

    epoch: int
    at: int
    effect_ms: int
    gate_ms: int | None = None
    found: int | None = None
    told: int | None = None
    in_flight: int = 0


class ConfirmKill(Frozen):
    """Input of `confirm_kill`: the run that was told of a switch."""

    run_id: str
    agent: str
    subject: str


class Control(Frozen):
    """Answer of the query `control`.

    Attributes:
        switches: what the ledger had set when it was last written to, runs left out; `switches_total` with them.
        waiting: commands that aren't carried out yet, by room.
        accepted: how many of each command there were.
        histories: how often it has gone on in a new history.
        tripped: rules of the breaker that are, by agent and rule, and since when (Unix milliseconds).
        looked_at: when the breaker last looked (Unix milliseconds); 0 when it never did.
        rollouts: where each agent's rollout stood when the ledger was last written to.
    """

    switches: tuple[SwitchView, ...]
    switches_total: int
    waiting: dict[str, int]
    accepted: dict[str, int]
    telling: tuple[TellRuns, ...]
    told: tuple[Told, ...]
    refused: tuple[Refused, ...]
    refused_total: int
    histories: int
    tripped: dict[str, int] = Field(default_factory=dict[str, int])
    looked_at: int = 0
    rollouts: tuple[Rollout, ...] = ()
