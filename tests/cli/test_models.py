"""`remit models` and the warnings of `remit policy check`, by subprocess: without a server, a ledger or a key."""

import shutil
from pathlib import Path

import pytest

from remit.settings import ROOT
from tests.console import Console

DESK = ROOT / "tests" / "apps" / "desk"
OWN = """
[[route]]
provider = "openai"
model = "house-model"
base_url = "http://llm.example/v1"
key_variable = "HOUSE_LLM_KEY"
price = { input_per_mtok = 50_000, output_per_mtok = 70_000, cache_read_per_mtok = 0 }
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DESK, tmp_path / "desk"))


def with_route(desk: Path, route: str) -> Console:
    file = desk / "agents" / "desk-closer" / "agent.toml"
    file.write_text(file.read_text().split("[[route]]")[0] + route)
    return Console(desk, {"REMIT_APP": str(desk)})


def test_the_models_of_each_route_are_listed(tmp_path: Path) -> None:
    """Agents with the same route stand together; price, context, limit and what a model can do fit into 80 columns."""
    shown = Console(tmp_path, {}).remit("models").out
    assert "billing-resolution, incident-assistant, support-triage\n" in shown
    assert "  1  openai    gpt-6-luna               $0.10   $0.50   $0.01   1.05M 16k/128k\n" in shown
    assert "  2  anthropic claude-sonnet-5-5        $2.00  $10.00   $0.10      1M 16k/128k\n" in shown
    assert "dearer above 100,000 tokens" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_what_nobody_knows_is_unknown(desk: Path) -> None:
    """A model of the house has no card, and its server and its own price are shown."""
    shown = " ".join(with_route(desk, OWN).remit("models", "--agent", "desk-closer").out.split())
    assert "1 openai house-model $0.05 $0.07 $0.00 unknown 4,096" in shown
    assert "tools unknown, strict unknown, thinking unknown, efforts unknown, at http://llm.example/v1" in shown


def test_models_as_json_have_card_prices_and_warnings(tmp_path: Path) -> None:
    """One object a model, in micro-USD for a million tokens."""
    found = Console(tmp_path, {}).remit("models", "--agent", "support-triage", "--json").json
    assert [(m["tier"], m["provider"]) for m in found] == [(t, p) for t in (1, 2) for p in ("openai", "anthropic", "google")]
    luna = found[0]
    assert (luna["model"], luna["max_output_tokens"], luna["prices"]["output"]) == ("gpt-6-luna", 16_000, 500_000)
    assert (luna["card"]["context_tokens"], luna["card"]["tools_chat"], luna["warnings"]) == (1_050_000, "effort_none", [])


def test_an_unknown_agent_is_refused(tmp_path: Path) -> None:
    """With the command that lists them."""
    answer = Console(tmp_path, {}).remit("models", "--agent", "nobody", code=1)
    assert answer.err == "remit: There is no agent `nobody`; `remit agents` lists them.\n"


def test_the_models_of_the_settings_are_named(tmp_path: Path) -> None:
    """`REMIT_MODEL` replaces what routes say, and that must not surprise whoever reads the table."""
    settings = {"REMIT_MODEL": "house-model", "OPENAI_BASE_URL": "http://llm.example/v1", "OPENAI_API_KEY": "k"}
    shown = " ".join(Console(tmp_path, settings).remit("models").out.split())
    assert "`REMIT_MODEL` puts `house-model` in the place of the models at `openai`" in shown


def test_policy_check_warns_of_models_that_will_not_do(desk: Path) -> None:
    """An unknown and a retired one; the exit code is that of a failure with `--strict` only."""
    console = with_route(desk, '[[route]]\nopenai = "gpt-6-lunar"\nanthropic = "claude-sonnet-4-5"\n')
    answer = console.remit("policy", "check")
    assert answer.out == "All bundles and agents are in order.\n"
    assert answer.err.splitlines() == [
        "remit: warning: Nobody here knows `gpt-6-lunar` of `openai`: neither the price table nor the SDK; check the name. "
        "It is in the route of desk-closer.",
        "remit: warning: The price of `gpt-6-lunar` of `openai` isn't known, so no run is admitted with it; declare one. "
        "It is in the route of desk-closer.",
        "remit: warning: `claude-sonnet-4-5` of `anthropic` was shut down on 2026-11-30; name another model. "
        "It is in the route of desk-closer.",
    ]
    assert console.remit("policy", "check", "--strict", code=1).out == ""
    checked = console.remit("policy", "check", "--json").json
    assert (checked["ok"], checked["problems"], len(checked["warnings"])) == (True, [], 3)
    assert console.remit("policy", "check", "--strict", "--json", code=1).json["ok"] is False


def test_policy_check_warns_of_a_route_that_cannot_use_tools(desk: Path) -> None:
    """A compatible server is called over Chat Completions, where this model takes none."""
    console = with_route(desk, '[[route]]\nopenai = "gpt-6.1-sol"\n')
    assert console.remit("policy", "check").err == ""
    behind = Console(desk, {"REMIT_APP": str(desk), "OPENAI_BASE_URL": "https://gateway.example/v1"})
    assert "`gpt-6.1-sol` of `openai` takes no tools over Chat Completions" in behind.remit("policy", "check").err


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"OPENAI_BASE_URL": "https://eu.api.openai.com/v1"}, False),
        ({"OPENAI_BASE_URL": "https://gateway.example/v1", "REMIT_OPENAI_DOOR": "azure"}, False),
        ({"OPENAI_BASE_URL": "https://gateway.example/v1", "REMIT_OPENAI_API": "responses"}, False),
        ({"REMIT_OPENAI_API": "chat"}, True),
    ],
)
def test_policy_check_knows_which_api_is_called(desk: Path, settings: dict[str, str], warns: bool) -> None:
    """OpenAI's regions, clouds and servers that speak Responses take tools with a model that Chat Completions doesn't."""
    with_route(desk, '[[route]]\nopenai = "gpt-6.1-sol"\n')
    console = Console(desk, {"REMIT_APP": str(desk), **settings})
    assert ("takes no tools over Chat Completions" in console.remit("policy", "check").err) is warns


def test_a_tier_that_cannot_be_used_is_a_problem(desk: Path) -> None:
    """One sentence with the tier's number, and exit code 1."""
    answer = with_route(desk, OWN.replace("HOUSE_LLM_KEY", "HOUSE")).remit("policy", "check", code=1)
    assert answer.err == (
        "remit: Agent `desk-closer`: tier 1 of its route has a `key_variable` whose name doesn't end with `_API_KEY`, `_KEY` "
        "or `_TOKEN`; rename the variable.\n"
    )
