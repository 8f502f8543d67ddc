"""What a tool declares, and the `@tool` decorator that checks it. No tool and no connector lives here."""

import inspect
from abc import ABC
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from policies.bundle import explain
from policies.canonical import canonical_json, digest
from policies.errors import ToolInvalid, ToolRefusal
from policies.models import Effect, Idempotency, Money, ResourceFacts, ResourceRef, Risk

__all__ = ["MAX_SETTLE_SECONDS", "Arguments", "Connector", "Result", "ToolContext", "ToolSpec", "spec_of", "tool"]

MAX_SETTLE_SECONDS = 20
"""How long an attempt may wait for a vendor to settle: with what comes before and after, it must end in time."""


class Arguments(BaseModel):
    """Base of a tool's arguments: strict types, no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, str_strip_whitespace=False)


class Result(BaseModel):
    """Base of what a tool returns to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Connector(ABC):  # noqa: B024  (a marker: each tool module derives the operations that it needs)
    """Base of a port to a vendor. Its implementations live in `tools/connectors`.

    A write that certainly didn't happen raises `ToolRefusal` (the vendor said no) or `Unavailable` (it wasn't let in); any
    other exception means that it may have happened.
    """

    async def aclose(self) -> None:  # noqa: B027  (most have nothing to release)
        """Release what the connector holds; called once, when its worker stops."""


C = TypeVar("C", bound=Connector)
A = TypeVar("A", bound=Arguments)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class ToolContext:
    """What a tool may use while it runs.

    Attributes:
        subject: whom the run is for, for example `Customer:cus_7`.
        idempotency_key: the key under which a write may happen once; empty for reads.
        corpus: the agent's knowledge corpus and version, for example `support-kb-v1`.
        capsule: digest of what the run is pinned to; no other run has it.
        result_bytes: the most of a result that the model is shown at once; 0 for a write.
    """

    subject: str
    connectors: Mapping[type[Connector], Connector]
    idempotency_key: str = ""
    corpus: str = ""
    capsule: str = ""
    result_bytes: int = 0

    def use(self, port: type[C]) -> C:
        """The connector that implements `port`.

        Raises:
            ToolInvalid: none is configured.
        """
        for declared, connector in self.connectors.items():
            if declared is port:
                return cast(C, connector)
        raise ToolInvalid(f"No connector for `{port.__name__}` is configured on this worker.")


@dataclass(frozen=True)
class ToolSpec:
    """One operation that an agent can be given. Built by `@tool`, never by hand.

    Attributes:
        scope: what an agent's `scopes` must contain, for example `billing:refund`.
        idempotency: how the write is kept from happening twice; None for reads.
        lookup: asks the vendor for the result of the write with `context.idempotency_key`; None if it has none. Only `lookup`
            tools have one.
        settle_seconds: after how long a request of a `lookup` tool either is found or never will be; None: nobody can say.
        fast: a read that takes milliseconds and may run as a local activity.
        untrusted: its result carries text from outside, which taints the run.
        facts: asks the connector about the resource (owner, status, what is available).
        rules: business rules over arguments and facts; raises `ToolRefusal`.
    """

    name: str
    version: str
    effect: Effect
    risk: Risk
    scope: str
    description: str
    arguments: type[Arguments]
    result: type[Result]
    run: Callable[[Any, ToolContext], Awaitable[Result]] = field(repr=False)
    resource_type: str
    resource_field: str
    amount_fields: tuple[str, str] | None
    idempotency: Idempotency | None
    fast: bool
    untrusted: bool
    facts: Callable[[Any, ToolContext], Awaitable[ResourceFacts]] | None = field(repr=False)
    rules: Callable[[Any, ResourceFacts], None] | None = field(repr=False)
    lookup: Callable[[Any, ToolContext], Awaitable[Result | None]] | None = field(default=None, repr=False)
    settle_seconds: int | None = None

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @cached_property
    def schema(self) -> dict[str, object]:
        """JSON Schema of the arguments, as models see it. Made once, for it goes with each model call; don't change it."""
        return self.arguments.model_json_schema()

    @property
    def card(self) -> dict[str, object]:
        """All that a model, a policy or a reviewer relies on, as JSON."""
        return {
            "id": self.id,
            "effect": self.effect,
            "risk": self.risk,
            "scope": self.scope,
            "description": self.description,
            "arguments": self.schema,
            "resource": [self.resource_type, self.resource_field],
            "idempotency": self.idempotency or "",
            "amount": list(self.amount_fields or ()),
            "untrusted": self.untrusted,
            # Only where it says something: the digests of all other tools, which open runs have pinned, stay as they are.
            **({"settle_seconds": self.settle_seconds} if self.settle_seconds else {}),
        }

    @cached_property
    def digest(self) -> str:
        """Changes when anything on its card changes."""
        return digest(self.card)

    def resource(self, arguments: Arguments) -> ResourceRef:
        """What a call with `arguments` is about."""
        name = str(getattr(arguments, self.resource_field)) if self.resource_field else self.resource_type.lower()
        return ResourceRef(type=self.resource_type, id=name)

    def amount(self, arguments: Arguments) -> Money | None:
        """The money that a call with `arguments` moves; None for a tool that moves none."""
        if self.amount_fields is None:
            return None
        cents, currency = self.amount_fields
        return Money(cents=getattr(arguments, cents), currency=getattr(arguments, currency))

    def bind(self, arguments: Arguments, facts: ResourceFacts, subject: str) -> None:
        """G1: what a call touches must belong to whom the run is for, as the vendor knows it.

        Raises:
            ToolRefusal: `not_found` or `not_subject`.
        """
        resource = self.resource(arguments).id
        if not facts.exists:
            raise ToolRefusal("not_found", f"`{resource}` doesn't exist.")
        if subject and facts.owner != subject:
            raise ToolRefusal("not_subject", f"`{resource}` isn't what this run is for.")

    def check(self, arguments: Arguments, facts: ResourceFacts) -> None:
        """The business rules. Rules that fail refuse: workflow code would meet their error again and again.

        Raises:
            ToolRefusal: what the rules raise, or `rules_failed`.
        """
        if self.rules is None:
            return
        try:
            self.rules(arguments, facts)
        except ToolRefusal:
            raise
        except Exception as e:
            raise ToolRefusal("rules_failed", f"The business rules of `{self.name}` failed: {type(e).__name__}.") from None

    def parse(self, arguments: str) -> Arguments:
        """The typed arguments in the JSON text that a model gave.

        Raises:
            ToolRefusal: `validation_failed`, saying which field and why.
        """
        try:
            parsed = self.arguments.model_validate_json(arguments)
        except ValidationError as e:
            raise ToolRefusal("validation_failed", f"`{self.name}`: {explain(e)}") from None
        try:
            # What is derived from arguments later, in workflow code, must not fail there: that task would be retried for ever.
            canonical_json(parsed)
            self.amount(parsed)
        except ValueError:
            raise ToolRefusal(
                "validation_failed",
                f"`{self.name}`: an argument is out of range; integers go up to 2**53 - 1, amounts from 0, in a currency.",
            ) from None
        return parsed


