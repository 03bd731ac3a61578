"""How far a draft model's probabilities can be trusted, learned from what the target picked."""

from __future__ import annotations

import math
from collections.abc import Sequence


class Scale:
    """Temperature scaling (Guo et al. 1706.04599) of a draft model's claims, learned online: the s in
    softmax(perturbed score / s).

    Each committed token that this model had guesses for is one step of gradient descent on the log-likelihood. The
    likelihood is that of the pick among the guesses. For other tokens only the sum of their chances is known; to count
    that sum as one token would make every hit look like luck. All sessions of a back share one scale. 1 trusts the
    model as it is.
    """

    RATES = (0.1, 0.01)
    """The first and the last step size. In between they fall as 1 / outcomes."""
    BOUNDS = (0.25, 4.0)

    def __init__(self) -> None:
        self.value = 1.0
        self._outcomes = 0

    def restart(self) -> None:
        """Learn fast again, because the claims have changed."""
        self._outcomes = 0

    def outcome(self, chances: Sequence[float], picked: int | None) -> None:
        """The guesses for a place had these chances, and the one at index `picked` was right; None: none was."""
        total = sum(chances)
        if picked is None or len(chances) < 2 or total <= 0.0:
            return
        logs = [math.log(max(chance / total, 1e-6)) for chance in chances]
        expected = sum(math.exp(log) * log for log in logs)
        self._outcomes += 1
        rate = max(self.RATES[1], self.RATES[0] / (1 + self._outcomes / 20))
        # A pick less likely than expected: the model is too sure of itself.
        self.value *= math.exp(rate * (expected - logs[picked]))
        self.value = min(self.BOUNDS[1], max(self.BOUNDS[0], self.value))


class Sharpness:
    """How much surer of itself the target is than the draft model, learned online: a factor on the draft's logits,
    before the common noise is added.

    A small model spreads its probability wider than a large one. The noise then leads its pick astray where the
    target's pick stays. For each committed token, every candidate is asked for its guess; the one that was right most
    often is used. At temperature 0 there is no noise and nothing to learn.
    """

    CANDIDATES = (1.0, 1.6, 2.6, 4.2)
    FADE = 0.99
    """What an old outcome still counts after each new one."""
    MARGIN = 1.0
    """Hits by which another candidate must lead before it is used."""
    MIN_PATH = 0.25
    """Path probability of a place at which the candidates are asked."""

    def __init__(self) -> None:
        self.value = 1.0
        self._hits = dict.fromkeys(self.CANDIDATES, 0.0)

    def outcome(self, picks: Sequence[int], token: int) -> bool:
        """The candidates guessed `picks` where the target picked `token`. Returns whether `value` changed."""
        for candidate, pick in zip(self.CANDIDATES, picks, strict=True):
            self._hits[candidate] = self._hits[candidate] * self.FADE + (pick == token)
        best = max(self.CANDIDATES, key=self._hits.__getitem__)
        if self._hits[best] <= self._hits[self.value] + self.MARGIN:
            return False
        self.value = best
        return True
