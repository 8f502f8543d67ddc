"""What is checked of a capsule that says what was sealed: each function derives one thing again, from what was recorded.

Each gives how many it checked, and raises `DoesNotHold` at the first that isn't as the capsule says.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from temporalio.client import WorkflowHistory

from activities.model import TOLD
from activities.prices import cost_by
from activities.proposal import CLOCKS_APART_SECONDS
from policies import approvals, autonomy, budgets
from policies.approvals import Action, Approval, action_digest
from policies.authorize import authorize
from policies.bundle import CompiledPolicy
from policies.canonical import canonical_json, digest, sha256
from policies.capability import Keyring, Use, audience_of, verify
from policies.errors import ApprovalRefused, PolicyInvalid, RemitError, UsageLimitExceeded
from policies.identity import Directory
from policies.models import Usage
from remit.proof.capsule import CapabilityClaims, CapsuleFile, ToolCard
from remit.proof.lines import ModelLine, OutcomeLine, ToolLine, TraceLine
from remit.proof.reading import Done, activities
from workflows.keys import idempotency_key
from workflows.messages import Capsule, RecordedFacts

__all__ = ["Case", "DoesNotHold"]


class DoesNotHold(Exception):
    """The first thing that isn't as the capsule says, in one sentence."""


def held(holds: object, sentence: str) -> None:
    """Raises:
    DoesNotHold: with `sentence`, unless it holds.
    """
    if not holds:
        raise DoesNotHold(sentence)


@dataclass
class Case:
    """A capsule whose seal holds, as it is checked.

    Attributes:
        people: those who could decide, at admission and since.
        exceptions: what can't be derived again, for something in it was redacted; each is said once.
    """

    file: CapsuleFile
    histories: Sequence[WorkflowHistory]
    pinned: Capsule
    people: Directory
    lines: Sequence[TraceLine]
    exceptions: list[str] = field(default_factory=list[str])

    @cached_property
    def cards(self) -> dict[str, ToolCard]:
        return {card.name: card for card in self.file.contents.tools}

    @cached_property
    def models(self) -> list[ModelLine]:
        return [line for line in self.lines if isinstance(line, ModelLine)]

    @cached_property
    def tools(self) -> list[ToolLine]:
        return [line for line in self.lines if isinstance(line, ToolLine)]

    @cached_property
    def writes(self) -> list[ToolLine]:
        """Calls of tools that write, whose arguments could be read."""
        return [line for line in self.tools if line.effect == "write" and line.idempotency_key]

    @cached_property
    def done(self) -> list[tuple[int, Done]]:
        return [(number, done) for number, history in enumerate(self.histories) for done in activities(history)]

    def redacted(self, line: TraceLine) -> bool:
        return line.seq in self.file.contents.redaction.lines

    def excuse(self, what: str) -> None:
        """What can't be derived again for a redaction in it."""
        if what not in self.exceptions:
            self.exceptions.append(what)


def name(line: ToolLine) -> str:
    """How a sentence calls a tool call."""
    return f"line {line.seq} (`{line.tool}`, step {line.step})"


# ---- pins ---------------------------------------------------------------------------------------------------------


def pins(case: Case) -> int:
    """What the run was pinned to is what is in the file, by its digests."""
    pinned, contents, root = case.pinned, case.file.contents, case.file.root.root
    held(pinned.run_id == root.run_id, f"The history is of run `{pinned.run_id}`, the root of `{root.run_id}`.")
    held(pinned.workflow_id == root.workflow_id, f"The history is of `{pinned.workflow_id}`, the root of `{root.workflow_id}`.")
    held(contents.policy == pinned.bundle, f"The policy bundle isn't the pinned one, `{pinned.bundle.version}`.")
    held(contents.prompt == pinned.prompt + TOLD[pinned.agent.mode], "The prompt isn't the pinned one.")
    return 2 + _pinned_tools(case) + _release(case)


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
    if digest(contents.catalog) != case.pinned.catalog_digest:
        case.excuse("the worker that sealed the run knew other tools than the one that admitted it")
    return len(contents.tools)


def _release(case: Case) -> int:
    release, pinned = case.file.contents.release, case.pinned
    if release is None:
        return 0
    held(digest(release) == pinned.release, "The release isn't the pinned one.")
    held(release.prompt == digest(pinned.prompt), "The release has another prompt than the run was pinned to.")
    held(release.policy == pinned.bundle.digest, "The release has another policy than the run was pinned to.")
    held(release.route in ("", digest(pinned.route)), "The release has another route than the run was pinned to.")
    tools = {t.name: t.digest for t in pinned.tools}
    differ = min((n for n, d in release.tools.items() if tools.get(n) != d), default="")
    held(not differ, f"The release has another tool `{differ}` than the run was pinned to.")
    return 1


