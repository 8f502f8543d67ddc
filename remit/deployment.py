"""Worker Versioning: which version of the code a worker is, and what the server knows of a deployment's versions."""

import asyncio
import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.deployment.v1 import WorkerDeploymentInfo
from temporalio.api.deployment.v1 import WorkerDeploymentVersion as ApiVersion
from temporalio.api.enums.v1 import WorkerDeploymentVersionStatus
from temporalio.api.workflow.v1 import VersioningOverride, WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
    UpdateWorkflowExecutionOptionsRequest,
)
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode

from policies.errors import InvalidInput, NotFound, RemitError, Unavailable
from policies.models import Frozen
from remit import __version__
from remit.settings import ROOT, Settings
from workflows.messages import AGENT_RUN

if TYPE_CHECKING:
    from temporalio.worker import WorkerDeploymentConfig

__all__ = ["Deployment", "Version", "VersionStatus", "build_id", "worker_version"]

VersionStatus = Literal["inactive", "current", "ramping", "draining", "drained"]
_STATUS: dict[int, VersionStatus] = {
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT: "current",
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING: "ramping",
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING: "draining",
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED: "drained",
}
# What a run's commands also depend on: with another Cedar or another pydantic, the same code may decide otherwise.
DECIDING = ("temporalio", "cedarpy", "pydantic", "joserfc", "rfc8785")
INTRODUCE_SECONDS = 60


def build_id(settings: Settings) -> str:
    """The version of the code that decides a run's commands: `REMIT_BUILD_ID`, or Remit's version and a digest of it.

    Agents, prompts and bundles aren't in it, for each run pins its own. Neither are activities: a retry may run on newer ones.
    """
    if settings.build_id:
        return settings.build_id
    parts = [f"{package}\0{installed(package)}\0".encode() for package in DECIDING]
    for folder, pattern in (("workflows", "**/*.py"), ("policies", "*.py"), ("tools", "*.py")):
        parts += _content(ROOT, folder, pattern)
    if settings.app:
        parts += _content(settings.app.expanduser().resolve(), "tools", "**/*.py")
    return f"{__version__}-{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"


def _content(root: Path, folder: str, pattern: str) -> list[bytes]:
    files = sorted(p for p in (root / folder).glob(pattern) if "__pycache__" not in p.parts)
    return [f"{f.relative_to(root).as_posix()}\0{f.stat().st_size}\0".encode() + f.read_bytes() for f in files]


def worker_version(settings: Settings, *, pinned: bool = True) -> "WorkerDeploymentConfig":
    """What a worker tells the server of its version. `AgentRun` is pinned to it; what lives for ever can't be."""
    from temporalio.worker import WorkerDeploymentConfig

    name = settings.deployment_name
    version = WorkerDeploymentVersion(deployment_name=name or settings.task_queue, build_id=build_id(settings))
    # Not on `AgentRun` itself: the server refuses a behavior of a workflow whose worker is unversioned.
    kept = VersioningBehavior.PINNED if pinned else VersioningBehavior.AUTO_UPGRADE
    behavior = kept if name else VersioningBehavior.UNSPECIFIED
    return WorkerDeploymentConfig(version=version, use_worker_versioning=bool(name), default_versioning_behavior=behavior)


class Version(Frozen):
    """One version of a deployment. Times are Unix seconds.

    Attributes:
        percent: the share of new runs that it gets while it ramps.
        open_runs: runs that are pinned to it and haven't closed; None when nobody counted.
    """

    build_id: str
    status: VersionStatus
    percent: float
    created_at: int
    open_runs: int | None = None


