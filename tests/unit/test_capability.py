"""Capabilities: what a token is good for, and that nothing else passes for it."""

import time
from pathlib import Path

import pytest

from policies.capability import Grant, Keyring, Use, mint, narrow, new_key, public_of, sign, verify, verify_by
from policies.errors import InvalidInput, NotFound, ToolRefusal
from policies.models import Money
from remit.keyring import RootKeys

NOW = 1_790_000_000
KEY = new_key()
KEYS = Keyring({1: KEY}, {})
USE = Use(
    workflow_id="wf",
    run_id="run",
    agent="billing-resolution@service",
    capsule="sha256:c",
    policy_digest="sha256:p",
    subject="Customer:cus_1",
    tool="request_refund@1",
    resource="Invoice:in_1",
    amount=Money(cents=4900, currency="USD"),
    idempotency_key="rk_1",
    audience="default/remit",
    epoch=2,
    now=NOW,
)
WRITE = Grant(
    workflow_id="wf",
    run_id="run",
    agent="billing-resolution@service",
    capsule="sha256:c",
    policy_digest="sha256:p",
    subject="Customer:cus_1",
    tools=("request_refund@1",),
    resource="Invoice:in_1",
    ceiling=Money(cents=4900, currency="USD"),
    idempotency_key="rk_1",
    audience="default/remit",
    epoch=2,
    expires_at=NOW + 600,
)
READS = Grant(
    workflow_id="wf",
    capsule="sha256:c",
    subject="Customer:cus_1",
    tools=("a@1", "b@1"),
    idempotency_key="",
    expires_at=NOW + 600,
)


def reason(token: str, use: Use, keys: Keyring = KEYS) -> str:
    with pytest.raises(ToolRefusal) as caught:
        verify(token, use, keys)
    return caught.value.reason


def test_a_capability_covers_what_it_was_minted_for() -> None:
    """Exactly that write, up to its ceiling, until its end."""
    token = mint(WRITE, KEYS)
    verify(token, USE, KEYS)
    verify(token, USE.model_copy(update={"amount": Money(cents=1, currency="USD"), "epoch": 0, "now": NOW + 599}), KEYS)


@pytest.mark.parametrize(
    "other",
    [
        {"workflow_id": "other"},
        {"run_id": "other"},
        {"agent": "support-triage@service"},
        {"capsule": "sha256:other"},
        {"policy_digest": "sha256:other"},
        {"subject": "Customer:cus_2"},
        {"tool": "request_refund@2"},
        {"tool": "draft_reply@1"},
        {"resource": "Invoice:in_2"},
        {"amount": Money(cents=4901, currency="USD")},
        {"amount": Money(cents=4900, currency="EUR")},
        {"amount": None},
        {"idempotency_key": "rk_2"},
        {"idempotency_key": ""},
        {"audience": "default/other"},
        {"epoch": 3},
    ],
    ids=str,
)
def test_a_capability_covers_nothing_else(other: dict[str, object]) -> None:
    """Whatever differs from what it names, it is refused; an off switch that was set since ends it too."""
    assert reason(mint(WRITE, KEYS), USE.model_copy(update=other)) == "capability_refused"


def test_a_capability_ends() -> None:
    """From its last second on it is refused, and says that it was the time."""
    assert reason(mint(WRITE, KEYS), USE.model_copy(update={"now": NOW + 600})) == "capability_expired"


def test_reads_are_no_writes() -> None:
    """A run's capability for reads names several tools and covers no write of them."""
    token = mint(READS, KEYS)
    use = USE.model_copy(update={"tool": "b@1", "amount": None, "idempotency_key": ""})
    verify(token, use, KEYS)
    assert reason(token, use.model_copy(update={"idempotency_key": "rk_1"})) == "capability_refused"
    assert reason(token, use.model_copy(update={"tool": "c@1"})) == "capability_refused"


@pytest.mark.parametrize("token", ["", "junk", "é", "A" * 100_000, mint(WRITE, KEYS)[:-8] + "AAAAAAA="], ids=lambda t: t[:8])
def test_what_is_no_token_is_refused(token: str) -> None:
    """Junk, and a token of which a byte was changed."""
    assert reason(token, USE) == "capability_refused"


