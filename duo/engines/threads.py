"""How many threads compute, unless a flag says."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

SPARE_FROM = 4
"""Cores from which on one is left free."""
SMALL_MODEL_BYTES = 48 << 20
"""A core reads so much in a few milliseconds. To wake other threads for each layer takes as long."""
CPUS = Path("/sys/devices/system/cpu")
SIBLINGS = ("core_cpus_list", "thread_siblings_list")
"""Files that list the processors of a core: today's, and that of kernels before 5.3."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
"""The control groups of this process, one line for each hierarchy: number, controllers, path."""


def usual(model_bytes: int = 0) -> int:
    """Threads that compute by default: one for each physical core, but one less from four cores on.

    A small model gets one thread. model_bytes: of its weights; 0: not known.

    Generating is bound by memory, so the last core adds little. A pass waits for its slowest thread, and a thread that
    shares its core with other programs is slow. So one core is for those, and for the Python around the runtime. With
    two or three cores, one less would cost a half or a third.

    Where a container may use less time than that, there are no more threads than processors with as much time. Threads
    beyond would use the time up early, and then all of them stand still until the next period.
    """
    if 0 < model_bytes < SMALL_MODEL_BYTES:
        return 1
    found = cores()
    if sys.platform != "linux":
        return found
    return min([found - 1 if found >= SPARE_FROM else found, *_quotas()])


def cores() -> int:
    """Physical cores that this process may use. A second thread on a core slows a runtime down.

    Other systems than Linux do not say. There it is half of the processors: many have two to a core, or half of them
    are small ones.
    """
    if sys.platform != "linux":
        return max(1, (os.cpu_count() or 2) // 2)
    return len({_core(cpu) for cpu in os.sched_getaffinity(0)})


def _core(cpu: int) -> str:
    """The processors of this one's core. A core's number would not do: two dies of a package may both have it."""
    for name in SIBLINGS:
        with suppress(OSError):
            return (CPUS / f"cpu{cpu}" / "topology" / name).read_text().strip()
    return str(cpu)


def _quotas() -> list[int]:
    """How many processors' time the control groups of this process allow, rounded up: one number for each limit."""
    found = []
    for folder in _folders():
        with suppress(OSError, ValueError):
            if (both := folder / "cpu.max").exists():
                quota, period = both.read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:  # "max" or -1: no limit
                found.append(max(1, -(-int(quota) // int(period))))
    return found


def _folders() -> list[Path]:
    """The folders of this process's control groups, and of the groups around them. A limit counts at each level.

    In a container the path may be one of the host's. Its own group is then at the top.
    """
    lines: list[str] = []
    with suppress(OSError):
        lines = OWN_CGROUPS.read_text().splitlines()
    found = {CGROUPS: None, CGROUPS / "cpu": None}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            root = CGROUPS / "cpu" if controllers else CGROUPS
            group = root / path.strip("/")
            found |= dict.fromkeys([group, *(above for above in group.parents if above.is_relative_to(root))])
    return list(found)
