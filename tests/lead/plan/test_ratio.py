"""A ratio of two sums, and how sure it is."""

from __future__ import annotations

import math
import random

import pytest

from lead.plan.ratio import Ratio


def test_of_nothing() -> None:
    ratio = Ratio()
    assert ratio.value == ratio.mean == 0.0
    assert ratio.error == math.inf


def test_the_sums_count_and_not_the_mean_of_ratios() -> None:
    ratio = Ratio()
    ratio.step(1.0, 1.0)
    ratio.step(5.0, 2.0)
    assert ratio.value == 2.0
    assert ratio.mean == 3.0


def test_what_is_always_the_same_is_certain() -> None:
    ratio = Ratio()
    for above in (2.0, 4.0, 6.0):
        ratio.step(above, above / 2)
    assert ratio.error == pytest.approx(0.0, abs=1e-6)


def test_the_error_is_what_many_trials_scatter_by() -> None:
    values, errors = list[float](), list[float]()
    for seed in range(300):
        rng, ratio = random.Random(seed), Ratio()
        for _ in range(50):
            ratio.step(rng.randint(1, 5), rng.uniform(0.8, 1.2))
        values.append(ratio.value)
        errors.append(ratio.error * ratio.value)
    mean = sum(values) / len(values)
    scatter = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    assert sum(errors) / len(errors) == pytest.approx(scatter, rel=0.15)


def test_old_steps_fade() -> None:
    ratio = Ratio()
    for above in [1.0] * 100 + [3.0] * 100:
        ratio.step(above, 1.0, 0.9)
    assert ratio.value == pytest.approx(3.0, rel=0.01)
    ratio.forget()
    for _ in range(8):
        ratio.step(1.0, 1.0)
    assert ratio.value == pytest.approx((5 * 3.0 + 8) / 13, rel=0.01), "what it knew counts half: five steps of ten"
