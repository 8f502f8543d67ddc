"""Wire contracts: what crosses between clients, workflows and activities, and the names they meet under.

These models are durable: stored histories hold them. Add optional fields only.
"""

from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue
from temporalio.common import SearchAttributeKey

from policies.approvals import Approval
from policies.bundle import ApprovalRules, Bundle, ContextRules, WriteLimits
from policies.canonical import digest
from policies.errors import CapReached
from policies.identity import Directory
from policies.models import (
    ActionFacts,
    AgentIdentity,
    ApprovalStatus,
    AutonomyMode,
    Frozen,
    Lean,
    Money,
    ResourceFacts,
    RunStatus,
    Usage,
    UsageLimits,
)
from policies.privacy import PrivacyRules
from policies.rising import MovesUp, WhyMoved
from policies.rollout import Arm
from policies.routing import Route
from policies.value import OverCeiling
from tools.results import READ_MORE

__all__ = [
    "AGENT_RUN",
    "CAP_REACHED",
    "CLASSIFY",
    "ENCRYPTED",
    "ENCRYPTION_KEY",
    "FINAL_ANSWER",
    "LOST",
    "PROVIDER_BUSY",
    "REMIT_AGENT",
    "REMIT_AWAITING_APPROVAL",
    "REMIT_COST_USD",
    "REMIT_POLICY",
    "REMIT_RISK",
    "REMIT_STATUS",
    "REMIT_SUBJECT",
    "SEARCH_ATTRIBUTES",
    "TASK_QUEUE",
    "Admission",
    "Archive",
    "AssistantMessage",
    "CallModel",
    "Capped",
    "Capsule",
    "Classification",
    "Decided",
    "Delegation",
    "ExecuteTool",
    "FinalAnswer",
    "KillState",
    "Message",
    "MintCapability",
    "Minted",
    "ModelTurn",
    "Move",
    "PauseState",
    "PinnedTool",
    "ProviderFailure",
    "ProviderState",
    "ProviderWait",
    "ReadFacts",
    "ReadPeople",
    "ReadTool",
    "RecordedFacts",
    "Refused",
    "RunResult",
    "RunSummary",
    "ScriptCall",
    "ScriptTurn",
    "Segment",
    "StartInput",
    "StopReason",
    "StoredSegment",
    "TokenUsage",
    "ToolCallView",
    "ToolMessage",
    "ToolOutcome",
    "ToolRequest",
    "TranscriptPage",
    "UserMessage",
    "Window",
    "WriteKill",
]

AGENT_RUN = "AgentRun"
FINAL_ANSWER = "final_answer"
"""The tool with which a model ends a run; offered to every agent, and carried out by the workflow itself."""
CLASSIFY = "classify"
"""The one tool of the call in which the cheapest tier says what a run is about; nothing is carried out for it."""
LOST = "remit/lost"
"""Encoding of a payload in the place of one that external storage hasn't got; its data says so in one sentence."""
TASK_QUEUE = "remit"
PROVIDER_BUSY = "provider_busy"
"""How `call_model` fails when the provider's limits left it no turn: nothing was sent, and the run asks again."""
CAP_REACHED = CapReached.code
"""How `admit` and `call_model` fail when a cap across runs leaves no room; the details are `Capped`."""
ENCRYPTED = b"binary/remit-encrypted"
"""The `encoding` of a payload that the codec encrypted; one that still has it when it is read couldn't be decrypted."""
ENCRYPTION_KEY = "encryption-key-id"
"""The metadata that names its key."""

REMIT_AGENT = SearchAttributeKey.for_keyword("RemitAgent")
REMIT_STATUS = SearchAttributeKey.for_keyword("RemitStatus")
REMIT_AWAITING_APPROVAL = SearchAttributeKey.for_bool("RemitAwaitingApproval")
REMIT_POLICY = SearchAttributeKey.for_keyword("RemitPolicy")
REMIT_RISK = SearchAttributeKey.for_keyword("RemitRisk")
REMIT_COST_USD = SearchAttributeKey.for_float("RemitCostUsd")
REMIT_SUBJECT = SearchAttributeKey.for_keyword("RemitSubject")
"""`policies.switches.subject_tag` of whom the run is for: search attributes aren't encrypted, so it isn't said plainly."""
SEARCH_ATTRIBUTES = (
    REMIT_AGENT,
    REMIT_STATUS,
    REMIT_AWAITING_APPROVAL,
    REMIT_POLICY,
    REMIT_RISK,
    REMIT_COST_USD,
    REMIT_SUBJECT,
)


