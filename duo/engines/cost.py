"""How long a forward pass over k rows takes on this machine, as far as is known.

The curve is a table and nothing smooth: on a CPU two rows may cost nearly three times one (llama.cpp's Q8_0: 37, 102,
130 ms for 1, 2, 4 rows), and the next step may be cheap again. Between measured widths it is linear until the width
itself has been seen. Real steps correct it as they come: a common factor follows what changes for all widths alike (a
longer context, a busy machine), and the entry of the width seen follows the rest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

COMMON, OWN = 0.15, 0.06
"""How far one observation moves the common factor and the entry of its width, on a logarithmic scale."""
SLOWER, FASTER = 0.995, 0.999
"""What is left, after an observation, of how much slower or faster an entry is than was measured: a width that was slow
while the machine was busy would never be run again otherwise, and never be found to be fast."""
OUTLIER = 2.0
"""An observation further off than this factor counts as if it were so far off: something else took the time."""


class CostCurve:
    """Seconds for a forward pass by number of rows. `measured`: a few widths, 1 among them, all above 0."""

    def __init__(self, measured: Mapping[int, float]) -> None:
        if 1 not in measured or min(measured) < 1 or min(measured.values()) <= 0.0:
            raise ValueError(f"a cost curve needs widths from 1 and times above 0, not {dict(measured)}")
        self._widths = sorted(measured)
        self._measured = dict(measured)
        self._off = dict.fromkeys(measured, 1.0)
        """By what factor a width is slower than was measured."""
        self._factor = 1.0
        self._level()

    def _level(self) -> None:
        """What each known width costs by now: no more than a wider one, or the measurement was disturbed."""
        self._seconds: dict[int, float] = {}
        least = float("inf")
        for width in reversed(self._widths):
            least = min(least, self._measured[width] * self._off[width])
            self._seconds[width] = least

    def __call__(self, rows: int) -> float:
        """Seconds for a forward pass over `rows` rows, at least 1."""
        return self._factor * self._own(rows)

    @property
    def slower(self) -> float:
        """By what factor all widths are slower lately than was measured."""
        return self._factor

    def _own(self, rows: int) -> float:
        known = self._seconds.get(rows)
        if known is not None:
            return known
        if len(self._widths) == 1:
            return self._seconds[1]
        at = bisect_left(self._widths, rows)
        # Past the last width as between the last two.
        low, high = self._widths[at - 1 : at + 1] if at < len(self._widths) else self._widths[-2:]
        first, last = self._seconds[low], self._seconds[high]
        return first + (last - first) / (high - low) * (rows - low)

    def observe(self, rows: int, seconds: float) -> None:
        """A forward pass over `rows` rows took so long."""
        ratio = min(OUTLIER, max(1 / OUTLIER, seconds / self(rows)))
        if rows not in self._measured:
            self._measured[rows] = self._own(rows)
            self._off[rows] = 1.0
            self._widths.insert(bisect_left(self._widths, rows), rows)
        self._factor *= ratio**COMMON
        for width, off in self._off.items():
            self._off[width] = off ** (SLOWER if off > 1.0 else FASTER)
        self._off[rows] *= ratio**OWN
        self._level()
