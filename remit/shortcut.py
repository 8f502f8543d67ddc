"""The workflow sandbox of the SDK, only cheaper (ADR 20). No rule of the sandbox is made or changed here.

The SDK enters it for each payload of a task, three times over, only to ask which activity the payload belongs to: that was a
fifth of a worker's Python. The question runs none of our code, so it is put to the instance inside directly.

It loads the workflow's module anew for each run, which isolates the runs, but also compiles it anew where Python writes no
bytecode, as in our container image, and each run holds code of its own. Code can't be changed, so all runs share it.
"""

import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, cast

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import SerializationContext, StorageDriverStoreContext
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import Info

__all__ = ["Sandbox"]

_INSIDE = "__temporal_in_sandbox"
WORKFLOW_MODULE = "workflows.agent_run"


class Sandbox(SandboxedWorkflowRunner):
    """`SandboxedWorkflowRunner` whose instances answer what isn't workflow code without entering the sandbox."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        found = super().create_instance(det)
        # The SDK promises nothing about where it keeps the instance; one that keeps it elsewhere is asked as before.
        inside = cast("dict[str, Any]", getattr(found, "globals_and_locals", {})).get(_INSIDE)
        instance = getattr(inside, "instance", None)
        return _Instance(found, instance) if isinstance(instance, WorkflowInstance) else found


class _Instance(WorkflowInstance):
    def __init__(self, sandboxed: WorkflowInstance, inside: WorkflowInstance) -> None:
        self._sandboxed = sandboxed
        self._inside = inside

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        return self._sandboxed.activate(act)

    def get_serialization_context(self, command_info: Any) -> SerializationContext | None:
        return self._inside.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> StorageDriverStoreContext:
        return self._inside.get_external_store_context(command_info)

    def get_info(self) -> Info:
        return self._sandboxed.get_info()

    def get_thread_id(self) -> int | None:
        return self._sandboxed.get_thread_id()


@lru_cache
def _code(name: str, path: str) -> CodeType | None:
    return SourceFileLoader(name, path).get_code(name)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        return _code(fullname, self.path)


class _Finder(MetaPathFinder):
    """Finds the workflow's module where it lies, and loads it from code that is compiled once."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == WORKFLOW_MODULE else None
        if spec and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder())
