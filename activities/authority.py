"""`admit`: who the agent is, what it is pinned to, whom the run is for. The only place where a run's authority comes from."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import prices
from activities.capabilities import Capabilities, RunToAdmit
from activities.ceilings import Ceilings
from activities.failures import ledger_awaited, ledger_needed
from activities.ledger import breaker, rollouts, switches
from activities.ledger.store import Ledger
from activities.library import AgentFile, Library
from activities.meter import Meter, capped
from activities.model_cards import UNKNOWN_OUTPUT_TOKENS
from activities.privacy.desk import PrivacyDesk, begin_privacy
from activities.proposal import ApprovalNeeded, mint_write
from activities.releases import Releases
from activities.reviews import Reviews
from activities.runs import Runs
from activities.servers import key_of
from activities.tiers import pinned
from policies.autonomy import lowest
from policies.errors import (
    CapReached,
    InvalidInput,
    KillSwitchEngaged,
    MissingKey,
    NotFound,
    RemitError,
    ToolRefusal,
    Unavailable,
)
from policies.identity import Directory
from policies.models import AgentIdentity, AutonomyMode, Frozen
from policies.rollout import Rollout
from policies.routing import ModelChoice, Price, Route
from policies.switches import Scope, scopes_of_run
from tools.catalog import Catalog
from tools.results import READ_MORE
from tools.spec import Connector
from tools.subjects import Subjects
from workflows.messages import Admission, Capsule, MintCapability, Minted, PauseState, PinnedTool, ReadPeople, Withheld

__all__ = ["AuthorityActivities", "ModelConfig"]

SCRIPTED = (
    ModelChoice(provider="scripted", model="scripted-small", price=Price(input_per_mtok=250_000, output_per_mtok=2_000_000)),
    ModelChoice(
        provider="scripted", model="scripted-strong", price=Price(input_per_mtok=1_250_000, output_per_mtok=10_000_000)
    ),
)


class ModelConfig(Frozen):
    """Which models this worker reaches.

    Attributes:
        provider: `openai` or `anthropic`; empty when there is no key.
        fallbacks: the other providers that there are keys for, to be asked when `provider` is down.
        reached: all providers that there are keys for.
        model, strong_model: override the agents' routes at `provider`, for servers with models of their own.
        price: declared price of the overriding models.
        unknown_output_tokens: the limit of answers of models of which nobody says how long those may be.
    """

    provider: str = ""
    fallbacks: tuple[str, ...] = ()
    reached: tuple[str, ...] = ()
    model: str = ""
    strong_model: str = ""
    price: Price | None = None
    unknown_output_tokens: int = UNKNOWN_OUTPUT_TOKENS


class AuthorityActivities:
    """Admission from the library, the directory and the connectors of this worker."""

    def __init__(
        self,
        runs: Runs,
        library: Library,
        catalog: Catalog,
        connectors: Mapping[type[Connector], Connector],
        releases: Releases,
        directory: Callable[[], Directory],
        models: ModelConfig,
        capabilities: Capabilities,
        history_events: int,
        ledger: Ledger,
        meter: Meter,
        reviews: Reviews,
        privacy: PrivacyDesk | None = None,
    ) -> None:
        """`privacy`: None where no run with `[privacy]` may be admitted."""
        self._privacy = privacy
        self._meter = meter
        self._ceilings = Ceilings(ledger)
        self._reviews = reviews
        self._log = structlog.get_logger("remit.admission")
        self._ledger = ledger
        self._releases = releases
        self._history_events = history_events
        self._runs = runs
        self._library = library
        self._catalog = catalog
        self._connectors = connectors
        self._directory = directory
        self._models = models
        self._capabilities = capabilities

    @activity.defn(name="admit")
    async def admit(self, admission: Admission) -> Capsule:
        """Check the request and pin everything that the run depends on. A refusal fails the run with one sentence."""
        try:
            with ledger_needed():
                capsule = await self._capsule(admission)
                if capsule.capability:
                    await asyncio.to_thread(self._capabilities.mint_reads, capsule, capsule.capability, self._ids(capsule))
        except CapReached as e:
            raise capped(e) from None
        except RemitError as e:
            raise ApplicationError(e.message, type=e.code, non_retryable=True) from None
        self._runs.admitted(capsule)
        return capsule

    @activity.defn(name="mint_capability")
    async def mint_capability(self, call: MintCapability) -> Minted:
        """Mint the run's capability for its reads anew, or one for a single write, which is checked as it will be beside it."""
        try:
            with ledger_needed():  # no ledger, no capability, and so no write
                mint = partial(self._mint, call, str(activity.info().workflow_id))
                return await ledger_awaited(partial(asyncio.to_thread, mint))
        except ToolRefusal as e:
            raise ApplicationError(e.message, type=e.reason, non_retryable=True) from None
        except ApprovalNeeded:
            raise ApplicationError("More people must approve.", type="approval_required", non_retryable=True) from None
        except Unavailable as e:
            raise ApplicationError(e.message, type=e.code) from None  # retried: it comes back
        except RemitError as e:
            raise ApplicationError(e.message, type=e.code, non_retryable=True) from None

    def _mint(self, call: MintCapability, workflow_id: str) -> Minted:
        if call.write:
            return mint_write(call, self._capabilities, self._catalog, workflow_id, self._directory)
        self._capabilities.check_admitted(call.capsule, workflow_id)
        return self._capabilities.mint_reads(call.capsule, self._capabilities.promise(), self._ids(call.capsule))

    def _ids(self, capsule: Capsule) -> tuple[str, ...]:
        return tuple(self._catalog.get(t.name).id for t in capsule.tools)

    async def _capsule(self, admission: Admission) -> Capsule:
        agent = self._library.agent(admission.agent)
        if agent.status != "active":
            raise InvalidInput(f"Agent `{agent.name}` is {agent.status}; ask its owner, {agent.owner}.")
        agent.check_inputs(admission.inputs)
        directory = await self._people()
        if admission.requester and not admission.requester.startswith("service:"):
            directory.person(admission.requester)  # G3: whoever asks must be known by the name that would approve
        workflow_id = str(activity.info().workflow_id)
        subject = await self._subject(agent, admission)
        paused, rollout, ceiling = await asyncio.to_thread(self._look, admission.run_id, agent.name, subject)
        agent, arm = self._releases.chosen(agent, rollout, subject or workflow_id)
        await begin_privacy(self._privacy, admission.run_id, agent.name, subject, agent.privacy)
        bundle = self._library.bundle(agent.policy)
        route = self._route(agent, scripted=admission.scripted)
        roles = bundle.limits().approvals.roles
        release = self._releases.release(agent, bundle, {s.name: s.digest for s in self._library.specs(agent)}, route)
        await asyncio.to_thread(self._releases.keep, self._ledger, agent.name, release)
        over = None
        if arm != "human":
            over = await self._ceilings.check(admission.run_id, agent, bundle, route)
            await self._meter.run(admission.run_id, agent.name, bundle)
        identity = agent.identity.model_copy(update={"mode": lowest(agent.mode, ceiling)})
        run = RunToAdmit(admission.run_id, workflow_id, agent.name, subject, admission.requester, directory, roles)
        # A case of people's takes nothing that somebody handed to the agent.
        delegations = await asyncio.to_thread(self._capabilities.take_delegations, run) if arm != "human" else []
        more = [name for name in (*(d.tool for d in delegations), READ_MORE) if name in self._catalog.specs]
        given = (*self._library.specs(agent), *(self._catalog.specs[name] for name in more))
        withheld = await self._withheld(admission.run_id, identity, [s.name for s in given])
        specs = list({s.name: s for s in given if s.name not in {w.name for w in withheld}}.values())
        tools = tuple(PinnedTool(name=s.name, version=s.version, digest=s.digest) for s in specs)
        return Capsule(
            run_id=admission.run_id,
            workflow_id=workflow_id,
            agent=identity,
            requester=admission.requester,
            subject=subject,
            prompt=agent.prompt,
            tools=tools,
            catalog_digest=self._catalog.digest,
            bundle=bundle,
            limits=self._library.limits(agent, bundle),
            approver_roles=roles,
            route=route,
            corpus=agent.corpus,
            directory=directory,
            release=release.digest,
            admitted_at=int(time.time()),
            capability=self._capabilities.promise() if arm != "human" else None,
            delegations=tuple(d for d in delegations if d.tool not in agent.tools),
            paused=paused,
            priority=agent.priority,
            weight=agent.weight,
            history_events=self._history_events,
            recorded=True,
            held_to_mode=True,
            arm=arm,
            stage=rollout.weight if rollout and arm else 0,
            over_ceiling=over,
            withheld=withheld,
            privacy=agent.privacy,
            moves_up=agent.moves_up,
            model_protocol=1,
            answer="text" if agent.answer == "text" else "",
        )

    async def _withheld(self, run_id: str, agent: AgentIdentity, tools: Sequence[str]) -> tuple[Withheld, ...]:
        """The tools that aren't as somebody reviewed them: in the other modes people look at each write."""
        if agent.mode != "live":
            return ()
        try:
            found = await asyncio.to_thread(self._reviews.withheld, self._ledger, tools)
        except Unavailable as e:
            raise ApplicationError(e.message, type=e.code) from None  # retried: the issuer comes back
        for each in found:
            self._log.warning("tool not offered", run=run_id, agent=agent.name, tool=each.name, why=each.why)
        return found

    def _look(self, run_id: str, agent: str, subject: str) -> tuple[PauseState | None, Rollout | None, AutonomyMode]:
        """The pause under which the run begins, the rollout of its agent, and the most that the agent may do by itself now.

        Raises:
            KillSwitchEngaged: a switch covers it.
        """
        with self._ledger.reading() as connection:
            found, paused = switches.covering(connection, scopes_of_run(run_id, agent, subject))
            rollout = rollouts.found(connection, agent)
            ceiling = breaker.ceiling(connection, agent)
        if found:
            by = f" by {found.set_by}" if found.set_by else ""
            raise KillSwitchEngaged(
                f"No run may begin: a kill switch was set on {Scope.parse(found.scope).words}{by}, as `remit switches` "
                f"says: {found.reason}"
            )
        if paused is None:
            return None, rollout, ceiling
        fields = {"scope": paused.scope, "reason": paused.reason, "by": paused.set_by, "epoch": paused.epoch}
        return PauseState.model_validate({**fields, "since": paused.set_at // 1000}), rollout, ceiling

    @activity.defn(name="read_people")
    async def read_people(self, wanted: ReadPeople) -> Directory:
        """Those whom the named keys belong to, as the directory knows them now: a run asks when a stranger decides."""
        return (await self._people()).holding(set(wanted.kids))

    async def _people(self) -> Directory:
        try:
            found = await asyncio.to_thread(self._directory)
        except Unavailable as e:
            raise ApplicationError(e.message, type=e.code) from None  # retried: the issuer comes back
        return found.current(int(time.time()))

    async def _subject(self, agent: AgentFile, admission: Admission) -> str:
        if agent.subject is None:
            return ""
        resource = str(admission.inputs.get(agent.subject.input))
        port = self._connectors.get(Subjects)
        found = await port.subject_of(agent.subject.kind, resource) if isinstance(port, Subjects) else None
        if not found:  # G1: an empty subject would bind the run to nobody
            raise NotFound(f"There is no {agent.subject.kind} `{resource[:80]}`.")
        return found

    def _route(self, agent: AgentFile, *, scripted: bool) -> Route:
        if scripted:
            return Route(models=SCRIPTED)
        config = self._models
        if not config.provider and not all(tier.provider for tier in agent.route):
            raise MissingKey(
                "No model can be reached: set `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` or `GEMINI_API_KEY` for the worker, "
                "or give the run a `--script`."
            )
        models = self._overridden(agent, agent.models(config.provider, config.unknown_output_tokens))
        for choice in models:
            if not choice.model:
                raise InvalidInput(f"Agent `{agent.name}` has no model for `{config.provider}` in its route.")
        # An agent goes to another vendor only where its own route names models there, for each of its tiers.
        others = (agent.models(provider, config.unknown_output_tokens) for provider in config.fallbacks)
        route = Route(models=models, fallbacks=tuple(o for o in others if all(choice.model for choice in o) and o != models))
        for choice in (c for each in (route.models, *route.fallbacks) for c in each):
            self._check_reached(agent, choice)
            prices.check(choice)
        return route

    def _overridden(self, agent: AgentFile, models: tuple[ModelChoice, ...]) -> tuple[ModelChoice, ...]:
        """The route with the worker's own models in the place of those at its provider, if it has any set."""
        config = self._models
        if not config.model:
            return models
        first, strong = (
            pinned(ModelChoice(provider=config.provider, model=name, price=config.price), config.unknown_output_tokens)
            for name in (config.model, config.strong_model or config.model)
        )
        if not any(tier.provider for tier in agent.route):
            return first, strong
        named = [i for i, tier in enumerate(agent.route) if not tier.provider]
        return tuple(c if i not in named else first if i == named[0] else strong for i, c in enumerate(models))

    def _check_reached(self, agent: AgentFile, choice: ModelChoice) -> None:
        """Whether this worker has the key for `choice`.

        Raises:
            MissingKey: it hasn't.
        """
        if choice.base_url:
            key_of(choice, os.environ)
        elif choice.provider not in (*self._models.reached, self._models.provider, *self._models.fallbacks):
            raise MissingKey(
                f"A tier of agent `{agent.name}` is at `{choice.provider}`, and this worker has no key for it; set "
                f"`{'GEMINI' if choice.provider == 'google' else choice.provider.upper()}_API_KEY`."
            )
