"""G4: once a switch is acknowledged, nothing in its scope is reserved or sent any more, whoever writes, on either database."""

import asyncio
import sqlite3
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.client import WorkflowHandle

from activities.ledger import switches
from activities.ledger.rows import Intent
from activities.ledger.store import Ledger
from policies.errors import KillSwitchEngaged, Unavailable
from policies.models import RISKS, ResourceRef, Risk
from policies.switches import Scope, scopes_of
from remit.embedded import TemporalServer
from remit.fleet import Fleet
from tests.engine import Engine, call, final, turn
from tests.postgres import PostgresServer
from worker import working
from workflows.messages import RunResult, ScriptTurn

Database = Literal["sqlite", "postgresql"]
DATABASES: tuple[Database, ...] = ("sqlite", "postgresql")
AGENTS = ("billing", "support")
TOOLS: dict[str, Risk] = {"tag": "low", "mail": "medium", "refund": "high", "wire": "critical"}
SUBJECTS = ("Customer:cus_1", "Customer:cus_2")
SCOPES = ("run:r-1", "agent:billing", "tool:refund", "risk:high", "risk:low", "subject:Customer:cus_1", "fleet")
WRITERS = 4


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, migrated ledger of each kind."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        found = server.database()
    else:
        found = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger(found)
    ledger.migrate()
    ledger.close()
    return found


# ---- the gate, hammered ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Write:
    """A write that somebody wants to make."""

    run: str
    agent: str
    tool: str
    subject: str

    @property
    def scopes(self) -> tuple[str, ...]:
        return scopes_of(self.run, self.agent, self.tool, TOOLS[self.tool], self.subject)

    @property
    def intent(self) -> Intent:
        return Intent(
            idempotency_key=f"rk_{uuid.uuid4().hex}",
            run_id=self.run,
            workflow_id=self.run,
            agent=self.agent,
            tool=f"{self.tool}@1",
            resource=ResourceRef(type="Thing", id="x"),
            subject=self.subject,
            amount=None,
            action_digest="sha256:0",
            approvers=(),
            strategy="native_key",
            risk=TOOLS[self.tool],
        )

    def covered(self, scope: str) -> bool:
        """Whether `scope` covers it, said in other words than the code's."""
        kind, _, value = scope.partition(":")
        return {
            "run": self.run == value,
            "agent": self.agent == value,
            "tool": self.tool == value,
            "risk": value in RISKS and RISKS.index(TOOLS[self.tool]) >= RISKS.index(value),  # type: ignore[arg-type]
            "subject": self.subject == value,
            "fleet": True,
        }[kind]


WRITES = [
    Write(f"r-{n % 3}", a, t, s) for n, (a, t, s) in enumerate((a, t, s) for a in AGENTS for t in TOOLS for s in SUBJECTS)
]


@dataclass
class Writer:
    """A worker's worth of writing: a ledger of its own, in a thread of its own, as fast as it goes.

    Attributes:
        left: when each effect left, by the clock: before the transaction that let it.
    """

    url: str
    stop: threading.Event
    left: list[tuple[float, Write]] = field(default_factory=list[tuple[float, Write]])
    refused: int = 0
    errors: list[Exception] = field(default_factory=list[Exception])

    def write(self) -> None:
        ledger, turn_ = Ledger(self.url), 0
        try:
            while not self.stop.is_set():
                wanted = WRITES[turn_ % len(WRITES)]
                turn_ += 1
                begun = time.monotonic()
                try:
                    row = ledger.reserve(wanted.intent, wanted.scopes, lambda _, __: None)
                    if ledger.sent(row.idempotency_key, row.attempts, wanted.scopes):
                        self.left.append((begun, wanted))
                        ledger.settle(row.idempotency_key, "done", "{}", row.attempts)
                except KillSwitchEngaged:
                    self.refused += 1
        except Exception as e:
            self.errors.append(e)
        finally:
            ledger.close()


