"""The embedded identity: a dev issuer with people and their keys under `.remit/`. Never for production."""

import json
import secrets
import time
from pathlib import Path

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic import JsonValue, ValidationError

from policies.approvals import MAX_JWS_BYTES, ApprovalRequest, DecisionClaims, Verb, sign_decision
from policies.bundle import explain
from policies.errors import InvalidInput
from policies.identity import Directory, Person, PublicKey
from remit.files import locked, write_private

__all__ = ["PEOPLE", "DevIssuer", "read_directory", "signed", "write_private"]

PEOPLE: dict[str, tuple[str, ...]] = {
    "ana@example.com": ("refund-approver", "support-lead"),
    "bo@example.com": ("refund-approver", "incident-commander"),
    "cleo@example.com": ("support-lead", "incident-commander"),
    "dana@example.com": ("finance-lead",),
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
        with locked(self._keys / ".lock"):
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

    def key(self, who: str) -> tuple[Person, OKPKey]:
        """The person called `who`, and their private key.

        Raises:
            NotFound: nobody is called `who`.
            InvalidInput: their key is missing.
        """
        person = self.resolve(who)
        try:
            return person, OKPKey.import_key(json.loads((self._keys / f"{person.sub}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, JoseError):
            raise InvalidInput(f"The dev issuer holds no key of `{person.sub}`; delete `{self._home}` to start over.") from None

    def sign(
        self,
        who: str,
        *,
        request: ApprovalRequest,
        run_id: str,
        decision: Verb,
        reason: str,
        arguments: dict[str, JsonValue] | None = None,
    ) -> str:
        """The compact JWS with which `who` decides on `request`.

        Raises:
            NotFound: nobody is called `who`.
            InvalidInput: their key is missing, or it can't be signed.
        """
        _, key = self.key(who)
        return signed(key, request=request, run_id=run_id, decision=decision, reason=reason, arguments=arguments)


def signed(
    key: OKPKey,
    *,
    request: ApprovalRequest,
    run_id: str,
    decision: Verb,
    reason: str,
    arguments: dict[str, JsonValue] | None = None,
) -> str:
    """The compact JWS with which the owner of `key` decides on `request`, from now for a quarter of an hour.

    Args:
        arguments: of an edit, all of them.

    Raises:
        InvalidInput: `reason` or `arguments` can't be signed, or are too long.
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
            arguments=arguments,
        )
        token = sign_decision(claims, key)
    except ValidationError as e:
        raise InvalidInput(f"The decision can't be signed: {explain(e)}.") from None
    except ValueError:  # lone surrogates, numbers that JSON can't hold
        raise InvalidInput("The decision can't be signed: its reason or arguments aren't plain JSON.") from None
    if len(token) > MAX_JWS_BYTES:
        what = "reason or its arguments" if decision == "edit" else "reason"
        raise InvalidInput(f"The signed decision has {len(token)} bytes, {MAX_JWS_BYTES} are the most; shorten its {what}.")
    return token
