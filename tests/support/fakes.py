"""A pure model, and engines over it that check every call against the contract."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from duo.draft.policy import MAX_BATCH_PLACES, MAX_ROWS
from duo.engines.base import ROOT, Logits, Row
from duo.prefix import EMPTY, extend_hash, mix
from duo.sampling.params import SamplingParams

SIZE = 12


def flat_cost(rows: int) -> float:
    """Of a draft model: a further row costs a tenth of the first."""
    return 1.0 + 0.1 * rows


def hash_of(tokens: Sequence[int]) -> int:
    running = EMPTY
    for token in tokens:
        running = extend_hash(running, token)
    return running


@dataclass(frozen=True)
class FakeModel:
    """Logits from the hash of the path. doubt: the share of another model's logits; 0 is the target itself."""

    doubt: float = 0.0
    size: int = SIZE
    sharpness: float = 6.0

    def logits(self, path: Sequence[int]) -> NDArray[np.float32]:
        seen = hash_of(path)
        own = [mix(seen + 1 + v) % 1000 / 1000 for v in range(self.size)]
        other = [mix(seen + 1001 + v) % 1000 / 1000 for v in range(self.size)]
        mixed = np.array(own) * (1 - self.doubt) + np.array(other) * self.doubt
        return (self.sharpness * mixed).astype(np.float32)


class CheckedEngine:
    """One slot with committed tokens and rows, and assertions. It is the part of an `Engine` that a `Draft` drives."""

    def __init__(self, model: FakeModel, slot: int = 0, capacity: int = MAX_ROWS + MAX_BATCH_PLACES) -> None:
        self.model = model
        self.slot = slot
        self.committed: list[int] = []
        self.rows: dict[int, Row] = {}
        self.read = 0
        """Number of tokens that were read as committed ones."""
        self._capacity = capacity

    def length(self, slot: int) -> int:
        assert slot == self.slot
        return len(self.committed)

    def path_of(self, row: int) -> list[int]:
        """All tokens up to the row's, which is the last."""
        tokens: list[int] = []
        at = row
        while at != ROOT:
            tokens.append(self.rows[at].token)
            at = self.rows[at].parent
        return self.committed + tokens[::-1]

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        assert slot == self.slot
        assert tokens, "an empty prefill costs a forward pass for nothing"
        self.rows.clear()
        self.committed.extend(tokens)
        self.read += len(tokens)

    def forward(self, rows: Sequence[Row]) -> Logits:
        assert rows
        for row in rows:
            assert row.slot == self.slot
            assert row.id >= 0 and row.id not in self.rows, "row ids are unique among the live ones"
            assert row.parent == ROOT or row.parent in self.rows, "parents are live, and come first"
            assert 0 <= row.token < self.model.size
            self.rows[row.id] = row
        places = [(row.parent, row.token) for row in self.rows.values()]
        assert len(set(places)) == len(places), "no place is computed twice"
        assert len(self.rows) <= self._capacity
        return np.stack([self.model.logits(self.path_of(row.id)) for row in rows])

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        assert slot == self.slot
        parent = ROOT
        for row in path:
            assert self.rows[row].parent == parent, "the path is a chain from the committed tokens down"
            parent = row
        assert len(set(rest)) == len(rest)
        for row in rest:
            assert row not in path
            assert self.rows[row].parent == parent or self.rows[row].parent in rest, "rest is closed under parents"
        self.committed += [self.rows[row].token for row in path]
        kept = {row: self.rows[row] for row in rest}
        self.rows = {
            row: Row(row, self.slot, r.token, ROOT if r.parent == parent else r.parent) for row, r in kept.items()
        }

    def truncate(self, slot: int, length: int) -> int:
        assert slot == self.slot
        assert 0 <= length <= len(self.committed)
        del self.committed[length:]
        self.rows.clear()
        return length


@st.composite
def params(draw: st.DrawFn) -> SamplingParams:
    return SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.8, 1.0])),
        top_k=draw(st.sampled_from([0, 3])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.2])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.3])),
        seed=draw(st.integers(0, 1 << 64 - 1)),
    )


tokens = st.integers(0, SIZE - 1)
