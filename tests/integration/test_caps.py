"""Caps across runs over the real server: who begins, waits, is paused or refused, and what model calls are counted as."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import RowMapping

from activities import caps as live
from activities.ledger import switches, usage
from activities.ledger.rows import Charge
from activities.ledger.tables import charges, usage_minutes
from policies.caps import Caps, ScopedCaps
from policies.switches import Scope
from remit.client import RunFailed
from remit.embedded import TemporalServer, WorkerProcess
from remit.fleet import Fleet
from tests.engine import Engine, call, final, turn
from tests.wire.server import CannedServer
from workflows.messages import RunSummary, ScriptCall, ScriptTurn

AGENT = "billing-resolution"
OWN = f"cap:agent:{AGENT}"
READ = turn(call("get_invoice", invoice_id="in_1002"))
OTHER_READ = turn(call("list_invoices", customer_id="cus_101"))
SMALL = turn(call("request_refund", invoice_id="in_1002", amount_cents=4900, reason="duplicate"))
LARGE = turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate"))  # needs one person


def small(invoice: str, cents: int) -> ScriptCall:
    """A refund that needs nobody's approval."""
    return call("request_refund", invoice_id=invoice, amount_cents=cents, reason="duplicate")


class Capped(Engine):
    """An engine whose caps a test sets, and changes while runs are open."""

    def cap(self, on_cap: str = "wait", fleet: str = "", **limits: int | dict[str, int]) -> None:
        """What `billing-resolution` may use from now on; `fleet`: lines of the fleet's table."""
        shown = [f"{name} = {_toml(value)}" for name, value in limits.items()]
        self.file.write_text("\n".join([f"[agents.{AGENT}]", *shown, f'on_cap = "{on_cap}"', "[fleet]", fleet]) + "\n")

    @property
    def file(self) -> Path:
        assert self.settings.caps
        return self.settings.caps

    async def held(self, workflow_id: str, since: int = 0) -> RunSummary:
        """Wait until a cap holds the run; by a pause that is newer than the epoch `since`."""
        return await self.until(workflow_id, lambda s: s.status == "paused" and any(p.epoch >= since for p in s.pauses))

    async def look_again(self, workflow_id: str) -> None:
        await self.remit.handle(workflow_id).signal("resume", {"reason": "There is room now.", "scope": OWN})

    async def resume(self, run: RunSummary) -> int:
        """As `remit resume RUN` does; returns the epoch."""
        fleet = Fleet(self.client, self.settings.task_queue)
        scope = Scope(kind="run", value=run.run_id)
        return (await fleet.resume(scope, "Looked at it.", by="ana", workflow_id=run.workflow_id)).epoch

    def spent(self, tokens: int) -> None:
        """Count tokens, as if other runs of the agent had used them."""
        wanted = Charge(key=f"model/other/{tokens}", kind="model", run_id="other", agent=AGENT, tokens=tokens)
        with self.ledger.begin() as connection:
            switches.lock(connection)
            assert usage.charge(connection, wanted, [ScopedCaps(scope=f"agent:{AGENT}", caps=Caps())]) is None

    def charged(self, kind: str) -> list[RowMapping]:
        with self.ledger.reading() as connection:
            return [*connection.execute(sa.select(charges).where(charges.c.kind == kind).order_by(charges.c.at)).mappings()]


def _toml(value: int | dict[str, int]) -> str:
    return str(value) if isinstance(value, int) else "{ " + ", ".join(f"{k} = {v}" for k, v in value.items()) + " }"


