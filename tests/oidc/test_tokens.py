"""ID tokens of a real server, and what becomes of those that were tampered with: each proves what it says, or nothing."""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from policies.errors import LoginRefused
from policies.oidc import CLOCK_SKEW_SECONDS, Expected, Login, key_id_of, key_nonce, verify_id_token
from tests.oidc.conftest import Tenant, Tenants, new_key
from tests.oidc.provider import CLIENT, OidcServer


class Big(jws.JWSRegistry):
    """Lets a test write a header with a key in it."""

    max_header_length = 4096


BIG = Big()


def read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims."""
    head, body, _ = token.split(".")
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, body))
    return header, claims


def part(value: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class Case:
    """A real ID token of Ana, for a signing key of hers, and what a verifier expects of it."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        _, self.x = new_key()
        self.token = tenant.token("ana", self.x)
        self.header, self.claims = read(self.token)
        self.keys = list(tenant.issuer.keys(key_id_of(self.token)))
        self.expected = tenant.settings.oidc or Expected(issuer="", audience="")

    def verify(self, token: str | None = None, **changes: Any) -> Login:
        given: dict[str, Any] = {"nonce": key_nonce(self.x), "now": int(time.time()), **changes}
        keys, expected = given.pop("keys", self.keys), given.pop("expected", self.expected)
        return verify_id_token(token or self.token, keys, expected, **given)

    def refused(self, token: str | None = None, **changes: Any) -> tuple[str, str]:
        with pytest.raises(LoginRefused) as caught:
            self.verify(token, **changes)
        assert self.token not in caught.value.message
        return caught.value.reason, caught.value.message

    def signed(self, **changes: object) -> str:
        """A token with other claims, signed by the server's own key, as the server itself would never issue it."""
        key = RSAKey.import_key(self.tenant.server.private_keys()[0])
        claims = {k: v for k, v in {**self.claims, **changes}.items() if v is not None}
        return jws.serialize_compact({"alg": "RS256", "kid": self.header["kid"]}, json.dumps(claims), key, algorithms=["RS256"])


@pytest.fixture
def case(tenant: Tenant) -> Case:
    return Case(tenant)


def test_a_login_names_the_person_and_their_roles(case: Case) -> None:
    """A token of the code flow, bound to a signing key by its nonce, verifies."""
    found = case.verify()
    assert (found.sub, found.roles) == ("ana@example.com", ("refund-approver", "support-lead"))
    assert found.expires_at - found.issued_at == 600


def test_an_expired_token_is_refused(case: Case) -> None:
    """A minute after `exp`, for clocks differ, and not before. An enrolled one may outlive its own `exp`."""
    ends = case.claims["exp"]
    case.verify(now=ends + CLOCK_SKEW_SECONDS - 1)
    assert case.refused(now=ends + CLOCK_SKEW_SECONDS) == ("expired", "The ID token has expired; run `remit login` again.")
    case.verify(now=ends + 36_000, fresh=False)


def test_a_token_from_the_future_is_refused(case: Case) -> None:
    """A clock that is a minute behind is borne, one that is more isn't, for enrolled tokens too."""
    began = case.claims["iat"]
    case.verify(now=began - CLOCK_SKEW_SECONDS)
    for fresh in (True, False):
        assert case.refused(now=began - CLOCK_SKEW_SECONDS - 1, fresh=fresh) == (
            "from_the_future",
            "The ID token is issued 61 s in the future; check the clocks.",
        )
    late = case.signed(nbf=int(time.time()) + 300)
    assert case.refused(late)[0] == "from_the_future"


def test_a_token_for_another_client_is_refused(case: Case, tenants: Tenants) -> None:
    """A token that another client of the same issuer got, for the same person and key."""
    token = tenants(oidc_client_id="other-app").token("ana", case.x)
    assert case.refused(token) == ("wrong_audience", "The ID token is for `other-app`, not for `remit-cli`.")


def test_a_token_of_another_issuer_is_refused(case: Case, tenants: Tenants) -> None:
    """Another server's token is refused by its key, and, were the keys the same, by its name."""
    with OidcServer() as other:
        elsewhere, url = tenants(other), other.url
        token = elsewhere.token("ana", case.x)
        theirs = elsewhere.issuer.keys(key_id_of(token))
    assert case.refused(token)[0] == "unknown_key"
    assert case.refused(token, keys=theirs) == (
        "wrong_issuer",
        f"The ID token is from `{url}`, not from `{case.tenant.server.url}`.",
    )


