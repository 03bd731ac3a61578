"""Log probabilities against naive arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from duo.sampling.logprobs import logprobs


@pytest.mark.parametrize("size", [12, 128_000])
def test_log_probabilities(size: int) -> None:
    logits = (np.random.default_rng(1).normal(size=size) * 4).astype(np.float32)
    logits[3] = logits[7] = 30.0
    before = logits.copy()
    exact = logits.astype(np.float64) - math.log(np.exp(logits.astype(np.float64)).sum())
    for top in (0, 1, 5):
        found = logprobs(logits, 5, top)
        assert found.picked == pytest.approx(exact[5], abs=1e-9)
        order = np.argsort(-exact, kind="stable")[:top]
        assert [token for token, _ in found.top] == order.tolist(), "of equals the lower first"
        assert [chance for _, chance in found.top] == pytest.approx(exact[order].tolist(), abs=1e-9)
    assert len(logprobs(logits, 5, size + 1).top) == size
    assert np.array_equal(logits, before)
