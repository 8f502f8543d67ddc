"""G8: SIGKILLs, a server restart, a database restart: nothing lost, nothing doubled. The small form of `make chaos`."""

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from activities.ledger.rows import Effect
from tests.chaos.oracle import Ended, Evidence, Written, judge
from tests.chaos.plan import LONG, SHORT, SMALL, Form, Job, make
from tests.chaos.run import play
from tests.postgres import PostgresServer
from tools import registry
from tools.builtin import CATALOG

SEED = 1


@pytest.fixture(autouse=True)
def builtin_tools() -> Generator[None]:
    """The process-wide registry is as it was."""
    yield
    registry.install(CATALOG)


@pytest.mark.timeout(300)
async def test_runs_survive_whatever_is_killed_and_restarted(tmp_path: Path, postgres: PostgresServer) -> None:
    """Each intended effect happened once and no other did, every run closed, ledger and histories agree, all replay."""
    report = await play(make(SMALL, SEED), tmp_path / "chaos", postgres)
    assert report.failures == []
    line = json.loads(report.line())
    assert (line["server_restarts"], line["database_restarts"]) == (SMALL.server_restarts, SMALL.database_restarts)
    assert line["worker_kills"] >= SMALL.kills
    assert line["replayed"] >= SMALL.runs
    assert line["effects_expected"] > SMALL.runs


# ---- the oracle can fail --------------------------------------------------------------------------------------------

REFUND = ("refunds", "in_1", "4900")
JOB = Job("refund-1", "billing-resolution", {"ticket_id": "T-1"}, (), expected=(REFUND,))
KILLED = Job("killed-1", "billing-resolution", {"ticket_id": "T-1"}, (), allowed=(REFUND,), killed="busy")
UNSURE = replace(JOB, unsure=True)


def effect(state: str = "done", workflow_id: str = "refund-1", reserved_at: int = 5000) -> Effect:
    return Effect.model_validate(
        {
            "idempotency_key": "rk_1",
            "run_id": "run",
            "workflow_id": workflow_id,
            "agent": "billing-resolution",
            "tool": "request_refund@1",
            "resource": "Invoice:in_1",
            "subject": "Customer:cus_1",
            "amount_cents": 4900,
            "currency": "USD",
            "action_digest": "sha256:0",
            "approvers": "",
            "state": state,
            "attempts": 1,
            "outcome": "{}",
            "reserved_at": reserved_at,
            "settled_at": None,
        }
    )


ROW = Written(REFUND, "rk_1")
DONE = Ended("completed", writes={"rk_1": "done"})
UNKNOWN = Ended("escalated", "outcome_indeterminate", {"rk_1": "indeterminate"})
GOOD = Evidence([ROW], {"refund-1": DONE}, [effect()])


def test_what_went_well_is_found_to_be_good() -> None:
    """One row, one effect that is done, one write that the run knows of."""
    found = judge([JOB], GOOD)
    assert (found.failures, found.expected, found.indeterminate) == ([], 1, 0)


@pytest.mark.parametrize(
    ("job", "evidence", "kinds"),
    [
        (JOB, replace(GOOD, written=[], effects=[], ended={"refund-1": Ended("completed")}), ["lost"]),
        (JOB, replace(GOOD, written=[], effects=[], ended={"refund-1": Ended("stopped")}), ["lost", "misended"]),
        (JOB, replace(GOOD, written=[ROW, replace(ROW, key="rk_2")]), ["doubled", "disagree"]),
        (JOB, replace(GOOD, written=[ROW, replace(ROW, identity=("refunds", "in_2", "1"))]), ["unintended", "disagree"]),
        (JOB, replace(GOOD, written=[], ended={"refund-1": UNKNOWN}, effects=[effect("indeterminate")]), ["lost", "misended"]),
        (JOB, replace(GOOD, ended={}), ["open"]),
        (JOB, replace(GOOD, effects=[]), ["disagree", "disagree"]),
        (JOB, replace(GOOD, effects=[effect("sent")]), ["disagree", "disagree", "disagree"]),
        (JOB, replace(GOOD, ended={"refund-1": Ended("completed", writes={"rk_1": "refused"})}), ["disagree"]),
        (JOB, replace(GOOD, ended={"refund-1": replace(DONE, status="failed")}), ["misended"]),
        (UNSURE, replace(GOOD, written=[], effects=[], ended={"refund-1": Ended("completed")}), ["lost"]),
    ],
)
def test_what_went_wrong_is_found(job: Job, evidence: Evidence, kinds: list[str]) -> None:
    """Lost, doubled, unintended, open, ended otherwise, or told otherwise by ledger and run."""
    assert [f.partition(":")[0] for f in judge([job], evidence).failures] == kinds


def test_a_write_after_the_kill_is_unintended() -> None:
    """Of a killed run, what was reserved before the acknowledgement may have happened, once; nothing that came later."""

    def killed(at: int) -> Evidence:
        ended = {"killed-1": Ended("killed", "kill", {"rk_1": "done"}, acknowledged=at)}
        return Evidence([ROW], ended, [effect(workflow_id="killed-1")])

    assert judge([KILLED], killed(5)).failures == []
    [failure] = judge([KILLED], killed(4)).failures
    assert "after the kill of `killed-1` was acknowledged" in failure


def test_what_nobody_can_know_is_counted_and_no_failure() -> None:
    """A vendor that can't be asked, a run that says so and is handed to a person."""
    found = judge([UNSURE], Evidence([], {"refund-1": UNKNOWN}, [effect("indeterminate")]))
    assert (found.failures, found.indeterminate) == ([], 1)


@pytest.mark.parametrize("form", [SMALL, SHORT, LONG], ids=lambda f: f.name)
def test_equal_seeds_choose_alike(form: Form) -> None:
    """A finding can be looked at again: the same runs, the same people, the same blows at the same times."""
    assert make(form, 7) == make(form, 7) != make(form, 8)
