"""Facts about models that neither the price table nor an SDK has, each with the page that states it. Data only.

What isn't here is unknown, and is shown as unknown. Add a row, with its source, when you have read one.
"""

from dataclasses import dataclass
from datetime import date
from typing import Literal

from policies.routing import Effort

__all__ = ["FACTS", "Facts", "ToolUse"]

ToolUse = Literal["yes", "no", "effort_none"]
"""Whether a model calls functions over an API; `effort_none`: only while it is told not to reason."""

LOW_TO_HIGH: tuple[Effort, ...] = ("low", "medium", "high")
LOW_TO_MAX: tuple[Effort, ...] = ("low", "medium", "high", "xhigh", "max")
MINIMAL_TO_HIGH: tuple[Effort, ...] = ("minimal", "low", "medium", "high")
NONE_TO_XHIGH: tuple[Effort, ...] = ("none", "low", "medium", "high", "xhigh")
NONE_TO_MAX: tuple[Effort, ...] = ("none", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True)
class Facts:
    """What one page says of some models. None is what it doesn't say.

    Attributes:
        models: their names, without the date of a snapshot.
        context_tokens: how much fits into one conversation, answer included.
        output_tokens: the longest answer, reasoning included.
        thinks: whether they reason unless they are told not to.
        efforts: the levels that they take; none when they take no level at all.
        tools: functions over the vendor's own API: OpenAI's Responses, Anthropic's Messages, Google's generateContent.
        tools_chat: functions over Chat Completions at OpenAI.
        strict: whether arguments of tools can be held to their schema.
        cache_minimum: the shortest prompt that is cached, in tokens.
        retires: when the vendor stops serving them.
    """

    provider: str
    models: tuple[str, ...]
    source: str
    context_tokens: int | None = None
    output_tokens: int | None = None
    thinks: bool | None = None
    efforts: tuple[Effort, ...] | None = None
    default_effort: Effort | None = None
    tools: ToolUse | None = None
    tools_chat: ToolUse | None = None
    strict: bool | None = None
    cache_minimum: int | None = None
    retires: date | None = None


_OPENAI = "https://developers.openai.com/api/docs/"
_CLAUDE = "https://platform.claude.com/docs/en/"
_GEMINI = "https://ai.google.dev/gemini-api/docs/"

_GPT_5 = ("gpt-5", "gpt-5-mini", "gpt-5-nano")
_GPT_5_LATER = ("gpt-5.2", "gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.5")
_GPT_56 = ("gpt-5.6-sol", "gpt-5.6-terra", "gpt-5.6-luna")
_GPT_6 = ("gpt-6-sol", "gpt-6-luna")
_GPT_61 = ("gpt-6.1-sol", "gpt-6.1-terra", "gpt-6-astra")
_GPT_62 = ("gpt-6.2-sol", "gpt-6.2-astra")
_GPT_41 = ("gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano")
_GPT_4O = ("gpt-4o", "gpt-4o-mini")
_O = ("o3", "o4-mini", "o1")

_CLAUDE_5 = (
    *("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5", "claude-fable-5-1", "claude-fable-5-2"),
    *("claude-mythos-5-1", "claude-mythos-5-2", "claude-fable-5", "claude-mythos-5", "claude-opus-5", "claude-sonnet-5"),
)
_MEDIUM = ("claude-haiku-5-5", "claude-opus-5-5")
_CLAUDE_47 = ("claude-opus-4-7", "claude-opus-4-8")
_CLAUDE_46 = ("claude-opus-4-6", "claude-sonnet-4-6")
_CLAUDE_45 = ("claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5")

_FLASH = ("gemini-3.5-flash", "gemini-3.5-flash-lite", "gemini-3.1-flash-lite")
_FLASH_LATER = ("gemini-3-flash-preview", "gemini-3.6-flash", "gemini-3.7-flash", "gemini-3.8-flash")
_GEMINI_25 = ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite")