@pytest.fixture
def caps_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of caps, still without any, that the workers of this test look at each time."""
    monkeypatch.setattr(live, "FRESH_SECONDS", 0.0)
    file = home / "caps.toml"
    file.write_text("")
    return file


@pytest.fixture
async def engine(server: TemporalServer, home: Path, caps_file: Path) -> AsyncGenerator[Capped]:
    async with Capped(await server.ready(), home, overrides={"caps": caps_file}) as found:
        yield found


# ---- runs that begin ------------------------------------------------------------------------------------------------


async def test_without_caps_nothing_is_counted(engine: Capped) -> None:
    """A run of reads, a write and model calls leaves no trace in the tables of caps."""
    assert (await engine.run([READ, SMALL, final()])).status == "completed"
    with engine.ledger.reading() as connection:
        counts = [connection.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in (charges, usage_minutes)]
    assert counts == [0, 0]


async def test_a_new_run_is_refused_once_a_cap_is_used_up(engine: Capped) -> None:
    """It ends with one sentence, before it has done anything."""
    engine.cap("refuse", tool_calls_per_day=1)
    assert (await engine.run([READ, final()])).status == "completed"
    run = await engine.start([READ, final()])
    with pytest.raises(RunFailed, match="^A cap across runs leaves no room: 1 of 1 are used, of `tool_calls_per_day` of agent"):
        await engine.remit.result(run.id)
    assert len(engine.charged("tool")) == 1


async def test_a_new_run_waits_for_room_and_then_begins(engine: Capped) -> None:
    """It shows as paused, with the cap and when it looks again; somebody raises the cap, and it is admitted."""
    engine.cap("wait", tool_calls_per_day=1)
    await engine.run([READ, final()])
    run = await engine.start([READ, final()])
    waiting = await engine.held(run.id)
    (pause,) = waiting.pauses
    assert (pause.scope, pause.by, waiting.policy_version) == (OWN, "cap", "")
    assert 800 <= pause.until - pause.since <= 1000
    assert "1 of 1 are used, of `tool_calls_per_day` of agent `billing-resolution`; there is room again at " in pause.reason
    engine.cap("wait", tool_calls_per_day=2)
    await engine.look_again(run.id)
    done = await engine.closed(run.id)
    assert (done.status, done.pauses, len(engine.charged("tool"))) == ("completed", (), 2)


async def test_a_run_that_waits_to_begin_can_be_killed(engine: Capped) -> None:
    """Nothing of it is admitted any more."""
    engine.cap("wait", tool_calls_per_day=1)
    await engine.run([READ, final()])
    run = await engine.start([READ, final()])
    await engine.held(run.id)
    await engine.remit.kill(run.id, "not needed", by="ana")
    assert (await engine.closed(run.id)).status == "killed"


async def test_a_new_run_is_paused_for_a_person_who_makes_room(engine: Capped) -> None:
    """`remit resume` lets it try again: without room it is paused again, with room it begins. No cap is passed by that."""
    engine.cap("escalate", tool_calls_per_day=1)
    await engine.run([READ, final()])
    run = await engine.start([READ, final()])
    waiting = await engine.held(run.id)
    assert (waiting.pauses[0].scope, waiting.pauses[0].until) == (f"run:{waiting.run_id}", 0)
    epoch = await engine.resume(waiting)
    again = await engine.held(run.id, since=epoch)
    engine.cap("escalate", tool_calls_per_day=2)
    await engine.resume(again)
    assert (await engine.closed(run.id)).status == "completed"
    assert len(engine.charged("tool")) == 2


async def test_runs_beyond_a_rate_queue_up(engine: Capped) -> None:
    """The second run of a minute waits for its own place, the third for the one after."""
    engine.cap("wait", runs_per_minute=1)
    runs = [await engine.start([final()]) for _ in range(3)]
    settled = [await engine.until(run.id, lambda s: s.status in ("paused", "completed")) for run in runs]
    assert sorted(s.status for s in settled) == ["completed", "paused", "paused"]
    waits = sorted(p.until for s in settled for p in s.pauses)
    assert 59 <= waits[1] - waits[0] <= 61
    assert [-(-int(row["at"]) // 1000) for row in engine.charged("run")][1:] == waits


# ---- in the middle of a run -----------------------------------------------------------------------------------------


async def test_a_tool_call_is_refused_and_the_model_goes_on(engine: Capped) -> None:
    """It gets the sentence with the stable code `cap_reached`, for a read and for a write alike."""
    engine.cap("refuse", tool_calls_per_day=2)
    done = await engine.run([READ, OTHER_READ, SMALL, turn(call("search_kb", query="refund")), final()])
    assert done.status == "completed"
    assert [(c.status, c.reason) for c in done.calls] == [("done", ""), ("done", ""), *[("refused", "cap_reached")] * 2]
    said = {message.split(";")[0] for _, message in await engine.errors(done.workflow_id)}
    assert said == {
        "A cap across runs leaves no room: 2 of 2 are used, of `tool_calls_per_day` of agent `billing-resolution`",
    }
    assert engine.rows("refunds") == []


async def test_of_two_writes_of_a_turn_only_the_one_that_fits_happens(engine: Capped) -> None:
    """They are reserved one after the other, and the second would pass the cap."""
    engine.cap("refuse", moved_cents_per_day={"USD": 3000})
    done = await engine.run([turn(small("in_1001", 2000), small("in_1002", 2000)), final()])
    assert sorted(c.status for c in done.calls) == ["done", "refused"]
    assert [r["amount_cents"] for r in engine.rows("refunds")] == [2000]


@pytest.mark.parametrize("turn_", [READ, SMALL], ids=["read", "write"])
async def test_a_call_waits_for_room_and_is_made_then(engine: Capped, turn_: ScriptTurn) -> None:
    """The run is paused where it is; once there is room, the same call is made, once."""
    engine.cap("wait", tool_calls_per_day=1)
    run = await engine.start([OTHER_READ, turn_, final()])
    waiting = await engine.held(run.id)
    assert ([p.scope for p in waiting.pauses], [c.status for c in waiting.calls]) == ([OWN], ["done"])
    engine.cap("wait", tool_calls_per_day=2)
    await engine.look_again(run.id)
    done = await engine.closed(run.id)
    assert ([c.status for c in done.calls], done.usage.tool_calls, len(engine.charged("tool"))) == (["done"] * 2, 2, 2)


async def test_an_approved_write_that_finds_no_room_waits_for_a_person(engine: Capped) -> None:
    """The cap is looked at beside the side effect, after the approval; resumed with room, the write happens once."""
    engine.cap("escalate", moved_cents_per_day={"USD": 13_000})
    await engine.run([SMALL, final()])
    run = await engine.start([LARGE, final()], ticket="T-1002")
    await engine.pending(run.id)
    await engine.decide(run.id, "ana")
    waiting = await engine.held(run.id)
    assert ([p.scope for p in waiting.pauses], len(engine.rows("refunds"))) == ([f"run:{waiting.run_id}"], 1)
    engine.cap("escalate", moved_cents_per_day={"USD": 20_000})
    await engine.resume(waiting)
    done = await engine.closed(run.id)
    assert ([a.status for a in done.approvals], [c.status for c in done.calls]) == (["consumed"], ["done"])
    assert [r["amount_cents"] for r in engine.rows("refunds")] == [4900, 12000]


async def test_a_write_waits_killable(engine: Capped) -> None:
    """A kill ends the wait, and nothing was moved."""
    engine.cap("wait", moved_cents_per_day={"USD": 9_000}, fleet="moved_cents_per_day = { USD = 2500 }")
    run = await engine.start([turn(small("in_1002", 2000)), turn(small("in_1001", 1000)), final()])
    await engine.held(run.id)
    await engine.remit.kill(run.id, "enough", by="ana")
    assert (await engine.closed(run.id)).status == "killed"
    assert [r["amount_cents"] for r in engine.rows("refunds")] == [2000]


# ---- model calls ----------------------------------------------------------------------------------------------------


async def test_what_model_calls_took_is_what_counts(engine: Capped) -> None:
    """An estimate is counted before each call and settled after: in the end the sums are those of the run itself."""
    engine.cap("refuse", tokens_per_day=1_000_000, cost_micro_usd_per_day=10_000_000)
    done = await engine.run([READ, final()])
    rows = engine.charged("model")
    assert [row["settled_at"] is not None for row in rows] == [True, True]
    assert sum(row["tokens"] for row in rows) == done.usage.input_tokens + done.usage.output_tokens
    assert sum(row["cost_micro_usd"] for row in rows) == done.usage.cost_micro_usd > 0


async def test_a_cap_that_is_lowered_bites_in_open_runs(engine: Capped) -> None:
    """A run that was admitted under a higher one can't make the call that doesn't fit, and is stopped with the sentence."""
    engine.cap("refuse", tokens_per_day=1_000_000)
    run = await engine.start([LARGE, final()], ticket="T-1002")
    await engine.pending(run.id)
    engine.cap("refuse", tokens_per_day=100)
    await engine.decide(run.id, "ana", "reject", reason="No.")
    done = await engine.closed(run.id)
    assert (done.status, done.stopped_by) == ("stopped", "tokens_per_day")
    assert done.summary.startswith("This takes more than a cap across runs lets through at all: ")


async def test_a_model_call_waits_for_room(engine: Capped) -> None:
    """The run is paused before the call, and goes on with it."""
    engine.cap("wait", tokens_per_day=100_000)
    engine.spent(95_000)
    run = await engine.start([READ, final()])
    waiting = await engine.held(run.id)
    assert (waiting.usage.model_calls, [p.scope for p in waiting.pauses]) == (0, [OWN])
    engine.cap("wait", tokens_per_day=1_000_000)
    await engine.look_again(run.id)
    assert (await engine.closed(run.id)).status == "completed"


def answer(tokens: int) -> dict[str, object]:
    """A final answer of a Chat Completions API."""
    arguments = json.dumps({"outcome": "resolved", "summary": "Done."})
    calls = [{"id": "call_1", "type": "function", "function": {"name": "final_answer", "arguments": arguments}}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1},
    }


async def test_an_attempt_that_died_leaves_its_estimate(server: TemporalServer, home: Path, caps_file: Path) -> None:
    """SIGKILL while the model answers: the retry is counted anew, and what the first took, nobody knows, stays counted."""
    async with CannedServer() as vendor:
        vendor.mode = "hang"
        keys = {"openai_base_url": f"{vendor.url}/v1", "openai_api_key": SecretStr("k"), "model": "m"}
        prices = {"price_input_per_mtok": 1_000_000, "price_output_per_mtok": 1_000_000}
        overrides = {**keys, **prices, "caps": caps_file}
        async with Capped(await server.ready(), home, overrides=overrides, working=False) as engine:
            engine.cap("wait", tokens_per_day=1_000_000)
            env = {
                "REMIT_TASK_QUEUE": engine.settings.task_queue,
                "REMIT_CAPS": str(caps_file),
                "REMIT_MODEL": "m",
                "OPENAI_BASE_URL": f"{vendor.url}/v1",
                "OPENAI_API_KEY": "k",
                "REMIT_PRICE_INPUT_PER_MTOK": "1000000",
                "REMIT_PRICE_OUTPUT_PER_MTOK": "1000000",
            }
            worker = WorkerProcess(home, server.address, env=env)
            try:
                run = await engine.remit.start(AGENT, {"ticket_id": "T-1001"})
                async with asyncio.timeout(60):
                    await vendor.received.wait()
            finally:
                worker.kill()
            vendor.mode = "answer"
            vendor.answer(answer(41))
            await engine.work()
            done = await engine.closed(run.id)
            died, came = engine.charged("model")
    assert (done.status, done.usage.input_tokens) == ("completed", 41)
    assert (died["settled_at"], died["tokens"] > 4096) == (None, True)
    assert (came["settled_at"] is None, came["tokens"], came["cost_micro_usd"]) == (False, 42, 42)


async def test_a_call_that_the_provider_refused_took_nothing(server: TemporalServer, home: Path, caps_file: Path) -> None:
    """A 400 isn't billed: its estimate is taken back, so that errors can't use a day up."""
    async with CannedServer() as vendor:
        vendor.answer({"error": {"message": "no"}}, 400)
        keys = {"openai_base_url": f"{vendor.url}/v1", "openai_api_key": SecretStr("k"), "model": "m"}
        prices = {"price_input_per_mtok": 1_000_000, "price_output_per_mtok": 1_000_000}
        async with Capped(await server.ready(), home, overrides={**keys, **prices, "caps": caps_file}) as engine:
            engine.cap("wait", tokens_per_day=1_000_000)
            run = await engine.remit.start(AGENT, {"ticket_id": "T-1001"})
            with pytest.raises(RunFailed):
                await engine.remit.result(run.id)
            (row,) = engine.charged("model")
    assert (row["tokens"], row["settled_at"] is None) == (0, False)
