"""A worker that signs in to Temporal with a token of the client-credentials grant, from a real OIDC server."""

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr
from temporalio.client import Client

from policies.errors import InvalidInput, LoginRefused, Unavailable
from remit.connection import connect
from remit.embedded import TemporalServer
from remit.oidc import service_token
from remit.settings import ROOT, Settings
from tests.console import Console
from tests.oidc.provider import SECRET, WORKER, OidcServer
from worker import renewing


def settings_of(oidc: OidcServer, **changes: object) -> Settings:
    given = {
        "oidc_issuer": oidc.url,
        "oidc_client_id": WORKER,
        "oidc_client_secret": SecretStr(SECRET),
        "oidc_audience": "remit-cli",
        "temporal_auth": "oidc",
    }
    return Settings.model_validate({**given, **changes})


def test_a_worker_gets_a_token(oidc: OidcServer) -> None:
    """By its client id and secret, whatever letters are in it; a new one each time."""
    first, seconds = service_token(settings_of(oidc))
    second, _ = service_token(settings_of(oidc))
    assert first != second
    assert seconds == 600


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"oidc_client_secret": SecretStr("wrong")}, LoginRefused, "refused: invalid_client. The worker gets no token; check"),
        ({"oidc_client_id": "nobody"}, LoginRefused, "refused: invalid_client. The worker gets no token; check"),
        ({"oidc_client_secret": None}, InvalidInput, "`REMIT_TEMPORAL_AUTH=oidc` needs `REMIT_OIDC_ISSUER`"),
        ({"oidc_issuer": "http://127.0.0.1:1"}, Unavailable, "The issuer `http://127.0.0.1:1` can't be reached"),
    ],
    ids=str,
)
def test_a_worker_without_a_token_says_why(
    oidc: OidcServer, changes: Mapping[str, object], error: type[InvalidInput], said: str
) -> None:
    """One sentence, without the secret."""
    with pytest.raises(error) as caught:
        service_token(settings_of(oidc, **changes))
    assert said in caught.value.message
    assert SECRET not in caught.value.message


@pytest.fixture
async def temporal(server: TemporalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Temporal server of the test, as the environment names it; a token goes over TLS unless that says otherwise."""
    await server.ready()
    monkeypatch.setenv("TEMPORAL_ADDRESS", server.address)
    monkeypatch.setenv("TEMPORAL_TLS", "false")


@pytest.mark.usefixtures("temporal")
async def test_the_token_is_renewed_before_it_ends(oidc: OidcServer) -> None:
    """The client sends a new token while the old one is still good; its calls go on."""
    oidc.rotate(lifetimes={"ClientCredentials": 2})
    settings = settings_of(oidc)
    token, seconds = service_token(settings)
    assert seconds == 2
    client = await connect(settings, token=token)
    assert client.api_key == token
    async with renewing(client, settings, seconds):
        await until_other(client, token)
        assert await client.service_client.check_health()


@pytest.mark.usefixtures("temporal")
async def test_an_issuer_that_is_away_is_asked_again(oidc: OidcServer) -> None:
    """A renewal that fails isn't the end: the worker goes on with what it has, and tries again."""
    oidc.rotate(lifetimes={"ClientCredentials": 1})
    settings = settings_of(oidc)
    token, seconds = service_token(settings)
    client = await connect(settings, token=token)
    oidc.reach(False)
    async with renewing(client, settings, seconds, retry_seconds=0.2):
        await asyncio.sleep(1.5)
        assert client.api_key == token
        oidc.reach(True)
        await until_other(client, token)


async def until_other(client: Client, token: str) -> None:
    end = time.monotonic() + 30
    while client.api_key == token:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"REMIT_OIDC_CLIENT_SECRET": "wrong"}, "refused: invalid_client. The worker gets no token; check"),
        ({"REMIT_OIDC_CLIENT_SECRET": ""}, "`REMIT_TEMPORAL_AUTH=oidc` needs `REMIT_OIDC_ISSUER`"),
    ],
    ids=str,
)
def test_a_worker_process_without_a_token_ends(oidc: OidcServer, tmp_path: Path, env: Mapping[str, str], said: str) -> None:
    """With one sentence and an exit code, not with a loop."""
    settings = {
        "REMIT_HOME": str(tmp_path),
        "REMIT_ENV": "production",
        "REMIT_OIDC_ISSUER": oidc.url,
        "REMIT_OIDC_CLIENT_ID": WORKER,
        "REMIT_OIDC_CLIENT_SECRET": SECRET,
        "REMIT_OIDC_AUDIENCE": "remit-cli",
        "REMIT_TEMPORAL_AUTH": "oidc",
    }
    answer = Console(ROOT, {**settings, **env}).run([sys.executable, str(ROOT / "worker.py")], code=2)
    last = answer.err.splitlines()[-1]  # after what it logged
    assert last.startswith("remit worker: ")
    assert said in last
    assert SECRET not in answer.err
