"""Claude through the clouds: path, headers and body of each door, with made-up credentials, at servers of this machine."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from activities.providers.anthropic import AnthropicProvider, DoorName, body_of
from activities.providers.anthropic_doors import opened
from activities.providers.base import Completion, ProviderError
from policies.errors import MissingKey
from remit.settings import Settings
from tests.wire.anthropic_api import answer, asked, cached_marks, checked, complete, text
from tests.wire.server import CannedServer

BEDROCK_MODEL = "anthropic.claude-haiku-5-5"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the one who runs the tests counts, nor any file or metadata server."""
    for name in (
        *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_AWS_API_KEY"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "ANTHROPIC_BEDROCK_MANTLE_BASE_URL"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "CLOUD_ML_REGION", "ANTHROPIC_VERTEX_PROJECT_ID"),
        *("ANTHROPIC_VERTEX_BASE_URL", "ANTHROPIC_GOOGLE_CLOUD_PROJECT", "ANTHROPIC_GOOGLE_CLOUD_WORKSPACE_ID"),
        *("ANTHROPIC_GOOGLE_CLOUD_BASE_URL", "ANTHROPIC_GOOGLE_CLOUD_LOCATION"),
        *("ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_FOUNDRY_RESOURCE", "ANTHROPIC_FOUNDRY_BASE_URL"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-anthropic-only")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
def google_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A service account with a key that was made for the test; gives the file's path."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {"type": "service_account", "project_id": "acme", "private_key": pem, "client_email": "remit@acme.example"}
    path = tmp_path / "account.json"
    path.write_text(json.dumps(account | {"token_uri": "unset"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return str(path)


def tokens_from(login: str, server: CannedServer) -> None:
    """Let the service account fetch its tokens from `server`."""
    path = Path(login)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"token_uri": f"{server.url}/token"}))


@asynccontextmanager
async def through(door: DoorName) -> AsyncGenerator[AnthropicProvider]:
    provider = AnthropicProvider(door=door)
    try:
        yield provider
    finally:
        await provider.aclose()


async def sent(server: CannedServer, door: DoorName, model: str) -> tuple[Completion, str, dict[str, str]]:
    """One call: the completion, the request line and the headers, their names in lower case."""
    server.answer(answer(text("ok"), stop="end_turn"))
    async with through(door) as provider:
        completion = await provider.complete(asked(model=model))
    line, *rest = server.heads[-1].decode("latin-1").strip().split("\r\n")
    headers = dict(field.split(": ", 1) for field in rest)
    assert server.bodies[-1] == body_of(asked(model=model), completion.dialect)
    assert "sk-anthropic-only" not in server.heads[-1].decode("latin-1")
    return completion, line, {name.lower(): value for name, value in headers.items()}


async def test_bedrock_is_asked_with_a_signature(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is signed for the region and the service, and the body has the cloud's own name of the model."""
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("ANTHROPIC_BEDROCK_MANTLE_BASE_URL", f"{server.url}/anthropic")
    completion, line, headers = await sent(server, "bedrock", BEDROCK_MODEL)
    assert line == "POST /anthropic/v1/messages HTTP/1.1"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-central-1/bedrock-mantle/aws4_request" in headers["authorization"]
    assert "anthropic-version" in headers
    body = checked(server.bodies[-1])
    assert (body["model"], body["tools"][0]["strict"], cached_marks(body)) == (BEDROCK_MODEL, True, 2)
    assert completion.dialect == "bedrock+last+strict"


async def test_bedrock_is_asked_with_a_key_of_its_own(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Bedrock key goes out as a bearer token, and needs no further package."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-key")
    monkeypatch.setenv("ANTHROPIC_BEDROCK_MANTLE_BASE_URL", f"{server.url}/anthropic")
    _, _, headers = await sent(server, "bedrock", BEDROCK_MODEL)
    assert headers["authorization"] == "Bearer bedrock-key"


async def test_bedrock_has_a_server_in_each_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a base URL, the region names the host."""
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    door = opened("bedrock")
    assert str(getattr(door.client, "base_url", "")) == "https://bedrock-mantle.eu-central-1.api.aws/anthropic/"
    await door.client.close()


async def test_vertex_has_model_and_project_in_the_path(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch, google_login: str
) -> None:
    """The body has the API's version instead of the model, and the token is fetched with the service account's key."""
    monkeypatch.setenv("CLOUD_ML_REGION", "global")
    monkeypatch.setenv("ANTHROPIC_VERTEX_PROJECT_ID", "acme")
    monkeypatch.setenv("ANTHROPIC_VERTEX_BASE_URL", f"{server.url}/v1")
    async with CannedServer() as tokens:
        tokens.answer({"access_token": "ya29.test", "expires_in": 3600, "token_type": "Bearer"})
        tokens_from(google_login, tokens)
        completion, line, headers = await sent(server, "vertex", "claude-haiku-5-5@20261001")
    model = "claude-haiku-5-5@20261001:rawPredict"
    assert line == f"POST /v1/projects/acme/locations/global/publishers/anthropic/models/{model} HTTP/1.1"
    assert headers["authorization"] == "Bearer ya29.test"
    assert b"grant-type%3Ajwt-bearer" in tokens.bodies[0]
    body = json.loads(server.bodies[-1])
    assert body.pop("anthropic_version") == "2026-10-21"
    assert "model" not in body
    checked(json.dumps(body | {"model": "m"}).encode())
    assert ("strict" in body["tools"][0], cached_marks(body)) == (False, 2)
    assert completion.dialect == "vertex/2026-10-21+last"


@pytest.mark.parametrize("model", ["../../secrets", "a/b", "a;b", "a?b#c", "ä"])
async def test_a_models_name_stays_one_part_of_the_path(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Whatever a route calls a model, the path leads to a model of this project."""
    monkeypatch.setenv("CLOUD_ML_REGION", "global")
    monkeypatch.setenv("ANTHROPIC_VERTEX_PROJECT_ID", "acme")
    door = opened("vertex")
    path = door.path(model)
    await door.client.close()
    assert path.startswith("/projects/acme/locations/global/publishers/anthropic/models/")
    assert path.count("/") == 8 and path.isascii() and not set(path) & set(";?#")


async def test_google_cloud_is_asked_in_a_workspace(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch, google_login: str
) -> None:
    """The door of Anthropic's own service there takes the whole body under the model's own name."""
    monkeypatch.setenv("ANTHROPIC_GOOGLE_CLOUD_BASE_URL", f"{server.url}/v1/projects/acme/workspaces/w/invoke")
    async with CannedServer() as tokens:
        tokens.answer({"access_token": "ya29.test", "expires_in": 3600, "token_type": "Bearer"})
        tokens_from(google_login, tokens)
        completion, line, headers = await sent(server, "google_cloud", "claude-haiku-5-5")
    assert line == "POST /v1/projects/acme/workspaces/w/invoke/v1/messages HTTP/1.1"
    assert headers["authorization"] == "Bearer ya29.test"
    body = checked(server.bodies[-1])
    assert (body["model"], body["cache_control"]) == ("claude-haiku-5-5", {"type": "ephemeral"})
    assert completion.dialect == "google_cloud+auto+strict"


async def test_foundry_is_asked_with_the_resources_key(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resource's key goes out, and the body has the deployment's name."""
    monkeypatch.setenv("ANTHROPIC_FOUNDRY_API_KEY", "foundry-key\n")
    monkeypatch.setenv("ANTHROPIC_FOUNDRY_BASE_URL", f"{server.url}/anthropic")
    completion, line, headers = await sent(server, "foundry", "our-haiku")
    assert line == "POST /anthropic/v1/messages HTTP/1.1"
    assert headers["x-api-key"] == "foundry-key"
    assert (checked(server.bodies[-1])["model"], completion.dialect) == ("our-haiku", "foundry+last")


async def test_foundry_has_a_server_for_each_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a base URL, the resource names the host."""
    monkeypatch.setenv("ANTHROPIC_FOUNDRY_API_KEY", "foundry-key")
    monkeypatch.setenv("ANTHROPIC_FOUNDRY_RESOURCE", "acme-ai")
    door = opened("foundry")
    assert str(getattr(door.client, "base_url", "")) == "https://acme-ai.services.ai.azure.com/anthropic/"
    await door.client.close()


@pytest.mark.parametrize(
    ("door", "variables", "named"),
    [
        ("bedrock", {}, "`AWS_REGION`"),
        ("vertex", {}, "`ANTHROPIC_VERTEX_PROJECT_ID`"),
        ("vertex", {"ANTHROPIC_VERTEX_PROJECT_ID": "acme"}, "`CLOUD_ML_REGION`"),
        ("google_cloud", {}, "`ANTHROPIC_GOOGLE_CLOUD_WORKSPACE_ID`"),
        ("google_cloud", {"ANTHROPIC_GOOGLE_CLOUD_WORKSPACE_ID": "w"}, "`ANTHROPIC_GOOGLE_CLOUD_PROJECT`"),
        ("foundry", {}, "`ANTHROPIC_FOUNDRY_RESOURCE`"),
        ("foundry", {"ANTHROPIC_FOUNDRY_RESOURCE": "acme-ai"}, "`ANTHROPIC_FOUNDRY_API_KEY`"),
    ],
)
def test_a_door_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, door: DoorName, variables: dict[str, str], named: str
) -> None:
    """A worker starts only with all that its door needs, and names the variable that is missing."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MissingKey) as caught:
        AnthropicProvider(door=door)
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("door", "package"), [("bedrock", "boto3"), ("vertex", "google.auth"), ("google_cloud", "google.auth")]
)
def test_a_door_says_which_package_it_lacks(monkeypatch: pytest.MonkeyPatch, door: DoorName, package: str) -> None:
    """Where the extra isn't installed, the sentence says how to install it."""
    for name in ("AWS_REGION", "CLOUD_ML_REGION", "ANTHROPIC_VERTEX_PROJECT_ID", "ANTHROPIC_GOOGLE_CLOUD_BASE_URL"):
        monkeypatch.setenv(name, "x")

    def nowhere(_: str) -> None:
        return None

    monkeypatch.setattr("activities.providers.anthropic_doors.find_spec", nowhere)
    with pytest.raises(MissingKey, match=f"`{package}`.*pip install 'remit"):
        AnthropicProvider(door=door)


async def failure(door: DoorName, model: str = "claude-haiku-5-5") -> ProviderError:
    async with through(door) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.complete(asked(model=model))
    return caught.value


async def test_credentials_that_are_not_there_are_named(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without AWS credentials gets no server to answer: the sentence says what to check."""
    monkeypatch.setenv("AWS_REGION", "eu-west-3")  # one of its own: the SDK keeps the credentials of each
    monkeypatch.setenv("ANTHROPIC_BEDROCK_MANTLE_BASE_URL", server.url)
    error = await failure("bedrock")
    assert (error.code, error.retryable, server.bodies) == ("auth", False, [])
    assert error.message == (
        "The credentials for the provider can't be read or renewed (`RuntimeError`); check `AWS_ACCESS_KEY_ID`."
    )


async def test_a_token_server_that_refuses_is_no_outage(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch, google_login: str
) -> None:
    """A service account that was deleted is a matter of credentials; no key is in the sentence."""
    monkeypatch.setenv("ANTHROPIC_GOOGLE_CLOUD_BASE_URL", server.url)
    async with CannedServer() as tokens:
        tokens.answer({"error": "invalid_grant", "error_description": "account not found"}, 400)
        tokens_from(google_login, tokens)
        error = await failure("google_cloud")
    assert (error.code, error.retryable, server.bodies) == ("auth", False, [])
    assert "`GOOGLE_APPLICATION_CREDENTIALS`" in error.message
    assert "PRIVATE KEY" not in error.message


async def test_a_token_server_that_is_not_there_is_an_outage(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch, google_login: str
) -> None:
    """Where no token can be fetched for now, the call may be tried again."""
    monkeypatch.setenv("ANTHROPIC_GOOGLE_CLOUD_BASE_URL", server.url)
    async with CannedServer() as gone:
        tokens_from(google_login, gone)
    error = await failure("google_cloud")
    assert (error.code, error.retryable, server.bodies) == ("connection", True, [])


VERTEX_404 = {"error": {"code": 404, "message": "Publisher Model `projects/acme/…` was not found.", "status": "NOT_FOUND"}}


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"message": "The provided model identifier is invalid."}, "unknown_model"),
        (400, {"message": "Input is too long for requested model."}, "context_exceeded"),
        (404, {"error": {"code": "DeploymentNotFound", "message": "The deployment does not exist."}}, "unknown_model"),
        (404, VERTEX_404, "unknown_model"),
        (404, [VERTEX_404], "unknown_model"),
        (429, {"error": {"code": 429, "message": "Quota exceeded for requests per minute."}}, "rate_limited"),
        (503, b"busy", "overloaded"),
        (404, b"<html>Not here</html>", "unknown_model"),
    ],
)
async def test_what_a_cloud_says_is_understood(server: CannedServer, status: int, body: object, code: str) -> None:
    """Each cloud has words of its own for a model that it doesn't have, and for what is too long."""
    server.answer(body, status)
    with pytest.raises(ProviderError) as caught:
        await complete(server, asked(), "bedrock+last")
    assert caught.value.code == code


def test_the_setting_knows_every_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """`REMIT_ANTHROPIC_DOOR` takes the name of each door, and makes Claude reachable without a key of Anthropic's."""
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    for door in get_args(DoorName):
        monkeypatch.setenv("REMIT_ANTHROPIC_DOOR", door)
        settings = Settings()
        assert (settings.anthropic_door, settings.model_provider) == (door, "anthropic")
