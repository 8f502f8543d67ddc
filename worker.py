"""Composition root of a worker process: settings, telemetry, client, worker. Nothing is decided here."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import structlog
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.authority import AuthorityActivities, ModelConfig
from activities.capabilities import Capabilities
from activities.fleet import FleetActivities
from activities.ledger.store import Ledger
from activities.model import ModelActivities
from activities.providers.anthropic import AnthropicProvider
from activities.providers.base import ModelProvider
from activities.providers.openai import OpenAIProvider
from activities.providers.scripted import ScriptedProvider
from activities.records import RecordActivities
from activities.runs import Runs
from activities.storage import storage_at
from activities.tool import ToolActivities
from policies.errors import InvalidInput, RemitError
from remit import telemetry
from remit.apps import PACKAGE, assemble
from remit.connection import connect
from remit.directory import LiveDirectory
from remit.fleet import Fleet, audience
from remit.keyring import RootKeys
from remit.oidc import service_token
from remit.settings import ROOT, Settings, load
from tools import registry
from workflows.agent_run import AgentRun
from workflows.fleet_control import FleetControl
from workflows.fleet_messages import control_queue
from workflows.messages import SEARCH_ATTRIBUTES

__all__ = ["PURE", "ensure_search_attributes", "main", "renewing", "runner", "working"]

# Passed through the sandbox, for they have no state that a workflow could depend on. Never `workflows` as a whole:
# `agent_run` must keep its checks.
PURE = (
    PACKAGE,
    "policies",
    "tools",
    "workflows.action",
    "workflows.fleet_messages",
    "workflows.fleet_state",
    "workflows.inbox",
    "workflows.keys",
    "workflows.messages",
    "workflows.options",
    "workflows.ports",
    "workflows.state",
    "workflows.turn",
    "workflows.view",
    "workflows.window",
    "cedarpy",
    "cryptography",
    "joserfc",
    "pydantic",
    "pydantic_core",
    "rfc8785",
)


RENEW_AT = 0.7  # of a token's life
RENEW_RETRY_SECONDS = 10
STICKY_SECONDS = 0.5


def runner() -> SandboxedWorkflowRunner:
    """The sandbox that workflow code runs and is replayed in."""
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PURE))


def _providers(settings: Settings, closing: AsyncExitStack) -> dict[str, ModelProvider]:
    found: dict[str, ModelProvider] = {"scripted": ScriptedProvider()}
    if settings.openai_api_key or settings.openai_base_url:
        key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
        openai = OpenAIProvider(api_key=key, base_url=settings.openai_base_url)
        closing.push_async_callback(openai.aclose)
        found["openai"] = openai
    if settings.anthropic_api_key or settings.anthropic_base_url:
        key = settings.anthropic_api_key.get_secret_value() if settings.anthropic_api_key else "none"
        anthropic = AnthropicProvider(api_key=key, base_url=settings.anthropic_base_url)
        closing.push_async_callback(anthropic.aclose)
        found["anthropic"] = anthropic
    return found


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
        async with (
            _control(client, settings, ledger, directory),
            _build(client, settings, ledger, directory, closing) as worker,
        ):
            yield worker


def _control(client: Client, settings: Settings, ledger: Ledger, directory: LiveDirectory) -> Worker:
    """G4: on a task queue and with slots of its own, so that a kill never waits behind the work that it is to stop."""
    fleet = FleetActivities(ledger, client, settings.task_queue, directory, audience(client, settings))
    return Worker(
        client,
        task_queue=control_queue(settings.task_queue),
        workflows=[FleetControl],
        activities=[fleet.apply_switches, fleet.tell_runs, fleet.report_switch],
        workflow_runner=runner(),
        max_cached_workflows=10,
        max_concurrent_workflow_task_polls=2,
        max_concurrent_activity_task_polls=2,
        # A worker that died with `FleetControl` in its cache would hold up the next kill for ten seconds.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=STICKY_SECONDS),
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_seconds),
    )


def _build(client: Client, settings: Settings, ledger: Ledger, directory: LiveDirectory, closing: AsyncExitStack) -> Worker:
    parts = assemble(settings, ROOT)
    catalog, library, corpora = parts.catalog, parts.library, parts.corpora
    connectors = parts.connectors
    for connector in dict.fromkeys(connectors.values()):
        closing.push_async_callback(connector.aclose)
    registry.install(catalog)
    storage = storage_at(settings.storage_place)
    runs = Runs(storage)
    models = ModelConfig(
        provider=settings.model_provider,
        model=settings.model,
        strong_model=settings.model_strong,
        price=settings.declared_price,
    )
    capabilities = Capabilities(
        ledger,
        RootKeys(settings.root_keys_path, env=settings.env),
        audience(client, settings),
        settings.capability_seconds,
    )
    authority = AuthorityActivities(runs, library, catalog, connectors, corpora, directory, models, capabilities, ledger)
    tool = ToolActivities(runs, ledger, capabilities, catalog, connectors, directory)
    model = ModelActivities(runs, _providers(settings, closing), catalog)
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
            records.write_kill,
            fleet.confirm_kill,
        ],
        workflow_runner=runner(),
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_seconds),
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
    ledger = Ledger(settings.ledger)
    ledger.migrate()
    token, seconds = await asyncio.to_thread(service_token, settings) if settings.temporal_auth == "oidc" else ("", 0)
    client = await connect(settings, [*telemetry.traces(settings)], token=token)
    RootKeys(settings.root_keys_path, env=settings.env)()  # none in production: say so now, not to the first run
    await ensure_search_attributes(client)
    await Fleet(client, settings.task_queue).begin()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    if not settings.oidc and settings.env != "production":
        log.warning("the DEV ISSUER signs as ANYBODY; for a laptop only, set REMIT_OIDC_ISSUER elsewhere")
    async with working(client, settings, ledger), renewing(client, settings, seconds):
        log.info("working", address=client.service_client.config.target_host, task_queue=settings.task_queue)
        await stop.wait()
        log.info("draining", seconds=settings.shutdown_seconds)
    ledger.close()
    telemetry.flush()


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
