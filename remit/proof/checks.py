"""What is derived again of a run's authority: pins, verdicts, the facts that they rest on, and what people decided.

Each function takes one kind of thing, gives how many it checked, and raises `DoesNotHold` at the first that isn't right.
"""

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from typing import cast

from activities.model import TOLD
from policies import approvals, autonomy
from policies.approvals import Approval, action_digest
from policies.authorize import authorize
from policies.bundle import CompiledPolicy
from policies.canonical import canonical_json, digest
from policies.errors import ApprovalRefused, PolicyInvalid
from policies.models import Effect, Verdict
from remit.proof.case import Case, DoesNotHold, held, named
from remit.proof.lines import DroppedLine, Judgement, ModelLine, OutcomeLine, ToolLine
from remit.proof.reading import Done, fields
from remit.proof.sealing import key_id_of
from tools.catalog import Catalog
from workflows.messages import RecordedFacts

__all__ = ["decisions", "facts", "pins", "schema", "verdicts"]

# ---- pins ---------------------------------------------------------------------------------------------------------


def pins(case: Case) -> int:
    """What the run was pinned to is what is in the file."""
    pinned, contents, root, run = case.pinned, case.file.contents, case.file.root.root, case.run
    held(pinned.run_id == root.run_id == run.run_id, f"The history is of run `{pinned.run_id}`, the root of `{root.run_id}`.")
    held(pinned.workflow_id == root.workflow_id == run.workflow_id, "The history is of another workflow than the root.")
    held(contents.policy == pinned.bundle, f"The policy bundle isn't the pinned one, `{pinned.bundle.version}`.")
    held(contents.prompt == pinned.prompt + TOLD[pinned.agent.mode], "The prompt isn't the pinned one.")
    if case.pins_redacted:
        case.excuse("what the run was pinned to holds something that was redacted, so nothing has its digests any more")
        return 2
    said = (run.capsule, run.policy_digest, run.prompt_digest, run.catalog_digest, run.release, run.directory)
    are = (pinned.digest, pinned.bundle.digest, digest(pinned.prompt), pinned.catalog_digest, pinned.release)
    held(said == (*are, digest(pinned.directory)), "The run's line has other digests than what the run was pinned to.")
    names = (run.identity, run.requester, run.subject, run.tools, run.limits, run.route, run.delegations)
    pinned_names = (pinned.agent, pinned.requester, pinned.subject, pinned.tools, pinned.limits, pinned.route)
    held(names == (*pinned_names, pinned.delegations), "The run's line says other things than what the run was pinned to.")
    return 8 + _pinned_tools(case) + _release(case)


def _pinned_tools(case: Case) -> int:
    contents = case.file.contents
    for card in contents.tools:
        held(digest(card.card) == card.digest, f"The tool `{card.name}` has another digest than the file says.")
        held(card.card.get("id") == f"{card.name}@{card.version}", f"The tool `{card.name}` is called otherwise on its card.")
        pinned = next((t for t in case.pinned.tools if t.name == card.name), None)
        held(pinned and pinned.digest == card.digest, f"The tool `{card.name}` isn't one that the run was pinned to.")
        held(contents.catalog.get(card.name) == card.digest, f"The tool `{card.name}` isn't in the catalog as it was pinned.")
    for tool in case.pinned.tools:
        if tool.name not in case.cards:
            case.excuse(f"the tool `{tool.name}` had changed when the run was sealed, and isn't in the file as it was")
    return len(contents.tools)


def _release(case: Case) -> int:
    release, pinned = case.file.contents.release, case.pinned
    if release is None:
        return 0
    held(digest(release) == pinned.release, "The release isn't the pinned one.")
    held(release.prompt == digest(pinned.prompt), "The release has another prompt than the run was pinned to.")
    held(release.policy == pinned.bundle.digest, "The release has another policy than the run was pinned to.")
    held(release.route in ("", digest(pinned.route)), "The release has another route than the run was pinned to.")
    tools, withheld = {t.name: t.digest for t in pinned.tools}, {w.name for w in pinned.withheld}
    differ = min((n for n, d in release.tools.items() if tools.get(n) != d and n not in withheld), default="")
    held(not differ, f"The release has another tool `{differ}` than the run was pinned to.")
    return 1


