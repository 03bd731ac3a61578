"""What guesses cost a model that goes back by restoring a checkpoint and running the accepted rows again.

A recurrent state cannot drop a row. If the runtime keeps no earlier states, a pass with guesses begins with a
checkpoint. A rejection restores it and runs the accepted rows once more, as llama-server does. An engine does so at
once, or before the slot's next rows. Both times are measured when the model is loaded (`duo.engines.measure`), and
follow what steps really take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

Cost = Callable[[int], float]
"""Seconds of a forward pass by its rows."""

RESTORE_RATE = 0.1
"""How far one rejection moves the time of a restore towards what was seen."""
RESTORE_DECAY = 0.995
"""With each step, the time of a restore drifts back to the measured one by this factor. Otherwise a model that was slow
once would never get a guess again, and never be found to be fast."""
MIN_FORWARD_SHARE = 0.25
"""At least this share of a step counts as forward pass, whatever checkpoints seem to take."""


class Checkpoints(NamedTuple):
    """Measured seconds of a checkpoint and of going back.

    restore: beyond a forward pass over the rows that run again. It may be negative, because an engine may run them in
    the slot's next pass, beside its rows.
    """

    save: float
    restore: float


class Replayed(NamedTuple):
    """What a step did beside its forward pass.

    saved: answers with guesses, which made a checkpoint each. rows: how many rows run again, for each answer that goes
    back. seconds: what was done of that at once; the rest comes in the next step.
    """

    saved: int = 0
    rows: Sequence[int] = ()
    seconds: float = 0.0


NOTHING = Replayed()


class Replay:
    """Prices of going back, in seconds. cost: the cost curve of the same model."""

    def __init__(self, measured: Checkpoints, cost: Cost) -> None:
        self._save = max(0.0, measured.save)
        self._measured = measured.restore
        self._restore = measured.restore
        self._cost = cost
        self._last = NOTHING

    def pays(self, max_guesses: int) -> bool:
        """Whether a chain of up to `max_guesses` right guesses is ever faster than one row at a time."""
        alone = self._cost(1)
        return any(self._cost(rows) + self._save < rows * alone for rows in range(2, max_guesses + 2))

    def toll(self, above: float, path: float, number: int) -> float:
        """Expected seconds that the guess `number` of a chain, from 1, adds to a step.

        path: its path probability. above: that of the guess before it; 1 for the first. With probability `above - path`
        this guess is the first wrong one. Then `number` rows run again.
        """
        return (self._save if number == 1 else 0.0) + (above - path) * max(0.0, self._restore + self._cost(number))

    def observe(self, rows: int, seconds: float | None, replayed: Replayed) -> float | None:
        """Learn from a step of `rows` rows what a restore takes. seconds: None if they say nothing.

        Returns the seconds of its forward pass alone, or None if rows of the step before may have run again in it.
        """
        last, self._last = self._last, replayed
        self._restore = self._measured + (self._restore - self._measured) * RESTORE_DECAY
        if seconds is None:
            return None
        forward = max(0.0, seconds - replayed.seconds)
        forward = max(MIN_FORWARD_SHARE * forward, forward - replayed.saved * self._save)
        if not last.rows:
            return forward
        late, again = forward - self._cost(rows), sum(self._cost(count) for count in last.rows)
        off = (last.seconds + late - again) / len(last.rows) - self._restore
        limit = 2 * self._cost(1)  # beyond that, something else took the time
        self._restore += RESTORE_RATE * min(limit, max(-limit, off))
        return None
