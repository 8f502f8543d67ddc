"""Getting tokens from the tenant's OIDC issuer: for people by code or device flow, for workers by their secret."""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from activities.oidc import Issuer, TokenRefused, secure
from policies.errors import InvalidInput, LoginRefused, Unavailable
from remit.settings import Settings

__all__ = ["LOGIN_SECONDS", "code_flow", "device_flow", "issuer_of", "service_token"]

LOGIN_SECONDS = 300
"""How long a person has to log in with the browser."""
PAGE = "<!doctype html><meta charset=utf-8><title>Remit</title><p>{}</p>"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def issuer_of(settings: Settings) -> Issuer:
    """The tenant's issuer.

    Raises:
        InvalidInput: there is none in the settings, or it can't be used.
    """
    if not settings.oidc or not settings.oidc_client_id:
        raise InvalidInput("There is no OIDC issuer: set `REMIT_OIDC_ISSUER` and `REMIT_OIDC_CLIENT_ID`; see docs/identity.md.")
    return Issuer(settings.oidc_issuer, settings.oidc_jwks_uri)


def code_flow(issuer: Issuer, settings: Settings, nonce: str, show: Callable[[str], None]) -> str:
    """The ID token of whoever logs in with a browser: authorization code with PKCE (RFC 7636), back to this machine (RFC 8252).

    Args:
        show: called with the address to open.

    Raises:
        LoginRefused: the issuer or the person said no, or nobody came back in time.
        Unavailable: the issuer can't be reached.
        InvalidInput: `REMIT_OIDC_REDIRECT` can't be used.
    """
    verifier, challenge = _pkce()
    state = secrets.token_urlsafe(24)
    with _Landing(settings.oidc_redirect, state, issuer.url) as landing:
        query = {
            "response_type": "code",
            "client_id": settings.oidc_client_id,
            "redirect_uri": landing.url,
            "scope": settings.oidc_scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        where = issuer.endpoint("authorization_endpoint")
        show(f"{where}{'&' if '?' in where else '?'}{urlencode(query)}")
        code = landing.wait()
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": landing.url, "code_verifier": verifier}
    return _id_token(issuer.token(form, client_id=settings.oidc_client_id, secret=_secret(settings)))


def device_flow(issuer: Issuer, settings: Settings, nonce: str, show: Callable[[str, str], None]) -> str:
    """The ID token of whoever types a code on another device (RFC 8628).

    Args:
        show: called with the address to open and the code to type.

    Raises:
        LoginRefused: the issuer or the person said no, or nobody came in time.
        Unavailable: the issuer can't be reached, or has no device flow.
    """
    verifier, challenge = _pkce()
    asked = {
        "client_id": settings.oidc_client_id,
        "scope": settings.oidc_scope,
        "nonce": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    if (secret := _secret(settings)) is not None:
        asked["client_secret"] = secret
    given = issuer.post(issuer.endpoint("device_authorization_endpoint"), asked)
    code, user_code, where = (given.get(k) for k in ("device_code", "user_code", "verification_uri"))
    if not (isinstance(code, str) and isinstance(user_code, str) and isinstance(where, str) and secure(where)):
        raise Unavailable(f"The issuer `{issuer.url}` began no device flow that can be used.")
    show(where, "".join(c for c in user_code if c.isprintable()))
    interval = _seconds(given, "interval", 5)
    end = time.monotonic() + _seconds(given, "expires_in", LOGIN_SECONDS)
    while time.monotonic() < end:
        time.sleep(interval)
        form = {"grant_type": DEVICE_GRANT, "device_code": code, "code_verifier": verifier}
        try:
            return _id_token(issuer.token(form, client_id=settings.oidc_client_id, secret=secret))
        except TokenRefused as e:
            if e.reason == "slow_down":
                interval += 5
            elif e.reason != "authorization_pending":
                raise
    raise LoginRefused("timeout", "Nobody logged in in time; run `remit login --device` again.")


def service_token(settings: Settings) -> tuple[str, int]:
    """An access token of the client-credentials grant (RFC 6749, 4.4), and for how many seconds it is good.

    Raises:
        InvalidInput: the settings lack something.
        LoginRefused: the issuer refused.
        Unavailable: it can't be reached.
    """
    secret = _secret(settings)
    if secret is None or not settings.oidc_issuer or not settings.oidc_client_id:
        raise InvalidInput(
            "`REMIT_TEMPORAL_AUTH=oidc` needs `REMIT_OIDC_ISSUER`, `REMIT_OIDC_CLIENT_ID` and `REMIT_OIDC_CLIENT_SECRET`."
        )
    form = {"grant_type": "client_credentials"}
    if settings.temporal_audience:
        form["audience"] = settings.temporal_audience
    if settings.temporal_scope:
        form["scope"] = settings.temporal_scope
    issuer = issuer_of(settings)
    try:
        given = issuer.token(form, client_id=settings.oidc_client_id, secret=secret)
    except TokenRefused as e:
        raise LoginRefused(
            e.reason,
            f"{e.message} The worker gets no token; check `REMIT_OIDC_CLIENT_ID`, `REMIT_OIDC_CLIENT_SECRET`, "
            "`REMIT_TEMPORAL_AUDIENCE` and `REMIT_TEMPORAL_SCOPE`.",
        ) from None
    finally:
        issuer.close()
    token = given.get("access_token")
    if not isinstance(token, str) or str(given.get("token_type", "")).lower() != "bearer":
        raise Unavailable(f"The issuer `{issuer.url}` gave no bearer token.")
    return token, _seconds(given, "expires_in", 300)


class _Landing:
    """Where the browser comes back to: one address on this machine, open while the block runs."""

    def __init__(self, redirect: str, state: str, issuer: str) -> None:
        try:
            parts = urlsplit(redirect)
            host, port = parts.hostname or "", parts.port or 0
        except ValueError:
            host, port, parts = "", 0, urlsplit("")
        if parts.scheme != "http" or host not in ("127.0.0.1", "localhost"):
            raise InvalidInput("`REMIT_OIDC_REDIRECT` must be on this machine, such as `http://127.0.0.1:8765/callback`.")
        self._state, self._issuer = state, issuer
        self._path = parts.path or "/"
        self._code = ""
        self._refusal: LoginRefused | None = None
        landing = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # a connection that says nothing mustn't hold up the browser

            def do_GET(self) -> None:
                status, said = landing.arrived(self.path)
                body = PAGE.format(said).encode()
                self.send_response(status)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.send_header("referrer-policy", "no-referrer")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the path holds the code."""

        try:
            self._server = HTTPServer(("127.0.0.1", port), Handler)
        except OSError:
            raise InvalidInput(f"Port {port} of `REMIT_OIDC_REDIRECT` is taken; free it, or set another one.") from None
        self.url = f"http://{host}:{self._server.server_port}{self._path}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()

    def wait(self) -> str:
        """The authorization code."""
        end = time.monotonic() + LOGIN_SECONDS
        while not self._code and not self._refusal:
            self._server.timeout = max(0.0, end - time.monotonic())
            if not self._server.timeout:
                raise LoginRefused("timeout", "Nobody logged in in time; run `remit login` again.")
            self._server.handle_request()
        if self._refusal:
            raise self._refusal
        return self._code

    def arrived(self, path: str) -> tuple[int, str]:
        """Take what the browser brings. What isn't ours (another page's request, another login) changes nothing."""
        parts = urlsplit(path)
        given = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path != self._path:
            return 404, "There is nothing here."
        if not hmac.compare_digest(given.get("state", "").encode(), self._state.encode()):
            return 400, "This isn't the login that was started; go back to the terminal."
        if given.get("iss", self._issuer) != self._issuer:  # RFC 9207: the answer of another issuer
            self._refusal = LoginRefused("wrong_issuer", "Another issuer answered than the one that was asked.")
        elif code := given.get("code"):
            self._code = code
            return (
                200,
                "You are logged in, as far as the browser is concerned. Go back to the terminal; this tab can be closed.",
            )
        else:
            error = "".join(c for c in given.get("error", "no code") if c.isalnum() or c in "_-. ")[:60]
            self._refusal = LoginRefused(error, f"The issuer `{self._issuer}` refused the login: {error}.")
        return 400, "The login was refused. Go back to the terminal."


def _pkce() -> tuple[str, str]:
    verifier = secrets.token_urlsafe(48)
    return verifier, base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _id_token(given: dict[str, Any]) -> str:
    token = given.get("id_token")
    if not isinstance(token, str):
        raise LoginRefused("no_id_token", "The issuer gave no ID token; `REMIT_OIDC_SCOPE` must hold `openid`.")
    return token


def _secret(settings: Settings) -> str | None:
    return settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret else None


def _seconds(given: dict[str, Any], name: str, default: int) -> int:
    value = given.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 86_400 * 30 else default
