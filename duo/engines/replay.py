"""What guesses cost a model that goes back by a checkpoint and runs the accepted rows again.

A recurrent state cannot drop a row. Where the runtime keeps no earlier states, a pass with guesses begins with a
checkpoint, and a rejection restores it and runs the accepted rows once more (llama-server does the same). Both times
are measured when the model is loaded (`duo.engines.measure`) and follow what steps really take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

Cost = Callable[[int], float]
"""Seconds of a forward pass by its rows."""

SMOOTHING = 0.1
"""How far one rejection moves the time of a restore."""
LEAST = 0.25
"""Share of the rest of a step that is the forward pass's at least, whatever checkpoints are said to take."""


class Checkpoints(NamedTuple):
    """Seconds as measured. `restore`: beyond a forward pass over the rows that run again, so it may be negative."""

    save: float
    restore: float


class Replayed(NamedTuple):
    """What a step did beside its forward pass: how many answers had guesses, so a checkpoint each; and for each answer
    that went back, how many rows ran again, all that in `seconds`."""

    saved: int = 0
    rows: Sequence[int] = ()
    seconds: float = 0.0


NOTHING = Replayed()


class Replay:
    """Prices of going back, in seconds. `cost`: the cost curve of the same model."""

    def __init__(self, measured: Checkpoints, cost: Cost) -> None:
        self._save = max(0.0, measured.save)
        self._restore = measured.restore
        self._cost = cost

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

    def observe(self, seconds: float, replayed: Replayed) -> float:
        """A step took so long. Returns what of it was the forward pass alone; learns what a restore takes."""
        if replayed.rows:
            again = sum(self._cost(rows) for rows in replayed.rows)
            seen = (replayed.seconds - again) / len(replayed.rows)
            self._restore += SMOOTHING * (seen - self._restore)
        forward = max(0.0, seconds - replayed.seconds)
        return max(LEAST * forward, forward - replayed.saved * self._save)
