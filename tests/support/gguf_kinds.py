"""Tiny GGUF models of every kind of memory, and engines that verify chains over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.kinds import KINDS, checkpoint, gguf_file, make, vocabulary
from duo.engines import ROOT, EngineOptions, Row
from duo.engines.llamacpp.chains import ChainEngine
from duo.engines.llamacpp.runtime import Model
from tests.support.mirror import Truth

SNAPSHOTS = ("qwen35", "lfm2", "nemotron-h")
"""Kinds of models whose states llama.cpp takes back."""
REPLAYS = ("qwen3next", "kimi-linear", "mamba", "mamba2", "jamba", "falcon-h1", "granitehybrid", "rwkv7")
RECURRENT = (*SNAPSHOTS, *REPLAYS)
QUICK = ("qwen35", "lfm2", "mamba", "jamba", "rwkv7")
"""Different ways to keep and to take back states. The others are tried with the slow tests."""
ATTENTION = ("llama", "gemma3")
WINDOWED = "windowed"
SIZE = 384
TOLERANCE = 3e-2
"""Keys and values are rounded to 16 bits, and states are summed in another order if several tokens are read at once.
That moved logits by at most 0.011 in 5,000 rows. One wrong token among the last few moves them by 3 or more."""


def marked(kinds: Iterable[str]) -> list[Any]:
    """Parameters of a test: those that are not of `QUICK` are slow."""
    return [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


def path_of(kind: str, folder: Path) -> Path:
    if kind == WINDOWED:
        return windowed_hybrid(folder)
    made = make(kind, folder)
    assert made.gguf is not None
    return made.gguf


def windowed_hybrid(folder: Path) -> Path:
    """LFM2 whose attention sees only the last 8 tokens."""
    lfm2, out = KINDS["lfm2"], folder / f"{WINDOWED}.gguf"
    if not out.exists():
        kind = replace(lfm2, name=WINDOWED, keys=lambda config: {**lfm2.keys(config), "attention.sliding_window": 8})
        vocabulary.write(folder / WINDOWED)
        gguf_file.convert(kind, folder / WINDOWED, checkpoint.write(kind, folder / WINDOWED, 0), out)
    return out


def open_engine(path: Path, **given: Any) -> ChainEngine:
    options = EngineOptions(threads=1, **{"flash_attention": "off", **given})
    return ChainEngine(Model(path, options, lambda share: None), options)


def open_truth(path: Path) -> Truth:
    return Truth(open_engine(path, context=512, draft_max=0), TOLERANCE)


def chain(slot: int, first: int, tokens: Sequence[int]) -> list[Row]:
    return [Row(first + i, slot, token, first + i - 1 if i else ROOT) for i, token in enumerate(tokens)]
