"""Coupled sampling: two models with the same seed draw alike without talking.

The token at position i of a completion is argmax over the allowed tokens v of log p_i(v) + g(i, v). The noise g(i, v)
is a standard Gumbel variate, computed from (seed, i, v) by a counter-based hash. That is an exact sample from p_i (the
Gumbel-max trick), and a function of the distribution and the seed alone. A draft model applies the same rule to its own
distribution q. It picks the same token with probability at least (1 - TV(p, q)) / (1 + TV(p, q)) (Daliri, Musco and
Suresh, "Coupling without communication and drafter-invariant speculative decoding", 2408.07978).

The lead accepts a guess if and only if it is the token that the lead itself picks. So the text depends on the target
and the seed alone. Temperature 0 is the same rule without noise.

Order of the steps, as in OpenAI-compatible servers: drop what the grammar does not allow; apply penalties and logit
bias, then temperature, top-k, top-p and min-p; add the noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from duo.sampling.logprobs import highest
from duo.sampling.noise import min_bits, noise_bits, noise_of
from duo.sampling.params import Constraint, Floats, Ints, SamplingParams

TOP_P_FIRST = 256
"""Tokens that top-p sorts first. Mostly they are enough."""
SMALL_VOCABULARY = 8192
"""Up to this size every token gets its noise."""
LIKELY_MARGIN = 8.0
"""A token is likely if its score, before the noise, is this close to the best."""
LIKELY_SHARE, SAMPLE_STRIDE = 32, 61
"""At most about one in `LIKELY_SHARE` tokens is likely, estimated from every `SAMPLE_STRIDE`th score."""
NOISY_MARGIN = 5.0
"""A token is a contender if its score, with the noise, is this close to the best. Others are too unlikely to guess."""
MIN_TEMPERATURE = 1e-9
"""Lower temperatures above 0 become this one. Different float32 logits are far apart at it, and none is infinite."""


class Sampler:
    """Picks tokens for one answer. Lead and backs each make one from the same parameters.

    `constraint`: compiled from the parameters' grammar. Then only the tokens that it allows take part in anything, and
    all methods raise DeadEndError where its `allowed` does.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], constraint: Constraint | None = None) -> None:
        self.params = params
        self._constraint = constraint
        self._repeats = params.repetition_penalty != 1.0
        self._penalises = self._repeats or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        self._prompt = np.unique(np.asarray(prompt, dtype=np.int64)) if self._repeats else None

    def pick(self, logits: Floats, completion: Sequence[int]) -> int:
        """The token that follows `completion`, the answer so far, given the model's logits [vocabulary]."""
        if self.params.temperature == 0.0:
            tokens, z = self._penalised(logits, completion)
            best = int(z.argmax())
        else:
            tokens, z, noise = self._contenders(logits, completion)
            best = int((z + noise).argmax())
        return best if tokens is None else int(tokens[best])

    def rank(
        self, logits: Floats, completion: Sequence[int], count: int, scale: float = 1.0, sharpness: float = 1.0
    ) -> list[tuple[int, float]]:
        """The `count` likeliest picks of *another* model with the same seed, most likely first, with probabilities.

        The probability of a token is softmax(perturbed score / scale). scale > 1 trusts this model less. sharpness > 1
        takes the other model to be that much surer of itself. Fewer tokens are returned if fewer are allowed, or if few
        tokens of a large vocabulary come close to the likeliest.
        """
        if self.params.temperature == 0.0:
            tokens, scores = self._penalised(logits, completion)
        else:
            tokens, z, noise = self._contenders(logits, completion)
            scores = z * sharpness + noise
        weights = np.exp((scores - scores.max()) / scale)
        total = float(weights.sum())
        ranked: list[tuple[int, float]] = []
        for _ in range(min(count, len(weights))):
            # To find the highest a few times is much faster than to sort.
            at = int(weights.argmax())
            ranked.append((at if tokens is None else int(tokens[at]), float(weights[at]) / total))
            weights[at] = -1.0
        return ranked

    def picks(self, logits: Floats, completion: Sequence[int], sharpnesses: Sequence[float]) -> list[int]:
        """The pick for each sharpness (at least 1)."""
        tokens, z, noise = self._contenders(logits, completion)
        best = [int((z * sharpness + noise).argmax()) for sharpness in sharpnesses]
        return best if tokens is None else [int(tokens[b]) for b in best]

    def _contenders(self, logits: Floats, completion: Sequence[int]) -> tuple[Ints | None, Floats, Floats]:
        """Tokens (ascending; None: all) with scores and noise, among them the pick.

        In a large vocabulary these are the likely tokens, and those that the noise could bring close to the best. The
        noise costs two logarithms a token, which is more than all the rest.
        """
        tokens, z = self._allowed(logits, completion)
        seed, position = self.params.seed, len(completion)
        counters = np.arange(len(z), dtype=np.int64) if tokens is None else tokens
        bits = noise_bits(seed, position, counters)
        if len(z) <= SMALL_VOCABULARY or not np.isfinite(z.max()):
            return tokens, z, noise_of(bits)
        some = z[::SAMPLE_STRIDE]
        at = -len(some) // LIKELY_SHARE
        floor = max(float(z.max()) - LIKELY_MARGIN, float(np.partition(some, at)[at]))
        likely = z >= floor
        noise = noise_of(bits[likely])
        scores = z[likely] + noise
        likely |= bits >= min_bits(float(scores.max()) - NOISY_MARGIN - floor)
        kept = np.flatnonzero(likely)
        return counters[kept], z[kept], noise_of(bits[kept])

    def _allowed(self, logits: Floats, completion: Sequence[int]) -> tuple[Ints | None, Floats]:
        """Tokens that may be picked (None: all), and their scores before the noise."""
        params = self.params
        tokens, z = self._penalised(logits, completion)
        z = z.astype(np.float64) / max(params.temperature, MIN_TEMPERATURE)
        kept = _survivors(z, params)
        if kept is None:
            return tokens, z
        return kept if tokens is None else tokens[kept], z[kept]

    def _penalised(self, logits: Floats, completion: Sequence[int]) -> tuple[Ints | None, Floats]:
        """Tokens that the constraint allows (None: all), and their logits with penalties and bias."""
        params = self.params
        tokens = None if self._constraint is None else self._constraint.allowed(completion)
        z = logits if tokens is None else logits[tokens]
        if not self._penalises and not params.logit_bias:
            return tokens, z
        z = z.astype(np.float64)
        if self._penalises:
            seen, counts = np.unique(np.asarray(completion, dtype=np.int64), return_counts=True)
            if self._prompt is not None:
                both, _ = _places(tokens, np.union1d(self._prompt, seen), len(logits))
                penalty = params.repetition_penalty
                z[both] = np.where(z[both] > 0, z[both] / penalty, z[both] * penalty)
            at, found = _places(tokens, seen, len(logits))
            z[at] -= params.presence_penalty + params.frequency_penalty * counts[found]
        for token, bias in params.logit_bias.items():
            at, _ = _places(tokens, np.array([token]), len(logits))
            z[at] += bias
        return tokens, z


