"""Ceilings on what outcomes cost, over the real server: the cheaper model, then no new run, then room again."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from activities import ceilings
from activities.ledger import records
from activities.ledger.rows import RunRecord
from activities.ledger.switches import now_ms
from remit.client import RunFailed
from remit.embedded import TemporalServer
from remit.render import console, show
from tests.engine import Engine, call, final, turn

AGENT = "billing-resolution"
SMALL = turn(call("request_refund", invoice_id="in_1004", amount_cents=1000, reason="duplicate"))
STRONG = turn(call("request_refund", invoice_id="in_1004", amount_cents=8000, reason="duplicate"))
RULES = """
[outcome]
ceiling_micro_usd = 400_000
stop_percent = 200
minimum = 3
on_stop = "{on_stop}"
"""


class Dear(Engine):
    """An engine whose agent has earlier runs in the ledger."""

    def spent(self, name: str, micro_usd: int, outcome: str = "completed") -> None:
        """A run of the agent that ended just now and cost so much."""
        fields = {
            "run_id": name,
            "workflow_id": name,
            "agent": AGENT,
            "release": "",
            "arm": "agent",
            "mode": "live",
            "policy_version": "",
            "subject_tag": "",
            "outcome": outcome,
            "started_at": now_ms(),
            "closed_at": now_ms(),
            "cost_micro_usd": micro_usd,
        }
        with self.ledger.begin() as connection:
            assert records.keep(connection, RunRecord.model_validate(fields))


def rule(library: Path, on_stop: str) -> None:
    """Give the agent's bundle a ceiling of $0.40 on an outcome."""
    limits = library / "policies" / "bundles" / "refunds_v7" / "limits.toml"
    limits.write_text(limits.read_text() + RULES.format(on_stop=on_stop))


@pytest.fixture
async def engine(server: TemporalServer, home: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Dear]:
    del library
    monkeypatch.setattr(ceilings, "FRESH_SECONDS", 0.0)
    async with Dear(await server.ready(), home) as found:
        yield found


async def test_a_dear_agent_keeps_to_the_cheaper_model_and_then_stops(engine: Dear, library: Path) -> None:
    """What policy wants the strong model for is withheld, the rest goes on; above the second limit nothing begins."""
    rule(library, "refuse")
    for n in range(2):
        engine.spent(f"before-{n}", 600_000)
    run = await engine.start([STRONG, final("escalated")], ticket="T-1002")
    assert (await engine.pending(run.id)).model == "scripted-strong"  # two runs say too little
    await engine.decide(run.id, "ana", "reject", reason="No.")
    assert (await engine.closed(run.id)).over_ceiling is None

    held = await engine.run([SMALL, STRONG, final("escalated")], ticket="T-1002")
    assert held.over_ceiling and 600_000 < held.over_ceiling.micro_usd < 610_000
    assert (held.status, held.model) == ("escalated", "scripted-small")
    assert [(c.status, c.reason) for c in held.calls] == [("done", ""), ("refused", "strong_model_withheld")]
    assert [r["amount_cents"] for r in engine.rows("refunds")] == [1000]
    out = console()
    with out.capture() as caught:
        for part in show(held):
            out.print(part)
    assert "kept to the cheaper model: an outcome cost $0." in caught.get()

    engine.spent("before-2", 900_000, "stopped")
    run = await engine.start([final()])
    with pytest.raises(RunFailed, match="^No run of `billing-resolution` begins: an outcome cost .* more than 200 % of that"):
        await engine.remit.result(run.id)


async def test_a_run_waits_until_outcomes_cost_less(engine: Dear, library: Path) -> None:
    """It is held before it begins, with the figures as the reason, and looks again by itself."""
    rule(library, "wait")
    for n in range(3):
        engine.spent(f"before-{n}", 900_000)
    run = await engine.start([final()])
    (pause,) = (await engine.until(run.id, lambda s: s.status == "paused")).pauses
    assert (pause.scope, pause.by) == ("outcome:billing-resolution", "cap")
    assert 590 <= pause.until - pause.since <= 910
    assert "with 3 of 3 runs completed, and may cost $0.4000" in pause.reason
    for n in range(20):
        engine.spent(f"cheap-{n}", 1_000)
    again = {"reason": "They cost less.", "scope": pause.scope}
    await engine.remit.handle(run.id).signal("resume", again)
    assert (await engine.closed(run.id)).status == "completed"
