"""The guards, and a way to take each one away as a whole: then the suite must find something."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from activities import proposal
from activities.capabilities import Capabilities
from activities.ledger import store, switches
from activities.ledger.store import Ledger
from activities.ledger.tables import effects
from policies import approvals, autonomy, bundle
from policies.approvals import ApprovalDecision, ApprovalRequest
from policies.bundle import CompiledPolicy
from policies.models import Verdict
from tools.spec import ToolSpec
from workflows.messages import ExecuteTool

__all__ = ["CAPABILITY", "GUARDS", "without"]

CAPABILITY = "capability check"


def _nothing(*_: object, **__: object) -> None:
    """What is left of a guard that raises or names a reason."""


def _yes(*_: object, **__: object) -> bool:
    """What is left of a guard that says whether."""
    return True


def _capability_check(patch: pytest.MonkeyPatch) -> None:
    """`Capabilities.check_…`: at admission's proof, for each read, and beside the write, in the ledger too."""
    for check in ("check_admitted", "check_read", "check_write"):
        patch.setattr(Capabilities, check, _nothing)
    patch.setattr(store, "_uncovered", _nothing)


def _subject_binding(patch: pytest.MonkeyPatch) -> None:
    """`ToolSpec.bind`: in the workflow, beside the write, and for each read."""
    patch.setattr(ToolSpec, "bind", _nothing)


def _approval_verification(patch: pytest.MonkeyPatch) -> None:
    """`verify_decision` and, beside the write, `_approved`: whatever is sent counts as the approval of somebody new."""

    def anything(token: str, *, request: ApprovalRequest, now: int, **_: Any) -> ApprovalDecision:
        return ApprovalDecision(
            sub=f"someone-{hash(token)}@example.com",
            decision="approve",
            reason="",
            nonce=token[-32:],
            decided_at=now,
            decision_jws=token,
        )

    def counted(_: object, call: ExecuteTool, __: object) -> int:
        return len(call.approval.decisions) if call.approval else 0

    patch.setattr(approvals, "verify_decision", anything)
    patch.setattr(proposal, "_approved", counted)


def _ledger_reservation(patch: pytest.MonkeyPatch) -> None:
    """`Ledger.reserve`: it judges and looks at the off switches, but keeps no row: no sum rises, no key is remembered."""
    reserve = Ledger.reserve

    def forgetful(self: Ledger, intent: Any, *more: Any, **named: Any) -> Any:
        found = reserve(self, intent, *more, **named)
        engine: sa.Engine = vars(self)["_engine"]
        with engine.begin() as connection:
            connection.execute(sa.delete(effects).where(effects.c.idempotency_key == intent.idempotency_key))
        return found

    patch.setattr(Ledger, "reserve", forgetful)
    patch.setattr(Ledger, "sent", _yes)


def _kill_check(patch: pytest.MonkeyPatch) -> None:
    """`covering`, before a reservation and before sending, and the epochs by which a kill ends capabilities."""
    standing = Ledger.standing

    def alive(self: Ledger, name: str, run_id: str) -> tuple[bool, int]:
        return standing(self, name, run_id)[0], 0

    def none(*_: object) -> int:
        return 0

    def nothing(*_: object) -> tuple[None, None]:
        return None, None

    patch.setattr(switches, "covering", nothing)
    patch.setattr(Ledger, "standing", alive)
    patch.setattr(Ledger, "epoch", none)


def _autonomy_mode(patch: pytest.MonkeyPatch) -> None:
    """`offered` and `under`: in the workflow, before a capability is minted, and beside the write."""

    def by_policy(_: object, verdict: Verdict, *__: object) -> Verdict:
        return verdict

    patch.setattr(autonomy, "offered", _yes)
    patch.setattr(autonomy, "under", by_policy)


def _cedar_schema(patch: pytest.MonkeyPatch) -> None:
    """`CompiledPolicy.schema`: requests are judged by the policy's text alone."""
    init = CompiledPolicy.__init__

    def blind(self: CompiledPolicy, *given: Any, **named: Any) -> None:
        init(self, *given, **named)
        self.schema = None  # pyright: ignore[reportAttributeAccessIssue]

    patch.setattr(CompiledPolicy, "__init__", blind)


GUARDS = {
    CAPABILITY: _capability_check,
    "subject binding": _subject_binding,
    "approval verification": _approval_verification,
    "ledger reservation": _ledger_reservation,
    "kill check": _kill_check,
    "autonomy mode": _autonomy_mode,
    "Cedar schema": _cedar_schema,
}
"""What takes each guard away; the docstrings say where."""


@contextmanager
def without(guard: str) -> Generator[None]:
    """While the block runs, there is no such guard in this process."""
    with pytest.MonkeyPatch.context() as patch, _fresh_policies():
        GUARDS[guard](patch)
        yield


@contextmanager
def _fresh_policies() -> Generator[None]:
    """Policies that were compiled before are compiled anew, and those of the block aren't used after it."""
    compiled = vars(bundle)["_compiled"]
    compiled.cache_clear()
    try:
        yield
    finally:
        compiled.cache_clear()
