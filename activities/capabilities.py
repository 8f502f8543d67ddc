"""Where capabilities come from and where they are checked: tokens by id in the ledger, signed by the root keys."""

import secrets
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass, field

from activities.ledger.rows import Capability
from activities.ledger.store import Ledger, run_scope
from policies.approvals import Action
from policies.capability import Grant, Keyring, Use, mint, narrow, verify, verify_by
from policies.errors import ToolRefusal
from policies.identity import Directory, Person
from policies.models import Money
from workflows.messages import Capsule, Delegation, Minted

__all__ = ["Capabilities", "RunToAdmit", "new_id"]

RECENT = 10_000
"""How many capabilities a worker remembers."""
FRESH_SECONDS = 1.0
"""How old the ledger's word on a revocation may be for a read. For a write, the ledger looks again when it reserves."""


def new_id() -> str:
    """A fresh id of a capability: a name, not a secret."""
    return f"cap_{secrets.token_hex(12)}"


@dataclass(frozen=True)
class RunToAdmit:
    """What delegations are looked for by, and who could have given them."""

    run_id: str
    workflow_id: str
    agent: str
    subject: str
    requester: str
    directory: Directory
    roles: tuple[str, ...]


@dataclass(frozen=True)
class _Recent:
    """A capability, and what the ledger said of it `at` (monotonic seconds)."""

    kept: Capability
    revoked: bool
    epoch: int
    at: float

    @property
    def fresh(self) -> bool:
        return time.monotonic() - self.at < FRESH_SECONDS