# ---- verdicts -----------------------------------------------------------------------------------------------------


def verdicts(case: Case) -> int:
    """Each verdict, from the recorded facts and the pinned policy."""
    policy = compiled(case)
    checked = 0
    for line in case.tools:
        if line.facts is None or line.verdict is None:
            continue
        found = autonomy.under(line.mode, authorize(policy, line.facts), line.effect)
        if found != line.verdict and case.redacted(line):
            case.excuse(f"the verdict of {name(line)} can't be derived from arguments that were redacted")
            continue
        held(
            found == line.verdict,
            f"The verdict of {name(line)} is `{line.verdict.decision}`; derived again it is `{found.decision}` "
            f"({', '.join(found.policy_ids) or found.reason or 'no policy permits it'}).",
        )
        checked += 1
    return checked


def compiled(case: Case) -> CompiledPolicy:
    """The pinned policy, against the schema in the file."""
    try:
        return CompiledPolicy.parse(case.pinned.bundle, canonical_json(case.file.contents.cedar_schema).decode())
    except (PolicyInvalid, ValueError) as e:
        raise DoesNotHold(f"The pinned policy doesn't fit the schema in the file: {e}") from None


def facts(case: Case) -> int:
    """What verdicts rest on is what the history recorded, of the world and of the run."""
    recorded = [RecordedFacts.model_validate(done.result) for _, done in case.done if done.name == "read_facts" and done.result]
    risen = {sum_ for _, done in case.done if (sum_ := _risen(done)) is not None}
    calls, tainted, step = 0, False, -1
    taint = False
    checked = 0
    for line in case.tools:
        if line.step != step:
            step, tainted = line.step, taint
            calls += sum(other.step == step for other in case.tools)
        card = case.cards.get(line.tool)
        if line.outcome.status == "done" and card and card.card.get("untrusted"):
            taint = True
        if line.facts is None:
            continue
        given, run = line.facts, line.facts.run
        where = f"The facts of {name(line)}"
        held(given.agent == case.pinned.agent, f"{where} are of another agent than the run was pinned to.")
        held(given.tool == line.tool and given.resource == line.resource, f"{where} are of another tool or resource.")
        held(run.subject == case.pinned.subject, f"{where} are of another subject than the run is for.")
        held(run.assurance == case.pinned.agent.assurance, f"{where} say another assurance than the agent has.")
        held(run.calls_used == calls, f"{where} say {run.calls_used} calls, and there were {calls}.")
        held(run.tainted == tainted, f"{where} say `tainted` is {str(run.tainted).lower()}, and it was {str(tainted).lower()}.")
        held(
            run.delegated == (case.pinned.delegation(line.tool) is not None), f"{where} say otherwise whether it was delegated."
        )
        arguments = {k: v for k, v in line.arguments.items() if v is not None}
        held(given.arguments == arguments, f"{where} have other arguments than the call.")
        if line.effect == "write":
            sums = {r.subject_sum_cents for r in recorded if r.facts == given.facts} | risen
            held(any(r.facts == given.facts for r in recorded), f"{where} say of `{line.resource}` what nobody recorded.")
            held(run.subject_sum_cents in sums, f"{where} say a sum of {run.subject_sum_cents} cents, which nobody recorded.")
        checked += 1
    return checked


def _risen(done: Done) -> int | None:
    """The sum with which a write came back, for it had risen."""
    result = done.result
    if done.name != "execute_tool" or not isinstance(result, dict):
        return None
    return cast("dict[str, int | None]", result).get("subject_sum_cents")


# ---- people -------------------------------------------------------------------------------------------------------


def decisions(case: Case) -> int:
    """Each approval is of exactly its action, and each decision signed by who says so, in time, with a role that counts."""
    checked = 0
    used: set[str] = set()
    for line in case.writes:
        edited_by: tuple[str, ...] = ()
        arguments = line.proposed
        for approval in line.approvals:
            request = approval.request
            where = f"approval `{request.approval_id}` of {name(line)}"
            held(request.approval_id not in used, f"The {where} was used before.")
            used.add(request.approval_id)
            if case.redacted(line):
                case.excuse(f"what {where} is bound to can't be derived from what was redacted")
                continue
            _bound(case, line, approval, edited_by, where)
            checked += _signed(case, approval, where)
            if approval.edit:
                edited_by = tuple(dict.fromkeys((*edited_by, approval.edit.sub)))
        _enough(case, line)
    return checked