def test_only_the_root_keys_count() -> None:
    """A stranger's key under a known id, a known key under an unknown id, and no key id at all."""
    assert reason(mint(WRITE, Keyring({1: new_key()}, {})), USE) == "capability_refused"
    assert reason(mint(WRITE, Keyring({2: KEY}, {})), USE) == "capability_refused"
    assert reason(sign(WRITE, KEY), USE) == "capability_refused"


def test_root_keys_rotate() -> None:
    """The newest signs; what an older one signed verifies until it is retired, also where only its public half is."""
    newer = new_key()
    old, new = mint(WRITE, KEYS), mint(WRITE, Keyring({1: KEY, 2: newer}, {}))
    both = Keyring({}, {1: public_of(KEY), 2: public_of(newer)})
    verify(old, USE, both)
    verify(new, USE, both)
    assert reason(new, USE) == "capability_refused"
    assert reason(old, USE, Keyring({2: newer}, {})) == "capability_refused"
    with pytest.raises(InvalidInput, match="no private root key"):
        mint(WRITE, both)


def test_a_delegation_is_narrowed_to_a_run() -> None:
    """A person's own signature covers any run of the agent; once it is narrowed, that run only, and nothing widens it."""
    given = Grant(
        agent=USE.agent, subject=USE.subject, tools=(USE.tool,), ceiling=USE.amount, expires_at=NOW + 60, reason="one refund"
    )
    token = sign(given, KEY)
    public = public_of(KEY)
    verify_by(token, USE, public)
    own = narrow(token, public, workflow_id="wf", run_id="run")
    verify_by(own, USE, public)
    again = narrow(own, public, workflow_id="other", run_id="other")
    for bad, use in (
        (own, USE.model_copy(update={"run_id": "other"})),
        (again, USE),
        (again, USE.model_copy(update={"run_id": "other"})),
    ):
        with pytest.raises(ToolRefusal):
            verify_by(bad, use, public)
    with pytest.raises(ToolRefusal):
        verify_by(token, USE, public_of(new_key()))
    with pytest.raises(ToolRefusal):
        narrow(token, public_of(new_key()), workflow_id="wf", run_id="run")


def test_text_can_t_break_out_of_a_token() -> None:
    """What looks like Datalog stays text."""
    odd = 'x"); allow if true; check if use_run_id("'
    token = mint(WRITE.model_copy(update={"subject": odd, "reason": odd}), KEYS)
    verify(token, USE.model_copy(update={"subject": odd}), KEYS)
    assert reason(token, USE) == "capability_refused"


# ---- the file of root keys --------------------------------------------------------------------------------------------


def test_the_first_key_is_made_once(tmp_path: Path) -> None:
    """Outside production, and only its owner can read it; two processes have the same."""
    path = tmp_path / "home" / "root-keys.json"
    assert RootKeys(path, env="dev")().private == RootKeys(path, env="dev")().private
    assert path.stat().st_mode & 0o777 == 0o600


def test_production_makes_no_key_by_itself(tmp_path: Path) -> None:
    """A worker without the keys of the others would mint what nobody takes."""
    keys = RootKeys(tmp_path / "root-keys.json", env="production")
    with pytest.raises(InvalidInput, match="make them with `remit keys rotate`"):
        keys()
    keys.rotate()
    assert list(keys().private) == [1]


def test_keys_change_under_a_running_worker(tmp_path: Path) -> None:
    """It signs with a new key as soon as there is one, and refuses a retired one."""
    keys = RootKeys(tmp_path / "root-keys.json", env="dev")
    old = mint(WRITE, keys())
    time.sleep(0.01)  # a file's time has a resolution
    assert RootKeys(tmp_path / "root-keys.json", env="dev").rotate().id == 2
    new = mint(WRITE, keys())
    verify(old, USE, keys())
    keys.retire(1)
    verify(new, USE, keys())
    assert reason(old, USE, keys()) == "capability_refused"
    with pytest.raises(InvalidInput, match="is the one that signs"):
        keys.retire(2)
    with pytest.raises(NotFound):
        keys.retire(7)


@pytest.mark.parametrize("text", ["", "{}", "[]x", '[{"id": 0}]', '[{"id":1,"created_at":1,"public":"zz","private":""}]'])
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "root-keys.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="isn't a file of root keys"):
        RootKeys(path, env="dev")()
