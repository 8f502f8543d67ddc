"""A report as one page: no script, nothing from elsewhere, and a policy that forbids both."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from remit.reporting import charts, words
from remit.reporting.figures import AgentReport, Figures, Report
from remit.reporting.table import SUMMARY, figures_of, row

__all__ = ["page"]

HERE = Path(__file__).parent


def page(report: Report) -> str:
    """The page, as text to be written in UTF-8."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    # What agents and apps named themselves is escaped wherever it stands.
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        # A style's content is compared with this byte for byte.
        policy=f"default-src 'none'; style-src 'sha256-{hashed}'; img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # noqa: S704  (our own file)
        period=words.period(report),
        simulated=words.simulated(report),
        columns=SUMMARY,
        rows=[row(agent) for agent in report.agents],
        overview=charts.overview(report),
        agents=[_section(agent, n) for n, agent in enumerate(report.agents, 1)],
    )


def _section(agent: AgentReport, number: int) -> dict[str, object]:
    return {
        "name": agent.agent,
        "owner": agent.known.owner if agent.known else "",
        "tiles": [(name, value) for name, value in _tiles(agent.all_runs) if value],
        "charts": charts.of_agent(agent, number),
        "columns": figures_of(agent)[0],
        "rows": figures_of(agent)[1],
        "notes": [*words.assumptions(agent), *words.spending(agent)],
    }


def _tiles(found: Figures) -> list[tuple[str, str]]:
    least, cost = words.AT_LEAST, words.unit_cost(found)
    return [
        ("Runs", str(found.runs)),
        ("Task success", words.percent(found.success)),
        ("Human escalation", words.percent(found.escalation)),
        # In a tile there is room for a sign, but not for the words.
        ("Cost per completed", ("\u2265 " if least in cost else "") + cost.removesuffix(least)),
        ("Latency, p95", words.seconds(found.latency.p95)),
        ("Approval wait, p95", words.seconds(found.approvals.wait.p95)),
        ("Prompt cache hits", words.hit_rate(found.caching)),
        ("Net return", words.money(found.value.net_micro_usd) if found.value else ""),
    ]
