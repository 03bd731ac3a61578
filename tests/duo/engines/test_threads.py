"""How many threads compute by default, and what they do while they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.harness.processes import ROOT
from duo.engines import threads


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, places: list[tuple[int, int]]) -> None:
    """A Linux machine with a processor at each of these places (package, core)."""
    for cpu, (package, core) in enumerate(places):
        topology = folder / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
    monkeypatch.setattr(threads, "CPUS", folder)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(len(places))), raising=False)


@pytest.mark.parametrize(
    ("places", "usual"),
    [
        ([(0, 0)], 1),
        ([(0, 0), (0, 1)], 2),
        ([(0, 0), (0, 0), (0, 1), (0, 1)], 2),
        ([(0, 0), (0, 1), (0, 2)], 3),
        ([(0, core) for core in range(4)], 3),
        ([(package, core) for package in (0, 1) for core in range(4)], 7),
        ([(0, core // 2) for core in range(16)], 7),
    ],
)
def test_one_core_stays_free_where_there_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: list[tuple[int, int]], usual: int
) -> None:
    machine(tmp_path, monkeypatch, places)
    assert threads.usual() == usual


def test_where_the_system_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, monkeypatch, [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    assert threads.cores() == 3
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert threads.usual() == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.usual() == 1


@pytest.mark.parametrize("program", ["lead", "back"])
@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_do_not_spin_while_they_wait(program: str, given: str | None, found: str) -> None:
    """Beside anything else, two spinning threads were ten times slower than one, on two cores."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    done = subprocess.run(
        [sys.executable, "-c", f"import {program}, os; print(os.environ['OMP_WAIT_POLICY'])"],
        capture_output=True, text=True, env=environment, cwd=ROOT, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == found
