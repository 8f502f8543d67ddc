"""OpenAI's models through Azure and Amazon Bedrock: the same body by other addresses and credentials."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from activities.providers import openai_doors
from activities.providers.base import ProviderError
from activities.providers.responses import ResponsesProvider
from policies.errors import MissingKey
from remit.providers import providers
from remit.settings import Settings
from tests.wire.responses_forms import MODEL, answer, check, failure, text
from tests.wire.server import CannedServer, ask

SECRET = "azure-secret-1"
AWS_SECRET = "wJalrXUtnFEMI"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own accounts is used."""
    for name in (
        *("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_AD_TOKEN", "OPENAI_API_VERSION", "OPENAI_API_KEY"),
        *("AWS_BEARER_TOKEN_BEDROCK", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_BEDROCK_BASE_URL", "AWS_PROFILE"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[ResponsesProvider], ResponsesProvider]]:
    """Closes the providers that it is given after the test."""
    made: list[ResponsesProvider] = []

    def keep(provider: ResponsesProvider) -> ResponsesProvider:
        made.append(provider)
        return provider

    yield keep
    for provider in made:
        await provider.aclose()


Keep = Callable[[ResponsesProvider], ResponsesProvider]


def fields(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


def path(head: bytes) -> str:
    return head.decode().split(" ")[1]


async def test_azure_is_asked_by_its_version_1(server: CannedServer, opened: Keep) -> None:
    """Azure gets the key of the resource, the deployment's name in the body, and no marks that it may not know."""
    server.answer(answer(text("ok")))
    completion = await opened(openai_doors.azure(f"{server.url}/", SECRET)).complete(ask("our-luna"))
    assert path(server.heads[-1]) == "/openai/v1/responses"
    assert fields(server.heads[-1])["authorization"] == f"Bearer {SECRET}"
    check(server.bodies[-1])
    assert server.sent["model"] == "our-luna"
    assert server.sent["instructions"] == "Be brief."
    assert completion.dialect == "responses unmarked"


@pytest.mark.parametrize("suffix", ["", "/", "/openai", "/openai/v1/"])
async def test_azures_endpoint_is_taken_however_it_is_copied(server: CannedServer, opened: Keep, suffix: str) -> None:
    """Azure's portal shows the endpoint with and without the path of the API."""
    server.answer(answer(text("ok")))
    await opened(openai_doors.azure(server.url + suffix, SECRET)).complete(ask(MODEL))
    assert path(server.heads[-1]) == "/openai/v1/responses"
    assert b"prompt_cache_breakpoint" not in server.bodies[-1]


async def test_azure_takes_a_dated_version(server: CannedServer, opened: Keep) -> None:
    """`OPENAI_API_VERSION` leads to the dated API, with the key in the header that it knows."""
    server.answer(answer(text("ok")))
    await opened(openai_doors.azure(server.url, SECRET, "2025-04-01-preview")).complete(ask(MODEL))
    assert path(server.heads[-1]) == "/openai/responses?api-version=2025-04-01-preview"
    assert fields(server.heads[-1])["api-key"] == SECRET


@pytest.mark.parametrize("version", ["", "2025-04-01-preview"])
async def test_azure_takes_a_token_of_entra_id(server: CannedServer, opened: Keep, version: str) -> None:
    """Without a key each call has a token that is fetched for it, and no key."""

    async def token() -> str:
        return "eyJ.t"

    server.answer(answer(text("ok")))
    await opened(openai_doors.azure(server.url, "", version, token)).complete(ask(MODEL))
    found = fields(server.heads[-1])
    assert found["authorization"] == "Bearer eyJ.t"
    assert "api-key" not in found


async def test_entra_id_without_an_identity_says_what_to_check(
    server: CannedServer, opened: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process without an identity gets no token, and the failure is the credentials', not the server's."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"):
        monkeypatch.delenv(name, raising=False)
    found = await failure(opened(openai_doors.azure(server.url)))
    assert (found.code, found.retryable) == ("auth", False)
    assert found.message == "The credentials for the provider can't be fetched or used; check `AZURE_CLIENT_ID`."
    assert server.bodies == []


async def test_bedrock_is_asked_with_its_key(server: CannedServer, opened: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bedrock gets its API key, and the same body without marks."""
    monkeypatch.setenv("AWS_BEDROCK_BASE_URL", f"{server.url}/openai/v1")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-key\n")
    server.answer(answer(text("ok")))
    await opened(openai_doors.bedrock()).complete(ask("openai.gpt-6-luna"))
    assert path(server.heads[-1]) == "/openai/v1/responses"
    assert fields(server.heads[-1])["authorization"] == "Bearer bedrock-key"
    check(server.bodies[-1])
    assert server.sent["instructions"] == "Be brief."


async def test_bedrock_is_signed_with_awss_credentials(
    server: CannedServer, opened: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an API key the request is signed for the region, and the secret stays here."""
    monkeypatch.setenv("AWS_BEDROCK_BASE_URL", f"{server.url}/openai/v1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AWS_SECRET)
    server.answer(answer(text("ok")))
    await opened(openai_doors.bedrock()).complete(ask("openai.gpt-6-luna"))
    signed = fields(server.heads[-1])["authorization"]
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKIATEST/")
    assert "/eu-central-1/bedrock" in signed
    assert AWS_SECRET.encode() not in server.heads[-1] + server.bodies[-1]


async def test_bedrock_without_credentials_says_what_to_check(
    server: CannedServer, opened: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key and no credentials of AWS's: nothing is sent."""
    monkeypatch.setenv("AWS_BEDROCK_BASE_URL", f"{server.url}/openai/v1")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    found = await failure(opened(openai_doors.bedrock()))
    assert (found.code, found.retryable) == ("auth", False)
    assert server.bodies == []


async def test_bedrock_has_an_address_for_each_region(opened: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The region leads to the endpoint that AWS recommends; an address of its other endpoint is taken as it is."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-key")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    provider = opened(openai_doors.bedrock())
    assert str(provider._client.base_url) == "https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1/"
    mantle = "https://bedrock-mantle.us-east-1.api.aws/openai/v1/"
    monkeypatch.setenv("AWS_BEDROCK_BASE_URL", mantle)
    assert str(opened(openai_doors.bedrock())._client.base_url) == mantle


@pytest.mark.parametrize("door", ["azure", "bedrock"])
async def test_no_failure_of_a_door_shows_its_key(
    server: CannedServer, opened: Keep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, door: str
) -> None:
    """A refusal that quotes the key is told without it, and nothing is logged."""
    monkeypatch.setenv("AWS_BEDROCK_BASE_URL", f"{server.url}/openai/v1")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", SECRET)
    caplog.set_level("DEBUG")
    server.answer({"error": {"code": SECRET, "message": f"Bad key {SECRET}"}}, 401)
    provider = opened(openai_doors.azure(server.url, SECRET) if door == "azure" else openai_doors.bedrock())
    found = await failure(provider)
    assert (found.code, found.retryable) == ("auth", False)
    name = "AZURE_OPENAI_API_KEY" if door == "azure" else "AWS_BEARER_TOKEN_BEDROCK"
    assert found.message == f"The provider refused the key (401); check `{name}`."
    assert found.__cause__ is None
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"REMIT_OPENAI_DOOR": "azure"}, r"set `AZURE_OPENAI_ENDPOINT`"),
        ({"REMIT_OPENAI_DOOR": "bedrock"}, r"set `AWS_REGION`"),
        ({"REMIT_OPENAI_DOOR": "bedrock", "AWS_REGION": "nowhere"}, r"set `AWS_REGION`"),
    ],
)
async def test_a_door_without_its_settings_says_which(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: str
) -> None:
    """A worker whose door isn't set up doesn't start, and says what is missing."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as closing:
        with pytest.raises(MissingKey, match=told):
            providers(Settings(), closing)


async def test_a_door_is_opened_by_the_settings(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`REMIT_OPENAI_DOOR` makes `openai` go there, also when there is a key of OpenAI's own."""
    settings: dict[str, Any] = {
        "OPENAI_API_KEY": "sk-own",
        "REMIT_OPENAI_DOOR": "azure",
        "AZURE_OPENAI_ENDPOINT": server.url,
        "AZURE_OPENAI_API_KEY": SECRET,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    server.answer(answer(text("ok")))
    async with AsyncExitStack() as closing:
        found = providers(Settings(), closing)["openai"]
        await found.complete(ask(MODEL))
    assert b"sk-own" not in server.heads[-1]
    assert path(server.heads[-1]) == "/openai/v1/responses"


async def test_a_lost_door_is_a_lost_connection(opened: Keep) -> None:
    """Azure that can't be reached is told like any server that can't."""
    with pytest.raises(ProviderError) as caught:
        await opened(openai_doors.azure("http://127.0.0.1:9", SECRET)).complete(ask(MODEL))
    assert (caught.value.code, caught.value.retryable) == ("connection", True)
