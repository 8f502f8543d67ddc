"""The dev issuer: people who don't exist, with keys that nobody else can read, and never in production."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from policies.approvals import verify_decision
from policies.errors import InvalidInput, NotFound, RemitError
from policies.identity import Directory, Person
from remit.issuer import PEOPLE, DevIssuer, read_directory
from remit.settings import ROOT
from tests.builders import ANA, request


@pytest.fixture
def issuer(tmp_path: Path) -> DevIssuer:
    return DevIssuer(tmp_path / "home", env="dev")


def message(error: type[RemitError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        call()
    return caught.value.message


def test_the_people_are_made_with_a_key_each(issuer: DevIssuer) -> None:
    """The first call makes everybody, with their roles and one key each; each key has a name of its own."""
    people = issuer.ensure().people
    assert {p.sub: p.roles for p in people} == PEOPLE
    assert [len(p.keys) for p in people] == [1] * len(PEOPLE)
    assert len({p.keys[0].kid for p in people}) == len({p.keys[0].x for p in people}) == len(PEOPLE)


def test_the_people_stay_who_they_are(issuer: DevIssuer, tmp_path: Path) -> None:
    """Later calls, of other processes too, find the same people with the same keys."""
    assert issuer.ensure() == issuer.ensure() == DevIssuer(tmp_path / "home", env="dev").ensure()


def test_only_the_owner_can_read_the_keys(issuer: DevIssuer, tmp_path: Path) -> None:
    """Key files have mode 0600 in a folder of mode 0700, and no half-written file is left."""
    issuer.ensure()
    keys = tmp_path / "home" / "keys"
    files = sorted(keys.glob("*@*"))
    assert [f.name for f in files] == sorted(f"{sub}.json" for sub in PEOPLE)
    assert {f.stat().st_mode & 0o777 for f in files} == {0o600}
    assert keys.stat().st_mode & 0o777 == 0o700


def test_the_directory_holds_no_secret(issuer: DevIssuer, tmp_path: Path) -> None:
    """What is pinned into runs has public keys only."""
    issuer.ensure()
    text = (tmp_path / "home" / "directory.json").read_text()
    for person in issuer.ensure().people:
        secret = (tmp_path / "home" / "keys" / f"{person.sub}.json").read_text()
        assert '"d"' in secret
        assert person.keys[0].x in text
    assert '"d"' not in text


def test_there_is_no_dev_issuer_in_production(tmp_path: Path) -> None:
    """In production nobody may sign for somebody else, and nothing is made."""
    assert message(InvalidInput, lambda: DevIssuer(tmp_path / "home", env="production")) == (
        "The dev issuer signs as anybody, so it is off with `REMIT_ENV=production`."
    )
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("who", ["ana", ANA])
def test_a_person_is_found_by_short_and_full_name(issuer: DevIssuer, who: str) -> None:
    """The part before the `@` is enough."""
    assert issuer.resolve(who).sub == ANA


def test_a_short_name_that_two_share_finds_nobody(issuer: DevIssuer, tmp_path: Path) -> None:
    """Where a short name is ambiguous, the full one must be given."""
    issuer.ensure()
    two = Directory(people=(Person(sub="ana@a.example"), Person(sub="ana@b.example")))
    (tmp_path / "home" / "directory.json").write_text(two.model_dump_json())
    assert issuer.resolve("ana@b.example").sub == "ana@b.example"
    assert message(NotFound, lambda: issuer.resolve("ana")) == (
        "`ana` is not in the directory; known: `ana@a.example`, `ana@b.example`."
    )


@pytest.mark.parametrize("who", ["mallory", "", "Ana", "../ana"])
def test_an_unknown_person_is_named_with_those_who_are_known(issuer: DevIssuer, who: str) -> None:
    """A name that nobody has is refused with the names that there are."""
    assert message(NotFound, lambda: issuer.resolve(who)) == (
        f"`{who}` is not in the directory; known: {', '.join(f'`{sub}`' for sub in PEOPLE)}."
    )


def test_what_the_issuer_signs_verifies(issuer: DevIssuer) -> None:
    """A decision signed as a person is theirs, over this request, from now for a quarter of an hour."""
    now = int(time.time())
    asked = request(requested_at=now, expires_at=now + 86_400)
    token = issuer.sign("ana", request=asked, run_id="run-1", decision="reject", reason="Too much.")
    for at in (now, now + 899):
        decision = verify_decision(token, request=asked, run_id="run-1", directory=issuer.ensure(), now=at, barred=frozenset())
        assert (decision.sub, decision.decision, decision.reason) == (ANA, "reject", "Too much.")


def test_each_decision_has_a_nonce_of_its_own(issuer: DevIssuer) -> None:
    """Signing the same twice gives two tokens, so that a repeated one can be told from a second one."""
    tokens = {issuer.sign("ana", request=request(), run_id="r", decision="approve", reason="") for _ in range(3)}
    assert len(tokens) == 3


def test_an_endless_reason_is_refused(issuer: DevIssuer) -> None:
    """A reason that wouldn't fit into a decision is one sentence, not a stack of frames."""
    assert message(
        InvalidInput, lambda: issuer.sign("ana", request=request(), run_id="r", decision="approve", reason="x" * 2001)
    ) == ("The decision can't be signed: `reason` String should have at most 2000 characters.")