@dataclass(frozen=True)
class Capabilities:
    """Mints and checks capabilities. Blocking, but for the checks of what is `fresh`.

    Attributes:
        keys: gives the root keys as they are now.
        audience: the workers that this one belongs to.
        seconds: how long a capability lives.
    """

    ledger: Ledger
    keys: Callable[[], Keyring]
    audience: str
    seconds: int
    _recent: dict[str, _Recent] = field(default_factory=dict[str, _Recent], repr=False)

    def fresh(self, name: str) -> bool:
        """Whether a check of the capability `name` needs no database now."""
        recent = self._recent.get(name)
        return recent is not None and recent.fresh

    def known(self, name: str) -> Capability:
        """The capability `name`, which was just checked.

        Raises:
            ToolRefusal: there is none.
        """
        recent = self._recent.get(name)
        return recent.kept if recent else self._known(name).kept

    def promise(self) -> Minted:
        """The name and the end of a capability that is about to be minted."""
        return Minted(id=new_id(), expires_at=int(time.time()) + self.seconds)

    def mint_reads(self, capsule: Capsule, minted: Minted, tools: tuple[str, ...]) -> Minted:
        """Mint what lets the run read for its subject, and look at what it may write."""
        grant = Grant(
            workflow_id=capsule.workflow_id,
            capsule=capsule.digest,  # which holds run, agent and policy
            subject=capsule.subject,
            corpus=capsule.corpus,
            tools=tools,
            idempotency_key="",
            audience=self.audience,
            epoch=self.ledger.epoch([run_scope(capsule.run_id)]),
            expires_at=minted.expires_at,
        )
        self._keep(capsule, minted, grant, "run")
        return minted

    def mint_write(self, capsule: Capsule, action: Action, amount: Money | None) -> Minted:
        """Mint what lets the run perform exactly `action`, once it was approved."""
        minted = self.promise()
        name, _, _ = action.tool.partition("@")
        delegation = ""
        if given := capsule.delegation(name):
            use = self._use(capsule.workflow_id, capsule, action, amount, 0)
            delegation = self._delegated(capsule, given, use)
            minted = Minted(id=minted.id, expires_at=min(minted.expires_at, given.expires_at))
        grant = Grant(
            workflow_id=capsule.workflow_id,
            run_id=capsule.run_id,
            agent=capsule.agent.id,
            capsule=capsule.digest,
            policy_digest=capsule.bundle.digest,
            subject=capsule.subject,
            tools=(action.tool,),
            resource=str(action.resource),
            ceiling=amount,
            idempotency_key=action.idempotency_key,
            audience=self.audience,
            epoch=self._known(capsule.capability.id).epoch if capsule.capability else 0,
            expires_at=minted.expires_at,
        )
        self._keep(capsule, minted, grant, "write", delegation)
        return minted

    def check_admitted(self, capsule: Capsule, workflow_id: str) -> None:
        """Whether a worker admitted this run with exactly this capsule, for the workflow that the server says is calling.

        Raises:
            ToolRefusal: none did.
        """
        known = self._known(capsule.capability.id if capsule.capability else "")
        if known.revoked:
            raise ToolRefusal("capability_revoked", "The run's capability was revoked.")
        kept = known.kept
        use = Use(
            workflow_id=workflow_id,
            capsule=capsule.digest,
            subject=capsule.subject,
            corpus=capsule.corpus,
            tool=kept.tools.split(",")[0],
            resource="",
            audience=self.audience,
            now=kept.minted_at // 1000,  # it proves the admission long after it can't be used any more
        )
        verify(kept.token, use, self.keys())

    def check_read(
        self, name: str, *, workflow_id: str, capsule: str, subject: str, corpus: str, tool: str, resource: str
    ) -> None:
        """Whether the capability `name` lets the workflow read this.

        Raises:
            ToolRefusal: it doesn't.
        """
        known = self._known(name)
        if known.revoked:
            raise ToolRefusal("capability_revoked", "The run's capability was revoked.")
        use = Use(
            workflow_id=workflow_id,
            capsule=capsule,
            subject=subject,
            corpus=corpus,
            tool=tool,
            resource=resource,
            audience=self.audience,
            epoch=known.epoch,
            now=int(time.time()),
        )
        verify(known.kept.token, use, self.keys())

    def check_write(self, name: str, workflow_id: str, capsule: Capsule, action: Action, amount: Money | None) -> None:
        """Whether the capability `name` lets the workflow perform exactly `action`. The ledger looks at revocations.

        Raises:
            ToolRefusal: it doesn't.
        """
        known = self._known(name)
        use = self._use(workflow_id, capsule, action, amount, known.epoch)
        verify(known.kept.token, use, self.keys())
        tool, _, _ = action.tool.partition("@")
        if given := capsule.delegation(tool):
            self._delegated(capsule, given, use)

    def take_delegations(self, run: RunToAdmit) -> list[Delegation]:
        """What people handed the agent for this subject, narrowed to this run. What doesn't verify isn't taken."""
        found: list[Delegation] = []
        for kept in self.ledger.take(run.agent, run.subject, run.run_id, int(time.time())) if run.subject else []:
            known = run.directory.by_key(kept.key_id)
            if known is None or not _may_delegate(known[0], kept, run):
                continue
            try:
                token = narrow(kept.token, _raw(known[1].x), workflow_id=run.workflow_id, run_id=run.run_id)
            except ToolRefusal:
                continue
            changed = {"id": new_id(), "kind": "run", "delegation": kept.id, "token": token, "minted_at": _ms()}
            own = kept.model_copy(update=changed)
            self.ledger.keep(own)
            found.append(
                Delegation(
                    id=own.id,
                    tool=kept.tools.partition("@")[0],
                    ceiling=Money(cents=kept.ceiling_cents, currency=kept.currency) if kept.currency else None,
                    by=kept.issuer,
                    key_id=kept.key_id,
                    expires_at=kept.expires_at,
                )
            )
        return found

    def _delegated(self, capsule: Capsule, given: Delegation, use: Use) -> str:
        """The id of the delegation that covers `use`, as its person signed it."""
        kept = self._known(given.id).kept
        known = capsule.directory.by_key(given.key_id)
        if known is None:
            raise ToolRefusal("capability_refused", "The delegation is signed by a key that this run's directory doesn't know.")
        verify_by(kept.token, use, _raw(known[1].x))
        return kept.delegation

    def _use(self, workflow_id: str, capsule: Capsule, action: Action, amount: Money | None, epoch: int) -> Use:
        return Use(
            workflow_id=workflow_id,
            run_id=capsule.run_id,
            agent=capsule.agent.id,
            capsule=capsule.digest,
            policy_digest=capsule.bundle.digest,
            subject=capsule.subject,
            corpus=capsule.corpus,
            tool=action.tool,
            resource=str(action.resource),
            amount=amount,
            idempotency_key=action.idempotency_key,
            audience=self.audience,
            epoch=epoch,
            now=int(time.time()),
        )

    def _keep(self, capsule: Capsule, minted: Minted, grant: Grant, kind: str, delegation: str = "") -> None:
        keys = self.keys()
        kept = Capability.model_validate(
            {
                "id": minted.id,
                "kind": kind,
                "run_id": capsule.run_id,
                "agent": capsule.agent.name,
                "tools": ",".join(grant.tools),
                "resource": grant.resource or "",
                "subject": grant.subject,
                "ceiling_cents": grant.ceiling.cents if grant.ceiling else 0,
                "currency": grant.ceiling.currency if grant.ceiling else "",
                "idempotency_key": grant.idempotency_key or "",
                "delegation": delegation,
                "issuer": "worker",
                "key_id": str(max(keys.private, default=0)),
                "token": mint(grant, keys),
                "minted_at": _ms(),
                "expires_at": grant.expires_at,
            }
        )
        self.ledger.keep(kept)
        self._remember(_Recent(kept, revoked=False, epoch=grant.epoch or 0, at=time.monotonic()))

    def _known(self, name: str) -> _Recent:
        """The capability called `name`, and how it stands: a second ago at most.

        Raises:
            ToolRefusal: there is none.
        """
        recent = self._recent.get(name)
        if recent and recent.fresh:
            return recent
        kept = recent.kept if recent else self.ledger.capability(name) if name else None
        if kept is None:
            raise ToolRefusal("capability_missing", "There is no capability for this.")
        revoked, epoch = self.ledger.standing(name, kept.run_id)
        return self._remember(_Recent(kept, revoked, epoch, time.monotonic()))

    def _remember(self, recent: _Recent) -> _Recent:
        if len(self._recent) >= RECENT:
            self._recent.clear()
        self._recent[recent.kept.id] = recent
        return recent


def _may_delegate(person: Person, kept: Capability, run: RunToAdmit) -> bool:
    """Who may approve what this agent does may also hand it a tool, but not to a run that they asked for."""
    return person.sub == kept.issuer != run.requester and bool(set(person.roles) & set(run.roles))


def _raw(x: str) -> bytes:
    return urlsafe_b64decode(x + "=" * (-len(x) % 4))


def _ms() -> int:
    return int(time.time() * 1000)
