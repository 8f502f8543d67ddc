"""What an off switch covers: scopes, as people name them and as the gate looks for them. Pure."""

from typing import Literal, Self, get_args

from policies.canonical import digest
from policies.errors import InvalidInput
from policies.models import RISKS, Frozen, Risk

__all__ = ["ENDS_RUNS", "FLEET", "PAUSABLE", "Scope", "ScopeKind", "scopes_of", "scopes_of_run", "subject_tag"]

ScopeKind = Literal["run", "agent", "tool", "risk", "subject", "fleet", "drill"]
ENDS_RUNS: tuple[ScopeKind, ...] = ("run", "agent", "subject", "fleet")
"""Scopes that hold whole runs: a run that meets one ends. The others hold single tools: the call is refused."""
PAUSABLE: tuple[ScopeKind, ...] = ("run", "agent", "fleet")
MAX_VALUE = 255
EXAMPLES = "`run:ID`, `agent:NAME`, `tool:NAME`, `risk:LEVEL`, `subject:REF` or `fleet`"


class Scope(Frozen):
    """What one switch covers.

    Attributes:
        value: id, name, level or reference, as the kind asks for; empty for the fleet. Of a drill, the scope played through.
    """

    kind: ScopeKind
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The scope that `text` names, for example `agent:billing-resolution`.

        Raises:
            InvalidInput: it names none.
        """
        kind, _, value = text.partition(":")
        if kind not in get_args(ScopeKind) or (kind == "fleet") != (not value) or (text == "fleet:"):
            raise InvalidInput(f"`{text[:80]}` is no scope; give {EXAMPLES}.")
        if len(value) > MAX_VALUE or not value.isprintable():
            raise InvalidInput(f"A scope's value is printable, and at most {MAX_VALUE} characters long.")
        if kind == "risk" and value not in RISKS:
            raise InvalidInput(f"`{value[:80]}` is no risk; it is one of {', '.join(RISKS)}.")
        if kind == "drill" and cls.parse(value).kind == "drill":
            raise InvalidInput("A drill of a drill stops nothing twice.")
        return cls.model_validate({"kind": kind, "value": value})

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind

    @property
    def ends_runs(self) -> bool:
        """Whether a run that it covers ends, and not only its call."""
        return self.kind in ENDS_RUNS

    @property
    def played(self) -> "Scope":
        """Of a drill, what it plays through; else the scope itself."""
        return Scope.parse(self.value) if self.kind == "drill" else self

    @property
    def drill(self) -> "Scope":
        """The scope of a drill of this one: no write is covered by it."""
        return Scope(kind="drill", value=str(self))

    @property
    def words(self) -> str:
        """As a sentence names it."""
        names: dict[ScopeKind, str] = {
            "run": f"run `{self.value}`",
            "agent": f"agent `{self.value}`",
            "tool": f"tool `{self.value}`",
            "risk": "all writes" if self.value == RISKS[0] else f"tools of risk `{self.value}` and above",
            "subject": f"subject `{self.value}`",
            "fleet": "the whole fleet",
        }
        return names[self.kind] if self.kind != "drill" else f"a drill of {self.played.words}"


FLEET = Scope(kind="fleet")


def scopes_of_run(run_id: str, agent: str, subject: str) -> tuple[str, ...]:
    """All scopes that hold a whole run, its admission included."""
    return ("fleet", f"run:{run_id}", f"agent:{agent}", *((f"subject:{subject}",) if subject else ()))


def scopes_of(run_id: str, agent: str, tool: str, risk: Risk, subject: str) -> tuple[str, ...]:
    """All scopes that cover one write.

    Args:
        tool: its name, without its version.
        risk: as the tool declares it. A switch on a level covers that level and every one above.
    """
    levels = (f"risk:{level}" for level in RISKS[: RISKS.index(risk) + 1])
    return (*scopes_of_run(run_id, agent, subject), f"tool:{tool}", *levels)


def subject_tag(subject: str) -> str:
    """What runs of `subject` are found by in Temporal, which needn't know whom they are for."""
    return digest(["subject", subject])[7:39]