def _bound(case: Case, line: ToolLine, approval: Approval, edited_by: tuple[str, ...], where: str) -> None:
    """The request is for this action, put with the times and the people that the pinned limits give."""
    request, pinned = approval.request, case.pinned
    held(request.edited_by == edited_by, f"The {where} names other people who edited it than did.")
    action = _action(case, line, request.arguments, request.edited_by)
    held(action_digest(action) == request.action_digest, f"The {where} isn't for the action that it shows.")
    held(request.tool == f"{line.tool}@{line.version}", f"The {where} is for another tool.")
    held(request.resource == _resource(case, line, request.arguments), f"The {where} is for another resource.")
    open_for = request.expires_at - request.requested_at
    held(open_for == pinned.limits.approval_seconds, f"The {where} was open for {open_for} s, not as long as the limits say.")
    allowed = pinned.approval_rules.roles_at((approval.escalated_at or request.requested_at) - request.requested_at)
    held(request.roles == allowed, f"The {where} was put before others than the limits say.")


def _signed(case: Case, approval: Approval, where: str) -> int:
    """The signatures, each verified again as of when it was given."""
    stands = Approval(request=approval.request)
    barred = frozenset({case.pinned.requester, case.pinned.agent.id})
    for given in approval.decisions:
        try:
            proven = approvals.verify_decision(
                given.decision_jws,
                request=approval.request,
                run_id=case.pinned.run_id,
                directory=case.people,
                now=given.decided_at,
                barred=barred,
                rules=case.pinned.approval_rules,
            )
            stands = approvals.add_decision(stands, proven)
        except ApprovalRefused as e:
            raise DoesNotHold(f"A decision of {where} counts for nothing: {e.message}") from None
        held(proven == given, f"A decision of {where} isn't what `{proven.sub}` signed.")
    ended = approval.status
    if stands.status in ("rejected", "cancelled"):
        held(ended == stands.status, f"The {where} is `{ended}`, but people made it `{stands.status}`.")
    elif stands.status == "pending":
        held(ended not in ("approved", "consumed", "rejected"), f"The {where} is `{ended}`, though nobody decided so.")
    else:
        held(ended in ("approved", "consumed", "cancelled"), f"The {where} is `{ended}`, but people approved it.")
    return len(approval.decisions)


def _enough(case: Case, line: ToolLine) -> None:
    """A write that was done had as many people as its verdict asked for, and each approval was used for one write only."""
    if line.outcome.status != "done" or line.verdict is None:
        return
    last = line.approvals[-1] if line.approvals else None
    required = line.verdict.approvals_required if line.verdict.decision == "require_approval" else 0
    people = len(set(last.approvers)) if last and last.status == "consumed" else 0
    held(people >= required, f"{name(line).capitalize()} was done with {people} approvals; its verdict asks for {required}.")
    if required and last:
        held(last.request.required == required, f"The approval of {name(line)} asked for another number of people.")
        held(last.request.action_digest == line.action_digest, f"{name(line).capitalize()} isn't the action that was approved.")


# ---- writes -------------------------------------------------------------------------------------------------------


def actions(case: Case) -> int:
    """The key and the digest of each write, which no two share."""
    keys = Counter(line.idempotency_key for line in case.writes)
    for line in case.writes:
        held(keys[line.idempotency_key] == 1, f"The idempotency key of {name(line)} is another call's, too.")
        if case.redacted(line):
            case.excuse(f"the key and the digest of {name(line)} can't be derived from arguments that were redacted")
            continue
        edited_by = approvals.editors(tuple(a for a in line.approvals if a.edit))
        action = _action(case, line, line.arguments, edited_by)
        held(action.idempotency_key == line.idempotency_key, f"The idempotency key of {name(line)} isn't that of this call.")
        held(
            not line.action_digest or action_digest(action) == line.action_digest,
            f"The digest of {name(line)} isn't that of this action.",
        )
        held(line.resource == _resource(case, line, line.arguments), f"{name(line).capitalize()} is about another resource.")
    return len(case.writes)


