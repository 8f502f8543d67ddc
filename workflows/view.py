"""A run as markdown for the Temporal UI: the operator's cockpit. Pure.

The UI (2.54) gives tables no padding, flattens nested lists, shows HTML entities as they stand, links every bare URL and lets
code blocks run out of their pane. So whatever others wrote, and every command, goes into a code span: it wraps, it stands
apart, and nothing in it is markdown.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from policies.approvals import Approval
from policies.models import Usage
from policies.value import usd
from workflows.messages import AssistantMessage
from workflows.state import OPEN, RunState, parse_message

__all__ = ["cockpit", "unknown_cost", "usd"]

SHOWN_CALLS = 12
SHOWN_TEXT = 600
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}")
VERBS = {"approve": "approved", "reject": "rejected", "edit": "edited"}
DECIDED = {"consumed": "approved and carried out", "approved": "approved", "pending": "waiting"}


def unknown_cost(usage: Usage) -> str:
    """What stands behind a cost that isn't the whole of it."""
    lost = usage.unknown_cost_calls
    return f" at least; {lost} model {'call' if lost == 1 else 'calls'} of unknown cost" if lost else ""


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _code(text: str, most: int = SHOWN_TEXT) -> str:
    """`text` as one code span that no content can break out of, also inside a table."""
    flat = " ".join(text.split()).replace("`", "'").replace("|", "\u00a6")
    short = flat if len(flat) <= most else flat[: most - 2] + " \u2026"
    return f"`{short}`" if short else ""


def _given(arguments: Mapping[str, object]) -> str:
    return _code(", ".join(f"{k}={v}" for k, v in arguments.items() if v is not None))


def _command(verb: str, workflow_id: str, rest: str = "") -> str:
    # Whoever starts a run chooses its id, and operators paste these commands: an id that a shell could read isn't shown in one.
    run = workflow_id if PLAIN.fullmatch(workflow_id) else "RUN"
    return _code(f"remit {verb} {run}{rest} --reason '...'", 1000)


def cockpit(state: RunState, workflow_id: str) -> str:
    """What the run is for, what waits for whom, what was done and refused, and what it cost."""
    capsule, start = state.capsule, state.start
    inputs = ", ".join(f"{k}={v}" for k, v in start.inputs.items())
    lines = [f"## {_code(start.agent, 100)}: {state.status.replace('_', ' ')}", "", f"For {_code(inputs, 200) or 'no inputs'}"]
    if capsule and capsule.subject:
        lines[-1] += f" ({_code(capsule.subject, 200)})"
    lines[-1] += f", asked for by {_code(start.requester, 200)}." if start.requester else ", requester not given."
    if state.simulated:
        lines[-1] += " *Scripted model: answers and cost are simulated.*"
    lines += _ending(state)
    for approval in state.pending:
        lines += _pending(state, approval, workflow_id)
    lines += _calls(state)
    lines += _decided(state)
    lines += _budgets(state)
    if state.refused_total:
        last = state.refused[-1]
        lines += ["", f"**{state.refused_total} signals counted for nothing**; one at {_time(last.at)}: {_code(last.message)}"]
    if capsule:
        model = _code(state.model) or "not asked yet"
        lines += ["", f"Policy {_code(capsule.bundle.version)}, mode {_code(state.mode or '')}, model {model}."]
        if capsule.withheld:
            lines[-1] += f" Not offered: {'; '.join(f'{_code(w.name)}, {w.why}' for w in capsule.withheld)}."
    if state.fallbacks:
        lines[-1] += f" Answered by a fallback: {state.fallbacks}, last for {_code(state.fell_back_from)}."
    for move in state.moves:
        lines[-1] += f" Moved up to tier {move.tier} at step {move.step}: {_code(move.words)}."
    if state.retries:
        lines[-1] += f" Model calls repeated: {state.retries}, last for {_code(state.last_retry)}."
    if capsule and capsule.over_ceiling:
        lines[-1] += f" It keeps to the cheaper model: {_code(capsule.over_ceiling.words)}."
    if state.status in OPEN:
        lines += [
            "",
            f"To stop it: {_command('kill', workflow_id)}, or `Request Cancellation` above. "
            "Not `Terminate`: that writes no kill row, so a write in flight may still happen.",
        ]
    return "\n".join(lines)


def _ending(state: RunState) -> list[str]:
    lines: list[str] = []
    for pause in state.pauses.values():
        lines += ["", f"**Paused** ({_code(pause.scope or 'this run')}): {_code(pause.reason)}"]
    if (waiting := state.waiting) and state.status in OPEN:
        again = f"asked again {_time(waiting.next_try)}" if waiting.next_try else "asked again now"
        lines += [
            "",
            f"**Waits for {_code(waiting.provider)}** since {_time(waiting.since)}, after {waiting.tries} tries {again}: "
            f"{_code(waiting.message)}",
        ]
    if state.kill.engaged:
        by = f" by {_code(state.kill.by, 200)} (as they said)" if state.kill.by else ""
        sure = "no write can start any more" if state.kill.acknowledged_at else "**not in force yet**: being written"
        lines += ["", f"**Killed**{by}, {sure}. Reason: {_code(state.kill.reason)}"]
    elif state.stopped_by:
        lines += ["", f"**Ended by** {_code(state.stopped_by)}: {_code(state.summary)}"]
    elif state.summary:
        lines += ["", f"The model's own closing words, which nobody checked: {_code(state.summary)}"]
    return lines


