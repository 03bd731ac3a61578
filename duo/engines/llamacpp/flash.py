"""Flash attention on a CPU: whether it is faster for a model, found by trying.

Flash attention passes over masked cells, and needs no matrix of scores. But on a CPU it takes each row by itself, so
several rows of one slot may cost more. It sums values in 16 bits. Where the processor has arithmetic for those
(AVX512-FP16), it does so number by number unless a head is a multiple of 128, which takes several times as long.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Literal

import llama_cpp

from duo.engines import gguf_files, store
from duo.engines.conditions import stamps, versions
from duo.engines.llamacpp import native
from duo.engines.llamacpp.runtime import Model
from duo.engines.options import EngineOptions

CELLS, ROWS, RUNS = 256, 8, 3
"""Of the context that it is tried on, rows of the wide pass, and runs of a lone row."""
SLOWER = 1.1
"""With the same bits asked for, flash attention may take so many times as long for a row: it gives more widths."""
SLOWER_SEVERAL = 1.6
"""And so many times as long for several rows."""

Times = tuple[float, float]
"""Seconds of the processor for one row and for several."""


def choose(model: Model, options: EngineOptions) -> EngineOptions:
    """The options with `auto` settled, where it is for a CPU. What holds without the same bits is left in `model`."""
    if options.flash_attention != "auto" or options.gpu_layers or not model.cells:
        return options
    files = stamps(gguf_files.parts_of(model.path))
    off, on = store.remembered(
        "flash",
        [3, *files, *versions("llamacpp"), native.threads(options)],
        lambda found: [(float(one), float(several)) for one, several in _pair(found)],
        lambda: _measure(model, options),
        lambda found: found,
    )
    best, alone = (_way(prefers(off, on, exact)) for exact in (options.chains, False))
    times = {"off": off, "on": on}
    model.flash = alone
    model.slower = (times[best][0] / times[alone][0], times[best][1] / times[alone][1])
    return replace(options, flash_attention=best)


def _way(on: bool) -> Literal["on", "off"]:
    return "on" if on else "off"


def prefers(off: Times, on: Times, exact: bool) -> bool:
    """Whether flash attention is to be on, by what passes took without it and with it."""
    if exact:
        return on[0] < SLOWER * off[0] and on[1] < SLOWER_SEVERAL * off[1]
    return on[0] * on[1] < off[0] * off[1]


def _pair(found: Any) -> Any:
    if len(found) != 2:
        raise ValueError("not times without and with flash attention")
    return found


def _measure(model: Model, options: EngineOptions) -> list[Times]:
    """The fastest passes without flash attention and with it, in turns. The wide passes come first, and are read.

    The processor's time counts: other programs may run at a start, and they must not choose.
    """
    contexts = []
    try:
        for flash in ("off", "on"):
            trying = replace(options, flash_attention=flash)
            contexts.append(native.make_context(model.path, model.handle, trying, CELLS, ROWS, 1))
        batch = native.Batch(ROWS)
        best: list[list[float]] = [[float("inf")] * 2 for _ in contexts]
        at = 0
        for width in [ROWS, ROWS, *[1] * RUNS]:
            for context, times in zip(contexts, best, strict=True):
                places = list(range(at, at + width))
                started = time.process_time()
                code = batch.decode(context, places, places, [(0,)] * width, slice(0))
                took = time.process_time() - started
                if code:
                    raise native.failed(code)
                times[width > 1] = min(times[width > 1], took)
            at += width
        return [(one, several) for one, several in best]
    finally:
        for context in contexts:
            llama_cpp.llama_free(context)
