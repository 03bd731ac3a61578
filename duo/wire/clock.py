"""The distance between the clocks of lead and back."""

from __future__ import annotations


class ClockOffset:
    """How far the other side's clock is ahead of ours, from pings (Cristian's algorithm, 1989).

    The other clock was read at some moment between ping and pong, so the quickest answer is the most exact one. An
    answer loses exactness with time, because two clocks do not run at quite the same speed.
    """

    DRIFT = 20e-6
    """Seconds per second by which two clocks may part."""

    def __init__(self) -> None:
        self.ahead: float | None = None
        """Seconds to add to our clock to get the other side's."""
        self.round_trip = float("inf")
        self._measured = 0.0

    def answered(self, sent: float, now: float, clock: float) -> None:
        """The question left at `sent`, the answer `clock` came at `now`."""
        round_trip = max(0.0, now - sent)
        if round_trip / 2 <= self.round_trip / 2 + self.DRIFT * (now - self._measured):
            self.ahead, self.round_trip, self._measured = clock - (sent + now) / 2, round_trip, now
