"""Whole runs in production settings: people who log in with a real OIDC server approve by `remit approve`, or may not."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from activities.ledger import people
from remit.embedded import TemporalServer
from tests.console import Answer
from tests.engine import Engine, call, final, turn
from tests.oidc.conftest import Desk
from tests.oidc.provider import CLIENT, OidcServer
from workflows.messages import ScriptTurn


class Terminal:
    """A desk whose commands run beside the worker of this process."""

    def __init__(self, desk: Desk) -> None:
        self.home = Path(desk.console.env["REMIT_HOME"])
        self._desk = desk

    async def login(self, name: str) -> Answer:
        return await asyncio.to_thread(self._desk.login, name)

    async def remit(self, *args: str, code: int = 0) -> Answer:
        return await asyncio.to_thread(lambda: self._desk.console.remit(*args, code=code))


Desks = Callable[[str], Terminal]
SMALL, LARGE = ("T-1002", "in_1004", 12_000), ("T-1003", "in_1006", 74_000)


@pytest.fixture
async def engine(server: TemporalServer, home: Path, oidc: OidcServer) -> AsyncGenerator[Engine]:
    """A production worker of a tenant with an issuer."""
    settings = {"env": "production", "oidc_issuer": oidc.url, "oidc_client_id": CLIENT}
    async with Engine(await server.ready(), home, overrides=settings) as found:
        yield found


@pytest.fixture
def at(desk: Callable[..., Desk], engine: Engine) -> Desks:
    """Makes desks in the engine's tenant."""

    def make(name: str) -> Terminal:
        env = {
            "REMIT_LEDGER_URL": engine.settings.ledger,
            "REMIT_TASK_QUEUE": engine.settings.task_queue,
            "TEMPORAL_ADDRESS": str(engine.client.service_client.config.target_host),
        }
        return Terminal(desk(name, **env))

    return make


def refund(case: tuple[str, str, int]) -> list[ScriptTurn]:
    _, invoice, cents = case
    return [turn(call("request_refund", invoice_id=invoice, amount_cents=cents, reason="service_issue")), final()]


async def waiting(engine: Engine, case: tuple[str, str, int], requester: str = "") -> str:
    """A run that waits for people."""
    handle = await engine.start(refund(case), ticket=case[0], requester=requester)
    await engine.pending(handle.id)
    return handle.id


async def withdrawn(engine: Engine) -> None:
    """Wait until no key that was withdrawn counts any more: what comes in the second of its withdrawal stands."""
    last = max(row.withdrawn_at or 0 for row in people.enrolled(engine.ledger)) // 1000
    assert last
    while int(time.time()) <= last:
        await asyncio.sleep(0.05)


async def test_two_people_who_logged_in_approve(engine: Engine, at: Desks) -> None:
    """One logged in before the run was admitted, the other after; neither token nor private key is in the history."""
    ana, bo = at("ana"), at("bo")
    await ana.login("ana")
    run = await waiting(engine, LARGE)
    assert "1 of 2 approvals" in (await ana.remit("approve", run)).out
    await bo.login("bo")
    assert "is approved" in (await bo.remit("approve", run)).out
    done = await engine.closed(run)
    assert [c.status for c in done.calls] == ["done"]
    assert [r["amount_cents"] for r in engine.rows("refunds")] == [LARGE[2]]
    assert [e.approvers for e in engine.effects()] == ["ana@example.com,bo@example.com"]
    history = (await engine.remit.handle(run).fetch_history()).to_json()
    tokens = people.tokens(engine.ledger, [row.kid for row in people.enrolled(engine.ledger)])
    assert len(tokens) == 2
    assert not [token for token in tokens.values() if token in history]
    for desk in (ana, bo):
        kept = json.loads((desk.home / "me" / "login.json").read_text())
        assert kept["key"]["d"] not in history
    assert await engine.stalls(run) == []


async def test_a_decision_pasted_as_signal_counts_too(engine: Engine, at: Desks) -> None:
    """By plain Temporal, of somebody who logged in after the run began."""
    run = await waiting(engine, SMALL)
    ana = at("ana")
    await ana.login("ana")
    signed = (await ana.remit("sign", run, "ap-0-0", "--approve")).json
    await engine.remit.handle(run).signal("decide", signed)
    assert [c.status for c in (await engine.closed(run)).calls] == ["done"]


async def test_the_requester_cant_approve(engine: Engine, at: Desks) -> None:
    """Who is logged in asks for the run, by `remit run`, and is refused by the name that the issuer gives."""
    ana = at("ana")
    await ana.login("ana")
    script = ana.home / "script.json"
    script.write_text(json.dumps({"small": [t.model_dump(mode="json") for t in refund(SMALL)]}))
    inputs = json.dumps({"ticket_id": SMALL[0]})
    started = (await ana.remit("run", "billing-resolution", "--inputs", inputs, "--script", f"{script}#small", "--json")).json
    run = started["workflow_id"]
    await engine.pending(run)
    assert (await ana.remit("approve", run, code=1)).err == (
        "remit: `ana@example.com` asked for this run and may not decide on it.\n"
    )
    bo = at("bo")
    await bo.login("bo")
    await bo.remit("approve", run)
    assert [c.status for c in (await engine.closed(run)).calls] == ["done"]


async def test_a_role_is_needed(engine: Engine, at: Desks) -> None:
    """Somebody who logged in, and has another role or none."""
    run = await waiting(engine, SMALL)
    for name in ("cleo", "sam"):
        desk = at(name)
        await desk.login(name)
        assert (await desk.remit("approve", run, code=1)).err == (
            f"remit: `{name}@example.com` has none of the roles that may decide here: refund-approver.\n"
        )
    assert (await engine.remit.status(run)).approvals[0].approvers == ()


