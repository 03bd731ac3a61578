"""The speed-up to expect, by simulation on a record."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from duo.engines.cost import CostCurve
from lead.match.expect import Expected, Measured, Together, expected, slowed
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.simulation.replay import Recorded

FLAT = {1: 0.1, 2: 0.1, 4: 0.101, 8: 0.102, 17: 0.11}
STEEP = {1: 0.01, 2: 0.025, 4: 0.05, 8: 0.1, 17: 0.2}
FAST, SLOW = {1: 0.002, 8: 0.004}, {1: 0.09, 8: 0.2}


def record(acceptance: float, answers: int = 5, tokens: int = 30) -> Sequence[Recorded]:
    """A draft that is right as often as it says, and text in which nothing repeats."""
    rng = random.Random(1)
    made = []
    for number in range(answers):
        picked = [1000 * number + 10 * place for place in range(tokens)]
        guesses = [[(token + (rng.random() >= acceptance), acceptance), (token + 2, 0.01)] for token in picked]
        made.append(Recorded([number, 3], picked, guesses))
    return made


def expect(
    target: Mapping[int, float], draft: Mapping[int, float], acceptance: float, trip: float = 0.001,
    text: Sequence[Recorded] = (), together: Together | None = None,
) -> Expected:  # fmt: skip
    def plan() -> Planner:
        return Planner(CostCurve(target), Limits())

    return expected(Measured(target), draft, 0.0, text or record(acceptance), trip, plan, together)


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


def test_text_that_repeats_is_guessed_without_a_draft() -> None:
    """Each answer comes again. Memory has the second one, so the draft adds less to it."""
    fresh = record(0.3)
    again = [*fresh, *(replace(it, prompt=[*it.prompt, 4]) for it in fresh)]
    once, twice = expect(FLAT, FAST, 0.3), expect(FLAT, FAST, 0.3, text=again)
    assert once.memory == pytest.approx(1.0, abs=0.02) and twice.memory > 1.3
    assert twice.times > twice.memory and twice.times / twice.memory < once.times


def test_what_memory_gives_is_no_merit_of_the_draft() -> None:
    fresh = record(0.1)
    found = expect(FLAT, SLOW, 0.1, text=[*fresh, *(replace(it, prompt=[*it.prompt, 4]) for it in fresh)])
    assert found.memory > 1.3 and found.times > 1.3 and not found.helps


def test_models_on_one_machine_slow_each_other_down() -> None:
    apart = expect(FLAT, FAST, 0.8, 0.0)
    target, draft = ({1: times, 4: times} for times in (1.3, 1.0))
    found = expect(FLAT, FAST, 0.8, 0.0, together=Together(target, draft))
    assert apart.times / 1.35 < found.times < 0.97 * apart.times
    assert found.alone == apart.alone and found.memory == apart.memory


def test_a_width_between_takes_the_factor_of_the_narrower_one() -> None:
    assert slowed({1: 1.0, 3: 2.0, 4: 3.0}, {1: 1.5, 4: 2.0}) == {1: 1.5, 3: 3.0, 4: 6.0}
