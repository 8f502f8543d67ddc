"""The whole tree of errors that Remit raises on purpose, each with a stable code. Nothing else lives here.

RemitError
├── InvalidInput            what a caller gave can't be used
│   ├── UnknownAgent
│   ├── AgentInvalid        an agent.toml that can't be used
│   ├── PolicyInvalid       a bundle that doesn't parse, or doesn't validate against the tools
│   ├── ToolInvalid         a tool that can't be registered
│   ├── MissingKey          a model provider without its key
│   ├── PriceUnknown        a model whose price nobody declared
│   └── NotFound            a run, an approval or a person that doesn't exist
├── Unavailable             a server or a worker can't be reached; nothing was lost
├── StoredValueLost         external storage hasn't got what history names, or has something else
├── PlaceholdersLost        what the placeholders of a run with `[privacy]` stand for is gone, or can't be decrypted
├── ToolRefusal             given back to the model, which may try something else
├── ApprovalRefused         a decision that counts for nothing
├── ControlRefused          a command to the fleet that changes nothing
├── LoginRefused            an ID token that proves nothing
├── UsageLimitExceeded      ends the run as `stopped` or `escalated`
├── CapReached              a cap across runs leaves no room: the run waits, is paused, or is refused
├── KillSwitchEngaged       an off switch covers this effect, or this run
├── Paused                  a pause covers this effect; it may be tried again once that has ended
└── OutcomeIndeterminate    nobody can say whether a write happened; a human must look
"""

from typing import ClassVar

__all__ = [
    "AgentInvalid",
    "ApprovalRefused",
    "CapReached",
    "ControlRefused",
    "InvalidInput",
    "KillSwitchEngaged",
    "LoginRefused",
    "MissingKey",
    "NotFound",
    "OutcomeIndeterminate",
    "Paused",
    "PlaceholdersLost",
    "PolicyInvalid",
    "PriceUnknown",
    "RemitError",
    "StoredValueLost",
    "ToolInvalid",
    "ToolRefusal",
    "Unavailable",
    "UnknownAgent",
    "UsageLimitExceeded",
]


class RemitError(Exception):
    """Base of every error that Remit raises on purpose.

    Attributes:
        code: stable identifier, safe to branch on.
        message: one sentence: what was expected, and what to do next.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(RemitError):
    code = "invalid_input"


class UnknownAgent(InvalidInput):
    code = "unknown_agent"


class AgentInvalid(InvalidInput):
    code = "agent_invalid"


class PolicyInvalid(InvalidInput):
    code = "policy_invalid"


class ToolInvalid(InvalidInput):
    code = "tool_invalid"


class MissingKey(InvalidInput):
    code = "missing_key"


class PriceUnknown(InvalidInput):
    code = "price_unknown"


class NotFound(InvalidInput):
    code = "not_found"


class Unavailable(RemitError):
    code = "unavailable"


class StoredValueLost(RemitError):
    code = "stored_value_lost"


class PlaceholdersLost(RemitError):
    code = "placeholders_lost"


class ToolRefusal(RemitError):
    """A tool call that was not carried out, with a code that the model can act on.

    Attributes:
        reason: stable code of this refusal, for example `not_subject` or `not_refundable`.
    """

    code = "tool_refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ApprovalRefused(RemitError):
    """A decision that doesn't count.

    Attributes:
        reason: stable code, for example `bad_signature` or `same_person`.
    """

    code = "approval_refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ControlRefused(RemitError):
    """A command to the fleet that changes nothing.

    Attributes:
        reason: stable code, for example `bad_signature` or `no_role`.
    """

    code = "control_refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LoginRefused(RemitError):
    """An ID token that proves nothing, or a login that can't be used.

    Attributes:
        reason: stable code, for example `expired` or `wrong_audience`.
    """

    code = "login_refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UsageLimitExceeded(RemitError):
    """A limit of the run was reached.

    Attributes:
        limit: the limit's name in `limits.toml`, for example `tool_calls`.
    """

    code = "usage_limit_exceeded"

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


class CapReached(RemitError):
    """A cap across runs leaves no room now.

    Attributes:
        cap: its name in `limits.toml`.
        scope: what holds the run: `cap:SCOPE`, or the pause `run:ID` that a person is to end; empty when nobody is to wait.
        until: Unix seconds at which it is worth looking again; 0 when a person is to end the pause.
        epoch: of that pause.
    """

    code = "cap_reached"

    def __init__(self, message: str, *, cap: str, scope: str = "", until: int = 0, epoch: int = 0) -> None:
        super().__init__(message)
        self.cap = cap
        self.scope = scope
        self.until = until
        self.epoch = epoch


class KillSwitchEngaged(RemitError):
    """An off switch is on.

    Attributes:
        ends_run: whether it holds the whole run, and not only this tool.
    """

    code = "killed"

    def __init__(self, message: str, *, ends_run: bool = True) -> None:
        super().__init__(message)
        self.ends_run = ends_run


class Paused(RemitError):
    """A pause is on.

    Attributes:
        scope, reason, epoch: of the pause.
    """

    code = "paused"

    def __init__(self, scope: str, reason: str, epoch: int) -> None:
        super().__init__(f"`{scope}` is paused: {reason}")
        self.scope = scope
        self.reason = reason
        self.epoch = epoch


class OutcomeIndeterminate(RemitError):
    code = "outcome_indeterminate"
