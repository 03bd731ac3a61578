"""What a back learns of its draft model: how sure it should be, and how sharp."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duo.draft.scaling import Scale, Sharpness
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler


class TestScale:
    @pytest.mark.parametrize(("said", "real", "higher"), [(0.9, 0.6, True), (0.6, 0.9, False)])
    def test_it_learns_whether_the_model_is_too_sure(self, said: float, real: float, higher: bool) -> None:
        scale, rng = Scale(), random.Random(0)
        for _ in range(60):
            scale.outcome([said, 1 - said], 0 if rng.random() < real else 1)
        assert (scale.value > 1.05) is higher
        assert (scale.value < 0.95) is not higher

    def test_a_calibrated_model_is_believed(self) -> None:
        scale, rng = Scale(), random.Random(0)
        for _ in range(2000):
            chance = rng.uniform(0.2, 0.95)
            scale.outcome([chance, 1 - chance], 0 if rng.random() < chance else 1)
        assert scale.value == pytest.approx(1.0, abs=0.15)

    @pytest.mark.parametrize("true", [0.6, 1.0, 1.8])
    def test_it_finds_the_scale(self, true: float) -> None:
        """A model of 40 tokens, much of its probability outside the four guesses, that is too sure or not enough."""
        scale, rng = Scale(), random.Random(0)
        for _ in range(3000):
            scores = sorted((rng.gauss(0, 1.5) for _ in range(40)), reverse=True)
            said = [math.exp(score / scale.value) for score in scores]
            real = [math.exp(score / true) for score in scores]
            picked = rng.choices(range(40), real)[0]
            scale.outcome([p / sum(said) for p in said[:4]], picked if picked < 4 else None)
        assert scale.value == pytest.approx(true, rel=0.25)

    @given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=300))
    def test_bounded(self, outcomes: list[tuple[float, bool]]) -> None:
        scale = Scale()
        for chance, hit in outcomes:
            scale.outcome([chance], 0 if hit else None)
        assert Scale.BOUNDS[0] <= scale.value <= Scale.BOUNDS[1]


class TestSharpness:
    @pytest.mark.parametrize("best", range(4))
    def test_it_takes_the_candidate_that_is_right_most_often(self, best: int) -> None:
        sharpness, rng = Sharpness(), random.Random(best)
        for _ in range(400):
            picks = [1 if rng.random() < (0.8 if i == best else 0.6) else 2 for i in range(4)]
            sharpness.outcome(picks, 1)
        assert sharpness.value == Sharpness.CANDIDATES[best]

    def test_a_draft_that_is_too_flat_agrees_more_often_when_sharpened(self) -> None:
        """The target is the draft with all logits trebled; the same noise on both sides."""
        rng, params = np.random.default_rng(0), SamplingParams(temperature=1.0, seed=5)
        sampler, sharpness = Sampler(params, []), Sharpness()
        agreed = {1.0: 0, 2.6: 0}
        for place in range(300):
            logits = rng.normal(0, 1, 200)
            truth = sampler.pick(3 * logits, [0] * place)
            for candidate in agreed:
                agreed[candidate] += sampler.rank(logits, [0] * place, 1, 1.0, candidate)[0][0] == truth
            sharpness.outcome(sampler.picks(logits, [0] * place, Sharpness.CANDIDATES), truth)
        assert agreed[2.6] > 1.3 * agreed[1.0]
        assert sharpness.value == 2.6
