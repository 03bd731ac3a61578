"""Measures an engine's cost curve when it is loaded, and remembers it on disk for the next time.

The fastest of a few runs counts at each width: what disturbs a run only makes it slower. Real steps correct the curve
later on (`duo.engines.cost`), so it need not be exact, only to know where the steps are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from duo.engines import store
from duo.engines.base import ROOT, UNBOUNDED, Engine, Row
from duo.engines.conditions import conditions as _conditions
from duo.engines.options import EngineOptions
from duo.engines.replay import Checkpoints

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 32)
CONTEXT = 128
"""Committed tokens that the rows see while they are timed."""
PATIENCE = 0.4
"""Seconds after which no further runs are made, once each width has had enough."""
ENOUGH = 3
"""Runs of each width at least: one may have been disturbed."""
LIMIT, KNOWN_CONTEXT = 0.3, 32
"""Seconds for what is measured although it is known about, and committed tokens: to read more takes most of them."""
GROWN = 64
"""Tokens by which a slot may grow while a model is timed that does not go back cheaply."""
FORMAT = 7
"""Of what is remembered."""


class Measured(NamedTuple):
    """Seconds per forward pass by width; and what going back takes, of a model that does so by a checkpoint."""

    seconds: dict[int, float]
    checkpoints: Checkpoints | None = None


def measure(
    engine: Engine, most: int, patience: float = PATIENCE, known: Mapping[int, float] = MappingProxyType({})
) -> Measured:
    """Time forward passes of up to `most` rows. Uses slots from 0 on and leaves them empty.

    known: what is known already, from another engine over the same weights. Only what there is time for within
    `LIMIT` seconds is then measured anew, narrow passes first.

    A pass is one chain in slot 0. Where the model verifies chains of a bounded length only, wider ones have several, of
    slots side by side, as far as there are slots.
    """
    bench = _Bench(engine, most, KNOWN_CONTEXT if known else CONTEXT)
    widths = [width for width in WIDTHS if width <= min(most, bench.most)]
    replay = engine.rollback.replay
    best: dict[int, float] = {}
    back = apart = float("inf")
    started = time.perf_counter()
    bench.run(bench.chains(widths[0 if known else -1]))  # what is set up once
    bench.settle()
    if not known:
        started = time.perf_counter()
    rounds = 0
    while rounds < ENOUGH or time.perf_counter() - started < patience:
        for width in widths:
            if known and time.perf_counter() - started + known.get(width, 0.0) > LIMIT:
                rounds = ENOUGH
                patience = 0.0
                break
            forward, dropping = bench.run(bench.chains(width))
            best[width] = min(best.get(width, float("inf")), forward)
            if replay:
                # Whether it goes back at once or before the next rows is the engine's affair.
                dropping += bench.settle()
                if width == 2:
                    back = min(back, dropping)
        if replay and engine.slots > 1:
            apart = min(apart, bench.run([1, 1])[0])
        rounds += 1
    bench.clear()
    if 2 not in best or not replay:
        return Measured({**known, **best})
    # With one slot no pass has guesses and rows of others: what a checkpoint takes may stay in the curve.
    save = max(0.0, best[2] - apart)
    seconds = {width: max(best[1], taken - save * (width > 1)) for width, taken in best.items()}
    return Measured(seconds, Checkpoints(save, back - 2 * best[1]))


class _Bench:
    """An engine, and what its slots hold while it is timed."""

    def __init__(self, engine: Engine, most: int, context: int) -> None:
        self._engine = engine
        trees, depth, replay = engine.rollback
        self._keeps = not trees and (depth < UNBOUNDED or replay)
        """Whether the first row of a slot is kept: not all may be dropped, or a real step never does so."""
        self._longest = max(1, min(depth, most - 1, engine.context // 2 - 1) + 1)
        """Rows one after the other in a pass."""
        beside = engine.context - self._longest
        self._grown = min(GROWN, beside // 2) if self._keeps else 0
        self._context = min(context, beside - self._grown)
        slots = engine.slots if self._keeps else UNBOUNDED
        self.most = max(1, min(engine.batch, engine.capacity, self._longest * slots))
        self._used = 1
        """Slots that the last pass had rows of."""
        self.clear()

    def clear(self) -> None:
        for slot in range(self._engine.slots):
            self._engine.truncate(slot, 0)

    def chains(self, width: int) -> Sequence[int]:
        """As few chains as the model can verify, as equal as may be."""
        count = -(-width // self._longest) if self._keeps else 1
        return [width // count + (at < width % count) for at in range(count)]

    def run(self, chains: Sequence[int]) -> tuple[float, float]:
        """Seconds of one forward pass over chains of so many rows, one of a slot; and seconds to go back over them."""
        engine = self._engine
        self._used = len(chains)
        self._level()
        rows: list[Row] = []
        firsts: list[int] = []
        for slot, length in enumerate(chains):
            firsts.append(len(rows))
            for i in range(length):
                # What branches and is longer than the context begins again at its end, with another token.
                again, at = divmod(i, self._longest)
                rows.append(Row(len(rows), slot, again % engine.vocabulary.size, rows[-1].id if at else ROOT))
        started = time.perf_counter()
        engine.forward(rows)
        forwarded = time.perf_counter()
        for slot, first in enumerate(firsts):
            engine.commit(slot, [first] if self._keeps else [])
        return forwarded - started, time.perf_counter() - forwarded

    def settle(self) -> float:
        """Seconds of a pass with one row for each slot that had some. Nothing is to be made good after it."""
        return self.run([1] * self._used)[0]

    def _level(self) -> None:
        """Have slot 0 hold as much as before, or hardly more: to cut it may mean to read it again."""
        engine = self._engine
        for slot in range(engine.slots):
            context = 0 if slot else self._context
            if engine.length(slot) > context + self._grown:
                engine.truncate(slot, context)
            if (missing := context - engine.length(slot)) > 0:
                engine.extend(slot, [0] * missing)


def conditions(model: str | None, engine: Engine, options: EngineOptions) -> list[object]:
    """All that changes how fast the engine is. `model`: as for `duo.engines.load`."""
    return _conditions(model, engine.runtime, options)


def remembered(
    engine: Engine, most: int, what: Sequence[object], known: Mapping[int, float] = MappingProxyType({})
) -> Measured:
    """An earlier measurement under the same `conditions`, or a new one. known: as for `measure`."""
    form = [engine.slots, min(engine.context, 2 * CONTEXT), *engine.rollback, getattr(engine, "flash", None)]
    about = [FORMAT, most, *form, *what]
    return store.remembered("curve", about, _read, lambda: measure(engine, most, known=known), Measured._asdict)


def _read(found: Any) -> Measured:
    seconds = {int(width): float(taken) for width, taken in found["seconds"].items()}
    checkpoints = found["checkpoints"]
    return Measured(seconds, Checkpoints(*map(float, checkpoints)) if checkpoints is not None else None)
