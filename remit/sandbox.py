"""The sandbox that workflow code runs and is replayed in: what is passed through it, in one place."""

from temporalio.worker.workflow_sandbox import SandboxRestrictions

from remit.apps import PACKAGE
from remit.shortcut import Sandbox

__all__ = ["PURE", "runner"]

# Passed through the sandbox, for they have no state that a workflow could depend on. Never `workflows` as a whole:
# `agent_run` must keep its checks.
PURE = (
    PACKAGE,
    "policies",
    "tools",
    "workflows.action",
    "workflows.commands",
    "workflows.counts",
    "workflows.fleet_messages",
    "workflows.fleet_state",
    "workflows.inbox",
    "workflows.keeper_messages",
    "workflows.keys",
    "workflows.messages",
    "workflows.options",
    "workflows.ports",
    "workflows.records",
    "workflows.rollout_messages",
    "workflows.rising",
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


def runner() -> Sandbox:
    """The sandbox that workflow code runs and is replayed in."""
    return Sandbox(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PURE))
