"""When a back sends what it has found.

The lead looks at guesses only between its forward passes, and a message that comes earlier takes time from them. So a
back bundles its guesses while the target works, and sends the bundle just before the next commit is due. It knows that
moment from earlier commits. It sends at once where the lead may be waiting: after a commit that nobody had guessed.
"""

from __future__ import annotations

MIN_PAUSE = 0.004
"""Seconds between two messages, unless the lead may be waiting for the second one."""
BUNDLE_SECONDS = 0.01
"""Between two messages while the target works."""

# Shares of the time between two commits:
DUE_SHARE = 0.8
"""After this the next commit is due."""
WAITING_SHARE = 0.25
"""For this long the lead may be waiting after a commit that nobody had guessed."""
LATE_PAUSE_SHARE = 0.15
"""Between two messages once a commit is due: forward passes take longer the more they verify."""

SHORTER_WEIGHT, LONGER_WEIGHT = 0.5, 0.05
"""How far one shorter or longer time moves the estimate."""
MAX_PERIOD = 2.0
"""Seconds. Commits further apart belong to two answers."""


class Pacing:
    """Of one session. Clock-free: every method gets the time in seconds."""

    def __init__(self) -> None:
        self._period = 0.0
        """A short time between two commits; 0 while it is unknown."""
        self._committed_at = float("-inf")
        self._sent_at = float("-inf")
        self._unguessed = True

    def committed(self, now: float, unguessed: bool) -> None:
        """A commit came. `unguessed`: there is no guess for what follows it."""
        period = now - self._committed_at
        if period < MAX_PERIOD:
            weight = SHORTER_WEIGHT if period < self._period else LONGER_WEIGHT
            self._period += weight * (period - self._period) if self._period else period
        self._committed_at, self._unguessed = now, unguessed

    @property
    def urgent(self) -> bool:
        """The lead may be waiting and has been sent nothing yet."""
        return self._unguessed and self._sent_at < self._committed_at

    def due(self, now: float) -> bool:
        """Whether to send now what there is."""
        since, sent = now - self._committed_at, self._sent_at >= self._committed_at
        if self._unguessed and (not sent or since < WAITING_SHARE * self._period):
            return not sent or now - self._sent_at >= MIN_PAUSE
        soon = DUE_SHARE * self._period
        if since >= soon:
            late_pause = max(MIN_PAUSE, LATE_PAUSE_SHARE * self._period)
            return self._sent_at < self._committed_at + soon or now - self._sent_at >= late_pause
        return now - max(self._sent_at, self._committed_at) >= BUNDLE_SECONDS

    def sent(self, now: float) -> None:
        self._sent_at = now
