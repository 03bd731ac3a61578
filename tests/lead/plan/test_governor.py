"""Backs that are not worth having are left at rest; those that are, are not."""

from __future__ import annotations

import random

import pytest

from lead.plan.governor import (
    FIRST_STEPS,
    MAX_ALONE_STEPS,
    MIN_ALONE_STEPS,
    STEPS_AFTER_CLEAR,
    STEPS_AFTER_CLOSE,
    Governor,
)


def live(worth: Governor, steps: int, with_backs: float, seed: int = 0) -> tuple[float, int]:
    """Tokens per second, and how many of the steps were at rest.

    The target takes 1 s a token alone, and is so much faster with backs. Steps with backs yield 1 to 5 tokens.
    """
    rng, tokens, seconds, rested = random.Random(seed), 0, 0.0, 0
    for _ in range(steps):
        if worth.resting:
            rested += 1
            got, took = 1, 1.0
        else:
            got, took = rng.randint(1, 5), 3 / with_backs
        worth.step(took, got, 1.0)
        tokens += got
        seconds += took
    return tokens / seconds, rested


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_backs", [0.8, 0.9, 0.95])
def test_backs_that_slow_the_target_down_are_left_at_rest(with_backs: float, seed: int) -> None:
    assert live(Governor(), 10_000, with_backs, seed)[0] > 0.96


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_backs", [1.2, 1.5, 3.0])
def test_backs_that_help_keep_helping(with_backs: float, seed: int) -> None:
    speed, rested = live(Governor(), 4000, with_backs, seed)
    assert speed > 0.97 * with_backs
    assert rested < 0.05 * 4000


def test_while_prompts_are_read_it_neither_measures_nor_stays_silent() -> None:
    worth = Governor()
    for _ in range(FIRST_STEPS):
        worth.step(1.0, 1, 1.0)
    assert worth.resting
    for _ in range(MAX_ALONE_STEPS):
        worth.step(None, 1, 1.0)
    assert not worth.resting, "it has seen nothing of the target alone"


def beside(worth: Governor, steps: int, gain: float, slower: float, seed: int = 0) -> tuple[float, int]:
    """As `live`, with a draft model beside the target: alone it makes 1 to 5 tokens a step as well. The share of its
    speed that is reached, and the steps at rest. With backs a forward pass takes so much longer."""
    rng, tokens, seconds, rested = random.Random(seed), 0, 0.0, 0
    for _ in range(steps):
        got, took = rng.randint(1, 5), 3.0 if worth.resting else 3 / gain
        rested += worth.resting
        worth.step(took, got, None, 1.0 if worth.resting else slower)
        tokens += got
        seconds += took
    return tokens / seconds, rested


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gain", [0.7, 0.85])
def test_where_they_disturb_a_target_that_drafts_itself_they_rest(gain: float, seed: int) -> None:
    assert beside(Governor(), 10_000, gain, 1.15, seed)[0] > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_where_they_do_not_it_is_not_measured_for_long(seed: int) -> None:
    assert beside(Governor(), 5000, 1.1, 1.0, seed)[1] <= MIN_ALONE_STEPS * (2 + 5000 // STEPS_AFTER_CLEAR)


@pytest.mark.parametrize("seed", range(5))
def test_where_they_disturb_it_and_are_worth_it_they_stay(seed: int) -> None:
    assert beside(Governor(), 10_000, 1.3, 1.15, seed)[0] > 1.22


def test_one_that_becomes_useful_is_found_out() -> None:
    worth = Governor()
    live(worth, 500, 0.5)
    live(worth, 1500, 2.0)
    assert not worth.resting
    assert live(worth, 2000, 2.0)[0] > 1.9


def test_a_newcomer_gets_its_trial_at_once() -> None:
    worth = Governor()
    live(worth, 2000, 0.5)
    assert worth.resting
    worth.newcomer()
    assert not worth.resting


def test_the_first_measurement_is_short() -> None:
    assert live(Governor(), FIRST_STEPS + MIN_ALONE_STEPS + 10, 1.1)[1] == MIN_ALONE_STEPS


def test_a_first_impression_is_soon_looked_at_again() -> None:
    worth = Governor()
    live(worth, FIRST_STEPS + MIN_ALONE_STEPS, 1.4)
    assert live(worth, 4 * STEPS_AFTER_CLOSE, 0.8)[1] > STEPS_AFTER_CLOSE


def test_what_is_plain_is_measured_only_once() -> None:
    assert live(Governor(), 2000, 3.0)[1] == MIN_ALONE_STEPS


@pytest.mark.parametrize("with_backs", [0.9, 1.2])
def test_a_fast_target_is_not_measured_while_backs_still_draft(with_backs: float) -> None:
    """Three steps of 4 ms are over before they have come to rest, and until then they disturb the target."""
    worth, now, silent, rested = Governor(), 0.0, 0.0, 0
    for _ in range(10_000):
        silent = silent if worth.resting else now
        alone = 0.8 if now - silent < 0.06 else 1.0
        speed, got = (alone, 1) if worth.resting else (with_backs, 2)
        rested += worth.resting
        worth.step(0.004 * got / speed, got, 250.0)
        now += 0.004 * got / speed
    assert rested > 9000 if with_backs < 1.0 else rested < 1000


@pytest.mark.parametrize("steps", [1, 2000])
def test_what_was_measured_counts_as_well_as_what_is_said_of_the_target(steps: int) -> None:
    """A curve may be of a moment when the machine was busy, and say half of what the target does alone."""
    worth = Governor()
    live(worth, steps, 0.9)
    rested = 0
    for _ in range(10_000):
        rested += worth.resting
        worth.step(1.0 if worth.resting else 1.05, 1, 0.5)
    assert rested > 9000
