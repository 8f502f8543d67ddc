"""Limits of one run: what is charged when, and which limit ends it. Counted before the work, so that none is exceeded."""

from collections.abc import Mapping

from policies.errors import UsageLimitExceeded
from policies.models import Usage, UsageLimits

__all__ = ["charge_model", "charge_tools", "check_attempts", "check_identical", "check_model", "lost_model", "lower"]


def charge_tools(usage: Usage, limits: UsageLimits, calls: int) -> Usage:
    """`usage` with a batch of `calls` tool calls, refused ones included; a batch that doesn't fit isn't started at all.

    Raises:
        UsageLimitExceeded: `tool_calls`.
    """
    if usage.tool_calls + calls > limits.tool_calls:
        raise UsageLimitExceeded(
            "tool_calls", f"{usage.tool_calls} of {limits.tool_calls} tool calls are used and the model asked for {calls} more."
        )
    return usage.model_copy(update={"tool_calls": usage.tool_calls + calls})


def check_model(usage: Usage, limits: UsageLimits) -> None:
    """Whether one more model call may start.

    Raises:
        UsageLimitExceeded: `model_calls`, `tokens` or `cost_micro_usd`.
    """
    for name, used, limit in (
        ("model_calls", usage.model_calls, limits.model_calls),
        ("tokens", usage.input_tokens + usage.output_tokens, limits.tokens),
        ("cost_micro_usd", usage.cost_micro_usd, limits.cost_micro_usd),
    ):
        if used >= limit:
            raise UsageLimitExceeded(name, f"The run used {used} of {limit} `{name}`.")


def charge_model(usage: Usage, *, input_tokens: int, output_tokens: int, cost_micro_usd: int, unknown: int = 0) -> Usage:
    """`usage` after a model call; `unknown`: those sent before it that never answered."""
    return usage.model_copy(
        update={
            "model_calls": usage.model_calls + 1,
            "input_tokens": usage.input_tokens + input_tokens,
            "output_tokens": usage.output_tokens + output_tokens,
            "cost_micro_usd": usage.cost_micro_usd + cost_micro_usd,
            "unknown_cost_calls": usage.unknown_cost_calls + unknown,
        }
    )


def lost_model(usage: Usage, calls: int) -> Usage:
    """`usage` after model calls that never answered."""
    return usage.model_copy(update={"unknown_cost_calls": usage.unknown_cost_calls + calls}) if calls else usage


def check_attempts(failures: Mapping[str, int], limits: UsageLimits, tool: str) -> None:
    """Whether `tool` may be tried again after its failures in a row.

    Raises:
        UsageLimitExceeded: `attempts_per_step`.
    """
    if failures.get(tool, 0) >= limits.attempts_per_step:
        raise UsageLimitExceeded("attempts_per_step", f"`{tool}` failed {failures[tool]} times in a row.")


def check_identical(count: int, limits: UsageLimits, tool: str) -> None:
    """Whether the same call may be made a `count`-th time.

    Raises:
        UsageLimitExceeded: `identical_calls`.
    """
    if count > limits.identical_calls:
        raise UsageLimitExceeded("identical_calls", f"`{tool}` was called {count} times with the same arguments.")


def lower(ceiling: UsageLimits, wanted: Mapping[str, object]) -> UsageLimits:
    """`ceiling` lowered by what an agent declares; a wish above the ceiling is ignored.

    Raises:
        ValidationError: a wish isn't of its limit's type. Strict, for a quoted number would slip past the comparison.
    """
    changes: dict[str, object] = {}
    for name, value in wanted.items():
        limit = getattr(ceiling, name)
        changes[name] = min(limit, value) if isinstance(limit, int) and isinstance(value, int) else value
    return UsageLimits.model_validate({**ceiling.model_dump(), **changes}, strict=True)
