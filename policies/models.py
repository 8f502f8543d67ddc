"""The nouns of the domain as frozen data: identities, facts, verdicts, limits. No behaviour beyond what a field derives."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

__all__ = [
    "RISKS",
    "ActionFacts",
    "AgentIdentity",
    "ApprovalStatus",
    "AutonomyMode",
    "Cents",
    "Currency",
    "Decision",
    "Effect",
    "Frozen",
    "Idempotency",
    "Lean",
    "Money",
    "Obligation",
    "ResourceFacts",
    "ResourceRef",
    "Risk",
    "RunFacts",
    "RunStatus",
    "Taint",
    "Usage",
    "UsageLimits",
    "Verdict",
]

Effect = Literal["read", "write"]
Risk = Literal["low", "medium", "high", "critical"]
Idempotency = Literal["native_key", "lookup", "at_most_once"]
"""How a write is kept from happening twice: the vendor dedupes by our key, or can be searched for it, or does neither, so
that an unknown outcome goes to a human."""
RISKS: tuple[Risk, ...] = ("low", "medium", "high", "critical")
AutonomyMode = Literal["read_only", "draft", "live"]
RunStatus = Literal[
    "admitted",
    "running",
    "waiting_for_approval",
    "waiting_for_provider",
    "paused",
    "completed",
    "escalated",
    "stopped",
    "killed",
    "failed",
    "assigned",
]
"""`assigned`: a rollout gave the case to people, and the agent did nothing. `waiting_for_provider`: no model can be reached."""
ApprovalStatus = Literal["pending", "approved", "rejected", "expired", "cancelled", "consumed"]
Decision = Literal["allow", "deny", "require_approval"]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Cents = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Frozen(BaseModel):
    """Base of every value: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Lean(Frozen):
    """A value that leaves some of its fields out of its JSON while they are empty.

    Histories hold such values by the thousand, and digests are made of their JSON: a field that is added later must not
    change the digest of a value that doesn't use it.

    Attributes:
        optional: the fields that are left out while they are empty.
    """

    optional: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _lean(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {name: value for name, value in dump(self).items() if value or name not in self.optional}


class Money(Frozen):
    """An amount of business money in integer cents."""

    cents: Cents
    currency: Currency

    def __str__(self) -> str:
        """As people read it: `$49.00`, or `49.00 EUR`."""
        text = f"{self.cents // 100:,}.{self.cents % 100:02}"
        return f"${text}" if self.currency == "USD" else f"{text} {self.currency}"


class ResourceRef(Frozen):
    """What an action is about, for example `Invoice` `in_1001`."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"


class ResourceFacts(Frozen):
    """What a connector says of a resource, as recorded by `read_facts`; never what the model says.

    Attributes:
        owner: the subject that the resource belongs to, for example `Customer:cus_7`; empty when it has none.
        status: the vendor's status, for example `paid`.
        available_cents: how much may still be moved (refundable), in cents.
        currency: of `available_cents`; empty when the resource holds no money.
    """

    exists: bool = True
    owner: str = ""
    status: str = ""
    available_cents: int = 0
    currency: str = ""


class AgentIdentity(Frozen):
    """An agent as an employee: who it is, who answers for it, what it may touch."""

    id: str
    name: str
    owner: str
    role: str
    mode: AutonomyMode
    status: Literal["active", "suspended"] = "active"
    assurance: int = 1
    scopes: tuple[str, ...] = ()


class RunFacts(Frozen):
    """What the run itself knows when a verdict is made.

    Attributes:
        subject: whom the run is for, for example `Customer:cus_7`.
        calls_used: tool calls so far, this one included.
        approvals: different, verified people who approved exactly this action.
        model_tier: 1 for the route's cheap model, 2 for its strong one.
        assurance: of the agent's identity.
        tainted: text from outside was read earlier in the run.
        subject_sum_cents: amounts of this tool for this subject in the last 24 h: reserved, sent, done and unknown.
        delegated: a person handed the agent this tool for this run.
    """

    subject: str
    calls_used: int
    approvals: int
    model_tier: int
    assurance: int
    tainted: bool
    subject_sum_cents: int
    delegated: bool = False


class Taint(Frozen):
    """`context.taint`: where what the model has read came from.

    Attributes:
        untrusted: text from outside was read earlier in the run: a ticket, the web, a knowledge base.
    """

    untrusted: bool


class ActionFacts(Frozen):
    """All that a verdict depends on, next to the pinned policy: who, what, on what, and the facts."""

    agent: AgentIdentity
    tool: str
    resource: ResourceRef
    arguments: dict[str, object]
    run: RunFacts
    facts: ResourceFacts | None = None


class Obligation(Frozen):
    """A condition under which a denied action would be allowed, for example `approval:1`.

    People and a stronger model can be asked for; the assurance of the agent's identity is what it is.
    """

    kind: Literal["approval", "route", "assurance"]
    value: str


class Verdict(Frozen):
    """The policy's answer, with the ids of the policies that determined it (sorted)."""

    decision: Decision
    policy_ids: tuple[str, ...] = ()
    approvals_required: int = 0
    route_strong: bool = False
    reason: str = ""


class UsageLimits(Frozen):
    """Ceilings of one run. Money of model calls is in micro-USD, for a cent is too coarse for a call.

    Attributes:
        tool_calls: calls that the model may propose, refused ones included.
        attempts_per_step: failed tries in a row of the same tool, validation failures included.
        identical_calls: how often the same tool may be called with the same arguments.
        wall_seconds: from admission to close, waiting for humans included.
        approval_seconds: how long an approval may wait before it expires.
        on_limit: whether a run that meets a limit is `stopped`, or `escalated` to a human.
    """

    tool_calls: int = Field(default=20, ge=1)
    model_calls: int = Field(default=40, ge=1)
    attempts_per_step: int = Field(default=4, ge=1)
    identical_calls: int = Field(default=3, ge=1)
    tokens: int = Field(default=200_000, ge=1)
    cost_micro_usd: int = Field(default=2_000_000, ge=1)
    wall_seconds: int = Field(default=259_200, ge=1)
    approval_seconds: int = Field(default=86_400, ge=1)
    on_limit: Literal["stop", "escalate"] = "stop"


class Usage(Frozen):
    """What a run has used so far.

    Attributes:
        cost_micro_usd: of the model calls that answered.
        unknown_cost_calls: model calls that never answered: nobody knows whether they were billed, so `cost_micro_usd` is the
            least that it can be.
    """

    tool_calls: int = 0
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micro_usd: int = 0
    unknown_cost_calls: int = 0