def test_a_rotated_key_is_fetched(case: Case) -> None:
    """A token of a new key verifies once the keys are asked for by its name; one of a key that is gone does no more."""
    case.tenant.server.rotate()
    token = case.tenant.token("ana", case.x)
    assert case.refused(token)[0] == "unknown_key"
    fresh = case.tenant.issuer.keys(key_id_of(token))
    assert case.verify(token, keys=fresh).sub == "ana@example.com"
    assert case.refused(keys=fresh) == ("unknown_key", "The ID token is signed by a key that the issuer doesn't publish.")


@pytest.mark.parametrize("alg", ["ES256", "EdDSA"])
def test_other_asymmetric_algorithms_verify(oidc: OidcServer, tenants: Tenants, alg: str) -> None:
    """Elliptic curves as well as RSA, by the key's own kind."""
    oidc.rotate(alg)
    case = Case(tenants())
    assert case.header["alg"] == alg
    assert case.verify().sub == "ana@example.com"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
def test_no_signature_is_no_proof(case: Case, alg: str) -> None:
    """`alg: none`, in any spelling, with or without the old signature."""
    signature = case.token.rpartition(".")[2]
    for end in ("", signature):
        token = f"{part({**case.header, 'alg': alg})}.{part(case.claims)}.{end}"
        assert case.refused(token)[0] in ("bad_algorithm", "malformed")


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_the_public_key_is_no_secret(case: Case, alg: str) -> None:
    """Key confusion: an HMAC over the published key, as PEM, DER or JSON, proves nothing, even if the key were published so."""
    public = RSAKey.import_key(case.keys[0])  # type: ignore[arg-type]
    pem = public.as_pem(private=False)
    der = public.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), der, json.dumps(case.keys[0]).encode()):
        body = f"{part({'alg': alg, 'kid': case.header['kid']})}.{part(case.claims)}"
        mac = hmac.new(secret, body.encode(), f"sha{alg[2:]}").digest()  # joserfc itself refuses to sign with such a secret
        token = f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        assert case.refused(token) == ("bad_algorithm", f"The ID token is signed with `{alg}`, which proves nothing here.")
        oct_key = {"kty": "oct", "k": base64.urlsafe_b64encode(secret).decode(), "kid": case.header["kid"]}
        assert case.refused(token, keys=[*case.keys, oct_key])[0] == "bad_algorithm"


def test_an_algorithm_is_bound_to_the_kind_of_its_key(case: Case) -> None:
    """A signature by another kind of key under the published name, or with another algorithm than the key is for."""
    other = ECKey.generate_key("P-256", {"kid": case.header["kid"]})
    token = jws.serialize_compact(
        {"alg": "ES256", "kid": case.header["kid"]}, json.dumps(case.claims), other, algorithms=["ES256"]
    )
    assert case.refused(token)[0] == "unknown_key"
    private = {k: v for k, v in case.tenant.server.private_keys()[0].items() if k != "alg"}
    key = RSAKey.import_key(private)
    token = jws.serialize_compact(
        {"alg": "PS256", "kid": case.header["kid"]}, json.dumps(case.claims), key, algorithms=["PS256"]
    )
    assert case.refused(token)[0] == "unknown_key"
    for_secrets = [{**k, "use": "enc"} for k in case.keys]
    assert case.refused(keys=for_secrets)[0] == "unknown_key"


def test_a_header_brings_no_key(case: Case) -> None:
    """A key in the token's own header (`jwk`, `jku`, `x5c`) is never used; a critical extension is refused."""
    mine = RSAKey.generate_key(2048)
    for extra in ({"jwk": mine.as_dict(private=False)}, {"jku": "https://evil.example/keys"}, {}):
        head = {"alg": "RS256", "kid": case.header["kid"], **extra}
        token = jws.serialize_compact(head, json.dumps(case.claims), mine, registry=BIG)
        assert case.refused(token)[0] == "bad_signature"
    head = {**case.header, "crit": ["exp"]}
    assert case.refused(f"{part(head)}.{part(case.claims)}.{case.token.rpartition('.')[2]}")[0] == "malformed"


def test_changed_claims_break_the_signature(case: Case) -> None:
    """One more role, written into a real token."""
    head, _, signature = case.token.split(".")
    token = f"{head}.{part({**case.claims, 'roles': ['owner']})}.{signature}"
    assert case.refused(token) == ("bad_signature", "The ID token's signature doesn't verify.")


