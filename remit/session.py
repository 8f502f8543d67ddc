"""Who works at this terminal: the person that logged in, with the signing key that their login is bound to."""

import json
import secrets
import time
from pathlib import Path

from joserfc.jwk import OKPKey
from pydantic import Field, JsonValue, ValidationError

from policies.approvals import ApprovalRequest, Verb
from policies.control import ControlClaims, Signable, sign_control
from policies.errors import InvalidInput, LoginRefused
from policies.models import Frozen
from remit.files import write_private
from remit.issuer import SIGNATURE_SECONDS, DevIssuer, read_directory, signed
from remit.settings import Settings

__all__ = ["Session", "Signer", "acting", "end", "named", "requester_of", "saved", "store"]


class Session(Frozen):
    """A login at this terminal. The private key never leaves the file that this is kept in.

    Attributes:
        sub, roles: as the ID token says; workers read them from the token, not from here.
        until: when the key may sign no more, in Unix seconds.
        key: the private Ed25519 key as a JWK; its `kid` is its thumbprint.
    """

    sub: str
    roles: tuple[str, ...]
    issuer: str
    audience: str
    until: int
    key: dict[str, str] = Field(repr=False)

    @property
    def kid(self) -> str:
        return self.key.get("kid", "")


def _file(home: Path) -> Path:
    return home / "me" / "login.json"


def store(home: Path, session: Session) -> None:
    """Keep `session`, readable by its owner only."""
    path = _file(home)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, json.dumps(session.model_dump(mode="json")))


def saved(home: Path) -> Session | None:
    """The login that was kept, whether or not it is still good; None when there is none.

    Raises:
        InvalidInput: the file can't be read.
    """
    path = _file(home)
    try:
        return Session.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValidationError):
        raise InvalidInput(f"`{path}` isn't a login that can be used; run `remit login` again.") from None


def end(home: Path) -> None:
    """Forget the login and its key."""
    _file(home).unlink(missing_ok=True)


def acting(settings: Settings, who: str) -> Session:
    """The person who logged in; `who`, when it is given, must be them.

    Raises:
        LoginRefused: nobody did, the login is over, or somebody else did.
    """
    expected = settings.oidc
    session = saved(settings.home)
    if session is None or expected is None:
        raise LoginRefused("no_login", "Nobody is logged in; run `remit login`.")
    if (session.issuer, session.audience) != (expected.issuer, expected.audience):
        raise LoginRefused(
            "other_issuer", f"The login is with `{session.issuer}`, for another tenant; run `remit login` again."
        )
    if time.time() >= session.until:
        raise LoginRefused("expired", f"The login of `{session.sub}` is over; run `remit login` again.")
    if who and who not in (session.sub, session.sub.partition("@")[0]):
        raise LoginRefused(
            "other_person", f"`{session.sub}` is logged in, not `{who}`; leave `--as` out, or log in as `{who}`."
        )
    return session


class Signer:
    """Signs as one person.

    Attributes:
        sub, roles: who it is.
        key: the private key that they sign with.
    """

    def __init__(self, settings: Settings, who: str | None) -> None:
        """Raises:
        LoginRefused, NotFound: there is no such person here.
        InvalidInput: nobody may sign here, nobody was named, or the key can't be used.
        """
        if settings.oidc:
            session = acting(settings, who or "")
            self.sub, self.roles = session.sub, session.roles
            try:
                self.key = OKPKey.import_key({**session.key})
            except Exception:
                raise InvalidInput("The signing key of the login can't be used; run `remit login` again.") from None
            return
        issuer = DevIssuer(settings.home, env=settings.env)
        if not who:
            raise InvalidInput("Say who decides with `--as`; the dev issuer signs as anybody.")
        person, self.key = issuer.key(who)
        self.sub, self.roles = person.sub, person.roles

    def command(
        self,
        command: Signable,
        *,
        scope: str,
        epoch: int,
        audience: str,
        reason: str,
        release: str = "",
        people: bool = False,
        digest: str = "",
    ) -> str:
        """The signed command to the fleet, as `ControlClaims` says it; good for some minutes."""
        now = int(time.time())
        claims = ControlClaims(
            command=command,
            scope=scope,
            epoch=epoch,
            audience=audience,
            reason=reason,
            nonce=secrets.token_hex(12),
            iat=now,
            exp=now + SIGNATURE_SECONDS,
            release=release,
            people=people,
            digest=digest,
        )
        return sign_control(claims, self.key)

    def sign(
        self,
        request: ApprovalRequest,
        run_id: str,
        decision: Verb,
        reason: str,
        arguments: dict[str, JsonValue] | None = None,
    ) -> str:
        """The signed decision on `request`; an edit has `arguments`, all of them.

        Raises:
            InvalidInput: `reason` or `arguments` can't be signed, or are too long.
        """
        return signed(self.key, request=request, run_id=run_id, decision=decision, reason=reason, arguments=arguments)


def requester_of(settings: Settings, who: str) -> str:
    """Who asks for a run: the person who is logged in, or `who`. A run that nobody is named for has no requester.

    Raises:
        LoginRefused: somebody else than `who` is logged in.
        NotFound: the dev issuer knows nobody of this name.
    """
    if settings.oidc:
        if who.startswith("service:") or (not who and saved(settings.home) is None):
            return who
        return acting(settings, who).sub
    if who and settings.env != "production":
        return DevIssuer(settings.home, env=settings.env).resolve(who).sub
    return who


def named(settings: Settings, who: str | None) -> tuple[str, tuple[str, ...]]:
    """The name and the roles of whoever does something that isn't signed. Raises as `Signer`."""
    if settings.oidc:
        session = acting(settings, who or "")
        return session.sub, session.roles
    if not who:
        raise InvalidInput("Say who does this with `--as`.")
    if settings.env == "production":
        person = read_directory(settings.home).person(who)
    else:
        person = DevIssuer(settings.home, env=settings.env).resolve(who)
    return person.sub, person.roles
