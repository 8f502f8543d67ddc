"""The directory of who logged in, from a real server's tokens and a ledger of each kind: what counts, and what doesn't."""

import time
from collections.abc import Generator

import pytest

from activities.ledger import people
from activities.ledger.store import Ledger
from activities.oidc import FETCHES, Issuer
from policies.errors import InvalidInput, Unavailable
from policies.identity import Directory
from policies.oidc import thumbprint
from remit.directory import LiveDirectory
from remit.settings import Settings
from tests.oidc.conftest import Tenant, Tenants, new_key
from tests.oidc.provider import OidcServer

HOURS = 3600


@pytest.fixture
def directory(tenant: Tenant, ledger: Ledger) -> Generator[LiveDirectory]:
    with LiveDirectory(tenant.settings, ledger) as found:
        yield found


def roles(found: Directory) -> dict[str, tuple[str, ...]]:
    return {p.sub: p.roles for p in found.people}


def test_whoever_logged_in_is_there_with_their_key(tenant: Tenant, ledger: Ledger, directory: LiveDirectory) -> None:
    """Roles from the claims, and the key from a minute before its login until twelve hours after it."""
    assert directory() == Directory(live=True)
    before = int(time.time())
    key = tenant.enrol("ana", ledger)
    found = directory()
    assert roles(found) == {"ana@example.com": ("refund-approver", "support-lead")}
    assert found.live
    (public,) = found.people[0].keys
    assert public.kid == key.kid
    assert public.not_before and public.not_after
    assert public.not_before - before in range(-62, 10)
    assert public.not_after - public.not_before == 12 * HOURS + 60
    assert [public.valid(t) for t in (public.not_before - 1, public.not_before, public.not_after - 1, public.not_after)] == [
        False,
        True,
        True,
        False,
    ]


def test_the_newest_login_says_the_roles(tenant: Tenant, oidc: OidcServer, ledger: Ledger, directory: LiveDirectory) -> None:
    """A person with two logins has both keys; demoted in between, they have the roles that they have now."""
    first = tenant.enrol("ana", ledger)
    assert roles(directory())["ana@example.com"] == ("refund-approver", "support-lead")
    oidc.person("ana", roles=["support-lead"])
    time.sleep(1.1)  # tokens say when they were issued by the second
    second = tenant.enrol("ana", ledger)
    (ana,) = directory().people
    assert ana.roles == ("support-lead",)
    assert {k.kid for k in ana.keys} == {first.kid, second.kid}


def test_a_stolen_token_enrols_no_other_key(tenant: Tenant, ledger: Ledger, directory: LiveDirectory) -> None:
    """Whoever may write to the table can't make themselves somebody: each forged row is passed over."""
    _, x = new_key()
    token = tenant.token("ana", x)
    _, mine = new_key()
    people.enrol(ledger, kid=thumbprint(mine), x=mine, id_token=token)
    people.enrol(ledger, kid="somebody's", x=x, id_token=token)
    people.enrol(ledger, kid="junk", x="junk", id_token="junk")
    people.enrol(ledger, kid="empty", x="", id_token="")
    assert directory() == Directory(live=True)
    people.enrol(ledger, kid=thumbprint(x), x=x, id_token=token)
    assert [(p.sub, [k.x for k in p.keys]) for p in directory().people] == [("ana@example.com", [x])]


def test_a_withdrawn_key_signs_no_more(tenant: Tenant, ledger: Ledger, directory: LiveDirectory) -> None:
    """The person stays known, and what the key signed before can still be verified."""
    key = tenant.enrol("ana", ledger)
    assert people.withdraw(ledger, str(key.kid))
    assert not people.withdraw(ledger, str(key.kid))
    now = int(time.time())
    (ana,) = directory().people
    assert not ana.keys[0].valid(now + 1)
    assert ana.keys[0].valid(now - 30)
    assert directory().current(now + 1).people[0].keys == ()


def test_a_suspended_person_is_gone_at_once(tenant: Tenant, ledger: Ledger, directory: LiveDirectory) -> None:
    """Until they are restored; each change is a row with its reason."""
    tenant.enrol("ana", ledger)
    tenant.enrol("bo", ledger)
    assert people.set_standing(ledger, "ana@example.com", suspended=True, reason="left", by="cleo")
    assert not people.set_standing(ledger, "ana@example.com", suspended=True, reason="again", by="cleo")
    assert list(roles(directory())) == ["bo@example.com"]
    said = people.standing(ledger)["ana@example.com"]
    assert (said.suspended, said.reason, said.set_by) == (True, "left", "cleo")
    assert people.set_standing(ledger, "ana@example.com", suspended=False, reason="back", by="cleo")
    assert list(roles(directory())) == ["ana@example.com", "bo@example.com"]
    assert not people.set_standing(ledger, "ana@example.com", suspended=False, reason="again", by="cleo")


