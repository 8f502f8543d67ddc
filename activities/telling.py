"""What an activity adds to the span that it runs in; nothing, when spans are off. Never what people or models wrote."""

from collections.abc import Mapping, Sequence

from opentelemetry import trace

from policies.models import AgentIdentity
from policies.routing import ModelChoice

__all__ = ["tell", "tell_agent", "tell_model"]


def tell(attributes: Mapping[str, str | int | Sequence[str]]) -> None:
    """Set attributes on the current span."""
    trace.get_current_span().set_attributes(attributes)


def tell_agent(agent: AgentIdentity) -> None:
    """Say on the current span which agent it works for."""
    tell({"gen_ai.agent.id": agent.id, "gen_ai.agent.name": agent.name, "remit.mode": agent.mode})


def tell_model(choice: ModelChoice) -> None:
    """Say on the current span, that of a model call, which model is asked: it may fail, and then nobody else says so."""
    trace.get_current_span().update_name(f"chat {choice.model}")
    tell({"gen_ai.provider.name": choice.provider, "gen_ai.request.model": choice.model})
