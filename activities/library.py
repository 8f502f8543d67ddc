"""Agents, prompts, corpora and policy bundles as they lie in folders. Reading and checking only; no verdict is made here."""

import re
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from activities.model_cards import UNKNOWN_OUTPUT_TOKENS
from activities.tiers import MAX_TIERS, Tier
from policies.budgets import lower
from policies.bundle import Bundle, compile_policy, explain
from policies.caps import Caps
from policies.errors import AgentInvalid, InvalidInput, PolicyInvalid, RemitError, UnknownAgent
from policies.models import AgentIdentity, AutonomyMode, Frozen, UsageLimits
from policies.privacy import PrivacyRules
from policies.rising import MovesUp
from policies.routing import ModelChoice
from policies.value import Value
from tools.catalog import Catalog
from tools.spec import ToolSpec

__all__ = ["AgentFile", "Input", "Library"]


class Input(Frozen):
    """One field of an agent's inputs: a string that must match `pattern` as a whole."""

    pattern: str = ".{1,200}"
    description: str = ""
    required: bool = True


class Subject(Frozen):
    """Whom a run is for: the subject behind the resource named in the input `input`."""

    kind: str
    input: str


class AgentFile(Frozen):
    """The content of an `agent.toml`, with the prompt beside it.

    Attributes:
        priority: 1 goes before everything else that waits for a worker, 5 after it; without one, 3.
        moves_up: when its route moves up to a stronger tier, next to what policy asks for.
        answer: how the model ends a run: by calling `final_answer`, or with `text` by saying something and calling nothing.
        weight: the agent's share of the workers among those of its priority, while several wait; without one, 1.
        privacy: the table `[privacy]`; without one, models see everything.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,99}$")
    id: str
    owner: str
    role: str
    mode: AutonomyMode = "read_only"
    status: str = "active"
    assurance: int = 1
    policy: str
    corpus: str = ""
    tools: tuple[str, ...]
    scopes: tuple[str, ...]
    subject: Subject | None = None
    inputs: dict[str, Input] = Field(default_factory=dict)
    route: tuple[Tier, ...] = Field(max_length=MAX_TIERS)
    moves_up: MovesUp | None = Field(default=None, exclude_if=lambda rules: rules is None)
    priority: int | None = Field(default=None, ge=1, le=5)
    weight: int | None = Field(default=None, ge=1, le=1000)
    answer: Literal["final_answer", "text"] = "final_answer"
    limits: dict[str, int | str] = Field(default_factory=dict)
    value: Value = Field(default_factory=Value)
    privacy: PrivacyRules | None = Field(default=None, exclude_if=lambda rules: rules is None)
    prompt: str

    @property
    def identity(self) -> AgentIdentity:
        return AgentIdentity.model_validate(
            {
                "id": self.id,
                "name": self.name,
                "owner": self.owner,
                "role": self.role,
                "mode": self.mode,
                "status": self.status,
                "assurance": self.assurance,
                "scopes": tuple(sorted(self.scopes)),
            }
        )

    def check_inputs(self, inputs: dict[str, JsonValue]) -> None:
        """Whether a run can be started with `inputs`.

        Raises:
            InvalidInput: a field is missing, unknown, not a string, or doesn't match its pattern.
        """
        known = ", ".join(f"`{name}`" for name in self.inputs) or "none"
        for name in inputs:
            if name not in self.inputs:
                raise InvalidInput(f"Agent `{self.name}` has no input `{name[:80]}`; it takes {known}.")
        for name, spec in self.inputs.items():
            value = inputs.get(name)
            if value is None and not spec.required:
                continue
            if not isinstance(value, str) or not re.fullmatch(spec.pattern, value):
                state = "is missing" if value is None else f"doesn't match `{spec.pattern}`"
                raise InvalidInput(f"Agent `{self.name}`: the input `{name}` {state}; it takes {known}.")

    def models(self, provider: str, unknown_output_tokens: int = UNKNOWN_OUTPUT_TOKENS) -> tuple[ModelChoice, ...]:
        """The route's models for a worker whose provider is `provider`, cheap first. One that it doesn't name is empty.

        Args:
            unknown_output_tokens: the limit for models of which nobody says how long their answers may be.
        """
        return tuple(tier.choice(provider, unknown_output_tokens) for tier in self.route)


SAME = ("name", "id", "status", "subject", "inputs")
"""What a candidate can't change: who the agent is, and whom it works for."""
_KINDS = {"agents": "agents/[!.]*", "policy bundles": "policies/bundles/[!.]*", "corpora": "agents/corpora/[!.]*"}


