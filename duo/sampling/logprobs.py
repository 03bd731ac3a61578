"""Log probabilities by a model's logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from duo.sampling.params import Floats, Ints


class Logprobs(NamedTuple):
    """Natural logarithms of the model's own probabilities, before temperature and everything else: of the picked token,
    and of the likeliest tokens, the likeliest first."""

    picked: float
    top: Sequence[tuple[int, float]]


def logprobs(logits: Floats, token: int, top: int) -> Logprobs:
    """Log probabilities of `token` and of the `top` likeliest tokens by the model's logits [vocabulary]."""
    best = float(logits.max())
    # In place: copies of a large vocabulary cost time.
    weights = logits.astype(np.float64)
    weights -= best
    total = best + math.log(np.exp(weights, out=weights).sum())
    likeliest = highest(logits, top) if top else ()
    return Logprobs(float(logits[token]) - total, [(int(t), float(logits[t]) - total) for t in likeliest])


def highest(z: Floats, count: int) -> Ints:
    """Indices of the `count` highest values, the highest first. Equal values go by index, so that lead and back cut a
    tie at the same place on any machine."""
    if count == 1:
        return np.array([z.argmax()])  # of equal ones the first
    if count < len(z):
        indices = np.flatnonzero(~(z < np.partition(z, len(z) - count)[len(z) - count]))
    else:
        indices = np.arange(len(z))
    highest: Ints = indices[np.argsort(-z[indices], kind="stable")][:count]
    return highest
