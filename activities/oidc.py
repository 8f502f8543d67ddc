"""The tenant's OIDC issuer over HTTP: discovery, published keys, the token endpoint; and the directory of who logged in.

Blocking: activities call it in a thread. Nothing here decides whether a token is good; `policies.oidc` does.
"""

import json
import time
from collections import deque
from collections.abc import Mapping
from threading import Lock
from typing import Any, cast
from urllib.parse import quote_plus, urlsplit

import httpx2
import structlog

from activities.ledger import people
from activities.ledger.rows import Enrolment
from activities.ledger.store import Ledger
from policies.errors import InvalidInput, LoginRefused, Unavailable
from policies.identity import Directory, Person, PublicKey
from policies.oidc import CLOCK_SKEW_SECONDS, Expected, Login, key_id_of, key_nonce, thumbprint, verify_id_token

__all__ = ["Issuer", "OidcDirectory", "TokenRefused", "secure"]

TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 1 << 20
FRESH_SECONDS = 3600
"""How long published keys are used before they are fetched again."""
FETCHES = 5
FETCH_WINDOW_SECONDS = 60
LASTING = (
    "bad_algorithm",
    "bad_key",
    "email_unverified",
    "malformed",
    "no_subject",
    "wrong_audience",
    "wrong_issuer",
    "wrong_nonce",
    "wrong_party",
)
"""Refusals that the same token will always meet."""


def secure(url: str) -> bool:
    """Whether nobody on the way can read or change what is said there: https, or this machine."""
    try:
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError:
        return False
    return bool(parts.hostname) and not parts.username and (parts.scheme == "https" or (parts.scheme == "http" and local))


class TokenRefused(LoginRefused):
    """The issuer refused to give a token; `reason` is its OAuth error code, such as `invalid_grant`."""


