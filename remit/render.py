"""Runs, approvals, agents and tools as tables for a terminal. Nothing is fetched or decided here."""

import json
import os
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from activities.ledger.rows import Capability, Effect
from policies.approvals import Approval, ApprovalDecision
from policies.models import Money
from remit.client import RunRow
from workflows.messages import RunSummary
from workflows.view import unknown_cost, usd

__all__ = [
    "STATUS_STYLE",
    "approvals",
    "capabilities",
    "clock",
    "console",
    "effects",
    "findings",
    "print_json",
    "runs",
    "show",
    "table",
]

PIPED_WIDTH = 200
"""Where nobody looks, lines are long: what is piped into `grep` must not be folded."""
STATUS_STYLE = {
    "completed": "green",
    "running": "cyan",
    "admitted": "cyan",
    "waiting_for_approval": "yellow",
    "waiting_for_provider": "yellow",
    "escalated": "magenta",
    "stopped": "yellow",
    "killed": "red",
    "failed": "red",
    "assigned": "blue",
}


def console(*, stderr: bool = False) -> Console:
    found = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = PIPED_WIDTH
    return found


def print_json(value: object) -> None:
    """One JSON value on stdout, and nothing else."""
    print(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False))


def clock(seconds: int | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds else ""


def status(name: str) -> str:
    style = STATUS_STYLE.get(name, "white")
    return f"[{style}]{escape(name.replace('_', ' '))}[/]"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain table; cells may hold rich markup, so escape what others wrote."""
    found = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        found.add_column(column, overflow="fold", no_wrap=column in ("Run", "Agent", "Tool", "Approval"))
    for row in rows:
        found.add_row(*row)
    return found


def runs(rows: Sequence[RunRow]) -> Table:
    return table(
        "",
        ("Run", "Agent", "Status", "Cost", "Started", "Closed"),
        (
            (
                escape(r.workflow_id),
                escape(r.agent),
                status(r.status),
                "" if r.cost_usd is None else f"${r.cost_usd:.4f}",
                clock(r.started_at),
                clock(r.closed_at),
            )
            for r in rows
        ),
    )


def approvals(found: Sequence[tuple[str, Approval]]) -> Table:
    return table(
        "",
        ("Run", "Approval", "Action", "On", "Amount", "Needs", "Have", "Expires"),
        (
            (
                escape(workflow_id),
                a.request.approval_id,
                escape(a.request.tool + _note(a)),
                escape(str(a.request.resource)),
                str(a.request.amount) if a.request.amount else "",
                f"{a.request.required} of {escape('/'.join(a.request.roles))}{' (escalated)' if a.escalated_at else ''}",
                escape(", ".join(a.approvers) or "nobody"),
                clock(a.request.expires_at),
            )
            for workflow_id, a in found
        ),
    )


def _note(approval: Approval) -> str:
    """Whose proposal it is, where that isn't the agent's own decision alone."""
    if approval.request.edited_by:
        return f" (edited by {', '.join(approval.request.edited_by)})"
    return " (a draft agent's proposal)" if approval.request.proposal else ""


def findings(rows: Sequence[tuple[str, str, str, str, str]]) -> Table:
    """Run, approval, action, resource, and what today's policy would do."""
    return table("", ("Run", "Approval", "Action", "On", "Today it would"), (tuple(map(escape, row)) for row in rows))


EFFECT_STYLE = {"done": "green", "failed": "red", "indeterminate": "magenta", "reserved": "cyan", "sent": "cyan"}


def effects(rows: Sequence[Effect]) -> Table:
    return table(
        "",
        ("Key", "Run", "Action", "On", "Amount", "State", "Reserved", "Outcome"),
        (
            (
                escape(e.idempotency_key),
                escape(e.workflow_id),
                escape(e.tool),
                escape(e.resource),
                str(Money(cents=e.amount_cents, currency=e.currency)) if e.currency else "",
                f"[{EFFECT_STYLE.get(e.state, 'white')}]{escape(e.state)}[/]",
                clock(e.reserved_at // 1000),
                escape(e.outcome),
            )
            for e in rows
        ),
    )


def capabilities(rows: Sequence[Capability]) -> Table:
    def amount(row: Capability) -> str:
        return str(Money(cents=row.ceiling_cents, currency=row.currency)) if row.currency else ""

    def state(row: Capability) -> str:
        if row.revoked_at is not None:
            return f"revoked by {row.revoked_by}: {row.revoked_reason}"
        return ("until " if row.expires_at > time.time() else "ended ") + clock(row.expires_at)

    return table(
        "",
        ("Capability", "Kind", "Agent", "Tools", "For", "On", "At most", "By", "State"),
        (
            tuple(
                escape(text) for text in (r.id, r.kind, r.agent, r.tools, r.subject, r.resource, amount(r), r.issuer, state(r))
            )
            for r in rows
        ),
    )


def _decision(approval: Approval, decision: ApprovalDecision) -> str:
    """Who decided what and why; of an edit, what it changed."""
    changed = ""
    if decision.arguments is not None:
        before = approval.request.arguments
        names = (n for n in {**before, **decision.arguments} if before.get(n) != decision.arguments.get(n))
        changed = ", ".join(f"{n}={json.dumps(decision.arguments.get(n), ensure_ascii=False)}" for n in names)
    return " ".join(filter(None, (f"{decision.sub}: {decision.decision}", changed, decision.reason)))


def _fallback(run: RunSummary) -> str:
    if not run.fallbacks:
        return ""
    answers = "1 answer" if run.fallbacks == 1 else f"{run.fallbacks} answers"
    return f"; {answers} from a fallback ({escape(run.fell_back_from)})"


def show(run: RunSummary) -> list[object]:
    """One run, for people: what it is, what it did, who allowed it."""
    usage, limits = run.usage, run.limits
    facts = [
        ("Status", status(run.status) + (f" by `{escape(run.stopped_by)}`" if run.stopped_by else "")),
        ("Summary", escape(run.summary)),
        ("Agent", f"{escape(run.agent)}, mode {run.mode or 'not admitted'}"),
        ("For", escape(run.subject or "no subject")),
        ("Asked by", escape(run.requester or "unknown")),
        ("Policy", escape(run.policy_version)),
        ("Release", run.release[:19] + (f", arm {run.arm}, the candidate at {run.stage} %" if run.arm else "")),
        (
            "Model",
            escape(run.model) + (" (scripted: answers and cost are simulated)" if run.simulated else "") + _fallback(run),
        ),
        (
            "Used",
            f"{usage.tool_calls}/{limits.tool_calls} tool calls, {usage.model_calls}/{limits.model_calls} model calls, "
            f"{usage.input_tokens + usage.output_tokens:,} tokens, {usd(usage.cost_micro_usd)}{unknown_cost(usage)}",
        ),
    ]
    if about := run.classification:
        labels = escape(", ".join(about.labels)) or "no class that was read"
        facts.append(("About", f"{labels}, with confidence {about.confidence:g}, as the cheapest model says"))
    facts += [("Moved up", escape(f"to tier {m.tier} at step {m.step}, for {m.why}: {m.words}")) for m in run.moves]
    if run.withheld:
        facts.append(("Not offered", escape("; ".join(f"{w.name}, {w.why}" for w in run.withheld))))
    if waiting := run.waiting:
        again = f"asked again {clock(waiting.next_try)}" if waiting.next_try else "asked again now"
        tries = "1 try" if waiting.tries == 1 else f"{waiting.tries} tries"
        told = f"since {clock(waiting.since)}, {tries} in vain, {again}"
        facts.append(("Waits for", f"[yellow]`{escape(waiting.provider)}`[/] {told}: {escape(waiting.message)}"))
    if run.retries:
        last = f"last for {escape(run.last_retry)}"
        facts.append(("Retries", f"{run.retries} model {'call' if run.retries == 1 else 'calls'} repeated, {last}"))
    facts += [
        ("Paused", f"[yellow]since {clock(p.since)}[/], {escape(p.scope or 'this run')}: {escape(p.reason)}")
        for p in run.pauses
    ]
    if run.over_ceiling:
        facts.append(("Ceiling", f"[yellow]kept to the cheaper model[/]: {escape(run.over_ceiling.words)}"))
    if run.kill.engaged:
        state = f"acknowledged {clock(run.kill.acknowledged_at)}" if run.kill.acknowledged_at else "not acknowledged yet"
        facts.append(("Kill switch", f"[red]on[/], {state}: {escape(run.kill.reason)}"))
    parts: list[object] = [f"[bold]{escape(run.workflow_id)}[/]", table("", ("", ""), facts)]
    if run.calls:
        parts.append(
            table(
                "\nTool calls",
                ("Step", "Tool", "On", "Amount", "Outcome", "Policies"),
                (
                    (
                        str(c.step),
                        escape(c.tool),
                        escape(c.resource),
                        str(c.amount) if c.amount else "",
                        escape(f"{c.status} {c.reason}".strip()),
                        ", ".join(c.policy_ids),
                    )
                    for c in run.calls
                ),
            )
        )
    if run.approvals:
        parts.append(
            table(
                "\nApprovals",
                ("Approval", "Action", "Amount", "Status", "Decisions"),
                (
                    (
                        a.request.approval_id,
                        escape(f"{a.request.tool} {a.request.resource}{_note(a)}"),
                        str(a.request.amount) if a.request.amount else "",
                        f"{a.status} ({len(a.approvers)} of {a.request.required})"
                        + (f", escalated {clock(a.escalated_at)}" if a.escalated_at else ""),
                        escape("; ".join(_decision(a, d) for d in a.decisions)),
                    )
                    for a in run.approvals
                ),
            )
        )
    if run.refused_total:
        last = run.refused[-1]
        parts.append(
            f"\n[red]{run.refused_total} signals or updates were refused[/]; `{escape(last.name)}`: {escape(last.message)}"
        )
    return parts
