"""What guesses cost a model that goes back by a checkpoint and runs the accepted rows again.

A recurrent state cannot drop a row. Where the runtime keeps no earlier states, a pass with guesses begins with a
checkpoint, and a rejection restores it and runs the accepted rows once more (llama-server does the same). An engine
does so at once, or before the slot's next rows. Both times are measured when the model is loaded
(`duo.engines.measure`) and follow what steps really take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

Cost = Callable[[int], float]
"""Seconds of a forward pass by its rows."""

SMOOTHING = 0.1
"""How far one rejection moves the time of a restore."""
FADE = 0.995
"""What is left, after a step, of how much longer a restore is than was measured. A model that was slow once would never
be given a guess again otherwise, and never be found to be fast."""
LEAST = 0.25
"""Share of the rest of a step that is the forward pass's at least, whatever checkpoints are said to take."""


class Checkpoints(NamedTuple):
    """Seconds as measured. `restore`: what going back takes beyond a forward pass over the rows that run again. It may
    be negative: an engine may run them in the slot's next pass, beside its rows."""

    save: float
    restore: float


class Replayed(NamedTuple):
    """What a step did beside its forward pass: how many answers had guesses, so a checkpoint each; and for each answer
    that goes back, how many rows run again. `seconds`: what of that was done at once, the rest comes in the next
    step."""

    saved: int = 0
    rows: Sequence[int] = ()
    seconds: float = 0.0


NOTHING = Replayed()


class Replay:
    """Prices of going back, in seconds. `cost`: the cost curve of the same model."""

    def __init__(self, measured: Checkpoints, cost: Cost) -> None:
        self._save = max(0.0, measured.save)
        self._measured = measured.restore
        self._restore = measured.restore
        self._cost = cost
        self._last = NOTHING

    def pays(self, most: int) -> bool:
        """Whether a chain of at most so many guesses, all of them right, is ever faster than a row at a time."""
        alone = self._cost(1)
        return any(self._cost(rows) + self._save < rows * alone for rows in range(2, most + 2))

    def toll(self, above: float, path: float, number: int) -> float:
        """Seconds that the guess `number` of a chain, from 1, adds to what is to be expected.

        `path`: its path probability, `above`: that of the guess before it, 1 where there is none. The answer ends just
        before this guess with probability `above - path`, and then `number` rows run again.
        """
        return (self._save if number == 1 else 0.0) + (above - path) * max(0.0, self._restore + self._cost(number))

    def observe(self, rows: int, seconds: float | None, replayed: Replayed) -> float | None:
        """A step of so many rows took so long; None: that says nothing. Learns what a restore takes. Returns what of it
        was the forward pass alone; None if the rows of the step before may have run again in it."""
        last, self._last = self._last, replayed
        self._restore = self._measured + (self._restore - self._measured) * FADE
        if seconds is None:
            return None
        forward = max(0.0, seconds - replayed.seconds)
        forward = max(LEAST * forward, forward - replayed.saved * self._save)
        if not last.rows:
            return forward
        late, again = forward - self._cost(rows), sum(self._cost(count) for count in last.rows)
        off = (last.seconds + late - again) / len(last.rows) - self._restore
        most = 2 * self._cost(1)  # what is further off had another reason
        self._restore += SMOOTHING * min(most, max(-most, off))
        return None
