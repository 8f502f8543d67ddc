"""`python -m tests.chaos`: break everything for a while, then look at what is left. The last line is JSON."""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

from tests.chaos.plan import LONG, SHORT, SMALL, Form, make
from tests.chaos.run import play
from tests.postgres import PostgresServer

FORMS = {form.name: form for form in (SMALL, SHORT, LONG)}


async def main(form: Form, seed: int, home: Path) -> int:
    """The exit code."""
    plan = make(form, seed)
    print(
        f"seed {seed}: {form.runs} runs on {form.workers} workers; {form.kills} SIGKILLs, {form.server_restarts} server and "
        f"{form.database_restarts} PostgreSQL restarts, {form.freezes} pauses, {form.floods} floods in {form.seconds:.0f} s",
        flush=True,
    )
    postgres = PostgresServer()
    try:
        report = await play(plan, home, postgres)
    finally:
        postgres.stop()
    for failure in report.failures:
        print(failure)
    if report.world.faults:
        print(f"workers that ended by themselves, and were replaced: exit codes {report.world.faults}")
    print(report.line())
    return 1 if report.failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break workers, server and ledger under load.")
    parser.add_argument("--form", choices=FORMS, default=SHORT.name, help=f"how much of it ({SHORT.name})")
    parser.add_argument("--seed", type=int, help="equal seeds choose alike; a random one is printed")
    parser.add_argument("--keep", type=Path, help="keep the files in this new folder")
    given = parser.parse_args()
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    quiet = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=quiet)))
    started = time.monotonic()
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(3), "big")
    with tempfile.TemporaryDirectory() as folder:
        home = given.keep or Path(folder) / "chaos"
        home.mkdir(parents=True)
        code = asyncio.run(main(FORMS[given.form], seed, home))
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.stdout.flush()
    os._exit(code)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)
