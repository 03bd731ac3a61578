"""How likely text goes on as it went on before, by what became of such guesses.

Two things tell: how many tokens agree, and whether guesses in this answer were right lately. A file that is being
rewritten agrees again soon after each change, so few tokens say much. In a free answer the same few tokens say little.
"""

from __future__ import annotations

import math
from bisect import bisect_right

LENGTHS = (4, 6, 9, 13, 21, 33, 65)
"""Where the bands of lengths begin; the first band ends below the first of them."""
LATELY = (0.3, 0.6, 0.85)
"""The same for the share of right guesses."""
START, SMOOTHING = 0.5, 0.2
"""The share of right guesses of an answer: at its beginning, and how much one outcome moves it."""
PRIOR_OUTCOMES = 12.0
"""What is thought of a band before anything is known counts as many outcomes."""
FADE = 0.998
"""What remains of an outcome's weight when another comes into its band."""


class Claims:
    """The record of all answers. It has lengths and shares, and no text."""

    def __init__(self) -> None:
        shape = [[0.0] * (len(LATELY) + 1) for _ in range(len(LENGTHS) + 1)]
        self._seen = [list(band) for band in shape]
        self._hits = [list(band) for band in shape]

    def chance(self, length: int, lately: float) -> float:
        """How likely the next token is right if so many tokens agree, and this share of guesses was right lately."""
        i, j = bisect_right(LENGTHS, length), bisect_right(LATELY, lately)
        hits = PRIOR_OUTCOMES * prior(length, lately) + self._hits[i][j]
        return hits / (PRIOR_OUTCOMES + self._seen[i][j])

    def outcome(self, length: int, lately: float, hit: bool) -> None:
        """A guess was right, or was not."""
        i, j = bisect_right(LENGTHS, length), bisect_right(LATELY, lately)
        self._seen[i][j] = self._seen[i][j] * FADE + 1.0
        self._hits[i][j] = self._hits[i][j] * FADE + hit


def prior(length: int, lately: float) -> float:
    """What `Claims.chance` is before anything is known."""
    alone = 1.0 - math.pow(3.0 / (length + 1.5), 1.1)
    return alone + (1.0 - alone) * max(0.0, lately - START) * 1.6


def smoothed(lately: float, hit: bool) -> float:
    """The share of right guesses after one more outcome."""
    return lately + SMOOTHING * (hit - lately)
