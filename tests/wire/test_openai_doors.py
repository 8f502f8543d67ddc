"""OpenAI's models through Azure and Bedrock: addresses, credentials and bodies, over real HTTP with the clouds' own SDKs."""

import json
import os
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from activities.providers import openai_doors, openai_forms
from activities.providers.base import ProviderError
from activities.providers.openai import OpenAIProvider
from policies.errors import InvalidInput, MissingKey
from tests.wire.responses_forms import answer, check, message
from tests.wire.server import CannedServer, ask

SECRET = "azure-or-aws-secret-17"
RUN = ask("prod-luna").model_copy(update={"cache_key": "k" * 32})
CLOUDS = ("AWS_", "AZURE_", "OPENAI_", "IDENTITY_", "MSI_")


@pytest.fixture(autouse=True)
def _no_clouds(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:  # pyright: ignore[reportUnusedFunction]
    """Nothing of the machine's own credentials reaches a test."""
    for name in list(os.environ):
        if name.startswith(CLOUDS):
            monkeypatch.delenv(name)
    nowhere = tmp_path_factory.mktemp("no-aws") / "none"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")


class Identity(BaseHTTPRequestHandler):
    """The token endpoint that Azure App Service gives a managed identity."""

    status = 200

    def do_GET(self) -> None:
        assert "resource=https://ai.azure.com" in self.path
        given = {"access_token": SECRET, "expires_on": "4102444800", "token_type": "Bearer", "resource": "r"}
        body = json.dumps(given if self.status == 200 else {"statusCode": self.status, "message": "No identity"})
        self.send_response(self.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
async def identity() -> AsyncIterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Identity)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/msi/token"
    server.shutdown()
    server.server_close()
    Identity.status = 200


async def through(door: openai_doors.DoorName, api: openai_doors.Api | None = None) -> None:
    provider = OpenAIProvider(door=door, api=api)
    try:
        await provider.complete(RUN)
    finally:
        await provider.aclose()


async def failure(door: openai_doors.DoorName) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await through(door)
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None
    return caught.value


def authorization(server: CannedServer) -> str:
    lines = server.heads[-1].decode().split("\r\n")
    return next(line.partition(": ")[2] for line in lines if line.lower().startswith("authorization:"))


@pytest.mark.parametrize("path", ["", "/", "/openai/v1", "/openai/v1/"])
async def test_azure_is_asked_by_responses_at_its_v1_endpoint(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The deployment is the body's model, and the key is in the head; marks that Azure doesn't document aren't sent."""
    server.answer(answer(message("Sun.")))
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url + path)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", f"{SECRET}\n")
    await through("azure")
    check(server.bodies[0])
    assert server.heads[0].startswith(b"POST /openai/v1/responses HTTP/1.1")
    assert authorization(server) == f"Bearer {SECRET}"
    assert server.bodies == [openai_forms.body_of(RUN, "responses no-marks")]
    assert (server.sent["model"], server.sent["tools"][0]["strict"]) == ("prod-luna", True)


async def test_azure_takes_chat_completions_too(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment that doesn't know Responses is asked by Chat Completions, where the settings say so."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Sun."}}
    server.answer({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", SECRET)
    await through("azure", api="chat")
    assert server.heads[0].startswith(b"POST /openai/v1/chat/completions HTTP/1.1")
    assert "max_completion_tokens" in server.sent


async def test_azure_takes_a_token_of_entra(server: CannedServer, identity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, a managed identity's token is fetched and sent."""
    server.answer(answer(message("Sun.")))
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url)
    monkeypatch.setenv("IDENTITY_ENDPOINT", identity)
    monkeypatch.setenv("IDENTITY_HEADER", "head")
    await through("azure")
    assert authorization(server) == f"Bearer {SECRET}"


async def test_a_token_that_isnt_given_is_a_refused_key(
    server: CannedServer, identity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Entra ID gives no token, the call fails as `auth`, and says what to set."""
    Identity.status = 400
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url)
    monkeypatch.setenv("IDENTITY_ENDPOINT", identity)
    monkeypatch.setenv("IDENTITY_HEADER", "head")
    error = await failure("azure")
    assert (error.code, error.retryable) == ("auth", False)
    assert error.message == (
        "Microsoft Entra ID gave no token for the call; check its variables, or set `AZURE_OPENAI_API_KEY`."
    )
    assert server.bodies == []


async def test_azures_refusals_name_its_own_variable(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 401 of Azure says which of its variables to check, and its content filter is told as such."""
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url)
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", SECRET)
    server.answer({"error": {"code": "401", "message": f"Access denied for {SECRET}"}}, 401)
    assert (await failure("azure")).message == "The provider refused the key (401); check `AZURE_OPENAI_AD_TOKEN`."
    inner = {"code": "ResponsibleAIPolicyViolation"}
    filtered = {"message": "The response was filtered", "param": "prompt", "code": "content_filter", "innererror": inner}
    server.answer({"error": filtered}, 400)
    assert (await failure("azure")).code == "content_filter"
    server.answer({"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}, 404)
    assert (await failure("azure")).code == "unknown_model"


async def test_bedrock_takes_its_api_key(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Bedrock API key is sent as a bearer token, and nothing of the body that AWS doesn't document."""
    server.answer(answer(message("Sun.")))
    monkeypatch.setenv("AWS_BEDROCK_BASE_URL", f"{server.url}/openai/v1")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", f" {SECRET}\n")
    await through("bedrock")
    assert server.heads[0].startswith(b"POST /openai/v1/responses HTTP/1.1")
    assert authorization(server) == f"Bearer {SECRET}"
    assert server.bodies == [openai_forms.body_of(RUN, "responses no-key no-marks no-strict")]


async def test_bedrock_signs_with_aws_credentials(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an API key, the request is signed with the credentials of AWS, for its region."""
    server.answer(answer(message("Sun.")))
    monkeypatch.setenv("AWS_BEDROCK_BASE_URL", f"{server.url}/openai/v1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    await through("bedrock")
    said = authorization(server)
    assert said.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") and "/eu-central-1/bedrock" in said
    assert SECRET.encode() not in server.heads[0] + server.bodies[0]


async def test_bedrock_without_credentials_is_a_refused_key(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that AWS doesn't find fail the call as `auth`, and nothing is sent."""
    monkeypatch.setenv("AWS_BEDROCK_BASE_URL", f"{server.url}/openai/v1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    error = await failure("bedrock")
    assert (error.code, error.message) == ("auth", "There are no credentials for the call; check `AWS_ACCESS_KEY_ID`.")
    assert server.bodies == []


@pytest.mark.parametrize(
    ("door", "variables", "words"),
    [
        ("azure", {}, "OpenAI on Azure needs `AZURE_OPENAI_ENDPOINT`;"),
        ("bedrock", {}, "OpenAI on Bedrock needs `AWS_REGION`;"),
        ("bedrock", {"AWS_BEARER_TOKEN_BEDROCK": "k"}, "OpenAI on Bedrock needs `AWS_REGION`;"),
    ],
)
def test_a_door_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, door: openai_doors.DoorName, variables: dict[str, str], words: str
) -> None:
    """A variable that a door can't do without is named when the worker starts."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MissingKey) as caught:
        OpenAIProvider(door=door)
    assert caught.value.message.startswith(words)


@pytest.mark.parametrize(
    ("door", "variables", "words"),
    [
        ("azure", {"AZURE_OPENAI_ENDPOINT": "my-resource"}, "`AZURE_OPENAI_ENDPOINT` must be the URL of a server"),
        ("bedrock", {"AWS_REGION": "Frankfurt"}, "OpenAI on Bedrock can't be set up: The Bedrock AWS `region` is invalid."),
    ],
)
def test_a_door_says_what_it_cant_use(
    monkeypatch: pytest.MonkeyPatch, door: openai_doors.DoorName, variables: dict[str, str], words: str
) -> None:
    """A variable that can't be used is named when the worker starts."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput) as caught:
        OpenAIProvider(door=door)
    assert caught.value.message.startswith(words)


@pytest.mark.parametrize(
    ("door", "package", "variables", "extra"),
    [
        ("azure", "azure.identity", {"AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com"}, "remit[azure]"),
        ("bedrock", "botocore", {"AWS_REGION": "eu-central-1"}, "remit[bedrock]"),
    ],
)
def test_a_door_says_which_extra_it_needs(
    monkeypatch: pytest.MonkeyPatch, door: openai_doors.DoorName, package: str, variables: dict[str, str], extra: str
) -> None:
    """Where the package for a cloud's credentials isn't installed, the sentence says how to install it."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def found(name: str) -> object:
        return None if name == package else object()

    monkeypatch.setattr(openai_doors, "find_spec", found)
    with pytest.raises(MissingKey) as caught:
        OpenAIProvider(door=door)
    assert f"`pip install '{extra}'`" in caught.value.message


async def test_bedrock_is_asked_in_its_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a base URL the address is that of the region."""
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", SECRET)
    door = openai_doors.opened("bedrock")
    assert str(door.client.base_url) == "https://bedrock-mantle.us-west-2.api.aws/openai/v1/"
    assert SECRET not in repr(door)
    await door.aclose()
