"""How many times one client's throughput the cost of forward passes allows: users x cost(1) / cost(users).

A machine's speed changes from minute to minute, so passes are timed between the measurements that they explain.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.harness.models import Runtime
from bench.steps.slots import apart, line, timed
from duo.engines import EngineOptions, FlashAttention, Row, load, measure

BLOCKS, PASSES_PER_BLOCK = 2, 12
"""Each width is timed in this many blocks, with this many passes in each."""


class Allowed(NamedTuple):
    """Multiples of one client's throughput.

    line: by the cost of rows of one slot, as in a cost curve. apart: by the cost of one row in each slot, each with
    keys and values of its own.
    """

    line: float
    apart: float


class Allowance:
    """Times an engine's forward passes for these numbers of users."""

    def __init__(self, target: str, runtime: Runtime, users: Sequence[int], flash_attention: FlashAttention) -> None:
        self._users = users
        slots = max(users)
        options = EngineOptions(threads=1, slots=slots, tree_rows=2 * slots, flash_attention=flash_attention)
        self._engine = load(target, runtime, options)
        self._context = [0] * measure.CONTEXT
        self._engine.extend(0, self._context)

    def measure(self) -> dict[int, Allowed]:
        """What is allowed now, by number of users.

        Passes of one width run one after the other, as they do in a lead. llama.cpp is slower when the width changes.
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
        return [timed(self._engine, of(width)) for _ in range(PASSES_PER_BLOCK)]
