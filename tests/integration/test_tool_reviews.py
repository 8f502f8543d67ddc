"""What isn't as it was reviewed isn't offered to an agent in `live` mode: whole runs of an app whose tool changes."""

import shutil
import sqlite3
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from pathlib import Path

import pytest

from activities.described import describe
from activities.ledger import reviews
from policies.control import Signable
from policies.reviews import Kept
from remit import render
from remit.apps import assemble
from remit.embedded import TemporalServer
from remit.reviewing import audience
from remit.session import Signer
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tools import registry
from tools.builtin import CATALOG
from workflows.messages import RunSummary

CLOSE = turn(call("close_case", case_id="C-1", outcome="solved"))


@pytest.fixture
def app(tmp_path: Path) -> Generator[Path]:
    """The app `desk` in a folder of its own, with a customer's case."""
    folder = tmp_path / "desk"
    shutil.copytree(ROOT / "tests" / "apps" / "desk", folder, ignore=shutil.ignore_patterns("__pycache__"))
    with closing(sqlite3.connect(folder / "desk.db")) as db, db:
        db.execute("CREATE TABLE cases (id TEXT PRIMARY KEY, customer TEXT NOT NULL)")
        db.execute("CREATE TABLE closed (key TEXT PRIMARY KEY, id TEXT NOT NULL, credit_cents INTEGER NOT NULL)")
        db.execute("INSERT INTO cases VALUES ('C-1', 'cus_101')")
    yield folder
    registry.install(CATALOG)


@pytest.fixture
async def engine(server: TemporalServer, home: Path, app: Path) -> AsyncGenerator[Engine]:
    """A worker with the app, started by `work`."""
    client = await server.ready()
    async with Engine(client, home, overrides={"app": app}, working=False) as found:
        found.issuer.ensure()
        yield found


def sign(engine: Engine, action: Signable) -> None:
    """Ana's word on the app's tool as it lies there now."""
    described = describe(assemble(engine.settings).catalog.specs["close_case"])
    signer = Signer(engine.settings, "ana")
    said = "Read it."
    token = signer.command(
        action, scope="tool:close_case@1", epoch=0, audience=audience(engine.settings), reason=said, digest=described.digest
    )
    row = Kept(
        tool="close_case",
        version="1",
        digest=described.digest,
        description=described.model_dump_json(),
        action=action,
        by=signer.sub,
        key_id=str(signer.key.kid),
        statement=token,
        reason=said,
        at=int(time.time() * 1000),
    )
    with engine.ledger.begin() as connection:
        reviews.add(connection, row)


async def closing_a_case(engine: Engine) -> RunSummary:
    """A run that tries to, by a worker that has just started."""
    await engine.work()
    run = await engine.remit.start("desk-closer", {"case_id": "C-1"}, script=(CLOSE, final()))
    found = await engine.closed(run.id)
    await engine.rest()
    return found


def fates(run: RunSummary) -> list[str]:
    return [f"{c.status} {c.reason}".strip() for c in run.calls]


def withheld(run: RunSummary) -> dict[str, str]:
    return {w.name: w.why for w in run.withheld}


async def test_a_changed_tool_is_not_offered_until_somebody_approves_it(engine: Engine, app: Path) -> None:
    """The run says which and why, its call is refused as one that it hasn't; approved again, it is offered again."""
    sign(engine, "tool_approve")
    first = await closing_a_case(engine)
    assert (fates(first), withheld(first)) == (["done"], {})
    file = app / "tools" / "billing.py"
    file.write_text(file.read_text().replace("if args.credit_cents and", "if False and"))
    changed = await closing_a_case(engine)
    assert (fates(changed), withheld(changed)) == (["refused not_granted"], {"close_case": "changed since its review"})
    shown = render.show(changed)
    assert any("close_case, changed since its review" in str(cell) for cell in shown[1].columns[1].cells)  # type: ignore[attr-defined]
    agent = app / "agents" / "desk-closer" / "agent.toml"
    agent.write_text(agent.read_text().replace('mode = "live"', 'mode = "read_only"'))
    assert withheld(await closing_a_case(engine)) == {}  # people, or nothing at all, stand beside each write there
    agent.write_text(agent.read_text().replace('mode = "read_only"', 'mode = "live"'))
    sign(engine, "tool_approve")
    again = await closing_a_case(engine)
    assert (fates(again), withheld(again)) == (["done"], {})
    sign(engine, "tool_withdraw")
    assert withheld(await closing_a_case(engine)) == {"close_case": "its review was withdrawn"}


async def test_in_production_a_tool_that_nobody_reviewed_is_not_offered(engine: Engine) -> None:
    """On a laptop it is, so that a new tool can be tried; built-in ones come with their reviews."""
    tried = await closing_a_case(engine)
    assert (fates(tried), withheld(tried)) == (["done"], {})
    engine.settings = engine.settings.model_copy(update={"env": "production"})
    run = await closing_a_case(engine)
    assert (fates(run), withheld(run)) == (["refused not_granted"], {"close_case": "never reviewed"})
