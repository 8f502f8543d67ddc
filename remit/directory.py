"""Who the people of this tenant are now: those who logged in, or `directory.json`, or the dev issuer's, less the suspended."""

from contextlib import AbstractContextManager
from typing import Self

from activities.ledger import people
from activities.ledger.store import Ledger
from activities.oidc import Issuer, OidcDirectory
from policies.identity import Directory
from remit.issuer import DevIssuer, read_directory
from remit.settings import Settings

__all__ = ["LiveDirectory"]


class LiveDirectory(AbstractContextManager["LiveDirectory", None]):
    """The directory, to be called as often as it must be right. What was verified once is kept. Close it at the end."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        """Raises:
        InvalidInput: the OIDC settings can't be used.
        """
        self._settings = settings
        self._ledger = ledger
        expected = settings.oidc
        self._issuer = Issuer(settings.oidc_issuer, settings.oidc_jwks_uri) if expected else None
        self._logins = (
            OidcDirectory(ledger, self._issuer, expected, settings.login_hours * 3600) if self._issuer and expected else None
        )

    def __call__(self) -> Directory:
        """Everybody who isn't suspended.

        Raises:
            Unavailable: the issuer can't be reached, so that nobody's login can be verified.
            InvalidInput: `directory.json` can't be used.
        """
        return self._everybody().without(people.suspended(self._ledger))

    def _everybody(self) -> Directory:
        if self._logins:
            return self._logins()
        if self._settings.env == "production":
            return read_directory(self._settings.home)
        return DevIssuer(self._settings.home, env=self._settings.env).ensure()

    def close(self) -> None:
        if self._issuer:
            self._issuer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
