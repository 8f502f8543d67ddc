"""A process that reserves until every cap is used up, and may be killed at any point: `python -m tests.guarantees.capping`."""

import os
import sys
import time

from activities.ledger import switches, usage
from activities.ledger.rows import Charge, Intent
from activities.ledger.store import Ledger
from policies.caps import Caps, ScopedCaps
from policies.errors import CapReached
from policies.models import Money, ResourceRef

CALLS, TOKENS, CENTS = 60, 9_000, 1_400
ESTIMATE, TRUTH, MOVED = 200, 70, 70
CAPS = (
    ScopedCaps(scope="agent:billing", caps=Caps(tool_calls_per_day=CALLS, tokens_per_day=TOKENS, on_cap="refuse")),
    ScopedCaps(scope="fleet", caps=Caps(moved_cents_per_day={"USD": CENTS}, on_cap="refuse")),
)


def read(ledger: Ledger, key: str) -> bool:
    with ledger.begin() as connection:
        switches.lock(connection)
        wanted = Charge(key=f"read/{key}", kind="tool", run_id="run-1", agent="billing")
        return usage.charge(connection, wanted, CAPS) is None


def ask(ledger: Ledger, key: str) -> bool:
    """A model call that takes less than its estimate."""
    with ledger.begin() as connection:
        switches.lock(connection)
        wanted = Charge(key=f"model/{key}", kind="model", run_id="run-1", agent="billing", tokens=ESTIMATE)
        if usage.charge(connection, wanted, CAPS):
            return False
    with ledger.begin() as connection:
        switches.lock(connection)
        usage.settle(connection, f"model/{key}", tokens=TRUTH, cost_micro_usd=0)
    return True


def write(ledger: Ledger, key: str) -> bool:
    intent = Intent(
        idempotency_key=f"rk_{key}",
        run_id="run-1",
        workflow_id="wf-1",
        agent="billing",
        tool="refund@1",
        resource=ResourceRef(type="Invoice", id="in_1"),
        subject="Customer:cus_1",
        amount=Money(cents=MOVED, currency="USD"),
        action_digest="sha256:0",
        approvers=(),
        strategy="native_key",
    )
    try:
        ledger.reserve(intent, ["run:run-1"], lambda _sum, _mode: None, CAPS)
    except CapReached:
        return False
    return True


def main(url: str, name: str) -> None:
    """Say `go` on stdin and it begins; it prints one line for each thing that got room."""
    ledger = Ledger(url)
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(10_000):
        key = f"{name}-{n}"
        got = [what.__name__ for what in (read, ask, write) if what(ledger, key)]
        print(*(f"{what} {key}" for what in got), sep="\n", flush=True)
        if not got:
            break
        time.sleep(0.005)  # SQLite is unfair to those who wait
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)
