"""Who may decrypt, when the tenant has an OIDC issuer: people with a good ID token of it and one of the roles, nobody else."""

import json
from collections.abc import Generator

import httpx2
import pytest
from joserfc import jws
from joserfc.jwk import RSAKey
from temporalio.api.common.v1 import Payload

from activities.ledger import people
from activities.ledger.store import Ledger
from remit.codec import EncryptingCodec
from remit.codec_keys import CodecKeyFile
from tests.codec import CodecServer, as_json, payloads_of
from tests.oidc.conftest import Tenant, Tenants, new_key
from tests.oidc.provider import CLIENT, OidcServer
from tests.oidc.test_tokens import read

PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"Deepak Rao"')


@pytest.fixture(scope="module")
def served(running: OidcServer, tmp_path_factory: pytest.TempPathFactory) -> Generator[CodecServer]:
    """A codec server of production, for refund approvers."""
    home = tmp_path_factory.mktemp("codec")
    CodecKeyFile(home / "codec-keys.json", env="production").rotate()
    Ledger(f"sqlite:///{home / 'ledger.db'}").migrate()
    env = {
        "REMIT_ENV": "production",
        "REMIT_OIDC_ISSUER": running.url,
        "REMIT_OIDC_CLIENT_ID": CLIENT,
        "REMIT_CODEC_ROLES": "refund-approver, auditor",
    }
    with CodecServer(home, env=env, args=("--ui-origin", "https://temporal.example.com")) as found:
        yield found


@pytest.fixture
async def body(served: CodecServer) -> bytes:
    """What somebody wants to read."""
    codec = EncryptingCodec(CodecKeyFile(served.home / "codec-keys.json", env="production"))
    return as_json(*await codec.encode([PLAIN]))


def token_of(tenant: Tenant, name: str) -> str:
    return tenant.token(name, new_key()[1])


def test_an_approver_reads(served: CodecServer, tenant: Tenant, body: bytes) -> None:
    """With the ID token as bearer token, as the CLI sends it, or beside the access token, as the UI does."""
    token = token_of(tenant, "ana")
    assert payloads_of(served.ask("decode", body, authorization=f"Bearer {token}")) == [PLAIN]
    beside = served.ask("decode", body, authorization="Bearer opaque", authorization_extras=token)
    assert payloads_of(beside) == [PLAIN]


def test_nobody_else_reads(served: CodecServer, tenant: Tenant, tenants: Tenants, body: bytes) -> None:
    """Without a token, with another client's, an expired or a forged one, or without the role: one sentence each, and no log
    holds a token or a name."""
    good = token_of(tenant, "ana")
    header, claims = read(good)
    key = RSAKey.import_key(tenant.server.private_keys()[0])
    old = json.dumps({**claims, "iat": claims["iat"] - 7200, "exp": claims["exp"] - 7200})
    expired = jws.serialize_compact({"alg": "RS256", "kid": header["kid"]}, old, key, algorithms=["RS256"])
    stranger = RSAKey.generate_key(2048)
    forged = jws.serialize_compact({"alg": "RS256", "kid": header["kid"]}, json.dumps(claims), stranger, algorithms=["RS256"])
    cases = {
        "": (401, "Send an ID token of the tenant's issuer: `Authorization: Bearer ...`."),
        f"Basic {good}": (401, "Send an ID token of the tenant's issuer: `Authorization: Bearer ...`."),
        "Bearer junk": (401, ""),
        f"Bearer {token_of(tenants(oidc_client_id='other-app'), 'ana')}": (401, "The ID token is for `other-app`, not for"),
        f"Bearer {expired}": (401, "The ID token has expired"),
        f"Bearer {forged}": (401, ""),
        f"Bearer {token_of(tenant, 'cleo')}": (403, "Reading takes one of the roles: auditor, refund-approver."),
        f"Bearer {token_of(tenant, 'sam')}": (403, "Reading takes one of the roles: auditor, refund-approver."),
    }
    for sent, (status, said) in cases.items():
        for what in ("decode", "encode"):
            answer = served.ask(what, body, **({"authorization": sent} if sent else {}))
            assert answer.status_code == status, sent[:20]
            assert answer.text.startswith(said)
            assert ("www-authenticate" in answer.headers) == (status == 401)
            assert good not in answer.text
    said = (served.home / "codec-server.log").read_text()
    assert '"reason": "wrong_role"' in said
    assert "@example.com" not in said
    assert "eyJ" not in said


def test_a_suspended_person_reads_no_more(served: CodecServer, tenant: Tenant, body: bytes) -> None:
    """At once, whatever the token says."""
    token = token_of(tenant, "bo")
    assert served.ask("decode", body, authorization=f"Bearer {token}").status_code == 200
    ledger = Ledger(f"sqlite:///{served.home / 'ledger.db'}")
    people.set_standing(ledger, "bo@example.com", suspended=True, reason="left", by="ana@example.com")
    answer = served.ask("decode", body, authorization=f"Bearer {token}")
    assert (answer.status_code, answer.text) == (403, "`bo@example.com` is suspended.")
    people.set_standing(ledger, "bo@example.com", suspended=False, reason="back", by="ana@example.com")
    ledger.close()


def test_without_the_issuer_nobody_reads(served: CodecServer, tenant: Tenant, oidc: OidcServer, body: bytes) -> None:
    """Keys that were never fetched can't be believed: 503, and it works again once the issuer is back."""
    oidc.rotate()  # a key that the codec server hasn't seen
    token = token_of(tenant, "ana")
    oidc.reach(False)
    assert served.ask("decode", body, authorization=f"Bearer {token}").status_code == 503
    oidc.reach(True)
    assert served.ask("decode", body, authorization=f"Bearer {token}").status_code == 200


def test_the_ui_s_tokens_may_come_along(served: CodecServer) -> None:
    """The preflight grants both headers in which the UI sends tokens, to its own origin."""
    answer = httpx2.options(
        f"{served.url}/decode",
        headers={
            "origin": "https://temporal.example.com",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,authorization-extras,content-type,x-namespace",
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://temporal.example.com"
