"""How likely tokens are by a model's logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from duo.sampling.params import Floats, Ints


class Logprobs(NamedTuple):
    """Natural logarithms of the model's own probabilities, before temperature and all else: of the token that was
    picked, and of the likeliest tokens, falling."""

    picked: float
    top: Sequence[tuple[int, float]]


def logprobs(logits: Floats, token: int, top: int) -> Logprobs:
    """Log probabilities of `token` and of the `top` likeliest tokens by the model's logits [vocabulary]."""
    best = float(logits.max())
    # In place: of a large vocabulary every copy counts.
    weights = logits.astype(np.float64)
    weights -= best
    total = best + math.log(np.exp(weights, out=weights).sum())
    likeliest = highest(logits, top) if top else ()
    return Logprobs(float(logits[token]) - total, [(int(t), float(logits[t]) - total) for t in likeliest])


def highest(z: Floats, count: int) -> Ints:
    """Indices of the `count` highest values, falling; of equal ones the lowest indices, so that lead and back, on
    whatever machine, cut a tie at the same place."""
    if count == 1:
        return np.array([z.argmax()])  # the first of equal ones
    if count < len(z):
        indices = np.flatnonzero(~(z < np.partition(z, len(z) - count)[len(z) - count]))
    else:
        indices = np.arange(len(z))
    highest: Ints = indices[np.argsort(-z[indices], kind="stable")][:count]
    return highest
