"""How far a draft model's probabilities may be trusted, learned from what the target picked."""

from __future__ import annotations

import math
from collections.abc import Sequence


class Scale:
    """How much a back's draft model is to be believed: the s in softmax(perturbed score / s), learned online.

    One step of gradient descent on the log-likelihood of what the target picked, for each token that becomes final
    where this model had guessed it. The likelihood is that among the guesses: of the tokens that were not guessed only
    the sum is known, and to take it for one token of that chance would make every hit look like luck. One scale for all
    sessions of a back; 1 believes the model as it is.
    """

    RATES = (0.1, 0.01)
    """Step sizes, the first and the last; in between they fall as 1 / outcomes."""
    BOUNDS = (0.25, 4.0)

    def __init__(self) -> None:
        self.value = 1.0
        self._outcomes = 0

    def again(self) -> None:
        """What is to be scaled has changed: learn fast."""
        self._outcomes = 0

    def outcome(self, chances: Sequence[float], picked: int | None) -> None:
        """The guesses of an expansion had these chances, and the one at `picked` was right; None: none of them."""
        total = sum(chances)
        if picked is None or len(chances) < 2 or total <= 0.0:
            return
        logs = [math.log(max(chance / total, 1e-6)) for chance in chances]
        expected = sum(math.exp(log) * log for log in logs)
        self._outcomes += 1
        rate = max(self.RATES[1], self.RATES[0] / (1 + self._outcomes / 20))
        # Less likely than expected: the model is too sure of itself.
        self.value *= math.exp(rate * (expected - logs[picked]))
        self.value = min(self.BOUNDS[1], max(self.BOUNDS[0], self.value))


class Sharpness:
    """How much surer of itself the target is than the draft model, learned online: what the draft's logits are
    multiplied by before the common noise is added.

    A small model spreads its probability wider than a large one, and the noise then takes its pick astray where the
    target's stays. For every token that becomes final, each candidate is asked what its guess would have been; the one
    that was right most often is used. Without noise, at temperature 0, there is nothing to learn.
    """

    CANDIDATES = (1.0, 1.6, 2.6, 4.2)
    FADE = 0.99
    BETTER = 1.0
    """Outcomes that another candidate must be ahead by."""
    LIKELY = 0.25
    """Only at places of this path probability is it looked at what each candidate would guess."""

    def __init__(self) -> None:
        self.value = 1.0
        self._hits = dict.fromkeys(self.CANDIDATES, 0.0)

    def outcome(self, picks: Sequence[int], token: int) -> bool:
        """The candidates' guesses for a place, and what the target picked there. Returns whether another is best."""
        for candidate, pick in zip(self.CANDIDATES, picks, strict=True):
            self._hits[candidate] = self._hits[candidate] * self.FADE + (pick == token)
        best = max(self.CANDIDATES, key=self._hits.__getitem__)
        if self._hits[best] <= self._hits[self.value] + self.BETTER:
            return False
        self.value = best
        return True
