"""Commands to the fleet that somebody must sign for: what is signed, and whether it counts. Pure.

Stopping needs no proof, for it harms least; starting again does. A command is a JWS as a decision is, of a type of its own.
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

__all__ = ["RELEASE_SECONDS", "TYPE", "ControlClaims", "people_needed", "sign_control", "verify_control"]

TYPE = "control+jws"
RELEASE_SECONDS = 3600
"""How long a first person's word waits for the second one's."""


class ControlClaims(Frozen):
    """The signed content of a command. `iat` and `exp` are Unix seconds.

    Attributes:
        epoch: of the switch that it is about; one that is set later is another switch.
        audience: the workers that it is for, so that it counts in no other place.
    """

    command: Literal["unkill", "put_back"]
    scope: str
    epoch: int
    audience: str
    reason: str = Field(min_length=1, max_length=500)
    nonce: str = Field(min_length=8, max_length=64)
    iat: int
    exp: int


def people_needed(scope: str) -> int:
    """How many different people must sign for the release of a switch on `scope`."""
    return 2 if scope == "fleet" else 1


def sign_control(claims: ControlClaims, key: OKPKey) -> str:
    """The compact JWS of `claims`, signed by `key` (its `kid` says whose it is)."""
    header = {"alg": ALGORITHM, "kid": str(key.kid), "typ": TYPE}
    return jws.serialize_compact(header, canonical_json(claims.model_dump(mode="json")), key, algorithms=[ALGORITHM])


def verify_control(token: str, *, directory: Directory, now: int, audience: str) -> tuple[Person, ControlClaims]:
    """Who commands what.

    Args:
        directory: the people as they are now.
        now: Unix seconds.

    Raises:
        ControlRefused: with the reason why it doesn't count.
    """
    try:
        person, claims = read_signed(token, directory, now, ControlClaims, typ=TYPE, what="command", how="remit unkill")
    except ApprovalRefused as e:
        raise ControlRefused(e.reason, e.message) from None
    if claims.audience != audience:
        raise ControlRefused("other_audience", "The command is signed for other workers than these.")
    if not claims.iat - CLOCK_SKEW_SECONDS <= now < min(claims.exp, claims.iat + MAX_SIGNATURE_SECONDS):
        raise ControlRefused("signature_expired", "The command's signature isn't valid at this time; sign it again.")
    if not person.roles:
        raise ControlRefused("no_role", f"`{person.sub}` has no role, and so may not let go on what was stopped.")
    return person, claims
