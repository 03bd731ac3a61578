"""Measures an engine's cost curve when it is loaded, and remembers it on disk for the next time.

The fastest of a few runs counts at each width: what disturbs a run only makes it slower. Real steps correct the curve
later on (`duo.engines.cost`), so it need not be exact, only to know where the steps are.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

from duo.engines.base import ROOT, Engine, Row
from duo.engines.options import EngineOptions

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 32)
CONTEXT = 128
"""Committed tokens that the rows see while they are timed."""
PATIENCE = 0.4
"""Seconds after which no further runs are made, once each width has had enough."""
ENOUGH = 3
"""Runs of each width at least: one may have been disturbed."""


def measure(engine: Engine, most: int, patience: float = PATIENCE) -> dict[int, float]:
    """Seconds per forward pass by width, up to `most` rows. Uses slot 0 and leaves it empty."""
    engine.truncate(0, 0)
    engine.extend(0, [0] * min(CONTEXT, engine.context - most - 1))
    widths = [width for width in WIDTHS if width <= most]
    best: dict[int, float] = {}
    _run(engine, widths[-1])  # what is set up once
    started = time.perf_counter()
    rounds = 0
    while rounds < ENOUGH or time.perf_counter() - started < patience:
        for width in widths:
            best[width] = min(best.get(width, float("inf")), _run(engine, width))
        rounds += 1
    engine.truncate(0, 0)
    return best


def _run(engine: Engine, width: int) -> float:
    rows = [Row(i, 0, 0, i - 1 if i else ROOT) for i in range(width)]
    started = time.perf_counter()
    engine.forward(rows)
    seconds = time.perf_counter() - started
    engine.keep(0, [])
    return seconds


def conditions(model: str | None, engine: Engine, options: EngineOptions) -> list[object]:
    """All that changes how fast the engine is. `model`: as it was named."""
    ways = [options.threads, options.gpu_layers, options.device, options.dtype, options.flash_attention]
    return [model, engine.name, engine.runtime, *ways]


def remembered(engine: Engine, most: int, what: Sequence[object]) -> dict[int, float]:
    """The curve of an earlier measurement under the same `conditions`, or a new one."""
    key = hashlib.sha256(
        json.dumps([platform.processor(), os.cpu_count(), most, engine.slots, *map(str, what)]).encode()
    ).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "duo" / f"curve-{key[:24]}.json"
    try:
        return {int(width): float(seconds) for width, seconds in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        curve = measure(engine, most)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(curve))
        draft.replace(path)
    except OSError:
        pass  # a read-only home is no reason not to serve
    return curve
