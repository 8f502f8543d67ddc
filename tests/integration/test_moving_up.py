"""Runs that move up, from admission to the sealed proof: who decides, what is dropped, what is charged, and what people see."""

from pathlib import Path

import pytest

from remit.connection import CONVERTER
from remit.proof.build import build
from remit.proof.lines import DroppedLine, ModelLine
from remit.proof.verify import Report
from tests.engine import Engine, call, final, turn
from tests.guarantees.proving import checked, left_by
from tests.integration.test_fallback import shown
from workflows.messages import RunSummary, ScriptCall, ScriptTurn

SMALL, STRONG = "scripted-small", "scripted-strong"
CLASSES = 'classes = { refund = "asks for money back", other = "anything else" }\nconfidence = 0.7\n'


def refund(cents: int = 100) -> ScriptCall:
    return call("request_refund", invoice_id="in_1002", amount_cents=cents, reason="duplicate")


READ = turn(call("get_ticket", ticket_id="T-1001"))


def with_rules(library: Path, rules: str) -> None:
    """Give `billing-resolution` these rules."""
    agent = library / "agents" / "billing-resolution" / "agent.toml"
    agent.write_text(agent.read_text().replace("[limits]", f"[moves_up]\n{rules}\n[limits]"))


async def models(engine: Engine, run: RunSummary) -> list[ModelLine]:
    """The model calls of the run, as its trace has them."""
    trace = await build([await engine.remit.handle(run.workflow_id).fetch_history()], CONVERTER)
    return [line for line in trace.lines if isinstance(line, ModelLine)]


async def proven(engine: Engine, run: RunSummary) -> Report:
    """What anybody can derive again from the run's capsule."""
    return await checked(await (await left_by(engine, run.workflow_id)).capsule())


async def test_without_rules_the_cheap_tier_decides_alone(library: Path, engine: Engine) -> None:
    """What policy lets through isn't asked twice, and the run says nothing of moves."""
    run = await engine.run([READ, turn(refund()), final()])
    assert (run.status, run.model, run.moves, run.classification) == ("completed", SMALL, (), None)


@pytest.mark.parametrize("rules", ["amount_cents = 100", 'risk = "high"'])
async def test_a_call_that_matters_is_decided_again_by_the_strong_tier(library: Path, engine: Engine, rules: str) -> None:
    """The cheap tier's turn is dropped before anything is done; the refund happens once, as the strong tier decided."""
    with_rules(library, rules)
    run = await engine.run([READ, turn(refund()), final()])
    assert (run.status, run.model) == ("completed", STRONG)
    assert [(m.tier, m.step, m.why) for m in run.moves] == [(2, 1, rules.split("_", maxsplit=1)[0].split(" ", maxsplit=1)[0])]
    assert run.usage.model_calls == 4
    assert [e.state for e in engine.effects()] == ["done"]
    asked = await models(engine, run)
    assert [(line.step, line.tier, bool(line.moved)) for line in asked] == [
        (0, 1, False),
        (1, 1, False),
        (1, 2, True),
        (2, 2, False),
    ]
    assert (await proven(engine, run)).verified


async def test_policy_still_asks_for_the_strong_tier_and_says_so(library: Path, engine: Engine) -> None:
    """`route:strong` needs no rule of the agent, and the run tells which policy asked."""
    large = call("request_refund", invoice_id="in_1004", amount_cents=12_000, reason="duplicate")
    handle = await engine.start([turn(large), final()], ticket="T-1002")
    run = (await engine.pending(handle.id), await engine.remit.status(handle.id))[1]
    assert [m.why for m in run.moves] == ["policy"]
    assert "refund-strong-model" in run.moves[0].words
    await engine.decide(handle.id, "ana")
    assert (await engine.closed(handle.id)).status == "completed"


async def test_failed_calls_move_the_next_turn_up(library: Path, engine: Engine) -> None:
    """The model that can't write a call isn't asked again for the same: the next tier sees its errors, and goes on."""
    with_rules(library, "failed_validations = 2")
    wrong = call("get_ticket", ticket="T-1001")
    run = await engine.run([turn(wrong, wrong), READ, final()])
    assert (run.status, run.model) == ("completed", STRONG)
    assert [(m.step, m.why, m.words) for m in run.moves] == [(1, "failed_validations", "2 calls weren't well formed")]
    assert [line.tier for line in await models(engine, run)] == [1, 2, 2]


@pytest.mark.parametrize(
    ("given", "tiers", "confidence"),
    [
        ({"labels": ["refund"], "confidence": 0.9}, [1, 1, 1, 1], 0.9),
        ({"labels": ["refund"], "confidence": 0.6}, [1, 1, 2, 2], 0.6),
        ({"labels": ["refund"]}, [1, 1, 2, 2], 0.0),
        (None, [1, 1, 2, 2], 0.0),
    ],
)
async def test_an_unsure_classification_moves_a_run_up(
    library: Path, engine: Engine, given: dict[str, object] | None, tiers: list[int], confidence: float
) -> None:
    """One extra call of the cheapest tier, charged, and never in the transcript; one that can't be read counts as unsure."""
    with_rules(library, CLASSES)
    second = ScriptTurn.model_validate({"tool_calls": turn(refund()).tool_calls, "classify": given})
    run = await engine.run([READ, second, final()])
    assert (run.status, run.usage.model_calls) == ("completed", 4)
    assert run.classification and run.classification.confidence == confidence
    assert bool(run.moves) == (2 in tiers)
    asked = await models(engine, run)
    assert [line.purpose for line in asked] == ["decides", "classifies", "decides", "decides"]
    assert [line.tier for line in asked] == tiers
    assert sum(line.cost_micro_usd for line in asked) == run.usage.cost_micro_usd
    assert not any("classify" in message for message in await engine.remit.transcript(run.workflow_id))
    report = await proven(engine, run)
    assert (report.verified, report.exceptions) == (True, ())


async def test_people_see_why_a_run_moved(library: Path, engine: Engine) -> None:
    """In `remit show` and in the cockpit, with what the cheapest model said."""
    with_rules(library, CLASSES)
    second = ScriptTurn.model_validate({"tool_calls": turn(refund()).tool_calls, "classify": {"labels": [], "confidence": 1}})
    run = await engine.run([READ, second, final()])
    text = " ".join(shown(run).split())
    assert "About no class that was read, with confidence 0, as the cheapest model says" in text
    assert "Moved up to tier 2 at step 1, for confidence: no class, with confidence 0, below 0.7" in text
    trace = await build([await engine.remit.handle(run.workflow_id).fetch_history()], CONVERTER)
    assert not any(isinstance(line, DroppedLine) for line in trace.lines)
