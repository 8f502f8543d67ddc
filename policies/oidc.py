"""What an ID token proves: who logged in, with which roles, for which signing key. Verification only, no I/O.

Rules: OpenID Connect Core 1.0, section 3.1.3.7; JWT best practices, RFC 8725. The binding of a signing key by `nonce` is
OpenPubkey's idea (arXiv 2303.03525), with the RFC 7638 thumbprint of the key.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from joserfc import jws
from joserfc.errors import UnsupportedAlgorithmError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from pydantic import Field, JsonValue, TypeAdapter

from policies.errors import LoginRefused
from policies.models import Frozen

__all__ = [
    "CLOCK_SKEW_SECONDS",
    "MAX_TOKEN_BYTES",
    "Expected",
    "Login",
    "key_id_of",
    "key_nonce",
    "thumbprint",
    "verify_id_token",
]

CLOCK_SKEW_SECONDS = 60
MAX_TOKEN_BYTES = 32_768
MAX_ROLES = 500

# Each algorithm with the one kind of key that it works with: an HMAC over a public key, or no signature at all, is in no row.
_ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    **{f"{family}{bits}": ("RSA", None) for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
_KEYS: Mapping[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


class _Registry(jws.JWSRegistry):
    """Our algorithms, and no others; without joserfc's warning that `EdDSA` has a newer name, which issuers don't use yet."""

    max_header_length = 4096

    def get_alg(self, name: str) -> Any:
        if name not in _ALGORITHMS:
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


_REGISTRY = _Registry(strict_check_header=False)
_CLAIMS = TypeAdapter(dict[str, JsonValue])


class Expected(Frozen):
    """What an ID token of this tenant must say.

    Attributes:
        issuer: `iss`, compared as it stands.
        audience: the OIDC client that people log in with; in `aud`, and the only one in `azp`.
        subject_claim: the claim that names the person; an `email` counts only when the issuer says that it verified it.
        roles_claim: the claim that holds their roles: its whole name, or a path with dots into objects.
        roles: our roles by the values of that claim; empty, for values that are our roles.
    """

    issuer: str
    audience: str
    subject_claim: str = "email"
    roles_claim: str = "roles"
    roles: Mapping[str, str] = Field(default_factory=dict[str, str])


class Login(Frozen):
    """A verified ID token: this person, with these roles. `issued_at` and `expires_at` are the token's, in Unix seconds."""

    sub: str
    roles: tuple[str, ...]
    issued_at: int
    expires_at: int


def thumbprint(x: str) -> str:
    """The RFC 7638 thumbprint of the Ed25519 public key `x` (base64url): the `kid` that a person's signing key goes by.

    Raises:
        LoginRefused: `x` isn't such a key.
    """
    try:
        return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x}).thumbprint()
    except Exception:
        raise LoginRefused("bad_key", "The signing key isn't an Ed25519 key; run `remit login` again.") from None


def key_nonce(x: str) -> str:
    """The `nonce` of a login for the Ed25519 public key `x`: SHA-256 of its thumbprint, base64url."""
    return base64.urlsafe_b64encode(hashlib.sha256(thumbprint(x).encode()).digest()).rstrip(b"=").decode()


def key_id_of(token: str) -> str:
    """The `kid` that `token` names, unverified: which of the issuer's keys to look for. Empty when it names none.

    Raises:
        LoginRefused: it is no JWS.
    """
    return str(_header(token).get("kid") or "")


def verify_id_token(
    token: str, keys: Sequence[Mapping[str, object]], expected: Expected, *, nonce: str | None, now: int, fresh: bool = True
) -> Login:
    """What `token` proves.

    Args:
        keys: the issuer's JWKS; keys of unknown kinds are passed over.
        nonce: the nonce of the login, which names the person's signing key (`key_nonce`); None, where the token isn't to
            prove whose key something was signed with.
        now: Unix seconds; clocks may differ by a minute.
        fresh: whether the token itself must not have expired. Not so for one that was enrolled, whose login lasts longer.

    Raises:
        LoginRefused: it proves nothing; `reason` is stable, and nothing of the token is quoted but `iss` and `aud`.
    """
    claims = _signed(token, keys)
    if claims.get("iss") != expected.issuer:
        raise LoginRefused("wrong_issuer", f"The ID token is from `{_short(claims.get('iss'))}`, not from `{expected.issuer}`.")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if expected.audience not in audiences:
        raise LoginRefused("wrong_audience", f"The ID token is for `{_short(audience)}`, not for `{expected.audience}`.")
    azp = claims.get("azp", expected.audience if len(audiences) == 1 else None)
    if azp != expected.audience:
        raise LoginRefused("wrong_party", f"The ID token was issued to another client than `{expected.audience}` (`azp`).")
    issued, expires = _time(claims, "iat"), _time(claims, "exp")
    if issued > now + CLOCK_SKEW_SECONDS:
        raise LoginRefused("from_the_future", f"The ID token is issued {issued - now} s in the future; check the clocks.")
    if "nbf" in claims and _time(claims, "nbf") > now + CLOCK_SKEW_SECONDS:
        raise LoginRefused("from_the_future", "The ID token isn't valid yet (`nbf`); check the clocks.")
    if expires <= issued or (fresh and expires <= now - CLOCK_SKEW_SECONDS):
        raise LoginRefused("expired", "The ID token has expired; run `remit login` again.")
    if nonce is not None and claims.get("nonce") != nonce:
        raise LoginRefused("wrong_nonce", "The ID token isn't bound to this signing key (`nonce`).")
    return Login(sub=_subject(claims, expected), roles=_roles(claims, expected), issued_at=issued, expires_at=expires)