StopReason = Literal["end", "tool_calls", "length", "refusal", "content_filter", "pause", "context_exceeded"]
"""Why a model stopped: it had said all; it wants results of tools; its answer was cut off by the limit of output tokens; it
declined; its vendor withheld the answer; it will go on when it is asked again; the conversation is too long for it."""


class TokenUsage(Lean):
    """Tokens of one model call. `simulated` marks those of the scripted provider.

    Attributes:
        input_tokens: all that was read, from the cache or not.
        output_tokens: all that was written, reasoning included.
        cached_input_tokens: those of `input_tokens` that came from the vendor's prompt cache.
        cache_write_tokens: those of `input_tokens` that the vendor wrote into its prompt cache, and bills as such.
        reasoning_tokens: those of `output_tokens` that were spent on reasoning.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"cache_write_tokens", "reasoning_tokens"})

    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cached_input_tokens: int = Field(default=0, ge=0)
    cache_write_tokens: int = Field(default=0, ge=0)
    reasoning_tokens: int = Field(default=0, ge=0)
    simulated: bool = False


class ScriptCall(Frozen):
    """A tool call of a scripted turn."""

    name: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class ScriptTurn(Lean):
    """What the `scripted` provider answers in one turn.

    Attributes:
        stop: why it stops there; by default as the turn looks: to have tools called, or because all is said.
        classify: the arguments of `classify`, if the run is classified before this turn.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"stop", "classify"})

    text: str = ""
    tool_calls: tuple[ScriptCall, ...] = ()
    usage: TokenUsage | None = None
    stop: StopReason | None = None
    classify: dict[str, JsonValue] | None = None


class StartInput(Frozen):
    """The one input of `AgentRun`.

    Attributes:
        inputs: what the agent's `agent.toml` asks for, for example `{"ticket_id": "T-1001"}`.
        requester: who asked for the run, as the directory knows them, or `service:NAME`; this person can't approve in it.
        script: turns of the `scripted` provider, instead of a real model.
    """

    agent: str = Field(min_length=1, max_length=100)
    inputs: dict[str, JsonValue] = Field(default_factory=dict)
    requester: str = Field(default="", max_length=200)
    script: tuple[ScriptTurn, ...] | None = None

    def lean(self) -> dict[str, JsonValue]:
        """As it is sent: what isn't set is left out."""
        return self.model_dump(mode="json", exclude_none=True, exclude_defaults=True) | {"agent": self.agent}


class ToolRequest(Frozen):
    """A tool call as the model gave it; `arguments` is its JSON text, which may not parse."""

    id: str
    name: str
    arguments: str


class UserMessage(Frozen):
    role: Literal["user"] = "user"
    text: str


class ProviderState(Frozen):
    """What a vendor gave beside an answer and wants back with it: signed thinking blocks, encrypted reasoning, signatures.

    It is opaque, carries no authority, and is sent to nobody but the same provider's same model.

    Attributes:
        provider: `openai`, `anthropic` or `google`.
        model: the name under which the model was asked.
        items: in the vendor's own form, as its provider module keeps them.
    """

    provider: str
    model: str
    items: tuple[JsonValue, ...]

    def is_of(self, provider: str, model: str) -> bool:
        """Whether it may be sent back to `model` of `provider`."""
        return (self.provider, self.model) == (provider, model)


class AssistantMessage(Lean):
    optional: ClassVar[frozenset[str]] = frozenset({"state"})

    role: Literal["assistant"] = "assistant"
    text: str = ""
    tool_calls: tuple[ToolRequest, ...] = ()
    state: ProviderState | None = None


class ToolMessage(Frozen):
    """What came of a tool call, for the model: JSON text."""

    role: Literal["tool"] = "tool"
    call_id: str
    name: str
    content: str


