"""How many threads compute by default."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from duo.engines import threads


def machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, places: list[tuple[int, int]], file: str = "core_cpus_list"
) -> None:
    """A Linux machine with a processor at each of these places (die, core), without a limit.

    As on machines with several dies in a package, cores of two dies have the same number.
    """
    for cpu, (package, core) in enumerate(places):
        topology = folder / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        beside = [str(other) for other, place in enumerate(places) if place == (package, core)]
        (topology / file).write_text(f"{','.join(beside)}\n")
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{core}\n")
    monkeypatch.setattr(threads, "CPUS", folder)
    monkeypatch.setattr(threads, "CGROUPS", folder / "cgroup")
    monkeypatch.setattr(threads, "OWN_CGROUPS", folder / "own")
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
        ([(die, core) for die in (0, 1) for core in range(4)], 7),
        ([(0, core // 2) for core in range(16)], 7),
    ],
)
def test_one_core_stays_free_where_there_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: list[tuple[int, int]], usual: int
) -> None:
    machine(tmp_path, monkeypatch, places)
    assert threads.usual() == usual


def test_a_kernel_that_names_the_list_in_the_old_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, monkeypatch, [(die, core) for die in (0, 1) for core in (0, 0)], "thread_siblings_list")
    assert threads.usual() == 2


@pytest.mark.parametrize(
    ("own", "files", "usual"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 7),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 7),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 1),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 7),
        ("2:cpuset:/a\n0::/\n", {"a/cpu.max": "100000 100000\n"}, 7),
        ("0::/\n", {"cpu.max": "damaged"}, 7),
    ],
)
def test_no_more_than_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], usual: int
) -> None:
    """With more threads than that, all stand still for a part of each period."""
    machine(tmp_path, monkeypatch, [(0, core) for core in range(8)])
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(content)
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


def test_a_small_model_gets_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, monkeypatch, [(0, core) for core in range(3)])
    assert threads.usual(threads.SMALL_MODEL_BYTES - 1) == 1
    assert threads.usual(threads.SMALL_MODEL_BYTES) == threads.usual() == 3
