"""Composition root of a worker process: settings, telemetry, client, worker. Nothing is decided here."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

import structlog
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.worker import Interceptor, Worker

from activities.authority import AuthorityActivities, ModelConfig
from activities.breaking import BreakerActivities
from activities.capabilities import Capabilities
from activities.caps import LiveCaps
from activities.drills import DrillActivities
from activities.fleet import FleetActivities
from activities.gates import Gate
from activities.keeping import KeeperActivities
from activities.ledger.store import Ledger
from activities.meter import Meter
from activities.model import ModelActivities
from activities.privacy.desk import PrivacyDesk
from activities.records import RecordActivities
from activities.releases import Releases
from activities.results import StoredResults
from activities.reviews import Reviews
from activities.rollouts import RolloutActivities
from activities.runs import Runs
from activities.tool import ToolActivities
from policies.errors import InvalidInput, RemitError
from remit import metrics, telemetry
from remit.apps import Parts, assemble
from remit.connection import connect, storage_of, vaults_of
from remit.deployment import Deployment, build_id, worker_version
from remit.directory import LiveDirectory
from remit.fleet import Fleet, audience
from remit.gauges import watching
from remit.keyring import RootKeys
from remit.oidc import service_token
from remit.proof.keeping import Preparer, begin
from remit.providers import providers as _providers
from remit.providers import servers
from remit.sandbox import runner
from remit.settings import ROOT, Settings, load
from remit.trace_keys import TraceKeys
from remit.whatif.rows import rows_of
from tools import registry
from workflows.agent_run import AgentRun
from workflows.fleet_control import FleetControl
from workflows.fleet_messages import control_queue
from workflows.kill_drill import KillDrill
from workflows.messages import SEARCH_ATTRIBUTES
from workflows.trace_keeper import TraceKeeper

__all__ = ["ensure_search_attributes", "main", "renewing", "runner", "working"]

RENEW_AT = 0.7  # of a token's life
RENEW_RETRY_SECONDS = 10
STICKY_SECONDS = 0.5
GARBAGE_AT = 10_000  # objects; Python's 700 is for programs that hold little
CUT_OFF_SECONDS = 3  # what cancelled activities have after the deadline, to say so to the server


def _gates(settings: Settings) -> dict[str, Gate]:
    return {
        "openai": Gate("openai", concurrency=settings.openai_concurrency, per_minute=settings.openai_rpm),
        "anthropic": Gate("anthropic", concurrency=settings.anthropic_concurrency, per_minute=settings.anthropic_rpm),
        "google": Gate("google", concurrency=settings.google_concurrency, per_minute=settings.google_rpm),
    }


@asynccontextmanager
async def working(client: Client, settings: Settings, ledger: Ledger) -> AsyncGenerator[Worker]:
    """A worker with everything that `settings` asks for, and one for `FleetControl` beside it, while the block runs.

    Call `ledger.migrate()` before.

    Raises:
        InvalidInput: an agent, a bundle, an app or a connector can't be used.
    """
    async with AsyncExitStack() as closing:
        directory = LiveDirectory(settings, ledger)
        closing.callback(directory.close)
        parts = assemble(settings, ROOT)
        releases = Releases(parts.library, parts.corpora, build_id(settings))
        runtime = client.service_client.config.runtime  # there is one when metrics are on
        meter = runtime.metric_meter if settings.metrics and runtime else None
        seen: list[Interceptor] = [telemetry.Steps()]
        if meter:
            metrics.begin(meter, parts.library.names(), client.namespace, settings.task_queue)
            seen.append(metrics.Measures(meter))
        async with (
            watching(meter, client, settings.task_queue, ledger),
            _control(client, settings, ledger, directory, parts, releases, seen),
            _build(client, settings, ledger, directory, parts, releases, closing, seen) as worker,
        ):
            yield worker


def _control(
    client: Client,
    settings: Settings,
    ledger: Ledger,
    directory: LiveDirectory,
    parts: Parts,
    releases: Releases,
    seen: Sequence[Interceptor],
) -> Worker:
    """G4: on a task queue and with slots of its own, so that a kill never waits behind the work that it is to stop."""
    fleet = FleetActivities(ledger, client, settings.task_queue, directory, audience(client, settings))
    drills = DrillActivities(Fleet(client, settings.task_queue).drill)
    breaker = BreakerActivities(ledger, parts.library, directory, audience(client, settings), settings.breaker_seconds)
    rollouts = RolloutActivities(ledger, releases, directory, audience(client, settings))
    preparer = Preparer(client, ledger, parts.catalog, settings, judged=partial(rows_of, catalog=parts.catalog))
    keeper = KeeperActivities(ledger, client, settings.task_queue, preparer, settings.seal_seconds)
    return Worker(
        client,
        task_queue=control_queue(settings.task_queue),
        workflows=[FleetControl, KillDrill, TraceKeeper],
        activities=[
            fleet.apply_switches,
            fleet.tell_runs,
            fleet.report_switch,
            breaker.look_at_agents,
            breaker.apply_trips,
            rollouts.apply_rollouts,
            drills.play_drill,
            keeper.seal_runs,
        ],
        workflow_runner=runner(),
        interceptors=seen,
        deployment_config=worker_version(settings, pinned=False),
        max_cached_workflows=10,
        max_concurrent_workflow_task_polls=2,
        max_concurrent_activity_task_polls=2,
        # A worker that died with `FleetControl` in its cache would hold up the next kill for ten seconds.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=STICKY_SECONDS),
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_seconds),
    )


def _build(
    client: Client,
    settings: Settings,
    ledger: Ledger,
    directory: LiveDirectory,
    parts: Parts,
    releases: Releases,
    closing: AsyncExitStack,
    seen: Sequence[Interceptor],
) -> Worker:
    catalog, library, connectors = parts.catalog, parts.library, parts.connectors
    for connector in dict.fromkeys(connectors.values()):
        closing.push_async_callback(connector.aclose)
    registry.install(catalog)
    storage = storage_of(settings)
    runs = Runs(storage, settings.cached_runs)
    models = ModelConfig(
        provider=settings.model_provider,
        fallbacks=settings.model_fallbacks,
        reached=settings.model_providers,
        model=settings.model,
        strong_model=settings.model_strong,
        price=settings.declared_price,
        unknown_output_tokens=settings.max_output_tokens,
    )
    capabilities = Capabilities(
        ledger,
        RootKeys(settings.root_keys_path, env=settings.env),
        audience(client, settings),
        settings.capability_seconds,
    )
    meter = Meter(ledger, LiveCaps(library, settings.caps))
    reviews = Reviews(
        catalog,
        parts.reviewed,
        directory,
        capabilities.keys,
        audience=audience(client, settings),
        roles=settings.reviewing_roles,
        agents=parts.library.identities(),
        strict=settings.env == "production",
    )
    privacy = PrivacyDesk(vaults_of(settings), connectors)
    authority = AuthorityActivities(
        runs,
        library,
        catalog,
        connectors,
        releases,
        directory,
        models,
        capabilities,
        settings.history_events,
        ledger,
        meter,
        reviews,
        privacy,
    )
    results = StoredResults(storage)
    tool = ToolActivities(runs, ledger, capabilities, catalog, connectors, directory, results, meter)
    gates = _gates(settings)
    model = ModelActivities(runs, _providers(settings, closing), catalog, gates, meter, servers(closing), privacy)
    records = RecordActivities(ledger, runs, storage)
    fleet = FleetActivities(ledger, client, settings.task_queue, directory, audience(client, settings))
    return Worker(
        client,
        task_queue=settings.task_queue,
        workflows=[AgentRun],
        activities=[
            authority.admit,
            authority.mint_capability,
            authority.read_people,
            model.call_model,
            tool.read_facts,
            tool.read_tool,
            tool.execute_tool,
            tool.give_up,
            records.archive,
            records.record_proposal,
            records.record_run,
            records.write_kill,
            fleet.confirm_kill,
        ],
        workflow_runner=runner(),
        interceptors=seen,
        max_concurrent_activities=settings.activity_slots,
        max_concurrent_workflow_tasks=settings.workflow_slots,
        max_concurrent_local_activities=settings.local_activity_slots,
        max_cached_workflows=settings.cached_runs,
        deployment_config=worker_version(settings),
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_seconds),
        # The SDK would hold heartbeats back for 0.8 of their timeout: a worker that is busy for a moment would count as dead.
        max_heartbeat_throttle_interval=timedelta(seconds=1),
    )


async def ensure_search_attributes(client: Client) -> None:
    """Create the search attributes that runs use.

    Raises:
        InvalidInput: one exists with another type, which Temporal would ignore in silence.
    """
    listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    missing: dict[str, IndexedValueType.ValueType] = {}
    for key in SEARCH_ATTRIBUTES:
        kind = IndexedValueType.ValueType(int(key.indexed_value_type))
        found = listed.custom_attributes.get(key.name)
        if found is None:
            missing[key.name] = kind
        elif found != kind:
            raise InvalidInput(f"The search attribute `{key.name}` exists with another type; remove it from the namespace.")
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
        )


async def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then finish what is in flight."""
    log = structlog.get_logger("remit.worker")
    assemble(settings, ROOT).check()
    runtime = metrics.runtime(settings.metrics) if settings.metrics else None
    ledger = Ledger(settings.ledger)
    ledger.migrate()
    token, seconds = await asyncio.to_thread(service_token, settings) if settings.temporal_auth == "oidc" else ("", 0)
    client = await connect(settings, [*telemetry.traces(settings)], token=token, runtime=runtime)
    RootKeys(settings.root_keys_path, env=settings.env)()  # none in production: say so now, not to the first run
    await ensure_search_attributes(client)
    await Fleet(client, settings.task_queue).begin()
    if settings.seal_seconds:
        TraceKeys(settings.trace_keys_path, env=settings.env).signing()
        await begin(client, settings.task_queue)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    if not settings.oidc and settings.env != "production":
        log.warning("the DEV ISSUER signs as ANYBODY; for a laptop only, set REMIT_OIDC_ISSUER elsewhere")
    async with working(client, settings, ledger), renewing(client, settings, seconds), _introduced(client, settings):
        address = client.service_client.config.target_host
        log.info("working", address=address, task_queue=settings.task_queue, version=build_id(settings))
        _spare_the_loaded()
        await stop.wait()
        log.info("draining", seconds=settings.shutdown_seconds)
        _cut_off(settings.shutdown_seconds + CUT_OFF_SECONDS)
    ledger.close()
    telemetry.flush()


