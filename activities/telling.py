"""What an activity adds to the span that it runs in; nothing, when spans are off. Never what people or models wrote."""

from collections.abc import Mapping, Sequence

from opentelemetry import trace

from policies.models import AgentIdentity

__all__ = ["tell", "tell_agent"]


def tell(attributes: Mapping[str, str | int | Sequence[str]]) -> None:
    """Set attributes on the current span."""
    trace.get_current_span().set_attributes(attributes)


def tell_agent(agent: AgentIdentity) -> None:
    """Say on the current span which agent it works for."""
    tell({"gen_ai.agent.id": agent.id, "gen_ai.agent.name": agent.name, "remit.mode": agent.mode})
