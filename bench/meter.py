"""What a process has used, and what others use meanwhile. Linux only: `/proc` and its clocks."""

import os
import time
from pathlib import Path

__all__ = ["Meter", "machine", "machine_cpu_s"]


class Meter:
    """CPU and memory of the process `pid`, its threads included."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._clock = (~pid << 3) | 2  # clock_getcpuclockid(3): nanoseconds, where `/proc` has ticks of 10 ms

    def cpu_s(self) -> float:
        return time.clock_gettime(self._clock)

    def rss_kb(self) -> int:
        return self._status("VmRSS")

    def peak_kb(self) -> int:
        """The most memory since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        (self._proc / "clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        lines = (self._proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def machine_cpu_s() -> float:
    """CPU seconds that all processes of the machine have used."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ""
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    return {"cpus": os.cpu_count() or 0, "cpu": model, "memory_gb": memory, "kernel": os.uname().release}
