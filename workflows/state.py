"""The state of a run and its transitions: all that survives a continue-as-new. Pure."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, ValidationError
from temporalio.common import RawValue

from policies.approvals import Approval
from policies.autonomy import lowest
from policies.bundle import ApprovalRules, ContextRules, explain
from policies.canonical import chain, digest
from policies.errors import InvalidInput
from policies.identity import Directory
from policies.models import ActionFacts, ApprovalStatus, AutonomyMode, Frozen, Risk, RunStatus, Usage, UsageLimits, Verdict
from workflows.messages import (
    Archive,
    Capsule,
    Classification,
    KillState,
    Message,
    Minted,
    Move,
    PauseState,
    ProviderFailure,
    ProviderWait,
    RecordedFacts,
    Refused,
    RunResult,
    RunSummary,
    Segment,
    StartInput,
    ToolCallView,
    ToolOutcome,
    ToolRequest,
    TranscriptPage,
    Window,
)
from workflows.records import RunEnd, Tally

__all__ = ["MAX_REFUSED", "OPEN", "PAGE_BYTES", "OpenCall", "OpenTurn", "RunState", "parse_message"]

OPEN: tuple[RunStatus, ...] = ("admitted", "running", "waiting_for_approval", "waiting_for_provider", "paused")
MAX_REFUSED = 20
PAGE_BYTES = 400_000
ARCHIVE_BYTES = 256_000
"""A transcript shorter than this goes on in the state of the next history, and needs no storage."""
HISTORY_EVENTS = 6_000
"""How many events fill a history when the capsule doesn't say."""
HISTORY_BYTES = 4_000_000
"""How much text fills it. Temporal ends a run at 51,200 events or 50 MB. Open runs depend on both: another value is another
behaviour on replay."""
MESSAGE_EVENTS = 8  # a model call is six; a write with its facts, capability and approval some sixteen; a fast read two
SIGNAL_EVENTS = 5  # an update, each in a workflow task of its own; a signal is fewer
LOOK_EVENTS = 15  # a cap is looked at again: an activity, a timer, and how the run stands shown twice
MAX_IDENTICAL = 2_000
MAX_NONCES = 1_000
_ASSISTANT = '{"role":"assistant"'
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


def parse_message(text: str) -> Message:
    return _MESSAGE.validate_json(text)


class OpenCall(Frozen):
    """A call of a turn that the next history goes on with.

    Attributes:
        request: the call as people edited it, if they did.
        refused: reason and sentence of a call that won't be made.
        rounds: how often it was put before people already.
        outcome: what came of it; None while it waits for people.
    """

    index: int
    slot: int
    request: ToolRequest
    recorded: RecordedFacts | None = None
    verdict: Verdict | None = None
    refused: tuple[str, str] | None = None
    edits: tuple[Approval, ...] = ()
    rounds: int = 0
    outcome: ToolOutcome | None = None


class OpenTurn(Frozen):
    """The turn at hand when a run went on in a new history: some of its calls still wait for people."""

    calls_used: int
    calls: tuple[OpenCall, ...]

    @property
    def done(self) -> dict[int, ToolOutcome]:
        """What came of its calls so far, by index."""
        return {c.index: c.outcome for c in self.calls if c.outcome}


