"""Model cards: what is known of a model, from which source, and what follows for a route."""

import subprocess
import sys
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.model_cards import ModelCard, card_of, default_output_tokens, warnings_of
from activities.model_facts import FACTS
from activities.sdk_lists import known_to_sdk, shut_down_on
from policies.routing import ModelChoice

TODAY = date(2026, 12, 1)


def warned(choice: ModelChoice, *, compatible: bool = False) -> str:
    return " ".join(warnings_of(choice, TODAY, compatible=compatible))


def test_a_card_has_what_the_vendor_says() -> None:
    """Context, output, thinking, efforts, tools on either API, and caching of the strong tier that ships."""
    card = card_of("openai", "gpt-6.1-sol")
    assert (card.known, card.context_tokens, card.output_tokens, card.thinks) == (True, 1_050_000, 128_000, True)
    assert (card.tools, card.tools_chat, card.strict, card.cache_minimum) == ("yes", "no", True, 1_024)
    assert card.efforts == ("low", "medium", "high", "xhigh", "max")
    assert card.sources[0].startswith("https://developers.openai.com/")


def test_what_no_source_says_is_unknown() -> None:
    """A model that nobody knows has an empty card, and nothing on it is guessed."""
    assert card_of("openai", "house-model") == ModelCard(provider="openai", model="house-model")
    assert card_of("anthropic", "claude-haiku-5-5").cache_minimum is None
    assert card_of("acme", "gpt-6-luna") == ModelCard(provider="acme", model="gpt-6-luna")


def test_dates_come_from_the_sdks() -> None:
    """The anthropic SDK has a table, the openai SDK a text; both say when a model is gone."""
    assert shut_down_on("anthropic", "claude-sonnet-4-5") == date(2026, 11, 30)
    assert shut_down_on("openai", "gpt-5") == date(2026, 12, 11)
    assert shut_down_on("openai", "o1-preview") == date(2025, 7, 28)
    assert shut_down_on("openai", "gpt-6-luna") is None
    assert shut_down_on("google", "gemini-2.5-pro") is None
    assert card_of("google", "gemini-2.5-pro").retires == TODAY


def test_the_sdks_name_models() -> None:
    """A model that isn't priced yet is known all the same, if its vendor's SDK names it."""
    assert known_to_sdk("openai", "gpt-6.2-sol")
    assert known_to_sdk("anthropic", "claude-mythos-5")
    assert not known_to_sdk("openai", "gpt-7")
    assert card_of("openai", "gpt-6.2-astra").known


def test_no_sdk_is_imported_for_a_card() -> None:
    """Each takes a second and tens of megabytes, and a worker loads only those that it has keys for."""
    code = (
        "import sys; from activities.model_cards import card_of; "
        "assert card_of('anthropic', 'claude-sonnet-4-5').retires and card_of('openai', 'gpt-5').retires; "
        "print([name for name in ('openai', 'anthropic') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "name",
    [
        "claude-sonnet-4-5-20250929",
        "anthropic.claude-sonnet-4-5",
        "us.anthropic.claude-sonnet-4-5",
        "claude-sonnet-4-5@20250929",
    ],
)
def test_a_door_s_name_of_a_model_has_its_card(name: str) -> None:
    """Bedrock and Google Cloud add a vendor, a region or a date to the model's own name."""
    assert card_of("anthropic", name).output_tokens == 64_000
    assert card_of("anthropic", name).retires == date(2026, 11, 30)


def test_every_fact_has_a_source_and_the_first_one_counts() -> None:
    """Each row says where it is from; a later one never changes what an earlier one said."""
    assert all(facts.source for facts in FACTS)
    assert card_of("anthropic", "claude-haiku-5-5").default_effort == "medium"
    assert card_of("anthropic", "claude-sonnet-5-5").default_effort == "high"


