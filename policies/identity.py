"""Who the people are: a directory snapshot with public keys, pinned into a run at admission."""

from pydantic import Field

from policies.errors import NotFound
from policies.models import Frozen

__all__ = ["Directory", "Person", "PublicKey"]


class PublicKey(Frozen):
    """An Ed25519 public key as a JWK (RFC 8037): `kid` names it, `x` is the key, base64url."""

    kid: str
    x: str


class Person(Frozen):
    """Somebody who may decide.

    Attributes:
        sub: stable subject identifier, for example `ana@example.com`.
        roles: what approvals they may give, matched against the bundle's `approvals.roles`.
    """

    sub: str
    roles: tuple[str, ...] = ()
    keys: tuple[PublicKey, ...] = ()


class Directory(Frozen):
    """The people known when the run was admitted."""

    people: tuple[Person, ...] = Field(default=())

    def by_key(self, kid: str) -> tuple[Person, PublicKey] | None:
        """The person whose key is called `kid`, or None."""
        for person in self.people:
            for key in person.keys:
                if key.kid == kid:
                    return person, key
        return None

    def person(self, sub: str) -> Person:
        """The person called `sub`.

        Raises:
            NotFound: nobody is; the message lists who is known.
        """
        for person in self.people:
            if person.sub == sub:
                return person
        known = ", ".join(f"`{p.sub}`" for p in self.people) or "nobody"
        raise NotFound(f"`{sub}` is not in the directory; known: {known}.")