def schema(case: Case, today: Catalog) -> str:
    """The schema is what these tools give, where today's code has the same ones; a note of what it was compared with."""
    if {n: s.digest for n, s in today.specs.items()} != case.file.contents.catalog:
        return "the schema as it is in the file"  # of tools that this code doesn't have, or has otherwise
    held(
        case.file.contents.cedar_schema == json.loads(today.cedar_schema),
        "The schema that policies are checked against isn't the one that these tools give.",
    )
    return "the schema as the tools give it"


# ---- verdicts -----------------------------------------------------------------------------------------------------


def verdicts(case: Case) -> int:
    """Each verdict, from the recorded facts and the pinned policy."""
    policy = _policy(case)
    checked = 0
    for seq, tool, effect, judgement in _judgements(case):
        if judgement.verdict is None:
            continue
        where = f"line {seq} (`{tool}`)"
        found = autonomy.under(judgement.mode, authorize(policy, judgement.facts), effect)
        if found != judgement.verdict and seq in case.file.contents.redaction.lines:
            case.excuse(f"the verdict of {where} can't be derived from arguments that were redacted")
            continue
        held(
            found == judgement.verdict,
            f"The verdict of {where} is {_said(judgement.verdict)}; derived again, it is {_said(found)}.",
        )
        checked += 1
    for line in case.writes:
        if line.outcome.status == "done" and line.facts and line.mode:
            people = len({*line.approvals[-1].approvers}) if line.approvals else 0
            run = line.facts.run.model_copy(update={"approvals": people})
            last = authorize(policy, line.facts.model_copy(update={"run": run}))
            allowed = autonomy.under(line.mode, last, "write", people).decision == "allow"
            if not allowed and case.redacted(line):
                continue  # said above
            held(allowed, f"The policy doesn't permit {named(line)}, which was done, with the approvals of {_people(people)}.")
            checked += 1
    return checked


def _judgements(case: Case) -> Iterator[tuple[int, str, Effect, Judgement]]:
    for line in case.lines:
        if isinstance(line, ToolLine):
            for judgement in case.judgements(line):
                yield line.seq, line.tool, line.effect, judgement
        elif isinstance(line, DroppedLine):
            for tool, judgement in case.dropped(line):
                card = case.cards.get(tool)
                effect: Effect = cast("Effect", card.card["effect"]) if card else "write"
                yield line.seq, tool, effect, judgement


def _policy(case: Case) -> CompiledPolicy:
    """The pinned policy, against the schema in the file."""
    try:
        return CompiledPolicy.parse(case.pinned.bundle, canonical_json(case.file.contents.cedar_schema).decode())
    except (PolicyInvalid, ValueError) as e:
        raise DoesNotHold(f"The pinned policy doesn't fit the schema in the file: {' '.join(str(e).split())[:200]}") from None


def _said(verdict: Verdict) -> str:
    people = f" of {verdict.approvals_required}" if verdict.approvals_required else ""
    return f"`{verdict.decision}`{people} ({', '.join(verdict.policy_ids) or verdict.reason or 'no policy'})"


def _people(count: int) -> str:
    return "one person" if count == 1 else f"{count} people"


