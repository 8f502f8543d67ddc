"""`remit effects` by subprocess, on a ledger of the test's own of each kind: what it lists, resolves and refuses."""

from collections.abc import Generator
from pathlib import Path

import pytest

from activities.ledger.store import Intent, Ledger, run_scope
from policies.models import Money, ResourceRef
from remit.settings import ROOT
from tests.console import Console
from tests.postgres import PostgresServer


def _intent(key: str, run: str) -> Intent:
    return Intent(
        idempotency_key=key,
        run_id=f"id-{run}",
        workflow_id=run,
        agent="billing-resolution",
        tool="request_refund@1",
        resource=ResourceRef(type="Invoice", id="in_1001"),
        subject="Customer:cus_101",
        amount=Money(cents=4900, currency="USD"),
        action_digest="sha256:" + "a" * 64,
        approvers=(),
        strategy="at_most_once",
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.database()
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Generator[Ledger]:
    """A ledger with a write that was done, in run `one`, and one that may have happened, in run `two`."""
    found = Ledger(url)
    found.migrate()
    for key, run in (("rk_1", "one"), ("rk_2", "two")):
        row = found.reserve(_intent(key, run), [run_scope(run)], lambda _, __: None)
        assert found.sent(key, row.attempts, [run_scope(run)])
    found.settle("rk_1", "done", "{}")
    found.settle("rk_2", "indeterminate", "ReadTimeout")
    yield found
    found.close()


@pytest.fixture
def console(ledger: Ledger, url: str, tmp_path: Path) -> Console:
    return Console(ROOT, {"REMIT_HOME": str(tmp_path / "home"), "REMIT_LEDGER_URL": url})


def test_effects_are_listed(console: Console) -> None:
    """All of them, those in one state, or those of one run, as a table and as JSON."""
    out = console.remit("effects").out
    assert "rk_1" in out
    assert "$49.00" in out or "49.00 USD" in out
    assert "ReadTimeout" in out
    assert [e["idempotency_key"] for e in console.remit("effects", "--json").json] == ["rk_1", "rk_2"]
    (row,) = console.remit("effects", "--state", "indeterminate", "--json").json
    assert (row["idempotency_key"], row["state"], row["workflow_id"]) == ("rk_2", "indeterminate", "two")
    assert [e["idempotency_key"] for e in console.remit("effects", "--run", "one", "--json").json] == ["rk_1"]
    assert console.remit("effects", "--run", "three").out == "No effects.\n"
    assert console.remit("effects", "--run", "three", "--json").json == []


def test_an_operator_settles_an_unknown_outcome(console: Console, ledger: Ledger) -> None:
    """What was indeterminate is done, the ledger says who said so, and nobody can say so twice."""
    said = ("--as", "ana", "--reason", "On the statement of 3 May.")
    out = console.remit("effects", "resolve", "rk_2", "--happened", *said).out
    assert out == "rk_2 is done, says ana@example.com; it counts towards the sums.\n"
    (row,) = ledger.effects("two")
    assert (row.state, row.resolved_by, row.resolved_reason) == ("done", "ana@example.com", "On the statement of 3 May.")
    again = console.remit("effects", "resolve", "rk_2", "--did-not-happen", *said, code=1)
    assert (
        again.err == "remit: Effect `rk_2` is `done`, as `ana@example.com` said; only an `indeterminate` one can be resolved.\n"
    )


def test_an_operator_says_that_it_did_not_happen(console: Console, ledger: Ledger) -> None:
    """The effect has failed, and its amount counts no more."""
    out = console.remit("effects", "resolve", "rk_2", "--did-not-happen", "--as", "bo", "--reason", "Not there.").out
    assert out == "rk_2 is failed, says bo@example.com; it counts no more.\n"
    assert [e.state for e in ledger.effects("two")] == ["failed"]


@pytest.mark.parametrize(
    ("key", "who", "reason", "said"),
    [
        ("rk_9", "ana", "Seen.", "No effect has the key `rk_9`; see `remit effects`."),
        ("rk_1", "ana", "Seen.", "Effect `rk_1` is `done`; only an `indeterminate` one can be resolved."),
        ("rk_2", "sam", "Seen.", "`sam@example.com` has no role, and so may decide nothing."),
        ("rk_2", "ana", " ", "`--reason` is empty; say how you know what became of the write."),
        ("rk_2", "ana", "x" * 501, "`--reason` has 501 characters; 500 are the most."),
    ],
    ids=["unknown key", "known outcome", "no role", "no reason", "long reason"],
)
def test_what_cant_be_resolved_is_one_sentence(
    console: Console, ledger: Ledger, key: str, who: str, reason: str, said: str
) -> None:
    """A refusal ends with 1, says why, and changes nothing."""
    answer = console.remit("effects", "resolve", key, "--happened", "--as", who, "--reason", reason, code=1)
    assert (answer.out, answer.err) == ("", f"remit: {said}\n")
    assert [e.state for e in ledger.effects()] == ["done", "indeterminate"]


def test_a_stranger_resolves_nothing(console: Console) -> None:
    """Only people of the directory may say what happened; in production too."""
    said = ("effects", "resolve", "rk_2", "--happened", "--as", "mallory", "--reason", "Trust me.")
    assert "`mallory` is not in the directory; known: `ana@example.com`" in console.remit(*said, code=1).err
    console.env |= {"REMIT_ENV": "production", "REMIT_HOME": "/nowhere"}
    assert console.remit(*said, code=1).err == "remit: `mallory` is not in the directory; known: nobody.\n"


def test_the_answer_must_be_given(console: Console) -> None:
    """Neither `--happened` nor `--did-not-happen` is the default."""
    answer = console.remit("effects", "resolve", "rk_2", "--as", "ana", "--reason", "Seen.", code=2)
    assert "--happened" in answer.err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////nowhere/ledger.db", "There is no ledger at `/nowhere/ledger.db` yet; `remit dev` or a worker makes it."),
        (
            "postgresql+psycopg://u:s3cret@127.0.0.1:1/ledger",
            "The ledger at `REMIT_LEDGER_URL` can't be used: no usable database answers there.",
        ),
    ],
)
def test_a_ledger_that_isnt_there_is_one_sentence(tmp_path: Path, url: str, said: str) -> None:
    """Without a ledger the command says what is missing, and not the password."""
    console = Console(ROOT, {"REMIT_HOME": str(tmp_path), "REMIT_LEDGER_URL": url})
    assert console.remit("effects", code=1).err == f"remit: {said}\n"
