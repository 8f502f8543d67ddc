"""Model cards: what is known of a model, put together from the price table, the SDKs' lists and `model_facts`. No network.

None is unknown: no source says it, and nothing is guessed.
"""

import re
from datetime import date
from functools import lru_cache

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo

from activities.model_facts import FACTS, ToolUse
from activities.providers.chat_body import is_openais
from activities.sdk_lists import known_to_sdk, shut_down_on
from policies.models import Frozen
from policies.routing import Effort, ModelChoice

__all__ = ["UNKNOWN_OUTPUT_TOKENS", "ModelCard", "card_of", "default_output_tokens", "warnings_of"]

UNKNOWN_OUTPUT_TOKENS = 4_096
"""The limit for a model of which nobody says how long its answers may be: small servers refuse more."""
THINKING_OUTPUT_TOKENS = 16_000
"""Reasoning counts towards the limit. Anthropic and OpenAI advise to leave room for it; 4,096 cuts answers off."""
HARD_THINKING_OUTPUT_TOKENS = 32_000
PLAIN_OUTPUT_TOKENS = 4_096
_SNAPSHOT = re.compile(r"(-\d{4}-\d{2}-\d{2}|-\d{8}(-v\d+(:\d+)?)?|@.*)$")
_DOOR = re.compile(r"^([a-z]{2,6}\.)?(anthropic|openai)\.|^models/")
_VENDORS = ("openai", "anthropic", "google")


class ModelCard(Frozen):
    """What is known of a model. None is unknown.

    Attributes:
        known: whether any source knows the model at all.
        deprecated: whether its vendor calls it deprecated; `retires` is the date from which on it is gone.
        sources: the pages that the facts are from, next to the price table and the SDK.

    The other fields are those of `activities.model_facts.Facts`.
    """

    provider: str
    model: str
    known: bool = False
    context_tokens: int | None = None
    output_tokens: int | None = None
    thinks: bool | None = None
    efforts: tuple[Effort, ...] | None = None
    default_effort: Effort | None = None
    tools: ToolUse | None = None
    tools_chat: ToolUse | None = None
    strict: bool | None = None
    cache_minimum: int | None = None
    deprecated: bool | None = None
    retires: date | None = None
    sources: tuple[str, ...] = ()

    def retired(self, today: date) -> bool:
        """Whether its vendor has shut it down, as far as is known."""
        return self.retires is not None and self.retires <= today


@lru_cache(maxsize=1024)
def card_of(provider: str, model: str) -> ModelCard:
    """The card of `model`, by its own name or a vendor's dated or regional form of it."""
    name = _SNAPSHOT.sub("", _DOOR.sub("", model))
    listed = _listed(provider, model) or _listed(provider, name)
    found: dict[str, object] = {}
    sources: list[str] = []
    for facts in FACTS:
        if facts.provider == provider and name in facts.models:
            new = {k: v for k, v in vars(facts).items() if v is not None and k not in ("provider", "models", "source")}
            found = {**new, **found}  # the first that says it
            sources.append(facts.source)
    if listed and listed.context_window:
        found.setdefault("context_tokens", listed.context_window)
    retires = shut_down_on(provider, model) or shut_down_on(provider, name)
    if retires:
        found["retires"] = retires
    deprecated = bool(found.get("retires")) or bool(listed and listed.deprecated) or None
    known = bool(listed or sources) or known_to_sdk(provider, model) or retires is not None
    return ModelCard.model_validate(
        {
            **found,
            "provider": provider,
            "model": model,
            "known": known,
            "deprecated": deprecated,
            "sources": tuple(dict.fromkeys(sources)),
        }
    )


def default_output_tokens(card: ModelCard, effort: Effort | None = None, *, unknown: int = UNKNOWN_OUTPUT_TOKENS) -> int:
    """The limit of an answer where a route doesn't set one: room to reason for models that do, never above the model's own.

    Args:
        unknown: for a model of which it isn't known whether it reasons.
    """
    if effort == "none" and "none" in (card.efforts or ()):
        wanted = PLAIN_OUTPUT_TOKENS
    elif card.thinks or effort:
        wanted = HARD_THINKING_OUTPUT_TOKENS if effort in ("high", "xhigh", "max") else THINKING_OUTPUT_TOKENS
    elif card.thinks is None:
        wanted = unknown
    else:
        wanted = PLAIN_OUTPUT_TOKENS
    return min(wanted, card.output_tokens or wanted)


def warnings_of(choice: ModelChoice, today: date, *, compatible: bool = False) -> list[str]:
    """What people should know before runs go to this model, one sentence each; nothing when all is well.

    Args:
        compatible: whether another server than the vendor's is called, as far as the worker's settings say.
    """
    compatible = compatible or bool(choice.base_url and not is_openais(choice.base_url))
    card, name = card_of(choice.provider, choice.model), f"`{choice.model}` of `{choice.provider}`"
    found: list[str] = []
    if not card.known and not compatible:
        found.append(f"Nobody here knows {name}: neither the price table nor the SDK; check the name.")
    if card.retired(today):
        found.append(f"{name} was shut down on {card.retires}; name another model.")
    elif card.retires:
        found.append(f"{name} will be shut down on {card.retires}; name another model before.")
    elif card.deprecated:
        found.append(f"{name} is deprecated by its vendor; name another model.")
    over_chat = choice.provider == "openai" and compatible
    how = card.tools_chat if over_chat else card.tools
    if how == "no":
        where = "over Chat Completions" if over_chat else "at all"
        found.append(f"{name} takes no tools {where}, and agents work with tools; name another model.")
    elif how == "effort_none" and choice.effort != "none":
        found.append(f'{name} takes tools over Chat Completions only with `effort = "none"`; set that.')
    if choice.effort and card.efforts is not None and choice.effort not in card.efforts:
        levels = ", ".join(f"`{e}`" for e in card.efforts) or "no level at all"
        found.append(f"{name} doesn't take the effort `{choice.effort}`; it takes {levels}.")
    if choice.max_output_tokens and card.output_tokens and choice.max_output_tokens > card.output_tokens:
        found.append(
            f"{name} writes at most {card.output_tokens:,} tokens, less than the {choice.max_output_tokens:,} of "
            "`max_output_tokens`; lower that."
        )
    return found


def _listed(provider: str, model: str) -> ModelInfo | None:
    """The model as the price table of its own vendor has it."""
    if provider not in _VENDORS or not model:
        return None
    try:
        return get_snapshot().find_provider_model(model, None, provider, None)[1]
    except LookupError:
        return None
