"""The cost curve: how long a forward pass over k rows takes on this machine.

The curve is a table and not smooth. On a CPU two rows may cost nearly three times one, and the next step may be cheap
again. llama.cpp's Q8_0 takes 37, 102 and 130 ms for 1, 2 and 4 rows. Between measured widths the curve is linear, until
the width itself is seen. Real steps correct it. A common factor follows what changes for all widths, such as a longer
context or a busy machine. The entry of the seen width follows the rest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

COMMON_RATE, WIDTH_RATE = 0.15, 0.06
"""How far one observation moves the common factor, and the entry of its width, on a logarithmic scale."""
SLOW_DECAY, FAST_DECAY = 0.995, 0.999
"""With each observation, every entry drifts back towards its measured time by this exponent: entries that became slower
by the first, entries that became faster by the second. Otherwise a width that was slow on a busy machine would never
run again, and never be found to be fast."""
MAX_RATIO = 2.0
"""An observation counts as at most this many times too slow or too fast. Beyond that, something else took the time."""


class CostCurve:
    """Seconds of a forward pass by its rows. measured: times above 0 of a few widths, 1 among them."""

    def __init__(self, measured: Mapping[int, float]) -> None:
        if 1 not in measured or min(measured) < 1 or min(measured.values()) <= 0.0:
            raise ValueError(f"a cost curve needs widths from 1 and times above 0, not {dict(measured)}")
        self._widths = sorted(measured)
        self._measured = dict(measured)
        self._off = dict.fromkeys(measured, 1.0)
        """How many times as long a width takes as was measured."""
        self._factor = 1.0
        self._level()

    def _level(self) -> None:
        """Update the seconds of each known width. A width costs no more than a wider one; else it was disturbed."""
        self._seconds: dict[int, float] = {}
        fastest = float("inf")
        for width in reversed(self._widths):
            fastest = min(fastest, self._measured[width] * self._off[width])
            self._seconds[width] = fastest

    def __call__(self, rows: int) -> float:
        """Seconds of a forward pass over `rows` rows, at least 1."""
        return self._factor * self._uncorrected(rows)

    @property
    def slower(self) -> float:
        """How many times as long all widths take lately as was measured."""
        return self._factor

    def _uncorrected(self, rows: int) -> float:
        known = self._seconds.get(rows)
        if known is not None:
            return known
        if len(self._widths) == 1:
            return self._seconds[1]
        at = bisect_left(self._widths, rows)
        # Past the last width, the slope between the last two goes on.
        low, high = self._widths[at - 1 : at + 1] if at < len(self._widths) else self._widths[-2:]
        first, last = self._seconds[low], self._seconds[high]
        return first + (last - first) / (high - low) * (rows - low)

    def observe(self, rows: int, seconds: float) -> None:
        """Learn that a forward pass over `rows` rows took `seconds`."""
        ratio = min(MAX_RATIO, max(1 / MAX_RATIO, seconds / self(rows)))
        if rows not in self._measured:
            self._measured[rows] = self._uncorrected(rows)
            self._off[rows] = 1.0
            self._widths.insert(bisect_left(self._widths, rows), rows)
        self._factor *= ratio**COMMON_RATE
        for width, off in self._off.items():
            self._off[width] = off ** (SLOW_DECAY if off > 1.0 else FAST_DECAY)
        self._off[rows] *= ratio**WIDTH_RATE
        self._level()
