"""One oidc-provider for each test process, and a tenant that logs in to it."""

import subprocess
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from joserfc.jwk import OKPKey

from activities.ledger import people
from activities.ledger.store import Ledger
from activities.oidc import Issuer
from policies.oidc import key_nonce, thumbprint
from remit.oidc import code_flow
from remit.settings import ROOT, Settings
from tests.console import BIN, Answer, Console
from tests.oidc.provider import CLIENT, OidcServer
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def running() -> Generator[OidcServer]:
    """The server."""
    with OidcServer() as found:
        yield found


@pytest.fixture
def oidc(running: OidcServer) -> OidcServer:
    """The server, with its people and one new key."""
    running.reset()
    return running


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Ledger]:
    """An empty ledger of each kind."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        found = Ledger(server.database())
    else:
        found = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    found.migrate()
    yield found
    found.close()


@dataclass
class Tenant:
    """The settings of a tenant, and logins without a terminal."""

    server: OidcServer
    settings: Settings
    issuer: Issuer = field(init=False)

    def __post_init__(self) -> None:
        self.issuer = Issuer(self.settings.oidc_issuer)

    def token(self, name: str, x: str) -> str:
        """The ID token of `name`, by the code flow, bound to the signing key `x`."""
        browsers: list[threading.Thread] = []

        def browse(address: str) -> None:
            browsers.append(threading.Thread(target=self.server.log_in, args=(address, name)))
            browsers[-1].start()

        token = code_flow(self.issuer, self.settings, key_nonce(x), browse)
        browsers[0].join()
        return token

    def enrol(self, name: str, ledger: Ledger) -> OKPKey:
        """Log `name` in and enrol the key, which is returned with its `kid`."""
        key, x = new_key()
        people.enrol(ledger, kid=str(key.kid), x=x, id_token=self.token(name, x))
        return key


def new_key() -> tuple[OKPKey, str]:
    """A signing key and its public part."""
    key = OKPKey.generate_key("Ed25519")
    x = str(key.as_dict(private=False)["x"])
    return OKPKey.import_key({**key.as_dict(private=True), "kid": thumbprint(x)}), x


Tenants = Callable[..., Tenant]


@pytest.fixture
def tenants(oidc: OidcServer) -> Generator[Tenants]:
    """Makes tenants: of `oidc` or of another server, with these settings."""
    made: list[Tenant] = []

    def make(server: OidcServer = oidc, **settings: object) -> Tenant:
        given = {"oidc_issuer": server.url, "oidc_client_id": CLIENT, **settings}
        made.append(Tenant(server, Settings.model_validate(given)))
        return made[-1]

    yield make
    for tenant in made:
        tenant.issuer.close()


@pytest.fixture
def tenant(tenants: Tenants) -> Tenant:
    """A tenant with the settings that most have."""
    return tenants()


@dataclass
class Desk:
    """A person's own machine: a home of their own, the tenant's settings and ledger, and a browser."""

    server: OidcServer
    console: Console

    def login(self, name: str, *args: str, code: int = 0) -> Answer:
        """`remit login`, and `name` in the browser, or on another device with `--device`."""
        argv = [str(BIN / "remit"), "login", "--no-browser", *args]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            argv, cwd=self.console.cwd, env=self.console.env, stdout=pipe, stderr=pipe, text=True, bufsize=1
        ) as child:
            assert child.stdout
            said = child.stdout.readline()
            if said.startswith("Log in at: "):
                self.server.log_in(said.removeprefix("Log in at: ").strip(), name)
            elif said.startswith("Log in at "):
                address, _, user_code = said.removeprefix("Log in at ").strip().partition(" with the code ")
                self.server.type_code(address, user_code, name)
            out, err = child.communicate(timeout=60)
        answer = Answer(child.returncode, said + out, err)
        assert answer.code == code, answer
        assert "Traceback" not in answer.err
        return answer


@pytest.fixture
def desk(oidc: OidcServer, tmp_path: Path) -> Callable[..., Desk]:
    """Makes desks: `desk("ana", REMIT_LEDGER_URL=…)`."""

    def make(name: str, **env: str) -> Desk:
        home = tmp_path / f"home-{name}"
        settings = {
            "REMIT_HOME": str(home),
            "REMIT_ENV": "production",
            "REMIT_OIDC_ISSUER": oidc.url,
            "REMIT_OIDC_CLIENT_ID": CLIENT,
        }
        return Desk(oidc, Console(ROOT, {**settings, **env}))

    return make


__all__ = ["Desk", "Tenant", "Tenants", "new_key"]
