"""What the cost of forward passes allows several clients at once, beside one: users x cost(1) / cost(users).

A machine's speed changes from minute to minute, so passes are timed in turns with what is compared to them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.harness.models import Runtime
from bench.steps.slots import apart, line, timed
from duo.engines import EngineOptions, FlashAttention, Row, load, measure

BLOCKS, IN_A_ROW = 2, 12
"""How often each width is timed."""


class Allowed(NamedTuple):
    """How many times one client's throughput.

    `line`: of rows of one slot, as in a cost curve. `apart`: of a row of each of so many slots, which attend over keys
    and values of their own.
    """

    line: float
    apart: float


class Allowance:
    """Times an engine's forward passes, for these numbers of users."""

    def __init__(self, target: str, runtime: Runtime, users: Sequence[int], flash_attention: FlashAttention) -> None:
        self._users = users
        most = max(users)
        options = EngineOptions(threads=1, slots=most, tree_rows=2 * most, flash_attention=flash_attention)
        self._engine = load(target, runtime, options)
        self._context = [0] * measure.CONTEXT
        self._engine.extend(0, self._context)

    def measure(self) -> dict[int, Allowed]:
        """By number of users, now.

        Each width is timed many times in a row, as it is with so many users: llama.cpp takes longer where it changes.
        """
        in_line: dict[int, list[float]] = {width: [] for width in {1, *self._users}}
        side_by_side: dict[int, list[float]] = {width: [] for width in self._users}
        for _ in range(BLOCKS):
            for width, taken in in_line.items():
                taken += self._times(line, width)
            for width, taken in side_by_side.items():
                for slot in range(1, width):
                    self._engine.extend(slot, self._context)
                taken += self._times(apart, width)
                for slot in range(1, width):
                    self._engine.truncate(slot, 0)
        cost, cost_apart = ({n: statistics.median(it) for n, it in of.items()} for of in (in_line, side_by_side))
        return {n: Allowed(n * cost[1] / cost[n], n * cost[1] / cost_apart[n]) for n in self._users}

    def close(self) -> None:
        self._engine.close()

    def _times(self, of: Callable[[int], list[Row]], width: int) -> list[float]:
        return [timed(self._engine, of(width)) for _ in range(IN_A_ROW)]