def facts(case: Case) -> int:
    """What verdicts rest on is what the history recorded of the world, and what the trace says of the run."""
    recorded = [RecordedFacts.model_validate(done.result) for _, done in case.done if done.name == "read_facts"]
    risen = {total for _, done in case.done if (total := _risen(done)) is not None}
    used, asked, tier, tainted, taints, step = 0, 0, 1, False, False, -1
    checked = 0
    for line in case.lines:
        if isinstance(line, ModelLine) and line.purpose == "decides":
            if line.step != step:
                used, tainted = used + sum(t.step == step for t in case.tools), taints
            step, asked, tier = line.step, line.calls, case.pinned.route.policy_tier(line.tier)
        found: list[tuple[str, Judgement]] = []
        if isinstance(line, ToolLine):
            found = [(line.tool, j) for j in case.judgements(line)]
            card = case.cards.get(line.tool)
            taints = taints or bool(line.outcome.status == "done" and card and card.card.get("untrusted"))
        elif isinstance(line, DroppedLine):
            found = case.dropped(line)
        for tool, judgement in found:
            where, run = f"The facts of line {line.seq} (`{tool}`)", judgement.facts.run
            _of_the_run(case, tool, judgement, where)
            if case.run.whole and isinstance(line, ToolLine):
                held(run.calls_used == used + asked, f"{where} say {run.calls_used} calls; the trace has {used + asked}.")
                held(run.model_tier == tier, f"{where} say tier {run.model_tier}; tier {tier} decided.")
                held(run.tainted == tainted, f"{where} say otherwise than the trace whether text from outside was read before.")
            given = judgement.facts.facts
            if given is not None:
                same = [r for r in recorded if r.facts == given]
                held(same, f"{where} say of `{judgement.facts.resource}` what the history doesn't.")
                sums = {r.subject_sum_cents for r in same} | risen
                held(
                    run.subject_sum_cents in sums, f"{where} say a sum of {run.subject_sum_cents} cents, which was never read."
                )
            checked += 1
    return checked


def _of_the_run(case: Case, tool: str, judgement: Judgement, where: str) -> None:
    given, pinned = judgement.facts, case.pinned
    held(given.agent == pinned.agent, f"{where} are of another agent than the run was pinned to.")
    held(given.tool == tool, f"{where} are of another tool.")
    held(given.run.subject == pinned.subject, f"{where} are of another subject than the run is for.")
    held(given.run.assurance == pinned.agent.assurance, f"{where} say another assurance than the agent has.")
    held(given.run.approvals == 0, f"{where} say that people had approved before they were asked.")
    delegated = pinned.delegation(tool) is not None
    held(given.run.delegated == delegated, f"{where} say otherwise than the pins whether the tool was delegated.")
    arguments = {k: v for k, v in judgement.arguments.items() if v is not None}
    held(given.arguments == arguments, f"{where} have other arguments than were judged.")
    about = case.resource(tool, judgement.arguments)
    held(about in (None, given.resource), f"{where} are of another resource.")
    most = pinned.agent.mode if pinned.held_to_mode else "live"
    held(autonomy.lowest(judgement.mode, most) == judgement.mode, f"{where} were judged in a mode beyond the agent's.")


def _risen(done: Done) -> int | None:
    """The sum with which a write came back, for it had risen."""
    total = fields(done.result).get("subject_sum_cents") if done.name == "execute_tool" else None
    return total if isinstance(total, int) else None


# ---- people -------------------------------------------------------------------------------------------------------


def decisions(case: Case) -> int:
    """Each approval is for exactly its action; each decision is signed by who could decide, in time; and there are enough."""
    checked = 0
    used: set[str] = set()
    for line in case.tools:
        edited_by: tuple[str, ...] = ()
        for approval in line.approvals:
            where = f"approval `{approval.request.approval_id}` of {named(line)}"
            held(line.effect == "write", f"The {where} is for a call that writes nothing.")
            held(approval.request.approval_id not in used, f"The {where} is in the trace twice.")
            used.add(approval.request.approval_id)
            try:
                _bound(case, line, approval, edited_by, where)
                checked += _signed(case, approval, where)
            except DoesNotHold:
                if not case.redacted(line):
                    raise
                case.excuse(f"who decided on {where} can't be derived, for something in it was redacted")
            if approval.edit:
                edited_by = tuple(dict.fromkeys((*edited_by, approval.edit.sub)))
        _enough(case, line)
    return checked