class Deployment:
    """A Worker Deployment of the client's namespace."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name

    async def versions(self) -> list[Version]:
        """All versions that a worker ever polled with, newest first; none if there was no such worker.

        Raises:
            Unavailable: the server doesn't answer.
        """
        request = DescribeWorkerDeploymentRequest(namespace=self._client.namespace, deployment_name=self.name)
        try:
            with _answers():
                answer = await self._client.workflow_service.describe_worker_deployment(request)
        except NotFound:
            return []
        info = answer.worker_deployment_info
        found = [_version(info, v) for v in info.version_summaries]
        return sorted(found, key=lambda v: v.created_at, reverse=True)

    async def counted(self) -> list[Version]:
        """`versions`, each with its number of open runs."""
        found = await self.versions()
        counts = await asyncio.gather(*(self._count(self.pinned_to(v.build_id)) for v in found))
        return [v.model_copy(update={"open_runs": n}) for v, n in zip(found, counts, strict=True)]

    def pinned_to(self, build: str) -> str:
        """The visibility query of the open runs that are pinned to `build`."""
        where = f"TemporalWorkerDeploymentVersion = '{self.name}:{build}'"
        return f"WorkflowType = '{AGENT_RUN}' AND ExecutionStatus = 'Running' AND {where}"

    async def _count(self, query: str) -> int:
        with _answers():
            return (await self._client.count_workflows(query)).count

    async def make_current(self, build: str) -> None:
        """Send new runs, and those that continue as new, to `build`; the version before it drains.

        Raises:
            NotFound: no worker ever polled with this version.
            InvalidInput: the server refuses, for example because no worker of it polls.
        """
        with _answers(self._unknown(build)):
            await self._client.workflow_service.set_worker_deployment_current_version(
                SetWorkerDeploymentCurrentVersionRequest(
                    namespace=self._client.namespace,
                    deployment_name=self.name,
                    build_id=build,
                    identity=self._client.identity,
                )
            )

    async def ramp(self, build: str, percent: float) -> None:
        """Send this share of the runs that start or continue to `build`; 0 ends a ramp. Raises as `make_current` does."""
        with _answers(self._unknown(build)):
            await self._client.workflow_service.set_worker_deployment_ramping_version(
                SetWorkerDeploymentRampingVersionRequest(
                    namespace=self._client.namespace,
                    deployment_name=self.name,
                    build_id=build if percent else "",
                    percentage=percent,
                    identity=self._client.identity,
                )
            )

    async def introduce(self, build: str, *, always: bool = False) -> VersionStatus:
        """Wait until the server knows the version, whose worker has just started. The first of a deployment becomes current.

        Without a current version, plain starts would wait for ever. Later versions must be asked for, unless `always`.

        Raises:
            Unavailable: it didn't appear, or the server was too busy to make it current.
            InvalidInput: the server refuses to make it current.
        """
        error: RemitError = Unavailable(f"The Temporal server hasn't seen a worker of version `{build}` yet.")
        try:
            async with asyncio.timeout(INTRODUCE_SECONDS):
                while True:
                    try:
                        found: dict[str, VersionStatus] = {v.build_id: v.status for v in await self.versions()}
                        if build in found and ("current" in found.values() and not always):
                            return found[build]
                        if build in found:
                            await self.make_current(build)
                            return "current"
                    except (Unavailable, InvalidInput) as e:
                        # It allows few changes at a time, and says so when a fleet restarts. And it may know the version by its
                        # activities only yet, and refuse it for the workflows that it doesn't take up.
                        error = e
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise error from None

    async def move(self, workflow_id: str, run_id: str, build: str) -> None:
        """Pin an open run to another version, until it ends. Only for a run whose history that version's code replays.

        Raises:
            NotFound, InvalidInput: it has closed meanwhile, or no worker of the version polls its task queue.
        """
        pinned = VersioningOverride.PinnedOverride(
            version=ApiVersion(deployment_name=self.name, build_id=build),
            behavior=VersioningOverride.PINNED_OVERRIDE_BEHAVIOR_PINNED,
        )
        with _answers(f"There is no open run `{workflow_id}`."):
            await self._client.workflow_service.update_workflow_execution_options(
                UpdateWorkflowExecutionOptionsRequest(
                    namespace=self._client.namespace,
                    workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                    workflow_execution_options=WorkflowExecutionOptions(versioning_override=VersioningOverride(pinned=pinned)),
                    update_mask=FieldMask(paths=["versioning_override"]),
                )
            )

    def _unknown(self, build: str) -> str:
        return (
            f"Deployment `{self.name}` has no version `{build}`: no worker of it has polled yet. "
            "`remit deploy` lists those that there are."
        )


def _version(info: WorkerDeploymentInfo, summary: WorkerDeploymentInfo.WorkerDeploymentVersionSummary) -> Version:
    build = summary.deployment_version.build_id
    routing = info.routing_config
    ramping = routing.ramping_deployment_version.build_id == build
    return Version(
        build_id=build,
        status=_STATUS.get(summary.status, "inactive"),
        percent=routing.ramping_version_percentage if ramping else 0,
        created_at=summary.create_time.seconds,
    )


@contextmanager
def _answers(unknown: str = "There is no such deployment.") -> Generator[None]:
    """Turn what the server says into one sentence; `unknown` is that for what it doesn't know."""
    try:
        yield
    except RPCError as e:
        said = " ".join(e.message.split())[:300]
        if e.status == RPCStatusCode.NOT_FOUND:
            raise NotFound(unknown) from None
        if e.status in (RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.INVALID_ARGUMENT):
            raise InvalidInput(f"The Temporal server refused: {said}.") from None
        if e.status == RPCStatusCode.UNAVAILABLE:
            raise Unavailable("The Temporal server doesn't answer; nothing was changed. Try again once it is back.") from None
        raise Unavailable(f"The Temporal server refused: {said}.") from None
