"""The systems side by side: how each one's worker is started, and what its runs take, return and are told."""

import sys
from abc import ABC, abstractmethod
from pathlib import Path

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from bench.task import Task, final_text
from policies.approvals import Approval
from remit.client import Remit
from remit.connection import connect
from remit.issuer import DevIssuer
from remit.settings import ROOT, Settings, Standalone

__all__ = ["PEERS", "SYSTEMS", "Failed", "System"]

PEERS = ROOT / "bench" / ".venv-peers" / "bin" / "python"
"""The peers' own environment; `make bench` makes it."""
APP = ROOT / "bench" / "app"
APPROVER = "ana"
Run = WorkflowHandle[object, object]


class Failed(Exception):
    """A run didn't end as it must; the message says how it ended."""


class System(ABC):
    """One column of the table."""

    def __init__(self, name: str, without: tuple[str, ...] = ()) -> None:
        """`without`: parts in which it would only repeat another system's figures."""
        self.name = name
        self.without = without

    def missing(self) -> str:
        """Why it can't be measured here; nothing when it can."""
        return ""

    @abstractmethod
    def command(self) -> list[str]:
        """The worker process."""

    def environment(self, home: Path, model_url: str, queue: str) -> dict[str, str]:
        """What the worker process gets beside `TEMPORAL_ADDRESS`."""
        return {"BENCH_QUEUE": queue, "OPENAI_BASE_URL": model_url, "PYTHONPATH": str(ROOT)}

    async def client(self, plain: Client, home: Path) -> Client:
        """A client that reads what its runs return, before its worker starts; `plain` reads JSON."""
        return plain

    @abstractmethod
    async def start(self, client: Client, queue: str, task: Task, run_id: str, *, gated: bool = False) -> Run: ...

    @abstractmethod
    def said(self, result: object) -> str:
        """The answer in what a run returned."""

    @abstractmethod
    async def approval(self, run: Run, home: Path) -> tuple[str, list[object]]:
        """The signal that approves what the run waits for."""

    @property
    def kill(self) -> tuple[str, list[object]]:
        """The signal that ends a run."""
        return "kill", []

    def replay_command(self, history: Path, repeats: int) -> list[str]:
        """The process that replays a stored history so often, and prints the seconds of each as JSON."""
        return [self.command()[0], "-m", "bench.replaying", self.name, str(history), str(repeats)]

    async def finish(self, run: Run, task: Task) -> None:
        """Wait for the run's end.

        Raises:
            Failed: it failed, or its answer isn't the task's.
        """
        try:
            said = self.said(await run.result())
        except WorkflowFailureError as e:
            raise Failed(f"{e.cause or e}"[:200]) from None
        if not said.startswith(final_text(task.steps)[:20].split(".")[0]):
            raise Failed(f"answered {said[:100]!r}")


class OnTemporal(System):
    """A workflow of a module of ours, served by `bench.serving`: text in, text out."""

    def __init__(self, name: str, module: str, workflow: str, gated: str) -> None:
        super().__init__(name)
        self.module = module
        self._workflows = {False: workflow, True: gated}
        self._python = Path(sys.executable) if module == "bench.raw" else PEERS

    def missing(self) -> str:
        return "" if self._python.exists() else "the peers' environment isn't there; `make bench` makes it"

    def command(self) -> list[str]:
        return [str(self._python), "-m", self.module]

    async def start(self, client: Client, queue: str, task: Task, run_id: str, *, gated: bool = False) -> Run:
        workflow = self._workflows[gated]
        return await client.start_workflow(workflow, task.text, id=run_id, task_queue=queue, result_type=object)

    def said(self, result: object) -> str:
        return str(result)

    async def approval(self, run: Run, home: Path) -> tuple[str, list[object]]:
        return "approve", []


class OnRemit(System):
    """The real worker of Remit with the app in `bench/app`: policy, capabilities, ledger and spans on.

    Attributes:
        agent, tool: who takes the steps, and with what.
        setting: what is switched on beside everything else.
    """

    def __init__(self, name: str, agent: str, tool: str, setting: str = "", without: tuple[str, ...] = ()) -> None:
        super().__init__(name, without)
        self.agent, self.tool = agent, tool
        self._setting = setting

    def missing(self) -> str:
        known = not self._setting or self._setting in Settings.model_fields
        return "" if known else f"this version has no setting `REMIT_{self._setting.upper()}`"

    def command(self) -> list[str]:
        return [sys.executable, str(ROOT / "worker.py")]

    def environment(self, home: Path, model_url: str, queue: str) -> dict[str, str]:
        return {
            "REMIT_HOME": str(home),
            "REMIT_APP": str(APP),
            "REMIT_TASK_QUEUE": queue,
            "REMIT_MODEL": "fake",
            "REMIT_PRICE_INPUT_PER_MTOK": "100000",
            "REMIT_PRICE_OUTPUT_PER_MTOK": "400000",
            "OPENAI_BASE_URL": model_url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": model_url.removesuffix("/v1"),
            # Spans are sent while the run is measured, not after it, when they'd cost nobody anything.
            "OTEL_BSP_SCHEDULE_DELAY": "1000",
            "REMIT_SEAL_SECONDS": "off",  # done when a run has closed, at any later time: what is measured is the run
            **({f"REMIT_{self._setting.upper()}": "on"} if self._setting else {}),
        }

    async def client(self, plain: Client, home: Path) -> Client:
        DevIssuer(home, env="dev").ensure()
        settings = Standalone.model_validate({"home": home, self._setting: True} if self._setting else {"home": home})
        return await connect(settings)

    async def start(self, client: Client, queue: str, task: Task, run_id: str, *, gated: bool = False) -> Run:
        tool = "sign_off" if gated else self.tool
        inputs = {"account": "A-1", "task": Task(task.steps, tool, task.hold).text}
        run = await Remit(client, queue).start("stepper-gated" if gated else self.agent, {**inputs}, run_id=run_id)
        return client.get_workflow_handle(run.id, first_execution_run_id=run.first_execution_run_id, result_type=object)

    def said(self, result: object) -> str:
        return str(result.get("summary") if isinstance(result, dict) else result)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]

    async def approval(self, run: Run, home: Path) -> tuple[str, list[object]]:
        [waits] = await run.query("pending_approvals", result_type=list[Approval])
        token = DevIssuer(home, env="dev").sign(
            APPROVER, request=waits.request, run_id=str(run.first_execution_run_id), decision="approve", reason="Fine."
        )
        return "decide", [{"approval_id": waits.request.approval_id, "decision_jws": token}]

    @property
    def kill(self) -> tuple[str, list[object]]:
        return "kill", [{"reason": "The bench ends it."}]

    def replay_command(self, history: Path, repeats: int) -> list[str]:
        return [sys.executable, "-m", "bench.replaying", "remit", str(history), str(repeats)]


SYSTEMS: dict[str, System] = {
    s.name: s
    for s in (
        OnTemporal("raw", "bench.raw", "RawAgent", "RawGated"),
        OnRemit("remit", "stepper", "lookup"),
        OnRemit("remit_local", "stepper-local", "lookup_local", without=("signals", "parked")),
        OnRemit("remit_writes", "stepper-writes", "record", without=("signals", "parked")),
        OnRemit("remit_codec", "stepper", "lookup", setting="codec", without=("replay", "signals", "parked")),
        OnTemporal("openai_agents", "bench.peers.openai_agents", "OpenAIAgent", "OpenAIGated"),
        OnTemporal("pydantic_ai", "bench.peers.pydantic_ai", "PydanticAgent", "PydanticGated"),
    )
}
