"""What is derived again of a run's acts: actions and their keys, capabilities, limits, costs, documents and prompts.

Each function takes one kind of thing, gives how many it checked, and raises `DoesNotHold` at the first that isn't right.
"""

from collections import Counter
from typing import cast

from activities.prices import cost_by
from activities.proposal import CLOCKS_APART_SECONDS
from activities.providers.base import ToolOffer
from policies import approvals, budgets
from policies.approvals import action_digest
from policies.canonical import sha256
from policies.capability import Keyring, Use, audience_of, verify
from policies.errors import RemitError, UsageLimitExceeded
from policies.models import Effect, Money, Usage
from policies.routing import ModelChoice
from remit.proof.capsule import CapabilityClaims, ToolCard
from remit.proof.case import Case, DoesNotHold, held, named
from remit.proof.lines import ModelLine, OutcomeLine, ToolLine
from remit.proof.prompts import answered, is_digest_of
from remit.proof.reading import fields, models_of
from workflows.messages import ModelTurn

__all__ = ["actions", "capabilities", "costs", "documents", "limits", "prompts"]


def actions(case: Case) -> int:
    """The idempotency key and the digest of each write, which no two share, and the amount of each call."""
    keys = Counter(line.idempotency_key for line in case.writes if line.idempotency_key)
    for line in case.tools:
        if case.redacted(line):
            continue  # what follows from its arguments is tried below
        about = case.resource(line.tool, line.arguments)
        held(line.validation == "invalid" or about in (None, line.resource), f"What {named(line)} is about isn't as said.")
        fits = line.validation == "invalid" or case.moves(line.tool, line.arguments, line.amount)
        held(fits, f"The amount of {named(line)} isn't that of its arguments.")
    for line in case.writes:
        if not line.idempotency_key:
            held(line.outcome.status != "done", f"{named(line).capitalize()} was done without an idempotency key.")
            continue
        if case.run.whole:
            done = (line.outcome.status == "done") == (_last(case, line) == "done")
            held(done, f"{named(line).capitalize()} says `{line.outcome.status}`, which isn't what the history has of it.")
        held(keys[line.idempotency_key] == 1, f"The idempotency key of {named(line)} is another call's, too.")
        action = case.action(line, line.arguments, approvals.editors(tuple(a for a in line.approvals if a.edit)))
        same = (action.idempotency_key, action_digest(action)) == (line.idempotency_key, line.action_digest)
        if not same and case.redacted(line):
            case.excuse(f"key and digest of {named(line)} can't be derived, for something in it was redacted")
            continue
        held(action.idempotency_key == line.idempotency_key, f"The idempotency key of {named(line)} isn't that of this call.")
        held(same, f"The digest of {named(line)} isn't that of this action.")
    return len(keys)


def _last(case: Case, line: ToolLine) -> str:
    """What the write's last execution came to; empty if it never ended."""
    found = ""
    for _, done in case.done:
        if done.name in ("execute_tool", "give_up") and fields(done.given).get("idempotency_key") == line.idempotency_key:
            found = str(fields(done.result).get("status"))
    return found


# ---- capabilities -------------------------------------------------------------------------------------------------


def capabilities(case: Case) -> int:
    """What was done was permitted, by a capability for it alone and in time; tokens in the file were signed by a worker."""
    claims = {c.id: c for c in case.file.contents.capabilities}
    held(len(claims) == len(case.file.contents.capabilities), "Two capabilities have one id.")
    try:
        ring = Keyring({}, {int(name): bytes.fromhex(key) for name, key in case.file.contents.root_keys.items()})
    except ValueError:
        raise DoesNotHold("The root keys can't be read.") from None
    for one in claims.values():
        held(one.run_id == case.pinned.run_id, f"The capability `{one.id}` is another run's.")
        _token(case, one, case.file.tokens[one.id], ring)
    if case.pinned.capability is None:
        return len(claims)  # from before there were any
    held(case.pinned.capability.id in claims, "The capability that the run was admitted with isn't there.")
    for line in case.tools:
        if line.outcome.status == "done":
            one = claims.get(line.capability)
            held(one, f"The capability of {named(line)} isn't there.")
            assert one
            _covers(case, line, one)
    return len(claims)


