"""Commands to the fleet that somebody must sign for: what is signed, and whether it counts. Pure.

Stopping needs no proof, for it harms least; starting again, or giving an agent more to do, does. A command is a JWS, as a
decision is, of a type of its own.
"""

from typing import Literal

from joserfc import jws
from joserfc.jwk import OKPKey
from pydantic import Field

from policies.approvals import ALGORITHM, CLOCK_SKEW_SECONDS, MAX_SIGNATURE_SECONDS, read_signed
from policies.canonical import canonical_json
from policies.errors import ApprovalRefused, ControlRefused
from policies.identity import Directory, Person
from policies.models import Frozen

__all__ = ["RELEASE_SECONDS", "TYPE", "ControlClaims", "Signable", "people_needed", "sign_control", "verify_control"]

Signable = Literal["unkill", "put_back", "rollout_start", "rollout_promote", "tool_approve", "tool_withdraw"]
HOW: dict[Signable, str] = {
    "unkill": "remit unkill",
    "put_back": "remit breaker put-back",
    "rollout_start": "remit rollout start",
    "rollout_promote": "remit rollout promote",
    "tool_approve": "remit tools approve",
    "tool_withdraw": "remit tools withdraw",
}
TYPE = "control+jws"
RELEASE_SECONDS = 3600
"""How long a first person's word waits for the second one's."""


class ControlClaims(Frozen):
    """The signed content of a command. `iat` and `exp` are Unix seconds.

    Attributes:
        epoch: of the switch that it is about; one that is set later is another switch. Of a rollout likewise, 0 for a new one.
        release: definition of the candidate that is started; `people`: whether people do the rest, and not a stable release.
        audience: the workers that it is for, so that it counts in no other place.
        digest: of a tool as it was reviewed.
    """

    command: Signable
    scope: str
    epoch: int
    audience: str
    reason: str = Field(min_length=1, max_length=500)
    nonce: str = Field(min_length=8, max_length=64)
    iat: int
    exp: int
    release: str = ""
    people: bool = False
    digest: str = ""


def people_needed(scope: str) -> int:
    """How many different people must sign for the release of a switch on `scope`."""
    return 2 if scope == "fleet" else 1


def sign_control(claims: ControlClaims, key: OKPKey) -> str:
    """The compact JWS of `claims`, signed by `key` (its `kid` says whose it is)."""
    header = {"alg": ALGORITHM, "kid": str(key.kid), "typ": TYPE}
    return jws.serialize_compact(
        header, canonical_json(claims.model_dump(mode="json", exclude_defaults=True)), key, algorithms=[ALGORITHM]
    )


def verify_control(
    token: str, *, directory: Directory, now: int, audience: str, command: Signable
) -> tuple[Person, ControlClaims]:
    """Who commands what.

    Args:
        command: the one that it is given for; a signature of another is none.
        directory: the people as they are now.
        now: Unix seconds.

    Raises:
        ControlRefused: with the reason why it doesn't count.
    """
    try:
        person, claims = read_signed(token, directory, now, ControlClaims, typ=TYPE, what="command", how=HOW[command])
    except ApprovalRefused as e:
        raise ControlRefused(e.reason, e.message) from None
    if claims.command != command:
        raise ControlRefused("other_command", f"The signature is for `{claims.command}`, not for `{command}`.")
    if claims.audience != audience:
        raise ControlRefused("other_audience", "The command is signed for other workers than these.")
    if not claims.iat - CLOCK_SKEW_SECONDS <= now < min(claims.exp, claims.iat + MAX_SIGNATURE_SECONDS):
        raise ControlRefused("signature_expired", "The command's signature isn't valid at this time; sign it again.")
    if not person.roles:
        raise ControlRefused("no_role", f"`{person.sub}` has no role, and so may not sign for this.")
    return person, claims