class Library:
    """Agents and bundles of one or more folders of the shape `agents/`, `policies/bundles/`."""

    def __init__(self, roots: Sequence[Path], catalog: Catalog) -> None:
        """Raises:
        InvalidInput: two folders have an agent, a bundle or a corpus of the same name.
        """
        self._roots = tuple(roots)
        self._catalog = catalog
        for what, pattern in _KINDS.items():
            names = [
                path.name for root in self._roots for path in root.glob(pattern) if path.is_dir() and path.name != "corpora"
            ]
            twice = sorted(name for name in set(names) if names.count(name) > 1)
            if twice:
                raise InvalidInput(f"There are two {what} called `{twice[0]}`; rename the app's.")

    @property
    def corpora(self) -> tuple[Path, ...]:
        """The folders that hold corpora."""
        return tuple(root / "agents" / "corpora" for root in self._roots)

    def names(self) -> list[str]:
        return sorted({p.parent.name for root in self._roots for p in (root / "agents").glob("*/agent.toml")})

    def identities(self) -> list[str]:
        """The ids of all agents that can be read: no person is called like one."""
        found: list[str] = []
        for name in self.names():
            with suppress(InvalidInput):
                found.append(self.agent(name).id)
        return found

    def agent(self, name: str) -> AgentFile:
        """The agent called `name`, checked against the tools.

        Raises:
            UnknownAgent: there is none.
            AgentInvalid: its file can't be used; the message says why.
        """
        folder = self._folder(name)
        where = f"Agent `{name}`"
        return self._parsed(name, where, _toml(folder / "agent.toml", where), _prompt(folder, where))

    def candidate(self, name: str) -> AgentFile | None:
        """The candidate in the folder `candidate/` beside the agent called `name`: what it has takes the place of the agent's.

        Raises:
            UnknownAgent: there is no such agent.
            AgentInvalid: it can't be used, or isn't the same agent any more.
        """
        stable, folder = self.agent(name), self._folder(name)
        beside = folder / "candidate"
        if not beside.is_dir():
            return None
        where = f"Agent `{name}`, its candidate"
        changed = _toml(beside / "agent.toml", where) if (beside / "agent.toml").exists() else {}
        prompt = _prompt(beside, where) if (beside / "prompt.md").exists() else stable.prompt
        found = self._parsed(name, where, {**_toml(folder / "agent.toml", where), **changed}, prompt)
        for field in SAME:
            if getattr(found, field) != getattr(stable, field):
                raise AgentInvalid(f"{where}: `{field}` must be as in `agents/{name}/agent.toml`: it is the same agent.")
        return found

    def _folder(self, name: str) -> Path:
        if name not in self.names():
            raise UnknownAgent(f"There is no agent `{name[:80]}`; known agents: {', '.join(self.names()) or 'none'}.")
        return next(root / "agents" / name for root in self._roots if (root / "agents" / name / "agent.toml").is_file())

    def _parsed(self, name: str, where: str, content: dict[str, object], prompt: str) -> AgentFile:
        try:
            agent = AgentFile.model_validate({**content, "prompt": prompt})
            agent.identity  # noqa: B018  (a bad status shows here)
        except ValidationError as e:
            raise AgentInvalid(f"{where}: `agent.toml`: {explain(e)}.") from None
        if agent.name != name:
            raise AgentInvalid(f"{where}: `agent.toml` says that its name is `{agent.name}`; name it as its folder.")
        self._check(agent, where)
        return agent

    def _check(self, agent: AgentFile, where: str) -> None:
        for tool in agent.tools:
            spec = self._catalog.specs.get(tool)
            if spec is None:
                raise AgentInvalid(f"{where}: there is no tool `{tool}`; `remit tools` lists them.")
            if spec.scope not in agent.scopes:
                raise AgentInvalid(f"{where}: `{tool}` needs the scope `{spec.scope}`; add it to `scopes` or drop the tool.")
            if agent.tools.count(tool) > 1:
                raise AgentInvalid(f"{where}: `{tool}` is listed twice in `tools`.")
        for name, field in agent.inputs.items():
            try:
                re.compile(field.pattern)
            except re.error as e:
                raise AgentInvalid(f"{where}: the pattern of the input `{name}` isn't a regular expression: {e}.") from None
        if agent.subject and agent.subject.input not in agent.inputs:
            raise AgentInvalid(f"{where}: the subject's input `{agent.subject.input}` isn't among its inputs.")
        if agent.subject and not agent.inputs[agent.subject.input].required:
            raise AgentInvalid(f"{where}: the subject's input `{agent.subject.input}` must be required.")
        if not agent.route:
            raise AgentInvalid(f"{where}: its route has no tier; add one as `[[route]]`.")
        for number, tier in enumerate(agent.route, 1):
            if tier.problem:
                raise AgentInvalid(f"{where}: tier {number} of its route {tier.problem}.")
        if agent.moves_up and agent.moves_up.problem:
            raise AgentInvalid(f"{where}: `moves_up` {agent.moves_up.problem}.")
        if agent.moves_up and len(agent.route) < 2:
            raise AgentInvalid(f"{where}: `moves_up` needs a second tier in the route to move up to.")
        unknown = set(agent.limits) - set(UsageLimits.model_fields)
        if unknown:
            raise AgentInvalid(f"{where}: `limits` has no `{sorted(unknown)[0]}`.")

    def bundle(self, name: str) -> Bundle:
        """The policy bundle called `name`, compiled once against the tools.

        Raises:
            PolicyInvalid: it is missing, doesn't parse, or doesn't validate. No bundle means no run.
        """
        for root in self._roots:
            folder = root / "policies" / "bundles" / name
            if folder.is_dir():
                return self._read(name, folder)
        raise PolicyInvalid(f"There is no policy bundle `{name}`; put it under `policies/bundles/{name}/`.")

    def bundle_in(self, folder: Path) -> Bundle:
        """The policy bundle in `folder`, wherever it lies, compiled once against the tools.

        Raises:
            PolicyInvalid: as `bundle`.
        """
        return self._read(folder.resolve().name, folder)

    def _read(self, name: str, folder: Path) -> Bundle:
        try:
            policy, limits = (folder / "policy.cedar").read_text(encoding="utf-8"), (folder / "limits.toml").read_text()
        except (OSError, UnicodeDecodeError):
            raise PolicyInvalid(f"Bundle `{name}`: `policy.cedar` and `limits.toml` must both be there, as text.") from None
        bundle = Bundle(name=name, policy=policy, limits_toml=limits)
        bundle.limits()
        compile_policy(bundle, self._catalog.cedar_schema)
        return bundle

    def caps(self, name: str) -> tuple[Caps, tuple[Path, ...]]:
        """The caps across runs of the agent called `name`, as its bundle says, and the files that say so.

        Raises:
            UnknownAgent, AgentInvalid, PolicyInvalid: it can't be used as it is now.
        """
        agent = self.agent(name)
        said = (f"agents/{name}/agent.toml", f"policies/bundles/{agent.policy}/limits.toml")
        files = tuple(root / path for root in self._roots for path in said if (root / path).is_file())
        return self.bundle(agent.policy).limits().caps, files

    def folder_problems(self, folder: Path) -> list[str]:
        """What is wrong with the bundle in `folder`, wherever it lies."""
        return _problem(lambda: self.bundle_in(folder))

    def bundles(self) -> list[str]:
        return sorted({p.name for root in self._roots for p in (root / "policies" / "bundles").glob("*") if p.is_dir()})

    def limits(self, agent: AgentFile, bundle: Bundle) -> UsageLimits:
        """The bundle's ceilings, lowered by the agent's own wishes."""
        try:
            found = lower(bundle.limits().run, agent.limits)
        except ValidationError as e:
            raise AgentInvalid(f"Agent `{agent.name}`: `limits`: {explain(e)}.") from None
        if not bundle.limits().approvals.in_time(found.approval_seconds):
            raise AgentInvalid(
                f"Agent `{agent.name}`: approvals would expire after {found.approval_seconds} s, before the bundle "
                f"`{bundle.name}` escalates them; raise `limits.approval_seconds`."
            )
        return found

    def specs(self, agent: AgentFile) -> list[ToolSpec]:
        return [self._catalog.specs[name] for name in agent.tools]

    def _check_whole(self, agent: AgentFile | None) -> None:
        if agent is None:
            return
        bundle = self.bundle(agent.policy)
        self.limits(agent, bundle)
        rules = bundle.limits().approvals
        writes = any(spec.effect == "write" for spec in self.specs(agent))
        if agent.mode == "draft" and writes and not (rules.roles or rules.escalation):
            raise AgentInvalid(
                f"Agent `{agent.name}`: it is in `draft` mode, and the bundle `{bundle.name}` names nobody who may accept its "
                "proposals; set `roles` under `[approvals]` in its `limits.toml`."
            )

    def problems(self) -> list[str]:
        """What is wrong with any agent or bundle, one sentence each."""
        found: list[str] = []
        for name in self.bundles():
            found += _problem(lambda name=name: self.bundle(name))
        for name in self.names():
            found += _problem(lambda name=name: self._check_whole(self.agent(name)))
            found += _problem(lambda name=name: self._check_whole(self.candidate(name)))
        return list(dict.fromkeys(found))


def _toml(file: Path, where: str) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as e:
        raise AgentInvalid(f"{where}: `agent.toml` isn't valid TOML: {e}.") from None
    except (OSError, UnicodeDecodeError):
        raise AgentInvalid(f"{where}: `agent.toml` and `prompt.md` must both be there, as text.") from None


def _prompt(folder: Path, where: str) -> str:
    try:
        return (folder / "prompt.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise AgentInvalid(f"{where}: `agent.toml` and `prompt.md` must both be there, as text.") from None


def _problem(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except RemitError as e:
        return [e.message]
    return []