_ATTRIBUTE = "__remit_tool__"


def spec_of(function: object) -> ToolSpec | None:
    """The spec that `@tool` attached to `function`, or None."""
    spec = getattr(function, _ATTRIBUTE, None)
    return spec if isinstance(spec, ToolSpec) else None


def tool(
    *,
    effect: Effect,
    risk: Risk,
    scope: str,
    resource: tuple[str, str],
    version: str = "1",
    idempotency: Idempotency | None = None,
    amount: tuple[str, str] | None = None,
    facts: Callable[[Any, ToolContext], Awaitable[ResourceFacts]] | None = None,  # one may serve several tools
    rules: Callable[[A, ResourceFacts], None] | None = None,
    lookup: Callable[[A, ToolContext], Awaitable[R | None]] | None = None,
    settle_seconds: int | None = None,
    fast: bool = False,
    untrusted: bool = False,
) -> Callable[[Callable[[A, ToolContext], Awaitable[R]]], Callable[[A, ToolContext], Awaitable[R]]]:
    """Make an async function `(args, context) -> Result` a tool. Its docstring is what the model reads.

    Args:
        resource: the type of what the tool acts on, and the argument that holds its id; "" if there is only one.
        amount: the arguments that hold the cents and the currency that the tool moves.
        idempotency: what happens after an attempt that may have sent the write and didn't live to record it.
            `native_key`: it is sent again. The vendor must answer a key that it knows with what it did the first time.
            `lookup`: the vendor is asked first. What is found is recorded and not sent again; what isn't found is sent
            again only if the tool has `settle_seconds`, and else goes to a human.
            `at_most_once`: it isn't sent again, and goes to a human.
        lookup: `async (args, context) -> Result | None`: the result of the write that carries `context.idempotency_key` at
            the vendor (as an external id, a marker, a label), or None if there is none. It only reads: it is called
            after a kill, too. It has 5 s. When it raises, a later attempt asks again; after the last, a human must look.
        settle_seconds: a promise about vendor and connector, from 1 to 20: so long after an attempt was overtaken by
            another one, all that it began is found by `lookup`, or never will be. The new attempt waits so long and
            looks again before it sends. A request is cut off after half of it; the other half is the vendor's, to
            finish and to show it. Threads aren't cut off: a connector that works in one needs a timeout of its own.
            Leave it out for a vendor whose search lags for longer, or for nobody knows how long. See ADR 0007.

    Raises:
        ToolInvalid: the signature has no schema, or a write has no idempotency strategy.
    """

    def attach(function: Callable[[A, ToolContext], Awaitable[R]]) -> Callable[[A, ToolContext], Awaitable[R]]:
        name = function.__name__
        arguments, result = _signature(function)
        for label, value, known in (
            ("effect", effect, Effect),
            ("risk", risk, Risk),
            ("idempotency", idempotency, Idempotency),
        ):
            if value is not None and value not in get_args(known):
                raise ToolInvalid(f"Tool `{name}`: `{label}` is `{value}`; use one of {', '.join(get_args(known))}.")
        if effect == "write" and idempotency is None:
            raise ToolInvalid(
                f"Tool `{name}` writes but declares no `idempotency`; use `native_key`, `lookup` or `at_most_once`."
            )
        if effect == "write" and facts is None:
            raise ToolInvalid(f"Tool `{name}` writes but declares no `facts`; say how to learn who owns its resource.")
        if effect == "write" and fast:
            raise ToolInvalid(f"Tool `{name}` writes, so it can't be `fast`: writes never run as local activities.")
        if effect == "read" and idempotency is not None:
            raise ToolInvalid(f"Tool `{name}` reads, so it needs no `idempotency`; remove it.")
        _check_lookup(name, idempotency, lookup, settle_seconds)
        if not (function.__doc__ or "").strip():
            raise ToolInvalid(f"Tool `{name}` has no docstring; say in it what the tool does and when to use it.")
        for name_of_field in filter(None, (resource[1], *(amount or ()))):
            if name_of_field not in arguments.model_fields:
                raise ToolInvalid(f"Tool `{name}`: `{arguments.__name__}` has no argument `{name_of_field}`.")
        spec = ToolSpec(
            name=name,
            version=version,
            effect=effect,
            risk=risk,
            scope=scope,
            description=inspect.cleandoc(function.__doc__ or ""),
            arguments=arguments,
            result=result,
            run=cast(Callable[[Any, ToolContext], Awaitable[Result]], function),
            resource_type=resource[0],
            resource_field=resource[1],
            amount_fields=amount,
            idempotency=idempotency,
            fast=fast,
            untrusted=untrusted,
            facts=facts,
            rules=rules,
            lookup=lookup,
            settle_seconds=settle_seconds,
        )
        setattr(function, _ATTRIBUTE, spec)
        return function

    return attach


