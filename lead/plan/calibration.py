"""How much a back's probabilities are worth, learned from what the target then picked.

A back says how likely each of its guesses is. It may be too sure of itself, have the wrong model, or lie; the planner
needs the truth. So per back, and per band of what it claims, hits are counted beside tries, with the claim itself as
the prior: a new back is believed, one that is often wrong is believed no longer, and after a few dozen tokens the
figures are its own. Old outcomes fade, because a conversation changes its subject.
"""

from __future__ import annotations

from bisect import bisect_left

BANDS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)
"""Upper ends of the bands of claimed probability; the last band ends at 1."""
PRIOR_OUTCOMES = 12.0
"""The claim counts as much as this many outcomes."""
MEMORY_FADE = 0.998
"""Weight that an outcome keeps when another comes into its band."""


class Calibration:
    """What the claims of one back turned out to be worth."""

    def __init__(self) -> None:
        self._claimed = [0.0] * (len(BANDS) + 1)
        self._hits = [0.0] * (len(BANDS) + 1)

    def chance(self, claim: float) -> float:
        """Probability that a guess is right which the back claims to be right with probability `claim`."""
        i = bisect_left(BANDS, claim)
        weight = PRIOR_OUTCOMES * claim + self._claimed[i]
        # The claim is scaled by how the band's claims did, so that the order within a band is kept. A claim of nothing
        # may come from the network, too.
        return min(1.0, claim * (PRIOR_OUTCOMES * claim + self._hits[i]) / weight) if weight else claim

    def outcome(self, claim: float, hit: bool) -> None:
        """A guess that was claimed so likely was, or was not, the target's pick, its prefix having been right."""
        i = bisect_left(BANDS, claim)
        self._claimed[i] = self._claimed[i] * MEMORY_FADE + claim
        self._hits[i] = self._hits[i] * MEMORY_FADE + hit