Message = Annotated[UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class FinalAnswer(Frozen):
    """The structured end of a run, given through the tool `final_answer`."""

    outcome: Literal["resolved", "escalated", "no_action"] = Field(
        description="resolved: the task is done. escalated: a person must take over. no_action: nothing was needed."
    )
    summary: Annotated[str, Field(max_length=4000, description="Two or three sentences for the person who reads the log.")]


class PinnedTool(Frozen):
    """A tool that the run may be offered, as it was at admission."""

    name: str
    version: str
    digest: str


class Withheld(Frozen):
    """A tool of the agent that the run isn't offered, and why."""

    name: str
    why: str


class Minted(Frozen):
    """A capability, by its id in the ledger; its token is in no history. `expires_at` in Unix seconds."""

    id: str
    expires_at: int


class Delegation(Frozen):
    """A tool that a person handed the agent for this run. `expires_at` in Unix seconds.

    Attributes:
        ceiling: the most that the run may move with it, all calls together.
        by: the person, whose key `key_id` signed it.
    """

    id: str
    tool: str
    ceiling: Money | None
    by: str
    key_id: str
    expires_at: int


class PauseState(Lean):
    """A pause that a run was told of, or met at the gate; or a cap across runs that leaves it no room.

    Attributes:
        epoch: of the pause, in the order of the ledger's switches.
        until: Unix seconds at which it ends by itself; 0 when somebody must end it.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"until"})

    scope: str
    reason: str
    by: str = ""
    epoch: int = 0
    since: int = 0
    until: int = 0


class ProviderFailure(Frozen):
    """Why `call_model` gave up: the second detail of its failure, after the number of calls that may have been billed.

    Attributes:
        code: as in `activities.providers.base.ProviderError`.
        waits: whether the run is to wait and ask again, because the failure isn't the run's own.
        after_s: how long the provider wants to be left alone, in seconds; at most five minutes.
    """

    provider: str
    code: str
    message: str
    waits: bool
    after_s: int = 0


class ProviderWait(Frozen):
    """A run that can't reach its model waits, and asks again. Times are Unix seconds.

    Attributes:
        code, message: what the last try came to.
        tries: how often it was asked in vain since `since`.
        next_try: when it asks again; 0 when somebody has said `resume`.
    """

    provider: str
    code: str
    message: str
    since: int
    next_try: int
    tries: int


class Capped(Frozen):
    """A cap across runs left no room.

    Attributes:
        cap: its name in `limits.toml`.
        pause: what holds the run; None when it isn't to wait.
    """

    cap: str
    pause: PauseState | None = None


_ADDED = (
    "capability",
    "delegations",
    "priority",
    "weight",
    "history_events",
    "paused",
    "recorded",
    "held_to_mode",
    "arm",
    "stage",
    "over_ceiling",
    "withheld",
    "privacy",
    "moves_up",
    "model_protocol",
    "answer",
)


class Capsule(Frozen):
    """Everything a run is pinned to, fixed at admission and held once in its history. Times are Unix seconds.

    Attributes:
        capability: the first one of the run, for its reads; the proof that a worker admitted it.
        paused: the pause that it was admitted under.
        priority, weight: the agent's place among those that wait for a worker, as its `agent.toml` says.
        history_events: how many events fill a history, so that the run goes on in a new one.
        recorded: whether the run ends with `record_run`, as it does since there are such records.
        held_to_mode: whether its workflow holds the agent to its mode by itself, as it does since then; the worker always does.
        release: digest of all that its behaviour depends on: `policies.rollout.Release`.
        arm: who does the work, in a rollout; `stage` is the share of the candidate then, in percent.
        over_ceiling: what the agent's outcomes cost, when that was so much that this run keeps to the cheaper model.
        withheld: what of the agent's tools isn't among `tools`, for nobody has reviewed it as it is.
        privacy: what is hidden from models; None when nothing is.
        moves_up: when its route moves up, next to what policy asks for.
        model_protocol: what the workflow makes of a model's answer. 1: it looks at why the model stopped, waits for a provider
            that can't be reached, and offers the same tools in every turn; 0 in a run from before that.
        answer: `text` when the agent's plain text is its final answer; otherwise the model must call `final_answer`.
    """

    run_id: str
    workflow_id: str
    agent: AgentIdentity
    requester: str
    subject: str
    prompt: str
    tools: tuple[PinnedTool, ...]
    catalog_digest: str
    bundle: Bundle
    limits: UsageLimits
    approver_roles: tuple[str, ...]
    route: Route
    corpus: str
    directory: Directory
    release: str
    admitted_at: int
    capability: Minted | None = None
    delegations: tuple[Delegation, ...] = ()
    paused: PauseState | None = None
    priority: int | None = None
    weight: int | None = None
    history_events: int | None = None
    recorded: bool = False
    held_to_mode: bool = False
    arm: Arm = ""
    stage: int = 0
    over_ceiling: OverCeiling | None = None
    withheld: tuple[Withheld, ...] = ()
    privacy: PrivacyRules | None = None
    moves_up: MovesUp | None = Field(default=None, exclude_if=lambda rules: rules is None)
    model_protocol: int = 0
    answer: Literal["", "text"] = ""

    @cached_property
    def digest(self) -> str:
        content = self.model_dump(mode="json")
        # Absent, they don't count: a capsule from before they existed keeps its digest.
        return digest({k: v for k, v in content.items() if v or k not in _ADDED})

    def delegation(self, tool: str) -> Delegation | None:
        """The permission to use `tool` that a person gave for this run."""
        return next((d for d in self.delegations if d.tool == tool), None)

    @cached_property
    def approval_rules(self) -> ApprovalRules:
        """Who may decide, and who else from when on, as the pinned bundle says."""
        return self.bundle.limits().approvals

    @cached_property
    def context_rules(self) -> ContextRules:
        """When the conversation is compacted, as the pinned bundle says."""
        return self.bundle.limits().context

    @cached_property
    def write_limits(self) -> WriteLimits:
        """How many writes the pinned bundle lets through."""
        return self.bundle.limits().writes

    @cached_property
    def result_bytes(self) -> int | None:
        """The longest result that the model is shown whole; None in a run that was admitted before it could read on."""
        pages = any(t.name == READ_MORE for t in self.tools)
        return self.bundle.limits().results.bytes if pages else None


class Admission(Frozen):
    """Input of `admit`: the start input without its script, which history already holds."""

    run_id: str
    agent: str
    inputs: dict[str, JsonValue]
    requester: str
    scripted: bool


class ReadPeople(Frozen):
    """Input of `read_people`: the keys that decisions say they were signed by, unverified."""

    kids: tuple[str, ...]


class Window(Lean):
    """What a compacted conversation leaves out; indexes are those of messages in the transcript.

    Attributes:
        until: the first message that is shown as it is.
        note: the message that sums up what comes before `until`; None when only tool results are left out there.
        made_at: how many messages there were when it was made. What vendors gave with answers before that is bound to a
            conversation that they aren't shown any more, so it isn't sent back.
        emptied: results of tools before this message are left out too, because the model found the conversation too long.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"made_at", "emptied"})

    until: int
    note: int | None = None
    made_at: int = 0
    emptied: int = 0


