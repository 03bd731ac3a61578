"""How far a back's clock is from the lead's."""

from __future__ import annotations


class ClockOffset:
    """How far the other side's clock is ahead of ours, from pings (Cristian's algorithm).

    The answer that took least time says it best: the other clock was read somewhere in between. What it said ages,
    because two clocks do not run at quite the same speed.
    """

    DRIFT = 20e-6
    """Seconds per second by which two clocks may part."""

    def __init__(self) -> None:
        self.ahead: float | None = None
        """Seconds to add to our clock for the other side's."""
        self.round_trip = float("inf")
        self._measured = 0.0

    def answered(self, sent: float, now: float, clock: float) -> bool:
        """To what was asked at `sent` the answer is here `now`: `clock`. Returns whether it is the best so far."""
        round_trip = max(0.0, now - sent)
        if round_trip / 2 > self.round_trip / 2 + self.DRIFT * (now - self._measured):
            return False
        self.ahead, self.round_trip, self._measured = clock - (sent + now) / 2, round_trip, now
        return True
