"""Google's models by Vertex AI, with a service account whose tokens are given here."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from activities.providers.google import GoogleProvider, Vertex
from tests.wire.google_forms import ANSWER, MODEL, Connect, failure
from tests.wire.server import CannedServer, ask


@pytest.fixture
def account(tmp_path: Path, server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service account's file whose tokens are given by `server`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    info: dict[str, Any] = {
        "type": "service_account",
        "project_id": "other",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": "remit@other.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{server.url}/token",
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(info), encoding="utf-8")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("GEMINI_API_KEY", "not for Vertex")
    return path


@pytest.mark.usefixtures("account")
async def test_vertex_is_asked_with_a_token(server: CannedServer, google: Connect) -> None:
    """Vertex AI gets the same body under project and location, with a token for the service account and no API key."""
    server.begin({"access_token": "ya29.t", "expires_in": 3600, "token_type": "Bearer"})
    server.answer(ANSWER)
    provider = google(server.url, vertex=Vertex("shop", "europe-west4"))
    completions = [await provider.complete(ask(MODEL)) for _ in range(2)]
    token, first, second = (head.decode() for head in server.heads)
    assert token.startswith("POST /token ")
    path = f"/v1beta1/projects/shop/locations/europe-west4/publishers/google/models/{MODEL}:generateContent"
    for head in (first, second):
        assert head.startswith(f"POST {path} ")
        assert "authorization: bearer ya29.t\r\n" in head.lower()
        assert "x-goog-api-key" not in head.lower()
    direct = await google(server.url).complete(ask(MODEL))
    assert {c.request_digest for c in completions} == {direct.request_digest}


async def test_vertex_without_credentials_says_what_to_do(
    server: CannedServer, google: Connect, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that can't be read, or that Google refuses, are an `auth` error with a next step, and nothing is sent."""
    said = (
        "Google Cloud gave no token for the call; set `GOOGLE_APPLICATION_CREDENTIALS` to a service account's file, "
        "or run `gcloud auth application-default login`."
    )
    server.answer({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400)
    refused = await failure(google(server.url, vertex=Vertex("shop")))
    assert [head.split()[1] for head in server.heads] == [b"/token"]
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", f"{account}.gone")
    missing = await failure(google(server.url, vertex=Vertex("shop")))
    for error in (refused, missing):
        assert (error.code, error.retryable, error.message) == ("auth", False, said)


def test_a_region_has_its_own_host() -> None:
    """Without another server, Vertex AI is asked in the region that was set, and the Gemini API at Google itself."""

    async def urls() -> list[str]:
        found: list[str] = []
        for provider in (
            GoogleProvider("k"),
            GoogleProvider(vertex=Vertex("p")),
            GoogleProvider(vertex=Vertex("p", "eu")),
            GoogleProvider(vertex=Vertex("p", "europe-west4")),
        ):
            client = provider._client._api_client  # pyright: ignore[reportPrivateUsage]
            found.append(str(client._http_options.base_url).rstrip("/"))  # pyright: ignore[reportPrivateUsage]
            await provider.aclose()
        return found

    assert asyncio.run(urls()) == [
        "https://generativelanguage.googleapis.com",
        "https://aiplatform.googleapis.com",
        "https://aiplatform.eu.rep.googleapis.com",
        "https://europe-west4-aiplatform.googleapis.com",
    ]
