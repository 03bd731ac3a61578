"""Chains in llama.cpp, on tiny models of every kind of memory: recurrent, hybrid, and attention with cells apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from bench.kinds import make
from duo.engines import ROOT, EngineOptions, Row
from duo.engines.llamacpp import slots as slots_module
from duo.engines.llamacpp.chains import ChainEngine
from duo.engines.llamacpp.runtime import Model
from duo.engines.llamacpp.states import StateTreeEngine
from tests.mirror import ChainMirror, TreeMirror, Truth

SNAPSHOTS = ("qwen35", "lfm2", "nemotron-h")
"""Kinds whose states llama.cpp takes back."""
REPLAYS = ("qwen3next", "mamba", "mamba2", "falcon-h1", "granitehybrid")
RECURRENT = (*SNAPSHOTS, *REPLAYS)
SIZE = 384
TOLERANCE = 1e-2
"""Keys and values are rounded to 16 bits, and states are summed in another order where several tokens are read at
once: that moved logits by at most 0.0023 in 3,000 rows. One wrong token among the last few moves them by 3 or more.
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


def path_of(kind: str, folder: Path) -> Path:
    made = make(kind, folder)
    assert made.gguf is not None
    return made.gguf


def open_engine(path: Path, **given: Any) -> ChainEngine:
    options = EngineOptions(threads=1, **given)
    return ChainEngine(Model(path, options, lambda share: None), options)


def open_truth(path: Path) -> Truth:
    return Truth(open_engine(path, context=512, draft_max=0), TOLERANCE)


def chain(slot: int, first: int, tokens: Sequence[int]) -> list[Row]:
    return [Row(first + i, slot, token, first + i - 1 if i else ROOT) for i, token in enumerate(tokens)]


@pytest.mark.parametrize("kind", [*RECURRENT, "llama"])
@pytest.mark.parametrize(("slots", "apart"), [(1, False), (3, False), (3, True)])
def test_random_calls_agree_with_reading_all_anew(
    kind: str, slots: int, apart: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "SPACING", 16)
    path = path_of(kind, folder)
    truth = open_truth(path)
    for seed in range(2):
        engine = open_engine(path, context=160, slots=slots, tree_rows=40, batch=64, chains=apart)
        ChainMirror(engine, truth, seed).play(120, 160)
        engine.close()
    truth.engine.close()


@pytest.mark.parametrize("kind", RECURRENT)
def test_random_trees_of_a_draft_model_agree_with_reading_all_anew(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "SPACING", 16)
    path = path_of(kind, folder)
    truth = open_truth(path)
    for seed in range(2):
        options = EngineOptions(threads=1, context=96, slots=2, tree_rows=24, batch=32, drafts=True)
        engine = StateTreeEngine(Model(path, options, lambda share: None), options)
        TreeMirror(engine, truth, seed, check=partial(assert_states_agree, engine)).play(150, 96, 24, 8)
        engine.close()
    truth.engine.close()


def assert_states_agree(engine: StateTreeEngine) -> None:
    """What the engine believes about its sequences is what llama.cpp has."""
    believed = dict.fromkeys(engine._free_seqs, 0)
    believed |= {slot.seq: slot.read for slot in engine._slots}
    believed |= {node.seq: node.pos + 1 for node in engine._rows.values() if node.seq is not None}
    assert sorted(believed) == list(range(engine.slots + engine.room))
    stale = {slot.seq for slot in engine._slots if slot.stale}
    for seq, length in believed.items():
        if seq not in stale:
            assert llama_cpp.llama_memory_seq_pos_max(engine._memory, seq) == length - 1
