"""The tree of each slot over llama.cpp's sequences, and the sequences that are free."""

from __future__ import annotations

from typing import Any

from duo.engines.base import ROOT


class Node:
    """A row, or the committed end of a slot (then `id` is ROOT). `seq` is a live sequence that holds its path."""

    __slots__ = ("id", "parent", "pos", "seq", "slot")

    def __init__(self, row: int, parent: Node | None, pos: int, seq: int, slot: Slot) -> None:
        self.id = row
        self.parent = parent
        self.pos = pos
        self.seq = seq
        self.slot = slot


class Slot:
    """`tips` has the last node of each of the slot's live sequences. `aside`: keys and values of its committed tokens,
    while llama.cpp's memory does not hold them. `used`: the engine's count of calls when it was last asked for."""

    __slots__ = ("aside", "guard", "root", "rows", "spares", "tips", "used")

    def __init__(self, seq: int, guard: int | None) -> None:
        self.root = Node(ROOT, None, -1, seq, self)
        self.rows: dict[int, Node] = {}
        self.tips = {seq: self.root}
        self.spares: list[int] = []
        self.guard = guard
        self.aside: Any = None
        self.used = 0
