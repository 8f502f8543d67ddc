"""Who the people are: a directory snapshot with public keys, pinned into a run at admission."""

from collections.abc import Set as AbstractSet

from pydantic import Field

from policies.errors import NotFound
from policies.models import Frozen

__all__ = ["Directory", "Person", "PublicKey"]


class PublicKey(Frozen):
    """An Ed25519 public key as a JWK (RFC 8037): `kid` names it, `x` is the key, base64url.

    Attributes:
        not_before, not_after: when it may sign, from and until (exclusive), in Unix seconds; None for any time.
    """

    kid: str
    x: str
    not_before: int | None = None
    not_after: int | None = None

    def valid(self, now: int) -> bool:
        """Whether it may sign at `now`."""
        return (self.not_before is None or self.not_before <= now) and (self.not_after is None or now < self.not_after)


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
    """The people known when the run was admitted.

    Attributes:
        live: whether people come and go: they log in, and may be asked for again while a run is open.
    """

    people: tuple[Person, ...] = Field(default=())
    live: bool = False

    def by_key(self, kid: str) -> tuple[Person, PublicKey] | None:
        """The person whose key is called `kid`, or None."""
        for person in self.people:
            for key in person.keys:
                if key.kid == kid:
                    return person, key
        return None

    def current(self, now: int) -> "Directory":
        """The same people, with only those of their keys that may sign at `now`."""
        kept = tuple(p.model_copy(update={"keys": tuple(k for k in p.keys if k.valid(now))}) for p in self.people)
        return self.model_copy(update={"people": kept})

    def without(self, subs: AbstractSet[str]) -> "Directory":
        """Everybody but `subs`."""
        return self.model_copy(update={"people": tuple(p for p in self.people if p.sub not in subs)})

    def holding(self, kids: AbstractSet[str]) -> "Directory":
        """Those who have one of the keys `kids`, with all of their keys."""
        return self.model_copy(update={"people": tuple(p for p in self.people if any(k.kid in kids for k in p.keys))})

    def joined(self, later: "Directory") -> "Directory":
        """Everybody in either; of who is in both, what `later` says."""
        known = {p.sub: p for p in (*self.people, *later.people)}
        return self.model_copy(update={"people": tuple(known.values())})

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