def _action(case: Case, line: ToolLine, arguments: Mapping[str, object], edited_by: tuple[str, ...]) -> Action:
    tool = f"{line.tool}@{line.version}"
    assert line.resource
    return Action(
        run_id=case.pinned.run_id,
        agent=case.pinned.agent.id,
        subject=case.pinned.subject,
        tool=tool,
        resource=_resource(case, line, arguments),
        arguments={**arguments},
        policy_digest=case.pinned.bundle.digest,
        idempotency_key=idempotency_key(case.pinned.workflow_id, line.step, line.index, tool, arguments),
        edited_by=edited_by,
    )


def _resource(case: Case, line: ToolLine, arguments: Mapping[str, object]) -> ResourceRef | None:
    card = case.cards.get(line.tool)
    if card is None:
        return line.resource
    kind, field_ = cast("list[str]", card.card["resource"])
    return ResourceRef(type=kind, id=str(arguments[field_]) if field_ else kind.lower())


def amounts(case: Case) -> int:
    """The money that a call moves is what its arguments say."""
    checked = 0
    for line in case.tools:
        card = case.cards.get(line.tool)
        named = cast("list[str]", card.card["amount"]) if card else []
        if line.resource is None or not named:
            continue
        cents, currency = (line.arguments.get(n) for n in named)
        found = line.amount.model_dump() if line.amount else None
        held(found == {"cents": cents, "currency": currency}, f"The amount of {name(line)} isn't that of its arguments.")
        checked += 1
    return checked


