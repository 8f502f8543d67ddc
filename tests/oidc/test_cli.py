"""`remit login`, `whoami`, `logout` and `people`, by subprocess, against a real OIDC server."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from activities.ledger import people
from activities.ledger.store import Ledger
from remit.settings import ROOT
from tests.console import Console
from tests.oidc.conftest import Desk
from tests.oidc.provider import OidcServer

Desks = Callable[..., Desk]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A ledger that a worker has made."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger(url)
    ledger.migrate()
    ledger.close()
    return url


def rows(url: str) -> list[tuple[str, bool]]:
    ledger = Ledger(url)
    found = [(row.kid, row.withdrawn_at is not None) for row in people.enrolled(ledger)]
    ledger.close()
    return found


def test_a_login_makes_a_key_that_only_its_owner_can_read(desk: Desks, url: str, tmp_path: Path) -> None:
    """The person is named, the private key lies in a file of mode 0600, and neither it nor a token is shown or sent."""
    ana = desk("ana", REMIT_LEDGER_URL=url)
    answer = ana.login("ana")
    assert "Logged in as ana@example.com, with the roles refund-approver, support-lead; your key signs until 20" in answer.out
    file = tmp_path / "home-ana" / "me" / "login.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    private = json.loads(file.read_text())["key"]["d"]
    said = answer.out + answer.err + ana.console.remit("whoami").out + ana.console.remit("whoami", "--json").out
    assert private not in said
    assert "eyJ" not in said
    assert private.encode() not in (tmp_path / "ledger.db").read_bytes()
    assert b"eyJ" not in file.read_bytes()


def test_whoami_says_who_and_until_when(desk: Desks, url: str) -> None:
    """And, asked in JSON, the same."""
    ana = desk("ana", REMIT_LEDGER_URL=url)
    ana.login("ana")
    out = ana.console.remit("whoami").out
    assert out.startswith("ana@example.com, with the roles refund-approver, support-lead, by http://127.0.0.1:")
    told = ana.console.remit("whoami", "--json").json
    assert told["sub"] == "ana@example.com"
    assert told["problem"] is None
    assert (told["kid"], False) in rows(url)
    assert f"Key {told['kid']} signs until 20" in out


def test_the_device_flow_needs_an_issuer_that_carries_the_nonce(desk: Desks, oidc: OidcServer, url: str) -> None:
    """A token that isn't bound to the key enrols nothing; where the issuer carries the nonce, as Keycloak does, it works."""
    bo = desk("bo", REMIT_LEDGER_URL=url)
    assert bo.login("bo", "--device", code=1).err == (
        "remit: The issuer's device flow leaves out the `nonce` that binds a signing key to a login; "
        "log in without `--device`.\n"
    )
    assert rows(url) == []
    oidc.device_nonce(True)
    assert "Logged in as bo@example.com, with the roles refund-approver;" in bo.login("bo", "--device").out
    assert len(rows(url)) == 1


def test_a_refused_login_is_one_sentence(desk: Desks, oidc: OidcServer, url: str) -> None:
    """Somebody whom the server doesn't know, by either flow; and somebody whose address isn't verified."""
    mallory = desk("mallory", REMIT_LEDGER_URL=url)
    refused = f"remit: The issuer `{oidc.url}` refused"
    assert mallory.login("mallory", code=1).err == f"{refused} the login: access_denied.\n"
    assert mallory.login("mallory", "--device", code=1).err == f"{refused}: access_denied.\n"
    oidc.person("mallory", email="ana@example.com", verified=False)
    assert mallory.login("mallory", code=1).err == (
        "remit: The issuer doesn't say that the e-mail address is verified (`email_verified`); "
        "have it verified, or set `REMIT_OIDC_SUBJECT_CLAIM` to `sub`.\n"
    )
    assert rows(url) == []


def test_logging_in_again_ends_the_key_before(desk: Desks, url: str) -> None:
    """One key at a time for each terminal."""
    ana = desk("ana", REMIT_LEDGER_URL=url)
    ana.login("ana")
    first = ana.console.remit("whoami", "--json").json["kid"]
    ana.login("ana")
    second = ana.console.remit("whoami", "--json").json["kid"]
    assert first != second
    assert set(rows(url)) == {(first, True), (second, False)}


