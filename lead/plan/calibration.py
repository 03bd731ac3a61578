"""How far the probabilities that a back claims are true, learned from what the target then picked.

A back may be too sure of itself, have the wrong model, or lie. So for each back, and each band of claimed probability,
claims and hits are counted. The claim itself is the prior: a new back is believed, and after a few dozen tokens its own
record counts. Old outcomes fade, because a conversation changes its subject.
"""

from __future__ import annotations

from bisect import bisect_left

BANDS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)
"""Upper ends of the bands of claimed probability; the last band ends at 1."""
PRIOR_OUTCOMES = 12.0
"""The claim counts as much as this many outcomes."""
MEMORY_FADE = 0.998
"""What remains of an outcome's weight when another comes into its band."""


class Calibration:
    """The record of one back."""

    def __init__(self) -> None:
        self._claimed = [0.0] * (len(BANDS) + 1)
        self._hits = [0.0] * (len(BANDS) + 1)

    def chance(self, claim: float) -> float:
        """How likely a guess is right, if the back claims the probability `claim`."""
        i = bisect_left(BANDS, claim)
        weight = PRIOR_OUTCOMES * claim + self._claimed[i]
        # All claims of a band are scaled alike, which keeps their order. A claim of 0 may come from the network.
        return min(1.0, claim * (PRIOR_OUTCOMES * claim + self._hits[i]) / weight) if weight else claim

    def outcome(self, claim: float, hit: bool) -> None:
        """A guess with a right prefix was, or was not, the target's pick."""
        i = bisect_left(BANDS, claim)
        self._claimed[i] = self._claimed[i] * MEMORY_FADE + claim
        self._hits[i] = self._hits[i] * MEMORY_FADE + hit
