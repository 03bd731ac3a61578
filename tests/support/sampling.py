"""Logits to sample from, and naive arithmetic to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from duo.errors import DeadEndError
from duo.sampling.grammar import GrammarConstraint
from duo.sampling.params import SamplingParams

# Twelve tokens from 0.37 down to 0.0002, not in order, two of them equal.
LOGITS = np.log(
    np.array([0.05, 0.37, 0.001, 0.2, 0.01, 0.12, 0.0002, 0.03, 0.12, 0.0588, 0.035, 0.005], dtype=np.float64)
).astype(np.float32)


def survivors(z: Sequence[float], params: SamplingParams) -> list[int]:
    """Tokens that top-k, then top-p, then min-p leave; of equal logits the lower token goes first."""
    order = sorted(range(len(z)), key=lambda t: (-z[t], t))
    if params.top_k:
        order = order[: params.top_k]
    weights = [math.exp(z[t] - z[order[0]]) for t in order]
    chances = [w / sum(weights) for w in weights]
    kept, before = [], 0.0
    for token, chance in zip(order, chances, strict=True):
        within = params.top_p == 1.0 or before < params.top_p
        if token == order[0] or (within and chance >= params.min_p * chances[0]):
            kept.append(token)
        before += chance
    return sorted(kept)


def ask(follow: GrammarConstraint, completion: Sequence[int]) -> list[int] | None:
    try:
        return [int(token) for token in follow.allowed(completion)]
    except DeadEndError:
        return None
