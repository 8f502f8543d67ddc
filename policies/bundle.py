"""A policy bundle: Cedar text and `limits.toml`, parsed, checked against the tools, and compiled. The caller loads the text."""

import json
import re
import tomllib
from functools import cached_property, lru_cache
from typing import Any, Literal, Self

import cedarpy
from pydantic import Field, ValidationError, model_validator

from policies.anomaly import Rule
from policies.canonical import digest
from policies.caps import Caps
from policies.errors import PolicyInvalid
from policies.gates import GateRules
from policies.models import Frozen, Obligation, UsageLimits
from policies.value import OutcomeRules

__all__ = [
    "ApprovalRules",
    "Bundle",
    "CompiledPolicy",
    "ContextRules",
    "Escalation",
    "Limits",
    "ResultLimits",
    "WriteLimits",
    "compile_policy",
    "explain",
]


class Escalation(Frozen):
    """Who else may decide on an approval that still waits `after_seconds` after it was asked for."""

    after_seconds: int = Field(ge=1)
    roles: tuple[str, ...] = Field(min_length=1)


class ApprovalRules(Frozen):
    """Who may decide on what this bundle puts before humans, and who else, step by step, when nobody has."""

    roles: tuple[str, ...] = ()
    escalation: tuple[Escalation, ...] = ()

    @model_validator(mode="after")
    def _steps_in_order(self) -> Self:
        times = [step.after_seconds for step in self.escalation]
        if times != sorted(set(times)):
            raise ValueError("each step of the escalation must come later than the one before")
        return self

    def roles_at(self, seconds: int) -> tuple[str, ...]:
        """The roles that may decide `seconds` after an approval was asked for."""
        due = (role for step in self.escalation if step.after_seconds <= seconds for role in step.roles)
        return tuple(dict.fromkeys((*self.roles, *due)))

    def in_time(self, approval_seconds: int) -> bool:
        """Whether every step comes before an approval expires."""
        return all(step.after_seconds < approval_seconds for step in self.escalation)


class WriteLimits(Frozen):
    """Writes that the ledger lets through at most, counted in the transaction that reserves them; None for any number.

    Attributes:
        per_run: reserved, sent, done and unknown ones of one run.
        per_agent_and_day: those of all runs of the agent in the last 24 h.
    """

    per_run: int | None = Field(default=None, ge=0)
    per_agent_and_day: int | None = Field(default=None, ge=0)


class ResultLimits(Frozen):
    """How much of a tool's result the model is shown at once; of a longer one it gets the head, and may read on."""

    bytes: int = Field(default=16_384, ge=8192, le=1_000_000)


class ContextRules(Frozen):
    """How a long conversation is kept within a model's context window.

    Attributes:
        tokens: how many input tokens a model call may take before older turns are compacted; None for any number.
        strategy: the older turns' tool results are dropped, or the turns are replaced by a summary that the model writes.
        keep_turns: the newest turns, which stay as they are; at least as many older ones are compacted at once.
    """

    tokens: int | None = Field(default=None, ge=1)
    strategy: Literal["drop_tool_results", "summarise"] = "drop_tool_results"
    keep_turns: int = Field(default=10, ge=1, le=1000)


class Limits(Frozen):
    """The content of a bundle's `limits.toml`."""

    run: UsageLimits = Field(default_factory=UsageLimits)
    approvals: ApprovalRules = Field(default_factory=ApprovalRules)
    writes: WriteLimits = Field(default_factory=WriteLimits)
    results: ResultLimits = Field(default_factory=ResultLimits)
    context: ContextRules = Field(default_factory=ContextRules)
    caps: Caps = Field(default_factory=Caps)
    gates: GateRules = Field(default_factory=GateRules)
    breaker: tuple[Rule, ...] = ()
    outcome: OutcomeRules | None = None

    @model_validator(mode="after")
    def _rules_once_each(self) -> Self:
        names = [rule.name for rule in self.breaker]
        if len(set(names)) < len(names):
            raise ValueError("two rules of the breaker look at the same, over the same window, and do the same")
        return self

    @model_validator(mode="after")
    def _escalates_in_time(self) -> Self:
        if not self.approvals.in_time(self.run.approval_seconds):
            raise ValueError(f"an escalation must come before approvals expire, after {self.run.approval_seconds} s")
        return self


