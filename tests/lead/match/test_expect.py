"""The speed-up to expect, by simulation on a record."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from duo.engines.cost import CostCurve
from lead.match.expect import Expected, Measured, expected
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.simulation.replay import Recorded

FLAT = {1: 0.1, 2: 0.1, 4: 0.101, 8: 0.102, 17: 0.11}
STEEP = {1: 0.01, 2: 0.025, 4: 0.05, 8: 0.1, 17: 0.2}
FAST, SLOW = {1: 0.002, 8: 0.004}, {1: 0.09, 8: 0.2}


def record(acceptance: float, answers: int = 5, tokens: int = 30) -> Sequence[Recorded]:
    """A draft that is right as often as it says."""
    rng = random.Random(1)
    made = []
    for number in range(answers):
        picked = [1 if rng.random() < acceptance else 9 for _ in range(tokens)]
        made.append(Recorded([number, 3], picked, [[(1, acceptance), (2, 0.01)]] * tokens))
    return made


def expect(target: Mapping[int, float], draft: Mapping[int, float], acceptance: float, trip: float = 0.001) -> Expected:
    def plan() -> Planner:
        return Planner(CostCurve(target), Limits())

    return expected(Measured(target), draft, 0.0, record(acceptance), trip, plan)


def test_a_fast_draft_that_is_often_right_helps_much() -> None:
    found = expect(FLAT, FAST, 0.8)
    assert found.helps and 2.5 < found.times < 6.0
    assert found.alone == pytest.approx(1 / 0.1003)
    assert found.acceptance == pytest.approx(0.8, abs=0.06)
    assert 0.0 < found.error < 1.0


def test_better_drafts_and_shorter_round_trips_give_more() -> None:
    times = [expect(FLAT, FAST, acceptance).times for acceptance in (0.4, 0.8)]
    assert times == sorted(times)
    assert expect(FLAT, {1: 0.03, 8: 0.04}, 0.8, 0.2).times < expect(FLAT, {1: 0.03, 8: 0.04}, 0.8, 0.0).times


@pytest.mark.parametrize(("target", "draft", "acceptance"), [(STEEP, FAST, 0.6), (FLAT, SLOW, 0.1)])
def test_what_does_not_help_costs_little(
    target: Mapping[int, float], draft: Mapping[int, float], acceptance: float
) -> None:
    found = expect(target, draft, acceptance)
    assert not found.helps and 0.9 < found.times < 1.03


def test_one_answer_says_nothing_of_how_much_they_differ() -> None:
    found = expected(Measured(FLAT), FAST, 0.0, record(0.8, 1), 0.0, lambda: Planner(CostCurve(FLAT), Limits()))
    assert found.error == float("inf")
