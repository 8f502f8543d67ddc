"""Where a worker's CPU goes: `python -m bench.profile SYSTEM STEPS`. Needs `pip install py-spy`."""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.stage import opened
from bench.systems import SYSTEMS
from bench.task import Task

__all__ = ["main"]

SECONDS_AT_MOST = 120
SHOWN = 60
RATE = 500
_FRAME = re.compile(r"(.*) \((.*):\d+\)")


async def main(name: str, steps: int) -> None:
    """Print functions by the share of samples that they, and what they called, are in; then by themselves.

    Only threads that hold the interpreter's lock are sampled: what waits costs nothing. Temporal's Rust core isn't seen, so the
    milliseconds are somewhat too high.
    """
    with tempfile.TemporaryDirectory(prefix="remit-profile-") as folder:
        folded = Path(folder) / "folded"
        async with opened(Path(folder)) as stage, stage.entrant(SYSTEMS[name]) as entrant:
            spy = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).parent / "py-spy"),
                *["record", "-p", str(entrant.worker.pid), "--gil", "-r", str(RATE), "-f", "raw", "-o", str(folded)],
                *["-d", str(SECONDS_AT_MOST)],
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await asyncio.sleep(1)
            before = entrant.meter.cpu_s()
            await entrant.run(Task(steps), SECONDS_AT_MOST)
            used = (entrant.meter.cpu_s() - before) * 1000 / steps
            spy.send_signal(2)
            await spy.wait()
        if keep := os.environ.get("BENCH_FOLDED"):
            shutil.copy(folded, keep)
        within, itself = Counter[str](), Counter[str]()
        for line in folded.read_text().splitlines():
            stack, count = line.rsplit(" ", 1)
            frames = [_name(frame) for frame in stack.split(";")]
            itself[frames[-1]] += int(count)
            for frame in set(frames):
                within[frame] += int(count)
    total = sum(itself.values())
    print(f"{name}, N={steps}: {used:.2f} ms of CPU a step; its Python by {total} samples")
    for title, counts in (("with all that they call", within), ("by themselves", itself)):
        print(f"\n{title}:")
        for frame, count in counts.most_common(SHOWN):
            print(f"  {count / total:6.1%} {count / total * used:6.2f} ms  {frame}")


def _name(frame: str) -> str:
    found = _FRAME.fullmatch(frame)
    if not found:
        return frame
    path = found[2].split("site-packages/")[-1]
    return f"{found[1]}  {path.removeprefix(str(Path.cwd()) + '/')}"


if __name__ == "__main__":
    if shutil.which("py-spy", path=str(Path(sys.executable).parent)) is None:
        print("`py-spy` isn't installed; `pip install py-spy`.", file=sys.stderr)
        sys.exit(1)
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort a normal interpreter exit (sdk-python#300)
