"""An engine of many slots whose model is a pure function of the tokens so far, and which checks every call."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from duo.engines.base import TREES, Logits, Piece, Row
from tests.test_drafting import CheckedEngine, FakeModel

EOS = 3
LINE_END = 5
"""What is read for a token that the vocabulary lacks."""


class Vocabulary:
    """As much of one as a decode loop asks for."""

    size = FakeModel.size
    eos = frozenset({EOS})
    meanings = (b"", *(b"%d" % token for token in range(1, FakeModel.size)))
    """Token 0 means nothing."""

    def encode_rendered(self, text: str) -> list[int]:
        return [4, LINE_END]


class SlottedEngine:
    """A `CheckedEngine` for each slot, and row ids that are unique over all of them."""

    name, runtime, batch, context = "fake", "fake", 48, 256
    rollback = TREES

    def __init__(self, model: FakeModel, slots: int) -> None:
        self.vocabulary = Vocabulary()
        self.parts = [CheckedEngine(model, slot) for slot in range(slots)]
        self.fault: Exception | None = None
        """What the next forward passes raise."""
        self.shared = 0
        """Tokens that a slot got from another one."""
        self.widths: list[set[int]] = []
        """Which slots each forward pass served."""
        self.pieces: list[tuple[int, int]] = []
        """Slot and length of what was read of prompts."""

    @property
    def slots(self) -> int:
        return len(self.parts)

    @property
    def read(self) -> int:
        return sum(part.read for part in self.parts)

    def length(self, slot: int) -> int:
        return self.parts[slot].length(slot)

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        assert len(tokens) <= self.batch
        self.pieces.append((slot, len(tokens)))
        self.parts[slot].extend(slot, tokens)

    def forward(self, rows: Sequence[Row], pieces: Sequence[Piece] = ()) -> Logits:
        assert 0 < len(rows) + sum(len(piece.tokens) for piece in pieces) <= self.batch
        for slot, tokens in pieces:
            assert not self.parts[slot].rows, "a slot that is given a piece has no rows"
            self.extend(slot, tokens)
        live = [row for part in self.parts for row in part.rows]
        assert len({*live, *(row.id for row in rows)}) == len(live) + len(rows), "row ids are unique over all slots"
        self.widths.append({row.slot for row in rows})
        if self.fault is not None:
            raise self.fault
        logits = np.empty((len(rows), self.vocabulary.size), dtype=np.float32)
        for slot in self.widths[-1]:
            mine = [at for at, row in enumerate(rows) if row.slot == slot]
            logits[mine] = self.parts[slot].forward([rows[at] for at in mine])
        return logits

    def keep(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        self.parts[slot].keep(slot, path, rest)

    def restorable(self, slot: int, length: int) -> int:
        return min(length, self.length(slot))

    def truncate(self, slot: int, length: int) -> int:
        return self.parts[slot].truncate(slot, length)

    def share(self, source: int, target: int, length: int) -> int:
        assert source != target
        assert 0 <= length <= self.length(source)
        self.parts[target].committed = self.parts[source].committed[:length]
        self.parts[target].rows.clear()
        self.shared += length
        return length

    def interrupt(self) -> None:
        raise AssertionError("a target's forward pass is never given up")

    def close(self) -> None:
        self.parts.clear()
