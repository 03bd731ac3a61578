"""Which earlier states of a slot are kept to go back to: a bounded number, spread over what it has read."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

SPACING = 256
"""Tokens between two checkpoints, until there are too many."""

MAX_CHECKPOINTS = 32
"""Most checkpoints of a slot. llama-server keeps as many."""

MIN_CHECKPOINTS = 2
"""A slot may keep this many checkpoints even if they take more than the bytes allowed."""


BEFORE_END = 8
"""A checkpoint is also taken this many tokens before the end of a chunk. Once the answer is there, templates may write
the last tokens before it otherwise."""


def marks(begin: int, end: int) -> list[int]:
    """Lengths between `begin` and `end`, without these, at which a chunk takes checkpoints."""
    spaced = range((begin // SPACING + 1) * SPACING, end, SPACING)
    return sorted({*spaced, *([end - BEFORE_END] if end - BEFORE_END > begin else [])})


def within(limit: int) -> int:
    """The limit, between `MIN_CHECKPOINTS` and `MAX_CHECKPOINTS`."""
    return min(MAX_CHECKPOINTS, max(MIN_CHECKPOINTS, limit))


class Checkpoints:
    """The checkpoints of one slot, at most `limit`."""

    def __init__(self, limit: int = MAX_CHECKPOINTS) -> None:
        self._limit = limit
        self.lengths: list[int] = []
        """Tokens that the slot held at each checkpoint, rising."""
        self._kept: dict[int, Any] = {}

    def due(self, length: int) -> bool:
        """Whether the latest checkpoint is too far behind."""
        return length - self.before(length) >= SPACING

    def add(self, length: int, state: Any) -> None:
        """Keep a checkpoint. If there are too many, drop the one whose loss leaves the smallest gap."""
        if length <= 0 or length in self._kept:
            return
        self.cut(length)
        self.lengths.append(length)
        self._kept[length] = state
        if len(self.lengths) > self._limit:
            edges = [0, *self.lengths]
            gaps = [edges[at + 1] - edges[at - 1] for at in range(1, len(edges) - 1)]
            self._kept.pop(self.lengths.pop(gaps.index(min(gaps))))

    def before(self, length: int) -> int:
        """Length of the last checkpoint of at most `length` tokens; 0 if there is none."""
        at = bisect_right(self.lengths, length)
        return self.lengths[at - 1] if at else 0

    def at(self, length: int) -> Any:
        """The state kept at this length; None for 0 tokens."""
        return self._kept[length] if length else None

    def cut(self, length: int) -> None:
        """Forget the checkpoints of more than `length` tokens."""
        while self.lengths and self.lengths[-1] > length:
            self._kept.pop(self.lengths.pop())

    def copy(self, length: int) -> Checkpoints:
        """The checkpoints of at most `length` tokens, for another slot. They share the states, which never change."""
        other = Checkpoints(self._limit)
        for each in self.lengths:
            if each <= length:
                other.add(each, self._kept[each])
        return other
