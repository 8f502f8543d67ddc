"""The figures of a report from the rows of a ledger, on both databases; the page, by parsing what it says and what it loads."""

import base64
import hashlib
import json
import re
from collections.abc import Generator
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
import sqlalchemy as sa
from rich.console import Console

from activities.ledger import outcomes, proposals, records, reports
from activities.ledger.rows import ProposalRecord, RunRecord
from activities.ledger.store import Ledger
from activities.ledger.tables import effects, run_records
from policies.errors import InvalidInput
from policies.models import Money
from policies.value import Value
from remit.periods import since_of
from remit.reporting.figures import Known, Report, report_of
from remit.reporting.page import page
from remit.reporting.table import tables
from remit.settings import ROOT
from tests.unit.conftest import KINDS, fresh

AGENT = "billing-resolution"
DAY_MS = 86_400_000
NOW = 1_760_000_000_000
VALUE = Value(minutes_saved=12, minute_cents=75, review_minutes=2, infrastructure_micro_usd=1_500, ceiling_micro_usd=400_000)
KNOWN = Known(owner="Head of Support", mode="live", value=VALUE, ceiling_micro_usd=400_000)


@pytest.fixture
def ledger(tmp_path: Path) -> Generator[Ledger]:
    found = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    found.migrate()
    yield found
    found.close()


@pytest.fixture(params=KINDS)
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Ledger]:
    """A ledger of either kind, for what its SQL counts."""
    found = Ledger(fresh(request, tmp_path))
    found.migrate()
    yield found
    found.close()


def run(ledger: Ledger, name: str, outcome: str = "completed", *, days_ago: float = 1, **changed: int | str | bool) -> None:
    """A run that ended `days_ago`, as the ledger keeps it."""
    at = NOW - int(days_ago * DAY_MS)
    fields = {
        "run_id": name,
        "workflow_id": f"wf-{name}",
        "agent": AGENT,
        "release": "sha256:r",
        "arm": "agent",
        "mode": "live",
        "policy_version": "p",
        "subject_tag": "",
        "outcome": outcome,
        "started_at": at - 10_000,
        "closed_at": at,
        "tool_calls": 4,
        "cost_micro_usd": 10_000,
        **changed,
    }
    with ledger.begin() as connection:
        assert records.keep(connection, RunRecord.model_validate(fields))
        mine = run_records.c.run_id == name
        connection.execute(sa.update(run_records).where(mine).values(recorded_at=at))


def moved(ledger: Ledger, run_id: str, cents: int, currency: str = "USD", state: str = "done") -> None:
    """A write of the run that moved money, or may have."""
    row = {
        "idempotency_key": f"rk-{run_id}-{cents}-{currency}-{state}",
        "run_id": run_id,
        "workflow_id": f"wf-{run_id}",
        "agent": AGENT,
        "tool": "request_refund@1",
        "resource": "Invoice:in_1",
        "subject": "Customer:cus_1",
        "amount_cents": cents,
        "currency": currency,
        "action_digest": "",
        "approvers": "",
        "state": state,
        "attempts": 1,
        "outcome": "",
        "reserved_at": NOW,
    }
    with ledger.begin() as connection:
        connection.execute(sa.insert(effects).values(row))


def say(ledger: Ledger, run_id: str, **said: int | bool) -> None:
    with ledger.begin() as connection:
        outcomes.record(connection, run_id, said, "ana", f"{run_id}:{sorted(said.items())}")


def drafted(ledger: Ledger, *decisions: str) -> None:
    with ledger.begin() as connection:
        for n, decision in enumerate(decisions):
            row = ProposalRecord(
                run_id="d",
                action_digest=f"{n}",
                workflow_id="d",
                agent=AGENT,
                tool="t@1",
                put_at=NOW,
                decided_at=NOW,
                decision=decision,
                by="ana",
            )
            assert proposals.keep(connection, row)


def made(ledger: Ledger, *, days: int = 7, agent: str | None = None, known: Known | None = KNOWN) -> Report:
    since = NOW - days * DAY_MS
    with ledger.reading() as connection:
        found = reports.ended(connection, since, NOW, agent)
    return report_of(found, {AGENT: known} if known else {}, since, NOW)