class CallModel(Lean):
    """Input of `call_model`: a cursor into the transcript, not the transcript.

    Attributes:
        cursor: how many messages there are.
        transcript: running digest of those messages.
        capsule: digest of the run's capsule.
        window: what of them the model is shown; all when None.
        summarise: instead of taking a turn, the model sums up what it is shown before this message.
        paging: whether the run has a result that the model may read on in.
        room: how often this answer was cut off already; each time doubles the limit of output tokens.
        tries: how often the run has asked for this answer in vain, in earlier activities.
        classify: instead of taking a turn, the model says what the run is about.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"room", "tries", "classify"})

    cursor: int
    transcript: str
    capsule: str
    tier: int
    step: int
    window: Window | None = None
    summarise: int | None = None
    paging: bool = False
    room: int = 0
    classify: bool = False
    tries: int = 0


class ModelTurn(Lean):
    """What a model call gave, what it cost and which exact request it answered.

    Attributes:
        provider, model: those that answered, whose price it is.
        fallback_from: the provider that should have answered, if another one did; and why, as in `openai: down`.
        lost: how often it was asked before without an answer, and perhaps billed: by attempts that died, or that failed in a
            way that doesn't say.
        stop: why the model stopped; empty in a history from before it was recorded.
        dialect: the form of the request, as its provider module names it, so that the body can be built again.
        retried: what went wrong before, in the order of the attempts, each as in `openai: rate_limited`.
        saved_micro_usd: what a prompt cache saved in it; negative when writing into one cost more.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"lost", "stop", "dialect", "retried", "saved_micro_usd"})

    message: AssistantMessage
    usage: TokenUsage
    provider: str
    model: str
    cost_micro_usd: int
    price_digest: str
    request_digest: str
    latency_ms: int
    fallback_from: str = ""
    lost: int = 0
    stop: StopReason | Literal[""] = ""
    dialect: str = ""
    retried: tuple[str, ...] = ()
    saved_micro_usd: int = 0


