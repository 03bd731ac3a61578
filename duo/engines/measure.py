"""Measures an engine's cost curve when it is loaded, and remembers it on disk for the next start.

The fastest of a few runs counts at each width, because a disturbance only makes a run slower. Real steps correct the
curve later (`duo.engines.cost`). So it need not be exact; it must only show where the steps are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from duo.engines import store
from duo.engines.base import ROOT, UNBOUNDED, Engine, Row
from duo.engines.cost import CostCurve
from duo.engines.replay import Checkpoints

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 17)
WIDE = (24, 32, 48, 65)
"""Widths that are timed once. Beyond `MUST` rows, only if that should take no longer than `WIDE_SECONDS`."""
MUST, WIDE_SECONDS = 32, 1.5
CONTEXT = 128
"""Committed tokens that the rows see while they are timed."""
MEASURE_SECONDS = 0.4
"""After this time no further runs are made, once each width has `MIN_RUNS`."""
MIN_RUNS = 3
"""Runs of each width at least, for one may be disturbed."""
RECHECK_SECONDS, RECHECK_CONTEXT = 0.3, 32
"""Time to measure again what another engine over the same weights has measured, and committed tokens then: to read more
would take most of that time."""
MAX_GROWTH = 64
"""Tokens by which a slot may grow before it is cut back, if the model does not go back cheaply."""
FORMAT = 8
"""Version of what is remembered on disk."""


class Measured(NamedTuple):
    """Seconds of a forward pass by its rows, and what going back takes if the model does so by a checkpoint."""

    seconds: dict[int, float]
    checkpoints: Checkpoints | None = None


def measure(
    engine: Engine, max_rows: int, duration: float = MEASURE_SECONDS, known: Mapping[int, float] = MappingProxyType({}),
    average: Callable[[Sequence[float]], float] = min,
) -> Measured:  # fmt: skip
    """Time forward passes of up to `max_rows` rows. Uses slots from 0 on and leaves them empty.

    known: seconds from another engine over the same weights. Then only as many passes as fit into `RECHECK_SECONDS` are
    measured again, narrow ones first. average: what the seconds of a width's runs become.

    A pass is one chain in slot 0. If the model verifies only chains of a bounded length, wider passes have several
    chains in adjacent slots, as far as there are slots.
    """
    bench = _Bench(engine, max_rows, RECHECK_CONTEXT if known else CONTEXT)
    widths = [width for width in WIDTHS if width <= min(max_rows, bench.max_rows)]
    replay = engine.rollback.replay
    runs: dict[int, list[float]] = {}
    back = apart = float("inf")
    started = time.perf_counter()
    bench.run(bench.chains(widths[0 if known else -1]))  # the first pass sets things up
    bench.settle()
    if not known:
        started = time.perf_counter()
    rounds = 0
    while rounds < MIN_RUNS or time.perf_counter() - started < duration:
        for width in widths:
            if known and time.perf_counter() - started + known.get(width, 0.0) > RECHECK_SECONDS:
                rounds = MIN_RUNS
                duration = 0.0
                break
            forward, dropping = bench.run(bench.chains(width))
            runs.setdefault(width, []).append(forward)
            if replay:
                # The engine goes back at once, or before the next rows. Both count.
                dropping += bench.settle()
                if width == 2:
                    back = min(back, dropping)
        if replay and engine.slots > 1:
            apart = min(apart, bench.run([1, 1])[0])
        rounds += 1
    best = {width: average(taken) for width, taken in runs.items()}
    for width in WIDE if not known else ():
        if width > min(max_rows, bench.max_rows) or (width > MUST and CostCurve(best)(width) > WIDE_SECONDS):
            break
        best[width] = bench.run(bench.chains(width))[0]
        if replay:
            bench.settle()
    bench.clear()
    if 2 not in best or not replay:
        return Measured({**known, **best})
    # With one slot, no pass has guesses and rows of other slots. Then the cost of a checkpoint may stay in the curve.
    save = max(0.0, best[2] - apart)
    seconds = {width: max(best[1], taken - save * (width > 1)) for width, taken in best.items()}
    return Measured(seconds, Checkpoints(save, back - 2 * best[1]))


class _Bench:
    """An engine that is timed, and what its slots hold meanwhile."""

    def __init__(self, engine: Engine, max_rows: int, context: int) -> None:
        self._engine = engine
        trees, depth, replay = engine.rollback
        self._keeps = not trees and (depth < UNBOUNDED or replay)
        """Whether the first row of a slot is kept. Some models cannot drop all rows, and real steps never do."""
        self._longest = max(1, min(depth, max_rows - 1, engine.context // 2 - 1) + 1)
        """Rows of the longest chain in a pass."""
        beside = engine.context - self._longest
        self._growth = min(MAX_GROWTH, beside // 2) if self._keeps else 0
        self._context = min(context, beside - self._growth)
        slots = engine.slots if self._keeps else UNBOUNDED
        self.max_rows = max(1, min(engine.batch, engine.capacity, self._longest * slots))
        self._used = 1
        """Slots with rows in the last pass."""
        self.clear()

    def clear(self) -> None:
        for slot in range(self._engine.slots):
            self._engine.truncate(slot, 0)

    def chains(self, width: int) -> Sequence[int]:
        """Lengths of the chains of a pass: as few as the model can verify, and as equal as possible."""
        count = -(-width // self._longest) if self._keeps else 1
        return [width // count + (at < width % count) for at in range(count)]

    def run(self, chains: Sequence[int]) -> tuple[float, float]:
        """Run one chain in each slot. Returns seconds of the forward pass, and seconds to go back."""
        engine = self._engine
        self._used = len(chains)
        self._level()
        rows: list[Row] = []
        firsts: list[int] = []
        for slot, length in enumerate(chains):
            firsts.append(len(rows))
            for i in range(length):
                # A tree wider than the context branches at the committed end, with another token each time.
                again, at = divmod(i, self._longest)
                rows.append(Row(len(rows), slot, again % engine.vocabulary.size, rows[-1].id if at else ROOT))
        started = time.perf_counter()
        engine.forward(rows)
        forwarded = time.perf_counter()
        for slot, first in enumerate(firsts):
            engine.commit(slot, [first] if self._keeps else [])
        return forwarded - started, time.perf_counter() - forwarded

    def settle(self) -> float:
        """Seconds of a pass with one row for each slot that had some. After it, no slot has to go back."""
        return self.run([1] * self._used)[0]

    def _level(self) -> None:
        """Let slot 0 hold its tokens and at most `MAX_GROWTH` more. A cut may mean to read them again."""
        engine = self._engine
        for slot in range(engine.slots):
            context = 0 if slot else self._context
            if engine.length(slot) > context + self._growth:
                engine.truncate(slot, context)
            if (missing := context - engine.length(slot)) > 0:
                engine.extend(slot, [0] * missing)


def remembered(
    engine: Engine, max_rows: int, conditions: Sequence[object], known: Mapping[int, float] = MappingProxyType({})
) -> Measured:
    """The earlier measurement under the same conditions (see `duo.engines.conditions`), or a new one.

    known: as for `measure`.
    """
    form = [engine.slots, min(engine.context, 2 * CONTEXT), *engine.rollback, getattr(engine, "flash", None)]
    about = [FORMAT, max_rows, *form, *conditions]
    return store.remembered("curve", about, _read, lambda: measure(engine, max_rows, known=known), Measured._asdict)


def _read(found: Any) -> Measured:
    seconds = {int(width): float(taken) for width, taken in found["seconds"].items()}
    checkpoints = found["checkpoints"]
    return Measured(seconds, Checkpoints(*map(float, checkpoints)) if checkpoints is not None else None)