class RunState(BaseModel):
    """A run as it stands. Add optional fields only: continued runs carry older forms of it.

    Attributes:
        messages: the transcript, each message once, as JSON text, after what lies in `segments`; `head` is the running digest
            of all of it.
        step: turns that were acted on; part of each idempotency key.
        failures: failed tries in a row, by tool.
        identical: how often each of the latest calls was made, by digest of tool and arguments.
        judged: what the verdict on each pending approval rested on.
        nonces: of decisions that counted, so that a repeated one changes nothing.
        pauses: those that the run was told of and that haven't ended, by scope.
        resumed: epochs at which pauses ended, by scope: one that is older has ended too, whenever it is heard of.
        people: those known at admission and those who logged in since and decided; None while they are the same.
        capability: the newest one for reads, when the run's first has been minted anew.
        refs: results of this run that were too long to show; the model may read on in them, and in no others.
        deadline: Unix seconds at which the run's wall time is over.
        fallbacks: how many model calls another provider answered than the route's first; `fell_back_from` is the last reason.
        turn: the turn that an earlier history left open.
        starts: where the latest turns start in the transcript; only kept when the conversation may be compacted.
        context_tokens: input tokens of the latest model call, until the conversation is compacted.
        tally: what its calls and approvals came to, for the record of it.
        moves: when it moved up, and why.
        classification: what the cheapest tier said it is about, once it was asked.
        stepped_down: the mode that the run was found to be held to beside a side effect; it keeps to it until it ends.
        waiting: set while no model can be reached.
        reminded: whether the model was told, since it last called a tool, that text alone doesn't end the run.
        retries: how often a model call had to be repeated; `last_retry` says why the last time.
    """

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    start: StartInput
    capsule: Capsule | None = None
    status: RunStatus = "admitted"
    messages: list[str] = Field(default_factory=list[str])
    head: str = ""
    step: int = 0
    tier: int = 1
    model: str = ""
    simulated: bool = False
    tainted: bool = False
    risk: Risk = "low"
    usage: Usage = Field(default_factory=Usage)
    failures: dict[str, int] = Field(default_factory=dict[str, int])
    identical: dict[str, int] = Field(default_factory=dict[str, int])
    calls: list[ToolCallView] = Field(default_factory=list[ToolCallView])
    approvals: dict[str, Approval] = Field(default_factory=dict[str, Approval])
    judged: dict[str, ActionFacts] = Field(default_factory=dict[str, ActionFacts])
    nonces: list[str] = Field(default_factory=list[str])
    refused: list[Refused] = Field(default_factory=list[Refused])
    refused_total: int = 0
    kill: KillState = Field(default_factory=KillState)
    pauses: dict[str, PauseState] = Field(default_factory=dict[str, PauseState])
    resumed: dict[str, int] = Field(default_factory=dict[str, int])
    people: Directory | None = None
    capability: Minted | None = None
    refs: list[str] = Field(default_factory=list[str])
    deadline: int = 0
    turn: OpenTurn | None = None
    segments: list[Segment] = Field(default_factory=list[Segment])
    window: Window | None = None
    starts: list[int] = Field(default_factory=list[int])
    context_tokens: int = 0
    stopped_by: str = ""
    summary: str = ""
    fallbacks: int = 0
    fell_back_from: str = ""
    tally: Tally = Tally()
    stepped_down: AutonomyMode | None = None
    moves: list[Move] = Field(default_factory=list[Move])
    classification: Classification | None = None
    waiting: ProviderWait | None = None
    reminded: bool = False
    retries: int = 0
    last_retry: str = ""
    _events: int = PrivateAttr(default=0)  # of this history only
    _bytes: int = PrivateAttr(default=0)

    @classmethod
    def of(cls, args: Sequence[object], *, continued: bool) -> "RunState":
        """The state that a workflow starts from.

        Args:
            continued: whether the server says that an earlier segment continued as this one. Only then may the input be a
                whole state; a stranger's start input can't bring a capsule of its own.

        Raises:
            InvalidInput: it isn't one object of the right form; the message says what is wrong, without the input.
        """
        if len(args) != 1:
            raise InvalidInput(f"`AgentRun` takes one input, got {len(args)}; give one JSON object with `agent` and `inputs`.")
        try:
            if continued:
                return cls.model_validate(args[0])
            return cls(start=StartInput.model_validate(args[0]))
        except ValidationError as e:
            raise InvalidInput(f"The input of `AgentRun` can't be used: {explain(e)}.") from None

    def append(self, message: Message) -> None:
        """Put `message` at the end of the transcript."""
        text = message.model_dump_json()
        self.messages.append(text)
        self.head = chain(self.head, text)
        self._spend(MESSAGE_EVENTS, len(text))

    def heard(self, args: Sequence[RawValue]) -> None:
        """A signal or an update came, whatever is in it."""
        self._spend(SIGNAL_EVENTS, sum(len(a.payload.data) for a in args))

    def _spend(self, events: int, size: int) -> None:
        self._events += events
        self._bytes += size

    @property
    def full(self) -> bool:
        """Whether this history should end soon, and the run go on in a new one: by our own count.

        The server's own hint differs on replay: while a local activity outlasts a workflow task, the run is told the hint of
        that task, and on replay the hint of a later one.
        """
        events = (self.capsule and self.capsule.history_events) or HISTORY_EVENTS
        return self._events >= events or self._bytes >= HISTORY_BYTES

    def began(self, rules: ContextRules, input_tokens: int) -> None:
        """A turn is about to start; the model call that made it took `input_tokens`."""
        if rules.tokens is not None:
            self.context_tokens = input_tokens
            self.starts = [*self.starts, self.length][-2 * rules.keep_turns :]

    def compactable(self, rules: ContextRules) -> int | None:
        """Up to which message the conversation should be compacted now; None when it needn't be, or for too little."""
        if rules.tokens is None or self.context_tokens <= rules.tokens or len(self.starts) < 2 * rules.keep_turns:
            return None
        return self.starts[-rules.keep_turns]

    def compacted(self, window: Window) -> None:
        """From now on, the model is shown what `window` leaves."""
        self.window = window
        self.starts = [start for start in self.starts if start >= window.until]
        self.context_tokens = 0

    def shorter(self) -> Window | None:
        """What to show of a conversation that the model found too long; None when nothing more can be left out.

        First the results of all turns but the last one go, then those too. The model may call the tools again.
        """
        last = next((i for i in reversed(range(len(self.messages))) if self.messages[i].startswith(_ASSISTANT)), 0)
        window = self.window or Window(until=0)
        for emptied in (self.offset + last, self.length):
            # The task and the call come before the first result, so less than three messages hold none.
            if emptied > max(window.emptied, 0 if window.note else window.until, 2):
                return window.model_copy(update={"emptied": emptied, "made_at": self.length})
        return None

    @property
    def offset(self) -> int:
        """How many messages lie in storage."""
        return self.segments[-1].until if self.segments else 0

    @property
    def length(self) -> int:
        """How many messages there are."""
        return self.offset + len(self.messages)

    def to_archive(self) -> Archive | None:
        """What should go to storage before the run goes on in a new history: all but the turn at hand, if that is much."""
        if self.capsule is None or sum(map(len, self.messages)) < ARCHIVE_BYTES:
            return None
        until, open_turn = self.length, "-"
        if self.turn:
            first = self.turn.calls[0]
            until, open_turn = first.slot - first.index - 1, f"ap-{self.step}-"
        closed = [k for k, a in self.approvals.items() if a.status != "pending" and not k.startswith(open_turn)]
        return Archive(
            capsule=self.capsule.digest,
            cursor=self.length,
            transcript=self.head,
            since=self.offset,
            until=until,
            calls=len(self.calls),
            approvals=tuple(closed),
        )

    def archived(self, gone: Archive, segment: Segment) -> None:
        """Forget what lies in storage now."""
        self.messages = self.messages[gone.until - gone.since :]
        self.calls = self.calls[gone.calls :]
        self.approvals = {k: a for k, a in self.approvals.items() if k not in gone.approvals}
        self.segments.append(segment)
        self.start = self.start.model_copy(update={"script": None})

    def page(self, since: int) -> TranscriptPage:
        """The transcript from message `since` on, up to `PAGE_BYTES` of it; where the rest is, for what lies in storage."""
        chosen: list[str] = []
        size = 0
        for text in self.messages[max(0, since - self.offset) :]:
            size += len(text.encode())
            if chosen and size > PAGE_BYTES:
                break
            chosen.append(text)
        return TranscriptPage(
            since=since,
            total=self.length,
            digest=self.head,
            messages=tuple(chosen),
            script=self.start.script if since == 0 else None,
            segments=tuple(s for s in self.segments if s.until > since),
        )

    def counted(self, nonce: str) -> None:
        """Remember a decision that counted, so that the same one changes nothing when it is sent again."""
        self.nonces = [*self.nonces, nonce][-MAX_NONCES:]

    def refuse(self, name: str, reason: str, message: str, now: int) -> None:
        """Remember that a signal or update counted for nothing; the list is capped, the count isn't."""
        self.refused_total += 1
        self.refused = [*self.refused, Refused(name=name[:80], reason=reason, message=message[:300], at=now)][-MAX_REFUSED:]

    def seen_before(self, tool: str, arguments: str) -> int:
        """Count a call and say how often it was made with these arguments, this time included."""
        key = digest([tool, arguments])[7:23]
        count = self.identical.pop(key, 0) + 1
        self.identical[key] = count
        if len(self.identical) > MAX_IDENTICAL:  # the one that was made longest ago
            del self.identical[next(iter(self.identical))]
        return count

    def failed(self, tool: str, attempts: int = 1) -> None:
        self.failures[tool] = self.failures.get(tool, 0) + attempts

    def succeeded(self, tool: str) -> None:
        self.failures.pop(tool, None)

    def settle(self, approval_id: str, status: ApprovalStatus) -> None:
        """Record what became of an approval."""
        self.approvals[approval_id] = self.approvals[approval_id].model_copy(update={"status": status})
        self.judged.pop(approval_id, None)

    def escalate(self, approval_id: str, rules: ApprovalRules, now: int) -> None:
        """Let those decide too whom `rules` name by now."""
        approval = self.approvals[approval_id]
        roles = rules.roles_at(now - approval.request.requested_at)
        request = approval.request.model_copy(update={"roles": roles})
        self.approvals[approval_id] = approval.model_copy(update={"request": request, "escalated_at": now})

    def pause(self, pause: PauseState) -> None:
        """Park at the next step and before the next write, unless this pause has ended already."""
        if not 0 < pause.epoch <= self.resumed.get(pause.scope, 0):
            self.pauses.setdefault(pause.scope, pause)
        if pause.until:
            self._spend(LOOK_EVENTS, 0)

    def end_pauses(self, now: int) -> None:
        """End those that end by themselves, and have by now."""
        self.pauses = {scope: pause for scope, pause in self.pauses.items() if not 0 < pause.until <= now}

    @property
    def next_end(self) -> int:
        """When the first of the pauses ends by itself, in Unix seconds; 0 when none does."""
        return min((pause.until for pause in self.pauses.values() if pause.until), default=0)

    def wait(self, failure: ProviderFailure, seconds: int, now: int) -> None:
        """Wait for a provider so long before it is asked again."""
        before = self.waiting
        self.waiting = ProviderWait(
            provider=failure.provider,
            code=failure.code,
            message=failure.message[:1000],
            since=before.since if before else now,
            next_try=now + seconds,
            tries=before.tries + 1 if before else 1,
        )
        self.repeated([f"{failure.provider}: {failure.code}"])
        self._spend(LOOK_EVENTS, 0)

    def repeated(self, reasons: Sequence[str]) -> None:
        """A model call was repeated for each of these reasons, as in `openai: overloaded`."""
        if reasons:
            self.retries, self.last_retry = self.retries + len(reasons), reasons[-1]

    def resume(self, scope: str, epoch: int) -> None:
        """End the pause of `scope` that began before `epoch`; whichever there is, when that is 0.

        A run that waits for a provider asks it at once.
        """
        if self.waiting:
            self.waiting = self.waiting.model_copy(update={"next_try": 0})
        self.resumed[scope] = max(epoch, self.resumed.get(scope, 0))
        found = self.pauses.get(scope)
        if found and (epoch == 0 or found.epoch <= epoch):
            del self.pauses[scope]

    def rise(self, move: Move | None) -> bool:
        """Go to a stronger tier from the next model call on; whether there was a move to make."""
        if move is not None:
            self.tier = move.tier
            self.moves.append(move)
        return move is not None

    def step_down(self, mode: AutonomyMode | None) -> None:
        """Hold the agent to `mode` from now on, if that is less than what it may do."""
        if mode:
            self.stepped_down = lowest(mode, self.stepped_down or "live")

    @property
    def limits(self) -> UsageLimits:
        return self.capsule.limits if self.capsule else UsageLimits()

    @property
    def mode(self) -> AutonomyMode | None:
        """What the agent may do by itself; None before the run is admitted."""
        return lowest(self.capsule.agent.mode, self.stepped_down or "live") if self.capsule else None

    @property
    def minted(self) -> Minted | None:
        """The capability for reads; None in a run that was admitted before there were any."""
        return self.capability or (self.capsule.capability if self.capsule else None)

    @property
    def capability_id(self) -> str:
        return self.minted.id if self.minted else ""

    @property
    def directory(self) -> Directory:
        """Who may decide in this run."""
        return self.people or (self.capsule.directory if self.capsule else Directory())

    @property
    def pending(self) -> list[Approval]:
        return [a for a in self.approvals.values() if a.status == "pending"]

    def summary_view(self, run_id: str, workflow_id: str) -> RunSummary:
        """The answer of the query `status`."""
        capsule = self.capsule
        return RunSummary(
            run_id=run_id,
            workflow_id=workflow_id,
            agent=self.start.agent,
            status=self.status,
            stopped_by=self.stopped_by,
            summary=self.summary,
            subject=capsule.subject if capsule else "",
            requester=self.start.requester,
            policy_version=capsule.bundle.version if capsule else "",
            release=capsule.release if capsule else "",
            model=self.model,
            simulated=self.simulated,
            mode=self.mode or "",
            usage=self.usage,
            limits=self.limits,
            calls=tuple(self.calls),
            approvals=tuple(self.approvals.values()),
            refused=tuple(self.refused),
            refused_total=self.refused_total,
            kill=self.kill,
            pauses=tuple(self.pauses.values()),
            judged=self.judged,
            fallbacks=self.fallbacks,
            fell_back_from=self.fell_back_from,
            segments=tuple(self.segments),
            arm=capsule.arm if capsule else "",
            stage=capsule.stage if capsule else 0,
            over_ceiling=capsule.over_ceiling if capsule else None,
            withheld=capsule.withheld if capsule else (),
            moves=tuple(self.moves),
            classification=self.classification,
            waiting=self.waiting if self.status in OPEN else None,
            retries=self.retries,
            last_retry=self.last_retry,
        )

    def end(self, run_id: str, workflow_id: str, now: int) -> RunEnd | None:
        """What the ledger keeps of the run; None when it wasn't admitted, or before such records were kept."""
        capsule, usage = self.capsule, self.usage
        if capsule is None or not capsule.recorded:
            return None
        return RunEnd(
            run_id=run_id,
            workflow_id=workflow_id,
            agent=capsule.agent.name,
            release=capsule.release,
            mode=capsule.agent.mode,
            policy_version=capsule.bundle.version,
            subject=capsule.subject,
            outcome=self.status,
            started_at=capsule.admitted_at,
            closed_at=now,
            model_calls=usage.model_calls,
            tool_calls=usage.tool_calls,
            tokens=usage.input_tokens + usage.output_tokens,
            cost_micro_usd=usage.cost_micro_usd,
            unknown_cost_calls=usage.unknown_cost_calls,
            simulated=self.simulated,
            tally=self.tally,
            arm=capsule.arm,
        )

    def result(self, run_id: str, workflow_id: str, now: int) -> RunResult:
        """What the workflow returns when it closes."""
        return RunResult(
            run_id=run_id,
            workflow_id=workflow_id,
            agent=self.start.agent,
            outcome=self.status,
            summary=self.summary,
            stopped_by=self.stopped_by,
            usage=self.usage,
            closed_at=now,
            writes=tuple(_line(c) for c in self.calls if c.status == "done" and c.idempotency_key),
            refused=tuple(f"{_line(c)}: {c.reason}" for c in self.calls if c.status != "done"),
            cost_usd=self.usage.cost_micro_usd / 1_000_000,
            segments=tuple(self.segments),
        )


def _line(call: ToolCallView) -> str:
    amount = f" {call.amount}" if call.amount else ""
    return f"{call.tool} {call.resource}{amount}".strip()