async def test_an_approver_who_was_suspended_since_approves_nothing(engine: Engine, at: Desks) -> None:
    """Suspended between the first approval and the second: the write is refused, and the model is told."""
    ana, bo = at("ana"), at("bo")
    await ana.login("ana")
    await bo.login("bo")
    run = await waiting(engine, LARGE)
    await ana.remit("approve", run)
    await bo.remit("people", "suspend", "ana", "--reason", "left the company")
    await bo.remit("approve", run)
    done = await engine.closed(run)
    assert [(c.status, c.reason) for c in done.calls] == [("refused", "approver_suspended")]
    assert await engine.errors(run) == [
        ("approver_suspended", "`ana@example.com` approved this, and isn't in the directory any more.")
    ]
    assert engine.rows("refunds") == []
    assert [e for e in engine.effects() if e.state != "released"] == []


async def test_an_approver_who_was_demoted_since_approves_nothing(engine: Engine, at: Desks, oidc: OidcServer) -> None:
    """The roles of the newest login count."""
    ana, bo = at("ana"), at("bo")
    await ana.login("ana")
    await bo.login("bo")
    run = await waiting(engine, LARGE)
    await ana.remit("approve", run)
    oidc.person("ana", roles=["support-lead"])
    await ana.login("ana")
    await bo.remit("approve", run)
    done = await engine.closed(run)
    assert [(c.status, c.reason) for c in done.calls] == [("refused", "wrong_role")]
    assert engine.rows("refunds") == []


async def test_a_suspended_person_cant_decide(engine: Engine, at: Desks) -> None:
    """Suspended before they ever decided: their key is nobody's."""
    run = await waiting(engine, SMALL)
    ana = at("ana")
    await ana.login("ana")
    await at("ops").remit("people", "suspend", "ana@example.com", "--reason", "left")
    err = (await ana.remit("approve", run, code=1)).err
    assert err == "remit: The decision is signed by a key that this run's directory doesn't know.\n"
    assert (await engine.remit.status(run)).refused_total == 1


async def test_a_login_that_ended_since_stands(engine: Engine, at: Desks) -> None:
    """Logging out takes nothing back that was signed before; what is signed after it counts for nothing."""
    ana, bo = at("ana"), at("bo")
    await ana.login("ana")
    await bo.login("bo")
    run = await waiting(engine, LARGE)
    stolen = (await ana.remit("sign", run, "ap-0-0", "--approve")).json
    await bo.remit("approve", run)
    await ana.remit("logout")
    await bo.remit("logout")
    await withdrawn(engine)
    await engine.remit.handle(run).signal("decide", stolen)
    done = await engine.closed(run)
    assert [(c.status, c.reason) for c in done.calls] == [("refused", "key_expired")]
    second = await waiting(engine, ("T-1003", "in_1006", 40_000))
    await bo.login("bo")
    await bo.remit("approve", second)
    await bo.remit("logout")
    assert [c.status for c in (await engine.closed(second)).calls] == ["done"]


async def test_unknown_keys_leave_the_run_alive(engine: Engine, at: Desks) -> None:
    """Decisions by keys that nobody enrolled, many and odd ones: each is refused, and the run goes on."""
    run = await waiting(engine, SMALL)
    for kid in ("", "x", "é" * 50, "y" * 7000):
        head = json.dumps({"alg": "Ed25519", "typ": "approval+jws", "kid": kid}).encode()
        token = f"{base64.urlsafe_b64encode(head).decode().rstrip('=')}.e30.AAAA"
        await engine.remit.handle(run).signal("decide", {"approval_id": "ap-0-0", "decision_jws": token})
    await engine.until(run, lambda s: s.refused_total == 4)
    ana = at("ana")
    await ana.login("ana")
    await ana.remit("approve", run)
    assert [c.status for c in (await engine.closed(run)).calls] == ["done"]
    assert await engine.stalls(run) == []


async def test_a_kill_doesnt_wait_for_the_directory(engine: Engine, at: Desks, oidc: OidcServer) -> None:
    """A stranger's decision waits for an issuer that is away; the run is killed and closes all the same."""
    run = await waiting(engine, SMALL)
    ana = at("ana")
    await ana.login("ana")
    signed = (await ana.remit("sign", run, "ap-0-0", "--approve")).json
    oidc.reach(False)
    await engine.remit.handle(run).signal("decide", signed)
    await engine.remit.kill(run, "enough", "")
    done = await asyncio.wait_for(engine.closed(run), 60)
    assert done.status == "killed"
    assert [r.reason for r in done.refused] == ["unknown_key"]
    assert engine.rows("refunds") == []


async def test_a_directory_that_cant_be_asked_stops_the_write(engine: Engine, at: Desks, oidc: OidcServer) -> None:
    """A worker that never verified anybody, with the issuer away, performs nothing that people must have approved."""
    ana = at("ana")
    await ana.login("ana")
    run = await waiting(engine, SMALL)
    signed = (await ana.remit("sign", run, "ap-0-0", "--approve")).json
    oidc.reach(False)
    async with Engine(engine.client, engine.home, overrides=engine.settings.model_dump(), working=False) as other:
        await engine.rest()
        await other.work()
        await other.remit.handle(run).signal("decide", signed)
        done = await other.closed(run)
        assert [(c.status, c.reason) for c in done.calls] == [("refused", "unavailable")]
        assert other.rows("refunds") == []
