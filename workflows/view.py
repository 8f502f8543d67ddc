"""A run as markdown for the Temporal UI: the operator's cockpit. Pure."""

from datetime import UTC, datetime

from policies.approvals import Approval
from policies.models import Money
from workflows.state import RunState

__all__ = ["cockpit", "money", "usd"]

SHOWN_CALLS = 12


def usd(micro_usd: int) -> str:
    """Micro-USD as dollars, fine enough to show the price of one call."""
    return f"${micro_usd / 1_000_000:.4f}"


def money(amount: Money) -> str:
    """Cents as an amount that people read: `$49.00`, or `49.00 EUR`."""
    text = f"{amount.cents / 100:,.2f}"
    return f"${text}" if amount.currency == "USD" else f"{text} {amount.currency}"


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def cockpit(state: RunState, workflow_id: str) -> str:
    """Status, budgets, what waits for whom, and the last tool calls."""
    capsule, usage, limits = state.capsule, state.usage, state.limits
    lines = [f"## {state.start.agent}: {state.status.replace('_', ' ')}"]
    if state.simulated:
        lines.append("*Scripted model: answers and cost are simulated.*")
    if state.summary:
        lines.append(f"> {_cell(state.summary)}")
    if state.stopped_by:
        lines.append(f"Stopped by `{state.stopped_by}`.")
    if state.kill.engaged:
        acknowledged = "acknowledged" if state.kill.acknowledged_at else "being written"
        lines.append(f"**Kill switch on** ({acknowledged}): {_cell(state.kill.reason)}")
    lines += [_pending(approval, workflow_id) for approval in state.pending]
    lines += [
        "",
        "| Budget | Used | Limit |",
        "|---|---|---|",
        f"| Tool calls | {usage.tool_calls} | {limits.tool_calls} |",
        f"| Model calls | {usage.model_calls} | {limits.model_calls} |",
        f"| Tokens | {usage.input_tokens + usage.output_tokens:,} | {limits.tokens:,} |",
        f"| Model cost | {usd(usage.cost_micro_usd)} | {usd(limits.cost_micro_usd)} |",
    ]
    if state.calls:
        lines += ["", "| Step | Tool | On | Amount | Outcome |", "|---|---|---|---|---|"]
        for call in state.calls[-SHOWN_CALLS:]:
            amount = money(call.amount) if call.amount else ""
            outcome = f"{call.status} `{call.reason}`" if call.reason else call.status
            lines.append(f"| {call.step} | {_cell(call.tool)} | {_cell(call.resource)} | {amount} | {_cell(outcome)} |")
    if state.refused_total:
        lines += [
            "",
            f"**{state.refused_total} signals or updates were refused**; the last known: `{state.refused[-1].reason}`.",
        ]
    if capsule:
        lines += [
            "",
            f"For `{capsule.subject or 'no subject'}`, asked for by `{state.start.requester or 'unknown'}`; "
            f"policy `{capsule.bundle.version}`, mode `{capsule.agent.mode}`.",
        ]
    return "\n".join(lines)


def _pending(approval: Approval, workflow_id: str) -> str:
    request = approval.request
    amount = f" of **{money(request.amount)}**" if request.amount else ""
    have = ", ".join(approval.approvers) or "nobody yet"
    return "\n".join(
        [
            "",
            f"### Waiting for {request.required} of {' or '.join(request.roles) or 'nobody'}",
            f"`{request.tool}`{amount} on `{request.resource}`, approved by: {have}. Expires {_time(request.expires_at)}.",
            "",
            f"    remit approve {workflow_id} {request.approval_id} --as YOU --reason '...'",
            f"    remit sign {workflow_id} {request.approval_id} --as YOU --approve --reason '...'   # for the UI",
        ]
    )