class Classification(Frozen):
    """What the cheapest tier said the run is about.

    Attributes:
        labels: those of the agent's classes that it named.
        confidence: how sure it was, from 0 to 1; 0 when its answer couldn't be read.
        step: before which turn it was asked.
    """

    labels: tuple[str, ...] = ()
    confidence: float = 0.0
    step: int = 0


class Move(Frozen):
    """A run moved up.

    Attributes:
        tier: to which one, from 1.
        step: the turn that this tier decides first.
        words: why, for people.
        invalid: how many calls hadn't been well formed by then.
    """

    tier: int
    step: int
    why: WhyMoved
    words: str
    invalid: int = 0


class RecordedFacts(Frozen):
    """What lies outside the run, recorded before a write is judged.

    Attributes:
        minted: the capability for the write, if it needs nobody's approval.
    """

    facts: ResourceFacts
    subject_sum_cents: int = 0
    minted: Minted | None = None


class ReadTool(Frozen):
    """Input of `read_tool`: a read, with all that binds it.

    Attributes:
        slot: where its result goes in the transcript.
        result_bytes: the longest result that the model is shown whole; None for any.
    """

    capsule: str
    subject: str
    corpus: str
    tool: str
    arguments: str
    call_id: str
    slot: int
    capability: str = ""
    result_bytes: int | None = None


class ExecuteTool(Frozen):
    """Input of `execute_tool`: a write that was authorized, to be checked again beside the side effect.

    Attributes:
        edits: the approvals that ended with an edit of this call, oldest first; `arguments` are those of the last one.
    """

    capsule: str
    step: int
    index: int
    slot: int
    call_id: str
    tool: str
    arguments: str
    idempotency_key: str
    action_digest: str
    calls_used: int
    model_tier: int
    tainted: bool
    approval: Approval | None = None
    capability: str = ""
    edits: tuple[Approval, ...] = ()


class ReadFacts(Frozen):
    """Input of `read_facts`.

    Attributes:
        admitted, write: the run's capsule and the write as it would be made, so that a capability is minted for it at once
            if it needs nobody's approval.
    """

    subject: str
    tool: str
    arguments: str
    capsule: str = ""
    corpus: str = ""
    capability: str = ""
    admitted: Capsule | None = None
    write: ExecuteTool | None = None


class MintCapability(Frozen):
    """Input of `mint_capability`: the run's reads, or with `write` that one write, after it was approved."""

    capsule: Capsule
    write: ExecuteTool | None = None
    recorded: RecordedFacts | None = None


class ToolOutcome(Frozen):
    """What came of a tool call.

    Attributes:
        status: `refused` goes back to the model; `approval_required` asks people; `killed` and `indeterminate` end the run.
        content: JSON text for the model.
        reason: stable code of a refusal.
        attempt: which try of the activity answered, from 1.
        subject_sum_cents: set with `approval_required`: the sum that the verdict rests on now.
        paused: set with `paused`: the pause, or the cap across runs, that nothing was done for.
        ref: where the whole of a result lies that was too long to show.
        mode: set with `approval_required`: the mode that the agent is held to now.
    """

    status: Literal["done", "refused", "approval_required", "killed", "indeterminate", "paused"]
    content: str = ""
    reason: str = ""
    attempt: int = 1
    subject_sum_cents: int | None = None
    paused: PauseState | None = None
    ref: str = ""
    mode: AutonomyMode | None = None


class WriteKill(Frozen):
    """Input of `write_kill`. `run_id` is that of the run's first segment."""

    run_id: str
    reason: str
    by: str = ""


class Decided(Frozen):
    """Answer of the update `decide`: how the approval stands now."""

    approval_id: str
    status: ApprovalStatus
    approvers: tuple[str, ...]
    required: int


class KillState(Frozen):
    """Answer of the query `kill_switch`. Times are Unix seconds; acknowledged means: no new write can start.

    Attributes:
        scope: of the switch that the run was told of; empty for a kill of this run alone.
    """

    engaged: bool = False
    reason: str = ""
    by: str = ""
    requested_at: int | None = None
    acknowledged_at: int | None = None
    scope: str = ""