def test_logout_deletes_the_key_and_withdraws_it(desk: Desks, url: str, tmp_path: Path) -> None:
    """Here and for the workers; a second time there is nothing to do."""
    ana = desk("ana", REMIT_LEDGER_URL=url)
    ana.login("ana")
    assert ana.console.remit("logout").out == "ana@example.com is logged out.\n"
    assert not (tmp_path / "home-ana" / "me" / "login.json").exists()
    assert [withdrawn for _, withdrawn in rows(url)] == [True]
    assert ana.console.remit("logout").out == "Nobody is logged in.\n"
    assert ana.console.remit("whoami", code=1).err == "remit: Nobody is logged in; run `remit login`.\n"


def test_logout_without_a_ledger_still_deletes_the_key(desk: Desks, url: str, tmp_path: Path) -> None:
    """What can be done is done, and what couldn't is said."""
    ana = desk("ana", REMIT_LEDGER_URL=url)
    ana.login("ana")
    (tmp_path / "ledger.db").rename(tmp_path / "away.db")
    err = ana.console.remit("logout", code=1).err
    assert err.startswith("remit: The key is deleted here, but its enrolment couldn't be withdrawn: There is no ledger at ")
    assert not (tmp_path / "home-ana" / "me" / "login.json").exists()


def test_people_are_listed_suspended_and_restored(desk: Desks, url: str) -> None:
    """With the reason and who said so; a suspended person learns it from `whoami`."""
    ana, bo = desk("ana", REMIT_LEDGER_URL=url), desk("bo", REMIT_LEDGER_URL=url)
    assert ana.console.remit("people").out == "Nobody; people appear when they log in with `remit login`.\n"
    ana.login("ana")
    bo.login("bo")
    out = ana.console.remit("people").out
    assert "ana@example.com" in out
    assert "refund-approver, support-lead" in out
    assert ana.console.remit("people", "suspend", "bo", "--reason", "left").out == "bo@example.com is suspended.\n"
    assert ana.console.remit("people", "suspend", "bo", "--reason", "x").out == "bo@example.com is already suspended.\n"
    assert "by ana@example.com: left" in ana.console.remit("people").out
    listed = {p["sub"]: p["suspended"] for p in ana.console.remit("people", "--json").json}
    assert listed["ana@example.com"] is None
    assert listed["bo@example.com"]["reason"] == "left"
    assert bo.console.remit("whoami", code=1).err == (
        "remit: The directory doesn't know `bo@example.com`: suspended, or the login can't be verified; see `remit people`.\n"
    )
    assert ana.console.remit("people", "restore", "bo", "--reason", "back").out == "bo@example.com is restored.\n"
    bo.console.remit("whoami")
    said = ana.console.remit("people", "suspend", "zoe@example.com", "--reason", "left").out
    assert said == "zoe@example.com is suspended; the directory knows nobody of this name, so check its spelling.\n"
    assert ana.console.remit("people", "restore", "ana", "--reason", "why").out == "ana@example.com is not suspended.\n"
    assert ana.console.remit("people", "suspend", "bo", "--reason", " ", code=1).err == "remit: `--reason` is empty; say why.\n"


def test_somebody_can_be_suspended_while_the_issuer_is_away(desk: Desks, oidc: OidcServer, url: str) -> None:
    """By their full name, and by whoever holds the ledger's password, logged in or not."""
    ops = desk("ops", REMIT_LEDGER_URL=url)
    oidc.reach(False)
    out = ops.console.remit("people", "suspend", "ana@example.com", "--reason", "left").out
    assert out.startswith("ana@example.com is suspended")


def test_as_must_be_whoever_is_logged_in(desk: Desks, url: str) -> None:
    """`--as` names nobody else where people log in."""
    ana = desk("ana", REMIT_LEDGER_URL=url)
    ana.login("ana")
    for command in (("approve", "r", "--as", "bo"), ("run", "billing-resolution", "--inputs", "{}", "--as", "bo")):
        assert ana.console.remit(*command, code=1).err == (
            "remit: `ana@example.com` is logged in, not `bo`; leave `--as` out, or log in as `bo`.\n"
        )


