"""`remit inbox` and `remit approvals`: what waits for people, and what today's policies would make of it."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from policies.approvals import Approval
from policies.authorize import authorize
from policies.autonomy import lowest, under
from policies.bundle import Bundle, compile_policy
from policies.errors import RemitError
from policies.models import Frozen
from remit import render
from remit.client import Remit
from remit.connection import connect
from remit.options import AsJson
from remit.settings import load
from workflows.messages import RunSummary

if TYPE_CHECKING:
    from remit.apps import Parts

__all__ = ["Finding", "Today", "approvals", "print_waiting", "today"]

approvals = typer.Typer(help="What waits for people.", invoke_without_command=True)
Waiting = list[tuple[RunSummary, Approval]]


class Finding(Frozen):
    """A pending approval that today's policy would treat otherwise than the one that its run was admitted with."""

    workflow_id: str
    approval_id: str
    tool: str
    resource: str
    pinned: str
    today: str
    would: str


class Today:
    """The policies as they lie in their folders now."""

    def __init__(self, parts: "Parts | None" = None) -> None:
        """Raises:
        RemitError: the library or the app can't be used.
        """
        from remit.apps import assemble

        parts = parts or assemble(load())
        self._library, self._schema = parts.library, parts.catalog.cedar_schema

    def _bundle(self, run: RunSummary) -> Bundle:
        return self._library.bundle(self._library.agent(run.agent).policy)

    def changed(self, run: RunSummary) -> str:
        """One sentence if the run's policy isn't the one that its agent has now; empty if it is, or if nobody here can say."""
        try:
            version = self._bundle(run).version
        except RemitError:
            return ""
        if not run.policy_version or version == run.policy_version:
            return ""
        return (
            f"{run.workflow_id}: policy changed since: it is judged by {run.policy_version}, today's is {version}; "
            "see `remit approvals recheck`."
        )

    def otherwise(self, run: RunSummary, approval: Approval) -> Finding | None:
        """What today's policy makes of the recorded action and facts, if it is something else."""
        version, would = "none", ""
        try:
            bundle = self._bundle(run)
            version = bundle.version
            would = self._would(bundle, run, approval)
        except RemitError as e:
            would = f"be denied: {e.message}"
        if not would:
            return None
        request = approval.request
        return Finding(
            workflow_id=run.workflow_id,
            approval_id=request.approval_id,
            tool=request.tool,
            resource=str(request.resource),
            pinned=run.policy_version,
            today=version,
            would=would,
        )

    def _would(self, bundle: Bundle, run: RunSummary, approval: Approval) -> str:
        request, facts = approval.request, run.judged.get(approval.request.approval_id)
        if bundle.version == run.policy_version:
            return ""
        if facts is None:
            return "be unknown: an older worker didn't record what its verdict rested on"
        mode = lowest(facts.agent.mode, "draft" if request.proposal else "live")
        verdict = under(
            mode, authorize(compile_policy(bundle, self._schema), facts), "write"
        )  # people are asked of nothing else
        if verdict.decision == "deny":
            return f"be denied: {verdict.reason}"
        if verdict.decision == "allow":
            return "be allowed without anybody's approval"
        parts: list[str] = []
        if verdict.approvals_required != request.required:
            parts.append(f"need {verdict.approvals_required} people instead of {request.required}")
        if verdict.route_strong:
            parts.append("need the strong model to decide again")
        waited = (approval.escalated_at or request.requested_at) - request.requested_at
        roles = bundle.limits().approvals.roles_at(waited)
        if set(roles) != set(request.roles):
            parts.append(f"let {'/'.join(roles) or 'nobody'} decide instead of {'/'.join(request.roles) or 'nobody'}")
        return " and ".join(parts)


def today() -> Today | None:
    """Today's policies; None where they can't be read, so that looking at runs works all the same."""
    try:
        return Today()
    except RemitError:
        return None


async def _waiting() -> Waiting:
    settings = load()
    remit = Remit(await connect(settings), settings.task_queue)
    found: Waiting = []
    async for row in remit.waiting():
        summary = await remit.status(row.workflow_id)
        found += [(summary, a) for a in summary.approvals if a.status == "pending"]
    return found


def print_waiting(*, as_json: bool) -> None:
    """What waits for people, the decisions that were refused, and the policies that have changed meanwhile."""
    found = asyncio.run(_waiting())
    policies = today() if found else None
    if as_json:
        render.print_json(
            [
                {"workflow_id": s.workflow_id, "run_id": s.run_id, "agent": s.agent, **a.model_dump(mode="json")}
                | {"refused_total": s.refused_total, "last_refused": s.refused[-1].model_dump() if s.refused else None}
                | {"policy_version": s.policy_version, "policy_changed": bool(policies and policies.changed(s))}
                for s, a in found
            ]
        )
        return
    if not found:
        print("Nothing waits for approval.")
        return
    out = render.console()
    out.print(render.approvals([(s.workflow_id, a) for s, a in found]))
    for summary in {s.workflow_id: s for s, _ in found}.values():
        if summary.refused_total:
            last = summary.refused[-1]
            out.print(
                f"{summary.workflow_id}: {summary.refused_total} decisions or signals were refused; "
                f"the last, {render.clock(last.at)}, {last.reason}: {last.message}",
                markup=False,
            )
        if policies and (changed := policies.changed(summary)):
            out.print(changed, markup=False)


@approvals.callback()
def listed(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List what waits for people, as `remit inbox` does."""
    if not ctx.invoked_subcommand:
        print_waiting(as_json=as_json)


@approvals.command()
def recheck(
    check: Annotated[bool, typer.Option("--check", help="End with 1 if there is any.")] = False, as_json: AsJson = False
) -> None:
    """List what waits for people and would be treated otherwise by today's policies. The pinned ones decide all the same."""
    policies = Today()
    found = asyncio.run(_waiting())
    findings = [f for s, a in found if (f := policies.otherwise(s, a))]
    if as_json:
        render.print_json({"checked": len(found), "otherwise": [f.model_dump() for f in findings]})
    elif findings:
        out = render.console()
        out.print(render.findings([(f.workflow_id, f.approval_id, f.tool, f.resource, f.would) for f in findings]))
        print(
            f"{len(findings)} of {len(found)} would be treated otherwise today. The policy that each was admitted with decides."
        )
    else:
        print(f"Today's policies would treat all {len(found)} the same." if found else "Nothing waits for approval.")
    if check and findings:
        raise typer.Exit(1)