def _header(token: str) -> Mapping[str, object]:
    if len(token) > MAX_TOKEN_BYTES:
        raise LoginRefused("malformed", f"The ID token is over {MAX_TOKEN_BYTES} bytes.")
    try:
        header = cast("Mapping[str, object]", jws.extract_compact(token.encode(), registry=_REGISTRY).headers())
    except Exception:  # whatever the bytes provoke in the decoders
        raise LoginRefused("malformed", "The ID token isn't a signed JWT.") from None
    if "crit" in header or "b64" in header:
        raise LoginRefused("malformed", "The ID token's header asks for an extension that isn't known here.")
    return header


def _signed(token: str, keys: Sequence[Mapping[str, object]]) -> Mapping[str, JsonValue]:
    header = _header(token)
    algorithm = header.get("alg")
    kind = _ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else None
    if kind is None:
        raise LoginRefused("bad_algorithm", f"The ID token is signed with `{_short(algorithm)}`, which proves nothing here.")
    named = str(header.get("kid") or "")
    fitting = [k for k in keys if _fits(k, named, kind, str(algorithm))]
    if not fitting:
        raise LoginRefused("unknown_key", "The ID token is signed by a key that the issuer doesn't publish.")
    if len(fitting) > 1 and not named:
        raise LoginRefused("unknown_key", "The ID token doesn't say which of the issuer's keys signed it (`kid`).")
    for jwk in fitting:
        try:
            public = {k: v for k, v in jwk.items() if k in ("kty", "crv", "x", "y", "n", "e")}
            key = _KEYS[kind[0]].import_key(cast("dict[str, str | list[str]]", public))
            payload = jws.deserialize_compact(token, key, registry=_REGISTRY).payload
            # Pydantic's own parser bounds the depth of nesting.
            return _CLAIMS.validate_json(payload)
        except Exception:  # noqa: S112 - any error means that this key didn't sign it
            continue
    raise LoginRefused("bad_signature", "The ID token's signature doesn't verify.")


def _fits(jwk: Mapping[str, object], named: str, kind: tuple[str, str | None], algorithm: str) -> bool:
    """Whether `jwk` may have made a signature with `algorithm`, by what its publisher says of it."""
    return (
        jwk.get("kty") == kind[0]
        and (kind[1] is None or jwk.get("crv") == kind[1])
        and jwk.get("use", "sig") == "sig"
        and jwk.get("alg", algorithm) == algorithm
        and (not named or jwk.get("kid") == named)
    )


def _time(claims: Mapping[str, JsonValue], name: str) -> int:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 53:
        raise LoginRefused("malformed", f"The ID token has no usable `{name}`.")
    return int(value)


def _subject(claims: Mapping[str, JsonValue], expected: Expected) -> str:
    name = expected.subject_claim
    value = claims.get(name)
    if not isinstance(value, str) or not value.strip() or len(value) > 200 or not value.isprintable():
        raise LoginRefused(
            "no_subject", f"The ID token has no claim `{name}`; have the issuer send it, or set `REMIT_OIDC_SUBJECT_CLAIM`."
        )
    if name == "email" and claims.get("email_verified") is not True:
        # Where anybody may write any address into their profile, an unverified one is somebody else's name.
        raise LoginRefused(
            "email_unverified",
            "The issuer doesn't say that the e-mail address is verified (`email_verified`); "
            "have it verified, or set `REMIT_OIDC_SUBJECT_CLAIM` to `sub`.",
        )
    return value.casefold() if name == "email" else value


def _roles(claims: Mapping[str, JsonValue], expected: Expected) -> tuple[str, ...]:
    found: JsonValue = claims.get(expected.roles_claim)
    if found is None:
        found = dict(claims)
        for part in expected.roles_claim.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    values = found if isinstance(found, list) else [found]
    names = [v for v in values[:MAX_ROLES] if isinstance(v, str) and v]
    if expected.roles:
        names = [expected.roles[n] for n in names if n in expected.roles]
    return tuple(sorted(set(names)))


def _short(value: object) -> str:
    text = value if isinstance(value, str) else "nothing" if value is None else str(value)
    return "".join(c if c.isprintable() and c != "`" else "?" for c in text[:120])