def fill(ledger: Ledger) -> None:
    """A week of one agent: ten runs, some of which people had to take over, and one before the week."""
    for n in range(6):
        run(ledger, f"ok-{n}", days_ago=1 + n, started_at=NOW - int((1 + n) * DAY_MS) - 1000 * (n + 1))
    run(ledger, "esc", "escalated", asked=3, approved=1, rejected=1, reviews=3, waits="[60, 600]", reasons='{"rejected": 1}')
    run(ledger, "stop", "stopped", invalid=2, reasons='{"validation_failed": 2}', unknown_cost_calls=2)
    run(ledger, "fail", "failed", denied=3, errors=1, reasons='{"denied": 3, "not_paid": 1}', simulated=True)
    run(ledger, "kill", "killed")
    run(ledger, "old", "failed", days_ago=8)
    moved(ledger, "ok-0", 4900)
    moved(ledger, "ok-1", 12_000, state="indeterminate")
    moved(ledger, "ok-2", 500, "EUR")
    moved(ledger, "ok-3", 99_999, state="failed")
    moved(ledger, "old", 77)
    say(ledger, "ok-0", csat=5, reopened=False)
    say(ledger, "ok-1", csat=4, reopened=True)
    say(ledger, "ok-1", csat=2)  # of each, what was said last
    say(ledger, "ok-2", escalated=True)
    drafted(ledger, "approved", "approved", "rejected", "expired")


def test_the_figures_of_a_week(either: Ledger) -> None:
    """Each is counted from rows of the period alone; a killed run says nothing of the agent, but costs."""
    fill(either)
    (agent,) = made(either).agents
    found = agent.all_runs
    assert (found.runs, found.ends) == (10, {"completed": 6, "escalated": 1, "stopped": 1, "failed": 1, "killed": 1})
    assert (found.success.count, found.success.of, found.escalation.count, found.escalation.of) == (6, 9, 4, 9)
    assert (found.reopened.count, found.reopened.of) == (1, 2)
    assert (found.csat.answers, found.csat.mean) == (2, 3.5)
    assert (found.cost_micro_usd, found.cost_per_completed_micro_usd) == (100_000, 16_667)  # rounded up
    assert (found.unknown_cost_calls, found.simulated_runs, found.tool_calls_per_task) == (2, 1, 4.0)
    assert (found.validation_failures, found.policy_denials, found.errors) == (2, 3, 1)
    assert (found.latency.of, found.latency.median, found.latency.p95) == (9, 5.0, 10.0)
    asked = found.approvals
    assert (asked.asked, asked.approved, asked.rejected, asked.undecided, asked.reviews) == (3, 1, 1, 1, 3)
    assert (asked.wait.of, asked.wait.median, asked.wait.p95) == (2, 330, 600)
    assert [(r.code, r.calls) for r in found.refusals] == [
        ("denied", 3),
        ("validation_failed", 2),
        ("not_paid", 1),
        ("rejected", 1),
    ]
    assert [(str(m.amount), m.writes, m.unknown) for m in found.moved] == [("5.00 EUR", 1, 0), ("$169.00", 2, 1)]
    assert (agent.drafts.put, agent.drafts.accepted.count, agent.drafts.accepted.of) == (4, 2, 3)
    assert found.value and found.value.net_micro_usd == 6 * 12 * 750_000 - 100_000 - 10 * 1_500 - 3 * 2 * 750_000
    assert [sum(day.ends.values()) for day in agent.days] == [0, 1, 1, 1, 1, 1, 5, 0]
    assert agent.arms == ()


def test_a_success_rate_comes_with_its_wilson_interval(ledger: Ledger) -> None:
    """The values are those of Wilson 1927 for 8 of 10, to four digits."""
    for n in range(10):
        run(ledger, f"r-{n}", "completed" if n < 8 else "escalated")
    rate = made(ledger).agents[0].all_runs.success
    assert rate.value == 0.8 and rate.low and rate.high
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.4902, 0.9433)


def test_the_arms_of_a_rollout_stand_side_by_side(ledger: Ledger) -> None:
    """The agent's own figures leave people's cases out, of which only that is known which somebody said."""
    run(ledger, "c", arm="candidate", release="sha256:new")
    run(ledger, "s", "escalated", arm="stable")
    run(ledger, "h", "assigned", arm="human", cost_micro_usd=0)
    run(ledger, "h2", "assigned", arm="human", cost_micro_usd=0)
    say(ledger, "h", csat=3, escalated=False, cost_micro_usd=5_000_000)
    say(ledger, "c", csat=5)
    moved(ledger, "c", 4900)
    (agent,) = made(ledger).agents
    arms = {arm.name: arm.figures for arm in agent.arms}
    assert agent.all_runs.runs == 2
    assert [*arms] == ["candidate", "human", "stable"]
    assert (arms["candidate"].success.count, arms["stable"].success.count) == (1, 0)
    assert (arms["candidate"].csat.mean, arms["stable"].csat.mean, arms["human"].csat.mean) == (5, None, 3)
    assert (arms["human"].runs, arms["human"].cost_micro_usd, arms["human"].escalation.of) == (2, 5_000_000, 1)
    assert arms["human"].success.value is None and arms["human"].value is None
    assert (arms["candidate"].moved[0].amount, arms["stable"].moved) == (Money(cents=4900, currency="USD"), ())
    assert agent.arms[0].releases == {"sha256:new": 1}


