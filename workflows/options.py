"""Timeouts and retry caps of each class of activity, and whose turn it is when they wait, in one place."""

import hashlib
from datetime import timedelta
from typing import TypedDict

from temporalio.common import Priority, RetryPolicy
from temporalio.workflow import ActivityCancellationType

__all__ = [
    "ADMIT",
    "ARCHIVE",
    "DRILL",
    "GIVE_UP",
    "KILL",
    "MINT",
    "MODEL",
    "READ",
    "REPORT",
    "ROLLOUT",
    "SEAL",
    "TELL",
    "ActivityOptions",
    "LocalOptions",
    "share",
    "slow_read",
    "write",
]


class _Options(TypedDict):
    start_to_close_timeout: timedelta
    retry_policy: RetryPolicy


class LocalOptions(_Options, total=False):
    local_retry_threshold: timedelta


class ActivityOptions(_Options, total=False):
    heartbeat_timeout: timedelta
    cancellation_type: ActivityCancellationType


FIRST, MIDDLE = 1, 3
MAX_KEY_BYTES = 64


def share(agent: str, priority: int | None = None, weight: int | None = None) -> Priority:
    """The place of an agent's work among all that waits for a worker.

    All fields are set, so that an activity takes nothing from what somebody claimed for the workflow when they started it.
    """
    raw = agent.encode()
    key = agent if len(raw) <= MAX_KEY_BYTES else hashlib.sha256(raw).hexdigest()
    return Priority(priority_key=priority or MIDDLE, fairness_key=key, fairness_weight=float(weight or 1))


def _retry(attempts: int, *, initial: float = 0.5, longest: float = 10.0) -> RetryPolicy:
    return RetryPolicy(
        maximum_attempts=attempts,
        initial_interval=timedelta(seconds=initial),
        maximum_interval=timedelta(seconds=longest),
    )


ADMIT: ActivityOptions = {"start_to_close_timeout": timedelta(seconds=30), "retry_policy": _retry(20)}

# Nothing goes on until it has landed: the run waits for its storage, and can be killed meanwhile.
ARCHIVE: ActivityOptions = {
    "start_to_close_timeout": timedelta(seconds=60),
    "retry_policy": _retry(1_000, initial=0.5, longest=60.0),
}

MODEL: ActivityOptions = {
    # A dead worker is found by the missing heartbeat, not after the whole timeout.
    # A model that reasons may write for minutes.
    "start_to_close_timeout": timedelta(minutes=15),
    "heartbeat_timeout": timedelta(seconds=10),
    "retry_policy": _retry(6, initial=1.0, longest=60.0),
}

READ: LocalOptions = {"start_to_close_timeout": timedelta(seconds=10), "retry_policy": _retry(4, initial=0.1, longest=1.0)}

# No ledger, no capability: it waits some twenty seconds for one.
MINT: LocalOptions = {"start_to_close_timeout": timedelta(seconds=10), "retry_policy": _retry(10, initial=0.1, longest=4.0)}

# The last thing of a run; it waits for the ledger, with timers in between once that is away for longer.
RECORD: LocalOptions = {
    "start_to_close_timeout": timedelta(seconds=10),
    "retry_policy": _retry(10_000, initial=0.1, longest=60.0),
    "local_retry_threshold": timedelta(seconds=2),
}

# G4: the kill row must land, however long the ledger is away.
KILL: ActivityOptions = {
    "start_to_close_timeout": timedelta(seconds=15),
    "retry_policy": _retry(10_000, initial=0.2, longest=5.0),
}

# As a kill, but it may read thousands of records.
ROLLOUT: ActivityOptions = {**KILL, "start_to_close_timeout": timedelta(seconds=60)}

# All runs of a fleet, one signal each; a worker that dies meanwhile is found by its missing heartbeat.
TELL: ActivityOptions = {
    "start_to_close_timeout": timedelta(minutes=10),
    "heartbeat_timeout": timedelta(seconds=10),
    "retry_policy": _retry(100, initial=0.2, longest=10.0),
}

# The breaker looks again soon in any case.
LOOK: ActivityOptions = {"start_to_close_timeout": timedelta(seconds=60), "retry_policy": _retry(3, initial=1.0, longest=5.0)}

# It waits for runs that close, a minute at a time; whatever it was at when its worker died is there for the next one.
SEAL: ActivityOptions = {
    "start_to_close_timeout": timedelta(minutes=30),
    "heartbeat_timeout": timedelta(seconds=5),
    "retry_policy": _retry(100, initial=0.5, longest=30.0),
}

REPORT: ActivityOptions = {"start_to_close_timeout": timedelta(seconds=40), "retry_policy": _retry(5, initial=0.2, longest=2.0)}

# A drill that isn't acknowledged has failed; another attempt is for a worker that died meanwhile.
DRILL: ActivityOptions = {
    "start_to_close_timeout": timedelta(seconds=60),
    "heartbeat_timeout": timedelta(seconds=10),
    "retry_policy": _retry(3, initial=1.0, longest=10.0),
}

# After the last attempt of a write: it waits for a ledger or a worker as long as it may, for nobody else will ask.
GIVE_UP: ActivityOptions = {
    "start_to_close_timeout": timedelta(seconds=30),
    "retry_policy": _retry(100, initial=0.2, longest=10.0),
    "cancellation_type": ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
}


def slow_read(attempts: int) -> ActivityOptions:
    """A read that talks to something slow; `attempts` are those left to this step."""
    return {
        "start_to_close_timeout": timedelta(seconds=60),
        "heartbeat_timeout": timedelta(seconds=10),
        "retry_policy": _retry(attempts),
    }


def write(attempts: int) -> ActivityOptions:
    """A side effect. Cancelling waits for its end, for what became of it must be known."""
    return {
        "start_to_close_timeout": timedelta(seconds=60),
        "heartbeat_timeout": timedelta(seconds=5),
        "retry_policy": _retry(attempts, initial=0.5, longest=5.0),
        "cancellation_type": ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    }
