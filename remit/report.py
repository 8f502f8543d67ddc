"""`remit report`: what agents' runs came to in a period: as a table, as JSON, and as one page that needs nothing else."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policies.errors import NotFound, RemitError
from remit import render
from remit.options import AsJson
from remit.periods import since_of
from remit.settings import Settings, load

if TYPE_CHECKING:
    from activities.ledger.store import Ledger
    from activities.library import Library
    from remit.reporting.figures import Known, Report

__all__ = ["made", "report"]


def report(
    since: Annotated[
        str, typer.Option(help="How far back: `7d`, `12h`, `30m`, `4w`, or a UTC date such as `2026-11-01`.", metavar="PERIOD")
    ] = "7d",
    agent: Annotated[str | None, typer.Option(help="Only this agent's runs.", show_default=False)] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write it as one page to this file.", metavar="FILE", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report what agents' runs came to: success, escalation, cost, latency, approvals, refusals, and the return on it."""
    found = made(load(), since, agent)
    if html is not None:
        from remit.reporting.page import page

        html.write_text(page(found), encoding="utf-8")
    if as_json:
        render.print_json(found.model_dump(mode="json"))
    elif html is not None:
        runs, names = sum(a.all_runs.runs for a in found.agents), ", ".join(a.agent for a in found.agents)
        print(f"Written to {html}: {runs} {'run' if runs == 1 else 'runs'} of {names}.")
    else:
        from remit.reporting.table import tables

        out = render.console()
        for part in tables(found):
            out.print(part)


def made(settings: Settings, text: str, agent: str | None) -> "Report":
    """The report.

    Raises:
        InvalidInput: there is no such period.
        NotFound: there is no such agent, or no run of it ended in the period.
    """
    from activities.ledger import reports
    from activities.ledger.store import existing
    from remit.apps import assemble
    from remit.reporting.figures import report_of

    now = time.time()
    since = int(since_of(text, now) * 1000)
    library = assemble(settings).library
    with existing(settings.ledger) as ledger:
        with ledger.reading() as connection:
            if agent is not None and agent not in {*library.names(), *reports.agents(connection)}:
                raise NotFound(f"There is no agent `{agent[:80]}`; `remit agents` lists them.")
            ended = reports.ended(connection, since, int(now * 1000), agent)
        if not ended.runs:
            of = f" of `{agent}`" if agent else ""
            raise NotFound(f"No run{of} ended since {render.clock(since // 1000)}, so there is nothing to report.")
        known = {name: _known(library, ledger, name) for name in {run.agent for run in ended.runs} & {*library.names()}}
    return report_of(ended, {n: k for n, k in known.items() if k}, since, int(now * 1000))


def _known(library: "Library", ledger: "Ledger", name: str) -> "Known | None":
    """What the files say of the agent; None for one whose files can't be used, of which the figures hold all the same."""
    from activities.ceilings import outcome_cost
    from policies.value import judge
    from remit.reporting.figures import Known

    try:
        agent = library.agent(name)
        rules = library.bundle(agent.policy).limits().outcome
    except RemitError:
        return None
    own = Known(owner=agent.owner, mode=agent.mode, value=agent.value, ceiling_micro_usd=agent.value.ceiling_micro_usd)
    if rules is None:
        return own
    with ledger.reading() as connection:
        spending, figures = judge(rules, agent.value, outcome_cost(connection, name, rules))
    said = {"ceiling_micro_usd": figures.ceiling_micro_usd, "spending": spending, "figures": figures}
    return own.model_copy(update=said)