def _words(state: RunState) -> str:
    """What the model said with the calls that are being carried out."""
    for text in reversed(state.messages):
        message = parse_message(text)
        if isinstance(message, AssistantMessage):
            return message.text
    return ""


def _people(names: tuple[str, ...]) -> str:
    return ", ".join(_code(n) for n in names)


def _pending(state: RunState, approval: Approval, workflow_id: str) -> list[str]:
    request, have = approval.request, approval.approvers
    amount = f" **{request.amount}**" if request.amount else ""
    left = request.required - len(have)
    barred = {*have, state.start.requester, *request.edited_by}
    people = [_code(p.sub) for p in state.directory.people if {*p.roles} & {*request.roles} and p.sub not in barred]
    others = f", and whoever logs in as {' or '.join(_code(r) for r in request.roles)}" if state.directory.live else ""
    who = f" {request.approval_id} --as PERSON"
    return [
        "",
        f"### Waits for {left} {'more ' if have else ''}{'person' if left == 1 else 'people'}",
        "",
        f"{_code(request.tool)}{amount} on {_code(str(request.resource))}, expires {_time(request.expires_at)}",
        "",
        f"- exactly: {_given(request.arguments)}",
        *([f"- edited by {_people(request.edited_by)}, who may not approve it"] if request.edited_by else []),
        *(["- a proposal: the agent is in `draft` mode and writes nothing by itself"] if request.proposal else []),
        f"- asked for by policy: {', '.join(_code(p) for p in request.policy_ids) or 'unknown'}",
        f"- the model's reason, not checked: {_code(_words(state)) or 'none given'}",
        f"- approved by: {', '.join(_code(a) for a in have) or 'nobody yet'}",
        f"- may decide: {', '.join(people) or 'nobody that the directory knows'}{others}",
        *_escalation(state, approval),
        f"- approve: {_command('approve', workflow_id, who)}",
        f"- reject: {_command('reject', workflow_id, who)}",
        f"- change an argument: {_command('edit', workflow_id, who + ' --set NAME=VALUE')}",
        f"- from this page: {_command('sign', workflow_id, who + ' --approve')}, then `More Actions`, `Send a Signal`, "
        "`Custom`, name `decide`, and paste what it printed",
    ]


def _escalation(state: RunState, approval: Approval) -> list[str]:
    """Who was asked later, or will be."""
    request, lines = approval.request, list[str]()
    if approval.escalated_at is not None:
        lines.append(f"- escalated {_time(approval.escalated_at)}: nobody had decided, so {_people(request.roles)} may")
    for step in state.capsule.approval_rules.escalation if state.capsule else ():
        at = request.requested_at + step.after_seconds
        if (approval.escalated_at or 0) < at < request.expires_at:
            lines.append(f"- from {_time(at)} on {_people(step.roles)} may decide too")
    return lines


def _calls(state: RunState) -> list[str]:
    calls = state.calls
    if not calls:
        return []
    refused = sum(c.status != "done" for c in calls)
    lines = ["", f"### Tool calls that were answered: {len(calls)}, {refused} of them refused", ""]
    if state.segments:
        lines += [f"And {sum(s.calls for s in state.segments)} before them, described in storage.", ""]
    if len(calls) > SHOWN_CALLS:
        lines += [f"The last {SHOWN_CALLS}; all of them: query `status`, or `remit show`.", ""]
    lines += ["| Step | Tool | On | Amount | Outcome |", "|---|---|---|---|---|"]
    for call in calls[-SHOWN_CALLS:]:
        amount = _code(str(call.amount)) if call.amount else ""
        outcome = (
            f"**{call.status}** {_code(call.reason)} {_code(call.detail, 120)}".rstrip() if call.status != "done" else "done"
        )
        lines.append(f"| {call.step} | {_code(call.tool)} | {_code(call.resource, 80)} | {amount} | {outcome} |")
    return lines


def _decided(state: RunState) -> list[str]:
    lines: list[str] = []
    for approval in state.approvals.values():
        request = approval.request
        if approval.status == "pending":
            continue
        amount = f" **{request.amount}**" if request.amount else ""
        # The UI flattens nested lists, so each decision is an item of its own.
        what = f"{_code(request.approval_id)} {_code(request.tool)}{amount} on {_code(str(request.resource))}"
        lines.append(f"- {what}: **{DECIDED.get(approval.status, approval.status)}**")
        for d in approval.decisions:
            why = _code(d.reason) or "no reason given"
            to = f" to {_given(d.arguments)}" if d.arguments is not None else ""
            lines.append(
                f"- {_code(request.approval_id)} {VERBS[d.decision]} by {_code(d.sub)}, {_time(d.decided_at)}{to}: {why}"
            )
    return ["", "### Decisions of people", "", *lines] if lines else []


def _budgets(state: RunState) -> list[str]:
    usage, limits = state.usage, state.limits
    until = f"; open until {_time(state.deadline)}" if state.deadline and state.status in OPEN else ""
    tokens = usage.input_tokens + usage.output_tokens
    return [
        "",
        f"### Cost {usd(usage.cost_micro_usd)}{unknown_cost(usage)}",
        "",
        f"of {usd(limits.cost_micro_usd)}; tool calls {usage.tool_calls} of {limits.tool_calls}; "
        f"model calls {usage.model_calls} of {limits.model_calls}; tokens {tokens:,} of {limits.tokens:,}{until}",
    ]