def test_nobody_signs_without_a_login(desk: Desks, url: str) -> None:
    """With an issuer there is no dev issuer, not even in `dev`."""
    for env in ("dev", "production"):
        nobody = desk("nobody", REMIT_LEDGER_URL=url, REMIT_ENV=env)
        for command in (("approve", "r"), ("sign", "r", "ap", "--approve"), ("reject", "r", "--reason", "no")):
            assert nobody.console.remit(*command, code=1).err == "remit: Nobody is logged in; run `remit login`.\n"


def test_a_login_that_is_over_is_one_sentence(desk: Desks, oidc: OidcServer, url: str, tmp_path: Path) -> None:
    """After its hours, with another tenant's settings, or when the file is broken."""
    ana = desk("ana", REMIT_LEDGER_URL=url)
    ana.login("ana")
    file = tmp_path / "home-ana" / "me" / "login.json"
    kept = json.loads(file.read_text())
    ana.console.env["REMIT_OIDC_CLIENT_ID"] = "other-app"
    assert ana.console.remit("whoami", code=1).err == (
        f"remit: The login is with `{oidc.url}`, for another tenant; run `remit login` again.\n"
    )
    ana.console.env["REMIT_OIDC_CLIENT_ID"] = "remit-cli"
    file.write_text(json.dumps({**kept, "until": 1_700_000_000}))
    assert ana.console.remit("approve", "r", code=1).err == (
        "remit: The login of `ana@example.com` is over; run `remit login` again.\n"
    )
    file.write_text("{")
    assert (
        ana.console.remit("whoami", code=1).err == f"remit: `{file}` isn't a login that can be used; run `remit login` again.\n"
    )
    ana.login("ana")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (
            {"REMIT_OIDC_ISSUER": ""},
            "There is no OIDC issuer: set `REMIT_OIDC_ISSUER` and `REMIT_OIDC_CLIENT_ID`; see docs/identity.md.",
        ),
        ({"REMIT_OIDC_CLIENT_ID": ""}, "`REMIT_OIDC_ISSUER` is set, but not `REMIT_OIDC_CLIENT_ID`; see docs/identity.md."),
        (
            {"REMIT_OIDC_ISSUER": "http://idp.example"},
            "`REMIT_OIDC_ISSUER` must be an https URL; http is for this machine only.",
        ),
        ({"REMIT_OIDC_ISSUER": "http://127.0.0.1:1"}, "The issuer `http://127.0.0.1:1` can't be reached; try again later."),
        (
            {"REMIT_OIDC_ROLES": "{"},
            '`REMIT_OIDC_ROLES` can\'t be used: give a JSON object such as `{"their-role": "our-role"}`.',
        ),
        (
            {"REMIT_OIDC_REDIRECT": "http://0.0.0.0/"},
            "`REMIT_OIDC_REDIRECT` must be on this machine, such as `http://127.0.0.1:8765/callback`.",
        ),
        (
            {"REMIT_LEDGER_URL": "sqlite:////nowhere/l.db"},
            "There is no ledger at `/nowhere/l.db` yet; `remit dev` or a worker makes it.",
        ),
    ],
    ids=str,
)
def test_settings_that_cant_be_used_are_one_sentence(desk: Desks, url: str, env: dict[str, str], said: str) -> None:
    """Each says what to set."""
    somebody = desk("somebody", **{"REMIT_LEDGER_URL": url, **env})
    assert somebody.console.remit("login", "--no-browser", code=1).err == f"remit: {said}\n"


def test_the_dev_issuer_is_loud(tmp_path: Path) -> None:
    """`whoami` says that it signs as anybody; in production there is none."""
    console = Console(ROOT, {"REMIT_HOME": str(tmp_path / "home")})
    out = console.remit("whoami").out
    assert out.startswith("Nobody in particular. The DEV ISSUER signs as ANYBODY here: ana@example.com")
    assert console.remit("approve", "r", code=1).err == "remit: Say who decides with `--as`; the dev issuer signs as anybody.\n"
    console.env["REMIT_ENV"] = "production"
    assert console.remit("whoami", code=1).err == (
        "remit: Nobody can log in: `REMIT_OIDC_ISSUER` isn't set; see docs/identity.md.\n"
    )
