"""Policies that change while something waits: the pinned one decides, and today's is asked what it would make of it."""

from pathlib import Path

import pytest

from remit.approvals import Today
from remit.apps import assemble
from tests.engine import Engine, call, final, turn

REFUND = [turn(call("request_refund", invoice_id="in_1004", amount_cents=12000, reason="duplicate")), final()]


def replace(library: Path, file: str, old: str, new: str) -> None:
    path = library / "policies" / "bundles" / "refunds_v7" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def today(engine: Engine, library: Path) -> Today:
    return Today(assemble(engine.settings, library))


@pytest.mark.parametrize(
    ("file", "old", "new", "would"),
    [
        ("policy.cedar", "> 50000", "> 10000", "need 2 people instead of 1"),
        ("policy.cedar", ">= 5000", ">= 50000", "be allowed without anybody's approval"),
        (
            "policy.cedar",
            'Remit::Action::"request_refund", Remit::Action::"set_customer_email"',
            'Remit::Action::"set_customer_email"',
            "be denied: no policy permits this, not even with what refund-one-person ask for",
        ),
        ("limits.toml", '["refund-approver"]', '["cfo"]', "let cfo decide instead of refund-approver"),
        ("policy.cedar", "What billing-resolution may do.", "What it may do.", ""),
    ],
    ids=["more people", "nobody", "denied", "others", "a comment only"],
)
async def test_today_s_policy_is_asked_about_what_waits(
    library: Path, engine: Engine, file: str, old: str, new: str, would: str
) -> None:
    """With the recorded action and facts; a change that changes nothing for it is no finding, but it shows."""
    run = await engine.start(REFUND, ticket="T-1002")
    parked = await engine.pending(run.id)
    before = today(engine, library)
    assert (before.changed(parked), before.otherwise(parked, parked.approvals[0])) == ("", None)
    replace(library, file, old, new)
    after = today(engine, library)
    assert after.changed(parked).startswith(f"{run.id}: policy changed since: it is judged by refunds_v7@sha256:")
    finding = after.otherwise(parked, parked.approvals[0])
    assert (finding.would if finding else "") == would
    await engine.decide(run.id, "ana")
    done = await engine.closed(run.id)
    assert (done.approvals[0].status, done.judged) == ("consumed", {})


async def test_an_agent_that_is_gone_would_be_denied(library: Path, engine: Engine) -> None:
    """No policy means no permission; for looking at the run it means only that nothing can be said."""
    run = await engine.start(REFUND, ticket="T-1002")
    parked = await engine.pending(run.id)
    (library / "agents" / "billing-resolution" / "agent.toml").unlink()
    gone = today(engine, library)
    finding = gone.otherwise(parked, parked.approvals[0])
    assert finding
    assert finding.would.startswith("be denied: There is no agent `billing-resolution`; ")
    assert gone.changed(parked) == ""


async def test_what_an_older_worker_asked_for_cannot_be_rechecked(library: Path, engine: Engine) -> None:
    """Without the recorded facts nothing is guessed."""
    run = await engine.start(REFUND, ticket="T-1002")
    parked = (await engine.pending(run.id)).model_copy(update={"judged": {}})
    replace(library, "policy.cedar", "> 50000", "> 10000")
    finding = today(engine, library).otherwise(parked, parked.approvals[0])
    assert finding
    assert finding.would == "be unknown: an older worker didn't record what its verdict rested on"
