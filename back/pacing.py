"""When a back tells what it has found.

The lead looks at guesses between its forward passes only, and a message that comes meanwhile takes time from them. So a
back bundles what it finds while the target is at work, and sends the bundle just before the next commit is due, which
it knows from those before. It speaks at once where the lead may be waiting: after a commit to a place where nothing had
been guessed.
"""

from __future__ import annotations

LEAST = 0.004
"""Seconds between two messages, also where they tell of several answers: unless the lead may be waiting for the second,
or nothing more is to come."""
BUNDLE = 0.01
"""Seconds between two while the target is at work."""
SOON = 0.8
"""Share of the shortest usual time between commits after which the next one is due soon."""
FRESH, THEN = 0.25, 0.15
"""Shares of that time: for which the lead may be waiting after a commit to an unknown place, and between two messages
once a commit is due. Its forward passes take longer the more they verify."""
SHORTER, LONGER = 0.5, 0.05
"""How far one shorter or longer time moves what is usual."""
LONGEST = 2.0
"""Seconds; commits further apart are of two answers."""


class Pacing:
    """Clock-free: every method is told the time, in seconds."""

    def __init__(self) -> None:
        self._period = 0.0
        """Time between commits, a short one; 0 while it is not known."""
        self._heard = float("-inf")
        self._said = float("-inf")
        self._anew = True

    def heard(self, now: float, anew: bool) -> None:
        """A commit came; `anew`: to a place where nothing had been drafted."""
        period = now - self._heard
        if period < LONGEST:
            share = SHORTER if period < self._period else LONGER
            self._period += share * (period - self._period) if self._period else period
        self._heard, self._anew = now, anew

    @property
    def urgent(self) -> bool:
        """Whether the lead may be waiting, and has been told nothing yet."""
        return self._anew and self._said < self._heard

    def due(self, now: float) -> bool:
        """Whether to tell now what there is."""
        since, spoken = now - self._heard, self._said >= self._heard
        if self._anew and (not spoken or since < FRESH * self._period):
            return not spoken or now - self._said >= LEAST
        soon = SOON * self._period
        if since >= soon:
            return self._said < self._heard + soon or now - self._said >= max(LEAST, THEN * self._period)
        return now - max(self._said, self._heard) >= BUNDLE

    def said(self, now: float) -> None:
        """A message was sent."""
        self._said = now