class Refused(Frozen):
    """A signal or update that counted for nothing, and why."""

    name: str
    reason: str
    message: str
    at: int


class ToolCallView(Frozen):
    """One tool call as operators see it."""

    step: int
    tool: str
    resource: str = ""
    amount: Money | None = None
    status: str
    reason: str = ""
    policy_ids: tuple[str, ...] = ()
    idempotency_key: str = ""
    detail: str = ""


class Segment(Frozen):
    """A finished part of a run that lies in storage, and not in the run's state any more.

    Attributes:
        key: where, as `activities.storage` gave it.
        since, until: its messages, `until` not included.
        head: the running digest of the transcript up to there.
        calls: how many tool calls are described in it.
    """

    key: str
    since: int
    until: int
    head: str
    calls: int


class StoredSegment(Frozen):
    """What a segment holds, as JSON in storage. `script` is in the first one of a scripted run."""

    messages: tuple[str, ...]
    calls: tuple[ToolCallView, ...] = ()
    approvals: tuple[Approval, ...] = ()
    script: tuple[ScriptTurn, ...] | None = None


class Archive(Frozen):
    """Input of `archive`: which part of the run is to go to storage.

    Attributes:
        cursor, transcript: how many messages there are, and their running digest.
        since, until: the messages that go.
        calls: how many of the run's tool calls go, oldest first; `approvals` are the ids of those that go.
    """

    capsule: str
    cursor: int
    transcript: str
    since: int
    until: int
    calls: int
    approvals: tuple[str, ...] = ()


class TranscriptPage(Frozen):
    """Answer of the query `transcript`: each message as its JSON text, once.

    Attributes:
        since: the first message that was asked for.
        segments: where the ones before `messages` lie, if they lie in storage.
    """

    since: int
    total: int
    digest: str
    messages: tuple[str, ...]
    script: tuple[ScriptTurn, ...] | None = None
    segments: tuple[Segment, ...] = ()


class RunResult(Frozen):
    """What a closed run returns. `summary` is the model's claim; `writes` and `refused` are what really came of its calls.

    Attributes:
        segments: where what came of earlier calls is described, in a run so long that they went to storage.
    """

    run_id: str
    workflow_id: str
    agent: str
    outcome: RunStatus
    summary: str
    stopped_by: str = ""
    usage: Usage
    closed_at: int
    writes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    cost_usd: float = 0.0
    segments: tuple[Segment, ...] = ()


class RunSummary(Frozen):
    """Answer of the query `status`.

    Attributes:
        judged: what the verdict on each pending approval rested on, so that another policy can be asked the same.
        fallbacks: how many model calls another provider answered than the route's first; `fell_back_from` is the last reason.
        segments: where earlier calls and approvals of a long run are described.
        withheld: tools of the agent that the run wasn't offered.
        moves: when it moved up to a stronger tier, and why.
        classification: what the cheapest tier said it is about.
        waiting: set while the run waits for a provider.
        retries: how often a model call had to be repeated; `last_retry` says why the last time, as in `openai: overloaded`.
    """

    run_id: str
    workflow_id: str
    agent: str
    status: RunStatus
    stopped_by: str = ""
    summary: str = ""
    subject: str = ""
    requester: str = ""
    policy_version: str = ""
    release: str = ""
    model: str = ""
    simulated: bool = False
    mode: str = ""
    usage: Usage
    limits: UsageLimits
    calls: tuple[ToolCallView, ...] = ()
    approvals: tuple[Approval, ...] = ()
    refused: tuple[Refused, ...] = ()
    refused_total: int = 0
    kill: KillState = Field(default_factory=KillState)
    pauses: tuple[PauseState, ...] = ()
    judged: dict[str, ActionFacts] = Field(default_factory=dict[str, ActionFacts])
    fallbacks: int = 0
    fell_back_from: str = ""
    segments: tuple[Segment, ...] = ()
    arm: Arm = ""
    stage: int = 0
    over_ceiling: OverCeiling | None = None
    withheld: tuple[Withheld, ...] = ()
    moves: tuple[Move, ...] = ()
    classification: Classification | None = None
    waiting: ProviderWait | None = None
    retries: int = 0
    last_retry: str = ""
