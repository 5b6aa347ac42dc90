"""What processes and cores used, read from /proc."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PACKAGES = (
    *("uvicorn", "uvloop", "httptools", "quart", "aiohttp", "msgspec", "orjson"),
    *("asyncpg", "sqlalchemy", "redis", "hiredis"),
)


def children(pid: int) -> list[int]:
    """Process ids of the direct children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, task.read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """User and system time of a process, its children and those it has reaped, in seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    own = sum(map(int, fields[11:15])) / TICKS_PER_S
    return own + sum(cpu_s(child) for child in children(pid))


def rss_mb(pid: int) -> float:
    """Resident memory of a process and its children, in MiB."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    own = int(lines[0].split()[1]) / 1024 if lines else 0.0
    return round(own + sum(rss_mb(child) for child in children(pid)), 2)


def core_busy_s(core: int) -> float:
    """Seconds that a core has not been idle since the machine started."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            return (user + nice + system + irq + softirq + steal) / TICKS_PER_S
    return 0.0


def yardstick_ms() -> float:
    """CPU time of a fixed piece of Python: how fast the machine is at this moment.

    Neighbours on the same silicon make every instruction dearer without showing in any
    process list; a CPU figure is comparable only with one taken at the same speed.
    """
    times = []
    for _ in range(3):
        began, total = time.process_time_ns(), 0
        for number in range(100_000):
            total += number
        times.append(time.process_time_ns() - began)
    return round(min(times) / 1e6, 3)


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at all meters."""

    at_s: float
    cpu: Mapping[str, float]
    cores: Mapping[int, float]

    @classmethod
    def take(cls, pids: Mapping[str, int], cores: tuple[int, ...]) -> Reading:
        """Read them now."""
        return cls(
            time.monotonic(),
            {name: cpu_s(pid) for name, pid in pids.items()},
            {core: core_busy_s(core) for core in cores},
        )

    def until(self, later: Reading) -> dict[str, Any]:
        """What was used between this look and a later one."""
        elapsed = later.at_s - self.at_s
        return {
            "wall_s": round(elapsed, 3),
            "cpu_s": {name: round(later.cpu[name] - self.cpu[name], 3) for name in self.cpu},
            "core_busy": {
                str(core): round(min(1.0, (later.cores[core] - busy) / elapsed), 3)
                for core, busy in self.cores.items()
            },
        }


def facts() -> dict[str, Any]:
    """The machine and the versions, without anything that names the machine."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