def test_what_prompt_caches_held_and_saved_is_summed(either: Ledger) -> None:
    """Over all runs of which it is known; one that ended before it was kept changes no share."""
    run(either, "old")
    run(either, "r1", input_tokens=10_000, cached_input_tokens=6_000, cache_write_tokens=1_000, cache_saved_micro_usd=11_000)
    run(either, "r2", input_tokens=10_000, cache_write_tokens=4_000, cache_saved_micro_usd=-1_000)
    found = made(either).agents[0].all_runs.caching
    assert (found.input_tokens, found.read_tokens, found.written_tokens) == (20_000, 6_000, 5_000)
    assert (found.hit_rate, found.saved_micro_usd) == (0.3, 10_000)
    said = "30 % of 20,000 input tokens read from it, 25 % written into it; saved $0.0100"
    assert said in " ".join(shown(made(either)).split())
    assert said in page(made(either))


def test_a_cache_that_cost_more_than_it_saved_is_called_so(ledger: Ledger) -> None:
    """Writing costs more than plain input; runs without a cache say nothing of one."""
    run(ledger, "r1", input_tokens=10_000, cache_write_tokens=4_000, cache_saved_micro_usd=-2_000)
    assert "0 % of 10,000 input tokens read from it, 40 % written into it; cost $0.0020 more than it saved" in " ".join(
        shown(made(ledger)).split()
    )


def test_without_a_cache_nothing_is_said_of_one(ledger: Ledger) -> None:
    """A line about something that wasn't used would only raise questions."""
    run(ledger, "r1", input_tokens=10_000)
    assert "Prompt cache" not in shown(made(ledger))
    assert made(ledger).agents[0].all_runs.caching.hit_rate == 0


def test_runs_of_before_people_were_counted_took_one_decision_each(ledger: Ledger) -> None:
    """What ended under an earlier version has no `reviews`: at least one person decided on each."""
    run(ledger, "r", asked=2, approved=1, edited=1)
    asked = made(ledger).agents[0].all_runs.approvals
    assert (asked.reviews, asked.wait.of) == (2, 0)


def test_an_agent_that_completes_nothing_has_no_cost_per_task(ledger: Ledger) -> None:
    """It isn't $0, and the table says so; nor is there a return without assumptions."""
    run(ledger, "r", "failed")
    report = made(ledger, known=None)
    found = report.agents[0].all_runs
    assert (found.cost_per_completed_micro_usd, found.value) == (None, None)
    said = shown(report)
    assert "none completed" in said
    assert "No usable `agent.toml` says what an outcome of it is worth." in said


def test_the_shipped_schema_is_that_of_the_json(ledger: Ledger) -> None:
    """`docs/schemas/report-2.schema.json` says what `remit report --json` prints: `Report.model_json_schema()`."""
    shipped = json.loads((ROOT / "docs" / "schemas" / "report-2.schema.json").read_text())
    assert shipped == Report.model_json_schema()
    fill(ledger)
    jsonschema.validate(made(ledger).model_dump(mode="json"), shipped)


def shown(report: Report) -> str:
    console = Console(width=220)
    with console.capture() as caught:
        for part in tables(report):
            console.print(part)
    return caught.get()


def test_the_table_prints_the_assumptions_and_what_is_uncertain(ledger: Ledger) -> None:
    """Cost is a lower bound while calls are unknown; simulated cost is called so; a ceiling alone binds nobody."""
    fill(ledger)
    said = " ".join(shown(made(ledger)).split())
    for sentence in (
        "67 % (6 of 9; 95 %: 35 to 88 %)",
        "$0.0167 at least",
        "$0.1000, and 2 model calls of unknown cost",
        "tokens and cost of 1 run: a scripted model",
        "1 of these runs had a scripted model: tokens and cost are simulated.",
        "median 5.5 min, p95 10.0 min",
        "5.00 EUR by 1 write; $169.00 by 2 writes, 1 of them unknown",
        "Net return $49.39",
        "Assumed in `agent.toml`: a completed run saves 12 min at $0.75; a person's decision takes 2 min; a run costs",
        "An outcome may cost $0.4000; its bundle has no `[outcome]`, so that nothing follows.",
    ):
        assert sentence in said, sentence