def _covers(case: Case, line: ToolLine, one: CapabilityClaims) -> None:
    where = f"The capability of {named(line)}"
    held(f"{line.tool}@{line.version}" in one.tools.split(","), f"{where} is for another tool.")
    held(one.subject == case.pinned.subject, f"{where} is for another subject.")
    if line.effect == "read":
        held(one.kind == "run", f"{where} isn't for reading.")
        return
    held(one.kind == "write", f"{where} isn't for a write.")
    held(one.resource == str(line.resource), f"{where} is for `{one.resource}`, not for `{line.resource}`.")
    moved = (line.amount.cents, line.amount.currency) if line.amount else (0, "")
    held((one.ceiling_cents, one.currency) == moved, f"{where} has another ceiling than what was moved.")
    held(one.idempotency_key == line.idempotency_key, f"{where} is for another write.")
    if line.approvals:
        until = line.approvals[-1].request.expires_at + CLOCKS_APART_SECONDS
        held(one.minted_at // 1000 < until, f"{where} was minted after its approval had expired.")
    at = _asked_at(case, line)
    if at is not None:
        held(at < one.expires_at + CLOCKS_APART_SECONDS, f"{where} had expired when the write was asked for.")
        revoked = one.revoked_at is not None and one.revoked_at // 1000 < at - CLOCKS_APART_SECONDS
        held(not revoked, f"{where} had been revoked.")


def _asked_at(case: Case, line: ToolLine) -> int | None:
    """When the write was asked for, in Unix seconds, by the clock of the history."""
    for number, done in case.done:
        if done.name == "execute_tool" and fields(done.given).get("idempotency_key") == line.idempotency_key:
            event = next(e for e in case.histories[number].events if e.event_id == done.event_id)
            return event.event_time.seconds
    return None


def _token(case: Case, claims: CapabilityClaims, token: str | None, ring: Keyring) -> None:
    if token is None:
        return
    where = f"The token of the capability `{claims.id}`"
    by_worker = claims.kind != "delegation" and claims.key_id.isdigit()
    if case.pins_redacted or not by_worker or int(claims.key_id) not in ring.public:
        return  # a person signed it; or a root key that was retired before the seal
    pinned = case.pinned
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
            resource=claims.resource,
            amount=Money(cents=claims.ceiling_cents, currency=claims.currency) if claims.currency else None,
            idempotency_key=claims.idempotency_key,
            audience=audience_of(token, ring),
            now=claims.minted_at // 1000,
        )
        verify(token, use, ring)
    except (RemitError, ValueError) as e:
        why = e.message if isinstance(e, RemitError) else "it can't be read."
        raise DoesNotHold(f"{where} doesn't permit what the ledger says of it: {why}") from None


# ---- limits and costs ---------------------------------------------------------------------------------------------


def limits(case: Case) -> int:
    """What the run used, summed again, and that it passed no limit."""
    usage, most = Usage(), case.pinned.limits
    failures: dict[str, int] = {}
    end = case.lines[-1]
    if not case.run.whole or not isinstance(end, OutcomeLine):
        return 0
    for line in case.lines:
        if isinstance(line, ModelLine):
            worn = next((tool for tool, tries in failures.items() if tries >= most.attempts_per_step), "")
            held(
                not worn,
                f"The run went on at line {line.seq}, though `{worn}` had failed {most.attempts_per_step} times in a row.",
            )
            try:
                budgets.check_model(usage, most)
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
            held(usage.tool_calls <= most.tool_calls, f"Line {line.seq} is tool call {usage.tool_calls} of {most.tool_calls}.")
            failures[line.tool] = 0 if line.outcome.status == "done" else failures.get(line.tool, 0) + line.outcome.attempt
    writes = sum(line.outcome.status == "done" for line in case.writes)
    allowed = case.pinned.write_limits.per_run
    held(allowed is None or writes <= allowed, f"The run wrote {writes} times; its limits let it write {allowed} times.")
    # Calls that never answered are in the history only, not in the trace.
    used = end.usage.model_copy(update={"unknown_cost_calls": usage.unknown_cost_calls})
    held(used == usage, "What the run used isn't the sum of its lines.")
    held(end.cost_usd == usage.cost_micro_usd / 1_000_000, "What the run cost isn't the sum of its model calls.")
    return len(case.models) + len(case.tools)


