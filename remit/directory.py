"""Who the people of this tenant are now: those who logged in, or `directory.json`, or the dev issuer's, less the suspended."""

from collections.abc import Callable

from activities.ledger import people
from activities.ledger.store import Ledger
from activities.oidc import Issuer, OidcDirectory
from policies.identity import Directory
from remit.issuer import DevIssuer, read_directory
from remit.settings import Settings

__all__ = ["directory_of"]


def directory_of(settings: Settings, ledger: Ledger) -> Callable[[], Directory]:
    """The directory, to be asked for as often as it must be right. What was verified once is kept.

    Raises:
        InvalidInput: the OIDC settings can't be used.
    """
    base = _base(settings, ledger)
    return lambda: base().without(people.suspended(ledger))


def _base(settings: Settings, ledger: Ledger) -> Callable[[], Directory]:
    if expected := settings.oidc:
        issuer = Issuer(settings.oidc_issuer, settings.oidc_jwks_uri)
        return OidcDirectory(ledger, issuer, expected, settings.login_hours * 3600)
    if settings.env == "production":
        return lambda: read_directory(settings.home)
    return DevIssuer(settings.home, env=settings.env).ensure
