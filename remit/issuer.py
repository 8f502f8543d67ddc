"""The embedded identity: a dev issuer with people and their keys under `.remit/`. Never for production."""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic import ValidationError

from policies.approvals import ApprovalRequest, DecisionClaims, sign_decision
from policies.bundle import explain
from policies.errors import InvalidInput
from policies.identity import Directory, Person, PublicKey

__all__ = ["PEOPLE", "DevIssuer", "read_directory", "signed", "write_private"]

PEOPLE: dict[str, tuple[str, ...]] = {
    "ana@example.com": ("refund-approver", "support-lead"),
    "bo@example.com": ("refund-approver", "incident-commander"),
    "cleo@example.com": ("support-lead", "incident-commander"),
    "sam@example.com": (),
}
"""The people that the dev issuer starts with, and the roles that let them approve. Sam may ask, and decide nothing."""
SIGNATURE_SECONDS = 900


def read_directory(home: Path) -> Directory:
    """The people in `directory.json` under `home`; nobody when there is no such file.

    Raises:
        InvalidInput: the file can't be used.
    """
    path = home / "directory.json"
    try:
        return Directory.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Directory()
    except (OSError, UnicodeDecodeError, ValidationError):
        raise InvalidInput(f"`{path}` isn't a directory of people; delete it to have `remit dev` make a new one.") from None


class DevIssuer:
    """Makes and uses the keys of people who don't exist."""

    def __init__(self, home: Path, *, env: str) -> None:
        """Raises:
        InvalidInput: in production, where nobody may sign for somebody else.
        """
        if env == "production":
            raise InvalidInput("The dev issuer signs as anybody, so it is off with `REMIT_ENV=production`.")
        self._home = home
        self._keys = home / "keys"

    def ensure(self) -> Directory:
        """The directory of the dev people, made with their keys at the first call; safe from several processes at once."""
        self._keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self._keys / ".lock"):
            if not (self._home / "directory.json").exists():
                people = tuple(self._person(sub, roles) for sub, roles in PEOPLE.items())
                write_private(self._home / "directory.json", Directory(people=people).model_dump_json(indent=2))
        return read_directory(self._home)

    def _person(self, sub: str, roles: tuple[str, ...]) -> Person:
        kid = f"{sub.partition('@')[0]}-{secrets.token_hex(4)}"
        key = OKPKey.generate_key("Ed25519", {"kid": kid})
        private = key.as_dict(private=True)
        write_private(self._keys / f"{sub}.json", json.dumps(private))
        return Person(sub=sub, roles=roles, keys=(PublicKey(kid=kid, x=str(private["x"])),))

    def resolve(self, who: str) -> Person:
        """The person called `who`, by full name or by the part before the `@`.

        Raises:
            NotFound: nobody is.
        """
        directory = self.ensure()
        short = [p for p in directory.people if p.sub.partition("@")[0] == who]
        return short[0] if len(short) == 1 else directory.person(who)

    def sign(
        self, who: str, *, request: ApprovalRequest, run_id: str, decision: Literal["approve", "reject"], reason: str
    ) -> str:
        """The compact JWS with which `who` decides on `request`.

        Raises:
            NotFound: nobody is called `who`.
            InvalidInput: their key is missing, or `reason` is too long.
        """
        person = self.resolve(who)
        try:
            key = OKPKey.import_key(json.loads((self._keys / f"{person.sub}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, JoseError):
            raise InvalidInput(f"The dev issuer holds no key of `{person.sub}`; delete `{self._home}` to start over.") from None
        return signed(key, request=request, run_id=run_id, decision=decision, reason=reason)


def signed(key: OKPKey, *, request: ApprovalRequest, run_id: str, decision: Literal["approve", "reject"], reason: str) -> str:
    """The compact JWS with which the owner of `key` decides on `request`, from now for a quarter of an hour.

    Raises:
        InvalidInput: `reason` is too long.
    """
    now = int(time.time())
    try:
        claims = DecisionClaims(
            act=request.action_digest,
            run=run_id,
            approval_id=request.approval_id,
            decision=decision,
            reason=reason,
            nonce=secrets.token_hex(12),
            iat=now,
            exp=now + SIGNATURE_SECONDS,
        )
    except ValidationError as e:
        raise InvalidInput(f"The decision can't be signed: {explain(e)}.") from None
    return sign_decision(claims, key)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(path.name + ".new")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


@contextmanager
def _locked(path: Path) -> Generator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