def costs(case: Case) -> int:
    """Each model call is the one in the history, and costs what its tokens cost by its prices."""
    rows = {row.digest: row for row in case.file.contents.prices}
    turns = models_of(case.histories)
    held(len(turns) == len(case.models), f"The trace has {len(case.models)} model calls, the history {len(turns)}.")
    for line, turn in zip(case.models, turns, strict=True):
        where = f"The model call of line {line.seq}"
        said = line.model_dump(include=_SAID)
        held(said == turn.model_dump(include=_SAID), f"{where} isn't what the history has.")
        row = rows.get(turn.price_digest)
        if row is None:
            case.excuse(f"the prices of `{turn.model}` aren't in the file, so what it cost can't be derived")
            continue
        held((row.provider, row.model) == (turn.provider, turn.model), f"{where} was priced as another model.")
        try:
            cost, digest = cost_by(row, turn.usage)
        except (ValueError, RemitError):
            raise DoesNotHold(f"The prices of `{turn.model}` can't be read.") from None
        held(digest == turn.price_digest, f"The prices of `{turn.model}` aren't those that its calls name.")
        held(cost == turn.cost_micro_usd, f"{where} cost {turn.cost_micro_usd} micro-USD; by its prices it is {cost}.")
    return len(turns)


_SAID = {"provider", "model", "usage", "cost_micro_usd", "price_digest", "request_digest", "latency_ms", "fallback_from"}


def documents(case: Case) -> tuple[int, str]:
    """Each document is the one that was read, by its digest."""
    found = {(d.document_id, d.digest) for d in case.file.contents.documents}
    whole = 0
    for document in case.file.contents.documents:
        if sha256(document.text.encode()) == document.digest:
            whole += 1
        else:
            redacted = "documents" in case.file.contents.redaction.parts and "[redacted:" in document.text
            held(redacted, f"The document `{document.document_id}` isn't the one that was read.")
    for line in case.tools:
        missing = next((d.document_id for d in line.documents if (d.document_id, d.digest) not in found), "")
        held(not missing, f"The document `{missing}`, which {named(line)} brought, isn't there.")
    return whole, f"{len(found) - whole} more with something redacted" if whole < len(found) else "digests"


async def prompts(case: Case) -> tuple[int, str]:
    """The exact request of each model call, built again from a replay, has the digest that was recorded."""
    calls, failure = await answered(case.histories)
    if failure:
        return 0, "today's code doesn't lead to the history"
    offers: list[tuple[Effect, ToolOffer]] = [
        (cast("Effect", card.card["effect"]), _offer(card)) for tool in case.pinned.tools if (card := case.cards.get(tool.name))
    ]
    exact, silent = 0, 0
    first_redacted = min(case.file.contents.redaction.events, default=None)
    for number, (asked, turn) in enumerate(calls):
        if asked is None or len(offers) < len(case.pinned.tools):
            silent += 1
        elif is_digest_of(asked.request(case.pinned, _choice(case, asked.call.tier, turn), offers), turn):
            exact += 1
        else:
            sent = f"The request of model call {number} isn't the one that was sent."
            held(first_redacted or case.pinned.privacy, sent)
            silent += 1
    if silent and case.pinned.privacy:
        return exact, f"{silent} more were sent with placeholders, or hold what is gone"
    return exact, f"{silent} more hold what was redacted or is gone" if silent else "as they were sent"


def _choice(case: Case, tier: int, turn: ModelTurn) -> ModelChoice:
    """The model of the pinned route that answered."""
    choices = case.pinned.route.choices(tier)
    found = next((c for c in choices if (c.provider, c.model) == (turn.provider, turn.model)), None)
    held(found, f"The model `{turn.model}` of `{turn.provider}` answered, which isn't in tier {tier} of the pinned route.")
    assert found
    return found


def _offer(card: ToolCard) -> ToolOffer:
    parameters = cast("dict[str, object]", card.card["arguments"])
    return ToolOffer(name=card.name, description=str(card.card["description"]), parameters=parameters)
