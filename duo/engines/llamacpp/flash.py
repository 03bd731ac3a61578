"""Tries whether flash attention is faster for a model on this CPU.

Flash attention skips masked cells and needs no matrix of scores. But on a CPU it takes each row by itself, so several
rows of a slot may cost more. It sums values in 16 bits. With AVX512-FP16, and unless a head is a multiple of 128, it
does so number by number, which takes several times as long.
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

TRIAL_CELLS, WIDE_ROWS, LONE_RUNS = 256, 8, 3
"""Cells of the trial context, rows of its wide passes, and passes of a lone row."""
MAX_SLOWDOWN_LONE = 1.1
"""For the same bits, a lone row may take this many times as long: flash attention gives more widths of passes."""
MAX_SLOWDOWN_SEVERAL = 1.6
"""For the same bits, several rows may take this many times as long."""

Times = tuple[float, float]
"""Seconds of processor time for one row and for several rows."""


def choose(model: Model, options: EngineOptions) -> EngineOptions:
    """The options with `auto` replaced by on or off, if all layers are on the CPU.

    Leaves in `model` what holds where nobody needs the same bits.
    """
    if options.flash_attention != "auto" or options.gpu_layers or not model.cells:
        return options
    files = stamps(gguf_files.parts_of(model.path))
    about = [3, *files, *versions("llamacpp"), native.threads(options)]
    off, on = store.remembered("flash", about, _read, lambda: _measure(model, options))
    best, alone = (_way(prefers(off, on, exact)) for exact in (options.chains, False))
    times = {"off": off, "on": on}
    model.flash = alone
    model.slower = (times[best][0] / times[alone][0], times[best][1] / times[alone][1])
    return replace(options, flash_attention=best)


def _way(on: bool) -> Literal["on", "off"]:
    return "on" if on else "off"


def prefers(off: Times, on: Times, exact: bool) -> bool:
    """Whether to turn flash attention on, by the times of passes without and with it. exact: for the same bits."""
    if exact:
        return on[0] < MAX_SLOWDOWN_LONE * off[0] and on[1] < MAX_SLOWDOWN_SEVERAL * off[1]
    return on[0] * on[1] < off[0] * off[1]


def _read(found: Any) -> list[Times]:
    off, on = found
    return [(float(one), float(several)) for one, several in (off, on)]


def _measure(model: Model, options: EngineOptions) -> list[Times]:
    """The fastest passes without flash attention and with it, in turns. The wide passes fill the context first.

    Processor time counts, for other programs that run at a start must not decide.
    """
    contexts = []
    try:
        for flash in ("off", "on"):
            trying = replace(options, flash_attention=flash)
            contexts.append(native.make_context(model.path, model.handle, trying, TRIAL_CELLS, WIDE_ROWS, 1))
        batch = native.Batch(WIDE_ROWS)
        best: list[list[float]] = [[float("inf")] * 2 for _ in contexts]
        at = 0
        for width in [WIDE_ROWS, WIDE_ROWS, *[1] * LONE_RUNS]:
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
