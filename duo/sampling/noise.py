"""Gumbel noise that both sides compute alike, a pure function of seed, position and token."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from duo.prefix import mix
from duo.sampling.params import Ints

_GOLDEN = 0x9E3779B97F4A7C15


def gumbel(seed: int, position: int, tokens: Ints) -> NDArray[np.float64]:
    """Standard Gumbel variates g(position, token), shape of `tokens`: a pure function of its arguments.

    The hash is SplitMix64 with the token as its counter, keyed by (seed, position); 53 bits become a uniform in the
    open interval (0, 1).
    """
    return noise_of(noise_bits(seed, position, tokens))


def noise_bits(seed: int, position: int, tokens: Ints) -> NDArray[np.uint64]:
    """53 random bits for each token."""
    key = mix(mix(seed) ^ ((position + 1) * _GOLDEN))
    with np.errstate(over="ignore"):
        x = tokens.astype(np.uint64)
        x *= np.uint64(_GOLDEN)
        x += np.uint64(key)
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        x >>= np.uint64(11)
    return x


def noise_of(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-53
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def min_bits(noise: float) -> int:
    """The least bits that can make this noise or more."""
    uniform = math.exp(-math.exp(-min(max(noise, -4.0), 36.0)))
    return max(0, int(uniform * 2.0**53 * (1 - 1e-12)) - 2)
