"""A ratio of two sums over steps, such as tokens over seconds, and how sure it is."""

from __future__ import annotations

import math


class Ratio:
    """The sum of `above` over the sum of `below`. Older steps may count less."""

    __slots__ = ("_products", "_weight", "_weights", "above", "below", "steps")

    def __init__(self) -> None:
        self.above = self.below = self._weight = self._weights = 0.0
        self._products = (0.0, 0.0, 0.0)
        """Sums of above squared, above times below, and below squared."""
        self.steps = 0

    def step(self, above: float, below: float, fade: float = 1.0) -> None:
        """`fade`: what all steps before this one count for from now on."""
        self.steps += 1
        self.above = self.above * fade + above
        self.below = self.below * fade + below
        one, two, three = self._products
        self._products = (
            one * fade + above * above,
            two * fade + above * below,
            three * fade + below * below,
        )
        self._weight = self._weight * fade + 1
        self._weights = self._weights * fade * fade + 1

    def forget(self) -> None:
        """Halve the weight of all steps so far."""
        self.above, self.below = self.above / 2, self.below / 2
        one, two, three = self._products
        self._products = (one / 2, two / 2, three / 2)
        self._weight, self._weights = self._weight / 2, self._weights / 4

    @property
    def value(self) -> float:
        """0 while there is nothing below."""
        return self.above / self.below if self.below else 0.0

    @property
    def mean(self) -> float:
        """Of `above`, for each step."""
        return self.above / self._weight if self._weight else 0.0

    @property
    def error(self) -> float:
        """Standard error as a share of the value, from how both vary over the steps. Infinite while that is 0."""
        if not self.above or not self.below:
            return math.inf
        above, both, below = self._products
        mean, mean_below = self.above / self._weight, self.below / self._weight
        variance = (above / mean**2 - 2 * both / (mean * mean_below) + below / mean_below**2) / self._weight
        return math.sqrt(max(0.0, variance) * self._weights) / self._weight