def _spare_the_loaded() -> None:
    """Keep the garbage collector from walking through all that was loaded: nothing of it can be garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AT, *gc.get_threshold()[1:])


def _cut_off(seconds: float) -> None:
    """End the process with 0 in so many seconds, whatever still runs then.

    A write that hangs isn't lost by this: to the ledger and the next worker it is one whose worker died (G2, G8). It must be a
    thread's timer, for what hangs may be the event loop, or a thread that the interpreter waits for at its end.
    """

    def end() -> None:
        structlog.get_logger("remit.worker").warning("handing over what is still running", after_seconds=seconds)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


@asynccontextmanager
async def _introduced(client: Client, settings: Settings) -> AsyncGenerator[None]:
    """Make this version known, and say whether it gets new runs. A failure is said in the log only: pinned runs go on."""

    async def introduce() -> None:
        log, build = structlog.get_logger("remit.worker"), build_id(settings)
        try:
            status = await Deployment(client, settings.deployment_name).introduce(build)
            if status in ("current", "ramping"):
                log.info("this version gets new runs", version=build, status=status)
            else:
                log.warning("this version gets no new runs; `remit deploy` sends them to it", version=build, status=status)
        except RemitError as e:
            log.warning("whether this version gets new runs is unknown; see `remit deploy`", version=build, reason=e.message)

    task = asyncio.create_task(introduce()) if settings.deployment_name else None
    try:
        yield
    finally:
        if task:
            task.cancel()


@asynccontextmanager
async def renewing(
    client: Client, settings: Settings, seconds: int, retry_seconds: float = RENEW_RETRY_SECONDS
) -> AsyncGenerator[None]:
    """Renew the client's bearer token while the block runs. `seconds`: how long the first is good; 0 when there is none."""

    async def renew(left: float) -> None:
        while True:
            await asyncio.sleep(left)
            try:
                client.api_key, seconds = await asyncio.to_thread(service_token, settings)
                left = seconds * RENEW_AT
            except RemitError as e:
                structlog.get_logger("remit.worker").warning("no new token for Temporal", reason=e.message)
                left = retry_seconds

    task = asyncio.create_task(renew(seconds * RENEW_AT)) if seconds else None
    try:
        yield
    finally:
        if task:
            task.cancel()


def main() -> int:
    """Run a worker; 0 after a clean stop, 2 when it can't start."""
    try:
        settings = load()
        telemetry.logs(settings.log_level)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(settings))
    except RemitError as e:
        print(f"remit worker: {e.message}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)
