"""An engine of many slots over a pure model. It checks every call."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from duo.draft.policy import MAX_ROWS
from duo.engines.base import ROOT, TREES, Chunk, Logits, Rollback, Row
from duo.engines.slot_copy import SlotCopy
from duo.errors import ContextError
from tests.support.fakes import CheckedEngine, FakeModel

EOS = 3
LINE_END = 5
"""The token that stands for one that the vocabulary lacks."""


class Vocabulary:
    """The part of a vocabulary that a decode loop uses."""

    size = FakeModel.size
    eos = frozenset({EOS})
    meanings = (b"", *(b"%d" % token for token in range(1, FakeModel.size)))
    """Token 0 means nothing."""

    def encode_rendered(self, text: str) -> list[int]:
        return [4, LINE_END]


CHAINS, REPLAY, FORWARD = Rollback(False, 3), Rollback(False, 6, replay=True), Rollback(False, 0)
"""Models that verify short chains, that go back by a checkpoint, and that do not go back."""


class SlottedEngine:
    """A `CheckedEngine` for each slot, with row ids that are unique over all slots.

    rollback: the kind of model. spacing: slots are cut only where a read ended, or at multiples of this number; 0:
    anywhere.
    """

    name, runtime, batch, context = "fake", "fake", 48, 256
    note = ""
    sampling: Mapping[str, float] = MappingProxyType({})
    mixes = True
    neighbours = False

    def __init__(self, model: FakeModel, slots: int, rollback: Rollback = TREES, spacing: int = 0) -> None:
        self.vocabulary = Vocabulary()
        self.parts = [CheckedEngine(model, slot) for slot in range(slots)]
        self.rollback = rollback
        self.dropped = 0
        """Number of rows that were dropped."""
        self._spacing = spacing
        self._saved: list[set[int]] = [set() for _ in range(slots)]
        """Lengths that a slot can be cut to."""
        self.fault: Exception | None = None
        """The next forward passes raise this."""
        self.copies = 0
        """How often a slot was saved."""
        self.broken = False
        """Whether no copy can be restored."""
        self.shared = 0
        """Tokens that a slot got from another one."""
        self.widths: list[set[int]] = []
        """The slots that each forward pass served."""
        self.chunks: list[tuple[int, int]] = []
        """Slot and length of each chunk of a prompt."""

    @property
    def slots(self) -> int:
        return len(self.parts)

    @property
    def capacity(self) -> int:
        return MAX_ROWS * max(2, self.slots)

    @property
    def spacing(self) -> int:
        return self._spacing or 1

    @property
    def read(self) -> int:
        return sum(part.read for part in self.parts)

    def length(self, slot: int) -> int:
        return self.parts[slot].length(slot)

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        assert len(tokens) <= self.batch
        self.chunks.append((slot, len(tokens)))
        before = self.length(slot)
        self.parts[slot].extend(slot, tokens)
        if self._spacing:
            end = self.length(slot)
            self._saved[slot] |= {end, *range(before - before % self._spacing, end, self._spacing)} - set(range(before))

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        assert 0 < len(rows) + sum(len(chunk.tokens) for chunk in chunks) <= self.batch
        for slot, tokens, _ in chunks:
            assert not self.parts[slot].rows, "a slot that is given a piece has no rows"
            self.extend(slot, tokens)
        live = [row for part in self.parts for row in part.rows]
        assert len({*live, *(row.id for row in rows)}) == len(live) + len(rows), "row ids are unique over all slots"
        self.widths.append({row.slot for row in rows})
        if self.fault is not None:
            raise self.fault
        logits = np.empty((len(rows), self.vocabulary.size), dtype=np.float32)
        assert self.mixes or not (rows and chunks), "pieces have passes of their own"
        for slot in self.widths[-1]:
            mine = [at for at, row in enumerate(rows) if row.slot == slot]
            if not self.rollback.trees:
                assert not self.parts[slot].rows, "the rows of the last pass have been kept or dropped"
                chain = [rows[at] for at in mine]
                assert [row.parent for row in chain] == [ROOT, *(row.id for row in chain[:-1])], "rows are one chain"
            logits[mine] = self.parts[slot].forward([rows[at] for at in mine])
        return logits

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        dropped = len(self.parts[slot].rows) - len(path) - len(rest)
        assert dropped <= self.rollback.depth, "it goes back so far and no further"
        assert self.rollback.trees or not rest, "the rows are one chain"
        self.dropped += dropped
        self.parts[slot].commit(slot, path, rest)

    def restorable(self, slot: int, length: int) -> int:
        most = self.length(slot)
        if not self._spacing or length >= most:
            return min(length, most)
        return max((saved for saved in self._saved[slot] if saved <= length), default=0)

    def truncate(self, slot: int, length: int) -> int:
        left = self.restorable(slot, length)
        self._saved[slot] = {saved for saved in self._saved[slot] if saved <= left}
        return self.parts[slot].truncate(slot, left)

    def share(self, source: int, target: int, length: int) -> int:
        assert source != target
        assert 0 <= length <= self.length(source)
        left = self.restorable(source, length)
        self.parts[target].committed = self.parts[source].committed[:left]
        self.parts[target].rows.clear()
        self._saved[target] = {left}
        self.shared += left
        return left

    layout = "fake"
    unsavable = ""

    def copy_bytes(self, slot: int) -> int:
        return 8 * self.length(slot)

    def save(self, slot: int) -> SlotCopy:
        self.parts[slot].rows.clear()
        self.copies += 1
        tokens = np.array(self.parts[slot].committed, dtype=np.int64)
        lengths = sorted({*self._saved[slot], len(tokens)}) if self._spacing else None
        return SlotCopy(len(tokens), {"tokens": tokens}, {}, lengths)

    def restore(self, slot: int, copy: SlotCopy, tokens: Sequence[int]) -> int:
        self.truncate(slot, 0)
        if self.broken:
            raise ContextError("this copy is broken")
        assert list(tokens) == copy.arrays["tokens"].tolist(), "the tokens are those of the copy"
        self.parts[slot].committed = list(tokens)
        self._saved[slot] = set(copy.lengths or ())
        return copy.length

    def interrupt(self) -> None:
        raise AssertionError("a target's forward pass is never given up")

    def close(self) -> None:
        self.parts.clear()
