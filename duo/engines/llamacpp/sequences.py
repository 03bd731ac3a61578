"""The tree of each slot over llama.cpp's sequences, and the sequences that no tree uses."""

from __future__ import annotations

from typing import Any

from duo.engines.base import ROOT
from duo.engines.llamacpp.native import State, seq_rm
from duo.errors import ContextError

MAX_SPARE_CELLS = 1 << 20
"""Committed tokens that all spares together may hold: llama.cpp spends 48 bytes on each."""


class Node:
    """A row, or the committed end of a slot, whose `id` is ROOT. `seq` is a live sequence that holds its path."""

    __slots__ = ("id", "parent", "pos", "seq", "tree")

    def __init__(self, row: int, parent: Node | None, pos: int, seq: int, tree: SlotTree) -> None:
        self.id = row
        self.parent = parent
        self.pos = pos
        self.seq = seq
        self.tree = tree


class SlotTree:
    """The rows of a slot, and the sequences that hold their paths."""

    __slots__ = ("aside", "guard", "last_use", "root", "rows", "spares", "tips")

    def __init__(self, seq: int, guard: int | None) -> None:
        self.root = Node(ROOT, None, -1, seq, self)
        self.rows: dict[int, Node] = {}
        self.tips = {seq: self.root}
        """The last node of each live sequence."""
        self.spares: list[int] = []
        """Sequences that hold only committed tokens, for new leaves."""
        self.guard = guard
        """A sequence with all cells of the slot that is never decoded, or None."""
        self.aside: State | None = None
        """Keys and values of the committed tokens while llama.cpp's memory does not hold them."""
        self.last_use = 0
        """The engine's count of calls when the slot was last used."""


class SequencePool:
    """Sequences that are not in a tree: empty ones, and the spares of slots.

    Every method that changes a sequence changes llama.cpp's `memory` too.
    """

    def __init__(self, memory: Any, first: int, end: int) -> None:
        """Sequences from `first` up to `end` are empty at first."""
        self._memory = memory
        self.empty = list(range(end - 1, first - 1, -1))
        self.committed = [0] * end
        """How many committed tokens each sequence holds; right for spares and for those just taken."""
        self.spare_cells = 0
        """Committed tokens that all spares hold."""

    def take(self, tree: SlotTree, trees: list[SlotTree]) -> int:
        """A sequence for a new leaf of `tree`: its spare, an empty one, or another slot's spare.

        Raises ContextError if there is none.
        """
        if tree.spares:
            seq = tree.spares.pop()
            self.spare_cells -= self.committed[seq]
            return seq
        if self.empty:
            seq = self.empty.pop()
            self.committed[seq] = 0
            return seq
        for other in trees:
            if other.spares:
                seq = other.spares.pop()
                self._clear(seq)
                return seq
        raise ContextError("the draft tree has more leaves than llama.cpp has sequences; keep fewer rows")

    def give(self, tree: SlotTree, seq: int, committed: int) -> None:
        """Take back a sequence that holds the first `committed` tokens of the slot and nothing else."""
        if committed and self.spare_cells + committed <= MAX_SPARE_CELLS:
            self.committed[seq] = committed
            self.spare_cells += committed
            tree.spares.append(seq)
            return
        if committed:
            seq_rm(self._memory, seq, -1, -1)
        self.empty.append(seq)

    def cut_spares(self, tree: SlotTree, length: int) -> None:
        """Let the slot's spares hold at most its first `length` tokens."""
        spares, tree.spares = tree.spares, []
        for seq in spares:
            committed = self.committed[seq]
            self.spare_cells -= committed
            if committed > length:
                seq_rm(self._memory, seq, length, -1)
            self.give(tree, seq, min(committed, length))

    def clear_spares(self, tree: SlotTree) -> None:
        """Empty the slot's spares."""
        for seq in tree.spares:
            self._clear(seq)
            self.empty.append(seq)
        tree.spares = []

    def _clear(self, seq: int) -> None:
        self.spare_cells -= self.committed[seq]
        self.committed[seq] = 0
        seq_rm(self._memory, seq, -1, -1)