def _places(tokens: Ints | None, wanted: Ints, size: int) -> tuple[Ints, Ints | slice]:
    """The places in `tokens` of those `wanted` that it holds, and which of `wanted` these are.

    Both are ascending. `tokens` None: all below `size`. A target's text may have tokens that a draft model lacks.
    """
    if tokens is None:
        known = int(np.searchsorted(wanted, size))
        return wanted[:known], slice(known)
    found = np.flatnonzero(np.isin(wanted, tokens))
    return np.searchsorted(tokens, wanted[found]), found


def _survivors(z: NDArray[np.float64], params: SamplingParams) -> Ints | None:
    """Tokens that top-k, top-p and min-p leave, ascending and never empty. None if all three are off."""
    top_k = params.top_k if 0 < params.top_k < len(z) else 0
    if not top_k and params.top_p >= 1.0 and params.min_p <= 0.0:
        return None
    weights = np.exp(z - z.max())
    if top_k:
        kept = highest(z, top_k)
    elif params.top_p < 1.0:
        # Sorting a large vocabulary takes longer than a forward pass of a small draft model.
        kept = highest(z, TOP_P_FIRST)
        if weights[kept].sum() < params.top_p * weights.sum():
            kept = highest(z, len(z))
    else:
        kept = np.flatnonzero(weights >= params.min_p)
    share = weights[kept]
    keep = share >= params.min_p
    if params.top_p < 1.0:
        share = share / (share if top_k else weights).sum()
        keep &= np.cumsum(share) - share < params.top_p
        keep[0] = True
    kept = kept[keep]
    survivors: Ints = np.sort(kept).astype(np.int64)
    return survivors
