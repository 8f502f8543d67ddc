"""One tool call of a turn: granted, parsed, judged, named, observed. Pure; what is awaited in between is the loop's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from policies import approvals, autonomy
from policies.approvals import Action, Approval, ApprovalRequest
from policies.authorize import authorize
from policies.bundle import compile_policy
from policies.errors import ToolRefusal
from policies.models import ActionFacts, AutonomyMode, Money, ResourceRef, Verdict
from policies.privacy import first_placeholder
from policies.value import WITHHELD
from tools.catalog import Catalog
from tools.results import READ_MORE
from tools.spec import Arguments, ToolSpec
from workflows.action import action_of, facts_of
from workflows.answer import answer_error
from workflows.messages import (
    FINAL_ANSWER,
    AssistantMessage,
    Capsule,
    ExecuteTool,
    ReadFacts,
    ReadTool,
    RecordedFacts,
    ToolCallView,
    ToolMessage,
    ToolOutcome,
    ToolRequest,
)
from workflows.state import OpenCall, OpenTurn, RunState

__all__ = ["Bound", "Call", "Turn", "Watcher"]


@dataclass(frozen=True)
class Bound:
    """A tool and the typed arguments that the model gave it."""

    spec: ToolSpec
    arguments: Arguments

    @property
    def resource(self) -> ResourceRef:
        return self.spec.resource(self.arguments)

    @property
    def amount(self) -> Money | None:
        return self.spec.amount(self.arguments)

    @property
    def values(self) -> dict[str, object]:
        return self.arguments.model_dump(mode="json")


@dataclass(frozen=True)
class Call:
    """A tool call that the model proposed.

    Attributes:
        index: its place in the turn; with the step it names the call for good.
        slot: where its result goes in the transcript.
        bound: None when the tool isn't granted or its arguments don't parse.
        refusal: why it won't be made.
        edits: the approvals that ended with an edit of it, oldest first.
        rounds: how often it was put before people already.
    """

    index: int
    slot: int
    request: ToolRequest
    bound: Bound | None = None
    recorded: RecordedFacts | None = None
    verdict: Verdict | None = None
    refusal: ToolRefusal | None = None
    edits: tuple[Approval, ...] = ()
    rounds: int = 0


class Watcher(Protocol):
    """Is told of each judgement and each outcome, in the replay from which a trace is made; a run that works has none."""

    def judged(self, turn: "Turn", call: Call) -> None: ...

    def observed(self, turn: "Turn", call: Call, outcome: ToolOutcome) -> None: ...


@dataclass(frozen=True)
class Turn:
    """The calls of one model turn, judged against one run.

    Attributes:
        edited: what people made of calls, by index.
    """

    state: RunState
    capsule: Capsule
    catalog: Catalog
    calls_used: int
    edited: dict[int, Call] = field(default_factory=dict[int, Call])
    watcher: Watcher | None = None

    @property
    def mode(self) -> AutonomyMode:
        """What the agent is held to here. The policy alone holds one that was admitted before this did."""
        pinned = self.capsule.agent.mode if self.capsule.held_to_mode else "live"
        return autonomy.lowest(pinned, self.state.stepped_down or "live")

    @staticmethod
    def requests(message: AssistantMessage, *, strict: bool) -> list[tuple[int, ToolRequest]]:
        """The calls that count: all but a `final_answer` that stands alone.

        Args:
            strict: whether one that can't be read counts too, so that the model is told what is wrong with it.
        """
        if len(message.tool_calls) == 1 and message.tool_calls[0].name == FINAL_ANSWER:
            return [(0, message.tool_calls[0])] if strict and answer_error(message.tool_calls[0].arguments) else []
        return list(enumerate(message.tool_calls))

    def propose(self, index: int, request: ToolRequest) -> Call:
        """The call, if the agent may use the tool and its arguments parse."""
        call = Call(index=index, slot=self.state.length + 1 + index, request=request)
        try:
            if index == 0 and request.name == FINAL_ANSWER and (wrong := answer_error(request.arguments)):
                raise ToolRefusal("validation_failed", wrong)
            spec = self._granted(request.name)
            if self.capsule.privacy and (unknown := first_placeholder(request.arguments)):
                raise ToolRefusal("unknown_placeholder", f"`{unknown}` stands for nothing here; use those that you were shown.")
            bound = Bound(spec, spec.parse(request.arguments))
            if spec.name == READ_MORE and bound.resource.id not in self.state.refs:
                raise ToolRefusal("unknown_ref", f"This run has no result `{bound.resource.id}`.")
            return replace(call, bound=bound)
        except ToolRefusal as e:
            return replace(call, refusal=e)

    def leave_open(self, calls: Sequence[Call], done: Mapping[int, ToolOutcome]) -> OpenTurn:
        """This turn for the history that goes on with it; `done` is what came of calls, by index."""

        def left(call: Call) -> OpenCall:
            # What was carried out is shown as people edited it.
            shown = self.edited.get(call.index, call) if call.index in done else call
            return OpenCall(
                index=shown.index,
                slot=shown.slot,
                request=shown.request,
                recorded=shown.recorded,
                verdict=shown.verdict,
                refused=(shown.refusal.reason, shown.refusal.message) if shown.refusal else None,
                edits=shown.edits,
                rounds=shown.rounds,
                outcome=done.get(call.index),
            )

        return OpenTurn(calls_used=self.calls_used, calls=tuple(left(c) for c in calls))

    @classmethod
    def reopened(
        cls, state: RunState, capsule: Capsule, catalog: Catalog, turn: OpenTurn, watcher: Watcher | None = None
    ) -> tuple[Self, list[Call]]:
        """The turn that an earlier history left open, and its calls. A tool that has changed since is refused."""
        found = cls(state, capsule, catalog, turn.calls_used, watcher=watcher)
        calls = [found._reopened(c) for c in turn.calls]
        found.edited.update({c.index: c for c in calls if c.edits})
        return found, calls

    def _reopened(self, left: OpenCall) -> Call:
        call = replace(
            self.propose(left.index, left.request),
            slot=left.slot,
            recorded=left.recorded,
            verdict=left.verdict,
            edits=left.edits,
            rounds=left.rounds,
        )
        return replace(call, refusal=ToolRefusal(*left.refused)) if left.refused else call

    def _granted(self, name: str) -> ToolSpec:
        if name == FINAL_ANSWER:
            raise ToolRefusal("not_alone", "Call `final_answer` alone, after you have seen the results of the other calls.")
        spec = self.catalog.get(name)
        pinned = next((t for t in self.capsule.tools if t.name == name), None)
        if pinned is None:
            raise ToolRefusal("not_granted", f"This agent may not use `{name}`.")
        if pinned.digest != spec.digest:
            raise ToolRefusal("tool_changed", f"`{name}` has changed since this run was admitted.")
        return spec

    def facts_wanted(self, call: Call) -> ReadFacts | None:
        """What must be asked of the world before `call` can be judged; only writes need it."""
        if call.bound is None or call.bound.spec.effect == "read" or not autonomy.offered(self.mode, "write"):
            return None
        capsule = self.capsule
        return ReadFacts(
            subject=capsule.subject,
            tool=call.bound.spec.name,
            arguments=call.request.arguments,
            capsule=capsule.digest,
            corpus=capsule.corpus,
            capability=self.state.capability_id,
            admitted=capsule if capsule.capability else None,
            write=self.write(call, call.bound, None) if capsule.capability else None,
        )

    def edit(self, call: Call, bound: Bound, approval: Approval) -> Call:
        """The call with the arguments that somebody put in the place of the model's; it must be judged as a new one."""
        arguments = json.dumps(approval.edit.arguments if approval.edit else None, sort_keys=True, ensure_ascii=False)
        request = call.request.model_copy(update={"arguments": arguments})
        made = Bound(bound.spec, bound.spec.parse(arguments))
        call = Call(call.index, call.slot, request, made, edits=(*call.edits, approval))
        self.edited[call.index] = call
        return call

    def judge(self, call: Call, recorded: RecordedFacts | None) -> Call:
        """The call with its verdict: the mode, the subject binding, the business rules, then the policy."""
        found = self._judged(call, recorded)
        if self.watcher:
            self.watcher.judged(self, found)
        return found

    def _judged(self, call: Call, recorded: RecordedFacts | None) -> Call:
        bound = call.bound
        if bound is None:
            return call
        call = replace(call, recorded=recorded)
        try:
            autonomy.check(self.mode, bound.spec.effect)
            if recorded:
                bound.spec.bind(bound.arguments, recorded.facts, self.capsule.subject)
                bound.spec.check(bound.arguments, recorded.facts)
            policy = compile_policy(self.capsule.bundle, self.catalog.cedar_schema)
            verdict = autonomy.under(self.mode, authorize(policy, self.facts(bound, recorded)), bound.spec.effect)
        except ToolRefusal as e:
            return replace(call, refusal=e)
        refusal = ToolRefusal("denied", f"Policy: {verdict.reason}.") if verdict.decision == "deny" else None
        if verdict.route_strong and self.capsule.over_ceiling:
            refusal = ToolRefusal(WITHHELD, self.capsule.over_ceiling.refusal)
        return replace(call, verdict=verdict, refusal=refusal)

    def facts(self, bound: Bound, recorded: RecordedFacts | None) -> ActionFacts:
        """All that the verdict depends on, next to the policy."""
        capsule, state = self.capsule, self.state
        return facts_of(
            capsule,
            bound.spec,
            bound.arguments,
            calls_used=self.calls_used,
            approvals=0,
            model_tier=capsule.route.policy_tier(state.tier),
            tainted=state.tainted,
            subject_sum_cents=recorded.subject_sum_cents if recorded else 0,
            facts=recorded.facts if recorded else None,
        )

    def action(self, call: Call, bound: Bound) -> Action:
        """What exactly is approved and performed."""
        return action_of(
            self.capsule,
            bound.spec,
            bound.arguments,
            step=self.state.step,
            index=call.index,
            edited_by=approvals.editors(call.edits),
        )

    def approval_request(self, call: Call, bound: Bound, rounds: int, now: int) -> ApprovalRequest:
        """What is put before people; `rounds` counts how often this call was put before them already."""
        action = self.action(call, bound)
        return ApprovalRequest(
            approval_id=f"ap-{self.state.step}-{call.index}" + (f"-{rounds}" if rounds else ""),
            action_digest=approvals.action_digest(action),
            tool=bound.spec.id,
            resource=bound.resource,
            arguments=bound.values,
            amount=bound.amount,
            required=call.verdict.approvals_required if call.verdict else 0,
            roles=self.capsule.approver_roles,
            policy_ids=call.verdict.policy_ids if call.verdict else (),
            requested_at=now,
            expires_at=now + self.state.limits.approval_seconds,
            edited_by=approvals.editors(call.edits),
            edit_of=call.edits[-1].request.approval_id if call.edits else "",
            proposal=self.mode == "draft",
        )

    def read(self, call: Call, bound: Bound) -> ReadTool:
        capsule = self.capsule
        return ReadTool(
            capsule=capsule.digest,
            subject=capsule.subject,
            corpus=capsule.corpus,
            tool=bound.spec.name,
            arguments=call.request.arguments,
            call_id=call.request.id,
            slot=call.slot,
            capability=self.state.capability_id,
            result_bytes=capsule.result_bytes,
        )

    def write(self, call: Call, bound: Bound, approval: approvals.Approval | None) -> ExecuteTool:
        """The write, still without the capability that is minted for it."""
        action = self.action(call, bound)
        return ExecuteTool(
            capsule=self.capsule.digest,
            step=self.state.step,
            index=call.index,
            slot=call.slot,
            call_id=call.request.id,
            tool=bound.spec.name,
            arguments=call.request.arguments,
            idempotency_key=action.idempotency_key,
            action_digest=approvals.action_digest(action),
            calls_used=self.calls_used,
            model_tier=self.capsule.route.policy_tier(self.state.tier),
            tainted=self.state.tainted,
            approval=approval,
            edits=call.edits,
        )

    def observe(self, call: Call, outcome: ToolOutcome) -> None:
        """Put the outcome into the transcript, and count it as a success or as failed tries of its tool."""
        call = self.edited.get(call.index, call)
        if self.watcher:
            self.watcher.observed(self, call, outcome)
        state, name, bound = self.state, call.request.name, call.bound
        if outcome.status == "done":
            state.succeeded(name)
            content = outcome.content
            if outcome.ref and outcome.ref not in state.refs:
                state.refs.append(outcome.ref)
            state.tainted = state.tainted or bool(bound and bound.spec.untrusted)
        else:
            state.failed(name, outcome.attempt)
            state.tally = state.tally.refused(outcome.reason or outcome.status)
            left = max(0, state.limits.attempts_per_step - state.failures[name])
            error = {"code": outcome.reason or outcome.status, "message": outcome.content, "attempts_left": left}
            edited = {"edited_by_people": approvals.edit_note(call.edits)} if call.edits else {}
            content = json.dumps({"error": error, **edited}, sort_keys=True, ensure_ascii=False)
        state.append(ToolMessage(call_id=call.request.id, name=name, content=content))
        state.calls.append(
            ToolCallView(
                step=state.step,
                tool=name[:80],
                resource=str(bound.resource) if bound else "",
                amount=bound.amount if bound else None,
                status=outcome.status,
                reason=outcome.reason,
                detail="" if outcome.status == "done" else outcome.content[:300],
                policy_ids=call.verdict.policy_ids if call.verdict else (),
                idempotency_key=self.action(call, bound).idempotency_key if bound and bound.spec.effect == "write" else "",
            )
        )
