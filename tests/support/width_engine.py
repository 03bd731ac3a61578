"""A model whose logits say how every token before was computed: a pass of another width leaves other "bits".

Whatever gives other logits on it would give other bits on a real model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from duo.engines.base import ROOT, TREES, Chunk, InterruptedForwardError, Logits, Row
from duo.engines.exact.widths import WidthClass
from duo.engines.slot_copy import SlotCopy
from duo.prefix import EMPTY, mix

SIZE = 16


class Vocabulary:
    size = SIZE


@dataclass
class WidthEngine:
    """The fake engine.

    kind: the class of a row, by the rows of its slot in the pass, by all rows, and by its index. reads: the class of a
    chunk, by its first place and length.
    """

    kind: Callable[[int, int, int], object]
    reads: Callable[[int, int], object]
    slots: int = 2
    name: str = "fake"
    runtime: str = "fake"
    note: str = ""
    sampling: Mapping[str, float] = field(default_factory=dict)
    inexact: str = ""
    context: int = 400
    batch: int = 64
    capacity: int = 128
    rollback: object = TREES
    neighbours: bool = False
    spacing: int = 1
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    passes: list[list[int]] = field(default_factory=list)
    """Rows of each slot in each pass; a chunk is a negative number."""
    fail_after: int = -1
    layout: str = "fake"
    unsavable: str = ""

    def __post_init__(self) -> None:
        self.states: list[list[int]] = [[] for _ in range(self.slots)]
        """What each committed token left."""
        self.rows: list[list[Row]] = [[] for _ in range(self.slots)]
        self.after: list[list[int]] = [[] for _ in range(self.slots)]

    def length(self, slot: int) -> int:
        return len(self.states[slot])

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        self.forward((), [Chunk(slot, tokens)])

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        assert not (rows and chunks) and len(chunks) <= 1
        if self.fail_after == 0:
            raise InterruptedForwardError
        self.fail_after -= 1
        for slot, tokens, _ in chunks:
            assert not self.rows[slot]
            kind = self.reads(len(self.states[slot]), len(tokens))
            for token in tokens:
                self.states[slot].append(self._state(self.states[slot], token, kind))
            self.passes.append([-len(tokens)])
        of = {slot: [row for row in rows if row.slot == slot] for slot in {row.slot for row in rows}}
        logits = np.empty((len(rows), SIZE), dtype=np.float32)
        for slot, chain in of.items():
            assert not self.rows[slot], "rows of the last pass were kept or dropped"
            assert [row.parent for row in chain] == [ROOT, *(row.id for row in chain[:-1])], "rows are one chain"
            assert len(self.states[slot]) + len(chain) <= self.context
            before = list(self.states[slot])
            for index, row in enumerate(chain):
                before.append(self._state(before, row.token, self.kind(len(chain), len(rows), index)))
                logits[rows.index(row)] = [mix(before[-1] + v) % 1000 for v in range(SIZE)]
            self.rows[slot], self.after[slot] = chain, before
        if rows:
            self.passes.append([len(chain) for chain in of.values()])
        return logits

    @staticmethod
    def _state(before: Sequence[int], token: int, kind: object) -> int:
        return mix((before[-1] if before else EMPTY) * 31 + token * 7 + hash(str(kind)) % 1000)

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        assert list(path) == [row.id for row in self.rows[slot]][: len(path)] and not rest
        if self.rows[slot]:
            self.states[slot] = self.after[slot][: len(self.states[slot]) + len(path)]
            self.rows[slot] = []

    def truncate(self, slot: int, length: int) -> int:
        assert 0 <= length <= len(self.states[slot])
        self.rows[slot] = []
        del self.states[slot][length:]
        return length

    def copy_bytes(self, slot: int) -> int:
        return 8 * len(self.states[slot])

    def save(self, slot: int) -> SlotCopy:
        assert not self.rows[slot]
        return SlotCopy(len(self.states[slot]), {"states": np.array(self.states[slot], dtype=np.uint64)}, {})

    def restore(self, slot: int, copy: SlotCopy, tokens: Sequence[int]) -> int:
        assert len(tokens) == copy.length
        self.states[slot] = [int(state) for state in copy.arrays["states"]]
        return copy.length

    def share(self, source: int, target: int, length: int) -> int:
        self.states[target] = self.states[source][:length]
        return length


def apart(least: int, most: int, step: int = 1, covers_prompts: bool = False, **more: Any) -> WidthEngine:
    """Rows have the same bits within a class, and others in every other pass."""

    def kind(mine: int, total: int, index: int) -> object:
        return "class" if all(it in WidthClass(least, most, step) for it in (mine, total)) else (mine, total, index)

    return WidthEngine(kind, lambda at, count: "class" if covers_prompts and count <= most else (at, count), **more)
