"""Coupled sampling: the exact distribution, and the agreement that the paper promises.

Seeds are fixed: what passes once passes always.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from tests.support.sampling import LOGITS, survivors

DRAWS = 200_000


def exact(logits: NDArray[np.float32], params: SamplingParams) -> NDArray[np.float64]:
    """The distribution that the picks must have, without penalties."""
    z = [float(x) / params.temperature for x in logits]
    kept = survivors(z, params)
    weights = np.array([math.exp(z[t]) if t in kept else 0.0 for t in range(len(z))])
    chances: NDArray[np.float64] = weights / weights.sum()
    return chances


def fit(observed: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """The p-value of the chi-square test; what cannot happen must not have happened."""
    possible = expected > 0
    assert observed[~possible].sum() == 0
    return float(stats.chisquare(observed[possible], expected[possible] * observed.sum()).pvalue)


def draw(logits: NDArray[np.float32], seeds: int, positions: int, **knobs: Any) -> NDArray[np.int64]:
    """Picks [seed, position]. Only the length of the completion counts, so a range will do."""
    ranges = [range(position) for position in range(positions)]
    picks = []
    for seed in range(seeds):
        sampler = Sampler(SamplingParams(seed=seed, **knobs), [])
        picks.append([sampler.pick(logits, completion) for completion in ranges])
    return np.array(picks)


# Over the positions of a few answers, over the first tokens of many, and over both.
@pytest.mark.parametrize(
    ("seeds", "positions", "knobs"),
    [
        pytest.param(1, DRAWS, {}, marks=pytest.mark.slow),
        pytest.param(DRAWS // 10, 10, {"top_k": 5}, marks=pytest.mark.slow),
        pytest.param(400, 500, {"top_p": 0.8}, marks=pytest.mark.slow),
        pytest.param(500, 400, {"top_k": 9, "top_p": 0.9, "min_p": 0.1, "temperature": 1.4}, marks=pytest.mark.slow),
    ],
    ids=["all", "top-k", "top-p", "top-k, top-p, min-p and temperature"],
)
def test_picks_have_the_exact_distribution(seeds: int, positions: int, knobs: dict[str, Any]) -> None:
    picks = draw(LOGITS, seeds, positions, **knobs)
    assert picks.size == DRAWS
    expected = exact(LOGITS, SamplingParams(**knobs))
    assert fit(np.bincount(picks.ravel(), minlength=len(LOGITS)), expected) > 1e-3


@pytest.mark.parametrize("knobs", [{"min_p": 0.2}, {"temperature": 0.5}], ids=str)
def test_each_knob_alone_has_the_exact_distribution(knobs: dict[str, Any]) -> None:
    picks = draw(LOGITS, 100, 100, **knobs)
    expected = exact(LOGITS, SamplingParams(**knobs))
    assert fit(np.bincount(picks.ravel(), minlength=len(LOGITS)), expected) > 1e-3


@pytest.mark.parametrize("along", ["positions", "seeds"])
def test_neighbouring_picks_are_independent(along: str) -> None:
    logits = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05])).astype(np.float32)
    shape = (2, 10_000) if along == "positions" else (20_000, 1)
    picks = draw(logits, *shape)
    for distance in (1, 2) if along == "positions" else (1,):
        first, second = (picks[:, :-distance], picks[:, distance:]) if along == "positions" else (picks[:-1], picks[1:])
        table = np.zeros((5, 5), dtype=np.int64)
        np.add.at(table, (first.ravel(), second.ravel()), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


MIXED: Sequence[dict[str, Any]] = [{}, {"top_k": 6}, {"top_p": 0.9}, {"temperature": 0.7}]


@pytest.mark.slow
def test_two_models_agree_as_often_as_the_coupling_promises() -> None:
    """Daliri, Musco and Suresh, theorem 3: at least (1 - TV) / (1 + TV) for every pair of distributions."""
    rng = np.random.default_rng(11)
    draws, pairs = 1000, 32
    total = promised = possible = 0.0
    for pair in range(pairs):
        spread = float(rng.choice([0.1, 0.5, 2.0]))
        p = rng.dirichlet(np.full(16, spread)) + 1e-12
        other = rng.dirichlet(np.full(16, spread)) + 1e-12
        q = p + rng.uniform(0, 1) * (other - p)
        knobs = MIXED[pair % len(MIXED)]
        of_p, of_q = np.log(p).astype(np.float32), np.log(q).astype(np.float32)
        params = SamplingParams(**knobs)
        tv = float(np.abs(exact(of_p, params) - exact(of_q, params)).sum() / 2)
        bound = (1 - tv) / (1 + tv)
        sampler = Sampler(SamplingParams(seed=pair, **knobs), [])
        agreed = sum(sampler.pick(of_p, range(i)) == sampler.pick(of_q, range(i)) for i in range(draws)) / draws
        # Four standard deviations for one of many pairs.
        assert agreed >= bound - 4 * math.sqrt(bound * (1 - bound) / draws) - 1e-9, (pair, tv)
        # No coupling at all agrees more often than 1 - TV.
        assert agreed <= 1 - tv + 4 * math.sqrt(tv * (1 - tv) / draws) + 1e-9, (pair, tv)
        total, promised, possible = total + agreed, promised + bound, possible + 1 - tv
    # Over all pairs the margin is gone: chance evens out.
    assert promised / pairs < total / pairs < possible / pairs


def test_rank_predicts_how_often_the_other_model_picks_each_guess() -> None:
    """The draft is the target plus noise. The sum of all claimed chances must be the number of hits."""
    rng = np.random.default_rng(5)
    positions = 3000
    claimed, true = np.zeros(3), np.zeros(3)
    sampler = Sampler(SamplingParams(seed=9), [])
    for position in range(positions):
        draft = rng.normal(0, 1.5, 20)
        # With Gumbel noise between the two, softmax(score) is the exact chance of each guess.
        target = draft + rng.gumbel(0, 1, 20)
        ranked = sampler.rank(draft, range(position), 3)
        pick = sampler.pick(target, range(position))
        claimed += [chance for _, chance in ranked]
        true += [token == pick for token, _ in ranked]
    for k in range(3):
        assert abs(claimed[k] - true[k]) < 4 * math.sqrt(positions * 0.25)
    assert true[0] > true[1] > true[2]


def test_seeds_and_positions_matter() -> None:
    flat = np.zeros(64, dtype=np.float32)
    rows = draw(flat, 20, 40)
    assert len({tuple(row) for row in rows}) == 20
    assert all(len(set(row)) > 15 for row in rows.tolist())
