"""The statistics of a comparison."""

from __future__ import annotations

import pytest

from bench.compare import figures
from bench.compare.entrant import Setting
from bench.compare.figures import Spread
from tests.support.comparison import record


def test_spread() -> None:
    assert Spread.of([]) is None
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)
    assert Spread.of([5, 1, 2, 3, 4]) == Spread(3, 2, 4, 5)


def test_speed_ups_are_measured_on_the_same_question_in_the_same_round() -> None:
    """A machine that is half as fast in the second round changes no ratio."""
    records = [
        record(name, speed / (1 + round_) * (1 + question), round_, question)
        for name, speed in (("none", 10.0), ("ours", 30.0), ("sync", 20.0))
        for round_ in range(2)
        for question in range(3)
    ]
    made = figures.rows(records, 0.0, 0.0)
    assert [row.schedule for row in made] == ["ours", "sync", "none"]
    assert [row.speed_up.median for row in made] == pytest.approx([3.0, 2.0, 1.0])
    assert all(row.speed_up.high - row.speed_up.low < 1e-9 for row in made)
    overs = [row.ours_over.median for row in made if row.ours_over is not None]
    assert overs == pytest.approx([1.5, 3.0])


def test_what_the_network_does_not_concern_counts_for_every_round_trip() -> None:
    records = [record("none", 10, trip=0), record("none", 8, trip=20), record("sync", 16, trip=20)]
    records += [record("ours", 30, trip=0), record("ours", 12, trip=20)]
    assert figures.configurations(records) == [(0.0, 0.0), (0.0, 20.0)]
    near, far = (figures.speed_ups(records, 0.0, trip) for trip in (0.0, 20.0))
    assert near["ours"] == {(0, 0, 0): 3.0} and far["ours"] == {(0, 0, 0): 1.5}
    # By the target alone in its own block.
    assert near["sync"] == far["sync"] == {(0, 0, 0): 2.0}


def test_groups_of_a_run_do_not_mix() -> None:
    records = [record("none", 10), record("none", 5, group=1), record("sync", 10, group=1)]
    assert figures.speed_ups(records, 0.0, 0.0)["sync"] == {(1, 0, 0): 2.0}


def test_best_setting() -> None:
    speeds = {Setting(4): [10.0, 12.0, 90.0], Setting(2): [12.0, 12.0], Setting(8, 0.5): [11.0]}
    assert figures.best(speeds) == Setting(2)


def test_texts_that_differ() -> None:
    records = [
        record("ours", 1, same=True),
        record("chain", 1, same=False),
        record("x", 1, same=False, own=False),
    ]
    assert figures.different_texts(records) == ["chain"]