@pytest.mark.parametrize("scope", SCOPES)
def test_no_writer_gets_through_after_the_acknowledgement(url: str, scope: str) -> None:
    """Four workers write as fast as they can while a switch is set: afterwards nothing in its scope is reserved or leaves."""
    stop = threading.Event()
    writers = [Writer(url, stop) for _ in range(WRITERS)]
    threads = [threading.Thread(target=w.write) for w in writers]
    ledger = Ledger(url)
    for thread in threads:
        thread.start()
    _wait(lambda: all(len(w.left) >= 20 for w in writers), writers)
    with ledger.begin() as connection:
        switch = switches.engage(connection, scope, "stop", "ana")
    acknowledged = time.monotonic()
    before = [w.refused for w in writers]
    _wait(lambda: all(w.refused >= n + 5 for w, n in zip(writers, before, strict=True)), writers)
    stop.set()
    for thread in threads:
        thread.join()
    with ledger.reading() as connection:
        late = switches.reserved_since(connection, Scope.parse(scope), switch.epoch)
    rows = ledger.effects()
    ledger.close()
    left = [w for writer in writers for at, w in writer.left if at > acknowledged]
    assert late == 0
    assert not [w for w in left if w.covered(scope)]
    assert scope in ("fleet", "risk:low") or [w for w in left if not w.covered(scope)]
    # The rows themselves agree with how they are counted.
    later = [Write(r.run_id, r.agent, r.tool.partition("@")[0], r.subject) for r in rows if r.epoch >= switch.epoch]
    assert not [w for w in later if w.covered(scope)]


def _wait(holds: Callable[[], bool], writers: Sequence[Writer]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert not [e for w in writers for e in w.errors], writers[0].errors
        assert time.monotonic() < end
        time.sleep(0.01)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(("engage", "release")), st.sampled_from(SCOPES)),
            st.tuples(st.just("write"), st.sampled_from(WRITES)),
        ),
        max_size=25,
    )
)
def test_a_write_passes_exactly_when_nothing_covers_it(tmp_path: Path, steps: list[tuple[str, str | Write]]) -> None:
    """In any order of switches, releases and writes, a write is reserved if and only if no switch that is set covers it."""
    ledger = Ledger(f"sqlite:///{tmp_path / uuid.uuid4().hex}.db")
    ledger.migrate()
    set_: dict[str, int] = {}
    try:
        for what, on in steps:
            if isinstance(on, Write):
                expected = not any(on.covered(scope) for scope in set_)
                met: bool | None = None
                try:
                    ledger.reserve(on.intent, on.scopes, lambda _, __: None)
                except KillSwitchEngaged as e:
                    met = e.ends_run
                assert (met is None) == expected
                assert met is None or met == any(on.covered(s) for s in set_ if not s.startswith(("tool", "risk")))
                continue
            with ledger.begin() as connection:
                if what == "engage":
                    set_[on] = switches.engage(connection, on, "stop", "ana").epoch
                elif switches.release(connection, on, "fine", "bo"):
                    del set_[on]
        with ledger.reading() as connection:
            assert {s.scope: s.epoch for s in switches.current(connection)} == set_
            for scope, epoch in set_.items():
                assert switches.reserved_since(connection, Scope.parse(scope), epoch) == 0
    finally:
        ledger.close()


# ---- whole runs on two workers --------------------------------------------------------------------------------------


@pytest.fixture
async def pair(server: TemporalServer, home: Path, url: str) -> AsyncGenerator[Engine]:
    """Two workers on one queue and one ledger."""
    async with two_workers(server, home, url) as found:
        yield found


@asynccontextmanager
async def two_workers(server: TemporalServer, home: Path, url: str) -> AsyncGenerator[Engine]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(Engine(await server.ready(), home, overrides={"ledger_url": url}))
        other = Ledger(url)
        stack.callback(other.close)
        await stack.enter_async_context(working(await server.ready(), engine.settings, other))
        yield engine


def drafts(ticket: str, count: int = 18) -> list[ScriptTurn]:
    """A run that writes one draft after the other."""
    return [*(turn(call("draft_reply", ticket_id=ticket, text=f"Draft {n}.")) for n in range(count)), final()]


async def start(engine: Engine) -> dict[str, WorkflowHandle[object, RunResult]]:
    """Runs of two agents for two customers, that write all the time; by name, `AGENT TICKET`."""
    wanted = [(a, t) for a in ("billing-resolution", "support-triage") for t in ("T-1001", "T-1002")]
    return {f"{a} {t}": await engine.start(drafts(t), agent=a, ticket=t) for a, t in wanted}


EXPECTED = {
    "run": {"billing-resolution T-1001"},
    "agent:billing-resolution": {"billing-resolution T-1001", "billing-resolution T-1002"},
    "subject:Customer:cus_101": {"billing-resolution T-1001", "support-triage T-1001"},
    "fleet": {"billing-resolution T-1001", "billing-resolution T-1002", "support-triage T-1001", "support-triage T-1002"},
    "tool:draft_reply": set[str](),
    "risk:low": set[str](),
}


