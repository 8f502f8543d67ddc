"""G3: permission changes and deletes wait for people by their risk, and what untrusted text led to waits for more than people.

The app `accounts` has a tool of each tier; the policies that judge them are those of the bundle `support_v1` that ships.
"""

import shutil
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from remit.embedded import TemporalServer
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tools import registry
from tools.builtin import CATALOG
from workflows.messages import ScriptTurn

TICKET = turn(call("get_ticket", ticket_id="T-1001"))
GRANT = turn(call("grant_admin", customer_id="cus_101"))
CLOSE = turn(call("close_account", customer_id="cus_101"))


@pytest.fixture
def app(tmp_path: Path) -> Generator[Path]:
    folder = tmp_path / "accounts"
    shutil.copytree(ROOT / "tests" / "apps" / "accounts", folder)
    shipped = (ROOT / "policies" / "bundles" / "support_v1" / "policy.cedar").read_text()
    policy = folder / "policies" / "bundles" / "accounts_v1" / "policy.cedar"
    policy.write_text(policy.read_text() + shipped)
    yield folder
    registry.install(CATALOG)


@pytest.fixture
async def engine(server: TemporalServer, home: Path, app: Path) -> AsyncGenerator[Engine]:
    client = await server.ready()
    async with Engine(client, home, overrides={"app": app}) as found:
        yield found


async def start(engine: Engine, *turns: ScriptTurn) -> str:
    return (await engine.start([*turns, final()], agent="account-keeper")).id


def done(engine: Engine) -> list[str]:
    """What really happened to the account."""
    return [str(n["text"]) for n in engine.rows("account_notes")]


async def test_a_permission_change_needs_one_person(engine: Engine) -> None:
    """Risk `high`: nothing happens until somebody approved."""
    run_id = await start(engine, GRANT)
    parked = await engine.pending(run_id)
    assert (parked.approvals[0].request.required, parked.approvals[0].request.policy_ids) == (1, ("high-risk",))
    assert done(engine) == []
    await engine.decide(run_id, "ana")
    await engine.closed(run_id)
    assert done(engine) == ["admin granted"]


async def test_a_delete_needs_two_people(engine: Engine) -> None:
    """Risk `critical`: one person's approval changes nothing but the count."""
    run_id = await start(engine, CLOSE)
    assert (await engine.pending(run_id)).approvals[0].request.required == 2
    await engine.decide(run_id, "ana")
    assert done(engine) == []
    await engine.decide(run_id, "cleo")
    await engine.closed(run_id)
    assert done(engine) == ["account closed"]


async def test_after_a_ticket_was_read_the_strong_model_decides_too(engine: Engine) -> None:
    """The policy sees the taint that the read left."""
    run_id = await start(engine, TICKET, GRANT)
    parked = await engine.pending(run_id)
    assert parked.model == "scripted-strong"
    assert parked.approvals[0].request.policy_ids == ("high-risk", "untrusted-risk")


async def test_after_a_ticket_was_read_low_assurance_is_denied(app: Path, engine: Engine) -> None:
    """Nobody is asked, for nobody could make it right; without the ticket, people decide."""
    agent = app / "agents" / "account-keeper" / "agent.toml"
    agent.write_text(agent.read_text().replace("assurance = 2", "assurance = 1"))
    run_id = await start(engine, TICKET, GRANT)
    summary = await engine.closed(run_id)
    [(code, message)] = await engine.errors(run_id)
    assert (code, summary.approvals, done(engine)) == ("denied", (), [])
    assert message == (
        "Policy: assurance 2 is required, the agent has 1, and nobody can approve it instead; "
        "required by high-risk, untrusted-risk."
    )
    other = await start(engine, GRANT)
    assert (await engine.pending(other)).approvals[0].request.required == 1
