"""The lines of a trace: what a run was, one object a line. `docs/trace.md` describes them for who reads them.

Times are Unix milliseconds, business money is in cents, money of model calls in micro-USD.
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, TypeAdapter

from policies.approvals import Approval
from policies.models import (
    ActionFacts,
    AgentIdentity,
    AutonomyMode,
    Effect,
    Frozen,
    Money,
    ResourceRef,
    Risk,
    Usage,
    UsageLimits,
    Verdict,
)
from policies.routing import Route
from workflows.messages import Delegation, PinnedTool, TokenUsage

__all__ = [
    "LINE",
    "CallOutcome",
    "DocumentRef",
    "DroppedCall",
    "DroppedLine",
    "Judgement",
    "KillLine",
    "ModelLine",
    "OutcomeLine",
    "PauseLine",
    "RefusedLine",
    "ResumeLine",
    "RunLine",
    "ToolLine",
    "Trace",
    "TraceLine",
]


class _Line(Frozen):
    """What every line has.

    Attributes:
        seq: its number, from 0.
        at: when it was so, by the clock of the run's history.
    """

    seq: int = 0
    at: int


class RunLine(_Line):
    """The first line: which run this is, and what it was pinned to. A run that wasn't admitted is pinned to nothing.

    Attributes:
        agent: the name that the run was started with; `identity` is the agent as it was admitted.
        histories: how many histories of the run the trace was made from.
        whole: whether its first one is among them.
        release: digest of all that its behaviour depended on; the other digests are of parts of it.
        directory: digest of the people who could decide, with their keys.
    """

    kind: Literal["run"] = "run"
    run_id: str
    workflow_id: str
    agent: str
    identity: AgentIdentity | None = None
    requester: str = ""
    subject: str = ""
    inputs: dict[str, JsonValue]
    route: Route | None = None
    policy_version: str = ""
    policy_digest: str = ""
    prompt_digest: str = ""
    catalog_digest: str = ""
    release: str = ""
    corpus: str = ""
    directory: str = ""
    tools: tuple[PinnedTool, ...] = ()
    delegations: tuple[Delegation, ...] = ()
    limits: UsageLimits | None = None
    capsule: str = ""
    arm: str = ""
    stage: int = 0
    started_at: int
    admitted_at: int | None = None
    histories: int = 1
    whole: bool = True


class ModelLine(_Line):
    """A model call that was answered.

    Attributes:
        purpose: `decides`: it took a turn; `sums_up`: it wrote the note that stands for older turns; `classifies`: it said what
            the run is about.
        moved: why the run had moved up to this tier just before.
        request_digest: of the exact request, which the capsule lets anybody build again.
        calls: how many tool calls it asked for.
        stop: why the model stopped. The calls of an answer that was cut off were never made.
        retried: why earlier tries of this call gave no answer.
        event: the event in the history that asked for it.
    """

    kind: Literal["model"] = "model"
    step: int
    purpose: Literal["decides", "sums_up", "classifies"] = "decides"
    tier: int
    moved: str = Field(default="", exclude_if=lambda why: not why)
    provider: str
    model: str
    fallback_from: str = ""
    usage: TokenUsage
    cost_micro_usd: int
    price_digest: str
    request_digest: str
    latency_ms: int
    calls: int = 0
    stop: str = ""
    retried: tuple[str, ...] = ()
    event: int = 0


class Judgement(Frozen):
    """What was made of an action before it was carried out, or not.

    Attributes:
        at: Unix milliseconds.
        arguments: as they were judged: the model's, or those that a person put in their place.
        facts: all that the verdict rests on next to the pinned policy.
        verdict: None when no policy was asked: the agent's mode, the subject binding or a business rule refused.
        reason: code of the refusal, if it was refused.
    """

    at: int
    arguments: dict[str, JsonValue]
    mode: AutonomyMode
    facts: ActionFacts
    verdict: Verdict | None = None
    reason: str = ""


class CallOutcome(Frozen):
    """What came of a call.

    Attributes:
        status: of a write that was done, `done`; `not_carried_out`: the run ended before.
        attempt: which try of the activity answered.
        result_digest: of what the model was told; empty when it wasn't.
        ref: where the whole of a long result lies.
    """

    status: Literal["done", "refused", "approval_required", "killed", "indeterminate", "paused", "not_carried_out"]
    reason: str = ""
    detail: str = ""
    attempt: int = 1
    result_digest: str = ""
    ref: str = ""


class DocumentRef(Frozen):
    """A document that was read, by the digest of its text."""

    document_id: str
    digest: str


class ToolLine(_Line):
    """A tool call, from what the model asked for to what came of it.

    Attributes:
        kind: `retrieve` when it brought documents.
        tool, version: as in the catalog; a tool that the agent doesn't have has no version.
        validation: `invalid` when its arguments don't parse, or the tool isn't the agent's to use; `raw` is what the
            model gave then.
        proposed: the model's arguments; `arguments` are those of the last judgement.
        facts, verdict, mode: of the last judgement; `earlier` are those before, oldest first.
        capability: id of the capability that it was carried out under.
        approvals: all that it was put before people for, with every signed decision.
        action_digest: of exactly this action, which is what people approve.
        event: the event in the history that asked for its last execution; 0 for a local activity.
    """

    kind: Literal["tool", "retrieve"] = "tool"
    step: int
    index: int
    call_id: str
    tool: str
    version: str = ""
    effect: Effect = "read"
    risk: Risk = "low"
    validation: Literal["valid", "invalid"] = "valid"
    raw: str = ""
    proposed: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    arguments: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    resource: ResourceRef | None = None
    amount: Money | None = None
    facts: ActionFacts | None = None
    verdict: Verdict | None = None
    mode: AutonomyMode | None = None
    earlier: tuple[Judgement, ...] = ()
    capability: str = ""
    approvals: tuple[Approval, ...] = ()
    idempotency_key: str = ""
    action_digest: str = ""
    outcome: CallOutcome
    corpus_digest: str = ""
    documents: tuple[DocumentRef, ...] = ()
    event: int = 0


class DroppedCall(Frozen):
    """A call of a turn that didn't count."""

    index: int
    tool: str
    raw: str
    judgement: Judgement | None = None


