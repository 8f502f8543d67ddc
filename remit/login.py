"""`remit login`, `whoami`, `logout`: a person's login with the tenant's issuer, and the signing key that is bound to it."""

import sys
import time
import webbrowser
from contextlib import suppress
from typing import Annotated

import typer
from joserfc.jwk import OKPKey

from policies.errors import LoginRefused, RemitError, Unavailable
from policies.oidc import Login, key_id_of, key_nonce, thumbprint, verify_id_token
from remit import render
from remit import session as sessions
from remit.issuer import DevIssuer
from remit.oidc import code_flow, device_flow, issuer_of
from remit.options import AsJson
from remit.session import Session
from remit.settings import Settings, load

__all__ = ["login", "logout", "whoami"]


def login(
    device: Annotated[bool, typer.Option("--device", help="Log in on another device, by a code to type there.")] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser, or only print the address.")] = True,
) -> None:
    """Log in with the tenant's OIDC issuer, and make the key that signs your decisions."""
    from activities.ledger import people
    from activities.ledger.store import existing

    settings = load()
    issuer = issuer_of(settings)
    with existing(settings.ledger) as ledger:
        key = OKPKey.generate_key("Ed25519")
        x = str(key.as_dict(private=False)["x"])
        nonce = key_nonce(x)

        def show(address: str) -> None:
            print(f"Log in at: {address}", flush=True)
            if browser:
                with suppress(webbrowser.Error, OSError):
                    webbrowser.open(address)

        def show_code(address: str, code: str) -> None:
            print(f"Log in at {address} with the code {code}", flush=True)

        token = device_flow(issuer, settings, nonce, show_code) if device else code_flow(issuer, settings, nonce, show)
        expected = settings.oidc
        assert expected
        try:
            found = verify_id_token(token, issuer.keys(key_id_of(token)), expected, nonce=nonce, now=int(time.time()))
        except LoginRefused as e:
            if device and e.reason == "wrong_nonce":
                raise LoginRefused(
                    e.reason,
                    "The issuer's device flow leaves out the `nonce` that binds a signing key to a login; "
                    "log in without `--device`.",
                ) from None
            raise
        session = _session(settings, found, key)
        before = sessions.saved(settings.home) if _readable(settings) else None
        people.enrol(ledger, kid=session.kid, x=x, id_token=token)
        sessions.store(settings.home, session)
        if before:
            people.withdraw(ledger, before.kid)  # its key is gone: nothing that it signs from now on is its owner's
    print(f"Logged in as {session.sub}, {_roles(session.roles)}; your key signs until {render.clock(session.until)}.")


def _session(settings: Settings, found: Login, key: OKPKey) -> Session:
    private = {k: str(v) for k, v in key.as_dict(private=True).items() if k in ("kty", "crv", "x", "d")}
    return Session(
        sub=found.sub,
        roles=found.roles,
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience or settings.oidc_client_id,
        until=found.issued_at + settings.login_hours * 3600,
        key={**private, "kid": thumbprint(private["x"])},
    )


def _readable(settings: Settings) -> bool:
    try:
        sessions.saved(settings.home)
    except RemitError:
        return False
    return True


def _roles(roles: tuple[str, ...]) -> str:
    return f"with the roles {', '.join(roles)}" if roles else "without a role (see `REMIT_OIDC_ROLES_CLAIM`)"


def whoami(as_json: AsJson = False) -> None:
    """Say who you are to Remit: person, roles, signing key, until when; and whether the workers know you."""
    settings = load()
    if not settings.oidc:
        if settings.env == "production":
            raise LoginRefused("no_issuer", "Nobody can log in: `REMIT_OIDC_ISSUER` isn't set; see docs/identity.md.")
        names = [p.sub for p in DevIssuer(settings.home, env=settings.env).ensure().people]
        if as_json:
            render.print_json({"dev_issuer": True, "people": names})
        else:
            print(f"Nobody in particular. The DEV ISSUER signs as ANYBODY here: {', '.join(names)}. For a laptop only.")
        return
    session = sessions.acting(settings, "")
    problem = _unknown(settings, session)
    if as_json:
        about = session.model_dump(mode="json", include={"sub", "roles", "issuer", "until"})
        render.print_json(about | {"kid": session.kid, "problem": problem})
    else:
        print(f"{session.sub}, {_roles(session.roles)}, by {session.issuer}")
        print(f"Key {session.kid} signs until {render.clock(session.until)}.")
    if problem:
        if not as_json:
            print(f"remit: {problem}", file=sys.stderr)
        raise typer.Exit(1)


def _unknown(settings: Settings, session: Session) -> str | None:
    """Why workers wouldn't take a decision of this person; None when they would."""
    from activities.ledger.store import existing
    from remit.directory import LiveDirectory

    try:
        with existing(settings.ledger) as ledger, LiveDirectory(settings, ledger) as directory:
            found = directory()
    except Unavailable as e:
        return e.message
    if not any(p.sub == session.sub for p in found.people):
        return f"The directory doesn't know `{session.sub}`: suspended, or the login can't be verified; see `remit people`."
    if found.by_key(session.kid) is None:
        return "The directory doesn't know this key; run `remit login` again."
    return None


def logout() -> None:
    """Delete your signing key, and have workers refuse it from now on. What you signed before stands."""
    from activities.ledger import people
    from activities.ledger.store import existing

    settings = load()
    session = sessions.saved(settings.home)
    if session is None:
        print("Nobody is logged in.")
        return
    sessions.end(settings.home)  # first: whatever happens next, nobody signs with it
    try:
        with existing(settings.ledger) as ledger:
            people.withdraw(ledger, session.kid)
    except Unavailable as e:
        raise Unavailable(f"The key is deleted here, but its enrolment couldn't be withdrawn: {e.message}") from None
    print(f"{session.sub} is logged out.")