def _check_lookup(name: str, idempotency: Idempotency | None, lookup: object, settle_seconds: int | None) -> None:
    if idempotency != "lookup":
        if lookup is not None or settle_seconds is not None:
            raise ToolInvalid(f'Tool `{name}`: `lookup` and `settle_seconds` are for `idempotency="lookup"` only; remove them.')
        return
    if lookup is None:
        raise ToolInvalid(f"Tool `{name}` declares `lookup` but has no function for it; give `lookup=`, which asks the vendor.")
    if not inspect.iscoroutinefunction(lookup) or len(inspect.signature(lookup).parameters) != 2:
        raise ToolInvalid(f"Tool `{name}`: `lookup` must be `async def lookup(args, context) -> SomeResult | None`.")
    if settle_seconds is not None and not 1 <= settle_seconds <= MAX_SETTLE_SECONDS:
        raise ToolInvalid(
            f"Tool `{name}`: `settle_seconds` is {settle_seconds}; use 1 to {MAX_SETTLE_SECONDS}, or leave it out "
            "if the vendor may need longer."
        )


def _signature(function: Callable[..., object]) -> tuple[type[Arguments], type[Result]]:
    name = getattr(function, "__name__", repr(function))
    expected = f"Tool `{name}` must be `async def {name}(args: SomeArguments, context: ToolContext) -> SomeResult`"
    if not inspect.iscoroutinefunction(function):
        raise ToolInvalid(f"{expected}; it isn't async.")
    try:
        hints = get_type_hints(function)
    except NameError as e:
        raise ToolInvalid(f"{expected}; {e}.") from None
    parameters = list(inspect.signature(function).parameters)
    arguments = hints.get(parameters[0]) if len(parameters) == 2 else None
    result = hints.get("return")
    if not (isinstance(arguments, type) and issubclass(arguments, Arguments)):
        raise ToolInvalid(f"{expected}; its first parameter isn't annotated with a subclass of `Arguments`.")
    if not (isinstance(result, type) and issubclass(result, Result)):
        raise ToolInvalid(f"{expected}; it doesn't return a subclass of `Result`.")
    try:
        TypeAdapter(arguments).json_schema()
    except PydanticUserError as e:
        raise ToolInvalid(
            f"Tool `{name}`: `{arguments.__name__}` has no JSON Schema: {' '.join(str(e.message).split())}."
        ) from None
    return arguments, result