# ---- the page -------------------------------------------------------------------------------------------------------


class Seen(HTMLParser):
    """What a page holds: its tags, its ids, and the texts of its cells."""

    VOID = ("meta", "link", "rect", "line")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.style = ""
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        elif data.strip():
            self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The page of a week, in which somebody named an agent and a reason with markup."""
    found = Ledger(f"sqlite:///{tmp_path_factory.mktemp('page') / 'ledger.db'}")
    found.migrate()
    fill(found)
    run(found, "x", arm="candidate", agent="<script>alert(1)</script>", reasons='{"<b>": 1}')
    report = made(found)
    found.close()
    return Seen(page(report))


def test_the_page_is_whole_and_loads_nothing(seen: Seen) -> None:
    """Every tag is closed; there is no script, no style attribute, no address; and a policy that forbids them."""
    assert seen.open == []
    assert not {tag for tag, _ in seen.tags} & {"script", "img", "iframe", "object", "form", "a"}
    for tag, attrs in seen.tags:
        assert not {"style", "src", "onload", "onclick"} & {*attrs}, tag
        assert not re.match("https?:|//", attrs.get("href") or "")
    assert "url(" not in seen.style and "@import" not in seen.style
    (policy,) = [m["content"] for m in seen.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy.startswith("default-src 'none'; style-src 'sha256-")


def test_the_policy_of_the_page_allows_its_own_style_and_no_other(seen: Seen) -> None:
    """The hash is that of what stands between the tags, or a browser would show the page bare."""
    hashed = base64.b64encode(hashlib.sha256(seen.style.encode()).digest()).decode()
    assert f"'sha256-{hashed}'" in str([m.get("content") for m in seen.all("meta")])


def test_every_chart_has_a_name_a_description_and_a_table(seen: Seen) -> None:
    """Who can't see it hears what it says, and gets the numbers."""
    charts = [attrs for attrs in seen.all("svg") if attrs.get("role") == "img"]
    ids = {attrs["id"] for _, attrs in seen.tags if attrs.get("id")}
    assert len(charts) >= 5
    for chart in charts:
        assert {*str(chart["aria-labelledby"]).split()} <= ids
    assert len([tag for tag, attrs in seen.tags if attrs.get("id")]) == len(ids)
    assert len(seen.all("figure")) == len(charts) == len(seen.all("details")) == len(seen.all("summary"))
    assert all("scope" in th for th in seen.all("th"))


def test_what_others_named_is_text_on_the_page(seen: Seen) -> None:
    """Names of agents, owners and reasons are never markup."""
    assert "<script>alert(1)</script>" in seen.texts
    assert "<b>" in seen.texts


# ---- the period -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seconds"), [("7d", 604_800), ("12h", 43_200), ("30m", 1_800), ("2w", 1_209_600)])
def test_a_period_goes_back_from_now(text: str, seconds: int) -> None:
    """Days, hours, minutes and weeks."""
    assert since_of(text, NOW / 1000) == NOW / 1000 - seconds


def test_a_period_may_begin_on_a_date() -> None:
    """At midnight, UTC."""
    assert since_of("2025-10-01", NOW / 1000) == 1_759_276_800


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1y", "`--since 1y` isn't a period; say `7d`, `12h`, `30m`, `4w`, or a UTC date such as `2026-11-01`."),
        ("0d", "`--since 0d` isn't a period"),
        ("-7d", "`--since -7d` isn't a period"),
        ("", "`--since ` isn't a period"),
        ("2026-02-30", "`--since 2026-02-30` isn't a period"),
        ("2025-12-24", "`--since 2025-12-24` hasn't begun yet."),
        ("9999d", "`--since` goes back ten years at most."),
    ],
)
def test_what_is_no_period_is_refused_with_a_sentence(text: str, why: str) -> None:
    """Units that don't exist, days that don't, and times that are still to come."""
    with pytest.raises(InvalidInput) as refused:
        since_of(text, NOW / 1000)
    assert refused.value.message.startswith(why)