class Issuer:
    """One OIDC issuer. Its answers are believed only over https, or on this machine."""

    def __init__(self, issuer: str, jwks_uri: str = "") -> None:
        """Raises:
        InvalidInput: one of the URLs isn't https.
        """
        for variable, url in (("REMIT_OIDC_ISSUER", issuer), ("REMIT_OIDC_JWKS_URI", jwks_uri)):
            if url and not secure(url):
                raise InvalidInput(f"`{variable}` must be an https URL; http is for this machine only.")
        self.url = issuer
        self._jwks_uri = jwks_uri
        self._metadata: Mapping[str, object] | None = None
        self._keys: list[Mapping[str, object]] = []
        self._fetched_at = 0.0
        self._fetches: deque[float] = deque(maxlen=FETCHES)
        self._lock = Lock()
        self._http = httpx2.Client(timeout=TIMEOUT_SECONDS, headers={"accept": "application/json"})

    def close(self) -> None:
        self._http.close()

    def endpoint(self, name: str) -> str:
        """The URL of an endpoint, as the issuer's discovery document gives it.

        Raises:
            Unavailable: the issuer can't be reached, has no such endpoint, or its document can't be believed.
        """
        url = self._discovered().get(name)
        if not isinstance(url, str) or not secure(url):
            raise Unavailable(f"The issuer `{self.url}` has no `{name}` in its discovery document.")
        return url

    def offers(self, name: str) -> tuple[str, ...]:
        """The values of a list in the discovery document; nothing when there is no such list."""
        found = self._discovered().get(name)
        return tuple(str(v) for v in cast("list[object]", found)) if isinstance(found, list) else ()

    def keys(self, kid: str) -> list[Mapping[str, object]]:
        """The issuer's keys. They are fetched again after an hour, or at once when none is called `kid`: it may be new.

        Raises:
            Unavailable: they can't be fetched, and no cached one is called `kid`.
        """
        with self._lock:
            known = any(k.get("kid") == kid for k in self._keys) if kid else bool(self._keys)
            if known and time.monotonic() - self._fetched_at < FRESH_SECONDS:
                return self._keys
            now = time.monotonic()
            if len(self._fetches) == FETCHES and now - self._fetches[0] < FETCH_WINDOW_SECONDS:
                if not self._keys:  # none were ever fetched: that says nothing of anybody
                    raise Unavailable(f"The issuer `{self.url}` can't be reached; try again later.")
                return self._keys  # junk that names keys which don't exist mustn't hammer the issuer
            self._fetches.append(now)
            try:
                self._keys, self._fetched_at = self._fetch_keys(), now
            except Unavailable:
                if not known:
                    raise
            return self._keys

    def token(self, form: Mapping[str, str], *, client_id: str, secret: str | None) -> dict[str, Any]:
        """The token endpoint's answer to `form`.

        Raises:
            TokenRefused: the issuer says no; its own description isn't repeated, for it may hold what was sent.
            Unavailable: it can't be reached, or answers with something else.
        """
        fields = {**form, "client_id": client_id}
        auth: tuple[str, str] | None = None
        if secret is not None:
            # RFC 6749, 2.3.1: Basic is what a server must know; others are for those that say they lack it.
            methods = self.offers("token_endpoint_auth_methods_supported")
            if methods and "client_secret_basic" not in methods:
                fields["client_secret"] = secret
            else:
                auth = (quote_plus(client_id), quote_plus(secret))
                del fields["client_id"]
        return self.post(self.endpoint("token_endpoint"), fields, auth)

    def post(self, url: str, fields: Mapping[str, str], auth: tuple[str, str] | None = None) -> dict[str, Any]:
        """What the issuer answers to a form. Raises as `token` does."""
        status, body = self._ask("POST", url, fields, auth)
        if 200 <= status < 300:
            return body
        error = body.get("error")
        if not isinstance(error, str) or status >= 500:
            raise Unavailable(f"The issuer `{self.url}` answered with {status}; try again later.")
        code = "".join(c for c in error if c.isalnum() or c in "_-.")[:60]
        raise TokenRefused(code, f"The issuer `{self.url}` refused: {code}.")

    def _discovered(self) -> Mapping[str, object]:
        if self._metadata is None:
            status, found = self._ask("GET", self.url.rstrip("/") + "/.well-known/openid-configuration")
            if status != 200:
                raise Unavailable(f"The issuer `{self.url}` has no discovery document ({status}); check `REMIT_OIDC_ISSUER`.")
            if found.get("issuer") != self.url:
                # OpenID Connect Discovery 1.0, 4.3: another issuer's document must not be used for this one.
                raise Unavailable(
                    f"The discovery document at `{self.url}` is another issuer's; check `REMIT_OIDC_ISSUER`, "
                    "slash at its end included."
                )
            self._metadata = found
        return self._metadata

    def _fetch_keys(self) -> list[Mapping[str, object]]:
        url = self._jwks_uri or self.endpoint("jwks_uri")
        status, found = self._ask("GET", url)
        keys = found.get("keys")
        if status != 200 or not isinstance(keys, list):
            raise Unavailable(f"The issuer `{self.url}` has no keys at its `jwks_uri` ({status}).")
        return [cast("Mapping[str, object]", k) for k in cast("list[object]", keys) if isinstance(k, dict)]

    def _ask(
        self, method: str, url: str, fields: Mapping[str, str] | None = None, auth: tuple[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        try:
            with self._http.stream(method, url, data=dict(fields) if fields else None, auth=auth) as answer:
                body = bytearray()
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > MAX_ANSWER_BYTES:
                        raise Unavailable(f"The issuer `{self.url}` answered with more than {MAX_ANSWER_BYTES} bytes.")
        except (httpx2.HTTPError, httpx2.InvalidURL):
            raise Unavailable(f"The issuer `{self.url}` can't be reached; try again later.") from None
        try:
            found: object = json.loads(bytes(body))
        except (ValueError, RecursionError):
            found = None
        return answer.status_code, cast("dict[str, Any]", found) if isinstance(found, dict) else {}


class OidcDirectory:
    """The people who logged in, from the ledger's enrolments. Call it for the directory as it is now.

    Whoever wrote an enrolment isn't trusted: only its ID token is, verified here, for the key that it is bound to.
    """

    def __init__(self, ledger: Ledger, issuer: Issuer, expected: Expected, login_seconds: int) -> None:
        """`login_seconds`: how long after the ID token was issued the key may sign."""
        self._ledger = ledger
        self._issuer = issuer
        self._expected = expected
        self._login_seconds = login_seconds
        self._checked: dict[tuple[str, str], Login | None] = {}  # by name and key: a row with another key is another
        self._log = structlog.get_logger("remit.oidc")

    def __call__(self) -> Directory:
        """Everybody who logged in lately, keys that are valid no more included: `PublicKey.valid` says when each was.

        Raises:
            Unavailable: the issuer can't be reached, so that nobody's login can be verified.
        """
        found: dict[str, list[tuple[Login, PublicKey]]] = {}
        away: Unavailable | None = None
        rows = people.enrolled(self._ledger)
        present = {(row.kid, row.x) for row in rows}
        checked = {name: login for name, login in self._checked.items() if name in present}
        tokens = people.tokens(self._ledger, [kid for kid, x in present if (kid, x) not in checked])
        self._checked = checked
        for row in rows:
            try:
                login = self._login(row, checked, tokens.get(row.kid, ""))
            except LoginRefused as e:
                self._log.warning("enrolment refused", kid=row.kid, reason=e.reason)
                continue
            except Unavailable as e:
                self._log.warning("enrolment can't be verified", kid=row.kid, reason=e.message)
                away = e
                continue
            if login is not None:
                found.setdefault(login.sub, []).append((login, self._key(row, login)))
        if away and not found:
            raise away
        return Directory(people=tuple(_person(sub, logins) for sub, logins in sorted(found.items())), live=True)

    def _login(self, row: Enrolment, checked: dict[tuple[str, str], Login | None], token: str) -> Login | None:
        """What the token proves, or None when it was found to prove nothing. Raises as `verify_id_token`, and `Unavailable`."""
        name = (row.kid, row.x)
        if name in checked:
            return checked[name]
        try:
            if row.kid != thumbprint(row.x):
                raise LoginRefused("bad_key", "The enrolment's key isn't the one that it is called by.")
            login = verify_id_token(
                token,
                self._issuer.keys(key_id_of(token)),
                self._expected,
                nonce=key_nonce(row.x),
                now=int(time.time()),
                fresh=False,
            )
        except LoginRefused as e:
            if e.reason in LASTING:
                checked[name] = None
            raise
        checked[name] = login
        return login

    def _key(self, row: Enrolment, login: Login) -> PublicKey:
        until = login.issued_at + self._login_seconds
        if row.withdrawn_at is not None:
            until = min(until, row.withdrawn_at // 1000 + 1)  # what was signed in that second stands
        return PublicKey(kid=row.kid, x=row.x, not_before=login.issued_at - CLOCK_SKEW_SECONDS, not_after=until)


def _person(sub: str, logins: list[tuple[Login, PublicKey]]) -> Person:
    """One person: the keys of all logins, the roles of the newest."""
    newest = max(logins, key=lambda found: (found[0].issued_at, found[1].kid))[0]
    return Person(sub=sub, roles=newest.roles, keys=tuple(key for _, key in logins))
