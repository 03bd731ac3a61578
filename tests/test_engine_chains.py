"""Chains in llama.cpp, on tiny models of every kind of memory: recurrent, hybrid, and attention with cells apart."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.kinds import make
from duo.engines import ROOT, EngineOptions, Piece, Row
from duo.engines.llamacpp import slots as slots_module
from duo.engines.llamacpp.chains import ChainEngine
from duo.engines.llamacpp.runtime import Model

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


class Truth:
    """Logits after a sequence of tokens, read at once into an empty slot."""

    def __init__(self, path: Path, **given: Any) -> None:
        self.engine = open_engine(path, context=512, draft_max=0, **given)
        self.known: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        key = tuple(tokens)
        if key not in self.known:
            self.engine.truncate(0, 0)
            self.engine.extend(0, key[:-1])
            self.known[key] = self.engine.forward([Row(0, 0, key[-1])])[0].copy()
        return self.known[key]

    def close(self) -> None:
        self.engine.close()


def same(logits: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


def chain(slot: int, first: int, tokens: Sequence[int]) -> list[Row]:
    return [Row(first + i, slot, token, first + i - 1 if i else ROOT) for i, token in enumerate(tokens)]


class Mirror:
    """Plays calls on an engine and keeps the plainest possible books beside it, to check its logits by."""

    def __init__(self, engine: ChainEngine, truth: Truth, seed: int) -> None:
        self.engine = engine
        self.truth = truth
        self.random = random.Random(seed)
        self.committed: list[list[int]] = [[] for _ in range(engine.slots)]
        self.rows: dict[int, list[Row]] = {}
        self.next = 0
        self.read = 0

    def some(self, count: int) -> list[int]:
        return [self.random.randrange(SIZE) for _ in range(count)]

    def forward(self, slots: Sequence[int], pieces: Mapping[int, int]) -> None:
        read = [Piece(slot, self.some(count)) for slot, count in pieces.items()]
        for slot, tokens in read:
            self.committed[slot] += tokens
        rows: list[Row] = []
        most = min(6, 1 + self.engine.rollback.depth)
        for slot in slots:
            mine = chain(slot, self.next, self.some(self.random.choice((1, 1, 2, 3, most))))
            self.next += len(mine) + self.random.choice((0, 3))
            self.rows[slot] = mine
            rows += mine
        if self.random.random() < 0.3:
            # The chains' rows need not lie side by side.
            rows = [row for depth in range(most) for slot in slots for row in self.rows[slot][depth : depth + 1]]
        logits = self.engine.forward(rows, read)
        assert logits.shape == (len(rows), SIZE)
        for i in self.random.sample(range(len(rows)), min(2, len(rows))):
            mine = self.rows[rows[i].slot]
            tokens = [row.token for row in mine[: mine.index(rows[i]) + 1]]
            same(logits[i], self.truth(self.committed[rows[i].slot] + tokens))

    def keep(self, slot: int) -> None:
        rows = self.rows.pop(slot)
        least = max(0, len(rows) - self.engine.rollback.depth)
        count = max(least, self.random.choice((0, 1, 1, 2, 3, 6)))
        self.engine.keep(slot, [row.id for row in rows[:count]])
        self.committed[slot] += [row.token for row in rows[:count]]

    def truncate(self, slot: int) -> None:
        length = self.random.randrange(len(self.committed[slot]) + 1)
        left = self.engine.restorable(slot, length)
        assert left <= length
        assert self.engine.truncate(slot, length) == left
        del self.committed[slot][left:]
        self.rows.pop(slot, None)

    def share(self, source: int, target: int) -> None:
        length = self.random.randrange(len(self.committed[source]) + 1)
        left = self.engine.restorable(source, length)
        assert self.engine.share(source, target, length) == left
        self.committed[target] = self.committed[source][:left]
        self.rows.pop(target, None)

    def play(self, rounds: int, context: int) -> None:
        slots = range(self.engine.slots)
        for _ in range(rounds):
            slot = self.random.choice(slots)
            action = self.random.random()
            able = [s for s in slots if s not in self.rows and len(self.committed[s]) + 40 <= context]
            if action < 0.5 and able:
                some = self.random.sample(able, self.random.randrange(1, len(able) + 1))
                readers = [s for s in able if self.random.random() < 0.2]
                self.forward(some, {s: self.random.randrange(1, 20) for s in readers})
                if self.random.random() < 0.8:
                    for s in self.random.sample(some, len(some)):
                        self.keep(s)
            elif action < 0.6 and able:
                tokens = self.some(self.random.randrange(0, 30))
                self.engine.extend(able[0], tokens)
                self.committed[able[0]] += tokens
            elif action < 0.75 and self.rows:
                self.keep(self.random.choice(list(self.rows)))
            elif action < 0.9:
                self.truncate(slot)
            else:
                self.share(slot, self.random.choice(slots))
            assert [self.engine.length(s) for s in slots] == [len(tokens) for tokens in self.committed]


@pytest.mark.parametrize("kind", [*RECURRENT, "llama"])
@pytest.mark.parametrize("slots", [1, 3])
def test_random_calls_agree_with_reading_all_anew(
    kind: str, slots: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "SPACING", 16)
    path = path_of(kind, folder)
    truth = Truth(path)
    for seed in range(2):
        engine = open_engine(path, context=160, slots=slots, tree_rows=40, batch=64, chains=kind == "llama")
        Mirror(engine, truth, seed).play(150, 160)
        engine.close()
    truth.close()
