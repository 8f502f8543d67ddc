"""What `TraceKeeper` and its activity say to each other, and the name that it is met under. Add optional fields only."""

from policies.models import Frozen
from workflows.messages import TASK_QUEUE

__all__ = ["TRACE_KEEPER", "KeeperState", "SealRuns", "SealedRuns", "keeper_id"]

TRACE_KEEPER = "TraceKeeper"


def keeper_id(task_queue: str) -> str:
    """The workflow id of the `TraceKeeper` of these workers: one for a namespace, or for each task queue that shares one."""
    return "remit-trace-keeper" if task_queue == TASK_QUEUE else f"remit-trace-keeper:{task_queue}"


class SealRuns(Frozen):
    """Input of `seal_runs`: seal what has closed, or wait some time for it.

    Attributes:
        sweep: look in Temporal for closed runs that nobody recorded, too: those that closed after `since`, Unix seconds.
    """

    sweep: bool = False
    since: int = 0


class SealedRuns(Frozen):
    """What `seal_runs` did.

    Attributes:
        sealed: how many runs.
        found: how many closed runs nobody had recorded.
        again_seconds: when to ask again; sealing is off on the worker that answers if it isn't 0.
    """

    sealed: int
    found: int = 0
    again_seconds: int = 0


class KeeperState(Frozen):
    """What `TraceKeeper` hands to its next history.

    Attributes:
        swept_at: Unix seconds of the last look for runs that nobody recorded; 0 before the first.
        sealed: how many runs in all.
    """

    swept_at: int = 0
    sealed: int = 0
