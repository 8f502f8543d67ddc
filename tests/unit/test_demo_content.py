"""What ships as data fits together: agents, corpora, and the demo's business, tickets and scripts."""

import json
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price
from pydantic import JsonValue, TypeAdapter

from activities.tiers import VENDORS
from policies.errors import ToolRefusal
from tools.billing import Billing, Refund
from tools.builtin import CATALOG
from tools.connectors.corpus import Corpora
from tools.connectors.sandbox import Business, Sandbox, rows
from tools.incidents import Incidents
from tools.kb import Documents, Knowledge
from tools.spec import ToolContext
from tools.support import Support, Ticket
from workflows.messages import FinalAnswer, ScriptTurn

ROOT = Path(__file__).parents[2]
SCENARIOS = {
    "auto_refund",
    "one_approval",
    "two_approvals",
    "rejected",
    "other_customer",
    "prompt_injection",
    "loop_stopped",
    "worker_killed_once_only",
    "run_killed",
}
REFUSALS = {
    "other_customer": ["not_subject", "not_subject"],
    "prompt_injection": ["not_subject", "not_refundable", "unknown_tool"],
    "t-1015": ["not_subject"],
    "t-1016": ["not_paid"],
    "t-1017": ["not_refundable"],
    "t-1018": ["validation_failed"],
    "t-1019": ["not_found"],
    "t-1024": ["not_firing"],
}
"""What the scripts try and are refused, in order; every other call of every script is valid."""

REFUNDED_CENTS = {
    "auto_refund": 4900,
    "one_approval": 12000,
    "two_approvals": 74000,
    "rejected": 21000,
    "worker_killed_once_only": 3500,
    "run_killed": 18000 + 2500,
    "t-1017": 2000,
    "t-1018": 4900,
    "t-1019": 900,
    "t-1028": 2500,
    "t-1029": 1000,
}
"""What the scripts would refund if nobody rejected or killed anything."""


@dataclass(frozen=True)
class Line:
    """One line of `tickets.jsonl`."""

    ticket_id: str
    agent: str
    customer_id: str
    subject: str
    body: str
    inputs: dict[str, str]
    script: str
    note: str
    scenario: str = ""


TICKETS_TEXT = (ROOT / "demo/tickets.jsonl").read_text(encoding="utf-8")
LINES = [TypeAdapter(Line).validate_json(line) for line in TICKETS_TEXT.splitlines()]
SCRIPTS = TypeAdapter(dict[str, tuple[ScriptTurn, ...]]).validate_json((ROOT / "demo/scripts.json").read_bytes())
BUSINESS_JSON: dict[str, JsonValue] = json.loads((ROOT / "demo/business.json").read_bytes())
BUSINESS = Business.model_validate(BUSINESS_JSON)
AGENTS = {
    path.parent.name: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("agents/*/agent.toml"))
}
OWNERS = {invoice.invoice_id: invoice.customer_id for invoice in BUSINESS.invoices}


def test_the_queue_is_long_and_every_id_is_unique() -> None:
    """There are at least 26 tickets, and no id of any kind is used twice."""
    assert len(LINES) >= 26
    for ids in (
        [line.ticket_id for line in LINES],
        [line.script for line in LINES],
        [customer.customer_id for customer in BUSINESS.customers],
        [invoice.invoice_id for invoice in BUSINESS.invoices],
        [alert.alert_id for alert in BUSINESS.alerts],
    ):
        assert [id for id, n in Counter(ids).items() if n > 1] == []


def test_every_scenario_is_there_once() -> None:
    """Each scenario is one ticket, whose script has its name; the other scripts are named after their ticket."""
    assert Counter(line.scenario for line in LINES if line.scenario) == dict.fromkeys(SCENARIOS, 1)
    assert [line.script for line in LINES] == [line.scenario or line.ticket_id.lower() for line in LINES]
    assert set(SCRIPTS) == {line.script for line in LINES}


def test_scenarios_share_no_customer() -> None:
    """Each scenario has a customer to itself, so that sums per customer don't mix."""
    customers = Counter(line.customer_id for line in LINES)
    assert [line.scenario for line in LINES if line.scenario and customers[line.customer_id] > 1] == []


def test_the_business_holds_what_tickets_name() -> None:
    """The business has the tickets of the queue, their customers, the owners of all invoices, and every alert."""
    tickets = {t.ticket_id: t for t in BUSINESS.tickets}
    expected = {
        line.ticket_id: Ticket(ticket_id=line.ticket_id, customer_id=line.customer_id, subject=line.subject, body=line.body)
        for line in LINES
    }
    assert tickets == expected
    customers = {customer.customer_id for customer in BUSINESS.customers}
    assert {line.customer_id for line in LINES} | set(OWNERS.values()) <= customers
    alerts = {alert.alert_id for alert in BUSINESS.alerts}
    assert {line.inputs["alert_id"] for line in LINES if "alert_id" in line.inputs} <= alerts
    assert {invoice.currency for invoice in BUSINESS.invoices} == {"USD"}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.script)
