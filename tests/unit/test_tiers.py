"""Tiers of a route as an `agent.toml` writes them: both forms, what is pinned, and what is refused in one sentence."""

import tomllib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from activities.library import Library
from activities.model_cards import card_of, warnings_of
from activities.prices import cost
from activities.servers import key_of
from activities.tiers import VENDORS, Tier
from policies.errors import MissingKey
from policies.routing import ModelChoice, Price, Route
from remit.providers import servers
from remit.settings import ROOT
from tools.builtin import CATALOG
from workflows.messages import TokenUsage

BUILT_IN = Library([ROOT], CATALOG)
OWN = """
provider = "openai"
model = "qwen3-32b"
base_url = "http://llm.example:8000/v1"
key_variable = "LLM_API_KEY"
price = { input_per_mtok = 100_000, output_per_mtok = 300_000 }
max_output_tokens = 8_000
effort = "low"
"""


def tier(toml: str) -> Tier:
    return Tier.model_validate(tomllib.loads(toml))


def test_the_short_form_names_a_model_for_each_vendor() -> None:
    """The limit comes from the model's card, the effort is the vendor's own."""
    short = tier('openai = "gpt-6-luna"\nanthropic = "claude-haiku-5-5"\ngoogle = "gemini-3.8-flash"')
    assert short.problem == ""
    assert short.choice("openai") == ModelChoice(
        provider="openai", model="gpt-6-luna", max_output_tokens=16_000, output_ceiling=128_000
    )
    assert [short.choice(v).model for v in VENDORS] == ["gpt-6-luna", "claude-haiku-5-5", "gemini-3.8-flash"]
    assert tier('openai = "gpt-6-luna"').choice("google").model == ""


def test_a_tier_says_how_much_its_models_reason_and_write() -> None:
    """For all vendors, or for one of them in a table of its own, which goes before."""
    both = tier('effort = "medium"\nmax_output_tokens = 20_000\nanthropic = "claude-haiku-5-5"\nopenai = { model = "m" }')
    assert {(both.choice(v).effort, both.choice(v).max_output_tokens) for v in ("openai", "anthropic")} == {("medium", 20_000)}
    one = tier(
        'effort = "low"\nanthropic = "claude-haiku-5-5"\n'
        'openai = { model = "gpt-6.1-sol", effort = "high", max_output_tokens = 32_000, sent_as = "my-deployment" }'
    )
    sol = one.choice("openai")
    assert (sol.effort, sol.max_output_tokens, sol.sent_as) == ("high", 32_000, "my-deployment")
    assert (one.choice("anthropic").effort, one.choice("anthropic").sent_as) == ("low", "")


def test_a_deployment_is_priced_as_the_model_that_it_is() -> None:
    """Its name on the wire has no price; a door that bills more is priced so."""
    named = tier('openai = { model = "gpt-6.1-sol", sent_as = "my-deployment", surcharge_percent = 10 }').choice("openai")
    assert cost(named, TokenUsage(input_tokens=1_000_000))[0] == 4_400_000  # over 272,000 tokens, $2 becomes $4


def test_a_tier_may_have_a_server_of_its_own() -> None:
    """The same model answers whatever the worker's provider is, at its declared price."""
    own = tier(OWN)
    assert own.problem == ""
    expected = ModelChoice(
        provider="openai",
        model="qwen3-32b",
        base_url="http://llm.example:8000/v1",
        key_variable="LLM_API_KEY",
        price=Price(input_per_mtok=100_000, output_per_mtok=300_000),
        max_output_tokens=8_000,
        effort="low",
    )
    assert own.choice("openai") == own.choice("anthropic") == expected
    assert expected.endpoint == "openai http://llm.example:8000/v1"


def test_a_fallback_does_not_repeat_a_tier_that_is_the_same() -> None:
    """A tier with a provider of its own is in each vendor's route, and is asked once."""
    own, luna, haiku = tier(OWN).choice("openai"), *(ModelChoice(provider="x", model=m) for m in ("luna", "haiku"))
    route = Route(models=(own, luna), fallbacks=((own, haiku),))
    assert route.choices(1) == (own,)
    assert route.choices(2) == (luna, haiku)


def test_an_unknown_model_has_the_limit_of_the_settings() -> None:
    """`REMIT_MAX_OUTPUT_TOKENS` counts for models that nobody knows, and for no other."""
    house = tier('openai = "house-model"')
    assert house.choice("openai").max_output_tokens == 4_096
    assert house.choice("openai", 9_000).max_output_tokens == 9_000
    assert tier('openai = "gpt-6-luna"').choice("openai", 9_000).max_output_tokens == 16_000


@dataclass(frozen=True)
class Broken:
    toml: str
    problem: str


