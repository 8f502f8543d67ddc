"""Replays a stored history in a fresh process: `python -m bench.replaying SYSTEM FILE REPEATS` prints seconds as JSON."""

import asyncio
import importlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from temporalio.api.history.v1 import History
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

MODULES = {"raw": "bench.raw", "openai_agents": "bench.peers.openai_agents", "pydantic_ai": "bench.peers.pydantic_ai"}


def replayer(system: str) -> Replayer:
    """A replayer set up as the system's worker is."""
    if system == "remit":
        # Imported here, for the peers' environment has none of it.
        from bench.systems import APP
        from remit.apps import assemble
        from remit.connection import CONVERTER
        from remit.sandbox import runner
        from remit.settings import Standalone
        from tools import registry
        from workflows.agent_run import AgentRun

        registry.install(assemble(Standalone(app=APP)).catalog)
        return Replayer(workflows=[AgentRun], workflow_runner=runner(), data_converter=CONVERTER)
    module: Any = importlib.import_module(MODULES[system])
    plugins: list[Any] = module.plugins() if hasattr(module, "plugins") else []
    return Replayer(workflows=module.WORKFLOWS, plugins=plugins)


async def main(system: str, history: History, repeats: int) -> None:
    found: list[float] = []
    for _ in range(repeats + 1):  # the first one loads code
        began = time.perf_counter()
        await replayer(system).replay_workflow(WorkflowHistory("replayed", list(history.events)))
        found.append(time.perf_counter() - began)
    print(json.dumps(found[1:]), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    asyncio.run(main(sys.argv[1], History.FromString(Path(sys.argv[2]).read_bytes()), int(sys.argv[3])))
    os._exit(0)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)