def test_a_reason_that_is_long_in_bytes_is_refused_when_it_is_signed(issuer: DevIssuer) -> None:
    """Two thousand letters of most of the world don't fit into a decision that a run takes; better said here than there."""
    said = message(
        InvalidInput, lambda: issuer.sign("ana", request=request(), run_id="r", decision="approve", reason="\U0001f642" * 2000)
    )
    assert re.fullmatch(r"The signed decision has 1\d{4} bytes, 8192 are the most; shorten its reason\.", said)


def test_what_is_not_json_cannot_be_signed(issuer: DevIssuer) -> None:
    """A lone surrogate, as a terminal may hand it over, is one sentence."""
    said = message(InvalidInput, lambda: issuer.sign("ana", request=request(), run_id="r", decision="approve", reason="\ud800"))
    assert said.startswith("The decision can't be signed: ")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"kty": "RSA"}'], ids=repr)
def test_a_lost_key_is_one_sentence(issuer: DevIssuer, tmp_path: Path, content: str | None) -> None:
    """Without a person's key, or with a broken one, nothing is signed, and the sentence says how to start over."""
    issuer.ensure()
    path = tmp_path / "home" / "keys" / f"{ANA}.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert message(InvalidInput, lambda: issuer.sign("ana", request=request(), run_id="r", decision="approve", reason="")) == (
        f"The dev issuer holds no key of `{ANA}`; delete `{tmp_path / 'home'}` to start over."
    )


def test_without_a_directory_there_is_nobody(tmp_path: Path) -> None:
    """A folder without `directory.json` has no people, which isn't an error."""
    assert read_directory(tmp_path) == Directory()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"people": [{"name": "Ana"}]}', b"\xff\xfe"], ids=repr)
def test_a_broken_directory_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    """A `directory.json` that can't be used is named, with what to do."""
    path = tmp_path / "directory.json"
    path.write_bytes(content)
    assert message(InvalidInput, lambda: read_directory(tmp_path)) == (
        f"`{path}` isn't a directory of people; delete it to have `remit dev` make a new one."
    )


def test_processes_that_start_together_make_one_directory(tmp_path: Path) -> None:
    """Four processes that need people at the same moment agree on who they are, and their keys sign for them."""
    code = (
        "import sys; from pathlib import Path; from remit.issuer import DevIssuer\n"
        "i = DevIssuer(Path(sys.argv[1]), env='dev'); print('ready', flush=True); sys.stdin.readline()\n"
        "print(i.ensure().model_dump_json())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "home")]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("\n")
        worker.stdin.flush()
    answers = {worker.communicate(timeout=60) for worker in workers}
    issuer = DevIssuer(tmp_path / "home", env="dev")
    assert answers == {(issuer.ensure().model_dump_json() + "\n", "")}
    now = int(time.time())
    asked = request(expires_at=now + 3600)
    token = issuer.sign("bo", request=asked, run_id="r", decision="approve", reason="")
    verify_decision(token, request=asked, run_id="r", directory=issuer.ensure(), now=now, barred=frozenset())