FACTS: tuple[Facts, ...] = (
    # ---- OpenAI -----------------------------------------------------------------------------------------------------
    Facts(
        *("openai", _GPT_6, _OPENAI + "models/gpt-6-luna"),
        context_tokens=1_050_000,
        output_tokens=128_000,
        thinks=True,
        efforts=NONE_TO_MAX,
        default_effort="medium",
        tools="yes",
        tools_chat="effort_none",
        strict=True,
    ),
    Facts(
        *("openai", _GPT_61, _OPENAI + "models/gpt-6.1-sol"),
        context_tokens=1_050_000,
        output_tokens=128_000,
        thinks=True,
        efforts=LOW_TO_MAX,
        default_effort="medium",
        tools="yes",
        tools_chat="no",
        strict=True,
    ),
    Facts(
        *("openai", _GPT_62, "https://vercel.com/ai-gateway/models/gpt-6.2-sol.md"),
        context_tokens=1_050_000,
        output_tokens=128_000,
        thinks=True,
        tools="yes",
        strict=True,
    ),
    Facts(
        *("openai", _GPT_56, _OPENAI + "models/gpt-5.6-sol"),
        context_tokens=1_050_000,
        output_tokens=128_000,
        thinks=True,
        efforts=NONE_TO_MAX,
        tools="yes",
        tools_chat="effort_none",
        strict=True,
    ),
    Facts(
        *("openai", _GPT_5_LATER, _OPENAI + "guides/reasoning"),
        output_tokens=128_000,
        thinks=True,
        efforts=NONE_TO_XHIGH,
        tools="yes",
        strict=True,
    ),
    Facts("openai", ("gpt-5.4-mini",), "docs.laozhang.ai, function calling, its table of 2026-10-14", tools_chat="yes"),
    Facts(
        *("openai", _GPT_5, _OPENAI + "models/gpt-5"),
        output_tokens=128_000,
        thinks=True,
        efforts=MINIMAL_TO_HIGH,
        default_effort="medium",
        tools="yes",
        tools_chat="yes",
        strict=True,
    ),
    Facts(
        *("openai", _GPT_41, _OPENAI + "models/gpt-4.1"),
        output_tokens=32_768,
        thinks=False,
        efforts=(),
        tools="yes",
        tools_chat="yes",
        strict=True,
    ),
    Facts(
        *("openai", _GPT_4O, _OPENAI + "models/gpt-4o"),
        output_tokens=16_384,
        thinks=False,
        efforts=(),
        tools="yes",
        tools_chat="yes",
        strict=True,
    ),
    Facts(
        *("openai", _O, _OPENAI + "models/o3"),
        output_tokens=100_000,
        thinks=True,
        efforts=LOW_TO_HIGH,
        default_effort="medium",
        tools="yes",
        tools_chat="yes",
        strict=True,
    ),
    Facts(
        *("openai", (*_GPT_6, *_GPT_61, *_GPT_62, *_GPT_56, *_GPT_5_LATER, *_GPT_5, *_GPT_41, *_GPT_4O, *_O)),
        _OPENAI + "guides/prompt-caching",
        cache_minimum=1_024,
    ),
    # ---- Anthropic --------------------------------------------------------------------------------------------------
    Facts(
        *("anthropic", _CLAUDE_5, _CLAUDE + "models/haiku-5-5/overview"),
        context_tokens=1_000_000,
        output_tokens=128_000,
        thinks=True,
        efforts=LOW_TO_MAX,
        tools="yes",
    ),
    Facts("anthropic", _MEDIUM, _CLAUDE + "build-with-claude/effort", default_effort="medium"),
    Facts("anthropic", _CLAUDE_5, _CLAUDE + "build-with-claude/effort", default_effort="high"),
    Facts(
        *("anthropic", _CLAUDE_47, _CLAUDE + "build-with-claude/effort"),
        output_tokens=128_000,
        thinks=False,
        efforts=LOW_TO_MAX,
        default_effort="high",
        tools="yes",
    ),
    Facts(
        *("anthropic", _CLAUDE_46, _CLAUDE + "build-with-claude/effort"),
        thinks=False,
        efforts=("low", "medium", "high", "max"),
        default_effort="high",
        tools="yes",
    ),
    Facts("anthropic", ("claude-opus-4-6",), _CLAUDE + "about-claude/models/overview", output_tokens=128_000),
    Facts("anthropic", ("claude-sonnet-4-6",), _CLAUDE + "about-claude/models/overview", output_tokens=64_000),
    Facts("anthropic", ("claude-opus-4-5",), _CLAUDE + "build-with-claude/effort", efforts=LOW_TO_HIGH, default_effort="high"),
    Facts(
        *("anthropic", _CLAUDE_45, _CLAUDE + "about-claude/models/overview"),
        output_tokens=64_000,
        thinks=False,
        efforts=(),
        tools="yes",
    ),
    Facts(
        *("anthropic", (*_CLAUDE_5, *_CLAUDE_47, *_CLAUDE_46, *_CLAUDE_45)),
        _CLAUDE + "build-with-claude/structured-outputs",
        strict=True,
    ),
    Facts(
        *("anthropic", ("claude-opus-4-5", "claude-opus-4-6", "claude-haiku-4-5")),
        _CLAUDE + "build-with-claude/prompt-caching",
        cache_minimum=4_096,
    ),
    Facts(
        *("anthropic", ("claude-sonnet-4-5", "claude-sonnet-4-6")),
        _CLAUDE + "build-with-claude/prompt-caching",
        cache_minimum=1_024,
    ),
    # ---- Google -----------------------------------------------------------------------------------------------------
    Facts(
        *("google", ("gemini-4-argon",), _GEMINI + "generate-content/latest-model"),
        context_tokens=1_048_576,
        output_tokens=1_048_576,
        thinks=True,
        efforts=LOW_TO_HIGH,
        default_effort="medium",
        tools="yes",
    ),
    Facts(
        *("google", _FLASH, "https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/guides/gemini-3-5-flash"),
        context_tokens=1_048_576,
        output_tokens=65_536,
        thinks=True,
        efforts=MINIMAL_TO_HIGH,
        tools="yes",
    ),
    Facts(
        *("google", ("gemini-3.1-pro-preview",)),
        "https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/guides/gemini-3-5-flash",
        context_tokens=1_048_576,
        output_tokens=65_536,
        thinks=True,
        efforts=LOW_TO_HIGH,
        default_effort="high",
        tools="yes",
    ),
    Facts(
        *("google", _FLASH_LATER, _GEMINI + "models"),
        context_tokens=1_048_576,
        output_tokens=65_536,
        thinks=True,
        efforts=MINIMAL_TO_HIGH,
        tools="yes",
    ),
    Facts(
        *("google", _GEMINI_25, _GEMINI + "models"),
        context_tokens=1_048_576,
        output_tokens=65_536,
        tools="yes",
    ),
    Facts(
        *("google", ("gemini-2.5-pro", "gemini-2.5-flash"), _GEMINI + "deprecations"),
        retires=date(2026, 12, 1),
    ),
    Facts("google", ("gemini-3-pro-preview",), _GEMINI + "deprecations", retires=date(2026, 3, 9)),
    Facts("google", ("gemini-2.0-flash", "gemini-2.0-flash-lite"), _GEMINI + "deprecations", retires=date(2026, 6, 1)),
)