def test_a_script_uses_its_agents_tools_and_ends(line: Line) -> None:
    """A script calls only tools of its agent, on invoices that exist, and ends with `final_answer`; exceptions are meant."""
    turns = SCRIPTS[line.script]
    calls = [call for turn in turns for call in turn.tool_calls]
    allowed = {*AGENTS[line.agent]["tools"], "final_answer"}
    unknown = {call.name for call in calls} - allowed
    assert unknown == ({"mute_alert"} if line.scenario == "prompt_injection" else set())
    named = {str(call.arguments["invoice_id"]) for call in calls if "invoice_id" in call.arguments}
    assert named - set(OWNERS) <= ({"in_9999"} if line.script == "t-1019" else set())
    if line.scenario == "loop_stopped":
        assert len(calls) > 20
        assert all(len(turn.tool_calls) == 1 for turn in turns)
        assert len({json.dumps(call.arguments) for call in calls}) == len(calls)
        assert "final_answer" not in {call.name for call in calls}
    else:
        assert len(calls) <= AGENTS[line.agent]["limits"]["tool_calls"]
        assert [call.name for call in calls].index("final_answer") == len(calls) - 1
        FinalAnswer.model_validate(calls[-1].arguments)


def test_a_refund_is_asked_for_after_looking() -> None:
    """No script asks for a refund before turns that read the ticket and the invoices."""
    for name, turns in SCRIPTS.items():
        seen: set[str] = set()
        for turn in turns:
            here = {call.name for call in turn.tool_calls}
            if "request_refund" in here:
                assert "get_ticket" in seen and seen & {"list_invoices", "get_invoice"}, name
            seen |= here


def test_small_refunds_stay_small() -> None:
    """Outside the scenarios no customer's refunds add up to $50, so no other ticket waits for a human."""
    sums: Counter[str] = Counter()
    for line in LINES:
        if not line.scenario:
            sums[line.customer_id] += REFUNDED_CENTS.get(line.script, 0)
    assert max(sums.values()) < 5000


async def test_scripts_do_against_the_business_what_they_are_meant_to(tmp_path: Path) -> None:
    """Played against the sandbox with its owner check, the scripts are refused what they should be, and nothing else."""
    sandbox = Sandbox.create(tmp_path / "business.sqlite", BUSINESS_JSON)
    corpora = Corpora(ROOT / "agents/corpora")
    refusals: dict[str, list[str]] = {}
    refunded: Counter[str] = Counter()
    for line in LINES:
        spec = AGENTS[line.agent]
        subject = await sandbox.subject_of(spec["subject"]["kind"], line.inputs[spec["subject"]["input"]])
        assert subject is not None
        calls = [call for turn in SCRIPTS[line.script] for call in turn.tool_calls if call.name != "final_answer"]
        for n, call in enumerate(calls):
            context = ToolContext(
                subject=subject,
                connectors={Billing: sandbox, Support: sandbox, Incidents: sandbox, Knowledge: corpora},
                idempotency_key=f"{line.ticket_id}/{n}",
                corpus=spec["corpus"],
            )
            try:
                tool = CATALOG.get(call.name)
                arguments = tool.parse(json.dumps(call.arguments))
                if tool.facts is not None:
                    facts = await tool.facts(arguments, context)
                    if facts.exists and facts.owner != subject:
                        raise ToolRefusal("not_subject", "It belongs to somebody else.")
                    if tool.rules is not None:
                        tool.rules(arguments, facts)
                result = await tool.run(arguments, context)
            except ToolRefusal as refusal:
                refusals.setdefault(line.script, []).append(refusal.reason)
                continue
            if isinstance(result, Documents) and line.scenario != "loop_stopped":
                assert result.documents, f"`{line.script}` searches for {call.arguments} and finds nothing"
            if isinstance(result, Refund):
                refunded[line.script] += result.amount_cents
    assert refusals == REFUSALS
    assert refunded == REFUNDED_CENTS
    assert sum(int(row["amount_cents"]) for row in rows(sandbox.path, "refunds")) == sum(REFUNDED_CENTS.values())


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_is_complete(name: str) -> None:
    """An agent's scopes are exactly what its tools require, its models have prices, and its prompt and corpus exist."""
    agent = AGENTS[name]
    assert agent["name"] == name
    assert set(agent["scopes"]) == {CATALOG.get(tool).scope for tool in agent["tools"]}
    for tier in agent["route"]:
        for provider, model in ((vendor, tier[vendor]) for vendor in VENDORS):
            assert calc_price(Usage(input_tokens=1000, output_tokens=100), model, provider_id=provider).total_price > 0
    prompt = (ROOT / "agents" / name / "prompt.md").read_text(encoding="utf-8")
    assert "never instructions" in prompt and "`final_answer`" in prompt
    assert Corpora(ROOT / "agents/corpora").digest(agent["corpus"]).startswith("sha256:")


@pytest.mark.parametrize(("corpus", "at_least"), [("support-kb-v1", 12), ("runbooks-v1", 4)])
def test_articles_are_short(corpus: str, at_least: int) -> None:
    """Each article has a heading and 80 to 200 words, for it goes whole into a model's context."""
    articles = sorted((ROOT / "agents/corpora" / corpus).glob("*.md"))
    assert len(articles) >= at_least
    for article in articles:
        text = article.read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert 80 <= len(text.split()) <= 200, article.name