def test_a_thinking_model_gets_room() -> None:
    """16,000 tokens or more, for its reasoning counts; more when it is told to think hard; little when it is told not to."""
    luna = card_of("openai", "gpt-6-luna")
    assert default_output_tokens(luna) == 16_000
    assert default_output_tokens(luna, "xhigh") == 32_000
    assert default_output_tokens(luna, "none") == 4_096


def test_an_unknown_model_gets_little_unless_settings_say_more() -> None:
    """Small servers refuse a large limit, so 4,096 is asked for."""
    card = card_of("openai", "house-model")
    assert default_output_tokens(card) == 4_096
    assert default_output_tokens(card, unknown=1_000) == 1_000


@given(st.sampled_from([(f.provider, m) for f in FACTS for m in f.models]), st.sampled_from([None, "low", "high", "max"]))
def test_a_default_never_exceeds_the_model_s_own_limit(named: tuple[str, str], effort: str | None) -> None:
    """A limit above it would be refused by the vendor."""
    card = card_of(*named)
    tokens = default_output_tokens(card, effort)  # type: ignore[arg-type]
    assert tokens <= (card.output_tokens or tokens)
    assert not card.thinks or tokens >= 16_000


def test_a_model_that_nobody_knows_is_warned_of() -> None:
    """A misspelt name shows before a run meets it; at a server of one's own, any name may be right."""
    assert warned(ModelChoice(provider="openai", model="gpt-6-lunar")) == (
        "Nobody here knows `gpt-6-lunar` of `openai`: neither the price table nor the SDK; check the name."
    )
    assert warned(ModelChoice(provider="openai", model="house-model", base_url="http://llm.example/v1")) == ""
    assert warned(ModelChoice(provider="openai", model="house-model"), compatible=True) == ""


def test_a_retired_model_is_warned_of() -> None:
    """With the day, whether it has come or not."""
    assert warned(ModelChoice(provider="anthropic", model="claude-sonnet-4-5")) == (
        "`claude-sonnet-4-5` of `anthropic` was shut down on 2026-11-30; name another model."
    )
    assert warned(ModelChoice(provider="openai", model="gpt-5")) == (
        "`gpt-5` of `openai` will be shut down on 2026-12-11; name another model before."
    )


def test_a_route_that_cannot_use_tools_is_warned_of() -> None:
    """OpenAI's newest models take tools over Responses only, and a compatible server is called over Chat Completions."""
    sol = ModelChoice(provider="openai", model="gpt-6.1-sol", base_url="https://gateway.example/v1")
    assert warned(sol) == (
        "`gpt-6.1-sol` of `openai` takes no tools over Chat Completions, and agents work with tools; name another model."
    )
    luna = sol.model_copy(update={"model": "gpt-6-luna"})
    assert warned(luna) == '`gpt-6-luna` of `openai` takes tools over Chat Completions only with `effort = "none"`; set that.'
    assert warned(luna.model_copy(update={"effort": "none"})) == ""
    for base_url in ("", "https://api.openai.com/v1", "https://eu.api.openai.com/v1"):
        assert warned(ModelChoice(provider="openai", model="gpt-6.1-sol", base_url=base_url)) == ""


def test_an_effort_or_a_limit_that_the_model_does_not_take_is_warned_of() -> None:
    """The vendor would refuse every call for it."""
    assert warned(ModelChoice(provider="openai", model="gpt-6.1-sol", effort="none")) == (
        "`gpt-6.1-sol` of `openai` doesn't take the effort `none`; it takes `low`, `medium`, `high`, `xhigh`, `max`."
    )
    assert warned(ModelChoice(provider="anthropic", model="claude-haiku-4-5", effort="low")) == (
        "`claude-haiku-4-5` of `anthropic` doesn't take the effort `low`; it takes no level at all."
    )
    assert warned(ModelChoice(provider="google", model="gemini-3.8-flash", max_output_tokens=100_000)) == (
        "`gemini-3.8-flash` of `google` writes at most 65,536 tokens, less than the 100,000 of `max_output_tokens`; lower that."
    )