def test_another_signing_key_is_refused(case: Case) -> None:
    """Whoever gets hold of an ID token can't enrol a key of their own with it."""
    _, mine = new_key()
    assert case.refused(nonce=key_nonce(mine)) == ("wrong_nonce", "The ID token isn't bound to this signing key (`nonce`).")
    assert case.refused(case.signed(nonce=None))[0] == "wrong_nonce"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": None}, "malformed"),
        ({"iat": None}, "malformed"),
        ({"exp": "tomorrow"}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"exp": 1e400}, "malformed"),
        ({"exp": 5, "iat": 10}, "expired"),
        ({"iss": None}, "wrong_issuer"),
        ({"iss": ["x"]}, "wrong_issuer"),
        ({"aud": None}, "wrong_audience"),
        ({"aud": []}, "wrong_audience"),
        ({"aud": {"remit-cli": 1}}, "wrong_audience"),
        ({"aud": ["remit-cli", "other-app"]}, "wrong_party"),
        ({"aud": ["remit-cli", "other-app"], "azp": "other-app"}, "wrong_party"),
        ({"azp": "other-app"}, "wrong_party"),
        ({"email": None}, "no_subject"),
        ({"email": ""}, "no_subject"),
        ({"email": ["ana@example.com"]}, "no_subject"),
        ({"email": "a\nb@example.com"}, "no_subject"),
        ({"email_verified": False}, "email_unverified"),
        ({"email_verified": None}, "email_unverified"),
        ({"email_verified": "true"}, "email_unverified"),
    ],
    ids=str,
)
def test_claims_that_cant_be_used_are_refused(case: Case, changes: dict[str, object], reason: str) -> None:
    """Even with the issuer's own signature: everything that is asked for must be there, and be what it should."""
    assert case.refused(case.signed(**changes))[0] == reason


def test_several_audiences_need_the_party(case: Case) -> None:
    """A token for several, issued to our client, is good."""
    assert case.verify(case.signed(aud=["api", CLIENT], azp=CLIENT)).sub == "ana@example.com"


@pytest.mark.parametrize(
    "junk", ["", "x", "a.b.c", "..", "eyJhbGciOiJSUzI1NiJ9..", "é.é.é", "{}", "x" * 40_000], ids=lambda j: j[:20]
)
def test_junk_is_malformed(case: Case, junk: str) -> None:
    """Whatever the bytes are, the answer is one sentence."""
    with pytest.raises(LoginRefused) as caught:
        verify_id_token(junk, case.keys, case.expected, nonce="", now=0)
    assert caught.value.reason in ("malformed", "bad_signature")


@pytest.mark.parametrize("keys", [[], [{}], [{"kty": "RSA"}], [{"kty": 1, "kid": []}], [{"kty": "oct", "k": "eA"}]], ids=str)
def test_broken_keys_are_passed_over(case: Case, keys: list[dict[str, object]]) -> None:
    """What a JWKS holds besides keys that fit is no error, and proves nothing."""
    assert case.refused(keys=keys)[0] == "unknown_key"
    assert case.verify(keys=[*keys, *case.keys]).sub == "ana@example.com"


@pytest.mark.parametrize(
    ("claims", "path", "mapped", "roles"),
    [
        ({"roles": ["a", "b"]}, "roles", {}, ("a", "b")),
        ({"roles": "a"}, "roles", {}, ("a",)),
        ({"roles": ["b", "a", "a", 1, None, ""]}, "roles", {}, ("a", "b")),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", {}, ("a",)),
        ({"https://remit.example/roles": ["a"]}, "https://remit.example/roles", {}, ("a",)),
        ({"roles": ["g1", "g2", "refund-approver"]}, "roles", {"g1": "refund-approver"}, ("refund-approver",)),
        ({"roles": ["other"]}, "roles", {"g1": "refund-approver"}, ()),
        ({}, "roles", {}, ()),
        ({"roles": {"a": 1}}, "roles", {}, ()),
        ({"realm_access": ["roles"]}, "realm_access.roles", {}, ()),
    ],
    ids=str,
)
def test_roles_come_from_the_claim_that_is_set(
    oidc: OidcServer, tenants: Tenants, claims: dict[str, Any], path: str, mapped: dict[str, str], roles: tuple[str, ...]
) -> None:
    """By its whole name or a path with dots, as they stand or mapped; what isn't a role is none."""
    oidc.person("ana", **claims)
    assert Case(tenants(oidc_roles_claim=path, oidc_roles=mapped)).verify().roles == roles


def test_people_can_be_known_by_another_claim(oidc: OidcServer, tenants: Tenants) -> None:
    """`sub` needs no verified address."""
    oidc.person("ana", verified=False)
    assert Case(tenants(oidc_subject_claim="sub")).verify().sub == "ana"
