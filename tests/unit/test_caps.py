"""Caps as files say them: what `[caps]` and `REMIT_CAPS` may say, and that what they say now is what holds."""

from pathlib import Path

import pytest

from activities import caps as live
from activities.caps import LiveCaps, read_caps
from activities.library import Library
from policies.bundle import Bundle
from policies.caps import Caps, ScopedCaps
from policies.errors import InvalidInput, PolicyInvalid
from tests.builders import bundle
from tools.builtin import CATALOG

AGENT = "billing-resolution"


def with_caps(text: str) -> Bundle:
    """The refund bundle with a table `[caps]`."""
    given = bundle()
    return given.model_copy(update={"limits_toml": f"{given.limits_toml}\n[caps]\n{text}\n"})


# ---- what they may say ------------------------------------------------------------------------------------------------


def test_a_bundle_without_caps_has_none() -> None:
    """None of those that Remit ships has any."""
    for name in ("refunds_v7", "support_v1", "incidents_v1"):
        assert not bundle(name).limits().caps.on_runs


def test_a_bundle_says_all_its_caps_in_one_table() -> None:
    """Amounts by currency, counts by day and minute, and what happens when one is reached."""
    text = "tool_calls_per_day = 500\nmoved_cents_per_day = { USD = 100000, EUR = 0 }\nruns_per_minute = 6\non_cap = 'escalate'"
    assert with_caps(text).limits().caps == Caps(
        tool_calls_per_day=500, moved_cents_per_day={"USD": 100_000, "EUR": 0}, runs_per_minute=6, on_cap="escalate"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tool_calls = 3", "`caps.tool_calls` Extra inputs are not permitted"),
        ("tokens_per_day = 0", "`caps.tokens_per_day` Input should be greater than or equal to 1"),
        ("on_cap = 'ask'", "`caps.on_cap` Input should be 'wait', 'escalate' or 'refuse'"),
        ("moved_cents_per_day = { dollars = 1 }", "`caps.moved_cents_per_day.dollars.[key]` String should match pattern"),
    ],
)
def test_a_cap_that_does_not_exist_is_refused(text: str, said: str) -> None:
    """A misspelt cap that nobody notices would be none."""
    with pytest.raises(PolicyInvalid) as refused:
        with_caps(text).limits()
    assert f"Bundle `refunds_v7`: `limits.toml`: {said}" in refused.value.message


def test_a_file_of_caps_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """One sentence each: not there, no TOML, no such field, no such agent."""
    file = tmp_path / "caps.toml"
    with pytest.raises(InvalidInput, match="^`REMIT_CAPS` names `.*caps.toml`, which can't be read; see docs/caps.md.$"):
        read_caps(file)
    for text, said in (("[fleet", "isn't valid TOML"), ("[namespace]\n", "`namespace` Extra inputs are not permitted")):
        file.write_text(text)
        with pytest.raises(InvalidInput, match=said):
            read_caps(file)
    file.write_text("[agents.nobody]\ntool_calls_per_day = 1\n")
    with pytest.raises(InvalidInput, match="has caps of `nobody`, and there is no such agent.$"):
        LiveCaps(Library([live_root()], CATALOG), file)


def live_root() -> Path:
    return Path(live.__file__).parent.parent


# ---- what they say now ------------------------------------------------------------------------------------------------


class Files:
    """A library and a file of caps that a test changes, and the caps that are read from them, always anew."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.bundle = library / "policies" / "bundles" / "refunds_v7" / "limits.toml"
        self.agent = library / "agents" / AGENT / "agent.toml"
        self.file = folder / "caps.toml"
        self.file.write_text("")
        self._before = self.bundle.read_text()
        self.live = LiveCaps(Library([library], CATALOG), self.file)

    def say(self, text: str) -> None:
        self.bundle.write_text(f"{self._before}\n[caps]\n{text}\n")

    @property
    def now(self) -> list[tuple[str, int | None]]:
        return [(each.scope, each.caps.tool_calls_per_day) for each in self.live(AGENT)]


@pytest.fixture
def files(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(live, "FRESH_SECONDS", 0.0)
    return Files(library, tmp_path)


def test_what_changes_in_a_file_holds_at_once(files: Files) -> None:
    """No worker is started again: a bundle's cap, the file's for the agent, the fleet's, and none any more."""
    assert files.now == []
    files.say("tool_calls_per_day = 100")
    assert files.now == [(f"agent:{AGENT}", 100)]
    files.say("tool_calls_per_day = 20")
    assert files.now == [(f"agent:{AGENT}", 20)]
    files.file.write_text(f"[fleet]\ntool_calls_per_day = 7\n[agents.{AGENT}]\ntool_calls_per_day = 3\n")
    assert files.now == [(f"agent:{AGENT}", 20), (f"agent:{AGENT}", 3), ("fleet", 7)]
    files.file.write_text("")
    files.bundle.write_text(files._before)  # pyright: ignore[reportPrivateUsage]
    assert files.now == []


def test_a_file_that_is_broken_while_it_works_lifts_no_cap(files: Files) -> None:
    """What was read last holds on, until it can be read again."""
    files.say("tool_calls_per_day = 20")
    files.file.write_text("[fleet]\ntool_calls_per_day = 7\n")
    held = [(f"agent:{AGENT}", 20), ("fleet", 7)]
    assert files.now == held
    files.say("tool_calls_per_day = 'many'")
    assert files.now == held
    files.file.write_text("[fleet")
    assert files.now == held
    files.file.unlink()
    assert files.now == held
    files.say("tool_calls_per_day = 5")
    assert files.now == [(f"agent:{AGENT}", 5), ("fleet", 7)]


def test_an_agent_that_is_gone_keeps_the_caps_that_its_run_is_pinned_to(files: Files) -> None:
    """Its open runs must not be without any."""
    files.agent.unlink()
    pinned = with_caps("tool_calls_per_day = 9")
    assert files.live(AGENT, pinned) == (ScopedCaps(scope=f"agent:{AGENT}", caps=Caps(tool_calls_per_day=9)),)


def test_files_are_looked_at_once_a_second(library: Path, tmp_path: Path) -> None:
    """Between two looks, a step costs a look into a dict, and no file."""
    files = Files(library, tmp_path)
    assert files.now == []
    files.agent.unlink()
    assert files.now == []