def test_suspension_works_on_the_dev_issuers_people(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without an issuer too."""
    settings = Settings(home=tmp_path_factory.mktemp("dev"))
    with LiveDirectory(settings, ledger) as directory:
        assert "ana@example.com" in roles(directory())
        people.set_standing(ledger, "ana@example.com", suspended=True, reason="left", by="cleo")
        assert "ana@example.com" not in roles(directory())
        assert not directory().live


def test_a_rotated_key_is_found(tenant: Tenant, oidc: OidcServer, ledger: Ledger, directory: LiveDirectory) -> None:
    """A login under a new key of the issuer counts at once; those verified before the rotation stay."""
    tenant.enrol("ana", ledger)
    assert list(roles(directory())) == ["ana@example.com"]
    oidc.rotate()
    tenant.enrol("bo", ledger)
    assert list(roles(directory())) == ["ana@example.com", "bo@example.com"]
    with LiveDirectory(tenant.settings, ledger) as another:  # a worker that starts now has only what is published now
        assert list(roles(another())) == ["bo@example.com"]


def test_while_the_issuer_is_away_known_people_stay(
    tenant: Tenant, oidc: OidcServer, ledger: Ledger, directory: LiveDirectory
) -> None:
    """Who was verified stays; who wasn't must wait; a worker that has verified nobody says that it can't."""
    tenant.enrol("ana", ledger)
    assert list(roles(directory())) == ["ana@example.com"]
    oidc.rotate()
    tenant.enrol("bo", ledger)
    oidc.reach(False)
    assert list(roles(directory())) == ["ana@example.com"]
    with LiveDirectory(tenant.settings, ledger) as another, pytest.raises(Unavailable) as caught:
        another()
    assert caught.value.message == f"The issuer `{oidc.url}` can't be reached; try again later."
    oidc.reach(True)
    assert list(roles(directory())) == ["ana@example.com", "bo@example.com"]


def test_junk_doesnt_hammer_the_issuer(tenant: Tenant, oidc: OidcServer, ledger: Ledger) -> None:
    """However many rows name keys that don't exist, the issuer's keys are fetched a few times a minute."""
    tenant.enrol("ana", ledger)
    token = tenant.token("bo", new_key()[1])
    oidc.rotate()
    for _ in range(FETCHES + 3):
        _, x = new_key()
        people.enrol(ledger, kid=thumbprint(x), x=x, id_token=token)
    before = oidc.keys_asked()
    with LiveDirectory(tenant.settings, ledger) as directory:
        for _ in range(3):
            assert directory() == Directory(live=True)
    assert 1 <= oidc.keys_asked() - before <= FETCHES


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example",
        "ftp://idp.example",
        "idp.example",
        "https://",
        "https://u:p@idp.example",
        "http://127.0.0.1.evil.example",
    ],
)
def test_an_issuer_must_be_https(url: str) -> None:
    """Whoever sits between could be anybody; only this machine is near enough for http."""
    for given in ({"issuer": url}, {"issuer": "https://idp.example", "jwks_uri": url}):
        with pytest.raises(InvalidInput) as caught:
            Issuer(**given)
        assert "must be an https URL; http is for this machine only." in caught.value.message


def test_another_issuers_document_isnt_believed(tenants: Tenants, oidc: OidcServer) -> None:
    """What is found at the address must name itself by exactly the issuer's name, slash included."""
    with pytest.raises(Unavailable) as caught:
        tenants(oidc_issuer=f"{oidc.url}/").issuer.endpoint("jwks_uri")
    assert "is another issuer's; check `REMIT_OIDC_ISSUER`, slash at its end included." in caught.value.message
    with pytest.raises(Unavailable) as caught:
        tenants(oidc_issuer=f"{oidc.url}/nothing").issuer.endpoint("jwks_uri")
    assert caught.value.message.endswith("has no discovery document (404); check `REMIT_OIDC_ISSUER`.")


def test_an_issuer_needs_a_client() -> None:
    """An issuer without a client would have no audience to ask for."""
    with pytest.raises(InvalidInput) as caught:
        _ = Settings(oidc_issuer="https://idp.example").oidc
    assert caught.value.message == "`REMIT_OIDC_ISSUER` is set, but not `REMIT_OIDC_CLIENT_ID`; see docs/identity.md."
