"""The browser's way back to `remit login`: only the answer to this login, from this issuer, counts."""

import threading
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from policies.errors import LoginRefused
from policies.oidc import key_nonce
from remit.oidc import code_flow
from tests.oidc.conftest import Tenant, new_key


class Browser:
    """Goes to the landing with one query after the other, each made from the login's own state, and keeps the answers."""

    def __init__(self, *queries: dict[str, str], path: str = "") -> None:
        self.answers: list[int] = []
        self._queries = queries
        self._path = path
        self._thread: threading.Thread | None = None

    def __call__(self, address: str) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert asked["code_challenge_method"] == "S256"
        self._thread = threading.Thread(target=self._go, args=(asked["redirect_uri"], asked["state"]))
        self._thread.start()

    def _go(self, landing: str, state: str) -> None:
        for query in self._queries:
            given = {name: value.replace("STATE", state) for name, value in query.items()}
            self.answers.append(httpx2.get(landing + self._path, params=given, timeout=30).status_code)
            self._path = ""

    def done(self) -> list[int]:
        assert self._thread
        self._thread.join()
        return self.answers


def refused(tenant: Tenant, browser: Browser) -> tuple[str, str]:
    with pytest.raises(LoginRefused) as caught:
        code_flow(tenant.issuer, tenant.settings, key_nonce(new_key()[1]), browser)
    return caught.value.reason, caught.value.message


def test_strangers_requests_change_nothing(tenant: Tenant) -> None:
    """Another path, no state, another login's state: each is turned away, and the login goes on until its own answer comes."""
    browser = Browser(
        {"code": "theirs", "state": "STATE"},
        {},
        {"code": "theirs", "state": "another"},
        {"error": "access_denied", "state": ""},
        {"error": "access_denied", "state": "STATE"},
        path="/elsewhere",
    )
    assert refused(tenant, browser) == ("access_denied", f"The issuer `{tenant.server.url}` refused the login: access_denied.")
    assert browser.done() == [404, 400, 400, 400, 400]


def test_another_issuers_answer_is_refused(tenant: Tenant) -> None:
    """Mix-up (RFC 9207): the answer names its issuer, and it isn't the one that was asked."""
    browser = Browser({"code": "x", "state": "STATE", "iss": "https://evil.example"})
    assert refused(tenant, browser)[0] == "wrong_issuer"
    assert browser.done() == [400]


def test_a_code_that_isnt_the_issuers_is_refused(tenant: Tenant) -> None:
    """The token endpoint has the last word, and its words aren't repeated."""
    browser = Browser({"code": "guessed", "state": "STATE"})
    assert refused(tenant, browser) == ("invalid_grant", f"The issuer `{tenant.server.url}` refused: invalid_grant.")
    assert browser.done() == [200]


def test_what_an_issuer_says_isnt_shown_as_it_is(tenant: Tenant) -> None:
    """Control characters of a terminal don't get through an error."""
    browser = Browser({"error": "\x1b[2Jbad`\nthing", "state": "STATE"})
    assert refused(tenant, browser)[1].endswith("refused the login: 2Jbadthing.")
    assert browser.done() == [400]