def capabilities(case: Case) -> int:
    """Each write that was done had one capability, for it alone and in time; tokens that are in the file are signed by a worker."""
    claims = {c.id: c for c in case.file.contents.capabilities}
    held(len(claims) == len(case.file.contents.capabilities), "Two capabilities have one id.")
    held(set(claims) == set(case.file.tokens), "The tokens aren't those of the capabilities.")
    ring = Keyring({}, {int(i): bytes.fromhex(x) for i, x in case.file.contents.root_keys.items()})
    for one in claims.values():
        held(one.run_id == case.pinned.run_id, f"The capability `{one.id}` is another run's.")
        _token(case, one, case.file.tokens[one.id], ring)
    if case.pinned.capability is None:
        return len(claims)  # from before there were any
    asked = {_key(done): _scheduled(case, number, done) for number, done in case.done if done.name == "execute_tool"}
    for line in case.writes:
        if line.outcome.status != "done":
            continue
        one = claims.get(line.capability)
        where = f"The capability of {name(line)}"
        held(one, f"{where} isn't there.")
        assert one
        held(one.kind == "write" and f"{line.tool}@{line.version}" in one.tools.split(","), f"{where} is for another tool.")
        held(one.resource == str(line.resource), f"{where} is for `{one.resource}`, not for `{line.resource}`.")
        cents, currency = (line.amount.cents, line.amount.currency) if line.amount else (0, "")
        held((one.ceiling_cents, one.currency) == (cents, currency), f"{where} has another ceiling than it moved.")
        held(one.idempotency_key == line.idempotency_key, f"{where} is for another write.")
        held(one.subject == case.pinned.subject, f"{where} is for another subject.")
        at = asked.get(line.idempotency_key)
        held(at is None or at <= one.expires_at, f"{where} had expired when the write was asked for.")
        last = line.approvals[-1].request.expires_at if line.approvals else one.minted_at // 1000
        held(one.minted_at // 1000 <= last + CLOCKS_APART_SECONDS, f"{where} was minted after its approval had expired.")
        revoked = one.revoked_at is not None and at is not None and one.revoked_at // 1000 < at - CLOCKS_APART_SECONDS
        held(not revoked, f"{where} had been revoked.")
    return len(claims)


def _token(case: Case, claims: CapabilityClaims, token: str | None, ring: Keyring) -> None:
    if token is None:
        return
    where = f"The token of the capability `{claims.id}`"
    held(sha256(token.encode()) == claims.token_sha256, f"{where} isn't the one whose digest was sealed.")
    if claims.kind == "delegation" or int(claims.key_id or 0) not in ring.public:
        return  # signed by a person, as the pinned delegation says, or by a root key that was retired before the seal
    pinned = case.pinned
    resource, key = claims.resource, claims.idempotency_key
    money = Money(cents=claims.ceiling_cents, currency=claims.currency) if claims.ceiling_cents else None
    try:
        use = Use(
            workflow_id=pinned.workflow_id,
            run_id=pinned.run_id,
            agent=pinned.agent.id,
            capsule=pinned.digest,
            policy_digest=pinned.bundle.digest,
            subject=claims.subject,
            corpus=pinned.corpus,
            tool=claims.tools.split(",")[0],
            resource=resource,
            amount=money,
            idempotency_key=key,
            audience=audience_of(token, ring),
            now=claims.minted_at // 1000,
        )
        verify(token, use, ring)
    except RemitError as e:
        raise DoesNotHold(f"{where} doesn't permit what the ledger says of it: {e.message}") from None


def _key(done: Done) -> str:
    return str(fields(done.given).get("idempotency_key", ""))


def _scheduled(case: Case, number: int, done: Done) -> int:
    """When the activity was asked for, in Unix seconds."""
    event = next(e for e in case.histories[number].events if e.event_id == done.event_id)
    return event.event_time.seconds


# ---- what it took -------------------------------------------------------------------------------------------------


def costs(case: Case) -> int:
    """Each model call is what the history has, and costs what its prices give."""
    rows = {row.digest: row for row in case.file.contents.prices}
    turns = models_of(case.histories)
    held(len(turns) == len(case.models), f"The trace has {len(case.models)} model calls, the history {len(turns)}.")
    for line, turn in zip(case.models, turns, strict=True):
        where = f"The model call of line {line.seq}"
        said = (line.provider, line.model, line.cost_micro_usd, line.price_digest, line.request_digest, line.latency_ms)
        was = (turn.provider, turn.model, turn.cost_micro_usd, turn.price_digest, turn.request_digest, turn.latency_ms)
        held(said == was and line.usage == turn.usage, f"{where} isn't what the history recorded.")
        row = rows.get(turn.price_digest)
        if row is None:
            case.excuse(f"the prices of `{turn.model}` aren't in the file, so what it cost can't be derived")
            continue
        held((row.provider, row.model) == (turn.provider, turn.model), f"{where} was priced as another model.")
        try:
            cents, named = cost_by(row, turn.usage)
        except (ValueError, RemitError):
            raise DoesNotHold(f"The prices of `{turn.model}` can't be read.") from None
        held(named == turn.price_digest, f"The prices of `{turn.model}` aren't those that it was priced by.")
        held(cents == turn.cost_micro_usd, f"{where} cost {turn.cost_micro_usd} micro-USD; by its prices it is {cents}.")
    return len(turns)


def limits(case: Case) -> int:
    """What the run used, summed again, and that no limit was passed."""
    usage, limits = Usage(), case.pinned.limits
    failures: dict[str, int] = {}
    for line in case.lines:
        if isinstance(line, ModelLine):
            worn = next((tool for tool, tries in failures.items() if tries >= limits.attempts_per_step), "")
            held(
                not worn,
                f"The run went on at line {line.seq}, though `{worn}` had failed {limits.attempts_per_step} times in a row.",
            )
            try:
                budgets.check_model(usage, limits)
            except UsageLimitExceeded as e:
                raise DoesNotHold(f"The model was called at line {line.seq}, beyond a limit: {e.message}") from None
            usage = budgets.charge_model(
                usage,
                input_tokens=line.usage.input_tokens,
                output_tokens=line.usage.output_tokens,
                cost_micro_usd=line.cost_micro_usd,
            )
        elif isinstance(line, ToolLine):
            usage = usage.model_copy(update={"tool_calls": usage.tool_calls + 1})
            held(
                usage.tool_calls <= limits.tool_calls,
                f"Line {line.seq} is tool call {usage.tool_calls} of {limits.tool_calls}.",
            )
            failures[line.tool] = 0 if line.outcome.status == "done" else failures.get(line.tool, 0) + line.outcome.attempt
    writes = sum(line.outcome.status == "done" for line in case.writes)
    most = case.pinned.write_limits.per_run
    held(most is None or writes <= most, f"The run wrote {writes} times; its limits let it write {most} times.")
    end = case.lines[-1]
    held(isinstance(end, OutcomeLine) and end.usage == usage, "What the run used isn't the sum of its calls.")
    return len(case.models) + len(case.tools)


def documents(case: Case) -> int:
    """Each document is the one that was read, and each that was read is there."""
    held_ones = {(d.document_id, d.digest) for d in case.file.contents.documents}
    for document in case.file.contents.documents:
        if sha256(document.text.encode()) != document.digest:
            held(
                "documents" in case.file.contents.redaction.parts,
                f"The document `{document.document_id}` isn't the one that was read.",
            )
            case.excuse(f"the document `{document.document_id}` can't be compared, for something in it was redacted")
    return len(held_ones)