class Bundle(Frozen):
    """A bundle's name and texts, exactly as they were loaded; pinned into each run."""

    name: str
    policy: str
    limits_toml: str

    @cached_property
    def digest(self) -> str:
        return digest(self)

    @property
    def version(self) -> str:
        """What `policy_version` shows: name and the start of the digest."""
        return f"{self.name}@{self.digest[:19]}"

    def limits(self) -> Limits:
        """The parsed `limits.toml`.

        Raises:
            PolicyInvalid: it isn't TOML, or has a field that doesn't exist.
        """
        try:
            return Limits.model_validate(tomllib.loads(self.limits_toml))
        except tomllib.TOMLDecodeError as e:
            raise PolicyInvalid(f"Bundle `{self.name}`: `limits.toml` isn't valid TOML: {e}.") from None
        except ValidationError as e:
            raise PolicyInvalid(f"Bundle `{self.name}`: `limits.toml`: {explain(e)}.") from None


class CompiledPolicy:
    """Parsed handles of one bundle against one schema: a decision costs microseconds."""

    def __init__(
        self, policies: cedarpy.PolicySet, schema: cedarpy.Schema, obligations: dict[str, tuple[Obligation, ...]]
    ) -> None:
        self.policies = policies
        self.schema = schema
        self.obligations = obligations

    @classmethod
    def parse(cls, bundle: Bundle, schema_json: str) -> Self:
        """Compile `bundle` against the schema that the tool catalog generates.

        Raises:
            PolicyInvalid: it doesn't parse, a policy has no unique `@id`, an obligation is unknown, or it doesn't validate.
        """
        where = f"Bundle `{bundle.name}`"
        try:
            parsed: dict[str, Any] = json.loads(cedarpy.policies_to_json_str(bundle.policy))
        except ValueError as e:
            raise PolicyInvalid(f"{where}: `policy.cedar` doesn't parse: {_one_line(e)}.") from None
        if parsed.get("templates") or parsed.get("templateLinks"):
            raise PolicyInvalid(f"{where}: policy templates aren't supported; write each policy out.")
        static: dict[str, Any] = {}
        obligations: dict[str, tuple[Obligation, ...]] = {}
        ids: dict[str, str] = {}
        for name, policy in parsed["staticPolicies"].items():
            notes: dict[str, str] = policy.get("annotations") or {}
            key = notes.get("id")
            if not key or key in static:
                raise PolicyInvalid(f"{where}: each policy needs an `@id` of its own; `{key or name}` has none or shares it.")
            static[key] = policy
            obligations[key] = tuple(_obligation(where, key, o) for o in (notes.get("obligation") or "").split())
            ids[name] = key
            if obligations[key] and policy["effect"] != "forbid":
                raise PolicyInvalid(
                    f"{where}: `{key}` permits, so its obligation would bind nobody; put `@obligation` on a `forbid`."
                )
        schema = cedarpy.Schema.from_json_str(schema_json)
        result = cedarpy.validate_policies(bundle.policy, schema)  # pyright: ignore[reportUnknownMemberType]  (`dict` without parameters)
        if not result.validation_passed:
            # Cedar knows a policy by its place in the text, its author by its `@id`.
            text = re.sub(r"^\[(\w+)\] for policy `\1`,", lambda m: f"policy `{ids[m[1]]}`:", _one_line(result.errors[0]))
            raise PolicyInvalid(f"{where}: {text}.")
        return cls(cedarpy.PolicySet.from_json_str(json.dumps({**parsed, "staticPolicies": static})), schema, obligations)


def _obligation(where: str, policy: str, text: str) -> Obligation:
    kind, _, value = text.partition(":")
    try:
        obligation = Obligation.model_validate({"kind": kind, "value": value})
    except ValidationError:
        obligation = None
    known = obligation and re.fullmatch("strong" if kind == "route" else r"[1-9][0-9]{0,2}", value)
    if not obligation or not known:
        raise PolicyInvalid(
            f"{where}: `{policy}` has the unknown obligation `{text}`; use `approval:N`, `route:strong` or `assurance:N`."
        )
    return obligation


def compile_policy(bundle: Bundle, schema_json: str) -> CompiledPolicy:
    """`CompiledPolicy.parse`, once per policy text and schema."""
    return _compiled(bundle.name, bundle.policy, schema_json)


@lru_cache(maxsize=64)
def _compiled(name: str, policy: str, schema_json: str) -> CompiledPolicy:
    return CompiledPolicy.parse(Bundle(name=name, policy=policy, limits_toml=""), schema_json)


def explain(error: ValidationError) -> str:
    """A pydantic error in one line, without the input: it may be secret, and it may be huge."""
    lines = error.errors(include_input=False, include_url=False, include_context=False)
    text = "; ".join(f"`{'.'.join(map(str, e['loc']))[:120] or '$'}` {e['msg']}" for e in lines[:5])
    return text if len(lines) <= 5 else f"{text}; and {len(lines) - 5} more"


def _one_line(error: object) -> str:
    return " ".join(str(error).split()).rstrip(".")
