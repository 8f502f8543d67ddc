"""Settings of a worker's capacity, and which providers they reach."""

import pytest

from policies.errors import InvalidInput
from remit.settings import Settings, load

KEYS = (
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "GOOGLE_GEMINI_BASE_URL",
    "REMIT_GOOGLE_DOOR",
    "GOOGLE_CLOUD_PROJECT",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "REMIT_PROVIDER",
    "REMIT_FALLBACK",
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tester's own keys don't count."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "provider", "fallbacks"),
    [
        ({}, "", ()),
        ({"OPENAI_API_KEY": "k"}, "openai", ()),
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:1"}, "anthropic", ()),
        ({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, "openai", ("anthropic",)),
        ({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "REMIT_PROVIDER": "anthropic"}, "anthropic", ("openai",)),
        ({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "REMIT_FALLBACK": "off"}, "openai", ()),
        ({"GEMINI_API_KEY": "k"}, "google", ()),
        ({"GOOGLE_API_KEY": "k", "OPENAI_API_KEY": "k"}, "openai", ("google",)),
        ({"GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:1"}, "google", ()),
        ({"REMIT_GOOGLE_DOOR": "vertex", "OPENAI_API_KEY": "k", "REMIT_PROVIDER": "google"}, "google", ("openai",)),
        ({"GOOGLE_CLOUD_PROJECT": "p"}, "", ()),
    ],
)
def test_the_keys_say_who_answers_and_who_helps_out(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], provider: str, fallbacks: tuple[str, ...]
) -> None:
    """The first provider is the one that is named, or else the first with a key; the other one with a key is its fallback."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = Settings()
    assert (found.model_provider, found.model_fallbacks) == (provider, fallbacks)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REMIT_OPENAI_RPM", "0"),
        ("REMIT_ANTHROPIC_CONCURRENCY", "many"),
        ("REMIT_WORKFLOW_SLOTS", "1"),
        ("REMIT_FALLBACK", "no"),
    ],
)
def test_a_limit_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A limit that would let nothing through, or is no number, ends the worker with the variable's name."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=f"^`{name}` can't be used: .*[.]$"):
        load()
