"""How a worker comes to Google's models."""

import sys
from contextlib import AsyncExitStack

import pytest

from policies.errors import MissingKey
from remit.providers import providers
from remit.settings import Settings, Standalone


async def reached(settings: Settings) -> set[str]:
    async with AsyncExitStack() as closing:
        return set(providers(settings, closing))


def given(**values: object) -> Settings:
    return Standalone.model_validate(values)


async def test_a_key_is_enough() -> None:
    """A worker with a key of the Gemini API reaches Google, and one without doesn't."""
    assert await reached(given(google_api_key="k")) == {"scripted", "google"}
    assert await reached(given()) == {"scripted"}


async def test_vertex_needs_a_project_and_no_key() -> None:
    """Vertex AI is reached with Google Cloud's credentials, once it is said who pays."""
    assert "google" in await reached(given(google_door="vertex", google_project="shop"))
    with pytest.raises(MissingKey) as caught:
        await reached(given(google_door="vertex"))
    assert caught.value.message == (
        "`REMIT_GOOGLE_DOOR` is `vertex`; set `GOOGLE_CLOUD_PROJECT` to the project that pays for it."
    )


async def test_the_sdk_is_asked_for_only_where_google_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, a worker that is to use Google says what to install, and one that needn't goes without it."""
    monkeypatch.delitem(sys.modules, "activities.providers.google", raising=False)
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(MissingKey) as caught:
        await reached(given(google_api_key="k"))
    assert caught.value.message == "Google's SDK isn't installed; install it with `pip install 'remit[google]'`."
    assert await reached(given(google_api_key="k", anthropic_api_key="k")) == {"scripted", "anthropic"}