@pytest.mark.parametrize(
    "case",
    [
        Broken("", "names no model; give `openai`, `anthropic` or `google`, or `provider` and `model`"),
        Broken('openai = ""', "names no model; give `openai`, `anthropic` or `google`, or `provider` and `model`"),
        Broken('model = "m"', "has `model` and no `provider`; say whose API it is: `openai`, `anthropic`, `google`"),
        Broken(
            'openai = "m"\nbase_url = "http://x/v1"',
            "has `base_url` and no `provider`; say whose API it is: `openai`, `anthropic`, `google`",
        ),
        Broken('provider = "openai"', "has a `provider` and no `model`"),
        Broken('provider = "openai"\nmodel = "m"\ngoogle = "g"', "has a `provider` and `google`; keep one of the two forms"),
        Broken(
            'provider = "openai"\nmodel = "m"\nkey_variable = "LLM_API_KEY"',
            "has a `key_variable` and no `base_url`; the keys of vendors are the worker's settings",
        ),
        Broken(
            OWN.replace("LLM_API_KEY", "LLM_PASSWORD"),
            "has a `key_variable` whose name doesn't end with `_API_KEY`, `_KEY` or `_TOKEN`; rename the variable",
        ),
        Broken(
            OWN.replace("LLM_API_KEY", "STRIPE_API_KEY"),
            "would send `STRIPE_API_KEY` to a model's server; give that server a key of its own",
        ),
        Broken(OWN + "surcharge_percent = 10", "has a `price` and a `surcharge_percent`; a declared price is what is billed"),
    ],
    ids=lambda case: case.problem[:40],
)
def test_a_tier_that_cannot_be_used_is_one_sentence(case: Broken) -> None:
    """It is named, with what to do about it."""
    assert tier(case.toml).problem == case.problem


@pytest.mark.parametrize(
    "url",
    [
        "llm.example/v1",
        "ftp://llm.example/v1",
        "http://",
        "http://u:p@llm.example",
        "http://x/v1?key=k",
        "http://x:99999",
        "http://x\\n",
    ],
)
def test_an_address_that_is_no_server_s_is_refused(url: str) -> None:
    """A password in it would lie in every run's history, and the rest would fail at the first call."""
    problem = tier(OWN.replace("http://llm.example:8000/v1", url)).problem
    assert problem == "has a `base_url` that can't be used; give http or https, a host and a path, and no password"


def test_the_key_of_a_server_comes_from_the_variable_that_the_tier_names() -> None:
    """One that isn't set is named; a server without one is sent a word."""
    own = tier(OWN).choice("openai")
    assert key_of(own, {"LLM_API_KEY": " secret\n"}) == "secret"
    assert key_of(own.model_copy(update={"key_variable": ""}), {}) == "none"
    with pytest.raises(MissingKey) as caught:
        key_of(own, {"LLM_API_KEY": ""})
    assert caught.value.message == (
        "The server of `qwen3-32b` at http://llm.example:8000/v1 wants a key, and `LLM_API_KEY` isn't set for this worker; "
        "set it."
    )


async def test_a_server_s_provider_is_made_once_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind, with its own key; it is closed at the end."""
    monkeypatch.setenv("LLM_API_KEY", "secret")
    own = tier(OWN).choice("openai")
    async with AsyncExitStack() as closing:
        made = [servers(closing)(own.model_copy(update={"provider": name})) for name in VENDORS]
        assert [provider.name for provider in made] == [*VENDORS]


@pytest.mark.parametrize(("models", "last", "told"), [(1, 2, [1, 2]), (2, 2, [1, 2]), (3, 3, [1, 1, 2]), (4, 4, [1, 1, 1, 2])])
def test_policies_know_two_tiers(models: int, last: int, told: list[int]) -> None:
    """The last one is the strong one, 2; those before it are 1, so that `route:strong` means what it meant."""
    route = Route(models=tuple(ModelChoice(provider="openai", model=str(n)) for n in range(models)))
    assert route.last == last
    assert [route.policy_tier(n + 1) for n in range(last)] == told


@pytest.mark.parametrize("name", BUILT_IN.names())
@pytest.mark.parametrize("vendor", VENDORS)
def test_the_shipped_routes_can_be_used_today(name: str, vendor: str) -> None:
    """Each tier of each agent at each vendor is known, priced, not retired, takes tools, and has room to reason."""
    for choice in BUILT_IN.agent(name).models(vendor):
        assert warnings_of(choice, datetime.now(UTC).date()) == []
        assert card_of(choice.provider, choice.model).tools == "yes"
        assert cost(choice, TokenUsage(input_tokens=1))[0] > 0
        assert choice.max_output_tokens and choice.max_output_tokens >= 16_000