def _bound(case: Case, line: ToolLine, approval: Approval, edited_by: tuple[str, ...], where: str) -> None:
    """The request is for this action, and was put with the times and before the people that the pinned limits give."""
    request, pinned = approval.request, case.pinned
    held(request.edited_by == edited_by, f"The {where} names others as its editors than edited it.")
    action = case.action(line, request.arguments, edited_by)
    held(action_digest(action) == request.action_digest, f"The {where} isn't for the action that it shows.")
    held((request.tool, request.resource) == (action.tool, action.resource), f"The {where} is for another tool or resource.")
    held(case.moves(line.tool, request.arguments, request.amount), f"The {where} shows another amount than it is for.")
    open_for = request.expires_at - request.requested_at
    held(open_for == pinned.limits.approval_seconds, f"The {where} was open for {open_for} s, which isn't what the limits say.")
    roles = pinned.approval_rules.roles_at((approval.escalated_at or request.requested_at) - request.requested_at)
    held(request.roles == roles, f"The {where} was put before others than the limits say.")
    verdicts = [j.verdict for j in case.judgements(line) if j.verdict and j.arguments == request.arguments]
    asked = [v for v in verdicts if (v.approvals_required, v.policy_ids) == (request.required, request.policy_ids)]
    held(asked, f"The {where} asks for {_people(request.required)}, which no verdict on this action does.")


def _signed(case: Case, approval: Approval, where: str) -> int:
    """The signatures, each verified again as of when it was given."""
    stands = Approval(request=approval.request)
    for given in approval.decisions:
        try:
            proven = approvals.verify_decision(
                given.decision_jws,
                request=approval.request,
                run_id=case.pinned.run_id,
                directory=case.people,
                now=given.decided_at,
                barred=frozenset({case.pinned.requester, case.pinned.agent.id}),
                rules=case.pinned.approval_rules,
            )
            stands = approvals.add_decision(stands, proven)
        except ApprovalRefused as e:
            raise DoesNotHold(f"A decision of {where} counts for nothing: {e.message}") from None
        held(proven == given, f"A decision of {where} isn't what `{proven.sub}` signed.")
        if known := case.people.by_key(approvals.claimed_key(given.decision_jws)):
            case.deciders[proven.sub] = key_id_of(urlsafe_b64decode(f"{known[1].x}="))
    ends = {
        "pending": ("pending", "expired", "cancelled"),
        "approved": ("approved", "consumed", "cancelled"),
        "rejected": ("rejected",),
        "cancelled": ("cancelled",),
    }[stands.status]
    held(approval.status in ends, f"The {where} is `{approval.status}`, which isn't what people decided.")
    return len(approval.decisions)


def _enough(case: Case, line: ToolLine) -> None:
    """A write that was done had as many people as its verdict asked for, and they approved this action."""
    consumed = [a for a in line.approvals if a.status == "consumed"]
    done = line.outcome.status == "done"
    held(
        len(consumed) <= 1 and (done or not consumed),
        f"An approval of {named(line)} was used for nothing, or more than one was.",
    )
    if not done or line.effect == "read":
        return
    end = case.lines[-1]
    if not consumed and isinstance(end, OutcomeLine) and end.closed_by in ("terminated", "timed_out"):
        consumed = [a for a in line.approvals[-1:] if a.status == "approved"]  # it ended before it could count it as used
    verdict = line.verdict
    required = verdict.approvals_required if verdict and verdict.decision == "require_approval" else 0
    people = len({*consumed[0].approvers}) if consumed else 0
    held(
        people >= required, f"{named(line).capitalize()} was done with the approval of {_people(people)}; it needs {required}."
    )
    if consumed:
        same = consumed[0].request.action_digest == line.action_digest and consumed[0] == line.approvals[-1]
        held(same, f"{named(line).capitalize()} isn't the action that was approved.")
    edit = next((a.edit for a in reversed(line.approvals) if a.edit), None)
    if edit and not case.redacted(line):
        signed = edit.arguments or {}
        same = {**line.arguments, **signed} == line.arguments
        held(same, f"{named(line).capitalize()} has other arguments than `{edit.sub}` signed.")