class DroppedLine(_Line):
    """A turn that was decided again by the stronger model, or that a limit came before: none of its calls was carried out."""

    kind: Literal["dropped"] = "dropped"
    step: int
    calls: tuple[DroppedCall, ...]


class RefusedLine(_Line):
    """A signal or an update that counted for nothing."""

    kind: Literal["refused"] = "refused"
    name: str
    reason: str
    message: str


class PauseLine(_Line):
    """The run was told to wait, or found a pause or a used-up cap at the gate."""

    kind: Literal["pause"] = "pause"
    scope: str
    reason: str
    by: str = ""
    epoch: int = 0


class ResumeLine(_Line):
    """A pause ended."""

    kind: Literal["resume"] = "resume"
    scope: str


class KillLine(_Line):
    """The run was stopped. From `acknowledged_at` on, no new write could begin."""

    kind: Literal["kill"] = "kill"
    reason: str
    by: str = ""
    scope: str = ""
    requested_at: int
    acknowledged_at: int | None = None


class OutcomeLine(_Line):
    """The last line of a run that has closed.

    Attributes:
        status: the run's own; `closed_by` is how its workflow ended, as Temporal says it: `completed`, `failed`, `terminated`.
        usage: the sum of what its lines used.
        cost_usd: of model calls.
        latency_ms: from start to close, waiting for people included.
    """

    kind: Literal["outcome"] = "outcome"
    status: str
    closed_by: str
    stopped_by: str = ""
    summary: str = ""
    usage: Usage
    cost_usd: float
    latency_ms: int


TraceLine = Annotated[
    RunLine | ModelLine | ToolLine | DroppedLine | RefusedLine | PauseLine | ResumeLine | KillLine | OutcomeLine,
    Field(discriminator="kind"),
]
LINE: TypeAdapter[TraceLine] = TypeAdapter(TraceLine)


class Trace(Frozen):
    """A run from its first line to its last. One that is still open has no `OutcomeLine`."""

    lines: tuple[TraceLine, ...]

    @property
    def run(self) -> RunLine:
        """Its first line."""
        first = self.lines[0]
        assert isinstance(first, RunLine)
        return first

    @property
    def outcome(self) -> OutcomeLine | None:
        """How it ended; None while it is open."""
        last = self.lines[-1]
        return last if isinstance(last, OutcomeLine) else None

    @property
    def tools(self) -> list[ToolLine]:
        """Its tool calls, in the order in which they were observed."""
        return [line for line in self.lines if isinstance(line, ToolLine)]

    def dicts(self) -> list[dict[str, JsonValue]]:
        """Each line as a JSON object."""
        return [line.model_dump(mode="json") for line in self.lines]

    def jsonl(self) -> str:
        """As `remit trace` prints it."""
        return "".join(f"{line.model_dump_json()}\n" for line in self.lines)
