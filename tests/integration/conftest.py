"""Fixtures of the integration tests: an environment without keys."""

import pytest


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no setting of the machine that the tests run on."""
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_BASE_URL",
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
        "GOOGLE_GEMINI_BASE_URL",
        "REMIT_GOOGLE_DOOR",
        "REMIT_PROVIDER",
    ):
        monkeypatch.delenv(name, raising=False)
