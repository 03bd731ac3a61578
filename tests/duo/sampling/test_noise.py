"""The noise is Gumbel noise, a function of seed, position and token."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from duo.sampling.noise import gumbel


def test_noise_is_gumbel_along_each_of_its_coordinates() -> None:
    many = 20_000
    tokens = np.arange(many)
    along_tokens = gumbel(7, 3, tokens)
    along_positions = np.array([gumbel(7, i, tokens[5:6])[0] for i in range(many)])
    along_seeds = np.array([gumbel(seed, 3, tokens[5:6])[0] for seed in range(many)])
    for noise in (along_tokens, along_positions, along_seeds):
        assert np.isfinite(noise).all()
        assert stats.kstest(noise, "gumbel_r").pvalue > 1e-3
        # The neighbour, and the one after it, know nothing of it.
        assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 4 / math.sqrt(many)
        assert abs(np.corrcoef(noise[:-2], noise[2:])[0, 1]) < 4 / math.sqrt(many)


def test_noise_of_a_token_does_not_depend_on_its_company() -> None:
    tokens = np.array([900, 3, 77], dtype=np.int64)
    alone = [gumbel(5, 11, tokens[i : i + 1])[0] for i in range(3)]
    assert gumbel(5, 11, tokens).tolist() == alone == gumbel(5, 11, np.arange(1000))[tokens].tolist()