@pytest.mark.parametrize("name", EXPECTED)
async def test_the_runs_in_scope_end_and_write_nothing_more(pair: Engine, name: str) -> None:
    """The switch is set in the middle of writing: what is in its scope ends, or its calls are refused; all else goes on."""
    runs = await start(pair)
    async with asyncio.timeout(60):
        while len(pair.effects()) < 8:
            await asyncio.sleep(0.01)
    fleet = Fleet(pair.client, pair.settings.task_queue)
    mine = runs["billing-resolution T-1001"]
    scope = Scope.parse(f"run:{mine.first_execution_run_id}" if name == "run" else name)
    switched = await fleet.kill(scope, "stop", by="ana", workflow_id=mine.id if name == "run" else "")
    at_once = pair.effects()
    report = await fleet.report(switched)
    results = {run: await handle.result() for run, handle in runs.items()}
    assert {run for run, result in results.items() if result.outcome == "killed"} == EXPECTED[name]
    # A model that asks again and again for what is refused is stopped by its budget.
    others = {(r.outcome, r.stopped_by) for run, r in results.items() if run not in EXPECTED[name]}
    assert others <= ({("completed", "")} if scope.ends_runs else {("completed", ""), ("stopped", "attempts_per_step")})
    assert report.reserved_after == (await fleet.report(switched)).reserved_after == 0
    late = [e for e in pair.effects() if e.idempotency_key not in {x.idempotency_key for x in at_once}]
    if name in ("fleet", "tool:draft_reply", "risk:low"):
        assert late == []
    if not scope.ends_runs:
        codes = {code for handle in runs.values() for code, _ in await pair.errors(handle.id)}
        assert codes == {"kill_switch"}
    assert {e.outcome for e in report.effects} <= {"done", "refused"}
    assert len(report.effects) == switched.in_flight_total
    # The business agrees with the ledger.
    assert len(pair.rows("reply_drafts")) == sum(e.state == "done" for e in pair.effects())


async def test_nothing_begins_under_a_switch(pair: Engine) -> None:
    """A new run in its scope is refused with a sentence that names the switch."""
    fleet = Fleet(pair.client, pair.settings.task_queue)
    await fleet.kill(Scope.parse("agent:billing-resolution"), "The model was changed.", by="ana")
    run = await pair.start([final()])
    with pytest.raises(Exception, match="No run may begin: a kill switch was set on agent `billing-resolution` by ana"):
        await pair.remit.result(run.id)
    other = await pair.start([final()], agent="support-triage")
    assert (await pair.remit.result(other.id)).outcome == "completed"


# ---- without a ledger -----------------------------------------------------------------------------------------------


@contextmanager
def taken(home: Path) -> Generator[None]:
    """Somebody else holds the ledger: it can be read, and not written."""
    with closing(sqlite3.connect(home / "ledger.db")) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.rollback()


async def test_a_kill_is_acknowledged_only_when_the_ledger_has_it(engine: Engine, home: Path) -> None:
    """While nobody can write to the ledger no kill is acknowledged; the command isn't lost, and is carried out afterwards."""
    impatient = Fleet(engine.client, engine.settings.task_queue, seconds=2)
    scope = Scope.parse("agent:billing-resolution")
    with taken(home):
        with pytest.raises(Unavailable, match="isn't acknowledged"):
            await impatient.kill(scope, "stop", by="ana")
        assert engine.ledger.switched([str(scope)]) == (None, None)
        assert (await impatient.control()).waiting == {"switches": 1}
    async with asyncio.timeout(60):
        while (await impatient.control()).waiting:
            await asyncio.sleep(0.05)
    found, _ = engine.ledger.switched([str(scope)])
    assert found is not None and (found.reason, found.set_by) == ("stop", "ana")


async def test_without_the_ledger_writes_wait_and_reads_go_on(engine: Engine, home: Path) -> None:
    """A run reads its ticket while the ledger can't be written; its next write is made once it can be, and not before."""
    refund = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))
    read = turn(call("get_ticket", ticket_id="T-1002"))
    draft = turn(call("draft_reply", ticket_id="T-1002", text="No."))
    run = await engine.start([refund, read, draft, final()], ticket="T-1002")
    await engine.pending(run.id)
    with taken(home):
        await engine.decide(run.id, "ana", "reject", reason="Not this one.")
        await engine.until(run.id, lambda s: [c.tool for c in s.calls if c.status == "done"] == ["get_ticket"])
        assert (engine.effects(), engine.rows("reply_drafts")) == ([], [])
    assert (await engine.closed(run.id)).status == "completed"
    assert [(e.tool, e.state) for e in engine.effects()] == [("draft_reply@1", "done")]
