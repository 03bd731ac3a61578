"""How many threads compute, unless a flag says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SPARE_FROM = 4
"""Cores from which on one is left free."""
CPUS = Path("/sys/devices/system/cpu")


def usual() -> int:
    """Threads that compute by default: one for each physical core, but one less from four cores on.

    Generating is bound by memory, so the last core adds little. A pass waits for its slowest thread, and a thread that
    shares its core with other programs is slow. So one core is for those, and for the Python around the runtime. With
    two or three cores, one less would cost a half or a third.
    """
    found = cores()
    return found - 1 if sys.platform == "linux" and found >= SPARE_FROM else found


def cores() -> int:
    """Physical cores that this process may use. A second thread on a core slows a runtime down.

    Other systems than Linux do not say. There it is half of the processors: many have two to a core, or half of them
    are small ones.
    """
    if sys.platform != "linux":
        return max(1, (os.cpu_count() or 2) // 2)
    found = set()
    for cpu in os.sched_getaffinity(0):
        topology = CPUS / f"cpu{cpu}" / "topology"
        try:
            found.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:
            found.add((str(cpu), ""))
    return len(found)
